//! Records how each cloud has served this process lately.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};

use crate::pace::Paces;

/// How long a cloud that failed is distrusted: others are asked before it.
const DISTRUST: Duration = Duration::from_secs(60);
/// How often a cloud that refuses at once is probed by uploads. A cloud that is left out of an
/// upload takes no part in it any more, so this is short.
const PROBED: Duration = Duration::from_millis(100);
/// One part in so many of the time of uploads goes into waiting for clouds that hang.
const PROBE_SHARE: u32 = 9;
/// How often a sample of a new share is read back from a cloud.
const SAMPLED: Duration = Duration::from_secs(60);
/// Most characters of a fault that are kept.
const LONGEST: usize = 300;

/// The kind of work that a cloud was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Storing a share.
    Storing,
    /// Reading a share.
    Reading,
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Storing => "storing",
            Self::Reading => "reading",
        })
    }
}

/// The last failure of a cloud in one kind of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// Kind of work that failed.
    pub work: Work,
    /// The moment of the failure, in milliseconds since 1970.
    pub at_ms: u64,
    /// The failure, as a sentence of at most 300 characters.
    pub text: String,
}

#[derive(Debug, Default)]
struct Known {
    distrusted: Option<Instant>,
    sampled: Option<Instant>,
    /// When a share was last not stored or not read.
    failed: Option<Instant>,
    next_probe: Option<Instant>,
    last: BTreeMap<Work, LastFailure>,
}

/// The health of all clouds: which failed lately and are distrusted for a while, and their last
/// failures.
#[derive(Debug, Default)]
pub(crate) struct Health {
    clouds: Mutex<HashMap<String, Known>>,
    /// How fast the clouds gave blocks.
    pub(crate) paces: Paces,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.clouds.lock()
    }

    pub(crate) fn failed(&self, cloud: &str, work: Work, text: &str) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut known = self.lock();
        let cloud = known.entry(cloud.to_owned()).or_default();
        cloud.distrusted = Some(Instant::now());
        cloud.failed = cloud.distrusted;
        cloud.last.insert(
            work,
            LastFailure {
                work,
                at_ms,
                text: shortened(text),
            },
        );
    }

    /// Records that a cloud takes too long. It is distrusted, but this is not a failure yet.
    pub(crate) fn is_late(&self, cloud: &str) {
        self.lock().entry(cloud.to_owned()).or_default().distrusted = Some(Instant::now());
    }

    pub(crate) fn answered(&self, cloud: &str) {
        if let Some(known) = self.lock().get_mut(cloud) {
            known.distrusted = None;
            known.failed = None;
            known.next_probe = None;
        }
    }

    /// Returns whether a cloud failed lately, and uploads do not ask it. One that was only late in
    /// a read is asked.
    pub(crate) fn is_down(&self, cloud: &str) -> bool {
        let known = self.lock();
        let failed = known.get(cloud).and_then(|known| known.failed);
        failed.is_some_and(|at| at.elapsed() < DISTRUST)
    }

    /// Returns whether a cloud that failed is to be probed before an upload.
    pub(crate) fn is_probe_due(&self, cloud: &str) -> bool {
        let known = self.lock();
        let Some(known) = known.get(cloud) else {
            return false;
        };
        let is_down = known.failed.is_some_and(|at| at.elapsed() < DISTRUST);
        is_down && known.next_probe.is_none_or(|at| at <= Instant::now())
    }

    /// Records that a probe of a cloud has ended without an answer, after `took`. The next one
    /// waits the longer, the longer this one took: a cloud that hangs must not hold up each upload.
    pub(crate) fn probed_in_vain(&self, cloud: &str, took: Duration) {
        let next = Instant::now() + (took * PROBE_SHARE).max(PROBED);
        self.lock().entry(cloud.to_owned()).or_default().next_probe = Some(next);
    }

    /// Returns why a cloud is not asked for a share, as a sentence.
    pub(crate) fn why_distrusted(&self, cloud: &str) -> String {
        let known = self.lock();
        let last = known
            .get(cloud)
            .and_then(|known| known.last.values().max_by_key(|l| l.at_ms));
        match last {
            Some(last) => shortened(&format!("it failed a moment before: {}", last.text)),
            None => format!("cloud {cloud:?}: it was too slow a moment before"),
        }
    }

    pub(crate) fn failed_lately(&self, cloud: &str) -> bool {
        let known = self.lock();
        known
            .get(cloud)
            .and_then(|cloud| cloud.distrusted)
            .is_some_and(|at| at.elapsed() < DISTRUST)
    }

    /// Returns whether a sample of a cloud's next share is due. If so, it counts as taken.
    pub(crate) fn takes_sample(&self, cloud: &str) -> bool {
        let mut known = self.lock();
        let sampled = &mut known.entry(cloud.to_owned()).or_default().sampled;
        let is_due = sampled.is_none_or(|at| at.elapsed() >= SAMPLED);
        if is_due {
            *sampled = Some(Instant::now());
        }
        is_due
    }

    pub(crate) fn last_failures(&self, cloud: &str) -> Vec<LastFailure> {
        self.lock()
            .get(cloud)
            .map(|known| known.last.values().cloned().collect())
            .unwrap_or_default()
    }
}

/// Cuts a fault's text to a readable length: it is kept for every lacking share.
pub(crate) fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 2).chain(" …".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failure_of_each_kind_is_known_and_is_short() {
        let health = Health::default();
        assert!(!health.failed_lately("a"));
        health.failed("a", Work::Storing, "the first");
        health.failed("a", Work::Storing, &"ä".repeat(1000));
        health.failed("a", Work::Reading, "another");
        assert!(health.failed_lately("a") && !health.failed_lately("b"));
        let last = health.last_failures("a");
        assert_eq!(
            last.iter().map(|l| l.work).collect::<Vec<_>>(),
            [Work::Storing, Work::Reading]
        );
        assert_eq!(last[0].text.chars().count(), LONGEST);
        assert_eq!(last[1].text, "another");
        health.answered("a");
        assert!(!health.failed_lately("a"));
        assert_eq!(
            health.last_failures("a").len(),
            2,
            "reported until the next failure"
        );
    }

    #[test]
    fn a_sample_is_due_once_a_minute() {
        let health = Health::default();
        assert!(health.takes_sample("a") && health.takes_sample("b"));
        assert!(!health.takes_sample("a"));
    }
}
