//! Reads a file extent by extent, and a stream from any k clouds. A cloud that fails or lies is
//! replaced by another.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt as _, Stream, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesOrdered, FuturesUnordered},
};
use parking_lot::Mutex;
use raic_storage::{Hold, Reserved, ShareId, ShareNum};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ArrayError, Fault, Result, Transfer,
    array::Inner,
    catalog::{Extent, Placement, Stream as CatalogStream},
    codec::Codec,
    encoder::decode,
    format::{GROUP, Header, Role, proof},
    health::Work,
    reader::Reader,
    sealer::Sealer,
    share_reader::ShareReader,
};

/// The content of a file that is being read. Every piece was verified.
pub type Content = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Bytes of a large batch, which is fetched at once: with 2-of-4, one chunk of each of two clouds.
const BATCH: u64 = 8 << 20;
/// Bytes of a small batch: the first one, and those for which there is little memory.
const SMALL_BATCH: u64 = 512 << 10;
/// Most bytes of a piece. A reader that stops in the middle of a segment holds no other one.
const PIECE: usize = 32 << 10;
/// Batches that are fetched at once, including the batch that the reader takes.
const AHEAD: usize = 3;
/// Segments of a short range: their seals alone say whether they are right, so no hashes are read.
const SHORT: u64 = 4;
/// Hedging delay before any block has been timed: after it, another cloud is asked too.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long a read waits for clouds of which nothing comes before it fails, beside the time that
/// what it asked for takes on a line of [`SLOWEST`].
const GIVE_UP: Duration = Duration::from_secs(90);
/// Bytes a second of the slowest line for which a read waits.
const SLOWEST: u64 = 64 << 10;
/// Shortest hedging delay, however fast the clouds have been so far.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);
/// Longest hedging delay, however slow they were.
const MOST_PATIENCE: Duration = Duration::from_secs(5);
/// The longest hedging delay, as a multiple of the time that the slowest of the k fastest clouds is
/// expected to take: a cloud that is asked is at most so much slower.
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

/// A source that has not answered.
struct Asked {
    at: Instant,
    /// Whether it counts as late already.
    is_late: bool,
}

impl Asked {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            is_late: false,
        }
    }
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
    /// Holds that keep the file's shares from being deleted meanwhile.
    _reading: Held,
}

/// The extents that a read needs, and their holds.
type Held = Arc<Vec<(Extent, Hold)>>;

impl Inner {
    /// Reads the bytes of `range` of a file. The holds keep the shares of all extents while the
    /// content lives. A reader that stops gives back what is held for it.
    pub(crate) fn read_extents(
        self: Arc<Self>,
        extents: Vec<(Extent, Hold)>,
        range: Range<u64>,
        transfer: Transfer,
    ) -> Content {
        let held = Held::new(extents);
        let open = move |from: u64| {
            let range = range.start.saturating_add(from)..range.end;
            self.clone()
                .read_part(held.clone(), range, transfer.clone())
        };
        Reader::new(open).boxed()
    }

    /// Reads the bytes of `range` of a file, one extent after the other.
    fn read_part(self: Arc<Self>, held: Held, range: Range<u64>, transfer: Transfer) -> Content {
        let extents = held.clone();
        let parts = (0..held.len()).filter_map(move |number| {
            let (extent, _) = held.get(number)?;
            let start = range.start.max(extent.offset);
            let end = range.end.min(extent.offset + extent.length);
            let part = start.checked_sub(extent.offset)?..end.saturating_sub(extent.offset);
            (start < end).then(|| (extent.stream.clone(), part))
        });
        let parts: Vec<_> = parts.collect();
        stream::iter(parts)
            .map(move |(stream, part)| {
                let (this, held) = (self.clone(), extents.clone());
                this.read_stream(stream, held, part, transfer.clone())
            })
            .try_flatten()
            .boxed()
    }

    /// Reads the bytes of `range` of a stream.
    ///
    /// # Errors
    /// Fails with [`ArrayError::WrongKey`] if the keyring does not open the stream's key.
    fn read_stream(
        self: Arc<Self>,
        stream: CatalogStream,
        reading: Held,
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
        let pipeline = Pipeline {
            batches: Batches {
                segment_size: size,
                at: range.start / size,
                end: range.end.div_ceil(size),
                is_first: true,
            },
            range,
            reader,
            under_way: FuturesOrdered::new(),
            current: None,
        };
        let pieces = stream::try_unfold(pipeline, async |mut pipeline| {
            Ok(pipeline.next().await?.map(|piece| (piece, pipeline)))
        });
        Ok(pieces.boxed())
    }
}

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
struct Pipeline {
    reader: Arc<StreamReader>,
    range: Range<u64>,
    batches: Batches,
    under_way: FuturesOrdered<BoxFuture<'static, Result<Batch>>>,
    current: Option<Batch>,
}

impl Pipeline {
    async fn next(&mut self) -> Result<Option<Bytes>> {
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
        let size = u64::from(self.reader.stream.layout.segment_size);
        let budget = self.reader.inner.read_budget.clone();
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
        let size = u64::from(self.reader.stream.layout.segment_size);
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
        let mut failed = Vec::new();
        let mut fetching = FuturesUnordered::new();
        // The sources that have not answered, and when they were asked.
        let mut waiting = BTreeMap::new();
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
                waiting.insert(source, Asked::now());
                fetching.push(self.fetch(source, segments.clone(), check));
            }
            let patience = self.patience(&waiting, &segments);
            let fetched = match tokio::time::timeout(patience, fetching.next()).await {
                Ok(fetched) => fetched,
                Err(_) => {
                    // Late blocks are still welcome, and another cloud is asked beside them.
                    self.are_late(&mut waiting, &segments);
                    let mut next = untried.next();
                    let mut came_meanwhile = None;
                    if next.is_none() {
                        // A cloud that failed may be back before a cloud that hangs answers.
                        tokio::select! {
                            again = self.that_answer_again(&mut failed) => {
                                untried = again.into_iter();
                                next = untried.next();
                            }
                            fetched = fetching.next(), if !fetching.is_empty() => {
                                came_meanwhile = fetched;
                            }
                        }
                    }
                    if let Some(source) = next {
                        waiting.insert(source, Asked::now());
                        fetching.push(self.fetch(source, segments.clone(), check));
                    }
                    let now = self.transfer.bytes();
                    if now > came {
                        (came, since) = (now, Instant::now());
                    }
                    let silent = since.elapsed();
                    match came_meanwhile {
                        Some(fetched) => Some(fetched),
                        None if silent < self.longest_silence(&segments) => continue,
                        None => {
                            for source in waiting.into_keys() {
                                let source = &self.sources[source];
                                let (cloud, seconds) = (source.reader.cloud(), silent.as_secs());
                                let text = format!("cloud {cloud:?}: nothing came for {seconds} s");
                                self.fault(source, text);
                            }
                            return Err(self.unreadable(segments.start, fewest));
                        }
                    }
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

    /// Returns the hedging delay: after it, another cloud is asked too. Nearly all blocks of the
    /// clouds that were asked have come within it, and it follows the pace of the k fastest clouds.
    fn patience(&self, waiting: &BTreeMap<usize, Asked>, segments: &Range<u64>) -> Duration {
        let (paces, bytes) = (&self.inner.health.paces, self.bytes_of(segments));
        let clouds = self.sources.iter().map(|source| source.reader.cloud());
        let expected = clouds.filter_map(|cloud| paces.expected(cloud, bytes));
        let mut expected: Vec<Duration> = expected.collect();
        expected.sort_unstable();
        let k = usize::from(self.stream.layout.geometry.k);
        let most = expected.get(k - 1).map(|time| *time * TIMES_EXPECTED);
        let asked = waiting
            .keys()
            .map(|source| self.sources[*source].reader.cloud());
        let late = asked.filter_map(|cloud| paces.late_after(cloud, bytes));
        let slowest = most.map(|most| late.max().map_or(most, |late| late.min(most)));
        slowest.map_or(FIRST_PATIENCE, |slowest| {
            slowest.clamp(LEAST_PATIENCE, MOST_PATIENCE)
        })
    }

    /// How long nothing may come for a batch before the read fails. Batches that are read at once
    /// share the line, and what comes of one is known when it is whole.
    fn longest_silence(&self, segments: &Range<u64>) -> Duration {
        let k = u64::from(self.stream.layout.geometry.k);
        let under_way = self.bytes_of(segments) * k * AHEAD as u64;
        GIVE_UP + Duration::from_secs(under_way / SLOWEST)
    }

    /// Records that sources have not given the blocks of some segments yet.
    fn are_late(&self, waiting: &mut BTreeMap<usize, Asked>, segments: &Range<u64>) {
        let (health, bytes) = (&self.inner.health, self.bytes_of(segments));
        for (source, asked) in waiting {
            let waited = asked.at.elapsed();
            let cloud = self.sources[*source].reader.cloud();
            // If another comes first, this read is given up and was still as slow as this.
            if !std::mem::replace(&mut asked.is_late, true) {
                health.paces.took_longer(cloud, bytes, waited);
            }
            health.paces.is_late(cloud, bytes, waited);
            if waited >= VERY_LATE {
                health.is_late(cloud);
            }
        }
    }

    /// Returns the numbers of the sources in the order in which they are tried. Shares that are not
    /// lost come first, among them those with the fewest faults, then those whose cloud did not
    /// fail lately, then those of the fastest clouds, and among clouds about as fast those of the
    /// cheapest. Data comes before parity, because data
    /// needs no decoding.
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
                source.reader.server().cost(),
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
