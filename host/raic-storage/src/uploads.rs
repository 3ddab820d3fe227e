//! Uploads by offset, as Tahoe-LAFS clients write immutable shares.
//!
//! Source: the Tahoe-LAFS storage protocol (http-storage-node-protocol); how shares are stored is
//! ours.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    AccountId, Allocated, Coming, FirstLease, LateRequests, MAX_SHARE, RenewSecret, Result,
    ShareHeader, ShareId, ShareKind, ShareNum, ShareRow, ShareState, ShareStream, ShareUpload,
    StorageError, StorageIndex, StorageServer, Upload, UploadSecret, leasedb::UploadRequest,
};

/// Pieces of one upload that do not touch, at most.
const MAX_PIECES: usize = 1024;
/// Writers that may wait for one upload's turn, each with its bytes.
const MAX_WAITERS: usize = 16;

/// What this process has open of one server: uploads, and the turns of slots' writers.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    /// The turn of the collector.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    open: Mutex<HashMap<ShareId, Arc<tokio::sync::Mutex<Option<Open>>>>>,
    pub(crate) slots: Mutex<HashMap<StorageIndex, Weak<tokio::sync::Mutex<()>>>>,
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

/// An answer to [`StorageServer::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What is still to be written; nothing where the share is complete.
    pub required: Vec<Range<u64>>,
}

/// The result of a task that goes on if its caller goes away.
pub(crate) async fn own<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|e| {
        Err(StorageError::Unusable {
            reason: format!("an inner task failed: {e}"),
        })
    })
}

impl StorageServer {
    /// Bytes that may still be allocated; `None` if there is no limit, as in a cloud. Uploads that
    /// were allocated and have not begun count as written: the backend knows nothing of them yet.
    ///
    /// # Errors
    /// The backend's, and the database's.
    pub async fn available_space(&self) -> Result<Option<u64>> {
        let Some(available) = self.backend.available_space().await? else {
            return Ok(None);
        };
        let promised = self.leasedb.promised(self.id).await?;
        Ok(Some(available.saturating_sub(promised)))
    }

    /// Allocates shares of one size for an upload that is known by its secret, as many as there is
    /// room for, and renews the account's lease on those that are complete: also on a cloud that is
    /// full or read-only, which allocates none.
    ///
    /// These shares are in neither set of the answer: one that another upload writes, or that is
    /// being deleted; one that was lost, whose remains go first; and, for a while after the
    /// container was taken over from another database, every new one.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`]; [`StorageError::AccountDisabled`];
    /// [`StorageError::QuotaExceeded`] if the account's quota holds not even the first share.
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

    /// The place of an upload among those that are open, opened or not.
    fn place(&self, id: ShareId) -> Arc<tokio::sync::Mutex<Option<Open>>> {
        self.uploads.open.lock().entry(id).or_default().clone()
    }

    /// Takes an upload out of those that are open; whoever waits for its place finds that it is no
    /// longer there.
    pub(crate) fn close(&self, id: ShareId) {
        self.uploads.open.lock().remove(&id);
    }

    /// The place of an upload, for as long as the guard lives this caller's alone.
    async fn lock_place(&self, id: ShareId) -> tokio::sync::OwnedMutexGuard<Option<Open>> {
        loop {
            let place = self.place(id);
            let guard = place.clone().lock_owned().await;
            // Closed while it was waited for, it is nobody's place any longer.
            let is_current = Arc::ptr_eq(&place, &self.place(id));
            if is_current {
                return guard;
            }
        }
    }

    async fn open_upload(&self, id: ShareId, secret: UploadSecret) -> Result<Open> {
        let coming = self
            .leasedb
            .coming(self.id, id)
            .await?
            .ok_or_else(|| self.no_upload(id))?;
        let upload = coming
            .upload
            .filter(|u| u.secret == secret)
            .ok_or_else(|| self.no_upload(id))?;
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

    /// Writes bytes of an upload, in any order. They are durable when it returns; the share is
    /// complete when nothing is required any longer. The same bytes may be written again.
    ///
    /// # Errors
    /// [`StorageError::NoUpload`], [`StorageError::Conflict`] if other bytes are there,
    /// [`StorageError::PastEnd`].
    pub async fn write(
        self: &Arc<Self>,
        id: ShareId,
        secret: UploadSecret,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Written> {
        // Before it has a place, which nobody would clear again.
        self.require_writable().await?;
        // Each who waits holds its bytes, though its client may have gone.
        if Arc::strong_count(&self.place(id)) > MAX_WAITERS {
            return Err(StorageError::Busy {
                backend: self.name().to_owned(),
                id,
            });
        }
        let this = self.clone();
        // A task of its own: a client that goes away leaves nothing half done.
        own(tokio::spawn(async move {
            this.write_part(id, secret, offset, bytes).await
        }))
        .await
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
            // It can never be complete: each try would keep it and what lies in its way.
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
        // One writer at a time for each share: it waits for the disk or the cloud, and others for
        // it.
        let mut opened = self.lock_place(id).await;
        let row = self.leasedb.coming(self.id, id).await?;
        // What is open is of an upload that has ended, where its row is another one by now.
        if opened
            .as_ref()
            .is_some_and(|open| row.as_ref().is_none_or(|row| row.row != open.coming.row))
        {
            *opened = None;
        }
        if row
            .and_then(|row| row.upload)
            .is_none_or(|upload| upload.secret != secret)
        {
            if opened.is_none() {
                self.close(id);
            }
            return Err(self.no_upload(id));
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
        for there in open.coming.received.within(&range) {
            if open.file.read_back(there.clone()).await? != part(&there) {
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
        // Each is a row, and all are written again with each part.
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

    /// Ends an upload that met other bytes under the name of a chunk. A whole share that is there,
    /// which no walk had found yet, is found now; what is not whole goes.
    async fn give_up(&self, id: ShareId, secret: UploadSecret, chunk: u64) -> Result<()> {
        // Behind a chunk of its own, what lies there is no other share.
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
            // The share is there. What is left in the spool goes at the next start.
            tracing::warn!("{e}");
        }
        Ok(())
    }

    /// Gives an upload up. Its name can be used again when what was sent has gone.
    ///
    /// # Errors
    /// [`StorageError::NoUpload`] if there is none of that secret; [`StorageError::Taken`] if the
    /// share is complete.
    pub async fn abort(&self, id: ShareId, secret: UploadSecret) -> Result<()> {
        let mut opened = self.lock_place(id).await;
        let is_answered = opened
            .as_ref()
            .is_some_and(|open| open.coming.is_of_this_run && !open.file.may_land());
        // What was sent before a restart, if anything, is not known to have been answered.
        let late = if is_answered {
            LateRequests::Answered
        } else {
            LateRequests::MayLand
        };
        self.leasedb
            .abort_upload(self.id, id, secret, late)
            .await
            // An upload that nobody knows keeps no place.
            .inspect_err(|_| {
                if opened.is_none() {
                    self.close(id);
                }
            })?;
        *opened = None;
        self.close(id);
        self.wake();
        Ok(())
    }

    /// Reads a part of an immutable share, cut at its end.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] if it is not there or not complete; the backend's.
    pub async fn read_immutable(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        let row = self.leasedb.share(self.id, id).await?;
        let stable =
            row.filter(|row| row.state == ShareState::Stable && row.kind == ShareKind::Immutable);
        let row = stable.ok_or_else(|| StorageError::NotFound {
            backend: self.name().to_owned(),
            id,
        })?;
        let header = ShareHeader::immutable(row.used_space.saturating_sub(12)).len() as u64;
        let (start, end) = (
            range.start.saturating_add(header),
            range.end.saturating_add(header).min(row.used_space),
        );
        self.backend.read(id, start.min(end)..end).await
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
        Ok(there.map(|row| row.id.share).collect())
    }

    pub(crate) async fn rows(&self, index: StorageIndex) -> Result<Vec<ShareRow>> {
        self.leasedb.shareset(self.id, index).await
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
}
