//! Backends that keep shares in memory, or nowhere.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};

use crate::{Backend, Result, ShareNum, ShareStream, ShareWriter, StorageError, StorageIndex};

type Shares = Arc<Mutex<BTreeMap<(StorageIndex, ShareNum), Bytes>>>;

/// Keeps shares in memory, for tests.
#[derive(Debug)]
pub struct MemoryBackend {
    name: String,
    shares: Shares,
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryBackend {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), shares: Shares::default(), objects: Mutex::default() }
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

    async fn finish(self: Box<Self>) -> Result<u64> {
        lock(&self.shares).insert(self.at, self.bytes.freeze());
        Ok(1)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>> {
        Ok(Box::new(MemoryWriter { shares: self.shares.clone(), at: (index, share), bytes: BytesMut::new() }))
    }

    async fn read(&self, index: StorageIndex, share: ShareNum, range: Range<u64>) -> Result<ShareStream> {
        let backend = self.name.clone();
        let whole = lock(&self.shares).get(&(index, share)).cloned();
        let Some(whole) = whole else { return Err(StorageError::NotFound { backend, index, share }) };
        let cut = || whole.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        match cut() {
            Some(part) => Ok(stream::iter([Ok(whole.slice_ref(part))]).boxed()),
            None => Err(StorageError::Short { backend, index, share }),
        }
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        let range = (index, ShareNum(0))..=(index, ShareNum(u8::MAX));
        Ok(lock(&self.shares).range(range).map(|((_, share), _)| *share).collect())
    }

    async fn remove(&self, index: StorageIndex, share: ShareNum, _: Option<u64>) -> Result<()> {
        lock(&self.shares).remove(&(index, share));
        Ok(())
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
        Self { name: name.to_owned() }
    }
}

struct NullWriter;

#[async_trait]
impl ShareWriter for NullWriter {
    async fn write(&mut self, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl Backend for NullBackend {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, _: StorageIndex, _: ShareNum) -> Result<Box<dyn ShareWriter>> {
        Ok(Box::new(NullWriter))
    }

    async fn read(&self, index: StorageIndex, share: ShareNum, _: Range<u64>) -> Result<ShareStream> {
        Err(StorageError::NotFound { backend: self.name.clone(), index, share })
    }

    async fn shares(&self, _: StorageIndex) -> Result<Vec<ShareNum>> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: StorageIndex, _: ShareNum, _: Option<u64>) -> Result<()> {
        Ok(())
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
