//! What time it is, by two clocks: the wall's, which somebody may set, and the one that counts
//! since the machine started.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since 1970, and since the machine started, by the system or as a test sets them.
/// Clones are one clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Manual>>);

#[derive(Debug, Default)]
struct Manual {
    wall: AtomicI64,
    boot: AtomicI64,
    /// In the place of the machine's start.
    id: AtomicI64,
}

static MANUAL: AtomicI64 = AtomicI64::new(0);

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self(None)
    }

    /// One that stands still until [`Clock::advance`] or [`Clock::set`].
    pub fn manual(ms: i64) -> Self {
        let id = AtomicI64::new(MANUAL.fetch_add(1, Ordering::Relaxed));
        Self(Some(Arc::new(Manual {
            wall: AtomicI64::new(ms),
            boot: AtomicI64::new(0),
            id,
        })))
    }

    /// Lets time pass on a manual clock; the system's moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            manual.wall.fetch_add(millis(by), Ordering::SeqCst);
            manual.boot.fetch_add(millis(by), Ordering::SeqCst);
        }
    }

    /// Sets the wall clock of a manual clock, forward or back, as a wrong time server does: no time
    /// passes.
    pub fn set(&self, ms: i64) {
        if let Some(manual) = &self.0 {
            manual.wall.store(ms, Ordering::SeqCst);
        }
    }

    /// What a start of the machine does to a manual clock: the time that it counts from the start
    /// begins again.
    pub fn start_anew(&self) {
        if let Some(manual) = &self.0 {
            manual
                .id
                .store(MANUAL.fetch_add(1, Ordering::Relaxed), Ordering::SeqCst);
            manual.boot.store(0, Ordering::SeqCst);
        }
    }

    /// Now, in milliseconds since 1970.
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

    /// Milliseconds since the machine started, those that it was suspended included (Linux:
    /// `CLOCK_BOOTTIME`). Nobody sets it.
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

    /// Which start of the machine this is; empty if the system does not say.
    pub(crate) fn boot_id(&self) -> String {
        match &self.0 {
            Some(manual) => format!("manual {}", manual.id.load(Ordering::SeqCst)),
            None => std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }

    /// So long from now.
    pub fn after(&self, by: Duration) -> i64 {
        self.now_ms().saturating_add(millis(by))
    }
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
