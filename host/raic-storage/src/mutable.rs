//! Mutable shares in a cloud, by the protocol of decision 0004.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ops::Range,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_cloud::{CloudError, ErrorKind, collect_body, put_same};

use crate::{
    ChunkBudget, Found, Generation, MAX_OBJECT, MutableShare, MutableStore, MutableWrite,
    Recovered, Result, ShareId, ShareStream, Span, StorageError,
    cloud::OwnedCloud,
    commit::{ChunkRef, Commit, MAX_CHUNKS},
    leasedb::{Slot, Slots, Superseded},
    object::ShareObject,
    read_ahead::read_ahead,
};

/// The chunk size of mutable shares, in bytes. A change of one byte writes one chunk.
pub const MUTABLE_CHUNK_SIZE: u32 = 256 << 10;

/// Chunks of one write that are on their way up at once.
const AT_ONCE: usize = 4;
/// Chunks of one read that are fetched at once, including the one being read. Each is fetched
/// whole.
const READ_AHEAD: usize = 4;

/// The mutable shares of one cloud. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct MutableShares {
    pub(crate) container: Arc<OwnedCloud>,
    pub(crate) budget: ChunkBudget,
    pub(crate) slots: Slots,
    pub(crate) chunk_size: u32,
}

/// The state of a slot that has no write under way.
pub(crate) struct Settled {
    fence: Option<i64>,
    current: Option<Commit>,
    is_doubtful: bool,
}

impl Settled {
    /// The version that a reader sees; `None` if the share does not exist or was deleted.
    pub(crate) fn version(&self) -> Option<&Commit> {
        self.current.as_ref().filter(|commit| !commit.is_deleted)
    }
}

/// Most bytes of changed chunks that one write may hold in memory. Without a bound, many small
/// writes all over a share would hold all of it.
const MOST_HELD: u64 = 256 << 20;

/// Returns the most bytes that the chunks which a write changes can have, in a share that has
/// `length` bytes afterwards.
fn held_by(write: &MutableWrite, base: &Commit, length: u64) -> u64 {
    let size = u64::from(base.chunk_size);
    let mut chunks = 0;
    let mut next = 0;
    let mut writes: Vec<(u64, u64)> = write
        .writes
        .iter()
        .map(|(offset, bytes)| {
            (
                *offset,
                offset.saturating_add(bytes.len() as u64).min(length),
            )
        })
        .filter(|(start, end)| start < end)
        .collect();
    writes.sort_unstable();
    for (start, end) in writes {
        let (first, past) = ((start / size).max(next), end.div_ceil(size));
        chunks += past.saturating_sub(first);
        next = next.max(past);
    }
    // A cut touches one more.
    (chunks + 1).saturating_mul(size)
}

#[async_trait]
impl MutableStore for MutableShares {
    async fn state(&self, id: ShareId) -> Result<Option<MutableShare>> {
        let slot = self.settle(id).await?;
        Ok(slot.version().map(|commit| MutableShare {
            length: commit.length,
            enabler: commit.enabler,
        }))
    }

    async fn read_mutable(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        let slot = self.settle(id).await?;
        let absent = || StorageError::NotFound {
            backend: self.name(),
            id,
        };
        let commit = Arc::new(slot.version().ok_or_else(absent)?.clone());
        let (start, end) = (range.start, range.end.min(commit.length));
        if start >= end {
            return Ok(stream::empty().boxed());
        }
        let size = u64::from(commit.chunk_size);
        let this = self.clone();
        let pieces = stream::iter(start / size..=(end - 1) / size).map(move |number| {
            let (this, commit) = (this.clone(), commit.clone());
            async move {
                let chunk = this.chunk(id, &commit, number).await?;
                let (from, to) = (start.max(number * size), end.min((number + 1) * size));
                // The chunk is in memory, so its length fits a `usize`.
                Ok(vec![chunk.slice(
                    (from - number * size) as usize..(to - number * size) as usize,
                )])
            }
        });
        // The next chunks are fetched while one is read.
        read_ahead(pieces, READ_AHEAD).await
    }

    async fn write_mutable(&self, id: ShareId, write: MutableWrite) -> Result<u64> {
        let slot = self.settle(id).await?;
        self.require_certain(&slot)?;
        let base = slot.version().cloned().unwrap_or_else(|| Commit {
            is_deleted: false,
            chunk_size: self.chunk_size,
            enabler: write.enabler,
            ..Commit::deletion(Generation::default(), None)
        });
        let length = write.length_after(base.length);
        let longest = MAX_CHUNKS * u64::from(base.chunk_size);
        if length > longest {
            let ShareId { index, share } = id;
            return Err(StorageError::PastEnd {
                backend: self.name(),
                id: ShareId { index, share },
                end: length,
                length: longest,
            });
        }
        let held = held_by(&write, &base, length);
        if held > MOST_HELD {
            return Err(StorageError::PastEnd {
                backend: self.name(),
                id,
                end: held,
                length: MOST_HELD,
            });
        }
        let _reserved = self.budget.reserve(held).await;
        let changed = self.changed_chunks(id, &base, &write, length).await?;
        let numbers = changed.keys().copied().collect();
        let generation = self
            .slots
            .begin(id, slot.fence, numbers)
            .await?
            .ok_or_else(|| self.busy(id))?;
        let mut chunks = base.chunks.clone();
        chunks.resize(length.div_ceil(u64::from(base.chunk_size)) as usize, None);
        let puts = stream::iter(changed).map(|(number, bytes)| async move {
            let digest = blake3::hash(&bytes).into();
            self.put(
                id,
                ShareObject::MutableChunk(number, generation),
                bytes.into(),
            )
            .await?;
            Ok((number, ChunkRef { generation, digest }))
        });
        match puts.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await {
            Ok(written) => {
                written
                    .into_iter()
                    .for_each(|(number, chunk)| chunks[number as usize] = Some(chunk));
            }
            Err(e) => {
                // The commit was never sent, so it cannot land.
                self.slots.forget(id, generation).await?;
                return Err(CloudError::into(e));
            }
        }
        let parent = slot.current.as_ref().map(|commit| commit.generation);
        let commit = Commit {
            generation,
            parent,
            length,
            chunks,
            ..base
        };
        self.commit(id, &commit, slot.current.as_ref()).await?;
        Ok(length)
    }

    async fn delete_mutable(&self, id: ShareId) -> Result<()> {
        let slot = self.settle(id).await?;
        self.require_certain(&slot)?;
        if slot.version().is_none() {
            return Ok(());
        }
        let generation = self
            .slots
            .begin(id, slot.fence, Vec::new())
            .await?
            .ok_or_else(|| self.busy(id))?;
        let parent = slot.current.as_ref().map(|commit| commit.generation);
        self.commit(
            id,
            &Commit::deletion(generation, parent),
            slot.current.as_ref(),
        )
        .await
    }

    async fn tidy_mutable(&self, id: ShareId) -> Result<bool> {
        let slot = self.settle(id).await?;
        let Some(fence) = slot.fence else {
            return Ok(true);
        };
        if slot.is_doubtful {
            return Ok(false);
        }
        let (now, current) = (
            self.slots.now(),
            slot.current.as_ref().map(|commit| commit.generation),
        );
        for Superseded {
            generation,
            chunks,
            until,
        } in self.slots.superseded(id).await?
        {
            // The oldest version goes first, and each commit before the chunks that only it names.
            if until > now {
                return Ok(false);
            }
            self.remove(id, ShareObject::Commit(generation)).await?;
            for (number, writer) in chunks {
                self.remove(id, ShareObject::MutableChunk(number, writer))
                    .await?;
            }
            self.container.proves_absence().await?;
            self.slots.tidied(id, generation).await?;
        }
        match (slot.current, current) {
            (Some(mark), Some(generation)) if mark.is_deleted => {
                // The mark has rested as long as the version that it replaced, which has gone. So
                // nothing older can land any longer.
                self.remove(id, ShareObject::Commit(generation)).await?;
                self.container.proves_absence().await?;
                self.slots.remove(id, fence).await
            }
            (Some(_), _) => Ok(false),
            // Nothing was ever committed: the slot only had an intent that was dropped.
            (None, _) => self.slots.remove(id, fence).await,
        }
    }

    async fn untidy_mutable(&self, limit: u32) -> Result<Vec<ShareId>> {
        self.slots.untidy(limit).await
    }

    async fn recover_mutable(&self, id: ShareId, found: &Found) -> Result<Recovered> {
        self.recover(id, found).await
    }

    async fn forget_unlisted(&self, span: Span, listed: BTreeSet<ShareId>) -> Result<()> {
        self.forget_slots(span, &listed).await
    }

    async fn give_up_mutable(&self, id: ShareId, found: &Found) -> Result<()> {
        self.give_up(id, found).await
    }

    async fn lacks_mutable(&self, id: ShareId, found: &Found) -> Result<Option<String>> {
        self.lacks(id, found).await
    }
}

impl MutableShares {
    fn name(&self) -> String {
        self.container.cloud.name().to_owned()
    }

    fn not_known(&self, id: ShareId, reason: impl ToString) -> StorageError {
        StorageError::NotKnown {
            backend: self.name(),
            id,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn damaged(&self, id: ShareId, what: impl Into<String>) -> StorageError {
        StorageError::Damaged {
            backend: self.name(),
            id,
            what: what.into(),
        }
    }

    fn busy(&self, id: ShareId) -> StorageError {
        StorageError::Busy {
            backend: self.name(),
            id,
        }
    }

    pub(crate) fn decode(&self, id: ShareId, bytes: &[u8]) -> Result<Commit> {
        let commit = Commit::decode(bytes, &self.slots.key, id);
        commit.ok_or_else(|| self.damaged(id, "a commit is not authentic"))
    }

    pub(crate) fn encode(&self, id: ShareId, commit: &Commit) -> Vec<u8> {
        commit.encode(&self.slots.key, id)
    }

    async fn put(
        &self,
        id: ShareId,
        object: ShareObject,
        content: Bytes,
    ) -> Result<(), CloudError> {
        // The same bytes may be sent again. Other bytes never get this name.
        put_same(&self.container.cloud, &object.key(id), content).await
    }

    pub(crate) async fn get(
        &self,
        id: ShareId,
        object: ShareObject,
    ) -> Result<Option<Bytes>, CloudError> {
        let limit = usize::try_from(MAX_OBJECT).unwrap_or(usize::MAX);
        match self.container.cloud.get(&object.key(id), None, None).await {
            Ok(found) => collect_body(self.container.cloud.name(), found.body, limit)
                .await
                .map(Some),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Settles a slot: it returns once no write whose outcome is unknown is left in it. Decision
    /// 0004 has the rules.
    ///
    /// # Errors
    /// Fails with [`StorageError::NotKnown`] if the cloud gives no answer that settles the write,
    /// or may not be written to.
    pub(crate) async fn settle(&self, id: ShareId) -> Result<Settled> {
        loop {
            let Some(slot) = self.slots.get(id).await? else {
                return Ok(Settled {
                    fence: None,
                    current: None,
                    is_doubtful: false,
                });
            };
            let current = slot
                .current
                .as_deref()
                .map(|bytes| self.decode(id, bytes))
                .transpose()?;
            let Slot {
                fence,
                intent,
                is_doubtful,
                ..
            } = slot;
            let Some(intent) = intent else {
                return Ok(Settled {
                    fence: Some(fence),
                    current,
                    is_doubtful,
                });
            };
            let (generation, again) = (intent.generation, intent.again);
            let stored = match self.get(id, ShareObject::Commit(generation)).await {
                // The object is longer than any commit, so it is not a commit.
                Err(e) if e.kind == ErrorKind::TooLarge => Some(Bytes::new()),
                stored => stored.map_err(|e| self.not_known(id, e))?,
            };
            let mut is_changed = false;
            if let Some(bytes) = stored {
                match self.decode(id, &bytes) {
                    Ok(commit) => {
                        self.record(id, &commit, current.as_ref()).await?;
                        continue;
                    }
                    // The object of that name is not a commit of ours, so it can never be the
                    // version. The commit cannot be put over it. So the old version is committed
                    // again under a higher generation, as if no object had been found.
                    Err(e) => {
                        tracing::error!("{e}; the version before it stays");
                        is_changed = true;
                    }
                }
            }
            self.container
                .proves_absence()
                .await
                .map_err(|e| self.not_known(id, e))?;
            self.container
                .require_writable()
                .map_err(|e| self.not_known(id, e))?;
            let (generation, bytes) = match again {
                // It was decided before, and its commit was not answered yet.
                Some(bytes) if !is_changed => (generation, bytes),
                _ => {
                    let (key, old) = (self.slots.key, current.clone());
                    let again = move |new| {
                        let commit = match old {
                            Some(old) => Commit {
                                generation: new,
                                parent: Some(generation),
                                ..old
                            },
                            None => Commit::deletion(new, Some(generation)),
                        };
                        commit.encode(&key, id)
                    };
                    match self.slots.decide_again(id, generation, again).await? {
                        Some(decided) => decided,
                        None => continue,
                    }
                }
            };
            let put = self
                .put(id, ShareObject::Commit(generation), bytes.clone().into())
                .await;
            put.map_err(|e| self.not_known(id, e))?;
            let commit = self.decode(id, &bytes)?;
            self.record(id, &commit, current.as_ref()).await?;
        }
    }

    /// Records an answered commit as the current one. The version that it replaced is removed after
    /// its rest. Returns false if the slot has another intent by now.
    async fn record(&self, id: ShareId, commit: &Commit, old: Option<&Commit>) -> Result<bool> {
        let replaced = old.map(|old| (old.generation, old.named_beside(commit)));
        self.slots
            .record(id, commit.generation, self.encode(id, commit), replaced)
            .await
    }

    /// Reads a chunk of a version, cut at the share's end. Bytes that the chunk's object does not
    /// have are zeros.
    async fn chunk(&self, id: ShareId, commit: &Commit, number: u64) -> Result<Bytes> {
        let size = u64::from(commit.chunk_size);
        let length = commit.length.saturating_sub(number * size).min(size) as usize;
        let Some(Some(chunk)) = commit.chunks.get(number as usize) else {
            return Ok(vec![0; length].into());
        };
        let object = self
            .get(id, ShareObject::MutableChunk(number, chunk.generation))
            .await?;
        let bytes = object.ok_or_else(|| self.damaged(id, format!("chunk {number} is missing")))?;
        if *blake3::hash(&bytes).as_bytes() != chunk.digest {
            return Err(self.damaged(id, format!("chunk {number} has other bytes")));
        }
        if bytes.len() >= length {
            return Ok(bytes.slice(..length));
        }
        let mut padded = bytes.to_vec();
        padded.resize(length, 0);
        Ok(padded.into())
    }

    fn require_certain(&self, slot: &Settled) -> Result<()> {
        if slot.is_doubtful {
            return Err(StorageError::ReadOnly {
                backend: self.name(),
                reason: "only one listing has shown this mutable share since the database was \
                         lost; it can be written when the next complete listing shows the same"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Sends a commit whose chunks were all answered, and makes it current.
    ///
    /// # Errors
    /// Fails with [`StorageError::Busy`] if another caller settled the slot otherwise meanwhile,
    /// and with [`StorageError::NotKnown`] if the outcome is not known yet.
    async fn commit(&self, id: ShareId, commit: &Commit, old: Option<&Commit>) -> Result<()> {
        let bytes = self.encode(id, commit);
        match self
            .put(id, ShareObject::Commit(commit.generation), bytes.into())
            .await
        {
            Ok(()) if self.record(id, commit, old).await? => Ok(()),
            Ok(()) => {
                // Another caller settled the write, as done or as undone.
                let slot = self.settle(id).await?;
                let is_ours = slot
                    .current
                    .is_some_and(|now| now.generation == commit.generation);
                if is_ours { Ok(()) } else { Err(self.busy(id)) }
            }
            Err(e) if !e.may_land => {
                self.slots.forget(id, commit.generation).await?;
                Err(e.into())
            }
            Err(e) => {
                // The commit may have landed or land later. Settling the slot decides.
                let slot = self.settle(id).await?;
                if slot
                    .current
                    .as_ref()
                    .is_some_and(|now| now.generation == commit.generation)
                {
                    return Ok(());
                }
                Err(e.into())
            }
        }
    }

    /// Makes the new contents of the chunks that a write changes.
    async fn changed_chunks(
        &self,
        id: ShareId,
        base: &Commit,
        write: &MutableWrite,
        length: u64,
    ) -> Result<BTreeMap<u64, Vec<u8>>> {
        let size = u64::from(base.chunk_size);
        let mut changed: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (offset, bytes) in &write.writes {
            let mut left = bytes.clone();
            let mut offset = *offset;
            while !left.is_empty() && offset < length {
                let (number, within) = (offset / size, (offset % size) as usize);
                let part = left.split_to(left.len().min(size as usize - within));
                let chunk = match changed.entry(number) {
                    Entry::Occupied(chunk) => chunk.into_mut(),
                    Entry::Vacant(place) => {
                        // A chunk that is overwritten as a whole need not be read.
                        let is_whole = within == 0 && part.len() as u64 == size;
                        let old = if is_whole {
                            Bytes::new()
                        } else {
                            self.chunk(id, base, number).await?
                        };
                        place.insert(old.to_vec())
                    }
                };
                if chunk.len() < within + part.len() {
                    chunk.resize(within + part.len(), 0);
                }
                chunk[within..within + part.len()].copy_from_slice(&part);
                offset += part.len() as u64;
            }
        }
        // A chunk that is cut loses its end. Otherwise an extension would bring the end back.
        let last = length / size;
        let is_cut = length < base.length && !length.is_multiple_of(size);
        if is_cut
            && !changed.contains_key(&last)
            && matches!(base.chunks.get(last as usize), Some(Some(_)))
        {
            changed.insert(last, self.chunk(id, base, last).await?.to_vec());
        }
        for (number, chunk) in &mut changed {
            chunk.truncate(length.saturating_sub(number * size).min(size) as usize);
        }
        changed.retain(|number, _| number * size < length);
        Ok(changed)
    }

    async fn remove(&self, id: ShareId, object: ShareObject) -> Result<()> {
        Ok(self.container.cloud.delete(&object.key(id), None).await?)
    }
}
