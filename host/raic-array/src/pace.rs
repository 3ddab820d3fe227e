//! How fast each cloud has given blocks lately. So the fastest are asked, and one that is late is
//! known as late soon.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Reads of fewer bytes than this are timed apart: their time is latency.
const SMALL: u64 = 128 << 10;
/// The unit of what is known of larger reads.
const UNIT: u64 = 1 << 20;
/// The time after which half of what is known of a cloud is forgotten: a cloud that was slow is
/// tried again.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// What is expected of a cloud that gave large blocks only, or small ones only, as a part of the
/// other.
const OTHER_SIZE: f64 = 0.5;
/// Reads of a cloud that are remembered by how much longer they took than expected.
const REMEMBERED: usize = 64;
/// The fewest of them that tell what is usual.
const TELLING: usize = 20;
/// How many times the expected a read may take while too few are remembered.
const UNTOLD: f64 = 4.0;
/// The part of the reads that come in time.
const IN_TIME: f64 = 0.95;

/// A moving average, in seconds.
#[derive(Clone, Copy, Debug)]
struct Average {
    seconds: f64,
    at: Instant,
}

impl Average {
    /// What is left of it now.
    fn now(&self) -> f64 {
        let age = self.at.elapsed().as_secs_f64();
        self.seconds * 0.5_f64.powf(age / HALF_LIFE.as_secs_f64())
    }
}

/// Moving averages of one cloud.
#[derive(Clone, Debug, Default)]
struct Averages {
    /// Of a small read.
    small: Option<Average>,
    /// Of [`UNIT`] of a large one.
    large: Option<Average>,
    /// What the last reads took, as a multiple of what was expected.
    ratios: VecDeque<f64>,
}

impl Averages {
    /// Changes the average of reads of `bytes` by what such a read took.
    fn change(&mut self, bytes: u64, took: Duration, change: impl Fn(f64, f64) -> f64) {
        let (average, units) = match bytes < SMALL {
            true => (&mut self.small, 1.0),
            false => (&mut self.large, bytes as f64 / UNIT as f64),
        };
        let took = took.as_secs_f64() / units;
        *average = Some(Average {
            seconds: average.map_or(took, |known| change(known.now(), took)),
            at: Instant::now(),
        });
    }

    /// Remembers what a read took beside what was expected of it.
    fn remember(&mut self, bytes: u64, took: Duration) {
        let expected = self.expected(bytes).filter(|expected| *expected > 0.0);
        if let Some(expected) = expected {
            if self.ratios.len() == REMEMBERED {
                self.ratios.pop_front();
            }
            self.ratios.push_back(took.as_secs_f64() / expected);
        }
    }

    /// How many times the expected nearly all of the last reads took at most.
    fn usual_ratio(&self) -> f64 {
        if self.ratios.len() < TELLING {
            return UNTOLD;
        }
        let mut ratios: Vec<f64> = self.ratios.iter().copied().collect();
        ratios.sort_by(f64::total_cmp);
        let at = (ratios.len() as f64 * IN_TIME) as usize;
        ratios.get(at).copied().unwrap_or(UNTOLD)
    }

    /// What a read of `bytes` takes, in seconds; `None` if nothing is known.
    fn expected(&self, bytes: u64) -> Option<f64> {
        let units = bytes as f64 / UNIT as f64;
        let small = self.small.map(|average| average.now());
        let large = self.large.map(|average| average.now());
        match bytes < SMALL {
            true => small.or(large.map(|large| large * OTHER_SIZE)),
            false => large.map(|large| large * units).or(small),
        }
    }
}

/// How fast all clouds have given blocks lately.
#[derive(Debug, Default)]
pub(crate) struct Paces(Mutex<HashMap<String, Averages>>);

impl Paces {
    /// Records that a cloud gave `bytes` within `took`.
    pub(crate) fn gave(&self, cloud: &str, bytes: u64, took: Duration) {
        let mut clouds = self.0.lock();
        let averages = clouds.entry(cloud.to_owned()).or_default();
        averages.remember(bytes, took);
        averages.change(bytes, took, |known, now| known * 0.75 + now * 0.25);
    }

    /// Records that a cloud has not given `bytes` within `waited`.
    pub(crate) fn is_late(&self, cloud: &str, bytes: u64, waited: Duration) {
        let mut clouds = self.0.lock();
        let averages = clouds.entry(cloud.to_owned()).or_default();
        averages.change(bytes, waited, f64::max);
    }

    /// Remembers that a read took longer than `waited`, before its outcome is known.
    pub(crate) fn took_longer(&self, cloud: &str, bytes: u64, waited: Duration) {
        let mut clouds = self.0.lock();
        let averages = clouds.entry(cloud.to_owned()).or_default();
        averages.remember(bytes, waited);
    }

    /// The time after which a read of `bytes` from a cloud is late: 95 of 100 of its reads took
    /// less; `None` if nothing is known.
    pub(crate) fn late_after(&self, cloud: &str, bytes: u64) -> Option<Duration> {
        let clouds = self.0.lock();
        let averages = clouds.get(cloud)?;
        let seconds = averages.expected(bytes)? * averages.usual_ratio();
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// What a read of `bytes` from a cloud takes; `None` if nothing is known.
    pub(crate) fn expected(&self, cloud: &str, bytes: u64) -> Option<Duration> {
        let seconds = self.0.lock().get(cloud)?.expected(bytes)?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// How slow a cloud is for reads of `bytes`: those of one step are about equal, and each step
    /// is four times as slow as the one before. A cloud of which nothing is known is in the first
    /// step, so that something will be.
    pub(crate) fn step(&self, cloud: &str, bytes: u64) -> u32 {
        let expected = self.expected(cloud, bytes).unwrap_or_default();
        u64::try_from(expected.as_millis() + 1).map_or(u32::MAX, |ms| ms.ilog2() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_is_known_by_what_it_gave_and_by_what_it_did_not_give() {
        let paces = Paces::default();
        let ms = Duration::from_millis;
        assert_eq!((paces.expected("a", 1), paces.step("a", 1)), (None, 0));
        for _ in 0..20 {
            paces.gave("a", 2 << 20, ms(20));
            paces.gave("b", 4 << 20, ms(2_000));
        }
        let near = |cloud, bytes, wanted: u64| {
            let expected = paces.expected(cloud, bytes).unwrap().as_millis();
            assert!(
                expected.abs_diff(wanted.into()) <= 1 + u128::from(wanted) / 50,
                "{expected} {wanted}"
            );
        };
        near("a", 4 << 20, 40);
        near("b", 1 << 20, 500);
        near("a", 100, 5);
        assert!(paces.step("a", 1 << 20) < paces.step("b", 1 << 20));
        paces.gave("a", 100, ms(2));
        near("a", 100, 2);
        assert_eq!(paces.late_after("nobody", 1), None);
        paces.is_late("a", 4 << 20, ms(4_000));
        near("a", 4 << 20, 4_000);
        paces.is_late("a", 4 << 20, ms(400));
        near("a", 4 << 20, 4_000);
    }

    #[test]
    fn a_read_is_late_when_nearly_all_others_took_less() {
        let paces = Paces::default();
        let ms = Duration::from_millis;
        let late = || paces.late_after("a", 1 << 20).unwrap().as_millis();
        paces.gave("a", 1 << 20, ms(100));
        assert!(
            (395..=400).contains(&late()),
            "not much is known: {}",
            late()
        );
        // One read in ten takes twice as long. The average moves with it.
        for _ in 0..40 {
            (0..9).for_each(|_| paces.gave("a", 1 << 20, ms(100)));
            paces.gave("a", 1 << 20, ms(200));
        }
        (0..5).for_each(|_| paces.gave("a", 1 << 20, ms(100)));
        assert!((150..300).contains(&late()), "{}", late());
        // A steady cloud is late soon.
        (0..100).for_each(|_| paces.gave("a", 1 << 20, ms(100)));
        assert!((95..115).contains(&late()), "{}", late());
    }
}
