//! Moments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::millis;

/// A moment by the array's clock, in milliseconds since 1970. Not a length of time, and not a
/// reading of the clock that counts since the machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// Earlier than every other moment.
    pub const MIN: Self = Self(i64::MIN);

    /// The moment so many milliseconds after the beginning of 1970, UTC.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the beginning of 1970, UTC.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment that lies `by` later; the last one there is, if that would be beyond it.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// The moment that lies `by` earlier; the first one there is, if that would be before it.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// The moment of a time stamp; `None` if that lies before 1970.
    pub fn of(time: SystemTime) -> Option<Self> {
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        Some(Self(millis(since)))
    }
}
