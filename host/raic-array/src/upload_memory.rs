//! The memory that an upload holds (decision 0005). It begins with little, grows while content
//! comes, and gives back what it can when the content stops coming.

use std::{pin::pin, sync::Arc, time::Duration};

use raic_storage::{ChunkBudget, Reserved, StreamMemory};

use crate::{Class, Geometry, share_upload::QUEUE};

/// Bytes of content that are coded at once on the blocking pool: about 2 ms of work.
const BATCH: usize = 1 << 20;
/// Bytes of content that an upload codes at once when it begins, unless it is shorter than a batch.
const FIRST_BATCH: usize = 128 << 10;
/// Batches whose pieces may be held: the one that is being coded, those that wait, and the one
/// that a writer takes.
const BATCHES: u64 = QUEUE as u64 + 2;

/// The number of segments that are coded at once.
pub(crate) fn batch_of(segment_size: usize) -> usize {
    (BATCH / segment_size.max(1)).max(1)
}

/// The memory of one upload.
pub(crate) struct UploadMemory {
    budget: ChunkBudget,
    /// Number of shares.
    writers: usize,
    /// Segments that are coded at once now.
    batch: usize,
    least: usize,
    most: usize,
    /// Bytes of the pieces that one segment becomes.
    segment: u64,
    /// What is held without growth.
    _least: Reserved,
    grown: Vec<Reserved>,
    /// Whether only the batch that is being gathered is still paid for.
    has_paused: bool,
}

impl UploadMemory {
    /// Waits for what an upload needs to go on. It holds nothing before. `share_length` is the
    /// length of each share of its longest extent, if it is known, and `size` that of the content.
    /// A small upload takes what is free first, of the budget or of the one for `small` uploads.
    pub(crate) async fn reserve(
        (budget, small): (&ChunkBudget, &ChunkBudget),
        class: &Class,
        share_length: Option<u64>,
        size: Option<u64>,
    ) -> Self {
        let Class {
            geometry: Geometry { k, n },
            segment_size,
            ..
        } = *class;
        let most = batch_of(segment_size as usize);
        let least = match size {
            // It is coded at once, and costs no more than its own size.
            Some(size) if size <= BATCH as u64 => most,
            _ => (FIRST_BATCH / segment_size as usize).clamp(1, most),
        };
        let share_length = share_length.unwrap_or(u64::MAX);
        let (writers, block) = (usize::from(n), u64::from(segment_size).div_ceil(k.into()));
        let pieces = share_length.min(BATCHES * least as u64 * block);
        let held = StreamMemory::least_held(writers, share_length) + u64::from(n) * pieces;
        let reserved = match size {
            Some(size) if size <= BATCH as u64 => tokio::select! {
                biased;
                reserved = budget.reserve(held) => reserved,
                reserved = small.reserve(held) => reserved,
            },
            _ => budget.reserve(held).await,
        };
        Self {
            _least: reserved,
            budget: budget.clone(),
            writers,
            batch: least,
            least,
            most,
            segment: u64::from(n) * block,
            grown: Vec::new(),
            has_paused: false,
        }
    }

    /// The memory for the shares of the next extent.
    pub(crate) fn of_stream(&self) -> Arc<StreamMemory> {
        StreamMemory::new(self.budget.clone(), self.writers)
    }

    /// How many segments a batch has now.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Returns how many segments the next batch has. After a pause it is small again, and the one
    /// before is paid for until no piece waits for a cloud.
    pub(crate) fn next_batch(&mut self, is_drained: impl Fn() -> bool) -> usize {
        if self.has_paused {
            self.batch = self.least;
            if is_drained() {
                self.grown.clear();
                self.has_paused = false;
            }
        }
        self.batch
    }

    /// Codes more at once from now on, if there is memory and the last batch came without a pause.
    pub(crate) fn grow(&mut self) {
        if self.has_paused {
            return;
        }
        let more = self.batch.min(self.most - self.batch);
        let bytes = BATCHES * more as u64 * self.segment;
        if more > 0
            && let Some(reserved) = self.budget.try_grow(bytes)
        {
            self.grown.push(reserved);
            self.batch += more;
        }
    }

    /// Gives back what the batch that is being gathered does not need. Nothing must wait for a
    /// cloud.
    fn give_back(&mut self) {
        if self.has_paused {
            return;
        }
        let mut left = self.batch.saturating_sub(self.least) as u64 * self.segment;
        for reserved in &mut self.grown {
            reserved.shrink_to(left);
            left = left.saturating_sub(reserved.bytes());
        }
        self.has_paused = true;
    }

    /// Waits for content. Whenever it paused for so long, and no piece waits for a cloud, memory is
    /// given back.
    pub(crate) async fn while_waiting<T>(
        &mut self,
        content: impl Future<Output = T>,
        pause: Duration,
        is_drained: impl Fn() -> bool,
    ) -> T {
        let mut content = pin!(content);
        loop {
            match tokio::time::timeout(pause, &mut content).await {
                Ok(came) => return came,
                Err(_) if is_drained() => self.give_back(),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Padding;

    fn class() -> Class {
        Class {
            geometry: Geometry { k: 2, n: 4 },
            survive: 1,
            padding: Padding::None,
            segment_size: 128 << 10,
        }
    }

    #[tokio::test]
    async fn an_upload_grows_while_content_comes_and_gives_back_at_a_pause() {
        let budget = ChunkBudget::new(64 << 20);
        let all = budget.free();
        let mut memory = UploadMemory::reserve((&budget, &budget), &class(), None, None).await;
        // Four chunks of 256 KiB, and four pieces of 64 KiB for each of four clouds.
        assert_eq!(all - budget.free(), 2 << 20);
        assert_eq!(memory.batch(), 1);
        for batch in [2, 4, 8, 8] {
            memory.grow();
            assert_eq!(memory.batch(), batch);
        }
        assert_eq!(all - budget.free(), 9 << 20);
        let pause = Duration::from_millis(5);
        let slow = tokio::time::sleep(pause * 6);
        memory.while_waiting(slow, pause, || false).await;
        assert_eq!(all - budget.free(), 9 << 20, "pieces wait for a cloud");
        let slow = tokio::time::sleep(pause * 6);
        memory.while_waiting(slow, pause, || true).await;
        // The batch that was gathered meanwhile is still paid for: 7 segments of 256 KiB.
        assert_eq!(all - budget.free(), (2 << 20) + (7 << 18));
        memory.grow();
        assert_eq!(memory.next_batch(|| false), 1);
        assert_eq!(
            all - budget.free(),
            (2 << 20) + (7 << 18),
            "it waits for a cloud"
        );
        assert_eq!(memory.next_batch(|| true), 1);
        assert_eq!(all - budget.free(), 2 << 20);
        memory.grow();
        assert_eq!(memory.batch(), 2);
        drop(memory);
        assert_eq!(budget.free(), all);
    }

    #[tokio::test]
    async fn a_small_upload_costs_its_own_size_and_is_coded_at_once() {
        let budget = ChunkBudget::new(64 << 20);
        let all = budget.free();
        let memory =
            UploadMemory::reserve((&budget, &budget), &class(), Some(6000), Some(5000)).await;
        assert_eq!(memory.batch(), 8);
        assert!(all - budget.free() <= 4 * 2 * 6000 + 1024);
    }
}
