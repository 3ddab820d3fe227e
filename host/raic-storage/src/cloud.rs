//! The `cloud` backend: a share is cut into chunks, objects of one size that any provider can hold.
//!
//! `object.rs` has the objects' names. The size of chunk 0 is the share's chunk size; only the last
//! chunk is smaller. An array's shares are written from the beginning to the end; uploads by offset
//! wait in the spool for what fills a chunk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_cloud::{
    ByteRange, Cloud, CloudError, ErrorKind, MAX_PAGE, ObjectInfo, ObjectKey, Operation, WriteMode,
    collect_body, delete_all,
};
use tokio::sync::OnceCell;

use crate::{
    Backend, ChunkBudget, Found, FoundShare, Generation, MAX_OBJECT, MutableShare, MutableWrite,
    RangeSet, Recovered, Result, ShareNum, ShareStream, ShareUpload, ShareWriter, Slots, Span,
    Spool, StorageError, StorageIndex,
    chunk_upload::ChunkUpload,
    chunk_writer::{ChunkWriter, IN_FLIGHT},
    clock::millis,
    listing::Pages,
    mutable::MutableShares,
    object::{ShareObject, parse_key, shareset_prefix},
    read_ahead::{gathered, read_ahead},
};

/// The chunk size of new shares: large enough that requests cost little, small enough to hold a few
/// in memory.
pub const DEFAULT_CHUNK_SIZE: usize = 4 << 20;

/// What a cloud must take in one object: a commit of a large mutable share has so many bytes.
const LEAST_OBJECT: usize = 1 << 20;
/// All sizes of new shares' chunks are multiples of it: see [`Backend::chunk_unit`].
pub(crate) const CHUNK_UNIT: usize = 64 << 10;

/// The chunk size of an array of `n` shares: what its n writers hold together stays what eight
/// would hold.
pub fn chunk_size_for(n: usize) -> usize {
    DEFAULT_CHUNK_SIZE * 8 / n.max(8) / CHUNK_UNIT * CHUNK_UNIT
}

/// What the `n` writers of an array's stream hold together, at most, in bytes; each writes a share
/// of `share_length`.
pub fn held_by_writers(n: usize, share_length: u64) -> u64 {
    let at_most = chunk_size_for(n) * (IN_FLIGHT + 1);
    n as u64 * share_length.min(at_most as u64)
}

/// Chunks of one read that are asked for at once; their bytes wait in the connection.
const READ_AHEAD: usize = 2;
/// Objects of one shareset, at most: 256 shares of the largest size, in the smallest chunks, have
/// fewer.
const MOST_OF_SHARESET: u64 = 20_000_000;
/// Objects beside the shares, at most: owners, runs and keyrings.
const MOST_OBJECTS: u64 = 10_000;
/// Shares whose chunk size is remembered.
const REMEMBERED: usize = 4096;

/// A cloud, and the object that proves that it is the container it was.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) cloud: Arc<dyn Cloud>,
    // A std lock: held while a name is copied.
    owner: Mutex<Option<String>>,
    is_writable: AtomicBool,
}

impl Container {
    /// Whether something may be written there to settle what was left open.
    pub(crate) fn require_writable(&self) -> Result<()> {
        if self.is_writable.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (backend, reason) = (
            self.cloud.name().to_owned(),
            "nothing may be written there now".to_owned(),
        );
        Err(StorageError::ReadOnly { backend, reason })
    }

    /// After a not-found: whether it counts. Some services answer the same for a container that is
    /// not there.
    pub(crate) async fn proves_absence(&self) -> Result<()> {
        let owner = self
            .owner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(owner) = owner else { return Ok(()) };
        let key = object_key(&*self.cloud, &owner, Operation::Head)?;
        match self.cloud.head(&key).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind == ErrorKind::NotFound => Err(StorageError::ReadOnly {
                backend: self.cloud.name().to_owned(),
                reason: format!(
                    "its owner object {key} is not there, so nothing that is missing counts as gone"
                ),
            }),
            Err(e) => Err(e.into()),
        }
    }
}

fn object_key(cloud: &dyn Cloud, name: &str, operation: Operation) -> Result<ObjectKey> {
    let key = ObjectKey::new(format!("raic/{name}"));
    Ok(key.map_err(|e| {
        CloudError::new(ErrorKind::Internal, cloud.name(), operation, e.to_string())
    })?)
}

/// Keeps shares as chunks in a cloud.
#[derive(Debug)]
pub struct CloudBackend {
    cloud: Arc<dyn Cloud>,
    container: Arc<Container>,
    budget: ChunkBudget,
    chunk_size: usize,
    /// The same, or less where the cloud takes no object so large; known once the cloud has said
    /// so.
    fitting: OnceCell<usize>,
    mutable: Option<Arc<MutableShares>>,
    spool: Option<Spool>,
    /// Chunk sizes of shares read lately: a share's never changes.
    sizes: Mutex<HashMap<(StorageIndex, ShareNum), u64>>,
}

impl CloudBackend {
    /// Shares in `cloud`, new ones in chunks of `chunk_size` bytes (1 or more). What parts of
    /// uploads and changes of mutable shares hold comes from `budget`; who writes whole shares
    /// reserves for all of them. It takes whole shares only, until it gets
    /// [`CloudBackend::with_slots`] and [`CloudBackend::with_spool`].
    pub fn new(cloud: Arc<dyn Cloud>, chunk_size: usize, budget: ChunkBudget) -> Self {
        let container = Arc::new(Container {
            cloud: cloud.clone(),
            owner: Mutex::default(),
            is_writable: AtomicBool::new(true),
        });
        Self {
            cloud,
            container,
            budget,
            chunk_size: chunk_size.max(1),
            fitting: OnceCell::new(),
            mutable: None,
            spool: None,
            sizes: Mutex::default(),
        }
    }

    /// With a place for the versions of mutable shares, whose chunks have `chunk_size` bytes
    /// ([`crate::MUTABLE_CHUNK_SIZE`] unless there is a reason).
    #[must_use]
    pub fn with_slots(mut self, slots: Slots, chunk_size: u32) -> Self {
        let (container, budget) = (self.container.clone(), self.budget.clone());
        self.mutable = Some(Arc::new(MutableShares {
            container,
            budget,
            slots,
            chunk_size: chunk_size.max(1),
        }));
        self
    }

    /// With a place where parts of uploads wait.
    #[must_use]
    pub fn with_spool(mut self, spool: Spool) -> Self {
        self.spool = Some(spool);
        self
    }

    /// Bytes of a new share's chunks.
    async fn new_chunk_size(&self) -> Result<usize> {
        let fitting = self.fitting.get_or_try_init(async || {
            let described = self.cloud.describe().await?;
            let largest = described.iter().find(|(name, _)| name == "max-object-size");
            let largest: Option<usize> = largest.and_then(|(_, bytes)| bytes.parse().ok());
            if let Some(largest) = largest.filter(|largest| *largest < LEAST_OBJECT) {
                let why = format!(
                    "takes objects of {largest} bytes at most, and must take {LEAST_OBJECT}; correct \
                     what it is told (`max-object-size`), or the limit of a proxy before it"
                );
                let error = CloudError::new(
                    ErrorKind::Misconfigured,
                    self.cloud.name(),
                    Operation::Describe,
                    why,
                );
                return Err(error);
            }
            Ok::<_, CloudError>(match largest {
                Some(largest) if largest < self.chunk_size => largest / CHUNK_UNIT * CHUNK_UNIT,
                _ => self.chunk_size,
            })
        });
        Ok(*fitting.await?)
    }

    fn unsupported(&self, what: &str) -> StorageError {
        StorageError::Unusable {
            reason: format!(
                "cloud {:?} was opened without a place for {what}",
                self.cloud.name()
            ),
        }
    }

    fn mutable_shares(&self) -> Result<&Arc<MutableShares>> {
        self.mutable
            .as_ref()
            .ok_or_else(|| self.unsupported("mutable shares"))
    }

    /// The chunk size of a share: what was remembered, or the size of its chunk 0.
    async fn chunk_size_of(&self, index: StorageIndex, share: ShareNum) -> Result<u64> {
        let lock = || self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(size) = lock().get(&(index, share)).copied() {
            return Ok(size);
        }
        let head = self
            .cloud
            .head(&ShareObject::Chunk(0).key(index, share))
            .await;
        let size = head.map_err(|e| self.absent(e, index, share))?.size;
        let mut sizes = lock();
        if sizes.len() >= REMEMBERED {
            sizes.clear();
        }
        sizes.insert((index, share), size);
        Ok(size)
    }

    /// What was remembered may be what a cloud had while something was wrong with it.
    fn forget_size(&self, index: StorageIndex, share: ShareNum) {
        self.sizes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(index, share));
    }

    fn absent(&self, e: CloudError, index: StorageIndex, share: ShareNum) -> StorageError {
        let backend = self.cloud.name().to_owned();
        match e.kind {
            ErrorKind::NotFound => StorageError::NotFound {
                backend,
                index,
                share,
            },
            ErrorKind::RangeNotSatisfiable => StorageError::Short {
                backend,
                index,
                share,
            },
            _ => e.into(),
        }
    }

    /// Hands `each` the objects of a shareset, page by page, with share and chunk number.
    async fn for_each_page<F: Future<Output = Result<()>>>(
        &self,
        index: StorageIndex,
        mut each: impl FnMut(Vec<(ShareNum, ShareObject, ObjectKey)>) -> F,
    ) -> Result<()> {
        let prefix = shareset_prefix(index);
        let mut pages = Pages::new(&self.cloud, prefix.clone(), MOST_OF_SHARESET).await?;
        while let Some(page) = pages.next().await? {
            let named = page.into_iter().filter_map(|entry| {
                let (share, object) =
                    ShareObject::parse(entry.key.as_str().strip_prefix(&prefix)?)?;
                Some((share, object, entry.key))
            });
            each(named.collect()).await?;
        }
        Ok(())
    }
}

/// What a walk gathered of one share.
#[derive(Default)]
struct Gathered {
    chunks: BTreeSet<u64>,
    chunk_size: u64,
    bytes: u64,
    commits: BTreeSet<Generation>,
    mutable_chunks: BTreeSet<(u64, Generation)>,
    newest: Option<SystemTime>,
}

impl Gathered {
    fn add(&mut self, object: ShareObject, info: &ObjectInfo) {
        match object {
            ShareObject::Chunk(number) => {
                // A listing may name an object twice, and say anything of its size.
                if self.chunks.insert(number) {
                    self.bytes = self.bytes.saturating_add(info.size);
                }
                if number == 0 {
                    self.chunk_size = info.size;
                }
            }
            ShareObject::MutableChunk(number, generation) => {
                self.mutable_chunks.insert((number, generation));
            }
            ShareObject::Commit(generation) => {
                self.commits.insert(generation);
            }
        }
        self.newest = self.newest.max(info.last_modified);
    }

    fn found(self) -> Found {
        if self.commits.is_empty() && self.mutable_chunks.is_empty() {
            let chunks = self
                .chunks
                .into_iter()
                .map(|number| number..number.saturating_add(1))
                .collect();
            Found::Immutable {
                chunks,
                chunk_size: self.chunk_size,
                bytes: self.bytes,
            }
        } else {
            Found::Mutable {
                commits: self.commits,
                chunks: self.mutable_chunks,
            }
        }
    }
}

#[async_trait]
impl Backend for CloudBackend {
    fn name(&self) -> &str {
        self.cloud.name()
    }

    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>> {
        let chunk_size = self.new_chunk_size().await?;
        Ok(Box::new(ChunkWriter::new(
            self.cloud.clone(),
            index,
            share,
            chunk_size,
        )))
    }

    async fn upload(
        &self,
        index: StorageIndex,
        share: ShareNum,
        length: u64,
        received: RangeSet,
    ) -> Result<Box<dyn ShareUpload>> {
        let spool = self
            .spool
            .as_ref()
            .ok_or_else(|| self.unsupported("uploads by offset"))?;
        let name = Spool::name(self.name(), index, share);
        if received.ranges().is_empty() {
            // What lies there under that name is of another upload.
            spool.discard(name.clone()).await?;
        }
        // An upload keeps the chunk size it began with, whatever the configuration says today.
        let file = spool
            .file(name, self.new_chunk_size().await? as u64, &received)
            .await?;
        let chunk_size = file.chunk_size();
        let (cloud, budget) = (self.cloud.clone(), self.budget.clone());
        // What was sent before a restart is not known to have been answered.
        let may_land = !received.ranges().is_empty();
        Ok(Box::new(ChunkUpload {
            cloud,
            budget,
            index,
            share,
            chunk_size,
            length,
            received,
            file,
            may_land,
        }))
    }

    async fn read(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let size = self.chunk_size_of(index, share).await?;
        if size == 0 {
            return Err(StorageError::Short {
                backend: self.name().to_owned(),
                index,
                share,
            });
        }
        let pieces = (range.start / size..=(range.end - 1) / size).map(move |chunk| {
            let start = range.start.max(chunk * size) - chunk * size;
            let end = range.end.min((chunk + 1) * size) - chunk * size;
            (chunk, start, end - start)
        });
        let cloud = self.cloud.clone();
        let open = move |(chunk, start, length): (u64, u64, u64)| {
            let cloud = cloud.clone();
            async move {
                let key = ShareObject::Chunk(chunk).key(index, share);
                let backend = cloud.name().to_owned();
                let found = match ByteRange::new(start, length) {
                    Some(range) => cloud.get(&key, Some(range), None).await,
                    None => {
                        return Err(StorageError::Short {
                            backend,
                            index,
                            share,
                        });
                    }
                };
                let object = found.map_err(|e| match e.kind {
                    ErrorKind::NotFound => StorageError::NotFound {
                        backend: backend.clone(),
                        index,
                        share,
                    },
                    ErrorKind::RangeNotSatisfiable => StorageError::Short {
                        backend: backend.clone(),
                        index,
                        share,
                    },
                    _ => e.into(),
                })?;
                if object.info.size < start + length {
                    return Err(StorageError::Short {
                        backend,
                        index,
                        share,
                    });
                }
                gathered(object.body.map_err(StorageError::from)).await
            }
        };
        // The next chunk is asked for while one is taken. The first is awaited, so that a share
        // that is not there is an error at once.
        let read = read_ahead(stream::iter(pieces).map(open), READ_AHEAD).await;
        read.inspect_err(|_| self.forget_size(index, share))
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        let found = Mutex::new(BTreeSet::new());
        self.for_each_page(index, async |page| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend(page.into_iter().map(|(share, ..)| share));
            Ok(())
        })
        .await?;
        Ok(found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_iter()
            .collect())
    }

    async fn remove(
        &self,
        index: StorageIndex,
        share: ShareNum,
        objects: Option<u64>,
    ) -> Result<()> {
        // Chunk 0 first: without it the share is not there, whatever follows.
        match objects {
            Some(objects) => {
                self.remove_chunks(index, share, 0..objects).await?;
            }
            None => {
                // Chunks go out in order: one more may have been sent than was answered.
                let sent = match &self.spool {
                    Some(spool) => spool
                        .end(Spool::name(self.name(), index, share))
                        .await?
                        .unwrap_or(0),
                    None => 0,
                };
                self.remove_chunks(index, share, 0..sent.saturating_add(1))
                    .await?;
                self.for_each_page(index, async |mut page| {
                    page.retain(|(of, object, _)| {
                        *of == share && matches!(object, ShareObject::Chunk(_))
                    });
                    let keys: Vec<_> = page.into_iter().map(|(_, _, key)| key).collect();
                    Ok(delete_all(&*self.cloud, &keys).await?)
                })
                .await?;
            }
        }
        self.forget_size(index, share);
        Ok(())
    }

    async fn remove_chunks(
        &self,
        index: StorageIndex,
        share: ShareNum,
        chunks: Range<u64>,
    ) -> Result<()> {
        let mut keys = chunks
            .map(|chunk| ShareObject::Chunk(chunk).key(index, share))
            .peekable();
        // The first chunk by itself: without it the share is not there, whatever follows.
        if let Some(first) = keys.next() {
            self.cloud.delete(&first, None).await?;
        }
        while keys.peek().is_some() {
            let some: Vec<_> = keys.by_ref().take(MAX_PAGE as usize).collect();
            delete_all(&*self.cloud, &some).await?;
        }
        Ok(())
    }

    async fn chunk_length(
        &self,
        index: StorageIndex,
        share: ShareNum,
        chunk: u64,
    ) -> Result<Option<u64>> {
        match self
            .cloud
            .head(&ShareObject::Chunk(chunk).key(index, share))
            .await
        {
            Ok(info) => Ok(Some(info.size)),
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.container.proves_absence().await.map(|()| None)
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn mutable(&self, index: StorageIndex, share: ShareNum) -> Result<Option<MutableShare>> {
        self.mutable_shares()?.state((index, share)).await
    }

    async fn read_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        self.mutable_shares()?.read((index, share), range).await
    }

    async fn write_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        write: MutableWrite,
    ) -> Result<u64> {
        self.mutable_shares()?.write((index, share), write).await
    }

    async fn delete_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<()> {
        self.mutable_shares()?.delete((index, share)).await
    }

    async fn tidy_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<bool> {
        self.mutable_shares()?.tidy((index, share)).await
    }

    async fn untidy_mutable(&self, limit: u32) -> Result<Vec<(StorageIndex, ShareNum)>> {
        match &self.mutable {
            Some(mutable) => mutable.slots.untidy(limit).await,
            None => Ok(Vec::new()),
        }
    }

    async fn recover_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<Recovered> {
        self.mutable_shares()?.recover((index, share), found).await
    }

    async fn forget_unlisted(
        &self,
        span: Span,
        listed: BTreeSet<(StorageIndex, ShareNum)>,
    ) -> Result<()> {
        match &self.mutable {
            Some(mutable) => mutable.forget_unlisted(span, &listed).await,
            None => Ok(()),
        }
    }

    async fn give_up_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<()> {
        self.mutable_shares()?.give_up((index, share), found).await
    }

    async fn scan(&self, span: Span, most: u64) -> Result<Vec<FoundShare>> {
        let below = match span {
            Span::Whole => "shares/".to_owned(),
            Span::Below(prefix) => format!("shares/{prefix}/"),
        };
        let mut shares: BTreeMap<(StorageIndex, ShareNum), Gathered> = BTreeMap::new();
        let mut pages = Pages::new(&self.cloud, below, most).await?;
        while let Some(page) = pages.next().await? {
            for entry in &page {
                if let Some((index, share, object)) = parse_key(&entry.key)
                    && span.holds(index)
                {
                    shares
                        .entry((index, share))
                        .or_default()
                        .add(object, &entry.info);
                }
            }
        }
        let found = shares.into_iter().map(|((index, share), gathered)| {
            let newest = gathered
                .newest
                .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            FoundShare {
                index,
                share,
                newest_ms: newest.map(millis),
                found: gathered.found(),
            }
        });
        Ok(found.collect())
    }

    async fn lacks_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<Option<String>> {
        self.mutable_shares()?.lacks((index, share), found).await
    }

    async fn forget_upload(&self, index: StorageIndex, share: ShareNum) -> Result<()> {
        match &self.spool {
            Some(spool) => spool.discard(Spool::name(self.name(), index, share)).await,
            None => Ok(()),
        }
    }

    fn chunk_unit(&self) -> u64 {
        // Tests have small ones.
        if self.chunk_size.is_multiple_of(CHUNK_UNIT) {
            CHUNK_UNIT as u64
        } else {
            self.chunk_size as u64
        }
    }

    fn deletions_may_land(&self) -> bool {
        true
    }

    fn set_writable(&self, is_writable: bool) {
        self.container
            .is_writable
            .store(is_writable, Ordering::Relaxed);
    }

    fn set_owner(&self, object: Option<String>) {
        *self
            .container
            .owner
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = object;
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut pages = Pages::new(&self.cloud, format!("raic/{prefix}"), MOST_OBJECTS).await?;
        while let Some(page) = pages.next().await? {
            names.extend(
                page.iter().filter_map(|entry| {
                    entry.key.as_str().strip_prefix("raic/").map(str::to_owned)
                }),
            );
        }
        Ok(names)
    }

    async fn remove_object(&self, name: &str) -> Result<()> {
        Ok(self
            .cloud
            .delete(&object_key(&*self.cloud, name, Operation::Delete)?, None)
            .await?)
    }

    async fn available_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        let key = object_key(&*self.cloud, name, Operation::Put)?;
        self.cloud
            .put(&key, content.into(), WriteMode::Overwrite)
            .await?;
        Ok(())
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        let key = object_key(&*self.cloud, name, Operation::Get)?;
        match self.cloud.get(&key, None, None).await {
            Ok(object) => {
                let longest = usize::try_from(MAX_OBJECT).unwrap_or(usize::MAX);
                Ok(Some(
                    collect_body(self.cloud.name(), object.body, longest).await?,
                ))
            }
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn probe(&self) -> Result<()> {
        Ok(self.cloud.probe().await?)
    }
}
