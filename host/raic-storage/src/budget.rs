//! One budget for the bytes of shares that are held in memory on their way, over all uploads and
//! reads of a process.
//!
//! **Invariant:** who reserves holds nothing reserved: all that one operation will hold is reserved
//! at once, before the first byte of it is there. So nobody holds a part while waiting for another,
//! and every wait ends.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counted in these, so that a budget fits the counter.
const UNIT: u64 = 1 << 10;

/// A budget in bytes. Clones are one.
#[derive(Clone, Debug)]
pub struct ChunkBudget {
    units: Arc<Semaphore>,
    all: u32,
}

/// What was reserved, until it is dropped.
#[derive(Debug)]
pub struct Reserved(
    #[expect(dead_code, reason = "gives back when it is dropped")] Option<OwnedSemaphorePermit>,
);

impl Default for ChunkBudget {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl ChunkBudget {
    /// Bytes, unless there is a reason: five uploads to four clouds at their full pace.
    pub const DEFAULT: u64 = 256 << 20;

    /// Of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / UNIT)
            .unwrap_or(u32::MAX)
            .clamp(1, u32::MAX >> 4);
        Self {
            units: Arc::new(Semaphore::new(all as usize)),
            all,
        }
    }

    fn units(&self, bytes: u64) -> u32 {
        // What wants more than there is has all of it, alone.
        u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .min(self.all)
    }

    /// Reserves so many bytes, all of the budget at most; waits for its turn.
    ///
    /// Cancelled, it leaves its place in the queue.
    pub async fn reserve(&self, bytes: u64) -> Reserved {
        // It is never closed.
        Reserved(
            self.units
                .clone()
                .acquire_many_owned(self.units(bytes))
                .await
                .ok(),
        )
    }

    /// Reserves so many bytes where they are free and nobody waits.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reserved> {
        let permit = self
            .units
            .clone()
            .try_acquire_many_owned(self.units(bytes))
            .ok()?;
        Some(Reserved(Some(permit)))
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_wants_more_than_all_has_all_alone_and_turns_are_kept() {
        let budget = ChunkBudget::new(10 << 10);
        let first = budget.reserve(4 << 10).await;
        assert!(budget.try_reserve(7 << 10).is_none());
        let (greedy, mut small) = (budget.clone(), Box::pin(budget.reserve(1)));
        let mut greedy = Box::pin(greedy.reserve(u64::MAX));
        let waits = Duration::from_millis(10);
        assert!(tokio::time::timeout(waits, &mut greedy).await.is_err());
        // What came later waits for its turn, though there would be room.
        assert!(tokio::time::timeout(waits, &mut small).await.is_err());
        assert!(budget.try_reserve(1).is_none());
        drop(first);
        let all = greedy.await;
        assert!(tokio::time::timeout(waits, &mut small).await.is_err());
        drop(all);
        drop(small.await);
        assert_eq!(budget.free(), 10 << 10);
    }
}
