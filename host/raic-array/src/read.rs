//! Reads a file extent by extent, and a stream from any k clouds. A cloud that fails or lies is
//! replaced by another.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, FuturesUnordered},
};
use parking_lot::Mutex;
use raic_storage::{Hold, ShareId, ShareNum};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ArrayError, Fault, Result, Transfer,
    array::Inner,
    catalog::{Extent, Placement, Stream as CatalogStream},
    codec::Codec,
    encoder::decode,
    format::{GROUP, Header, Role, proof},
    health::Work,
    sealer::Sealer,
    share_reader::ShareReader,
};

/// The content of a file that is being read. Every piece was verified.
pub type Content = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Segments of a large batch, which are fetched at once: about one chunk of each of k clouds.
const BATCH: u64 = 64;
/// Segments of a small batch: the first one, and those for which no memory is free.
const FIRST_BATCH: u64 = 8;
/// Batches that are fetched at once, including the batch that the reader takes.
const AHEAD: usize = 3;
/// Segments of a short range: their seals alone say whether they are right, so no hashes are read.
const SHORT: u64 = 4;
/// Hedging delay before any block has been timed: after it, another cloud is asked too.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long a read waits for clouds of which nothing comes before it fails.
const GIVE_UP: Duration = Duration::from_secs(90);
/// Shortest hedging delay, however fast the clouds have been so far.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);
/// Longest hedging delay, however slow they were.
const MOST_PATIENCE: Duration = Duration::from_secs(5);
/// Hedging delay as a multiple of the time that the slowest of the k fastest clouds is expected to
/// take.
const TIMES_EXPECTED: u32 = 4;
/// A cloud that is late by this is asked after the others for a while.
const VERY_LATE: Duration = Duration::from_secs(2);

/// One share as a source of blocks, while its stream is read.
struct Source {
    reader: ShareReader,
    /// Whether the share counts as lost. It is asked last then.
    is_lost: bool,
    faults: Mutex<Vec<String>>,
}

/// How blocks are known to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Each by its hash.
    Blocks,
    /// All of a segment by its seal. Only if it does not open, hashes are read: they name the liar.
    Seals,
}

/// A stream that is being read.
struct StreamReader {
    inner: Arc<Inner>,
    stream: CatalogStream,
    /// Code of the stream's own geometry, which may differ from the array's geometry today.
    codec: Codec,
    sealer: Sealer,
    sources: Vec<Source>,
    /// What has come of the whole file so far.
    transfer: Transfer,
    check: Check,
    /// Hold that keeps the shares from being deleted meanwhile.
    _reading: Hold,
}

impl Inner {
    /// Reads the bytes of `range` of a file, one extent after the other. The hold keeps the shares
    /// of all of them.
    pub(crate) fn read_extents(
        self: Arc<Self>,
        extents: Vec<(Extent, Hold)>,
        range: Range<u64>,
        transfer: Transfer,
    ) -> Content {
        let parts = extents.into_iter().filter_map(move |(extent, hold)| {
            let start = range.start.max(extent.offset);
            let end = range.end.min(extent.offset + extent.length);
            (start < end).then(|| {
                let part = start - extent.offset..end - extent.offset;
                (extent.stream, hold, part)
            })
        });
        let parts: Vec<_> = parts.collect();
        stream::iter(parts)
            .map(move |(stream, hold, part)| {
                self.clone()
                    .read_stream(stream, hold, part, transfer.clone())
            })
            .try_flatten()
            .boxed()
    }

    /// Reads the bytes of `range` of a stream.
    ///
    /// # Errors
    /// Fails with [`ArrayError::WrongKey`] if the keyring does not open the stream's key.
    pub(crate) fn read_stream(
        self: Arc<Self>,
        stream: CatalogStream,
        reading: Hold,
        range: Range<u64>,
        transfer: Transfer,
    ) -> Result<Content> {
        let header = Header {
            array: self.keyring.array,
            index: stream.index,
            share: ShareNum(0),
            geometry: stream.layout.geometry,
            role: Role::File,
            segment_size: stream.layout.segment_size,
            may_ignore: 0,
        };
        let proof = proof(&header, &stream.layout, &stream.roots);
        let key = self.keyring.unwrap(stream.index, &stream.key, &proof)?;
        let sealer = Sealer::new(&key, &self.keyring.array, stream.index, Role::File);
        let geometry = stream.layout.geometry;
        let codec = match self.classes.codec(geometry) {
            Some(codec) => codec.clone(),
            None => Codec::new(geometry)?,
        };
        let placed = stream.placements.iter();
        let placed = placed.filter(|placed| placed.share.0 < geometry.n);
        let sources = placed.filter_map(|placed| {
            let server = self.servers.iter().find(|s| s.name() == placed.cloud)?;
            let header = Header {
                share: placed.share,
                ..header
            };
            let root = stream.roots.get(usize::from(placed.share.0)).copied();
            let (server, transfer) = (server.clone(), transfer.clone());
            let id = ShareId {
                index: header.index,
                share: header.share,
            };
            server.remember(id, placed.stored);
            Some(Source {
                reader: ShareReader::new(server, header, stream.layout, root, transfer),
                is_lost: placed.is_lost,
                faults: Mutex::default(),
            })
        });
        let sources = sources.collect();
        let size = u64::from(stream.layout.segment_size);
        let check = match range.end.div_ceil(size) - range.start / size <= SHORT {
            true => Check::Seals,
            false => Check::Blocks,
        };
        let reader = Arc::new(StreamReader {
            inner: self,
            stream,
            codec,
            sealer,
            sources,
            transfer,
            check,
            _reading: reading,
        });
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let budget = reader.inner.budget.clone();
        // A batch is large only if there is room: it holds its blocks and then its content beside
        // them.
        let may_be_large = move |segments: &Range<u64>| {
            budget.try_reserve((segments.end - segments.start) * size * 2)
        };
        let batches = Batches {
            at: range.start / size,
            end: range.end.div_ceil(size),
            is_first: true,
        };
        let pieces = stream::unfold(
            (batches, may_be_large),
            async move |(mut batches, may_be_large)| {
                Some((batches.next(&may_be_large)?, (batches, may_be_large)))
            },
        );
        let pieces = pieces.map(move |(batch, reserved)| {
            let (reader, range) = (reader.clone(), range.clone());
            // A task of its own ends each fetch even if the reader pauses. Otherwise a paused
            // reader would hold places of its clouds, and they would seem slow.
            let fetching = Fetching::new(tokio::spawn(reader.read(batch.clone())));
            async move {
                let segments = fetching.await??;
                let cut = segments
                    .into_iter()
                    .zip(batch)
                    .map(move |(content, segment)| {
                        let offset = segment * size;
                        let start = range.start.saturating_sub(offset).min(content.len() as u64);
                        let end = (range.end - offset).min(content.len() as u64);
                        Ok(content.slice(start as usize..end as usize))
                    });
                let cut = cut.collect::<Vec<_>>().into_iter();
                // The memory is held until the reader has taken the batch's last segment.
                Ok::<_, ArrayError>(stream::unfold(
                    (cut, reserved),
                    async |(mut cut, reserved)| Some((cut.next()?, (cut, reserved))),
                ))
            }
        });
        Ok(pieces.buffered(AHEAD).try_flatten().boxed())
    }
}

/// A task that reads a batch of segments. Dropping it stops the fetches.
type Fetching = AbortOnDropHandle<Result<Vec<Bytes>>>;

/// Cuts segments into batches that cross no group. The first batch is small, for a quick first
/// byte. A batch is also small if no memory is free. A small batch reserves no memory, so that a
/// read always goes on.
struct Batches {
    at: u64,
    end: u64,
    is_first: bool,
}

impl Batches {
    fn next<T>(
        &mut self,
        may_be_large: impl Fn(&Range<u64>) -> Option<T>,
    ) -> Option<(Range<u64>, Option<T>)> {
        if self.at >= self.end {
            return None;
        }
        let batch = |most| {
            self.at
                ..self
                    .end
                    .min(self.at + most)
                    .min((self.at / GROUP + 1) * GROUP)
        };
        let large = batch(BATCH);
        let allowed = if self.is_first {
            None
        } else {
            may_be_large(&large)
        };
        let batch = if allowed.is_some() {
            large
        } else {
            batch(FIRST_BATCH)
        };
        (self.at, self.is_first) = (batch.end, false);
        Some((batch, allowed))
    }
}

impl StreamReader {
    /// Reads the contents of some segments of one group.
    async fn read(self: Arc<Self>, segments: Range<u64>) -> Result<Vec<Bytes>> {
        if self.check == Check::Seals {
            match self
                .clone()
                .read_checked(segments.clone(), Check::Seals)
                .await
            {
                Err(ArrayError::Sealed { .. }) => {}
                read => return read,
            }
        }
        self.read_checked(segments, Check::Blocks).await
    }

    async fn read_checked(
        self: Arc<Self>,
        segments: Range<u64>,
        check: Check,
    ) -> Result<Vec<Bytes>> {
        let k = usize::from(self.stream.layout.geometry.k);
        let count = (segments.end - segments.start) as usize;
        let mut valid: Vec<Vec<(ShareNum, Bytes)>> = vec![Vec::new(); count];
        let mut untried = self.by_preference(&segments).into_iter();
        let began = Instant::now();
        let mut failed = Vec::new();
        let mut fetching = FuturesUnordered::new();
        let mut waiting = BTreeSet::new();
        let mut tried_again = false;
        let (mut came, mut since) = (self.transfer.bytes(), Instant::now());
        loop {
            let fewest = valid.iter().map(Vec::len).min().unwrap_or(k);
            if fewest >= k {
                break;
            }
            while fewest + fetching.len() < k
                && let Some(source) = untried.next()
            {
                waiting.insert(source);
                fetching.push(self.fetch(source, segments.clone(), check));
            }
            let patience = self.patience(&segments);
            let fetched = match tokio::time::timeout(patience, fetching.next()).await {
                Ok(fetched) => fetched,
                Err(_) => {
                    // Late blocks are still welcome, and another cloud is asked beside them.
                    self.are_late(&waiting, &segments, began.elapsed());
                    let mut next = untried.next();
                    if next.is_none() {
                        // A cloud that failed may be back before a cloud that hangs answers.
                        untried = self.that_answer_again(&mut failed).await.into_iter();
                        next = untried.next();
                    }
                    if let Some(source) = next {
                        waiting.insert(source);
                        fetching.push(self.fetch(source, segments.clone(), check));
                    }
                    let now = self.transfer.bytes();
                    if now > came {
                        (came, since) = (now, Instant::now());
                    }
                    if since.elapsed() < GIVE_UP {
                        continue;
                    }
                    for source in waiting {
                        let source = &self.sources[source];
                        let (cloud, seconds) = (source.reader.cloud(), GIVE_UP.as_secs());
                        let text = format!("cloud {cloud:?}: nothing came for {seconds} s");
                        self.fault(source, text);
                    }
                    return Err(self.unreadable(segments.start, fewest));
                }
            };
            let Some((source, fetched)) = fetched else {
                // Before the segment is given up, the clouds that failed are probed: they may be
                // back.
                if !std::mem::replace(&mut tried_again, true) {
                    untried = self.that_answer_again(&mut failed).await.into_iter();
                    if untried.len() > 0 {
                        continue;
                    }
                }
                let place = valid
                    .iter()
                    .position(|blocks| blocks.len() == fewest)
                    .unwrap_or(0);
                return Err(self.unreadable(segments.start + place as u64, fewest));
            };
            waiting.remove(&source);
            if fetched.is_err() {
                failed.push(source);
            }
            let source = &self.sources[source];
            match fetched {
                Ok(blocks) => {
                    let wrong = blocks.iter().filter(|block| block.is_none()).count();
                    let share = source.reader.share();
                    for (valid, block) in valid.iter_mut().zip(blocks) {
                        // A share may lie on two clouds. It counts once.
                        if valid.iter().all(|(other, _)| *other != share) {
                            valid.extend(block.map(|block| (share, block)));
                        }
                    }
                    if wrong > 0 {
                        let what = format!("{wrong} blocks are not those that were stored");
                        self.fault(source, source.reader.lie(&what));
                    }
                }
                Err(fault) => self.fault(source, fault),
            }
        }
        drop(fetching);
        let reader = self.clone();
        let work = move || {
            let StreamReader {
                codec,
                stream,
                sealer,
                ..
            } = &*reader;
            let open = |(blocks, segment): (&Vec<_>, u64)| {
                decode(codec, sealer, &stream.layout, stream.index, segment, blocks)
            };
            valid.iter().zip(segments).map(open).collect()
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// Takes the sources whose clouds answer a probe now out of `failed`, and returns them.
    async fn that_answer_again(&self, failed: &mut Vec<usize>) -> Vec<usize> {
        let servers = failed
            .iter()
            .map(|source| self.sources[*source].reader.server())
            .collect();
        let answering = self.inner.that_answer(servers).await;
        let answers = |source: &usize| {
            answering
                .iter()
                .any(|cloud| cloud == self.sources[*source].reader.cloud())
        };
        failed.extract_if(.., |source| answers(source)).collect()
    }

    /// Returns the bytes that a source has of some segments.
    fn bytes_of(&self, segments: &Range<u64>) -> u64 {
        let first = self.sources.first();
        let extent = first.map(|source| source.reader.extent_of(segments));
        extent.map_or(0, |extent| extent.end - extent.start)
    }

    /// Returns the hedging delay: after it, another cloud is asked too. It follows the pace of the
    /// k fastest clouds.
    fn patience(&self, segments: &Range<u64>) -> Duration {
        let (paces, bytes) = (&self.inner.health.paces, self.bytes_of(segments));
        let clouds = self.sources.iter().map(|source| source.reader.cloud());
        let expected = clouds.filter_map(|cloud| paces.expected(cloud, bytes));
        let mut expected: Vec<Duration> = expected.collect();
        expected.sort_unstable();
        let k = usize::from(self.stream.layout.geometry.k);
        let slowest = expected.get(k - 1).map(|time| *time * TIMES_EXPECTED);
        slowest.map_or(FIRST_PATIENCE, |slowest| {
            slowest.clamp(LEAST_PATIENCE, MOST_PATIENCE)
        })
    }

    /// Records that sources have not given the blocks of some segments yet.
    fn are_late(&self, waiting: &BTreeSet<usize>, segments: &Range<u64>, waited: Duration) {
        let (health, bytes) = (&self.inner.health, self.bytes_of(segments));
        for source in waiting {
            let cloud = self.sources[*source].reader.cloud();
            health.paces.is_late(cloud, bytes, waited);
            if waited >= VERY_LATE {
                health.is_late(cloud);
            }
        }
    }

    /// Returns the numbers of the sources in the order in which they are tried. Shares that are not
    /// lost come first, among them those with the fewest faults, then those whose cloud did not fail
    /// lately, and then those of the fastest clouds. Data comes before parity, because data needs no
    /// decoding.
    fn by_preference(&self, segments: &Range<u64>) -> Vec<usize> {
        let (health, bytes) = (&self.inner.health, self.bytes_of(segments));
        let mut order: Vec<usize> = (0..self.sources.len()).collect();
        order.sort_by_cached_key(|i| {
            let source = &self.sources[*i];
            let faults = source.faults.lock().len();
            (
                source.is_lost,
                faults,
                health.failed_lately(source.reader.cloud()),
                health.paces.step(source.reader.cloud(), bytes),
                source.reader.share(),
            )
        });
        order
    }

    /// Fetches a share's blocks of some segments. A block with a wrong hash is `None`.
    async fn fetch(
        &self,
        number: usize,
        segments: Range<u64>,
        check: Check,
    ) -> (usize, Result<Vec<Option<Bytes>>, String>) {
        let (reader, began) = (&self.sources[number].reader, Instant::now());
        let bytes = self.bytes_of(&segments);
        let fetched = match check {
            Check::Blocks => reader.blocks(segments).await,
            Check::Seals => {
                let blocks = reader.unverified(segments).await;
                blocks.map(|blocks| blocks.into_iter().map(|(_, block)| Some(block)).collect())
            }
        };
        if fetched.is_ok() {
            let paces = &self.inner.health.paces;
            paces.gave(reader.cloud(), bytes, began.elapsed());
        }
        (number, fetched)
    }

    /// Records a fault of a source and its cloud.
    fn fault(&self, source: &Source, text: String) {
        tracing::warn!("{text}; reading from another cloud");
        self.inner
            .health
            .failed(source.reader.cloud(), Work::Reading, &text);
        let mut faults = source.faults.lock();
        if faults.len() < 16 {
            faults.push(text);
        }
    }

    /// Makes the error for a segment that cannot be read, with the last fault of each share.
    fn unreadable(&self, segment: u64, valid: usize) -> ArrayError {
        let mut faults: Vec<Fault> = Vec::new();
        let known: HashMap<ShareNum, &Source> =
            self.sources.iter().map(|s| (s.reader.share(), s)).collect();
        for share in (0..self.stream.layout.geometry.n).map(ShareNum) {
            let Some(source) = known.get(&share) else {
                let placed = self
                    .stream
                    .placements
                    .iter()
                    .find(|placed| placed.share == share);
                let text = match placed {
                    Some(Placement { cloud, .. }) => {
                        format!("cloud {cloud:?}: it is no longer configured")
                    }
                    None => format!("share {share} was never stored"),
                };
                faults.push(Fault {
                    cloud: placed
                        .map(|placed| placed.cloud.clone())
                        .unwrap_or_default(),
                    text,
                });
                continue;
            };
            if let Some(text) = source.faults.lock().last().cloned() {
                faults.push(Fault {
                    cloud: source.reader.cloud().to_owned(),
                    text,
                });
            }
        }
        ArrayError::Unreadable {
            segment,
            valid,
            k: self.stream.layout.geometry.k,
            faults,
        }
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
                        .all(|(b, large)| large.is_some() || b.end - b.start <= FIRST_BATCH)
                );
            }
        }
    }
}
