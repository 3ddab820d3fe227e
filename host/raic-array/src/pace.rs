//! How fast each cloud has given blocks lately. So the fastest are asked, and one that is late is
//! known as late soon.

use std::{
    collections::HashMap,
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

/// Moving averages of one cloud, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Averages {
    /// Of a small read.
    small: Option<f64>,
    /// Of [`UNIT`] of a large one.
    large: Option<f64>,
    at: Option<Instant>,
}

impl Averages {
    fn of(&mut self, bytes: u64) -> (&mut Option<f64>, f64) {
        match bytes < SMALL {
            true => (&mut self.small, 1.0),
            false => (&mut self.large, bytes as f64 / UNIT as f64),
        }
    }

    /// What a read of `bytes` takes, in seconds; `None` if nothing is known.
    fn expected(&self, bytes: u64) -> Option<f64> {
        let units = bytes as f64 / UNIT as f64;
        let seconds = match bytes < SMALL {
            true => self.small.or(self.large.map(|large| large * OTHER_SIZE)),
            false => self.large.map(|large| large * units).or(self.small),
        };
        let age = self.at.map_or(0.0, |at| at.elapsed().as_secs_f64());
        seconds.map(|seconds| seconds * 0.5_f64.powf(age / HALF_LIFE.as_secs_f64()))
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
        let (average, units) = averages.of(bytes);
        let now = took.as_secs_f64() / units;
        *average = Some(average.map_or(now, |known| known * 0.75 + now * 0.25));
        averages.at = Some(Instant::now());
    }

    /// Records that a cloud has not given `bytes` within `waited`.
    pub(crate) fn is_late(&self, cloud: &str, bytes: u64, waited: Duration) {
        let mut clouds = self.0.lock();
        let averages = clouds.entry(cloud.to_owned()).or_default();
        let (average, units) = averages.of(bytes);
        let now = waited.as_secs_f64() / units;
        *average = Some(average.map_or(now, |known| known.max(now)));
        averages.at = Some(Instant::now());
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
        paces.is_late("a", 4 << 20, ms(4_000));
        near("a", 4 << 20, 4_000);
        paces.is_late("a", 4 << 20, ms(400));
        near("a", 4 << 20, 4_000);
    }
}
