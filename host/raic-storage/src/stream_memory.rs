//! The memory of those who write the shares of one stream (decision 0005).
//!
//! Each of them fills one chunk, and may fill the next while others are on their way. At first
//! chunks are small. They grow as long as there is memory and no chunk went out; from then on all
//! chunks of the stream have that size, also those of a share that is sent again.
//!
//! **Invariant:** nobody waits here. What cannot be had now is done without: chunks stay small, and
//! the next one is filled when the one before has been stored.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{ChunkBudget, Reserved};

/// The size of a chunk that needs no growth, in bytes. It is a multiple of the unit of chunks.
pub const LEAST_CHUNK: usize = 256 << 10;

/// The memory of the writers of one stream's shares.
#[derive(Debug)]
pub struct StreamMemory {
    budget: ChunkBudget,
    /// Number of shares that are written.
    writers: u64,
    chunks: Mutex<Chunks>,
}

#[derive(Debug)]
struct Chunks {
    /// Bytes of a chunk. A cloud that takes only smaller objects gets smaller chunks.
    size: usize,
    /// Whether the size can grow no more.
    is_fixed: bool,
    /// What the chunks that are being filled take beyond the least size.
    grown: Vec<Reserved>,
}

impl StreamMemory {
    /// The memory for so many shares. Whoever writes them has reserved
    /// [`StreamMemory::least_held`] of the budget already.
    pub fn new(budget: ChunkBudget, writers: usize) -> Arc<Self> {
        Arc::new(Self {
            budget,
            writers: writers as u64,
            chunks: Mutex::new(Chunks {
                size: LEAST_CHUNK,
                is_fixed: false,
                grown: Vec::new(),
            }),
        })
    }

    /// The memory for one share of a writer that has a budget of its own.
    pub fn of_one() -> Arc<Self> {
        Self::new(ChunkBudget::default(), 1)
    }

    /// The bytes that the writers of shares of this length hold without growth.
    pub fn least_held(writers: usize, share_length: u64) -> u64 {
        writers as u64 * share_length.min(LEAST_CHUNK as u64)
    }

    /// Returns the size of a chunk of which `gathered` bytes have been filled: it is more than
    /// that if the chunk need not go out yet. `most` is the largest size of the cloud.
    pub(crate) fn chunk_size(&self, gathered: usize, most: usize) -> usize {
        let mut chunks = self.chunks.lock();
        if chunks.is_fixed || gathered < chunks.size.min(most) {
            return chunks.size.min(most);
        }
        if chunks.size >= most {
            return most;
        }
        let more = chunks.size.min(most - chunks.size);
        match self.budget.try_grow(self.writers * more as u64) {
            Some(reserved) => {
                chunks.grown.push(reserved);
                chunks.size += more;
            }
            None => chunks.is_fixed = true,
        }
        chunks.size
    }

    /// Reserves memory for what could also be done later, such as a chunk that is on its way while
    /// the next is filled; `None` if there is none now.
    pub fn beside(&self, bytes: usize) -> Option<Reserved> {
        self.budget.try_grow(bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_while_there_is_memory_and_are_all_alike_then() {
        let most = 4 << 20;
        let budget = ChunkBudget::new(64 << 20);
        let memory = StreamMemory::new(budget.clone(), 4);
        assert_eq!(memory.chunk_size(0, most), LEAST_CHUNK);
        assert_eq!(memory.chunk_size(LEAST_CHUNK, most), 2 * LEAST_CHUNK);
        // Another writer of the stream uses the same size, and one whose cloud takes less has less.
        assert_eq!(memory.chunk_size(LEAST_CHUNK, most), 2 * LEAST_CHUNK);
        assert_eq!(memory.chunk_size(LEAST_CHUNK, 300 << 10), 300 << 10);
        let mut size = 2 * LEAST_CHUNK;
        while size < most {
            size = memory.chunk_size(size, most);
        }
        assert_eq!(memory.chunk_size(most, most), most, "the chunk goes out");
        assert_eq!(budget.free(), (64 << 20) - 4 * (most - LEAST_CHUNK) as u64);
        drop(memory);
        assert_eq!(budget.free(), 64 << 20);

        let scarce = StreamMemory::new(ChunkBudget::new(8 << 20), 4);
        assert_eq!(scarce.chunk_size(LEAST_CHUNK, most), 2 * LEAST_CHUNK);
        // A quarter is left for others, so it does not grow again, also when there is more.
        let fixed = scarce.chunk_size(4 * LEAST_CHUNK, most);
        assert_eq!(scarce.chunk_size(fixed, most), fixed);
    }
}
