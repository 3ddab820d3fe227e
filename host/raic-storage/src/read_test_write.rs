//! Slots, the mutable shares of one storage index: tests, reads and writes them in one turn.
//!
//! Source of the operation: the Tahoe-LAFS storage protocol (http-storage-node-protocol,
//! `read-test-write`). The way in which shares are stored is ours.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Weak},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    AccountId, Allocation, EnablerHash, LateRequests, MutableWrite, RenewSecret, Result, ShareId,
    ShareKind, ShareNum, SharePart, ShareRow, ShareState, ShareStream, StorageError, StorageIndex,
    StorageServer, WriteEnabler,
    backend::mutable_store,
    uploads::{own, within},
};

/// Most bytes of a mutable share that one test may compare, and most bytes that all reads of one
/// request may return. They are held in memory.
pub const MAX_VECTOR: u64 = (30 << 20) - (64 << 10);

/// Length of the longest mutable share that clients may write, in bytes.
pub const MAX_MUTABLE: u64 = 4 << 30;

/// Most requests that may wait for their turn at one slot, each with its bytes in memory.
const MAX_WAITERS: usize = 16;

/// The tests and the change of one share of a slot.
#[derive(Clone, Debug, Default)]
pub struct TestWrite {
    /// Tests: an offset, a length, and the bytes that the share must have there. A share that does
    /// not exist is empty.
    pub tests: Vec<(u64, u64, Bytes)>,
    /// Bytes to write, each with its offset.
    pub writes: Vec<(u64, Bytes)>,
    /// Length of the share afterwards, in bytes; 0 deletes the share. `None` keeps the length that
    /// the writes give it.
    pub new_length: Option<u64>,
}

/// The answer of [`StorageServer::read_test_write`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTestWritten {
    /// Whether all tests held and the writes were done.
    pub is_written: bool,
    /// For each share of the slot, the bytes of each requested range, as they were before the
    /// writes.
    pub data: BTreeMap<ShareNum, Vec<Bytes>>,
}

impl TestWrite {
    /// Whether the share stays as it is.
    fn writes_nothing(&self) -> bool {
        self.writes.is_empty() && self.new_length.is_none()
    }

    /// Returns the length of a share of `before` bytes after the change, in bytes.
    fn length_after(&self, before: u64) -> u64 {
        let end = |(offset, bytes): &(u64, Bytes)| match bytes.is_empty() {
            true => 0,
            false => offset.saturating_add(bytes.len() as u64),
        };
        let written = self.writes.iter().map(end).max().unwrap_or(0);
        self.new_length.unwrap_or(before.max(written))
    }
}

async fn whole(mut stream: ShareStream) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = stream.try_next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

impl StorageServer {
    /// Hashes a write enabler with the array's key. Clouds see only this hash.
    pub(crate) fn enabler_hash(&self, enabler: WriteEnabler) -> EnablerHash {
        blake3::keyed_hash(&self.owner.key, &enabler.0).into()
    }

    /// Returns the lock that gives writers of a slot in this process their turns.
    pub(crate) fn slot_lock(&self, index: StorageIndex) -> Arc<tokio::sync::Mutex<()>> {
        let mut slots = self.uploads.slots.lock();
        if let Some(lock) = slots.get(&index).and_then(Weak::upgrade) {
            return lock;
        }
        slots.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        slots.insert(index, Arc::downgrade(&lock));
        lock
    }

    /// Tests and reads the mutable shares of a slot, and writes to them if all tests hold. One
    /// write enabler guards the slot. The account's leases on the shares that are written are
    /// renewed.
    ///
    /// # Errors
    /// Fails with [`StorageError::WriteEnabler`] if the slot has another write enabler; nothing was
    /// written then. Fails with [`StorageError::NotKnown`] if a write may still take effect, with
    /// [`StorageError::Taken`] if the storage index has immutable shares, and with
    /// [`StorageError::PastEnd`] if the tests or reads ask for too many bytes. Fails with
    /// [`StorageError::AccountDisabled`] or [`StorageError::QuotaExceeded`] if the account may not
    /// write.
    pub async fn read_test_write(
        self: &Arc<Self>,
        account: AccountId,
        index: StorageIndex,
        enabler: WriteEnabler,
        renew: RenewSecret,
        vectors: BTreeMap<ShareNum, TestWrite>,
        reads: &[Range<u64>],
    ) -> Result<ReadTestWritten> {
        // Each waiting request holds its bytes, even if its client has gone.
        let waiting = self.slot_lock(index);
        if Arc::strong_count(&waiting) > MAX_WAITERS
            && let Some(share) = vectors.keys().next().copied()
        {
            return Err(StorageError::Busy {
                backend: self.name().to_owned(),
                id: ShareId { index, share },
            });
        }
        let (this, reads) = (self.clone(), reads.to_vec());
        // A task of its own keeps the slot's turn until the write has ended, even if the client
        // goes away.
        let turn = tokio::spawn(async move {
            let lock = waiting;
            // Writers of a slot in this process take turns. The fence in the database stops the
            // writers of other processes.
            let turn = lock.lock().await;
            let written = this
                .read_test_write_in_turn(account, index, enabler, renew, vectors, &reads)
                .await;
            drop(turn);
            let (answer, deleted) = written?;
            if !deleted.is_empty() {
                this.wake();
            }
            for id in deleted {
                // Clients may make a share again right after they deleted it.
                if let Err(e) = this.delete_now(id).await {
                    tracing::debug!("the remains of {id} go later: {e}");
                }
            }
            Ok(answer)
        });
        own(turn).await
    }

    async fn read_test_write_in_turn(
        &self,
        account: AccountId,
        index: StorageIndex,
        enabler: WriteEnabler,
        renew: RenewSecret,
        vectors: BTreeMap<ShareNum, TestWrite>,
        reads: &[Range<u64>],
    ) -> Result<(ReadTestWritten, Vec<ShareId>)> {
        for (share, vector) in &vectors {
            let end = |(offset, bytes): &(u64, Bytes)| offset.saturating_add(bytes.len() as u64);
            let ends = vector.writes.iter().map(end).chain(vector.new_length);
            let end = ends.max().unwrap_or(0);
            if end > MAX_MUTABLE {
                return Err(StorageError::PastEnd {
                    backend: self.name().to_owned(),
                    id: ShareId {
                        index,
                        share: *share,
                    },
                    end,
                    length: MAX_MUTABLE,
                });
            }
        }
        let hash = self.enabler_hash(enabler);
        let rows = self.rows(index).await?;
        let immutable =
            |row: &&ShareRow| row.kind != ShareKind::Mutable && row.state == ShareState::Stable;
        if let Some(row) = rows.iter().find(immutable) {
            return Err(StorageError::Taken {
                backend: self.name().to_owned(),
                id: row.id,
                state: "exists and is immutable",
            });
        }
        let mut lengths = BTreeMap::new();
        let mutable =
            |row: &&ShareRow| row.kind == ShareKind::Mutable && row.state != ShareState::Going;
        for row in rows.iter().filter(mutable) {
            if let Some(share) = mutable_store(&*self.backend)?.state(row.id).await? {
                if share.enabler != hash {
                    return Err(StorageError::WriteEnabler {
                        backend: self.name().to_owned(),
                        index,
                    });
                }
                lengths.insert(row.id.share, share.length);
            }
        }
        let mut answer = ReadTestWritten {
            is_written: true,
            ..ReadTestWritten::default()
        };
        // All tests of all shares share the room, as do all reads.
        let mut room = MAX_VECTOR;
        'tests: for (share, vector) in &vectors {
            for (offset, length, specimen) in &vector.tests {
                let range = *offset..offset.saturating_add(*length);
                let there = lengths.get(share).copied().unwrap_or(0);
                let there = within(&range, there);
                // Bytes that cannot be equal need not be read.
                if there.end - there.start != specimen.len() as u64 {
                    answer.is_written = false;
                    break 'tests;
                }
                let part = self
                    .part(
                        ShareId {
                            index,
                            share: *share,
                        },
                        &lengths,
                        range,
                        &mut room,
                    )
                    .await?;
                if part != *specimen {
                    answer.is_written = false;
                    break 'tests;
                }
            }
        }
        room = MAX_VECTOR;
        for share in lengths.keys() {
            let mut data = Vec::new();
            for range in reads {
                data.push(
                    self.part(
                        ShareId {
                            index,
                            share: *share,
                        },
                        &lengths,
                        range.clone(),
                        &mut room,
                    )
                    .await?,
                );
            }
            answer.data.insert(*share, data);
        }
        if !answer.is_written || vectors.is_empty() {
            return Ok((answer, Vec::new()));
        }
        // Space and quota are taken for all shares before the first is written.
        let mut begun = Vec::new();
        for (share, vector) in &vectors {
            if vector.writes_nothing() || vector.new_length == Some(0) {
                continue;
            }
            self.require_writable().await?;
            let before = lengths.get(share).copied().unwrap_or(0);
            begun.push(Allocation {
                server: self.id,
                id: ShareId {
                    index,
                    share: *share,
                },
                kind: ShareKind::Mutable,
                account,
                reserve: vector.length_after(before),
                upload: None,
            });
        }
        self.leasedb
            .begin_mutable_writes(begun, renew, enabler)
            .await?;
        // What each share became, to be recorded at once with the leases of all.
        let (mut measured, mut deleted) = (Vec::new(), Vec::new());
        let (lease, late) = ((account, renew), self.late_deletions());
        for (share, vector) in vectors {
            let id = ShareId { index, share };
            let before = lengths.get(&share).copied();
            let is_going = rows
                .iter()
                .any(|row| row.id == id && row.state == ShareState::Going);
            if is_going && vector.new_length == Some(0) {
                // The share is being collected, and perhaps its deletion was not committed yet. If
                // the database were lost, the share would be found again.
                self.require_writable().await?;
                mutable_store(&*self.backend)?.delete_mutable(id).await?;
            }
            if vector.new_length == Some(0) && before.is_some() {
                deleted.push(id);
            }
            match self
                .apply(account, id, before, enabler, renew, vector)
                .await
            {
                Ok(Some(length)) => measured.push((id, Some(length))),
                Ok(None) => {}
                Err(e) => {
                    // The shares before this one are written.
                    self.leasedb
                        .measured_all(self.id, measured, lease, late)
                        .await?;
                    return Err(e);
                }
            }
        }
        self.leasedb
            .measured_all(self.id, measured, lease, late)
            .await?;
        Ok((answer, deleted))
    }

    async fn part(
        &self,
        id: ShareId,
        lengths: &BTreeMap<ShareNum, u64>,
        range: Range<u64>,
        room: &mut u64,
    ) -> Result<Bytes> {
        let length = lengths.get(&id.share).copied().unwrap_or(0);
        let Range { start, end } = within(&range, length);
        let Some(left) = room.checked_sub(end - start) else {
            let backend = self.name().to_owned();
            return Err(StorageError::PastEnd {
                backend,
                id,
                end: end - start,
                length: *room,
            });
        };
        *room = left;
        if start == end {
            return Ok(Bytes::new());
        }
        whole(
            mutable_store(&*self.backend)?
                .read_mutable(id, start..end)
                .await?,
        )
        .await
    }

    /// Whether deletions in the container may take effect late.
    pub(crate) fn late_deletions(&self) -> LateRequests {
        match self.backend.deletions_may_land() {
            true => LateRequests::MayLand,
            false => LateRequests::Answered,
        }
    }

    /// Makes the change of one share, for which space was reserved. Returns the share's length if
    /// it was written, which is still to be recorded.
    async fn apply(
        &self,
        account: AccountId,
        id: ShareId,
        before: Option<u64>,
        enabler: WriteEnabler,
        renew: RenewSecret,
        vector: TestWrite,
    ) -> Result<Option<u64>> {
        let TestWrite {
            writes, new_length, ..
        } = vector;
        let store = mutable_store(&*self.backend)?;
        if new_length == Some(0) {
            self.leasedb.require_enabled(account).await?;
            if before.is_some() {
                self.require_writable().await?;
                // If the outcome of the deletion stays unknown, it is looked up later.
                self.leasedb.unmeasure(self.id, id).await?;
                store.delete_mutable(id).await?;
                let late = self.late_deletions();
                self.leasedb.mutable_deleted(self.id, id, late).await?;
            }
            return Ok(None);
        }
        if writes.is_empty() && new_length.is_none() {
            return Ok(None);
        }
        let write = MutableWrite {
            writes,
            new_length,
            enabler: self.enabler_hash(enabler),
        };
        let written = store.write_mutable(id, write).await;
        match written {
            Ok(length) => Ok(Some(length)),
            // The share is measured when the outcome is known.
            Err(e @ StorageError::NotKnown { .. }) => Err(e),
            Err(e) => {
                let length = store.state(id).await?.map(|share| share.length);
                self.leasedb
                    .measured(self.id, id, length, (account, renew), self.late_deletions())
                    .await?;
                Err(e)
            }
        }
    }

    /// Reads a part of a mutable share. The part is cut at the share's end, and is all of one
    /// version.
    ///
    /// # Errors
    /// Fails with [`StorageError::NotFound`] if the share does not exist, and as
    /// [`crate::MutableStore::read_mutable`] does.
    pub async fn read_mutable(&self, id: ShareId, range: Range<u64>) -> Result<SharePart> {
        let not_found = || StorageError::NotFound {
            backend: self.name().to_owned(),
            id,
        };
        let rows = self.rows(id.index).await?;
        let known = |row: &ShareRow| {
            row.id == id && row.kind == ShareKind::Mutable && row.state != ShareState::Going
        };
        if !rows.iter().any(known) {
            return Err(not_found());
        }
        // Readers wait for a writer's turn to end, so that the writer settles its own intent. The
        // version that they read then is kept long enough after it is superseded.
        let lock = self.slot_lock(id.index);
        let _turn = lock.lock().await;
        let store = mutable_store(&*self.backend)?;
        let length = store.state(id).await?.ok_or_else(not_found)?.length;
        let range = within(&range, length);
        let content = match range.is_empty() {
            true => stream::empty().boxed(),
            false => store.read_mutable(id, range.clone()).await?,
        };
        Ok(SharePart {
            length,
            range,
            content,
        })
    }
}
