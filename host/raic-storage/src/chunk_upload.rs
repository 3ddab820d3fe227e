//! A share that is written to a cloud by offset. Bytes that do not fill a chunk yet wait in the
//! spool.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use raic_cloud::{ByteRange, Cloud, ErrorKind, collect_body, put_same};

use crate::{
    ChunkBudget, RangeSet, Result, ShareId, ShareUpload, StorageError, Stored, object::ShareObject,
    spool::SpoolFile,
};

/// How long a complete chunk waits for memory. After that it stays in the spool until the next
/// write.
const PATIENCE: Duration = Duration::from_secs(30);

/// A share that is written by offset. Complete chunks go out in order, and the rest waits in the
/// spool.
pub(crate) struct ChunkUpload {
    pub(crate) cloud: Arc<dyn Cloud>,
    pub(crate) budget: ChunkBudget,
    pub(crate) id: ShareId,
    pub(crate) chunk_size: u64,
    pub(crate) length: u64,
    pub(crate) received: RangeSet,
    pub(crate) file: SpoolFile,
    /// Whether a request of the upload was given up that may still land.
    pub(crate) may_land: bool,
}

impl ChunkUpload {
    fn range_of(&self, chunk: u64) -> Range<u64> {
        let start = chunk.saturating_mul(self.chunk_size).min(self.length);
        start..start.saturating_add(self.chunk_size).min(self.length)
    }

    /// Sends the chunks that are complete, in order.
    async fn drain(&mut self) -> Result<()> {
        loop {
            let range = self.range_of(self.file.drained());
            if range.is_empty() || !self.received.contains(&range) {
                return Ok(());
            }
            // The bytes are durable, so the client that waits for the answer need not wait for
            // memory without end.
            let reserved =
                tokio::time::timeout(PATIENCE, self.budget.reserve(range.end - range.start)).await;
            let Ok(_reserved) = reserved else {
                tracing::debug!("a chunk waits in the spool for memory");
                return Ok(());
            };
            let bytes = self.file.read_at(range.clone()).await?;
            // The put may land until it is answered.
            let before = std::mem::replace(&mut self.may_land, true);
            self.put(self.file.drained(), bytes).await?;
            self.may_land = before;
            self.file.drain(range).await?;
        }
    }

    fn other_bytes(&self, chunk: u64) -> StorageError {
        StorageError::InTheWay {
            backend: self.cloud.name().to_owned(),
            id: self.id,
            chunk,
        }
    }

    async fn put(&self, chunk: u64, bytes: Bytes) -> Result<()> {
        let key = ShareObject::Chunk(chunk).key(self.id);
        match put_same(&self.cloud, &key, bytes).await {
            Err(e) if e.kind == ErrorKind::AlreadyExists => Err(self.other_bytes(chunk)),
            // This also succeeds if the chunk was sent before a crash that the count did not
            // survive.
            put => Ok(put?),
        }
    }
}

#[async_trait]
impl ShareUpload for ChunkUpload {
    async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        let mut after = self.received.clone();
        after.insert(range);
        let next = self.range_of(self.file.drained());
        let completes = after.contains(&next) && !self.received.contains(&next);
        self.file.write_at(offset, bytes, completes).await?;
        self.received = after;
        // The bytes are durable. A chunk that cannot go out now is tried again with the next write.
        match self.drain().await {
            Err(e @ StorageError::InTheWay { .. }) => return Err(e),
            Err(e) => {
                self.may_land = true;
                tracing::debug!("a chunk waits in the spool: {e}");
            }
            Ok(()) => {}
        }
        Ok(())
    }

    fn may_land(&self) -> bool {
        self.may_land
    }

    fn has_sent(&self) -> bool {
        self.may_land || self.file.drained() > 0
    }

    async fn read_back(&mut self, range: Range<u64>) -> Result<Bytes> {
        let mut whole = BytesMut::new();
        let mut offset = range.start;
        while offset < range.end {
            let chunk = offset / self.chunk_size;
            let bounds = self.range_of(chunk);
            let end = range.end.min(bounds.end);
            if chunk >= self.file.drained() {
                whole.extend_from_slice(&self.file.read_at(offset..end).await?);
            } else {
                let key = ShareObject::Chunk(chunk).key(self.id);
                let object = self
                    .cloud
                    .get(
                        &key,
                        ByteRange::new(offset - bounds.start, end - offset),
                        None,
                    )
                    .await?;
                let limit = usize::try_from(end - offset).unwrap_or(usize::MAX);
                whole
                    .extend_from_slice(&collect_body(self.cloud.name(), object.body, limit).await?);
            }
            offset = end;
        }
        Ok(whole.freeze())
    }

    async fn finish(mut self: Box<Self>) -> Result<Stored> {
        self.drain().await?;
        if self.length > 0 && !self.range_of(self.file.drained()).is_empty() {
            let why = "there is no free memory for its last chunk".to_owned();
            return Err(StorageError::NotKnown {
                backend: self.cloud.name().to_owned(),
                id: self.id,
                reason: why,
            });
        }
        if self.length == 0 {
            self.put(0, Bytes::new()).await?;
        }
        let objects = self.length.div_ceil(self.chunk_size).max(1);
        let bytes = self.length;
        Ok(Stored { objects, bytes })
    }
}
