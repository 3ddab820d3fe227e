//! The CPU time that a call uses. It is the time of the thread that runs the call, so that a call
//! is not charged for waiting on a busy machine.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// The CPU time of one call. It is written by the thread that runs the call, one thread at a time.
#[derive(Debug, Default)]
pub(crate) struct CpuTime {
    /// Nanoseconds of all polls that have ended, and of work on other threads.
    spent: AtomicU64,
    /// The thread's CPU clock when the current poll began, in nanoseconds.
    since: AtomicU64,
}

impl CpuTime {
    /// Returns the time used so far. It must be called by the thread that runs the call, during a
    /// poll.
    pub(crate) fn so_far(&self) -> Duration {
        let now = thread_clock().saturating_sub(self.since.load(Ordering::Relaxed));
        Duration::from_nanos(self.spent.load(Ordering::Relaxed) + now)
    }

    /// Adds the time that another thread used for the call.
    pub(crate) fn add(&self, used: Duration) {
        self.spent.fetch_add(
            u64::try_from(used.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Runs `work` and counts the CPU time of its polls.
    pub(crate) async fn of<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.since.store(thread_clock(), Ordering::Relaxed);
            let polled = work.as_mut().poll(context);
            let used = thread_clock().saturating_sub(self.since.load(Ordering::Relaxed));
            self.spent.fetch_add(used, Ordering::Relaxed);
            polled
        })
        .await
    }
}

/// Runs `work` on this thread. Returns its result and the CPU time that it used.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = thread_clock();
    let done = work();
    (
        done,
        Duration::from_nanos(thread_clock().saturating_sub(began)),
    )
}

/// The CPU time of this thread, in nanoseconds.
fn thread_clock() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_costs_nothing() {
        let cpu = Arc::new(CpuTime::default());
        cpu.clone()
            .of(tokio::time::sleep(Duration::from_millis(60)))
            .await;
        let waited = Duration::from_nanos(cpu.spent.load(Ordering::Relaxed));
        assert!(waited < Duration::from_millis(30), "{waited:?}");
        let work = async {
            let begin = cpu.so_far();
            while cpu.so_far() - begin < Duration::from_millis(20) {}
        };
        cpu.clone().of(work).await;
        assert!(cpu.spent.load(Ordering::Relaxed) >= 20_000_000);
    }
}
