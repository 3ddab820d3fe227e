//! Mutable shares in a cloud: decision 0004's protocol.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_cloud::{CloudError, ErrorKind, collect_body, put_same};

use crate::{
    ChunkBudget, Generation, MAX_OBJECT, MutableShare, MutableWrite, Result, ShareNum, ShareStream,
    StorageError, StorageIndex,
    cloud::Container,
    commit::{ChunkRef, Commit, MAX_CHUNKS},
    object::ShareObject,
    read_ahead::read_ahead,
    slots::{Slot, Slots, Superseded},
};

/// The chunk size of mutable shares: a change of one byte writes one.
pub const MUTABLE_CHUNK_SIZE: u32 = 256 << 10;

/// Chunks of one write on their way up at once.
const AT_ONCE: usize = 4;
/// Chunks of one read on their way down at once, the one being read included: each was asked for
/// whole.
const READ_AHEAD: usize = 4;

/// The mutable shares of one cloud.
#[derive(Debug)]
pub(crate) struct MutableShares {
    pub(crate) container: Arc<Container>,
    pub(crate) budget: ChunkBudget,
    pub(crate) slots: Slots,
    pub(crate) chunk_size: u32,
}

type At = (StorageIndex, ShareNum);

/// A slot that is settled.
pub(crate) struct Settled {
    fence: Option<i64>,
    current: Option<Commit>,
    is_doubtful: bool,
}

impl Settled {
    /// The version a reader sees.
    pub(crate) fn version(&self) -> Option<&Commit> {
        self.current.as_ref().filter(|commit| !commit.is_deleted)
    }
}

/// Bytes of the chunks that a write changes, at most.
fn held_by(write: &MutableWrite, base: &Commit) -> u64 {
    let size = u64::from(base.chunk_size);
    // Each write touches two chunks that it does not fill, and a cut one more.
    let touched = |(_, bytes): &(u64, Bytes)| (bytes.len() as u64 / size + 2) * size;
    write.writes.iter().map(touched).sum::<u64>() + size
}

impl MutableShares {
    fn name(&self) -> String {
        self.container.cloud.name().to_owned()
    }

    fn not_known(&self, (index, share): At, reason: impl ToString) -> StorageError {
        StorageError::NotKnown {
            backend: self.name(),
            index,
            share,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn damaged(&self, (index, share): At, what: impl Into<String>) -> StorageError {
        StorageError::Damaged {
            backend: self.name(),
            index,
            share,
            what: what.into(),
        }
    }

    fn busy(&self, (index, share): At) -> StorageError {
        StorageError::Busy {
            backend: self.name(),
            index,
            share,
        }
    }

    pub(crate) fn decode(&self, (index, share): At, bytes: &[u8]) -> Result<Commit> {
        let commit = Commit::decode(bytes, &self.slots.key, index, share);
        commit.ok_or_else(|| self.damaged((index, share), "a commit is not authentic"))
    }

    pub(crate) fn encode(&self, (index, share): At, commit: &Commit) -> Vec<u8> {
        commit.encode(&self.slots.key, index, share)
    }

    async fn put(
        &self,
        (index, share): At,
        object: ShareObject,
        content: Bytes,
    ) -> Result<(), CloudError> {
        // The same bytes may be sent again; other bytes never have this name.
        put_same(&self.container.cloud, &object.key(index, share), content).await
    }

    pub(crate) async fn get(
        &self,
        (index, share): At,
        object: ShareObject,
    ) -> Result<Option<Bytes>, CloudError> {
        let limit = usize::try_from(MAX_OBJECT).unwrap_or(usize::MAX);
        match self
            .container
            .cloud
            .get(&object.key(index, share), None, None)
            .await
        {
            Ok(found) => collect_body(self.container.cloud.name(), found.body, limit)
                .await
                .map(Some),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The slot, once no write is left open in it.
    pub(crate) async fn settled(&self, at: At) -> Result<Settled> {
        loop {
            let Some(slot) = self.slots.get(at).await? else {
                return Ok(Settled {
                    fence: None,
                    current: None,
                    is_doubtful: false,
                });
            };
            let current = slot
                .current
                .as_deref()
                .map(|bytes| self.decode(at, bytes))
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
            let there = match self.get(at, ShareObject::Commit(generation)).await {
                // Longer than any commit.
                Err(e) if e.kind == ErrorKind::TooLarge => Some(Bytes::new()),
                there => there.map_err(|e| self.not_known(at, e))?,
            };
            let mut is_changed = false;
            if let Some(bytes) = there {
                match self.decode(at, &bytes) {
                    Ok(commit) => {
                        self.record(at, &commit, current.as_ref()).await?;
                        continue;
                    }
                    // What the cloud has under that name is no commit of ours, and can never be the
                    // version. Its own bytes cannot be put over it: the decision is made anew,
                    // under a higher name, as where nothing is found.
                    Err(e) => {
                        tracing::error!("{e}; its version before stays");
                        is_changed = true;
                    }
                }
            }
            self.container
                .proves_absence()
                .await
                .map_err(|e| self.not_known(at, e))?;
            self.container
                .require_writable()
                .map_err(|e| self.not_known(at, e))?;
            let (generation, bytes) = match again {
                // Decided before, and not yet answered.
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
                        commit.encode(&key, at.0, at.1)
                    };
                    match self.slots.decide_again(at, generation, again).await? {
                        Some(decided) => decided,
                        None => continue,
                    }
                }
            };
            let put = self
                .put(at, ShareObject::Commit(generation), bytes.clone().into())
                .await;
            put.map_err(|e| self.not_known(at, e))?;
            let commit = self.decode(at, &bytes)?;
            self.record(at, &commit, current.as_ref()).await?;
        }
    }

    /// Makes an answered commit current. What it replaced goes when nothing can ask for it any
    /// longer.
    async fn record(&self, at: At, commit: &Commit, old: Option<&Commit>) -> Result<bool> {
        let replaced = old.map(|old| (old.generation, old.named_beside(commit)));
        self.slots
            .record(at, commit.generation, self.encode(at, commit), replaced)
            .await
    }

    pub(crate) async fn state(&self, at: At) -> Result<Option<MutableShare>> {
        let slot = self.settled(at).await?;
        Ok(slot.version().map(|commit| MutableShare {
            length: commit.length,
            enabler: commit.enabler,
        }))
    }

    pub(crate) async fn read(
        self: &Arc<Self>,
        (index, share): At,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        let slot = self.settled((index, share)).await?;
        let absent = || StorageError::NotFound {
            backend: self.name(),
            index,
            share,
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
                let chunk = this.chunk((index, share), &commit, number).await?;
                let (from, to) = (start.max(number * size), end.min((number + 1) * size));
                // In memory: a chunk's length.
                Ok(vec![chunk.slice(
                    (from - number * size) as usize..(to - number * size) as usize,
                )])
            }
        });
        // The next chunks are on their way while one is read.
        read_ahead(pieces, READ_AHEAD).await
    }

    /// A chunk's bytes of a version, as long as the share goes there: what the object does not have
    /// is zeros.
    async fn chunk(&self, at: At, commit: &Commit, number: u64) -> Result<Bytes> {
        let size = u64::from(commit.chunk_size);
        let length = commit.length.saturating_sub(number * size).min(size) as usize;
        let Some(Some(chunk)) = commit.chunks.get(number as usize) else {
            return Ok(vec![0; length].into());
        };
        let object = self
            .get(at, ShareObject::MutableChunk(number, chunk.generation))
            .await?;
        let bytes =
            object.ok_or_else(|| self.damaged(at, format!("chunk {number} is not there")))?;
        if *blake3::hash(&bytes).as_bytes() != chunk.digest {
            return Err(self.damaged(at, format!("chunk {number} is another one")));
        }
        if bytes.len() >= length {
            return Ok(bytes.slice(..length));
        }
        let mut padded = bytes.to_vec();
        padded.resize(length, 0);
        Ok(padded.into())
    }

    pub(crate) async fn write(&self, at: At, write: MutableWrite) -> Result<u64> {
        let slot = self.settled(at).await?;
        self.not_doubtful(&slot)?;
        let base = slot.version().cloned().unwrap_or_else(|| Commit {
            is_deleted: false,
            chunk_size: self.chunk_size,
            enabler: write.enabler,
            ..Commit::deletion(Generation::default(), None)
        });
        let length = write.length_after(base.length);
        let longest = MAX_CHUNKS * u64::from(base.chunk_size);
        if length > longest {
            let (index, share) = at;
            return Err(StorageError::PastEnd {
                backend: self.name(),
                index,
                share,
                end: length,
                length: longest,
            });
        }
        let _reserved = self.budget.reserve(held_by(&write, &base)).await;
        let changed = self.changed_chunks(at, &base, &write, length).await?;
        let numbers = changed.keys().copied().collect();
        let generation = self
            .slots
            .begin(at, slot.fence, numbers)
            .await?
            .ok_or_else(|| self.busy(at))?;
        let mut chunks = base.chunks.clone();
        chunks.resize(length.div_ceil(u64::from(base.chunk_size)) as usize, None);
        let puts = stream::iter(changed).map(|(number, bytes)| async move {
            let digest = blake3::hash(&bytes).into();
            self.put(
                at,
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
                // The commit was never sent: it cannot land.
                self.slots.forget(at, generation).await?;
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
        self.commit(at, &commit, slot.current.as_ref()).await?;
        Ok(length)
    }

    pub(crate) async fn delete(&self, at: At) -> Result<()> {
        let slot = self.settled(at).await?;
        self.not_doubtful(&slot)?;
        if slot.version().is_none() {
            return Ok(());
        }
        let generation = self
            .slots
            .begin(at, slot.fence, Vec::new())
            .await?
            .ok_or_else(|| self.busy(at))?;
        let parent = slot.current.as_ref().map(|commit| commit.generation);
        self.commit(
            at,
            &Commit::deletion(generation, parent),
            slot.current.as_ref(),
        )
        .await
    }

    fn not_doubtful(&self, slot: &Settled) -> Result<()> {
        if slot.is_doubtful {
            return Err(StorageError::ReadOnly {
                backend: self.name(),
                reason: "this mutable share was found by one listing only, after the database was lost; it can be written \
                         when the next complete listing shows the same"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Sends a commit whose chunks were all answered. When it returns, it is current; or somebody
    /// settled it otherwise.
    async fn commit(&self, at: At, commit: &Commit, old: Option<&Commit>) -> Result<()> {
        let bytes = self.encode(at, commit);
        match self
            .put(at, ShareObject::Commit(commit.generation), bytes.into())
            .await
        {
            Ok(()) if self.record(at, commit, old).await? => Ok(()),
            Ok(()) => {
                // Somebody else settled it, as done or as undone.
                let slot = self.settled(at).await?;
                let is_ours = slot
                    .current
                    .is_some_and(|now| now.generation == commit.generation);
                if is_ours { Ok(()) } else { Err(self.busy(at)) }
            }
            Err(e) if !e.may_land => {
                self.slots.forget(at, commit.generation).await?;
                Err(e.into())
            }
            Err(e) => {
                // It may be there, or land later: whoever settles the slot decides.
                let slot = self.settled(at).await?;
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

    /// The new contents of the chunks that a write changes.
    async fn changed_chunks(
        &self,
        at: At,
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
                        // What is overwritten as a whole need not be read.
                        let is_whole = within == 0 && part.len() as u64 == size;
                        let old = if is_whole {
                            Bytes::new()
                        } else {
                            self.chunk(at, base, number).await?
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
        // A chunk that is cut loses its end, or an extension would bring it back.
        let last = length / size;
        let is_cut = length < base.length && !length.is_multiple_of(size);
        if is_cut
            && !changed.contains_key(&last)
            && matches!(base.chunks.get(last as usize), Some(Some(_)))
        {
            changed.insert(last, self.chunk(at, base, last).await?.to_vec());
        }
        for (number, chunk) in &mut changed {
            chunk.truncate(length.saturating_sub(number * size).min(size) as usize);
        }
        changed.retain(|number, _| number * size < length);
        Ok(changed)
    }

    /// Removes what may go by now. True where nothing is left of a deleted share.
    pub(crate) async fn tidy(&self, at: At) -> Result<bool> {
        let slot = self.settled(at).await?;
        let Some(fence) = slot.fence else {
            return Ok(true);
        };
        if slot.is_doubtful {
            return Ok(false);
        }
        let (now, current) = (
            self.slots.now_ms(),
            slot.current.as_ref().map(|commit| commit.generation),
        );
        for Superseded {
            generation,
            chunks,
            until_ms,
        } in self.slots.superseded(at).await?
        {
            // Oldest first, and each commit before the chunks that only it names.
            if until_ms > now {
                return Ok(false);
            }
            self.remove(at, ShareObject::Commit(generation)).await?;
            for (number, of) in chunks {
                self.remove(at, ShareObject::MutableChunk(number, of))
                    .await?;
            }
            self.container.proves_absence().await?;
            self.slots.tidied(at, generation).await?;
        }
        match (slot.current, current) {
            (Some(mark), Some(generation)) if mark.is_deleted => {
                // It rests as long as what it replaced did, which has gone: nothing older can land
                // any longer.
                self.remove(at, ShareObject::Commit(generation)).await?;
                self.container.proves_absence().await?;
                self.slots.remove(at, fence).await
            }
            (Some(_), _) => Ok(false),
            // Nothing was ever committed: an intent that was forgotten.
            (None, _) => self.slots.remove(at, fence).await,
        }
    }

    async fn remove(&self, (index, share): At, object: ShareObject) -> Result<()> {
        Ok(self
            .container
            .cloud
            .delete(&object.key(index, share), None)
            .await?)
    }
}
