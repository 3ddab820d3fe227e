//! The time by two clocks: the wall clock, which may be set, and the clock that counts since the
//! machine started.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// The wall clock and the machine's own clock, both in milliseconds. They are the system's, or a
/// test sets them. Clones share one clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Manual>>);

#[derive(Debug, Default)]
struct Manual {
    wall: AtomicI64,
    boot: AtomicI64,
    /// Number that stands for a start of the machine.
    id: AtomicI64,
}

static MANUAL: AtomicI64 = AtomicI64::new(0);

impl Clock {
    /// Makes the system's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// Makes a clock whose wall clock shows `ms`, in milliseconds since 1970. It stands still until
    /// [`Clock::advance`] or [`Clock::set`].
    pub fn manual(ms: i64) -> Self {
        let id = AtomicI64::new(MANUAL.fetch_add(1, Ordering::Relaxed));
        Self(Some(Arc::new(Manual {
            wall: AtomicI64::new(ms),
            boot: AtomicI64::new(0),
            id,
        })))
    }

    /// Lets time pass on a manual clock. The system's clock is not changed.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            manual.wall.fetch_add(millis(by), Ordering::SeqCst);
            manual.boot.fetch_add(millis(by), Ordering::SeqCst);
        }
    }

    /// Sets the wall clock of a manual clock, in milliseconds since 1970, as a wrong time server
    /// does. No time passes.
    pub fn set(&self, ms: i64) {
        if let Some(manual) = &self.0 {
            manual.wall.store(ms, Ordering::SeqCst);
        }
    }

    /// Does to a manual clock what a start of the machine does: the time since the start begins
    /// again at 0.
    pub fn start_anew(&self) {
        if let Some(manual) = &self.0 {
            manual
                .id
                .store(MANUAL.fetch_add(1, Ordering::Relaxed), Ordering::SeqCst);
            manual.boot.store(0, Ordering::SeqCst);
        }
    }

    /// Now by the wall clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Some(manual) => manual.wall.load(Ordering::SeqCst),
            None => millis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            ),
        }
    }

    /// The time since the machine started, in milliseconds, including the time that it was
    /// suspended (Linux: `CLOCK_BOOTTIME`). Nobody can set this clock.
    pub fn boot_ms(&self) -> i64 {
        match &self.0 {
            Some(manual) => manual.boot.load(Ordering::SeqCst),
            None => {
                let time = clock_gettime(ClockId::Boottime);
                time.tv_sec
                    .saturating_mul(1000)
                    .saturating_add(time.tv_nsec / 1_000_000)
            }
        }
    }

    /// The id of this start of the machine; empty if the system does not report it.
    pub(crate) fn boot_id(&self) -> String {
        match &self.0 {
            Some(manual) => format!("manual {}", manual.id.load(Ordering::SeqCst)),
            None => std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }

    /// The moment that lies `by` after now by the wall clock, in milliseconds since 1970.
    pub fn after(&self, by: Duration) -> i64 {
        self.now_ms().saturating_add(millis(by))
    }
}

/// Converts a duration to milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
