//! A share that is written to a cloud from its beginning to its end, chunk by chunk.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use raic_cloud::{Cloud, CloudError, ErrorKind, Operation, Payload, put_same};
use tokio_util::task::AbortOnDropHandle;

use crate::{Result, ShareId, ShareWriter, Stored, object::ShareObject};

/// Chunks of one share that are on their way up at once, beside the chunk that is being filled.
pub(crate) const IN_FLIGHT: usize = 2;

/// Fills chunks and sends them, a bounded number at once. Dropping it stops the requests under way.
pub(crate) struct ChunkWriter {
    cloud: Arc<dyn Cloud>,
    id: ShareId,
    chunk_size: usize,
    parts: Vec<Bytes>,
    gathered: usize,
    bytes: u64,
    next: u64,
    in_flight: VecDeque<Put>,
}

/// A task that puts one chunk. Dropping it stops the put.
type Put = AbortOnDropHandle<Result<(), CloudError>>;

impl ChunkWriter {
    pub(crate) fn new(cloud: Arc<dyn Cloud>, id: ShareId, chunk_size: usize) -> Self {
        Self {
            cloud,
            id,
            chunk_size,
            parts: Vec::new(),
            gathered: 0,
            bytes: 0,
            next: 0,
            in_flight: VecDeque::new(),
        }
    }

    async fn send(&mut self) -> Result<()> {
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle().await?;
        }
        let payload = Payload::from_parts(std::mem::take(&mut self.parts));
        self.gathered = 0;
        let key = ShareObject::Chunk(self.next).key(self.id);
        self.next += 1;
        let cloud = self.cloud.clone();
        self.in_flight.push_back(Put::new(tokio::spawn(async move {
            // Other bytes of that name are an alarm: it was never used for another share. The same
            // bytes are there if the share is sent again, because a part of it failed.
            put_same(&*cloud, &key, payload).await
        })));
        Ok(())
    }

    /// Waits for the oldest put under way.
    async fn settle(&mut self) -> Result<()> {
        let Some(put) = self.in_flight.front_mut() else {
            return Ok(());
        };
        let outcome = put.await.unwrap_or_else(|e| {
            Err(CloudError::new(
                ErrorKind::Internal,
                self.cloud.name(),
                Operation::Put,
                e.to_string(),
            ))
        });
        self.in_flight.pop_front();
        Ok(outcome?)
    }
}

#[async_trait]
impl ShareWriter for ChunkWriter {
    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.chunk_size - self.gathered;
            let part = bytes.split_to(room.min(bytes.len()));
            self.gathered += part.len();
            self.bytes += part.len() as u64;
            self.parts.push(part);
            if self.gathered == self.chunk_size {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Stored> {
        if self.gathered > 0 || self.next == 0 {
            self.send().await?;
        }
        while !self.in_flight.is_empty() {
            self.settle().await?;
        }
        Ok(Stored {
            objects: self.next,
            bytes: self.bytes,
        })
    }
}
