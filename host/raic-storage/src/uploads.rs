//! Uploads by offset, as Tahoe-LAFS clients write immutable shares.
//!
//! Source of the operations: the Tahoe-LAFS storage protocol (http-storage-node-protocol). The way
//! in which shares are stored is ours.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::{Arc, Weak},
    time::Instant,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;

use crate::{
    AccountId, Allocated, Coming, FirstLease, LateRequests, MAX_SHARE, RenewSecret, Result,
    ShareHeader, ShareId, ShareKind, ShareNum, ShareRow, ShareState, ShareStream, ShareUpload,
    StorageError, StorageIndex, StorageServer, Upload, UploadSecret, leasedb::UploadRequest,
};

/// Most pieces of one upload that do not touch.
const MAX_PIECES: usize = 1024;
/// Most writers that may wait for their turn at one upload, each with its bytes in memory.
const MAX_WAITERS: usize = 16;

/// The operations that this process has open on one server: uploads, and the turns of slots'
/// writers and of the collector.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    /// Lock that gives collectors of this server their turns.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    /// The moment from which the next deletions may go out.
    pub(crate) paced: Mutex<Option<Instant>>,
    open: Mutex<HashMap<ShareId, Arc<tokio::sync::Mutex<Option<Open>>>>>,
    pub(crate) slots: Mutex<HashMap<StorageIndex, Weak<tokio::sync::Mutex<()>>>>,
}

/// An upload that is open in this process.
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

/// The answer of [`StorageServer::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Ranges that are still to be written. It is empty if the share is complete.
    pub required: Vec<Range<u64>>,
}

/// A part of a share's content that is being read.
pub struct SharePart {
    /// Length of the share's whole content, in bytes.
    pub length: u64,
    /// The part, cut at the share's end.
    pub range: Range<u64>,
    /// The bytes of the part.
    pub content: ShareStream,
}

impl std::fmt::Debug for SharePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharePart")
            .field("length", &self.length)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Cuts a range at the end of a content of `length` bytes.
pub(crate) fn within(range: &Range<u64>, length: u64) -> Range<u64> {
    range.start.min(length)..range.end.max(range.start).min(length)
}

/// Waits for a task that goes on even if its caller goes away, and returns its result.
pub(crate) async fn own<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await
        .unwrap_or_else(|e| Err(StorageError::Task(e.to_string())))
}

impl StorageServer {
    /// Returns the number of bytes that may still be allocated; `None` if there is no limit, as in
    /// a cloud. Allocated uploads that have not begun count as written, because the backend knows
    /// nothing of them yet.
    ///
    /// # Errors
    /// Fails if the backend or the database does.
    pub async fn available_space(&self) -> Result<Option<u64>> {
        let Some(available) = self.backend.available_space().await? else {
            return Ok(None);
        };
        let promised = self.leasedb.promised(self.id).await?;
        let available = Some(available.saturating_sub(promised));
        *self.last_available.lock() = available;
        Ok(available)
    }

    /// Allocates shares of `size` bytes for the upload that `secret` names, as many as there is
    /// room for. Also renews the account's lease on the complete shares of the storage index. A
    /// cloud that is full or read-only allocates no share, but renews the lease.
    ///
    /// A share is in neither set of the answer if another upload writes it or it is being deleted.
    /// The same holds for a share that was lost, whose remains must go first. For a while after the
    /// container was taken over from another database, it holds for every new share.
    ///
    /// # Errors
    /// Fails with [`StorageError::TooLarge`] if the size is more than a share can have, with
    /// [`StorageError::AccountDisabled`] if the account is disabled, and with
    /// [`StorageError::QuotaExceeded`] if its quota does not hold even the first share.
    pub async fn allocate(
        &self,
        account: AccountId,
        index: StorageIndex,
        shares: BTreeSet<ShareNum>,
        size: u64,
        secret: UploadSecret,
        renew: RenewSecret,
    ) -> Result<Allocated> {
        let length = size.saturating_add(ShareHeader::immutable(size).len() as u64);
        if length > MAX_SHARE
            && let Some(share) = shares.first().copied()
        {
            return Err(StorageError::TooLarge {
                id: ShareId { index, share },
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
        let request = UploadRequest {
            server: self.id,
            account,
            index,
            shares,
            upload: Upload {
                secret,
                renew,
                length,
            },
            is_writable,
            available,
        };
        let allocated = self.leasedb.allocate_upload(request).await;
        self.wake();
        allocated
    }

    fn no_upload(&self, id: ShareId) -> StorageError {
        StorageError::NoUpload {
            backend: self.name().to_owned(),
            id,
        }
    }

    /// Returns the place of an upload among the open ones. A new place is empty.
    fn place(&self, id: ShareId) -> Arc<tokio::sync::Mutex<Option<Open>>> {
        self.uploads.open.lock().entry(id).or_default().clone()
    }

    /// Takes an upload out of the open ones. A caller that waits for its place finds that the place
    /// is not the current one any longer.
    pub(crate) fn close(&self, id: ShareId) {
        self.uploads.open.lock().remove(&id);
    }

    /// Locks the place of an upload for this caller alone, until the guard is dropped.
    async fn lock_place(&self, id: ShareId) -> tokio::sync::OwnedMutexGuard<Option<Open>> {
        loop {
            let place = self.place(id);
            let guard = place.clone().lock_owned().await;
            // The upload may have been closed during the wait. Then this is not its place any
            // longer.
            let is_current = Arc::ptr_eq(&place, &self.place(id));
            if is_current {
                return guard;
            }
        }
    }

    /// Returns the upload by offset that writes a share, if it is the one with this secret.
    fn own_upload(&self, coming: &Coming, id: ShareId, secret: UploadSecret) -> Result<Upload> {
        match coming.upload {
            Some(upload) if upload.secret == secret => Ok(upload),
            _ => Err(StorageError::OtherUpload {
                backend: self.name().to_owned(),
                id,
            }),
        }
    }

    async fn open_upload(&self, id: ShareId, secret: UploadSecret) -> Result<Open> {
        let coming = self
            .leasedb
            .coming(self.id, id)
            .await?
            .ok_or_else(|| self.no_upload(id))?;
        let upload = self.own_upload(&coming, id, secret)?;
        let file = self
            .backend
            .upload(id, upload.length, coming.received.clone())
            .await?;
        let header = ShareHeader::immutable(upload.length.saturating_sub(12)).len() as u64;
        let mut open = Open {
            coming,
            upload,
            header,
            file,
        };
        if !open.coming.received.contains(&(0..header)) {
            let bytes = ShareHeader::immutable(open.upload.length - header);
            open.file.write_at(0, bytes.into()).await?;
            open.coming.received.insert(0..header);
        }
        Ok(open)
    }

    /// Writes bytes of an upload at `offset`, in any order. They are durable when this returns. The
    /// share is complete when no range is required any longer. The same bytes may be written again.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoUpload`] if no upload writes the share,
    /// [`StorageError::OtherUpload`] if one with another secret does,
    /// [`StorageError::Conflict`] if other bytes were received there before, and
    /// [`StorageError::PastEnd`] if the write goes past the share's end. Fails with
    /// [`StorageError::Busy`] if too many writers wait, [`StorageError::TooManyPieces`] if the
    /// pieces become too many, and [`StorageError::InTheWay`] if the upload can never be complete.
    pub async fn write(
        self: &Arc<Self>,
        id: ShareId,
        secret: UploadSecret,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Written> {
        // This comes before the upload gets a place, which nobody would clear again.
        self.require_writable().await?;
        // Each waiting writer holds its bytes, even if its client has gone.
        if Arc::strong_count(&self.place(id)) > MAX_WAITERS {
            return Err(StorageError::Busy {
                backend: self.name().to_owned(),
                id,
            });
        }
        let this = self.clone();
        // A task of its own runs the write, so that a client that goes away leaves nothing half
        // done.
        own(tokio::spawn(async move {
            this.write_part(id, secret, offset, bytes).await
        }))
        .await
    }

    /// Requires that an upload may be written up to an offset, before any of it is written.
    ///
    /// # Errors
    /// Fails as [`StorageServer::write`] does for an unknown upload, a wrong secret, and a write
    /// past the share's end.
    pub async fn require_within(&self, id: ShareId, secret: UploadSecret, end: u64) -> Result<()> {
        let coming = self.leasedb.coming(self.id, id).await?;
        let coming = coming.ok_or_else(|| self.no_upload(id))?;
        let whole = self.own_upload(&coming, id, secret)?.length;
        let header = ShareHeader::immutable(whole.saturating_sub(12)).len() as u64;
        match end.checked_add(header) {
            Some(past) if past <= whole => Ok(()),
            _ => Err(StorageError::PastEnd {
                backend: self.name().to_owned(),
                id,
                end,
                length: whole - header,
            }),
        }
    }

    async fn write_part(
        &self,
        id: ShareId,
        secret: UploadSecret,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Written> {
        self.require_writable().await?;
        let written = self.write_in_turn(id, secret, offset, bytes).await;
        if let Err(StorageError::InTheWay { chunk, .. }) = &written {
            // The upload can never be complete. Each further try would keep it, and the other
            // bytes.
            self.close(id);
            self.give_up(id, secret, *chunk).await?;
        }
        written
    }

    async fn write_in_turn(
        &self,
        id: ShareId,
        secret: UploadSecret,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Written> {
        // Each share has one writer at a time. It waits for the disk or the cloud, and the other
        // writers wait for it.
        let mut opened = self.lock_place(id).await;
        let row = self.leasedb.coming(self.id, id).await?;
        // If the share has another row by now, the open upload has ended.
        if opened
            .as_ref()
            .is_some_and(|open| row.as_ref().is_none_or(|row| row.row != open.coming.row))
        {
            *opened = None;
        }
        let own = match row {
            Some(row) => self.own_upload(&row, id, secret).map(drop),
            None => Err(self.no_upload(id)),
        };
        if let Err(e) = own {
            if opened.is_none() {
                self.close(id);
            }
            return Err(e);
        }
        if opened.is_none() {
            *opened = Some(
                self.open_upload(id, secret)
                    .await
                    .inspect_err(|_| self.close(id))?,
            );
        }
        let Some(open) = opened.as_mut() else {
            return Err(self.no_upload(id));
        };
        let (header, length) = (open.header, open.upload.length);
        let end = offset
            .checked_add(bytes.len() as u64)
            .and_then(|end| end.checked_add(header));
        let end = end
            .filter(|end| *end <= length)
            .ok_or_else(|| StorageError::PastEnd {
                backend: self.name().to_owned(),
                id,
                end: offset.saturating_add(bytes.len() as u64),
                length: length - header,
            })?;
        let range = offset + header..end;
        let part = |r: &Range<u64>| {
            bytes.slice((r.start - range.start) as usize..(r.end - range.start) as usize)
        };
        for known in open.coming.received.within(&range) {
            if open.file.read_back(known.clone()).await? != part(&known) {
                return Err(StorageError::Conflict {
                    backend: self.name().to_owned(),
                    id,
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
        // Each piece is a row, and all rows are written again with each part.
        if open.coming.received.ranges().len() > MAX_PIECES {
            let backend = self.name().to_owned();
            *opened = None;
            return Err(StorageError::TooManyPieces {
                backend,
                id,
                most: MAX_PIECES,
            });
        }
        self.leasedb
            .received(open.coming.row, &open.coming.received)
            .await?;
        let required = open.coming.received.missing(length);
        if required.is_empty() {
            let Some(open) = opened.take() else {
                return Err(self.no_upload(id));
            };
            let finished = self.finish(id, open).await;
            self.close(id);
            finished?;
        }
        Ok(Written {
            required: required
                .iter()
                .map(|r| r.start - header..r.end - header)
                .collect(),
        })
    }

    /// Ends an upload that found other bytes under the name of chunk number `chunk`. If they are a
    /// whole share that no walk has found yet, it gets its row now. Otherwise they are removed.
    async fn give_up(&self, id: ShareId, secret: UploadSecret, chunk: u64) -> Result<()> {
        // Behind a chunk of the upload itself, the other bytes cannot be a whole share.
        let found = match chunk {
            0 => self.whole_by_its_chunks(id).await?,
            _ => None,
        };
        self.leasedb
            .end_upload_in_the_way(self.id, id, secret, found)
            .await?;
        self.wake();
        Ok(())
    }

    async fn finish(&self, id: ShareId, open: Open) -> Result<()> {
        let stored = open.file.finish().await?;
        let lease = FirstLease::Timed {
            account: open.coming.account,
            renew: open.upload.renew,
        };
        self.leasedb
            .complete_upload(self.id, id, stored, lease)
            .await?;
        if let Err(e) = self.backend.forget_upload(id).await {
            // The share is stored. Its file in the spool is removed at the next start.
            tracing::warn!("{e}");
        }
        Ok(())
    }

    /// Gives an upload up. The share can be stored again after the objects that were sent have
    /// gone.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoUpload`] if no upload writes the share,
    /// [`StorageError::OtherUpload`] if one with another secret does, and [`StorageError::Taken`]
    /// if the share is complete.
    pub async fn abort(self: &Arc<Self>, id: ShareId, secret: UploadSecret) -> Result<()> {
        let this = self.clone();
        // A task of its own, so that a client that goes away leaves no place that nobody clears.
        own(tokio::spawn(
            async move { this.abort_in_turn(id, secret).await },
        ))
        .await
    }

    async fn abort_in_turn(&self, id: ShareId, secret: UploadSecret) -> Result<()> {
        let mut opened = self.lock_place(id).await;
        let (is_answered, has_sent) = match &*opened {
            Some(open) => {
                let answered = open.coming.is_of_this_run && !open.file.may_land();
                (answered, open.file.has_sent())
            }
            // An upload that received nothing in this run has sent nothing.
            None => match self.leasedb.coming(self.id, id).await? {
                Some(coming) if coming.is_of_this_run && coming.received.ranges().is_empty() => {
                    (true, coming.upload.is_none_or(|upload| upload.length <= 16))
                }
                _ => (false, true),
            },
        };
        if is_answered && !has_sent {
            let forgotten = self.leasedb.forget_upload(self.id, id, Some(secret)).await;
            forgotten.inspect_err(|_| {
                if opened.is_none() {
                    self.close(id);
                }
            })?;
            return self.forget_open(id, &mut opened).await;
        }
        // Requests from before a restart may not have been answered.
        let late = match is_answered {
            true => LateRequests::Answered,
            false => self.late_deletions(),
        };
        self.leasedb
            .abort_upload(self.id, id, secret, late)
            .await
            // An unknown upload keeps no place.
            .inspect_err(|_| {
                if opened.is_none() {
                    self.close(id);
                }
            })?;
        *opened = None;
        self.close(id);
        drop(opened);
        if late == LateRequests::Answered {
            // Clients allocate a share again right after they gave it up.
            if let Err(e) = self.delete_now(id).await {
                tracing::debug!("the objects of {id} go later: {e}");
            }
        }
        self.wake();
        Ok(())
    }

    /// Ends an upload that is past its time, if it is open here and none of its requests may still
    /// land. Returns whether it did. An upload that is being written to goes on.
    pub(crate) async fn end_if_answered(&self, id: ShareId) -> Result<bool> {
        let place = self.uploads.open.lock().get(&id).cloned();
        let Some(mut opened) = place.and_then(|place| place.try_lock_owned().ok()) else {
            return Ok(false);
        };
        let is_answered = opened
            .as_ref()
            .is_some_and(|open| open.coming.is_of_this_run && !open.file.may_land());
        // A write may have come since the caller looked.
        if !is_answered || !self.leasedb.is_expired(self.id, id).await? {
            return Ok(false);
        }
        let has_sent = opened.as_ref().is_none_or(|open| open.file.has_sent());
        if has_sent {
            let late = LateRequests::Answered;
            self.leasedb.abandon_one(self.id, id, late).await?;
            *opened = None;
            self.close(id);
        } else {
            self.leasedb.forget_upload(self.id, id, None).await?;
            self.forget_open(id, &mut opened).await?;
        }
        Ok(true)
    }

    /// Forgets an open upload and what it keeps on this machine. That goes before the place is
    /// free: the next upload of the share keeps its bytes under the same name.
    async fn forget_open(&self, id: ShareId, opened: &mut Option<Open>) -> Result<()> {
        *opened = None;
        let forgotten = self.backend.forget_upload(id).await;
        self.close(id);
        forgotten
    }

    /// Reads a part of an immutable share's content. The part is cut at the share's end. While it
    /// is read, this process does not delete the share.
    ///
    /// # Errors
    /// Fails with [`StorageError::NotFound`] if the share does not exist or is not complete, and as
    /// [`crate::ShareStore::read`] does.
    pub async fn read_immutable(&self, id: ShareId, range: Range<u64>) -> Result<SharePart> {
        // Before the row is read, so that the share is not deleted in between.
        let hold = self.holds.hold(id.index);
        let row = self.leasedb.share(self.id, id).await?;
        let stable =
            row.filter(|row| row.state == ShareState::Stable && row.kind == ShareKind::Immutable);
        let row = stable.ok_or_else(|| StorageError::NotFound {
            backend: self.name().to_owned(),
            id,
        })?;
        let header = ShareHeader::immutable(row.used_space.saturating_sub(12)).len() as u64;
        let length = row.used_space.saturating_sub(header);
        let range = within(&range, length);
        let content = match range.is_empty() {
            true => stream::empty().boxed(),
            false => {
                let stored = range.start + header..range.end + header;
                self.backend.read(id, stored).await?
            }
        };
        let content = content
            .map(move |piece| {
                let _hold = &hold;
                piece
            })
            .boxed();
        Ok(SharePart {
            length,
            range,
            content,
        })
    }

    /// Lists the complete shares of a storage index and of one kind. Shares that have vanished are
    /// left out.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be read.
    pub async fn shares(&self, index: StorageIndex, kind: ShareKind) -> Result<BTreeSet<ShareNum>> {
        let rows = self.rows(index).await?;
        let complete = rows
            .into_iter()
            .filter(|row| row.state == ShareState::Stable && row.kind == kind && !row.has_vanished);
        Ok(complete.map(|row| row.id.share).collect())
    }

    pub(crate) async fn rows(&self, index: StorageIndex) -> Result<Vec<ShareRow>> {
        self.leasedb.shareset(self.id, index).await
    }

    /// Adds or renews an account's lease on all shares of a storage index that are whole and not
    /// lost. Returns the shares on which the account has the lease now.
    ///
    /// # Errors
    /// Fails as [`crate::LeaseDb::renew_in`] does.
    pub async fn renew(
        &self,
        account: AccountId,
        index: StorageIndex,
        renew: RenewSecret,
    ) -> Result<BTreeSet<ShareNum>> {
        // Most questions are for storage indexes that are not here, and cost no write.
        if self.rows(index).await?.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.leasedb.renew(self.id, index, account, renew).await
    }

    /// Returns whether a share is here, whole and not lost.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be read.
    pub async fn has_share(&self, id: ShareId) -> Result<bool> {
        let row = self.leasedb.share(self.id, id).await?;
        Ok(row.is_some_and(|row| row.state == ShareState::Stable && !row.has_vanished))
    }
}
