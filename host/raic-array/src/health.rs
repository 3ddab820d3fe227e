//! How each cloud did lately, as this process saw it.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};
/// How long a cloud that failed is asked last.
const DISTRUST: Duration = Duration::from_secs(60);
/// How often a sample of what was just stored is read back from a cloud.
const SAMPLED: Duration = Duration::from_secs(60);
/// Characters of a fault that are kept.
const LONGEST: usize = 300;

/// What a cloud was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// To store a share.
    Storing,
    /// To read one.
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

/// The last failure of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// Of which kind.
    pub work: Work,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it was, as a sentence.
    pub text: String,
}

#[derive(Debug, Default)]
struct Known {
    distrusted: Option<Instant>,
    sampled: Option<Instant>,
    last: BTreeMap<Work, LastFailure>,
}

/// Which clouds failed lately, and are asked last for a while.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<HashMap<String, Known>>);

impl Health {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock()
    }

    pub(crate) fn failed(&self, cloud: &str, work: Work, text: &str) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut known = self.lock();
        let cloud = known.entry(cloud.to_owned()).or_default();
        cloud.distrusted = Some(Instant::now());
        cloud.last.insert(
            work,
            LastFailure {
                work,
                at_ms,
                text: shortened(text),
            },
        );
    }

    /// It took too long, which is no failure yet.
    pub(crate) fn is_late(&self, cloud: &str) {
        self.lock().entry(cloud.to_owned()).or_default().distrusted = Some(Instant::now());
    }

    pub(crate) fn answered(&self, cloud: &str) {
        if let Some(known) = self.lock().get_mut(cloud) {
            known.distrusted = None;
        }
    }

    pub(crate) fn failed_lately(&self, cloud: &str) -> bool {
        let known = self.lock();
        known
            .get(cloud)
            .and_then(|cloud| cloud.distrusted)
            .is_some_and(|at| at.elapsed() < DISTRUST)
    }

    /// Whether a sample is due of what is stored on a cloud; then it counts as taken.
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

/// A fault's text, cut to what a person reads; it is kept for every share that lacks.
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
            "told until the next one"
        );
    }

    #[test]
    fn a_sample_is_due_once_a_minute() {
        let health = Health::default();
        assert!(health.takes_sample("a") && health.takes_sample("b"));
        assert!(!health.takes_sample("a"));
    }
}
