//! A share that is written to a cloud from its beginning to its end, chunk by chunk.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use raic_cloud::{Cloud, CloudError, ErrorKind, Operation, Payload, put_same};
use tokio_util::task::AbortOnDropHandle;

use crate::{Reserved, Result, ShareId, ShareWriter, Stored, StreamMemory, object::ShareObject};

/// Chunks of one share that are on their way up at once, beside the chunk that is being filled.
const IN_FLIGHT: usize = 2;

/// Fills chunks and sends them, a bounded number at once. Dropping it stops the requests under way.
pub(crate) struct ChunkWriter {
    cloud: Arc<dyn Cloud>,
    id: ShareId,
    /// The largest chunk that the cloud gets.
    most: usize,
    memory: Arc<StreamMemory>,
    parts: Vec<Bytes>,
    gathered: usize,
    bytes: u64,
    next: u64,
    in_flight: VecDeque<Put>,
}

/// A chunk on its way.
struct Put {
    /// The task that puts it. Dropping it stops the put.
    task: AbortOnDropHandle<Result<(), CloudError>>,
    /// The memory that it takes beside the chunk that is being filled.
    _reserved: Option<Reserved>,
}

impl ChunkWriter {
    pub(crate) fn new(
        cloud: Arc<dyn Cloud>,
        id: ShareId,
        most: usize,
        memory: Arc<StreamMemory>,
    ) -> Self {
        Self {
            cloud,
            id,
            most,
            memory,
            parts: Vec::new(),
            gathered: 0,
            bytes: 0,
            next: 0,
            in_flight: VecDeque::new(),
        }
    }

    /// Sends the chunk that was filled. Without memory for another beside it, this waits until it
    /// has been stored.
    async fn send(&mut self) -> Result<()> {
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle().await?;
        }
        let reserved = self.memory.beside(self.gathered);
        let has_room = reserved.is_some();
        let payload = Payload::from_parts(std::mem::take(&mut self.parts));
        self.gathered = 0;
        let key = ShareObject::Chunk(self.next).key(self.id);
        self.next += 1;
        let cloud = self.cloud.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            // Other bytes of that name are an alarm: it was never used for another share. The same
            // bytes are there if the share is sent again, because a part of it failed.
            put_same(&*cloud, &key, payload).await
        }));
        self.in_flight.push_back(Put {
            task,
            _reserved: reserved,
        });
        if !has_room {
            self.settle_all().await?;
        }
        Ok(())
    }

    async fn settle_all(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the oldest put under way.
    async fn settle(&mut self) -> Result<()> {
        let Some(put) = self.in_flight.front_mut() else {
            return Ok(());
        };
        let outcome = (&mut put.task).await.unwrap_or_else(|e| {
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
            let size = self.memory.chunk_size(self.gathered, self.most);
            if self.gathered >= size {
                self.send().await?;
                continue;
            }
            let part = bytes.split_to((size - self.gathered).min(bytes.len()));
            self.gathered += part.len();
            self.bytes += part.len() as u64;
            self.parts.push(part);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Stored> {
        if self.gathered > 0 || self.next == 0 {
            self.send().await?;
        }
        self.settle_all().await?;
        Ok(Stored {
            objects: self.next,
            bytes: self.bytes,
        })
    }
}
