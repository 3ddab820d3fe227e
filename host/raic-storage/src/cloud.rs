//! The `cloud` backend: a share is cut into chunks, objects of one size that any provider can hold.
//!
//! `object.rs` has the objects' names. The size of chunk 0 is the share's chunk size; only the last
//! chunk may be smaller. An array's shares are written from the beginning to the end. The bytes of
//! an upload by offset wait in the spool until they fill a chunk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use raic_cloud::{
    ByteRange, Cloud, CloudError, ErrorKind, MAX_PAGE, ObjectInfo, ObjectKey, Operation, WriteMode,
    collect_body, delete_all,
};
use tokio::sync::OnceCell;

use crate::{
    Backend, ChunkBudget, Container, Found, FoundShare, Generation, MAX_OBJECT, Moment,
    MutableStore, RangeSet, Result, ShareId, ShareNum, ShareStore, ShareStream, ShareUpload,
    ShareWriter, Slots, Span, Spool, StorageError, StorageIndex, Stored, StreamMemory,
    chunk_upload::ChunkUpload,
    chunk_writer::ChunkWriter,
    listing::Pages,
    mutable::MutableShares,
    object::{ShareObject, parse_key, shareset_prefix},
    read_ahead::{gathered, read_ahead},
};

/// The chunk size of new shares, in bytes. It is large enough that requests cost little, and small
/// enough to hold a few chunks in memory.
pub const DEFAULT_CHUNK_SIZE: usize = 4 << 20;

/// Smallest permitted limit of a cloud for the size of an object, in bytes. A commit of a large
/// mutable share needs it.
const LEAST_OBJECT: usize = 1 << 20;
/// Unit of the chunk sizes of new shares, in bytes: see [`ShareStore::chunk_unit`].
pub(crate) const CHUNK_UNIT: usize = 64 << 10;

/// Returns the chunk size for an array of `n` shares, in bytes. It keeps the memory of the n
/// writers at what eight writers of [`DEFAULT_CHUNK_SIZE`] hold.
pub fn chunk_size_for(n: usize) -> usize {
    DEFAULT_CHUNK_SIZE * 8 / n.max(8) / CHUNK_UNIT * CHUNK_UNIT
}

/// Chunks of one read that are requested at once. Their bytes wait in memory.
const READ_AHEAD: usize = 2;
/// Most objects that a listing of one shareset may have. 256 shares of the largest size in the
/// smallest chunks have fewer.
const MOST_OF_SHARESET: u64 = 20_000_000;
/// Most objects beside the shares that a listing may have: owners, runs and keyrings.
const MOST_OBJECTS: u64 = 10_000;
/// Most shares whose chunk size is remembered.
const REMEMBERED: usize = 4096;

/// A cloud, with the name of the owner object that proves that its container is still the same.
#[derive(Debug)]
pub(crate) struct OwnedCloud {
    pub(crate) cloud: Arc<dyn Cloud>,
    // A blocking lock: held while a name is copied.
    owner: Mutex<Option<String>>,
    is_writable: AtomicBool,
}

impl OwnedCloud {
    /// Requires that the container may be written to, to settle a write whose outcome is unknown.
    pub(crate) fn require_writable(&self) -> Result<()> {
        if self.is_writable.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (backend, reason) = (
            self.cloud.name().to_owned(),
            "nothing may be written to it now".to_owned(),
        );
        Err(StorageError::ReadOnly { backend, reason })
    }

    /// Requires that a not-found counts: the owner object can be read. Some services answer
    /// not-found also for a container that does not exist.
    pub(crate) async fn proves_absence(&self) -> Result<()> {
        let owner = self.owner.lock().clone();
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
    container: Arc<OwnedCloud>,
    budget: ChunkBudget,
    chunk_size: usize,
    /// The chunk size of new shares, at most the largest object that the cloud takes. It is known
    /// once the cloud has described itself.
    fitting: OnceCell<usize>,
    mutable: Option<MutableShares>,
    spool: Option<Spool>,
    /// Chunk sizes of shares that were read lately. The chunk size of a share never changes.
    sizes: Mutex<HashMap<ShareId, u64>>,
}

impl CloudBackend {
    /// Keeps shares in `cloud`, new ones in chunks of `chunk_size` bytes (1 or more). Parts of
    /// uploads by offset and changes of mutable shares take their memory from `budget`. A caller
    /// that writes whole shares brings the memory ([`StreamMemory`]). The backend takes only whole
    /// shares until it gets [`CloudBackend::with_slots`] and [`CloudBackend::with_spool`].
    pub fn new(cloud: Arc<dyn Cloud>, chunk_size: usize, budget: ChunkBudget) -> Self {
        let container = Arc::new(OwnedCloud {
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

    /// Adds a place for the versions of mutable shares, so that the backend keeps such shares.
    /// Their chunks have `chunk_size` bytes ([`crate::MUTABLE_CHUNK_SIZE`], except in tests).
    #[must_use]
    pub fn with_slots(mut self, slots: Slots, chunk_size: u32) -> Self {
        let (container, budget) = (self.container.clone(), self.budget.clone());
        self.mutable = Some(MutableShares {
            container,
            budget,
            slots,
            chunk_size: chunk_size.max(1),
        });
        self
    }

    /// Adds a spool where parts of uploads wait, so that the backend takes uploads by offset.
    #[must_use]
    pub fn with_spool(mut self, spool: Spool) -> Self {
        self.spool = Some(spool);
        self
    }

    /// Returns the chunk size of new shares, in bytes.
    async fn new_chunk_size(&self) -> Result<usize> {
        let fitting = self.fitting.get_or_try_init(async || {
            let described = self.cloud.describe().await?;
            let largest = described.iter().find(|(name, _)| name == "max-object-size");
            let largest: Option<usize> = largest.and_then(|(_, bytes)| bytes.parse().ok());
            if let Some(largest) = largest.filter(|largest| *largest < LEAST_OBJECT) {
                let why = format!(
                    "takes objects of {largest} bytes at most, and must take {LEAST_OBJECT}; \
                     correct its setting of `max-object-size`, or the limit of a proxy before it"
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

    fn unsupported(&self, what: &'static str) -> StorageError {
        StorageError::Unsupported {
            backend: self.cloud.name().to_owned(),
            what,
        }
    }

    /// Returns the chunk size of a share, in bytes: as remembered, or the size of its chunk 0.
    async fn chunk_size_of(&self, id: ShareId) -> Result<u64> {
        let remembered = self.sizes.lock().get(&id).copied();
        if let Some(size) = remembered {
            return Ok(size);
        }
        let head = self.cloud.head(&ShareObject::Chunk(0).key(id)).await;
        let size = head.map_err(|e| self.absent(e, id))?.size;
        self.remember_size(id, size);
        Ok(size)
    }

    fn remember_size(&self, id: ShareId, size: u64) {
        let mut sizes = self.sizes.lock();
        if sizes.len() >= REMEMBERED {
            sizes.clear();
        }
        sizes.insert(id, size);
    }

    /// Forgets the remembered chunk size of a share. It may come from a time when the cloud was at
    /// fault.
    fn forget_size(&self, id: ShareId) {
        self.sizes.lock().remove(&id);
    }

    fn absent(&self, e: CloudError, id: ShareId) -> StorageError {
        let backend = self.cloud.name().to_owned();
        match e.kind {
            ErrorKind::NotFound => StorageError::NotFound { backend, id },
            ErrorKind::RangeNotSatisfiable => StorageError::Short { backend, id },
            _ => e.into(),
        }
    }

    /// Lists the objects of a shareset page by page. `each` gets them with their share numbers and
    /// keys.
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

/// The objects of one share that a walk has found so far.
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
                // A listing may name an object twice, and may report any size.
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
impl ShareStore for CloudBackend {
    async fn create(&self, id: ShareId, memory: Arc<StreamMemory>) -> Result<Box<dyn ShareWriter>> {
        let most = self.new_chunk_size().await?;
        let cloud = self.cloud.clone();
        Ok(Box::new(ChunkWriter::new(cloud, id, most, memory)))
    }

    async fn upload(
        &self,
        id: ShareId,
        length: u64,
        received: RangeSet,
    ) -> Result<Box<dyn ShareUpload>> {
        let spool = self
            .spool
            .as_ref()
            .ok_or_else(|| self.unsupported("uploads by offset"))?;
        let name = Spool::name(self.name(), id);
        if received.ranges().is_empty() {
            // A file of that name belongs to another upload.
            spool.discard(name.clone()).await?;
        }
        // An upload keeps the chunk size that it began with, whatever the configuration is today.
        let file = spool
            .file(name, self.new_chunk_size().await? as u64, &received)
            .await?;
        let chunk_size = file.chunk_size();
        let (cloud, budget) = (self.cloud.clone(), self.budget.clone());
        // Requests from before a restart may not have been answered.
        let may_land = !received.ranges().is_empty();
        Ok(Box::new(ChunkUpload {
            cloud,
            budget,
            id,
            chunk_size,
            length,
            received,
            file,
            may_land,
        }))
    }

    fn remember(&self, id: ShareId, stored: Stored) {
        if let Some(size) = chunk_size_by(stored, self.chunk_unit()) {
            self.remember_size(id, size);
        }
    }

    async fn read(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let size = self.chunk_size_of(id).await?;
        if size == 0 {
            return Err(StorageError::Short {
                backend: self.name().to_owned(),
                id,
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
                let key = ShareObject::Chunk(chunk).key(id);
                let backend = cloud.name().to_owned();
                let response = match ByteRange::new(start, length) {
                    Some(range) => cloud.get(&key, Some(range), None).await,
                    None => {
                        return Err(StorageError::Short { backend, id });
                    }
                };
                let object = response.map_err(|e| match e.kind {
                    ErrorKind::NotFound => StorageError::NotFound {
                        backend: backend.clone(),
                        id,
                    },
                    ErrorKind::RangeNotSatisfiable => StorageError::Short {
                        backend: backend.clone(),
                        id,
                    },
                    _ => e.into(),
                })?;
                if object.info.size < start + length {
                    return Err(StorageError::Short { backend, id });
                }
                gathered(object.body.map_err(StorageError::from)).await
            }
        };
        // The next chunk is requested while one is taken. The first is awaited, so that a share
        // that does not exist is an error at once.
        let read = read_ahead(stream::iter(pieces).map(open), READ_AHEAD).await;
        read.inspect_err(|_| self.forget_size(id))
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        let shares = Mutex::new(BTreeSet::new());
        self.for_each_page(index, async |page| {
            let mut shares = shares.lock();
            shares.extend(page.into_iter().map(|(share, ..)| share));
            Ok(())
        })
        .await?;
        Ok(shares.into_inner().into_iter().collect())
    }

    async fn remove(&self, id: ShareId, objects: Option<u64>) -> Result<()> {
        let ShareId { index, share } = id;
        // Chunk 0 goes first: without it the share does not exist, whatever follows.
        match objects {
            Some(objects) => {
                self.remove_chunks(id, 0..objects).await?;
            }
            None => {
                // Chunks are sent in order. One more may have been sent than was answered.
                let sent = match &self.spool {
                    Some(spool) => spool.end(Spool::name(self.name(), id)).await?.unwrap_or(0),
                    None => 0,
                };
                self.remove_chunks(id, 0..sent.saturating_add(1)).await?;
                self.for_each_page(index, async |mut page| {
                    page.retain(|(number, object, _)| {
                        *number == share && matches!(object, ShareObject::Chunk(_))
                    });
                    let keys: Vec<_> = page.into_iter().map(|(_, _, key)| key).collect();
                    Ok(delete_all(&*self.cloud, &keys).await?)
                })
                .await?;
            }
        }
        self.forget_size(id);
        Ok(())
    }

    async fn remove_chunks(&self, id: ShareId, chunks: Range<u64>) -> Result<()> {
        let mut keys = chunks
            .map(|chunk| ShareObject::Chunk(chunk).key(id))
            .peekable();
        // The first chunk goes by itself: without chunk 0 the share does not exist, whatever
        // follows.
        if let Some(first) = keys.next() {
            self.cloud.delete(&first, None).await?;
        }
        while keys.peek().is_some() {
            let some: Vec<_> = keys.by_ref().take(MAX_PAGE as usize).collect();
            delete_all(&*self.cloud, &some).await?;
        }
        Ok(())
    }

    async fn chunk_length(&self, id: ShareId, chunk: u64) -> Result<Option<u64>> {
        match self.cloud.head(&ShareObject::Chunk(chunk).key(id)).await {
            Ok(info) => Ok(Some(info.size)),
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.container.proves_absence().await.map(|()| None)
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn forget_upload(&self, id: ShareId) -> Result<()> {
        match &self.spool {
            Some(spool) => spool.discard(Spool::name(self.name(), id)).await,
            None => Ok(()),
        }
    }

    fn chunk_unit(&self) -> u64 {
        // Tests use small chunk sizes.
        if self.chunk_size.is_multiple_of(CHUNK_UNIT) {
            CHUNK_UNIT as u64
        } else {
            self.chunk_size as u64
        }
    }

    fn deletions_may_land(&self) -> bool {
        true
    }
}

/// Returns the chunk size of a share that has these objects, if only one is possible: a single
/// object is the whole share, and the chunks of several are alike but for the last, and multiples
/// of `unit` bytes.
fn chunk_size_by(stored: Stored, unit: u64) -> Option<u64> {
    let Stored { objects, bytes } = stored;
    match objects {
        _ if bytes < objects.max(1) => None,
        0 => None,
        1 => Some(bytes),
        _ => {
            let least = bytes.div_ceil(objects).next_multiple_of(unit);
            let most = (bytes - 1) / (objects - 1);
            (least <= most && least + unit > most).then_some(least)
        }
    }
}

#[async_trait]
impl Container for CloudBackend {
    async fn scan(&self, span: Span, most: u64) -> Result<Vec<FoundShare>> {
        let below = match span {
            Span::Whole => "shares/".to_owned(),
            Span::Below(prefix) => format!("shares/{prefix}/"),
        };
        let mut shares: BTreeMap<ShareId, Gathered> = BTreeMap::new();
        let mut pages = Pages::new(&self.cloud, below, most).await?;
        while let Some(page) = pages.next().await? {
            for entry in &page {
                if let Some((id, object)) = parse_key(&entry.key)
                    && span.holds(id.index)
                {
                    shares.entry(id).or_default().add(object, &entry.info);
                }
            }
        }
        let found = shares.into_iter().map(|(id, gathered)| FoundShare {
            id,
            newest: gathered.newest.and_then(Moment::of),
            found: gathered.found(),
        });
        Ok(found.collect())
    }

    fn set_writable(&self, is_writable: bool) {
        self.container
            .is_writable
            .store(is_writable, Ordering::Relaxed);
    }

    fn set_owner(&self, object: Option<String>) {
        *self.container.owner.lock() = object;
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

    async fn probe(&self) -> Result<()> {
        Ok(self.cloud.probe().await?)
    }
}

impl Backend for CloudBackend {
    fn name(&self) -> &str {
        self.cloud.name()
    }

    fn mutable_store(&self) -> Option<&dyn MutableStore> {
        self.mutable
            .as_ref()
            .map(|store| store as &dyn MutableStore)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size is told only if no other is possible: otherwise it must be asked for.
    #[test]
    fn a_chunk_size_follows_from_objects_and_bytes_if_only_one_does() {
        let unit = CHUNK_UNIT as u64;
        for size in [unit, 4 * unit, 64 * unit] {
            for objects in 1..40 {
                for rest in [1, unit - 1, unit, size] {
                    let bytes = (objects - 1) * size + rest.min(size);
                    match chunk_size_by(Stored { objects, bytes }, unit) {
                        Some(told) if objects == 1 => assert_eq!(told, bytes),
                        Some(told) => assert_eq!(told, size, "{objects} {bytes}"),
                        None => assert!(size > unit, "{objects} {bytes}"),
                    }
                }
            }
        }
        let (objects, bytes) = (128, 128 * 64 * unit - 7);
        let many = Stored { objects, bytes };
        assert_eq!(chunk_size_by(many, unit), Some(64 * unit));
        let none = Stored {
            objects: 0,
            bytes: 0,
        };
        assert_eq!(chunk_size_by(none, unit), None);
    }
}
