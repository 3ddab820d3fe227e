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
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, FuturesUnordered},
};
use parking_lot::Mutex;
use raic_storage::{ChunkBudget, Hold, ShareId, ShareNum};

use crate::{
    ArrayError, Fault, Result, Transfer,
    array::Inner,
    catalog::{Extent, Placement, Stream as CatalogStream},
    codec::Codec,
    encoder::decode,
    format::{Header, Role, proof},
    health::Work,
    read_ahead::{AHEAD, ReadAhead},
    reader::Reader,
    sealer::Sealer,
    share_reader::ShareReader,
};

/// The content of a file that is being read. Every piece was verified.
pub type Content = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

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
    /// All of a segment by its seal, which needs nothing that is not read anyway.
    Seals,
    /// Each by its hash, which names the liar if a seal does not open.
    Blocks,
}

/// A stream that is being read.
pub(crate) struct StreamReader {
    inner: Arc<Inner>,
    stream: CatalogStream,
    /// Code of the stream's own geometry, which may differ from the array's geometry today.
    codec: Codec,
    sealer: Sealer,
    sources: Vec<Source>,
    /// What has come of the whole file so far.
    transfer: Transfer,
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
        let reader = Arc::new(StreamReader {
            inner: self,
            stream,
            codec,
            sealer,
            sources,
            transfer,
            _reading: reading,
        });
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let pieces = stream::try_unfold(ReadAhead::new(reader, range), async |mut ahead| {
            Ok(ahead.next().await?.map(|piece| (piece, ahead)))
        });
        Ok(pieces.boxed())
    }
}

impl StreamReader {
    /// Bytes of a segment, but for the last.
    pub(crate) fn segment_size(&self) -> u64 {
        u64::from(self.stream.layout.segment_size)
    }

    /// What all reads together may hold.
    pub(crate) fn budget(&self) -> ChunkBudget {
        self.inner.read_budget.clone()
    }

    /// Reads the contents of some segments of one group. The seals say whether they are right; only
    /// if one does not open, hashes are read, and tell which cloud lied.
    pub(crate) async fn read(self: Arc<Self>, segments: Range<u64>) -> Result<Vec<Bytes>> {
        let mut check = Check::Seals;
        let k = usize::from(self.stream.layout.geometry.k);
        let count = (segments.end - segments.start) as usize;
        let mut valid: Vec<Vec<(ShareNum, Bytes)>> = vec![Vec::new(); count];
        let mut untried = self.by_preference(&segments).into_iter();
        let mut failed = Vec::new();
        let mut fetching = FuturesUnordered::new();
        // The sources that have not answered, and when they were asked.
        let mut waiting = BTreeMap::new();
        // The sources of the shares that were fetched.
        let mut gave = BTreeMap::new();
        let mut tried_again = false;
        let (mut came, mut since) = (self.transfer.bytes(), Instant::now());
        loop {
            let fewest = valid.iter().map(Vec::len).min().unwrap_or(k);
            if fewest >= k {
                // Nobody waits for the others any longer.
                fetching.clear();
                waiting.clear();
                match self.open(valid.clone(), segments.clone()).await {
                    Err(ArrayError::Sealed { .. }) if check == Check::Seals => {
                        check = Check::Blocks;
                        let judged = self.judge(&mut valid, &gave, &segments).await;
                        let mut others = self.by_preference(&segments);
                        others.retain(|source| !judged.contains(source));
                        // They are among the others, and asked once more.
                        failed.clear();
                        untried = others.into_iter();
                        continue;
                    }
                    opened => return opened,
                }
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
            let Some((number, fetched)) = fetched else {
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
            waiting.remove(&number);
            if fetched.is_err() {
                failed.push(number);
            }
            let source = &self.sources[number];
            match fetched {
                Ok(blocks) => {
                    let wrong = blocks.iter().filter(|block| block.is_none()).count();
                    let share = source.reader.share();
                    gave.entry(share).or_insert(number);
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
    }

    /// Makes the contents of segments from k blocks of each.
    async fn open(
        self: &Arc<Self>,
        blocks: Vec<Vec<(ShareNum, Bytes)>>,
        segments: Range<u64>,
    ) -> Result<Vec<Bytes>> {
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
            blocks.iter().zip(segments).map(open).collect()
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// Judges the blocks of segments of which a seal does not open. What is not as it was stored is
    /// taken out, and its source blamed. Returns the sources of which all is right.
    async fn judge(
        &self,
        fetched: &mut [Vec<(ShareNum, Bytes)>],
        gave: &BTreeMap<ShareNum, usize>,
        segments: &Range<u64>,
    ) -> Vec<usize> {
        let mut right = Vec::new();
        for (share, number) in gave {
            let source = &self.sources[*number];
            let of_share = fetched.iter().zip(segments.clone());
            let of_share = of_share.filter_map(|(blocks, segment)| {
                let (_, block) = blocks.iter().find(|(of, _)| of == share)?;
                Some((segment, block.clone()))
            });
            let blocks: Vec<_> = of_share.collect();
            let numbers: Vec<u64> = blocks.iter().map(|(segment, _)| *segment).collect();
            // A cloud that hangs stops no read: its blocks are read from others then.
            let judged = tokio::time::timeout(MOST_PATIENCE, source.reader.judge(blocks));
            let judged = judged.await.unwrap_or_else(|_| {
                let (cloud, seconds) = (source.reader.cloud(), MOST_PATIENCE.as_secs());
                Err(format!("cloud {cloud:?}: no hashes came for {seconds} s"))
            });
            let fault = match judged {
                Err(fault) => {
                    for blocks in &mut *fetched {
                        blocks.retain(|(of, _)| of != share);
                    }
                    Some(fault)
                }
                Ok(judged) => {
                    let wrong = numbers.iter().zip(&judged);
                    let wrong = wrong.filter(|(_, block)| block.is_none());
                    let wrong: Vec<u64> = wrong.map(|(segment, _)| *segment).collect();
                    for segment in &wrong {
                        let place = (segment - segments.start) as usize;
                        fetched[place].retain(|(of, _)| of != share);
                    }
                    let what = format!("{} blocks are not those that were stored", wrong.len());
                    (!wrong.is_empty()).then(|| source.reader.lie(&what))
                }
            };
            match fault {
                Some(fault) => self.fault(source, fault),
                None => right.push(*number),
            }
        }
        right
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
    /// cheapest. Data comes before parity, because data needs no decoding.
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
