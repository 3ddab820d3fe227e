//! Reads a stream ahead of whoever takes its content, batch by batch, within the memory that is
//! free.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use raic_storage::Reserved;
use tokio_util::task::AbortOnDropHandle;

use crate::{Result, format::GROUP, read::StreamReader};

/// Bytes of a large batch, which is fetched at once. Smaller ones cost more requests; larger ones
/// leave less to do while others are under way, and cost memory.
const BATCH: u64 = 4 << 20;
/// Bytes of a small batch: the first one, and those for which there is little memory.
const SMALL_BATCH: u64 = 512 << 10;
/// Most bytes of a piece. A reader that stops in the middle of a segment holds no other one.
const PIECE: usize = 32 << 10;
/// Batches that are fetched at once, including the batch that the reader takes.
pub(crate) const AHEAD: usize = 5;

/// A task that reads a batch of segments. Dropping it stops the fetches.
type Fetching = AbortOnDropHandle<Result<Vec<Bytes>>>;

/// A batch that has come, and the memory that it takes, until the reader has taken all of it.
struct Batch {
    pieces: std::vec::IntoIter<Bytes>,
    _reserved: Option<Reserved>,
}

/// The batches of a stream on their way to the reader, in their order.
///
/// **Invariant:** what is on its way has memory reserved, but for a single segment. So a read
/// always goes on, and any number of readers hold little.
pub(crate) struct ReadAhead {
    reader: Arc<StreamReader>,
    range: Range<u64>,
    batches: Batches,
    under_way: FuturesOrdered<BoxFuture<'static, Result<Batch>>>,
    current: Option<Batch>,
}

impl ReadAhead {
    /// Begins at the first byte of `range`, which is not empty.
    pub(crate) fn new(reader: Arc<StreamReader>, range: Range<u64>) -> Self {
        let segment_size = reader.segment_size();
        Self {
            batches: Batches {
                segment_size,
                at: range.start / segment_size,
                end: range.end.div_ceil(segment_size),
                is_first: true,
            },
            range,
            reader,
            under_way: FuturesOrdered::new(),
            current: None,
        }
    }

    /// Returns the next piece; `None` after the last.
    ///
    /// # Errors
    /// Fails with that of the batch that cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let piece = self.current.as_mut().and_then(|batch| batch.pieces.next());
            if piece.is_none() {
                self.current = None;
            }
            self.fill();
            if piece.is_some() {
                return Ok(piece);
            }
            match self.under_way.next().await {
                None => return Ok(None),
                Some(batch) => self.current = Some(batch?),
            }
        }
    }

    /// Begins to fetch as many batches as may be under way.
    fn fill(&mut self) {
        let size = self.reader.segment_size();
        let budget = self.reader.budget();
        // A batch holds its blocks, and then its content beside them.
        let reserve =
            |segments: &Range<u64>| budget.try_reserve((segments.end - segments.start) * size * 2);
        loop {
            let held = self.under_way.len() + usize::from(self.current.is_some());
            let batch = match held {
                0 => self.batches.next(reserve),
                held if held < AHEAD => self.batches.next_if_reserved(reserve),
                _ => None,
            };
            let Some((segments, reserved)) = batch else {
                return;
            };
            let fetched = self.fetch(segments, reserved);
            self.under_way.push_back(fetched.boxed());
        }
    }

    fn fetch(
        &self,
        segments: Range<u64>,
        reserved: Option<Reserved>,
    ) -> impl Future<Output = Result<Batch>> + Send + 'static {
        let size = self.reader.segment_size();
        let (reader, range) = (self.reader.clone(), self.range.clone());
        // A task of its own ends each fetch even if the reader pauses. Otherwise a paused reader
        // would hold places of its clouds, and they would seem slow.
        let fetching = Fetching::new(tokio::spawn(reader.read(segments.clone())));
        async move {
            let contents = fetching.await??.into_iter().zip(segments);
            let pieces = contents.flat_map(|(content, segment)| {
                let offset = segment * size;
                let length = content.len() as u64;
                let start = range.start.saturating_sub(offset).min(length) as usize;
                let end = (range.end - offset).min(length) as usize;
                let starts = (start..end).step_by(PIECE);
                starts.map(move |at| content.slice(at..end.min(at + PIECE)))
            });
            Ok(Batch {
                pieces: pieces.collect::<Vec<_>>().into_iter(),
                _reserved: reserved,
            })
        }
    }
}

/// Cuts segments into batches that cross no group. The first batch is small, for a quick first
/// byte. A batch is also small if little memory is free, and a single segment if none is. That one
/// reserves nothing, so that a read always goes on.
struct Batches {
    segment_size: u64,
    at: u64,
    end: u64,
    is_first: bool,
}

impl Batches {
    /// Returns segments of at most `bytes` from here on, or a single one.
    fn cut(&self, bytes: u64) -> Option<Range<u64>> {
        let most = (bytes / self.segment_size).max(1);
        let of_group = (self.at / GROUP + 1) * GROUP;
        let end = self.end.min(self.at + most).min(of_group);
        (self.at < end).then_some(self.at..end)
    }

    /// Returns the next batch: as large as can be reserved, or else a single segment.
    fn next<T>(
        &mut self,
        reserve: impl Fn(&Range<u64>) -> Option<T>,
    ) -> Option<(Range<u64>, Option<T>)> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let mut batch = match is_first {
            true => None,
            false => self.reserved(BATCH, &reserve),
        };
        batch = batch.or_else(|| self.reserved(SMALL_BATCH, &reserve));
        batch.or_else(|| {
            let segment = self.cut(0)?;
            self.at = segment.end;
            Some((segment, None))
        })
    }

    /// Returns the next batch if it can be reserved.
    fn next_if_reserved<T>(
        &mut self,
        reserve: impl Fn(&Range<u64>) -> Option<T>,
    ) -> Option<(Range<u64>, Option<T>)> {
        self.reserved(BATCH, &reserve)
    }

    fn reserved<T>(
        &mut self,
        most: u64,
        reserve: &impl Fn(&Range<u64>) -> Option<T>,
    ) -> Option<(Range<u64>, Option<T>)> {
        let batch = self.cut(most)?;
        let reserved = reserve(&batch)?;
        self.at = batch.end;
        Some((batch, Some(reserved)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_every_segment_once_and_cross_no_group_whatever_memory_there_is() {
        for (first, end) in [(0, 1), (0, 5000), (250, 280), (255, 257), (7, 7)] {
            for room in [0, 1, 5, usize::MAX] {
                let left = std::cell::Cell::new(room);
                let may_be_large =
                    |_: &Range<u64>| left.get().checked_sub(1).map(|fewer| left.set(fewer));
                let mut batches = Batches {
                    segment_size: 128 << 10,
                    at: first,
                    end,
                    is_first: true,
                };
                let batches: Vec<_> = std::iter::from_fn(|| batches.next(may_be_large)).collect();
                let covered: Vec<u64> = batches
                    .iter()
                    .flat_map(|(batch, _)| batch.clone())
                    .collect();
                assert_eq!(covered, (first..end).collect::<Vec<_>>());
                assert!(
                    batches
                        .iter()
                        .all(|(b, _)| b.start / GROUP == (b.end - 1) / GROUP)
                );
                assert!(
                    batches
                        .iter()
                        .all(|(b, reserved)| reserved.is_some() || b.end - b.start == 1)
                );
            }
        }
    }
}
