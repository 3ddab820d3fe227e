//! The budget for the bytes of shares that all uploads and reads of a process hold in memory
//! (decision 0005).
//!
//! **Invariant:** an operation that waits for a reservation holds none. It reserves what it needs
//! to go on, before its first byte is in memory. More is tried and never waited for. So nobody
//! holds a part while waiting for another part, and every wait ends.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit in which the budget is counted, in bytes, so that a budget fits the counter.
const UNIT: u64 = 1 << 10;

/// Bytes that growth leaves, of a budget of twice as much or more: what an upload begins with.
const LEFT: u64 = 2 << 20;

/// A memory budget in bytes. Clones share it.
#[derive(Clone, Debug)]
pub struct ChunkBudget {
    units: Arc<Semaphore>,
    all: u32,
}

/// A part of the budget that is reserved until this is dropped.
#[derive(Debug)]
pub struct Reserved(Option<OwnedSemaphorePermit>);

impl Reserved {
    /// The number of bytes that are reserved, in whole KiB.
    pub fn bytes(&self) -> u64 {
        let permits = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        permits as u64 * UNIT
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let kept = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        if let Some(permit) = &mut self.0 {
            drop(permit.split(permit.num_permits().saturating_sub(kept)));
        }
    }
}

impl Default for ChunkBudget {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl ChunkBudget {
    /// The default budget, in bytes. It holds three uploads to four clouds at full pace, and many
    /// more at less.
    pub const DEFAULT: u64 = 256 << 20;

    /// Makes a budget of `bytes`, in whole KiB and at least one.
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
        // A request for more than the whole budget gets the whole budget, alone.
        u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .min(self.all)
    }

    /// Waits for its turn and reserves `bytes`, at most the whole budget.
    ///
    /// If the wait is cancelled, it leaves its place in the queue.
    pub async fn reserve(&self, bytes: u64) -> Reserved {
        // The semaphore is never closed.
        Reserved(
            self.units
                .clone()
                .acquire_many_owned(self.units(bytes))
                .await
                .ok(),
        )
    }

    /// Reserves `bytes` if they are free and nobody waits; returns `None` otherwise.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reserved> {
        let permit = self
            .units
            .clone()
            .try_acquire_many_owned(self.units(bytes))
            .ok()?;
        Some(Reserved(Some(permit)))
    }

    /// Reserves `bytes` for an operation that could go on without them, as
    /// [`ChunkBudget::try_reserve`] does. A quarter of the budget is left, and 2 MiB of a small
    /// one, so that whoever begins gets the little that it needs.
    pub fn try_grow(&self, bytes: u64) -> Option<Reserved> {
        let left = self.free().saturating_sub(bytes);
        match left >= (self.all() / 4).max(LEFT.min(self.all() / 2)) {
            true => self.try_reserve(bytes),
            false => None,
        }
    }

    /// The number of bytes of the whole budget.
    pub fn all(&self) -> u64 {
        u64::from(self.all) * UNIT
    }

    /// The number of bytes that are free.
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
        // A later request waits for its turn, though there would be room for it.
        assert!(tokio::time::timeout(waits, &mut small).await.is_err());
        assert!(budget.try_reserve(1).is_none());
        drop(first);
        let all = greedy.await;
        assert!(tokio::time::timeout(waits, &mut small).await.is_err());
        drop(all);
        drop(small.await);
        assert_eq!(budget.free(), 10 << 10);
    }

    #[test]
    fn growth_leaves_room_for_those_who_begin() {
        let mib = |count: u64| count << 20;
        for (all, most) in [(64, 48), (12, 9), (6, 4), (2, 1)] {
            let budget = ChunkBudget::new(mib(all));
            assert!(budget.try_grow(mib(most + 1)).is_none(), "{all}");
            let mut grown = budget.try_grow(mib(most)).unwrap();
            assert!(budget.try_grow(1).is_none(), "{all}");
            drop(budget.try_reserve(mib(all - most)).unwrap());
            grown.shrink_to(mib(1));
            grown.shrink_to(mib(9));
            assert_eq!(budget.free(), mib(all - 1));
        }
    }
}
