//! Backends that keep shares in memory ([`MemoryBackend`]) or nowhere ([`NullBackend`]).

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;

use crate::{
    Backend, Container, EnablerHash, Found, FoundShare, MutableShare, MutableStore, MutableWrite,
    RangeSet, Recovered, Result, ShareId, ShareNum, ShareStore, ShareStream, ShareUpload,
    ShareWriter, Span, StorageError, StorageIndex, Stored, StreamMemory,
};

type Shares = Arc<Mutex<BTreeMap<ShareId, Bytes>>>;
type Uploads = Arc<Mutex<BTreeMap<ShareId, BytesMut>>>;

/// Bytes that a [`MemoryBackend`] takes, all shares together.
const CAPACITY: u64 = 1 << 30;

/// Keeps shares in memory, for tests: up to 1 GiB.
#[derive(Debug)]
pub struct MemoryBackend {
    name: String,
    shares: Shares,
    uploads: Uploads,
    mutable: Mutex<BTreeMap<ShareId, (EnablerHash, Vec<u8>)>>,
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryBackend {
    /// Makes an empty backend of that name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            shares: Shares::default(),
            uploads: Uploads::default(),
            mutable: Mutex::default(),
            objects: Mutex::default(),
        }
    }

    /// Bytes of all shares.
    fn used(&self) -> u64 {
        let shares: usize = self.shares.lock().values().map(Bytes::len).sum();
        let uploads: usize = self.uploads.lock().values().map(BytesMut::len).sum();
        let mutable: usize = self
            .mutable
            .lock()
            .values()
            .map(|(_, bytes)| bytes.len())
            .sum();
        (shares + uploads + mutable) as u64
    }
}

struct MemoryWriter {
    shares: Shares,
    id: ShareId,
    bytes: BytesMut,
}

#[async_trait]
impl ShareWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Stored> {
        let bytes = self.bytes.len() as u64;
        self.shares.lock().insert(self.id, self.bytes.freeze());
        Ok(Stored { objects: 1, bytes })
    }
}

struct MemoryUpload {
    shares: Shares,
    uploads: Uploads,
    id: ShareId,
}

#[async_trait]
impl ShareUpload for MemoryUpload {
    async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        let mut uploads = self.uploads.lock();
        let upload = uploads.entry(self.id).or_default();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if upload.len() < end {
            upload.resize(end, 0);
        }
        upload[start..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn read_back(&mut self, range: Range<u64>) -> Result<Bytes> {
        let uploads = self.uploads.lock();
        let upload = uploads.get(&self.id).map_or(&[][..], |upload| upload);
        Ok(Bytes::copy_from_slice(
            &upload[range.start as usize..range.end as usize],
        ))
    }

    async fn finish(self: Box<Self>) -> Result<Stored> {
        let whole = self
            .uploads
            .lock()
            .remove(&self.id)
            .unwrap_or_default()
            .freeze();
        let bytes = whole.len() as u64;
        self.shares.lock().insert(self.id, whole);
        Ok(Stored { objects: 1, bytes })
    }
}

#[async_trait]
impl ShareStore for MemoryBackend {
    async fn create(&self, id: ShareId, _: Arc<StreamMemory>) -> Result<Box<dyn ShareWriter>> {
        Ok(Box::new(MemoryWriter {
            shares: self.shares.clone(),
            id,
            bytes: BytesMut::new(),
        }))
    }

    async fn upload(&self, id: ShareId, _: u64, _: RangeSet) -> Result<Box<dyn ShareUpload>> {
        let (shares, uploads) = (self.shares.clone(), self.uploads.clone());
        Ok(Box::new(MemoryUpload {
            shares,
            uploads,
            id,
        }))
    }

    async fn read(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        let backend = self.name.clone();
        let whole = self.shares.lock().get(&id).cloned();
        let Some(whole) = whole else {
            return Err(StorageError::NotFound { backend, id });
        };
        let cut =
            || whole.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        match cut() {
            Some(part) => Ok(stream::iter([Ok(whole.slice_ref(part))]).boxed()),
            None => Err(StorageError::Short { backend, id }),
        }
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        let number = |share| ShareId {
            index,
            share: ShareNum(share),
        };
        let range = number(0)..=number(u8::MAX);
        Ok(self
            .shares
            .lock()
            .range(range)
            .map(|(id, _)| id.share)
            .collect())
    }

    async fn remove(&self, id: ShareId, _: Option<u64>) -> Result<()> {
        self.shares.lock().remove(&id);
        self.uploads.lock().remove(&id);
        Ok(())
    }

    async fn chunk_length(&self, id: ShareId, chunk: u64) -> Result<Option<u64>> {
        if chunk > 0 {
            return Ok(None);
        }
        let immutable = self.shares.lock().get(&id).map(|bytes| bytes.len() as u64);
        Ok(immutable.or_else(|| {
            self.mutable
                .lock()
                .get(&id)
                .map(|(_, bytes)| bytes.len() as u64)
        }))
    }
}

#[async_trait]
impl MutableStore for MemoryBackend {
    async fn state(&self, id: ShareId) -> Result<Option<MutableShare>> {
        let shares = self.mutable.lock();
        let share = shares.get(&id);
        Ok(share.map(|(enabler, bytes)| MutableShare {
            length: bytes.len() as u64,
            enabler: *enabler,
        }))
    }

    async fn read_mutable(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        let shares = self.mutable.lock();
        let absent = || StorageError::NotFound {
            backend: self.name.clone(),
            id,
        };
        let (_, bytes) = shares.get(&id).ok_or_else(absent)?;
        let end = usize::try_from(range.end)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
        let part = Bytes::copy_from_slice(&bytes[start..end]);
        Ok(stream::iter((!part.is_empty()).then_some(Ok(part))).boxed())
    }

    async fn write_mutable(&self, id: ShareId, write: MutableWrite) -> Result<u64> {
        let available = CAPACITY.saturating_sub(self.used());
        let mut shares = self.mutable.lock();
        let (_, bytes) = shares
            .entry(id)
            .or_insert_with(|| (write.enabler, Vec::new()));
        let before = bytes.len() as u64;
        let length = write.length_after(before);
        let needed = length.saturating_sub(before);
        if needed > available {
            let backend = self.name.clone();
            return Err(StorageError::NoSpace {
                backend,
                needed,
                available,
            });
        }
        for (offset, new) in write.writes {
            // What lies beyond the end is cut.
            let left = length.saturating_sub(offset);
            let new = new.slice(..new.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            if new.is_empty() {
                continue;
            }
            let (start, end) = (offset as usize, offset as usize + new.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(&new);
        }
        bytes.resize(length as usize, 0);
        Ok(length)
    }

    async fn delete_mutable(&self, id: ShareId) -> Result<()> {
        self.mutable.lock().remove(&id);
        Ok(())
    }

    async fn tidy_mutable(&self, id: ShareId) -> Result<bool> {
        Ok(!self.mutable.lock().contains_key(&id))
    }

    async fn untidy_mutable(&self, _: u32) -> Result<Vec<ShareId>> {
        Ok(Vec::new())
    }

    async fn recover_mutable(&self, id: ShareId, _: &Found) -> Result<Recovered> {
        Ok(self
            .state(id)
            .await?
            .map_or(Recovered::Deleted, Recovered::Whole))
    }

    async fn lacks_mutable(&self, id: ShareId, _: &Found) -> Result<Option<String>> {
        Ok(self.state(id).await?.is_none().then(|| id.to_string()))
    }
}

#[async_trait]
impl Container for MemoryBackend {
    async fn scan(&self, span: Span, _: u64) -> Result<Vec<FoundShare>> {
        let mut found = Vec::new();
        for (id, bytes) in self
            .shares
            .lock()
            .iter()
            .filter(|(id, _)| span.holds(id.index))
        {
            let whole = Found::file(bytes.len() as u64);
            found.push(FoundShare {
                id: *id,
                found: whole,
                newest: None,
            });
        }
        Ok(found)
    }

    fn set_owner(&self, _: Option<String>) {}

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        self.objects.lock().insert(name.to_owned(), content);
        Ok(())
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.objects.lock().get(name).cloned())
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self
            .objects
            .lock()
            .keys()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect())
    }

    async fn remove_object(&self, name: &str) -> Result<()> {
        self.objects.lock().remove(name);
        Ok(())
    }

    async fn available_space(&self) -> Result<Option<u64>> {
        Ok(Some(CAPACITY.saturating_sub(self.used())))
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }
}

impl Backend for MemoryBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn mutable_store(&self) -> Option<&dyn MutableStore> {
        Some(self)
    }
}

/// Takes every share and keeps none, to measure the floors above it. It keeps the small objects
/// beside the shares, such as its owner, so that it can be written to.
#[derive(Debug)]
pub struct NullBackend {
    name: String,
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl NullBackend {
    /// Makes a backend of that name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            objects: Mutex::default(),
        }
    }
}

/// Counts the bytes that are written, and drops them.
struct NullWriter(u64);

#[async_trait]
impl ShareWriter for NullWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.0 += bytes.len() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Stored> {
        Ok(Stored {
            objects: 0,
            bytes: self.0,
        })
    }
}

#[async_trait]
impl ShareUpload for NullWriter {
    async fn write_at(&mut self, _: u64, bytes: Bytes) -> Result<()> {
        self.write(bytes).await
    }

    async fn read_back(&mut self, range: Range<u64>) -> Result<Bytes> {
        Ok(vec![0; (range.end - range.start) as usize].into())
    }

    async fn finish(self: Box<Self>) -> Result<Stored> {
        ShareWriter::finish(self).await
    }
}

#[async_trait]
impl ShareStore for NullBackend {
    async fn create(&self, _: ShareId, _: Arc<StreamMemory>) -> Result<Box<dyn ShareWriter>> {
        Ok(Box::new(NullWriter(0)))
    }

    async fn upload(&self, _: ShareId, _: u64, _: RangeSet) -> Result<Box<dyn ShareUpload>> {
        Ok(Box::new(NullWriter(0)))
    }

    async fn read(&self, id: ShareId, _: Range<u64>) -> Result<ShareStream> {
        Err(StorageError::NotFound {
            backend: self.name.clone(),
            id,
        })
    }

    async fn shares(&self, _: StorageIndex) -> Result<Vec<ShareNum>> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: ShareId, _: Option<u64>) -> Result<()> {
        Ok(())
    }

    async fn chunk_length(&self, _: ShareId, _: u64) -> Result<Option<u64>> {
        Ok(None)
    }
}

#[async_trait]
impl Container for NullBackend {
    async fn scan(&self, _: Span, _: u64) -> Result<Vec<FoundShare>> {
        Ok(Vec::new())
    }

    fn set_owner(&self, _: Option<String>) {}

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        self.objects.lock().insert(name.to_owned(), content);
        Ok(())
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.objects.lock().get(name).cloned())
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        let objects = self.objects.lock();
        let names = objects.keys().filter(|name| name.starts_with(prefix));
        Ok(names.cloned().collect())
    }

    async fn remove_object(&self, name: &str) -> Result<()> {
        self.objects.lock().remove(name);
        Ok(())
    }

    async fn available_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }
}

impl Backend for NullBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn mutable_store(&self) -> Option<&dyn MutableStore> {
        None
    }
}
