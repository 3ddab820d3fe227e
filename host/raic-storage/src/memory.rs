//! Backends that keep shares in memory, or nowhere.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};

use crate::{
    Backend, EnablerHash, Found, FoundShare, MutableShare, MutableWrite, RangeSet, Recovered,
    Result, ShareNum, ShareStream, ShareUpload, ShareWriter, Span, StorageError, StorageIndex,
    Stored,
};

type At = (StorageIndex, ShareNum);
type Shares = Arc<Mutex<BTreeMap<At, Bytes>>>;
type Uploads = Arc<Mutex<BTreeMap<At, BytesMut>>>;

/// Keeps shares in memory, for tests.
#[derive(Debug)]
pub struct MemoryBackend {
    name: String,
    shares: Shares,
    uploads: Uploads,
    mutable: Mutex<BTreeMap<At, (EnablerHash, Vec<u8>)>>,
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryBackend {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            shares: Shares::default(),
            uploads: Uploads::default(),
            mutable: Mutex::default(),
            objects: Mutex::default(),
        }
    }
}

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one call on the map, so a panic elsewhere leaves it whole.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

struct MemoryWriter {
    shares: Shares,
    at: (StorageIndex, ShareNum),
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
        lock(&self.shares).insert(self.at, self.bytes.freeze());
        Ok(Stored { objects: 1, bytes })
    }
}

struct MemoryUpload {
    shares: Shares,
    uploads: Uploads,
    at: At,
}

#[async_trait]
impl ShareUpload for MemoryUpload {
    async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        let mut uploads = lock(&self.uploads);
        let upload = uploads.entry(self.at).or_default();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if upload.len() < end {
            upload.resize(end, 0);
        }
        upload[start..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn read_back(&mut self, range: Range<u64>) -> Result<Bytes> {
        let uploads = lock(&self.uploads);
        let upload = uploads.get(&self.at).map_or(&[][..], |upload| upload);
        Ok(Bytes::copy_from_slice(
            &upload[range.start as usize..range.end as usize],
        ))
    }

    async fn finish(self: Box<Self>) -> Result<Stored> {
        let whole = lock(&self.uploads)
            .remove(&self.at)
            .unwrap_or_default()
            .freeze();
        let bytes = whole.len() as u64;
        lock(&self.shares).insert(self.at, whole);
        Ok(Stored { objects: 1, bytes })
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>> {
        Ok(Box::new(MemoryWriter {
            shares: self.shares.clone(),
            at: (index, share),
            bytes: BytesMut::new(),
        }))
    }

    async fn upload(
        &self,
        index: StorageIndex,
        share: ShareNum,
        _: u64,
        _: RangeSet,
    ) -> Result<Box<dyn ShareUpload>> {
        let (shares, uploads) = (self.shares.clone(), self.uploads.clone());
        Ok(Box::new(MemoryUpload {
            shares,
            uploads,
            at: (index, share),
        }))
    }

    async fn read(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        let backend = self.name.clone();
        let whole = lock(&self.shares).get(&(index, share)).cloned();
        let Some(whole) = whole else {
            return Err(StorageError::NotFound {
                backend,
                index,
                share,
            });
        };
        let cut =
            || whole.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        match cut() {
            Some(part) => Ok(stream::iter([Ok(whole.slice_ref(part))]).boxed()),
            None => Err(StorageError::Short {
                backend,
                index,
                share,
            }),
        }
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        let range = (index, ShareNum(0))..=(index, ShareNum(u8::MAX));
        Ok(lock(&self.shares)
            .range(range)
            .map(|((_, share), _)| *share)
            .collect())
    }

    async fn remove(&self, index: StorageIndex, share: ShareNum, _: Option<u64>) -> Result<()> {
        lock(&self.shares).remove(&(index, share));
        lock(&self.uploads).remove(&(index, share));
        Ok(())
    }

    async fn chunk_length(
        &self,
        index: StorageIndex,
        share: ShareNum,
        chunk: u64,
    ) -> Result<Option<u64>> {
        if chunk > 0 {
            return Ok(None);
        }
        let immutable = lock(&self.shares)
            .get(&(index, share))
            .map(|bytes| bytes.len() as u64);
        Ok(immutable.or_else(|| {
            lock(&self.mutable)
                .get(&(index, share))
                .map(|(_, bytes)| bytes.len() as u64)
        }))
    }

    async fn mutable(&self, index: StorageIndex, share: ShareNum) -> Result<Option<MutableShare>> {
        let shares = lock(&self.mutable);
        let share = shares.get(&(index, share));
        Ok(share.map(|(enabler, bytes)| MutableShare {
            length: bytes.len() as u64,
            enabler: *enabler,
        }))
    }

    async fn read_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        let shares = lock(&self.mutable);
        let absent = || StorageError::NotFound {
            backend: self.name.clone(),
            index,
            share,
        };
        let (_, bytes) = shares.get(&(index, share)).ok_or_else(absent)?;
        let end = usize::try_from(range.end)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
        let part = Bytes::copy_from_slice(&bytes[start..end]);
        Ok(stream::iter((!part.is_empty()).then_some(Ok(part))).boxed())
    }

    async fn write_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        write: MutableWrite,
    ) -> Result<u64> {
        let mut shares = lock(&self.mutable);
        let (_, bytes) = shares
            .entry((index, share))
            .or_insert_with(|| (write.enabler, Vec::new()));
        let length = write.length_after(bytes.len() as u64);
        for (offset, new) in write.writes {
            let (start, end) = (offset as usize, offset as usize + new.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(&new);
        }
        bytes.resize(length as usize, 0);
        Ok(length)
    }

    async fn delete_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<()> {
        lock(&self.mutable).remove(&(index, share));
        Ok(())
    }

    async fn tidy_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<bool> {
        Ok(!lock(&self.mutable).contains_key(&(index, share)))
    }

    async fn untidy_mutable(&self, _: u32) -> Result<Vec<(StorageIndex, ShareNum)>> {
        Ok(Vec::new())
    }

    async fn recover_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        _: &Found,
    ) -> Result<Recovered> {
        Ok(self
            .mutable(index, share)
            .await?
            .map_or(Recovered::Deleted, Recovered::Whole))
    }

    async fn scan(&self, span: Span, _: u64) -> Result<Vec<FoundShare>> {
        let within = |(index, _): &At| span.holds(*index);
        let mut found = Vec::new();
        for ((index, share), bytes) in lock(&self.shares).iter().filter(|(at, _)| within(at)) {
            let whole = Found::file(bytes.len() as u64);
            found.push(FoundShare {
                index: *index,
                share: *share,
                found: whole,
                newest_ms: None,
            });
        }
        Ok(found)
    }

    async fn lacks_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        _: &Found,
    ) -> Result<Option<String>> {
        Ok(self
            .mutable(index, share)
            .await?
            .is_none()
            .then(|| share.to_string()))
    }

    fn set_owner(&self, _: Option<String>) {}

    async fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(lock(&self.objects)
            .keys()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect())
    }

    async fn remove_object(&self, name: &str) -> Result<()> {
        lock(&self.objects).remove(name);
        Ok(())
    }

    async fn available_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        lock(&self.objects).insert(name.to_owned(), content);
        Ok(())
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(lock(&self.objects).get(name).cloned())
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }
}

/// Takes every share and keeps none, to measure what lies above it.
#[derive(Debug)]
pub struct NullBackend {
    name: String,
}

impl NullBackend {
    /// One of that name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }
}

/// Counts what it is given.
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
impl Backend for NullBackend {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, _: StorageIndex, _: ShareNum) -> Result<Box<dyn ShareWriter>> {
        Ok(Box::new(NullWriter(0)))
    }

    async fn upload(
        &self,
        _: StorageIndex,
        _: ShareNum,
        _: u64,
        _: RangeSet,
    ) -> Result<Box<dyn ShareUpload>> {
        Ok(Box::new(NullWriter(0)))
    }

    async fn read(
        &self,
        index: StorageIndex,
        share: ShareNum,
        _: Range<u64>,
    ) -> Result<ShareStream> {
        Err(StorageError::NotFound {
            backend: self.name.clone(),
            index,
            share,
        })
    }

    async fn shares(&self, _: StorageIndex) -> Result<Vec<ShareNum>> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: StorageIndex, _: ShareNum, _: Option<u64>) -> Result<()> {
        Ok(())
    }

    async fn chunk_length(&self, _: StorageIndex, _: ShareNum, _: u64) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn mutable(&self, _: StorageIndex, _: ShareNum) -> Result<Option<MutableShare>> {
        Ok(None)
    }

    async fn read_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        _: Range<u64>,
    ) -> Result<ShareStream> {
        Err(StorageError::NotFound {
            backend: self.name.clone(),
            index,
            share,
        })
    }

    async fn write_mutable(
        &self,
        _: StorageIndex,
        _: ShareNum,
        write: MutableWrite,
    ) -> Result<u64> {
        Ok(write.length_after(0))
    }

    async fn delete_mutable(&self, _: StorageIndex, _: ShareNum) -> Result<()> {
        Ok(())
    }

    async fn tidy_mutable(&self, _: StorageIndex, _: ShareNum) -> Result<bool> {
        Ok(true)
    }

    async fn untidy_mutable(&self, _: u32) -> Result<Vec<(StorageIndex, ShareNum)>> {
        Ok(Vec::new())
    }

    async fn recover_mutable(&self, _: StorageIndex, _: ShareNum, _: &Found) -> Result<Recovered> {
        Ok(Recovered::Deleted)
    }

    async fn scan(&self, _: Span, _: u64) -> Result<Vec<FoundShare>> {
        Ok(Vec::new())
    }

    async fn lacks_mutable(
        &self,
        _: StorageIndex,
        _: ShareNum,
        _: &Found,
    ) -> Result<Option<String>> {
        Ok(None)
    }

    fn set_owner(&self, _: Option<String>) {}

    async fn objects(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn remove_object(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn available_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn store_object(&self, _: &str, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn load_object(&self, _: &str) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }
}
