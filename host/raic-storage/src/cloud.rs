//! The `cloud` backend: a share is cut into chunks, objects of one size that any provider can hold.
//!
//! Share `SHNUM` of `SI` is the objects `shares/ST/SI/SHNUM` (chunk 0) and `shares/ST/SI/SHNUM.i` (i > 0), `ST` the
//! first two characters of `SI`. The size of chunk 0 is the share's chunk size; only the last chunk is smaller.
//! Source: the RAIC specification's mapping of shares to objects.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_cloud::{
    ByteRange, Cloud, CloudError, ErrorKind, MAX_PAGE, ObjectKey, Operation, Payload, WriteMode, collect_body,
};
use tokio::task::JoinHandle;

use crate::{Backend, MAX_OBJECT, Result, ShareNum, ShareStream, ShareWriter, StorageError, StorageIndex};

/// The chunk size of new shares: large enough that requests cost little, small enough to hold a few in memory.
pub const DEFAULT_CHUNK_SIZE: usize = 4 << 20;

/// The chunk size of an array of `n` shares: what its n writers hold together stays what eight would hold.
pub fn chunk_size_for(n: usize) -> usize {
    DEFAULT_CHUNK_SIZE * 8 / n.max(8)
}

/// Chunks of one share on their way up at once, beside the one being filled.
const IN_FLIGHT: usize = 2;
/// Pages of a listing of one shareset: more than any share has.
const MAX_PAGES: u32 = 10_000;
/// Shares whose chunk size is remembered.
const REMEMBERED: usize = 4096;

/// Keeps shares as chunks in a cloud.
#[derive(Debug)]
pub struct CloudBackend {
    cloud: Arc<dyn Cloud>,
    chunk_size: usize,
    /// Chunk sizes of shares read lately: a share's never changes.
    sizes: Mutex<HashMap<(StorageIndex, ShareNum), u64>>,
}

impl CloudBackend {
    /// Shares in `cloud`, new ones in chunks of `chunk_size` bytes (1 or more).
    pub fn new(cloud: Arc<dyn Cloud>, chunk_size: usize) -> Self {
        Self { cloud, chunk_size: chunk_size.max(1), sizes: Mutex::default() }
    }

    /// The chunk size of a share: what was remembered, or the size of its chunk 0.
    async fn chunk_size_of(&self, index: StorageIndex, share: ShareNum) -> Result<u64> {
        let lock = || self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(size) = lock().get(&(index, share)).copied() {
            return Ok(size);
        }
        let head = self.cloud.head(&chunk_key(index, share, 0)).await;
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
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).remove(&(index, share));
    }

    fn object_key(&self, name: &str, operation: Operation) -> Result<ObjectKey> {
        let key = ObjectKey::new(format!("raic/{name}"));
        Ok(key
            .map_err(|e| CloudError::new(ErrorKind::Internal, self.cloud.name(), operation, e.to_string()))?)
    }

    fn absent(&self, e: CloudError, index: StorageIndex, share: ShareNum) -> StorageError {
        let backend = self.cloud.name().to_owned();
        match e.kind {
            ErrorKind::NotFound => StorageError::NotFound { backend, index, share },
            ErrorKind::RangeNotSatisfiable => StorageError::Short { backend, index, share },
            _ => e.into(),
        }
    }

    /// Hands `each` the objects of a shareset, page by page, with share and chunk number.
    async fn for_each_page<F: Future<Output = Result<()>>>(
        &self,
        index: StorageIndex,
        mut each: impl FnMut(Vec<(ShareNum, u64, ObjectKey)>) -> F,
    ) -> Result<()> {
        let prefix = shareset_prefix(index);
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            let page = self.cloud.list(&prefix, cursor.as_deref(), MAX_PAGE).await?;
            let named = page.entries.into_iter().filter_map(|entry| {
                let (share, chunk) = parse_name(entry.key.as_str().strip_prefix(&prefix)?)?;
                Some((share, chunk, entry.key))
            });
            each(named.collect()).await?;
            cursor = page.next;
            if cursor.is_none() {
                return Ok(());
            }
        }
        let why = format!("the listing of {prefix} does not end after {MAX_PAGES} pages");
        Err(CloudError::new(ErrorKind::Protocol, self.cloud.name(), Operation::List, why).into())
    }
}

fn shareset_prefix(index: StorageIndex) -> String {
    let index = index.to_string();
    format!("shares/{}/{index}/", &index[..2])
}

fn chunk_key(index: StorageIndex, share: ShareNum, chunk: u64) -> ObjectKey {
    let prefix = shareset_prefix(index);
    let name = if chunk == 0 { format!("{prefix}{share}") } else { format!("{prefix}{share}.{chunk}") };
    #[allow(clippy::expect_used, reason = "letters, digits, dots and slashes; at most 64 bytes")]
    ObjectKey::new(name).expect("a chunk's name is an object key")
}

/// Share and chunk number of an object's name below its shareset: whole names only, share 1 is not share 10.
fn parse_name(name: &str) -> Option<(ShareNum, u64)> {
    let (share, chunk) = name.split_once('.').map_or((name, None), |(s, c)| (s, Some(c)));
    let parsed = (ShareNum(share.parse().ok()?), chunk.map_or(Some(0), |c| c.parse().ok())?);
    let written = if parsed.1 == 0 { parsed.0.to_string() } else { format!("{}.{}", parsed.0, parsed.1) };
    (written == name).then_some(parsed)
}

#[async_trait]
impl Backend for CloudBackend {
    fn name(&self) -> &str {
        self.cloud.name()
    }

    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>> {
        Ok(Box::new(ChunkWriter {
            cloud: self.cloud.clone(),
            index,
            share,
            chunk_size: self.chunk_size,
            parts: Vec::new(),
            gathered: 0,
            next: 0,
            in_flight: VecDeque::new(),
        }))
    }

    async fn read(&self, index: StorageIndex, share: ShareNum, range: Range<u64>) -> Result<ShareStream> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let size = self.chunk_size_of(index, share).await?;
        let short = StorageError::Short { backend: self.name().to_owned(), index, share };
        if size == 0 {
            return Err(short);
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
                let key = chunk_key(index, share, chunk);
                let backend = cloud.name().to_owned();
                let found = match ByteRange::new(start, length) {
                    Some(range) => cloud.get(&key, Some(range), None).await,
                    None => return Err(StorageError::Short { backend, index, share }),
                };
                let object = found.map_err(|e| match e.kind {
                    ErrorKind::NotFound => StorageError::NotFound { backend: backend.clone(), index, share },
                    ErrorKind::RangeNotSatisfiable => {
                        StorageError::Short { backend: backend.clone(), index, share }
                    }
                    _ => e.into(),
                })?;
                if object.info.size < start + length {
                    return Err(StorageError::Short { backend, index, share });
                }
                Ok(object.body.map_err(StorageError::from))
            }
        };
        // The first chunk is opened here, so that a share that is not there is an error at once.
        let mut streams = Box::pin(stream::iter(pieces).then(open));
        let first = streams.next().await.ok_or(short)?.inspect_err(|_| self.forget_size(index, share))?;
        Ok(first.chain(streams.try_flatten()).boxed())
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        let found = Mutex::new(BTreeSet::new());
        self.for_each_page(index, async |page| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend(page.into_iter().map(|(share, ..)| share));
            Ok(())
        })
        .await?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect())
    }

    async fn remove(&self, index: StorageIndex, share: ShareNum, objects: Option<u64>) -> Result<()> {
        // Chunk 0 first: without it the share is not there, whatever follows.
        match objects {
            Some(objects) => {
                for chunk in 0..objects {
                    self.cloud.delete(&chunk_key(index, share, chunk), None).await?;
                }
            }
            None => {
                self.cloud.delete(&chunk_key(index, share, 0), None).await?;
                self.for_each_page(index, async |mut page| {
                    page.retain(|(of, ..)| *of == share);
                    for (_, _, key) in page {
                        self.cloud.delete(&key, None).await?;
                    }
                    Ok(())
                })
                .await?;
            }
        }
        self.forget_size(index, share);
        Ok(())
    }

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        let key = self.object_key(name, Operation::Put)?;
        self.cloud.put(&key, content.into(), WriteMode::Overwrite).await?;
        Ok(())
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        let key = self.object_key(name, Operation::Get)?;
        match self.cloud.get(&key, None, None).await {
            Ok(object) => {
                let longest = usize::try_from(MAX_OBJECT).unwrap_or(usize::MAX);
                Ok(Some(collect_body(self.cloud.name(), object.body, longest).await?))
            }
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn probe(&self) -> Result<()> {
        Ok(self.cloud.probe().await?)
    }
}

/// Fills chunks and sends them, a bounded number at once. Dropping it stops what is under way.
struct ChunkWriter {
    cloud: Arc<dyn Cloud>,
    index: StorageIndex,
    share: ShareNum,
    chunk_size: usize,
    parts: Vec<Bytes>,
    gathered: usize,
    next: u64,
    in_flight: VecDeque<Put>,
}

/// A put that ends with its owner.
struct Put(JoinHandle<Result<(), CloudError>>);

impl Drop for Put {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ChunkWriter {
    async fn send(&mut self) -> Result<()> {
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle().await?;
        }
        let payload = Payload::from_parts(std::mem::take(&mut self.parts));
        self.gathered = 0;
        let key = chunk_key(self.index, self.share, self.next);
        self.next += 1;
        let cloud = self.cloud.clone();
        self.in_flight.push_back(Put(tokio::spawn(async move {
            // The name was never used: one that is there already is an alarm.
            cloud.put(&key, payload, WriteMode::CreateOnly).await.map(drop)
        })));
        Ok(())
    }

    /// Waits for the oldest put.
    async fn settle(&mut self) -> Result<()> {
        let Some(put) = self.in_flight.front_mut() else { return Ok(()) };
        let outcome = (&mut put.0).await.unwrap_or_else(|e| {
            Err(CloudError::new(ErrorKind::Internal, self.cloud.name(), Operation::Put, e.to_string()))
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
            self.parts.push(part);
            if self.gathered == self.chunk_size {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64> {
        if self.gathered > 0 || self.next == 0 {
            self.send().await?;
        }
        while !self.in_flight.is_empty() {
            self.settle().await?;
        }
        Ok(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_have_the_specifications_names() {
        let index: StorageIndex = "abcdefghijklmnopqrstuvwxya".parse().unwrap();
        assert_eq!(chunk_key(index, ShareNum(1), 0).as_str(), "shares/ab/abcdefghijklmnopqrstuvwxya/1");
        assert_eq!(chunk_key(index, ShareNum(10), 7).as_str(), "shares/ab/abcdefghijklmnopqrstuvwxya/10.7");
    }

    #[test]
    fn only_whole_names_are_chunks() {
        assert_eq!(parse_name("1"), Some((ShareNum(1), 0)));
        assert_eq!(parse_name("10.3"), Some((ShareNum(10), 3)));
        for other in ["", "01", "+1", "1.", "1.0", "1.03", "1.2.3", "256", "x", "1.v.3"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
