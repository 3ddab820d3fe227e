//! What a Tahoe-LAFS storage server does with shares: uploads by offset, and mutable slots that are
//! tested, read and written.
//!
//! Source: the Tahoe-LAFS storage protocol (http-storage-node-protocol); how shares are stored is
//! ours.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;

use crate::{
    AccountId, Allocation, Coming, Container, MAX_SHARE, MutableWrite, RenewSecret, Result,
    ShareKind, ShareNum, ShareRow, ShareState, ShareStream, ShareUpload, StorageError,
    StorageIndex, StorageServer, Upload, leasedb,
};

/// The longest part of a mutable share that a test may ask for, and the most that all reads of one
/// request may, in bytes: it is held whole.
pub const MAX_VECTOR: u64 = 32 << 20;

/// Pieces of one upload that do not touch, at most.
const MAX_PIECES: usize = 1024;
/// Writers that may wait for one upload's turn, each with its bytes.
const MAX_WAITERS: usize = 16;

type At = (StorageIndex, ShareNum);

/// What is open in this process: uploads, and the order of slots' writers.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    /// The turn of whoever collects.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    open: Mutex<HashMap<At, Arc<tokio::sync::Mutex<Option<Open>>>>>,
    slots: Mutex<HashMap<StorageIndex, Weak<tokio::sync::Mutex<()>>>>,
}

/// An upload that goes on.
struct Open {
    coming: Coming,
    upload: Upload,
    header: u64,
    file: Box<dyn ShareUpload>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("coming", &self.coming)
            .finish_non_exhaustive()
    }
}

/// An answer to [`StorageServer::allocate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Shares of the storage index that are there.
    pub already_have: BTreeSet<ShareNum>,
    /// Shares that this upload may write.
    pub allocated: BTreeSet<ShareNum>,
}

/// An answer to [`StorageServer::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What is still to be written; nothing where the share is complete.
    pub required: Vec<Range<u64>>,
}

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

/// What a task of ours came to.
async fn own<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|e| {
        Err(StorageError::Unusable {
            reason: format!("an inner task failed: {e}"),
        })
    })
}

async fn whole(mut stream: ShareStream) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = stream.try_next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

impl StorageServer {
    /// Bytes that may still be allocated; none where there is no telling, as in a cloud. Uploads
    /// that were allocated and have not begun count as written: the backend knows nothing of them
    /// yet.
    ///
    /// # Errors
    /// The backend's.
    pub async fn available_space(&self) -> Result<Option<u64>> {
        let Some(available) = self.backend.available_space().await? else {
            return Ok(None);
        };
        let server = self.id;
        let promised = self
            .leasedb
            .read(move |c| leasedb::not_begun(c, server))
            .await?;
        Ok(Some(available.saturating_sub(promised)))
    }

    /// Allocates shares of one size for an upload that is known by its secret, as many as there is
    /// room for, and renews the account's lease on those that are there: also on a cloud that is
    /// full or read-only, which allocates none. A share that another upload writes, or that is
    /// being deleted, is in neither set of the answer; so is one that was lost, whose remains go
    /// first, and every new one for a while after the container was taken over from another
    /// database.
    ///
    /// # Errors
    /// The account's; [`StorageError::TooLarge`].
    pub async fn allocate(
        &self,
        account: AccountId,
        index: StorageIndex,
        shares: BTreeSet<ShareNum>,
        size: u64,
        secret: RenewSecret,
        renew: RenewSecret,
    ) -> Result<Allocated> {
        let length = size.saturating_add(Container::immutable(size).len() as u64);
        if length > MAX_SHARE
            && let Some(share) = shares.first()
        {
            return Err(StorageError::TooLarge {
                index,
                share: *share,
                asked: length,
            });
        }
        let is_writable = match self.require_writable().await {
            Ok(()) => true,
            Err(e) => {
                tracing::debug!("nothing is allocated: {e}");
                false
            }
        };
        let available = if is_writable {
            self.backend.available_space().await?
        } else {
            None
        };
        let (leasedb, server, name) = (self.leasedb.clone(), self.id, self.name().to_owned());
        let allocated = self
            .leasedb
            .write(move |tx| {
                let mut answer = Allocated::default();
                let there = leasedb::shareset(tx, server, index)?;
                for row in &there {
                    match row.state {
                        ShareState::Stable if !row.is_lost => {
                            answer.already_have.insert(row.share);
                        }
                        ShareState::Coming
                            if shares.contains(&row.share)
                                && leasedb::upload_of(tx, row.id)? == Some(secret) =>
                        {
                            answer.allocated.insert(row.share);
                        }
                        // It can be stored again when what may be there of it has gone.
                        ShareState::Stable
                            if is_writable
                                && row.has_vanished
                                && shares.contains(&row.share)
                                && row.kind == ShareKind::Immutable =>
                        {
                            leasedb.condemn_lost(tx, server, row)?;
                        }
                        _ => {}
                    }
                }
                // Other bytes of the host before could land under the same names.
                let may_begin = is_writable && !leasedb.was_just_taken(tx, server)?;
                // What was promised counts as written, also by whoever allocated a moment ago.
                let promised = leasedb::not_begun(tx, server)?;
                let mut room =
                    available.map_or(u64::MAX, |available| available.saturating_sub(promised));
                for share in shares.into_iter().filter(|_| may_begin) {
                    // What a lost database left of it there must go first.
                    if there.iter().any(|row| row.share == share)
                        || leasedb::is_suspect(tx, server, (index, share))?
                    {
                        continue;
                    }
                    let Some(left) = room.checked_sub(length) else {
                        break;
                    };
                    let upload = Some(Upload {
                        secret,
                        renew,
                        length,
                    });
                    let kind = ShareKind::Immutable;
                    let new = Allocation {
                        server,
                        index,
                        share,
                        kind,
                        account,
                        reserve: length,
                        upload,
                    };
                    match leasedb.allocate(tx, &name, &new) {
                        // As many as the account may have; none at all is told.
                        Err(StorageError::QuotaExceeded { .. })
                            if !answer.allocated.is_empty() || !answer.already_have.is_empty() =>
                        {
                            break;
                        }
                        other => other?,
                    }
                    room = left;
                    answer.allocated.insert(share);
                }
                match leasedb.renew_in(tx, server, index, account, renew) {
                    // What there is has leases enough of this account.
                    Err(StorageError::TooManyLeases { .. }) => {}
                    renewed => drop(renewed?),
                }
                Ok(answer)
            })
            .await;
        self.wake();
        allocated
    }

    fn no_upload(&self, (index, share): At) -> StorageError {
        StorageError::NoUpload {
            backend: self.name().to_owned(),
            index,
            share,
        }
    }

    /// The place of an upload among those that are open, opened or not.
    fn place(&self, at: At) -> Arc<tokio::sync::Mutex<Option<Open>>> {
        self.uploads
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(at)
            .or_default()
            .clone()
    }

    /// Takes an upload out of those that are open; whoever waits for its place finds that it is no
    /// longer there.
    pub(crate) fn close(&self, at: At) {
        self.uploads
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&at);
    }

    /// The place of an upload, for as long as the guard lives this caller's alone.
    async fn lock_place(&self, at: At) -> tokio::sync::OwnedMutexGuard<Option<Open>> {
        loop {
            let place = self.place(at);
            let guard = place.clone().lock_owned().await;
            // Closed while it was waited for, it is nobody's place any longer.
            let is_current = Arc::ptr_eq(&place, &self.place(at));
            if is_current {
                return guard;
            }
        }
    }

    async fn open_upload(&self, at: At, secret: RenewSecret) -> Result<Open> {
        let coming = self
            .leasedb
            .coming(self.id, at.0, at.1)
            .await?
            .ok_or_else(|| self.no_upload(at))?;
        let upload = coming
            .upload
            .filter(|u| u.secret == secret)
            .ok_or_else(|| self.no_upload(at))?;
        let file = self
            .backend
            .upload(at.0, at.1, upload.length, coming.received.clone())
            .await?;
        let header = Container::immutable(upload.length.saturating_sub(12)).len() as u64;
        let mut open = Open {
            coming,
            upload,
            header,
            file,
        };
        if !open.coming.received.contains(&(0..header)) {
            let bytes = Container::immutable(open.upload.length - header);
            open.file.write_at(0, bytes.into()).await?;
            open.coming.received.insert(0..header);
        }
        Ok(open)
    }

    /// Writes bytes of an upload, in any order. They are durable when it returns; the share is
    /// there when nothing is required any longer. The same bytes may be written again.
    ///
    /// # Errors
    /// [`StorageError::NoUpload`], [`StorageError::Conflict`] where other bytes are there,
    /// [`StorageError::PastEnd`].
    pub async fn write(
        self: &Arc<Self>,
        index: StorageIndex,
        share: ShareNum,
        secret: RenewSecret,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Written> {
        // Before it has a place, which nobody would clear again.
        self.require_writable().await?;
        // Each who waits holds its bytes, though its client may have gone.
        if Arc::strong_count(&self.place((index, share))) > MAX_WAITERS {
            return Err(StorageError::Busy {
                backend: self.name().to_owned(),
                index,
                share,
            });
        }
        let this = self.clone();
        // A task of its own: a client that goes away leaves nothing half done.
        own(tokio::spawn(async move {
            this.write_part((index, share), secret, offset, bytes).await
        }))
        .await
    }

    async fn write_part(
        &self,
        at: At,
        secret: RenewSecret,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Written> {
        self.require_writable().await?;
        let written = self.write_in_turn(at, secret, offset, bytes).await;
        if let Err(StorageError::InTheWay { chunk, .. }) = &written {
            // It can never be complete: each try would keep it and what lies in its way.
            self.close(at);
            self.give_up(at, secret, *chunk).await?;
        }
        written
    }

    async fn write_in_turn(
        &self,
        at: At,
        secret: RenewSecret,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Written> {
        let (index, share) = at;
        // One writer at a time for each share: it waits for the disk or the cloud, and others for
        // it.
        let mut opened = self.lock_place(at).await;
        let row = self.leasedb.coming(self.id, index, share).await?;
        // What is open is of an upload that has ended, where its row is another one by now.
        if opened
            .as_ref()
            .is_some_and(|open| row.as_ref().is_none_or(|row| row.id != open.coming.id))
        {
            *opened = None;
        }
        if row
            .and_then(|row| row.upload)
            .is_none_or(|upload| upload.secret != secret)
        {
            if opened.is_none() {
                self.close(at);
            }
            return Err(self.no_upload(at));
        }
        if opened.is_none() {
            *opened = Some(
                self.open_upload(at, secret)
                    .await
                    .inspect_err(|_| self.close(at))?,
            );
        }
        let Some(open) = opened.as_mut() else {
            return Err(self.no_upload(at));
        };
        let (header, length) = (open.header, open.upload.length);
        let end = offset
            .checked_add(bytes.len() as u64)
            .and_then(|end| end.checked_add(header));
        let end = end
            .filter(|end| *end <= length)
            .ok_or_else(|| StorageError::PastEnd {
                backend: self.name().to_owned(),
                index,
                share,
                end: offset.saturating_add(bytes.len() as u64),
                length: length - header,
            })?;
        let range = offset + header..end;
        let part = |r: &Range<u64>| {
            bytes.slice((r.start - range.start) as usize..(r.end - range.start) as usize)
        };
        for there in open.coming.received.within(&range) {
            if open.file.read_back(there.clone()).await? != part(&there) {
                return Err(StorageError::Conflict {
                    backend: self.name().to_owned(),
                    index,
                    share,
                });
            }
        }
        for missing in open.coming.received.missing(length) {
            let new = missing.start.max(range.start)..missing.end.min(range.end);
            if new.start < new.end {
                open.file.write_at(new.start, part(&new)).await?;
            }
        }
        open.coming.received.insert(range);
        // Each is a row, and all are written again with each part.
        if open.coming.received.ranges().len() > MAX_PIECES {
            let backend = self.name().to_owned();
            *opened = None;
            return Err(StorageError::TooManyPieces {
                backend,
                index,
                share,
                most: MAX_PIECES,
            });
        }
        self.leasedb
            .received(open.coming.id, &open.coming.received)
            .await?;
        let required = open.coming.received.missing(length);
        if required.is_empty() {
            let Some(open) = opened.take() else {
                return Err(self.no_upload(at));
            };
            let finished = self.finish(at, open).await;
            self.close(at);
            finished?;
        }
        Ok(Written {
            required: required
                .iter()
                .map(|r| r.start - header..r.end - header)
                .collect(),
        })
    }

    /// Ends an upload that met other bytes under the name of a chunk. A whole share that is there,
    /// which no walk had found yet, is found now; what is not whole goes.
    async fn give_up(&self, at: At, secret: RenewSecret, chunk: u64) -> Result<()> {
        // Behind a chunk of its own, what lies there is no other share.
        let there = match chunk {
            0 => self.whole_by_its_chunks(at).await?,
            _ => None,
        };
        let (leasedb, server) = (self.leasedb.clone(), self.id);
        self.leasedb
            .write(move |tx| {
                let row = leasedb::find(tx, server, at.0, at.1)?;
                let Some(row) = row.filter(|row| row.state == ShareState::Coming) else {
                    return Ok(());
                };
                // Another upload has begun there since.
                if leasedb::upload_of(tx, row.id)? != Some(secret) {
                    return Ok(());
                }
                match there {
                    Some((kind, stored)) => leasedb.found_instead(tx, server, &row, kind, stored),
                    None => leasedb.abandon(tx, server, at, true),
                }
            })
            .await?;
        self.wake();
        Ok(())
    }

    async fn finish(&self, (index, share): At, open: Open) -> Result<()> {
        let stored = open.file.finish().await?;
        let (leasedb, server, name) = (self.leasedb.clone(), self.id, self.name().to_owned());
        let (account, renew) = (open.coming.account, open.upload.renew);
        self.leasedb
            .write(move |tx| {
                let expires = leasedb.after(leasedb::account(tx, account)?.lease);
                let stored = (stored.objects, stored.bytes);
                leasedb.complete(
                    tx,
                    (server, &name),
                    (index, share),
                    stored,
                    (account, renew, Some(expires)),
                )
            })
            .await?;
        if let Err(e) = self.backend.forget_upload(index, share).await {
            // The share is there. What is left in the spool goes at the next start.
            tracing::warn!("{e}");
        }
        Ok(())
    }

    /// Gives an upload up. Its name can be used again when what was sent has gone.
    ///
    /// # Errors
    /// [`StorageError::NoUpload`] where there is none of that secret, [`StorageError::Taken`] where
    /// the share is complete.
    pub async fn abort(
        &self,
        index: StorageIndex,
        share: ShareNum,
        secret: RenewSecret,
    ) -> Result<()> {
        let at = (index, share);
        let mut opened = self.lock_place(at).await;
        let (leasedb, server, name) = (self.leasedb.clone(), self.id, self.name().to_owned());
        // What was sent before a restart, if anything, is not known to have been answered.
        let may_land = opened
            .as_ref()
            .is_none_or(|open| !open.coming.is_of_this_run || open.file.may_land());
        let no_upload = self.no_upload(at);
        self.leasedb
            .write(move |tx| match leasedb::find(tx, server, index, share)? {
                Some(row) if row.state == ShareState::Stable => Err(StorageError::Taken {
                    backend: name,
                    index,
                    share,
                    state: "is complete",
                }),
                Some(row) if leasedb::upload_of(tx, row.id)? == Some(secret) => {
                    leasedb.abandon(tx, server, (index, share), may_land)
                }
                _ => Err(no_upload),
            })
            .await
            // An upload that nobody knows keeps no place.
            .inspect_err(|_| {
                if opened.is_none() {
                    self.close(at);
                }
            })?;
        *opened = None;
        self.close(at);
        self.wake();
        Ok(())
    }

    /// Reads a part of an immutable share, cut at its end.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] where it is not there or not complete; the backend's.
    pub async fn read_immutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        let server = self.id;
        let row = self
            .leasedb
            .read(move |c| leasedb::find(c, server, index, share))
            .await?;
        let stable =
            row.filter(|row| row.state == ShareState::Stable && row.kind == ShareKind::Immutable);
        let row = stable.ok_or_else(|| StorageError::NotFound {
            backend: self.name().to_owned(),
            index,
            share,
        })?;
        let header = Container::immutable(row.used_space.saturating_sub(12)).len() as u64;
        let (start, end) = (
            range.start.saturating_add(header),
            range.end.saturating_add(header).min(row.used_space),
        );
        self.backend.read(index, share, start.min(end)..end).await
    }

    /// The complete shares of a storage index, of one kind, but for those that were lost.
    ///
    /// # Errors
    /// The database's.
    pub async fn shares(&self, index: StorageIndex, kind: ShareKind) -> Result<BTreeSet<ShareNum>> {
        let rows = self.rows(index).await?;
        let there = rows
            .into_iter()
            .filter(|row| row.state == ShareState::Stable && row.kind == kind && !row.has_vanished);
        Ok(there.map(|row| row.share).collect())
    }

    async fn rows(&self, index: StorageIndex) -> Result<Vec<ShareRow>> {
        let server = self.id;
        self.leasedb
            .read(move |c| leasedb::shareset(c, server, index))
            .await
    }

    /// Adds or renews a lease on all shares of a storage index that are whole and not lost. Returns
    /// which.
    ///
    /// # Errors
    /// The database's.
    pub async fn renew(
        &self,
        account: AccountId,
        index: StorageIndex,
        renew: RenewSecret,
    ) -> Result<BTreeSet<ShareNum>> {
        self.leasedb.renew(self.id, index, account, renew).await
    }

    /// The hash of a write enabler, under which clouds see it.
    fn enabler_hash(&self, enabler: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.owner.key, enabler).into()
    }

    pub(crate) fn slot_lock(&self, index: StorageIndex) -> Arc<tokio::sync::Mutex<()>> {
        let mut slots = self
            .uploads
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
            let (backend, share, state) = (
                self.name().to_owned(),
                row.share,
                "is there and is immutable",
            );
            return Err(StorageError::Taken {
                backend,
                index,
                share,
                state,
            });
        }
        let mut lengths = BTreeMap::new();
        for row in rows.iter().filter(|row| row.state != ShareState::Going) {
            if let Some(there) = self.backend.mutable(index, row.share).await? {
                if there.enabler != enabler {
                    return Err(StorageError::WriteEnabler {
                        backend: self.name().to_owned(),
                        index,
                    });
                }
                lengths.insert(row.share, there.length);
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
                    .part((index, *share), &lengths, range, &mut { MAX_VECTOR })
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
                    self.part((index, *share), &lengths, range.clone(), &mut room)
                        .await?,
                );
            }
            answer.data.insert(*share, data);
        }
        if !answer.is_written {
            return Ok(answer);
        }
        for (share, vector) in vectors {
            let before = lengths.get(&share).copied();
            let is_going = rows
                .iter()
                .any(|row| row.share == share && row.state == ShareState::Going);
            if is_going && vector.new_length == Some(0) {
                // Collected, and perhaps not marked as deleted yet: with the database lost it would
                // be found again.
                self.require_writable().await?;
                self.backend.delete_mutable(index, share).await?;
            }
            self.apply(account, (index, share), before, enabler, renew, vector)
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
        (index, share): At,
        lengths: &BTreeMap<ShareNum, u64>,
        range: Range<u64>,
        room: &mut u64,
    ) -> Result<Bytes> {
        let length = lengths.get(&share).copied().unwrap_or(0);
        let (start, end) = (
            range.start.min(length),
            range.end.max(range.start).min(length),
        );
        let Some(left) = room.checked_sub(end - start) else {
            let backend = self.name().to_owned();
            return Err(StorageError::PastEnd {
                backend,
                index,
                share,
                end: end - start,
                length: *room,
            });
        };
        *room = left;
        if start == end {
            return Ok(Bytes::new());
        }
        whole(self.backend.read_mutable(index, share, start..end).await?).await
    }

    async fn apply(
        &self,
        account: AccountId,
        at: At,
        before: Option<u64>,
        enabler: [u8; 32],
        renew: RenewSecret,
        vector: TestWrite,
    ) -> Result<()> {
        let TestWrite {
            writes, new_length, ..
        } = vector;
        let (index, share) = at;
        self.leasedb
            .read(move |c| leasedb::admit(c, account, 0))
            .await?;
        if new_length == Some(0) {
            if before.is_some() {
                self.require_writable().await?;
                let (leasedb, server) = (self.leasedb.clone(), self.id);
                // Should the end not be seen, it is looked for.
                self.leasedb
                    .write(move |tx| leasedb.unmeasure(tx, server, at))
                    .await?;
                self.backend.delete_mutable(index, share).await?;
                let leasedb = self.leasedb.clone();
                self.leasedb
                    .write(move |tx| leasedb.mutable_deleted(tx, server, at))
                    .await?;
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
        let (leasedb, server, name) = (self.leasedb.clone(), self.id, self.name().to_owned());
        let kind = ShareKind::Mutable;
        let new = Allocation {
            server,
            index,
            share,
            kind,
            account,
            reserve: length,
            upload: None,
        };
        self.leasedb
            .write(move |tx| leasedb.begin_mutable_write(tx, &name, &new, renew))
            .await?;
        let written = self.backend.write_mutable(index, share, write).await;
        if matches!(written, Err(StorageError::NotKnown { .. })) {
            // What it takes is measured when it is known.
            return written.map(drop);
        }
        let length = match &written {
            Ok(length) => Some(*length),
            Err(_) => self
                .backend
                .mutable(index, share)
                .await?
                .map(|there| there.length),
        };
        self.measured(at, length, (account, renew)).await?;
        written.map(drop)
    }

    /// Records what a mutable share takes, as was found; none where it is not there.
    pub(crate) async fn measured(
        &self,
        at: At,
        length: Option<u64>,
        (account, renew): (AccountId, RenewSecret),
    ) -> Result<()> {
        let (leasedb, server, name) = (self.leasedb.clone(), self.id, self.name().to_owned());
        self.leasedb
            .write(move |tx| match length {
                None => leasedb.mutable_deleted(tx, server, at),
                Some(length) => {
                    let expires = leasedb.after(leasedb::account(tx, account)?.lease);
                    let lease = (account, renew, Some(expires));
                    leasedb.end_mutable_write(tx, (server, &name), at, length, lease)
                }
            })
            .await
    }

    /// Reads a part of a mutable share, cut at its end.
    ///
    /// # Errors
    /// [`StorageError::NotFound`]; the backend's.
    pub async fn read_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        let rows = self.rows(index).await?;
        let known = |row: &ShareRow| {
            row.share == share && row.kind == ShareKind::Mutable && row.state != ShareState::Going
        };
        if !rows.iter().any(known) {
            return Err(StorageError::NotFound {
                backend: self.name().to_owned(),
                index,
                share,
            });
        }
        // A writer's intent is its own to settle: readers wait for its turn to end. What they read
        // then rests long enough.
        let lock = self.slot_lock(index);
        let _turn = lock.lock().await;
        self.backend.read_mutable(index, share, range).await
    }
}
