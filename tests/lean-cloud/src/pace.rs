//! How slowly the cloud answers.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How slow a cloud is. The default is as fast as it can be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Time that each request waits before it is answered.
    pub latency: Duration,
    /// Most bytes a second of all bodies together, in each direction; `None` for no limit.
    pub bytes_per_second: Option<u64>,
}

/// A line that all bodies of one direction share.
#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<Option<Instant>>);

impl Line {
    /// Waits until the line has carried `bytes` more.
    pub(crate) async fn carry(&self, pace: Pace, bytes: usize) {
        let Some(rate) = pace.bytes_per_second else {
            return;
        };
        let until = {
            let mut free = self.0.lock();
            let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            let until = free.unwrap_or_else(Instant::now).max(Instant::now()) + takes;
            *free = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}
