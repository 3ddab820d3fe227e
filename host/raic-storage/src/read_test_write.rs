//! Slots: the mutable shares of one storage index, tested, read and written in one turn.
//!
//! Source: the Tahoe-LAFS storage protocol (http-storage-node-protocol, `read-test-write`); how
//! shares are stored is ours.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Weak},
};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;

use crate::{
    AccountId, Allocation, MutableWrite, RenewSecret, Result, ShareId, ShareKind, ShareNum,
    ShareRow, ShareState, ShareStream, StorageError, StorageIndex, StorageServer,
    backend::mutable_store, uploads::own,
};

/// The longest part of a mutable share that a test may ask for, and the most that all reads of one
/// request may, in bytes: it is held whole.
pub const MAX_VECTOR: u64 = 32 << 20;

/// What is done to one share of a slot.
#[derive(Clone, Debug, Default)]
pub struct TestWrite {
    /// Bytes that must be there: offset, length, and what they must be. What is not there is empty.
    pub tests: Vec<(u64, u64, Bytes)>,
    /// Bytes that are written.
    pub writes: Vec<(u64, Bytes)>,
    /// The length afterwards; 0 deletes the share.
    pub new_length: Option<u64>,
}

/// An answer to [`StorageServer::read_test_write`]: whether the tests held and all was written; and
/// what was asked of each share of the slot, as it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTestWritten {
    /// Whether it was written.
    pub is_written: bool,
    /// By share, for each range asked.
    pub data: BTreeMap<ShareNum, Vec<Bytes>>,
}

async fn whole(mut stream: ShareStream) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = stream.try_next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

impl StorageServer {
    /// The hash of a write enabler, under which clouds see it.
    fn enabler_hash(&self, enabler: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.owner.key, enabler).into()
    }

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

    /// Tests a slot's shares, reads them, and writes to them where all tests hold: mutable shares
    /// of one storage index, guarded by one write enabler. The account's leases are renewed where
    /// it is written.
    ///
    /// # Errors
    /// [`StorageError::WriteEnabler`] where it is another's, and nothing was written;
    /// [`StorageError::NotKnown`] where a write may still come to be done; the account's.
    pub async fn read_test_write(
        self: &Arc<Self>,
        account: AccountId,
        index: StorageIndex,
        enabler: &[u8],
        renew: RenewSecret,
        vectors: BTreeMap<ShareNum, TestWrite>,
        reads: &[Range<u64>],
    ) -> Result<ReadTestWritten> {
        let (this, enabler, reads) = (self.clone(), self.enabler_hash(enabler), reads.to_vec());
        // A task of its own: the slot's turn lasts until its write has ended, though the client
        // goes away.
        let turn = tokio::spawn(async move {
            let lock = this.slot_lock(index);
            // Writers of a slot in this process take turns; those of others meet the fence in the
            // database.
            let _turn = lock.lock().await;
            this.read_test_write_in_turn(account, index, enabler, renew, vectors, &reads)
                .await
        });
        own(turn).await
    }

    async fn read_test_write_in_turn(
        &self,
        account: AccountId,
        index: StorageIndex,
        enabler: [u8; 32],
        renew: RenewSecret,
        vectors: BTreeMap<ShareNum, TestWrite>,
        reads: &[Range<u64>],
    ) -> Result<ReadTestWritten> {
        let rows = self.rows(index).await?;
        if let Some(row) = rows.iter().find(|row| row.kind != ShareKind::Mutable) {
            return Err(StorageError::Taken {
                backend: self.name().to_owned(),
                id: row.id,
                state: "is there and is immutable",
            });
        }
        let mut lengths = BTreeMap::new();
        for row in rows.iter().filter(|row| row.state != ShareState::Going) {
            if let Some(there) = mutable_store(&*self.backend)?.state(row.id).await? {
                if there.enabler != enabler {
                    return Err(StorageError::WriteEnabler {
                        backend: self.name().to_owned(),
                        index,
                    });
                }
                lengths.insert(row.id.share, there.length);
            }
        }
        let mut answer = ReadTestWritten {
            is_written: true,
            ..ReadTestWritten::default()
        };
        for (share, vector) in &vectors {
            for (offset, length, specimen) in &vector.tests {
                let range = *offset..offset.saturating_add(*length);
                let part = self
                    .part(
                        ShareId {
                            index,
                            share: *share,
                        },
                        &lengths,
                        range,
                        &mut { MAX_VECTOR },
                    )
                    .await?;
                answer.is_written &= part == *specimen;
            }
        }
        // The answer holds all that was asked of all shares.
        let mut room = MAX_VECTOR;
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
        if !answer.is_written {
            return Ok(answer);
        }
        for (share, vector) in vectors {
            let id = ShareId { index, share };
            let before = lengths.get(&share).copied();
            let is_going = rows
                .iter()
                .any(|row| row.id == id && row.state == ShareState::Going);
            if is_going && vector.new_length == Some(0) {
                // Collected, and perhaps not marked as deleted yet: with the database lost it would
                // be found again.
                self.require_writable().await?;
                mutable_store(&*self.backend)?.delete_mutable(id).await?;
            }
            self.apply(account, id, before, enabler, renew, vector)
                .await?;
        }
        match self.leasedb.renew(self.id, index, account, renew).await {
            // The write is done.
            Err(StorageError::TooManyLeases { .. }) => {}
            renewed => drop(renewed?),
        }
        Ok(answer)
    }

    async fn part(
        &self,
        id: ShareId,
        lengths: &BTreeMap<ShareNum, u64>,
        range: Range<u64>,
        room: &mut u64,
    ) -> Result<Bytes> {
        let length = lengths.get(&id.share).copied().unwrap_or(0);
        let (start, end) = (
            range.start.min(length),
            range.end.max(range.start).min(length),
        );
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

    async fn apply(
        &self,
        account: AccountId,
        id: ShareId,
        before: Option<u64>,
        enabler: [u8; 32],
        renew: RenewSecret,
        vector: TestWrite,
    ) -> Result<()> {
        let TestWrite {
            writes, new_length, ..
        } = vector;
        self.leasedb.require_enabled(account).await?;
        let store = mutable_store(&*self.backend)?;
        if new_length == Some(0) {
            if before.is_some() {
                self.require_writable().await?;
                // Should the end not be seen, it is looked for.
                self.leasedb.unmeasure(self.id, id).await?;
                store.delete_mutable(id).await?;
                self.leasedb.mutable_deleted(self.id, id).await?;
                self.wake();
            }
            return Ok(());
        }
        if writes.is_empty() && new_length.is_none() {
            return Ok(());
        }
        self.require_writable().await?;
        let write = MutableWrite {
            writes,
            new_length,
            enabler,
        };
        let length = write.length_after(before.unwrap_or(0));
        let new = Allocation {
            server: self.id,
            id,
            kind: ShareKind::Mutable,
            account,
            reserve: length,
            upload: None,
        };
        self.leasedb.begin_mutable_write(new, renew).await?;
        let written = store.write_mutable(id, write).await;
        if matches!(written, Err(StorageError::NotKnown { .. })) {
            // What it takes is measured when it is known.
            return written.map(drop);
        }
        let length = match &written {
            Ok(length) => Some(*length),
            Err(_) => store.state(id).await?.map(|there| there.length),
        };
        self.leasedb
            .measured(self.id, id, length, (account, renew))
            .await?;
        written.map(drop)
    }

    /// Reads a part of a mutable share, cut at its end.
    ///
    /// # Errors
    /// [`StorageError::NotFound`]; the backend's.
    pub async fn read_mutable(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        let rows = self.rows(id.index).await?;
        let known = |row: &ShareRow| {
            row.id == id && row.kind == ShareKind::Mutable && row.state != ShareState::Going
        };
        if !rows.iter().any(known) {
            return Err(StorageError::NotFound {
                backend: self.name().to_owned(),
                id,
            });
        }
        // A writer's intent is its own to settle: readers wait for its turn to end. What they read
        // then rests long enough.
        let lock = self.slot_lock(id.index);
        let _turn = lock.lock().await;
        mutable_store(&*self.backend)?.read_mutable(id, range).await
    }
}
