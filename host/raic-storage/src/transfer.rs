//! Takes shares over from files of Tahoe-LAFS, and gives them out as such files.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};

use crate::{
    AccountId, Allocation, FileKind, FileLease, FirstLease, MutableWrite, RenewSecret, Result,
    ShareFile, ShareHeader, ShareId, ShareKind, ShareRow, ShareState, ShareStream, StorageError,
    StorageServer, StreamMemory, WriteEnabler, backend::mutable_store, uploads::own,
};

/// Length of the longest mutable share that is taken over, in bytes. It is held in memory, because
/// it is written in one version or not at all.
const LONGEST_MUTABLE: u64 = 128 << 20;
/// How often the row of a share that is being copied is told that the copy goes on.
const EXTENDED: Duration = Duration::from_secs(5);

/// The outcome of taking a share over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The share was stored.
    Stored,
    /// The share was here already, and got the leases.
    Known,
}

/// A share that is given out.
pub struct Exported {
    /// What stands around the data.
    pub file: ShareFile,
    /// The data.
    pub content: ShareStream,
    /// Whether the write enabler is not known. Then the file has one that nobody has, and clients
    /// can read the share, but not write to it.
    pub is_read_only: bool,
}

impl std::fmt::Debug for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exported")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl StorageServer {
    /// Takes a share over from a file: its data, which `content` has, and its leases, which
    /// `account` will hold. A share without leases gets a starter lease. If the share is here
    /// already, it gets the leases only.
    ///
    /// # Errors
    /// Fails with [`StorageError::Taken`] if the share is here in another state, kind or length.
    /// Fails as a write of the share does.
    pub async fn import_share(
        self: &Arc<Self>,
        account: AccountId,
        id: ShareId,
        file: ShareFile,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static,
    ) -> Result<Imported> {
        let this = self.clone();
        // A task of its own, so that a caller that goes away leaves no row without its share.
        own(tokio::spawn(async move {
            this.import_in_turn(account, id, file, content).await
        }))
        .await
    }

    async fn import_in_turn(
        &self,
        account: AccountId,
        id: ShareId,
        file: ShareFile,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<Imported> {
        self.require_writable().await?;
        let outcome = match file.kind {
            FileKind::Immutable => self.import_immutable(id, file.length, content).await?,
            FileKind::Mutable { enabler, .. } => {
                let lock = self.slot_lock(id.index);
                let _turn = lock.lock().await;
                self.import_mutable(id, file.length, enabler, content)
                    .await?
            }
        };
        self.leasedb
            .put_leases(self.id, id, account, file.leases)
            .await?;
        Ok(outcome)
    }

    fn taken(&self, id: ShareId, state: &'static str) -> StorageError {
        StorageError::Taken {
            backend: self.name().to_owned(),
            id,
            state,
        }
    }

    async fn import_immutable(
        &self,
        id: ShareId,
        length: u64,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<Imported> {
        let header = ShareHeader::immutable(length);
        let whole = length.saturating_add(header.len() as u64);
        let rows = self.rows(id.index).await?;
        if rows.iter().any(|row| row.kind == ShareKind::Mutable) {
            return Err(self.taken(id, "is in a storage index of mutable shares"));
        }
        if let Some(row) = rows.iter().find(|row| row.id == id) {
            let is_same = row.kind == ShareKind::Immutable && row.used_space == whole;
            return match row.state == ShareState::Stable && is_same && !row.is_lost {
                true => Ok(Imported::Known),
                false => Err(self.taken(id, "is here in another state or length")),
            };
        }
        let new = Allocation {
            server: self.id,
            id,
            kind: ShareKind::Immutable,
            account: AccountId::STARTER,
            reserve: whole,
            upload: None,
        };
        self.leasedb.allocate_one(new).await?;
        let stored = self.copy(id, header, length, content).await;
        match stored {
            Ok(stored) => {
                let lease = FirstLease::Timed {
                    account: AccountId::STARTER,
                    renew: RenewSecret::NONE,
                };
                self.leasedb
                    .complete_upload(self.id, id, stored, lease)
                    .await?;
                Ok(Imported::Stored)
            }
            Err(e) => {
                let late = self.late_deletions();
                self.leasedb.abandon_one(self.id, id, late).await?;
                self.wake();
                Err(e)
            }
        }
    }

    async fn copy(
        &self,
        id: ShareId,
        header: Vec<u8>,
        length: u64,
        mut content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<crate::Stored> {
        let mut writer = self.backend.create(id, StreamMemory::of_one()).await?;
        writer.write(header.into()).await?;
        let (mut copied, mut extended) = (0, Instant::now());
        while let Some(piece) = content.next().await {
            let piece = piece.map_err(|source| self.unreadable(id, source))?;
            copied += piece.len() as u64;
            writer.write(piece).await?;
            if extended.elapsed() > EXTENDED {
                extended = Instant::now();
                self.leasedb.extend_upload(self.id, id).await?;
            }
        }
        if copied != length {
            return Err(self.unreadable(id, std::io::ErrorKind::UnexpectedEof.into()));
        }
        writer.finish().await
    }

    fn unreadable(&self, id: ShareId, source: std::io::Error) -> StorageError {
        StorageError::Source { id, source }
    }

    async fn import_mutable(
        &self,
        id: ShareId,
        length: u64,
        enabler: WriteEnabler,
        mut content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<Imported> {
        let store = mutable_store(&*self.backend)?;
        let rows = self.rows(id.index).await?;
        if rows.iter().any(|row| row.kind != ShareKind::Mutable) {
            return Err(self.taken(id, "is in a storage index of immutable shares"));
        }
        let here = match rows.iter().find(|row| row.id == id) {
            Some(row) if row.state == ShareState::Going => {
                return Err(self.taken(id, "is being deleted"));
            }
            Some(_) => store.state(id).await?,
            None => None,
        };
        if let Some(here) = here {
            return match here.enabler == self.enabler_hash(enabler) {
                // Clients may have written to it since it was taken over.
                true => Ok(Imported::Known),
                false => Err(self.taken(id, "is here with another write enabler")),
            };
        }
        if length > LONGEST_MUTABLE {
            return Err(StorageError::PastEnd {
                backend: self.name().to_owned(),
                id,
                end: length,
                length: LONGEST_MUTABLE,
            });
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = content.next().await {
            whole.extend_from_slice(&piece.map_err(|source| self.unreadable(id, source))?);
        }
        if whole.len() as u64 != length {
            return Err(self.unreadable(id, std::io::ErrorKind::UnexpectedEof.into()));
        }
        let new = Allocation {
            server: self.id,
            id,
            kind: ShareKind::Mutable,
            account: AccountId::STARTER,
            reserve: length,
            upload: None,
        };
        self.leasedb
            .begin_mutable_writes(vec![new], RenewSecret::NONE, enabler)
            .await?;
        let write = MutableWrite {
            writes: vec![(0, whole.freeze())],
            new_length: Some(length),
            enabler: self.enabler_hash(enabler),
        };
        store.write_mutable(id, write).await?;
        let lease = (AccountId::STARTER, RenewSecret::NONE);
        self.leasedb
            .measured(self.id, id, Some(length), lease, self.late_deletions())
            .await?;
        Ok(Imported::Stored)
    }

    /// Reads a page of the shares that Tahoe-LAFS clients stored, in the order of storage indexes.
    /// It begins after `after`, and has up to `limit` shares.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be read.
    pub async fn client_shares(&self, after: Option<ShareId>, limit: u32) -> Result<Vec<ShareRow>> {
        self.leasedb.client_shares(self.id, after, limit).await
    }

    /// Gives a share out as a file of Tahoe-LAFS. `server` is the id that the file names.
    ///
    /// # Errors
    /// Fails with [`StorageError::NotFound`] if the share is not here, and as a read of it does.
    pub async fn export_share(&self, row: &ShareRow, server: [u8; 20]) -> Result<Exported> {
        let leases = self.leasedb.leases_on(self.id, row.id).await?;
        let leases = leases
            .into_iter()
            .filter(|lease: &FileLease| RenewSecret::from_hash(lease.renew.hash()).is_some());
        let leases: Vec<FileLease> = leases.collect();
        let (kind, offset, part, is_read_only) = if row.kind == ShareKind::Mutable {
            let part = self.read_mutable(row.id, 0..u64::MAX).await?;
            let known = self.leasedb.write_enabler(self.id, row.id.index).await?;
            let enabler = known.map_or_else(WriteEnabler::random, Ok)?;
            let kind = FileKind::Mutable { enabler, server };
            (kind, 468, part, known.is_none())
        } else {
            let part = self.read_immutable(row.id, 0..u64::MAX).await?;
            (FileKind::Immutable, 12, part, false)
        };
        Ok(Exported {
            file: ShareFile {
                kind,
                offset,
                length: part.length,
                leases,
            },
            content: part.content,
            is_read_only,
        })
    }
}
