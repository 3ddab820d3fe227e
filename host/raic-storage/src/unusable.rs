//! A storage server that could not be opened: its disk is not mounted, its credential is missing.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Backend, Result, ShareNum, ShareStream, ShareWriter, StorageError, StorageIndex};

/// Holds a cloud's place in the array and answers everything with the reason why it cannot be used, so that one cloud
/// that fails does not keep the others from serving.
#[derive(Debug)]
pub struct UnusableBackend {
    name: String,
    reason: String,
}

impl UnusableBackend {
    /// In the place of the cloud `name`; `reason` is a sentence that names it.
    pub fn new(name: &str, reason: String) -> Self {
        Self { name: name.to_owned(), reason }
    }

    fn fail<T>(&self) -> Result<T> {
        Err(StorageError::Unusable { reason: self.reason.clone() })
    }
}

#[async_trait]
impl Backend for UnusableBackend {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, _: StorageIndex, _: ShareNum) -> Result<Box<dyn ShareWriter>> {
        self.fail()
    }

    async fn read(&self, _: StorageIndex, _: ShareNum, _: Range<u64>) -> Result<ShareStream> {
        self.fail()
    }

    async fn shares(&self, _: StorageIndex) -> Result<Vec<ShareNum>> {
        self.fail()
    }

    async fn remove(&self, _: StorageIndex, _: ShareNum, _: Option<u64>) -> Result<()> {
        self.fail()
    }

    async fn store_object(&self, _: &str, _: Bytes) -> Result<()> {
        self.fail()
    }

    async fn load_object(&self, _: &str) -> Result<Option<Bytes>> {
        self.fail()
    }

    async fn probe(&self) -> Result<()> {
        self.fail()
    }
}
