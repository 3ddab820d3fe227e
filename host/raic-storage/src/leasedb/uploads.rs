//! Shares that are COMING: the space that an upload reserved, the ranges that were received, and
//! the ways in which an upload ends.

use std::{collections::BTreeSet, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    AccountId, LateRequests, LeaseDb, Remains, RenewSecret, ServerId, ShareKind, ShareRow,
    ShareState, accounts, find, int, leases, name_of, shares, shareset, states::*, uint,
};
use crate::{RangeSet, Result, ShareId, ShareNum, StorageError, StorageIndex, Stored};

/// The hash of the secret by which a client names its upload. It is not the secret of a lease: for
/// that see [`RenewSecret`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UploadSecret([u8; 16]);

impl std::fmt::Debug for UploadSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadSecret(..)")
    }
}

impl UploadSecret {
    /// Hashes a client's upload secret.
    pub fn of(secret: &[u8]) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::derive_key("RAIC 2026-11 upload secret v1", secret)[..16]);
        Self(hash)
    }
}

/// A share that is about to be written.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// The server that will keep it.
    pub server: ServerId,
    /// The share.
    pub id: ShareId,
    /// Kind of the share.
    pub kind: ShareKind,
    /// The account that pays for the share.
    pub account: AccountId,
    /// Bytes that are reserved for the share.
    pub reserve: u64,
    /// The upload by offset that writes the share; `None` if the share is written otherwise.
    pub upload: Option<Upload>,
}

/// The secrets and the length of an upload by offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Secret that names the upload.
    pub secret: UploadSecret,
    /// Secret of the lease that the share will have.
    pub renew: RenewSecret,
    /// Bytes of the whole share, including its header.
    pub length: u64,
}

/// A share that is being written (COMING).
#[derive(Clone, Debug)]
pub struct Coming {
    pub(crate) row: i64,
    pub(crate) account: AccountId,
    pub(crate) renew: RenewSecret,
    /// Whether the upload began in this run of the process. If so, this process knows what was sent
    /// for it.
    pub(crate) is_of_this_run: bool,
    /// The upload by offset that writes the share; `None` if the share is written otherwise.
    pub upload: Option<Upload>,
    /// Ranges of the share's bytes that were received and are durable.
    pub received: RangeSet,
}

/// The lease that a share gets when it becomes whole.
#[derive(Clone, Copy, Debug)]
pub enum FirstLease {
    /// An array's lease, which lasts until the file is removed.
    Lasting(AccountId),
    /// A client's lease, which lasts as long as its account's leases do.
    Timed {
        /// The account that holds the lease.
        account: AccountId,
        /// The lease's secret.
        renew: RenewSecret,
    },
}

/// A request to allocate shares of one size for one upload.
#[derive(Clone, Debug)]
pub(crate) struct UploadRequest {
    pub(crate) server: ServerId,
    pub(crate) account: AccountId,
    pub(crate) index: StorageIndex,
    pub(crate) shares: BTreeSet<ShareNum>,
    pub(crate) upload: Upload,
    /// Whether new shares may begin and lost shares may be stored again.
    pub(crate) is_writable: bool,
    /// Bytes that the backend can still take; `None` if it has no limit.
    pub(crate) available: Option<u64>,
}

/// The answer of [`crate::StorageServer::allocate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Shares of the storage index that are complete.
    pub already_have: BTreeSet<ShareNum>,
    /// Shares that this upload may write.
    pub allocated: BTreeSet<ShareNum>,
}

fn secret_of(c: &Connection, row: i64) -> Result<Option<UploadSecret>> {
    let mut statement = c.prepare_cached("SELECT upload_secret FROM coming WHERE share = ?1")?;
    let secret: Option<Option<[u8; 16]>> = statement.query_row([row], |r| r.get(0)).optional()?;
    Ok(secret.flatten().map(UploadSecret))
}

/// Sums the bytes of a server's uploads by offset that have written nothing yet. These bytes are
/// promised, but the backend does not know of them.
fn promised(c: &Connection, server: ServerId) -> Result<u64> {
    let mut statement = c.prepare_cached(
        "SELECT coalesce(sum(length), 0) FROM coming
         WHERE server = ?1 AND upload_secret IS NOT NULL
           AND NOT EXISTS(SELECT 1 FROM received WHERE received.share = coming.share)",
    )?;
    Ok(uint(statement.query_row([server.0], |r| r.get(0))?))
}

/// Operations for a caller that changes its own tables in the same transaction.
impl LeaseDb {
    /// Begins a share: it becomes COMING, its space is reserved, and its account pays for it.
    ///
    /// # Errors
    /// Fails with [`StorageError::Taken`] if the share has a row in any state, and with
    /// [`StorageError::TooLarge`] if it would be larger than a share can be. Fails with
    /// [`StorageError::AccountDisabled`], [`StorageError::QuotaExceeded`] or
    /// [`StorageError::NoAccount`] if the account may not write it, and with
    /// [`StorageError::Database`] if a statement fails.
    pub fn allocate(&self, tx: &Connection, new: &Allocation) -> Result<()> {
        if let Some(row) = find(tx, new.server, new.id)? {
            let state = match row.state {
                ShareState::Coming => "is being written",
                ShareState::Stable => "is there already",
                ShareState::Going => "is being deleted; it can be stored again when it has gone",
            };
            return Err(StorageError::Taken {
                backend: name_of(tx, new.server)?,
                id: new.id,
                state,
            });
        }
        self.require_served(tx, new.server)?;
        shares::require_possible(new.id, new.reserve)?;
        accounts::admit(tx, new.account, new.reserve)?;
        self.changed();
        let reserved = Stored {
            objects: 0,
            bytes: new.reserve,
        };
        let row = shares::insert(
            tx,
            new.server,
            new.id,
            (new.kind, ShareState::Coming),
            reserved,
        )?;
        let expires = self.after(self.grace_periods().upload);
        tx.prepare_cached(
            "INSERT INTO coming(share, server, owner, expires_ms, length, upload_secret, account,
               renew_secret) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            row,
            new.server.0,
            self.run,
            expires,
            new.upload.map(|u| int(u.length)),
            new.upload.map(|u| u.secret.0),
            new.account.0,
            new.upload.map_or(RenewSecret::NONE, |u| u.renew).0,
        ])?;
        leases::insert(
            tx,
            row,
            new.account,
            RenewSecret::UPLOAD,
            self.now(),
            Some(expires),
        )
    }

    /// Makes a COMING share STABLE, with the objects and bytes that it is stored in. Its upload's
    /// lease ends, and `lease` begins.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoUpload`] if the share is not COMING, and with
    /// [`StorageError::TooLarge`] if it is larger than a share can be. If it became larger than was
    /// reserved, it also fails as [`LeaseDb::admit`] does. Fails with [`StorageError::Database`] if
    /// a statement fails.
    pub fn complete(
        &self,
        tx: &Connection,
        server: ServerId,
        id: ShareId,
        stored: Stored,
        lease: FirstLease,
    ) -> Result<()> {
        let coming = find(tx, server, id)?.filter(|row| row.state == ShareState::Coming);
        let Some(coming) = coming else {
            return Err(StorageError::NoUpload {
                backend: name_of(tx, server)?,
                id,
            });
        };
        shares::require_possible(id, stored.bytes)?;
        self.changed();
        let (account, renew) = match lease {
            FirstLease::Lasting(account) => (account, RenewSecret::NONE),
            FirstLease::Timed { account, renew } => (account, renew),
        };
        // The reserved bytes were admitted when they were reserved.
        let beyond = stored.bytes.saturating_sub(coming.used_space);
        if beyond > 0 {
            accounts::admit(tx, account, beyond)?;
        }
        let expires = match lease {
            FirstLease::Lasting(_) => None,
            FirstLease::Timed { .. } => Some(self.after(accounts::by_id(tx, account)?.lease)),
        };
        leases::insert(tx, coming.row, account, renew, self.now(), expires)?;
        leases::end(tx, coming.row, Some(RenewSecret::UPLOAD))?;
        forget_coming(tx, coming.row)?;
        let sql = format!(
            "UPDATE shares SET state = {STABLE}, objects = ?2, used_space = ?3, is_unmeasured = 0
             WHERE id = ?1 AND state = {COMING}"
        );
        tx.prepare_cached(&sql)?.execute(params![
            coming.row,
            int(stored.objects),
            int(stored.bytes)
        ])?;
        Ok(())
    }

    /// Gives up a COMING share: it becomes GOING. Its name is refused until it has gone and no late
    /// request can land. A share in another state stays as it is.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if a statement fails.
    pub fn abandon(
        &self,
        tx: &Connection,
        server: ServerId,
        id: ShareId,
        late: LateRequests,
    ) -> Result<()> {
        match find(tx, server, id)? {
            Some(row) if row.state == ShareState::Coming => {
                self.abandon_row(tx, server, row.row, late)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn abandon_row(
        &self,
        tx: &Connection,
        server: ServerId,
        row: i64,
        late: LateRequests,
    ) -> Result<()> {
        leases::end(tx, row, None)?;
        forget_coming(tx, row)?;
        self.condemn(tx, server, row, Remains::Parts, late)
    }

    /// Lets an array's uploads of earlier runs rest before they are given up. This home may be a
    /// copy of one whose daemon goes on with them. Uploads by offset go on.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if a statement fails.
    pub fn rest_uploads_of_other_runs(&self, tx: &Connection) -> Result<()> {
        let until = self.after(self.grace_periods().of_other_runs());
        let sql = format!(
            "UPDATE coming SET expires_ms = ?2 WHERE owner <> ?1 AND NOT is_examined
               AND share IN (SELECT id FROM shares WHERE state = {COMING} AND kind = {ARRAY})"
        );
        tx.execute(&sql, params![self.run, until])?;
        Ok(())
    }
}

pub(super) fn forget_coming(tx: &Connection, row: i64) -> Result<()> {
    tx.prepare_cached("DELETE FROM coming WHERE share = ?1")?
        .execute([row])?;
    Ok(())
}

/// Operations that are whole transactions.
impl LeaseDb {
    /// Allocates the shares of a request, as many as there is room for. Also renews the account's
    /// lease on the shares of the storage index that are complete.
    pub(crate) async fn allocate_upload(&self, request: UploadRequest) -> Result<Allocated> {
        let this = self.clone();
        self.write(move |tx| this.allocate_upload_in(tx, &request))
            .await
    }

    fn allocate_upload_in(&self, tx: &Connection, request: &UploadRequest) -> Result<Allocated> {
        let UploadRequest {
            server,
            account,
            index,
            upload,
            is_writable,
            ..
        } = *request;
        let mut answer = Allocated::default();
        let rows = shareset(tx, server, index)?;
        // What is not stored anew stays as it is, also if it seems to be lost.
        let is_writable = is_writable && !self.is_draining(server);
        for row in &rows {
            let is_wanted = request.shares.contains(&row.id.share);
            match row.state {
                ShareState::Stable if !row.is_lost => {
                    answer.already_have.insert(row.id.share);
                }
                ShareState::Coming
                    if is_wanted && secret_of(tx, row.row)? == Some(upload.secret) =>
                {
                    answer.allocated.insert(row.id.share);
                }
                // The share can be stored again when the objects that may be left of it have gone.
                ShareState::Stable
                    if is_writable
                        && is_wanted
                        && row.has_vanished
                        && row.kind == ShareKind::Immutable =>
                {
                    self.condemn_lost(tx, server, row)?;
                }
                _ => {}
            }
        }
        // Other bytes of the previous host could land under the same names.
        // Nobody else's uploads come into a slot: its writers would find them in the way.
        let is_slot = rows.iter().any(|row| row.kind == ShareKind::Mutable);
        let may_begin = is_writable && !is_slot && !self.was_just_taken(tx, server)?;
        // Promised bytes count as written, including those of an upload allocated a moment ago.
        let promised = promised(tx, server)?;
        let mut room = request
            .available
            .map_or(u64::MAX, |available| available.saturating_sub(promised));
        for share in request.shares.iter().copied().filter(|_| may_begin) {
            let id = ShareId { index, share };
            // Objects of the share from the time before the database was lost must go first.
            if rows.iter().any(|row| row.id == id) || super::is_suspect(tx, server, id)? {
                continue;
            }
            let Some(left) = room.checked_sub(upload.length) else {
                break;
            };
            let new = Allocation {
                server,
                id,
                kind: ShareKind::Immutable,
                account,
                reserve: upload.length,
                upload: Some(upload),
            };
            match self.allocate(tx, &new) {
                // The account gets as many shares as its quota holds. If that is not even one, the
                // caller gets the error.
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
        match self.renew_in(tx, server, index, account, upload.renew) {
            // The account has enough leases on the complete shares.
            Err(StorageError::TooManyLeases { .. }) => {}
            renewed => drop(renewed?),
        }
        Ok(answer)
    }

    /// Sums the bytes of a server's uploads by offset that have written nothing yet.
    pub(crate) async fn promised(&self, server: ServerId) -> Result<u64> {
        self.read(move |c| promised(c, server)).await
    }

    /// Does what [`LeaseDb::allocate`] does, as a transaction of its own.
    pub(crate) async fn allocate_one(&self, new: Allocation) -> Result<()> {
        let this = self.clone();
        self.write(move |tx| this.allocate(tx, &new)).await
    }

    /// Extends the time until a COMING share expires.
    pub(crate) async fn extend_upload(&self, server: ServerId, id: ShareId) -> Result<()> {
        let expires = self.after(self.grace_periods().upload);
        self.write(move |tx| {
            let Some(row) = find(tx, server, id)? else {
                return Ok(());
            };
            tx.prepare_cached("UPDATE coming SET expires_ms = ?2 WHERE share = ?1")?
                .execute(params![row.row, expires])?;
            tx.prepare_cached(
                "UPDATE leases SET expires_ms = ?2 WHERE share = ?1 AND renew_secret = ?3",
            )?
            .execute(params![row.row, expires, RenewSecret::UPLOAD.0])?;
            Ok(())
        })
        .await
    }

    /// Returns whether an upload is past its time.
    pub(crate) async fn is_expired(&self, server: ServerId, id: ShareId) -> Result<bool> {
        let now = self.now();
        self.read(move |c| {
            let Some(row) = find(c, server, id)? else {
                return Ok(false);
            };
            let sql = "SELECT EXISTS(SELECT 1 FROM coming WHERE share = ?1 AND expires_ms <= ?2)";
            Ok(c.prepare_cached(sql)?
                .query_row(params![row.row, now], |r| r.get(0))?)
        })
        .await
    }

    /// Does what [`LeaseDb::abandon`] does, as a transaction of its own.
    pub(crate) async fn abandon_one(
        &self,
        server: ServerId,
        id: ShareId,
        late: LateRequests,
    ) -> Result<()> {
        let this = self.clone();
        self.write(move |tx| this.abandon(tx, server, id, late))
            .await
    }

    /// Makes the share of an upload by offset STABLE, with the lease of its client.
    pub(crate) async fn complete_upload(
        &self,
        server: ServerId,
        id: ShareId,
        stored: Stored,
        lease: FirstLease,
    ) -> Result<()> {
        let this = self.clone();
        self.write(move |tx| this.complete(tx, server, id, stored, lease))
            .await
    }

    /// Ends an upload by offset because its client aborts it.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoUpload`] if no upload writes the share,
    /// [`StorageError::OtherUpload`] if one with another secret does, and [`StorageError::Taken`]
    /// if the share is complete.
    pub(crate) async fn abort_upload(
        &self,
        server: ServerId,
        id: ShareId,
        secret: UploadSecret,
        late: LateRequests,
    ) -> Result<()> {
        let this = self.clone();
        self.write(move |tx| match find(tx, server, id)? {
            Some(row) if row.state == ShareState::Stable => Err(StorageError::Taken {
                backend: name_of(tx, server)?,
                id,
                state: "is complete",
            }),
            Some(row) if secret_of(tx, row.row)? == Some(secret) => {
                this.abandon(tx, server, id, late)
            }
            Some(row) if row.state == ShareState::Coming => Err(StorageError::OtherUpload {
                backend: name_of(tx, server)?,
                id,
            }),
            _ => Err(StorageError::NoUpload {
                backend: name_of(tx, server)?,
                id,
            }),
        })
        .await
    }

    /// Forgets an upload by offset of which nothing was sent: its name is free at once. With
    /// `secret`, only the upload that it names.
    ///
    /// # Errors
    /// Fails with [`StorageError::NoUpload`] or [`StorageError::OtherUpload`] if no such upload
    /// writes the share.
    pub(crate) async fn forget_upload(
        &self,
        server: ServerId,
        id: ShareId,
        secret: Option<UploadSecret>,
    ) -> Result<()> {
        self.changed();
        self.write(move |tx| {
            let row = find(tx, server, id)?.filter(|row| row.state == ShareState::Coming);
            let Some(row) = row else {
                let backend = name_of(tx, server)?;
                return Err(StorageError::NoUpload { backend, id });
            };
            if secret.is_some() && secret_of(tx, row.row)? != secret {
                let backend = name_of(tx, server)?;
                return Err(StorageError::OtherUpload { backend, id });
            }
            leases::end(tx, row.row, None)?;
            forget_coming(tx, row.row)?;
            tx.prepare_cached("DELETE FROM shares WHERE id = ?1")?
                .execute([row.row])?;
            Ok(())
        })
        .await
    }

    /// Ends an upload by offset that found other bytes under its name. If these bytes are a whole
    /// share (`found`), the share's row replaces the upload's row. An upload with another secret
    /// that has begun since stays.
    pub(crate) async fn end_upload_in_the_way(
        &self,
        server: ServerId,
        id: ShareId,
        secret: UploadSecret,
        found: Option<(ShareKind, Stored)>,
    ) -> Result<()> {
        let this = self.clone();
        self.write(move |tx| {
            let row = find(tx, server, id)?;
            let Some(row) = row.filter(|row| row.state == ShareState::Coming) else {
                return Ok(());
            };
            if secret_of(tx, row.row)? != Some(secret) {
                return Ok(());
            }
            match found {
                Some((kind, stored)) => this.found_instead(tx, server, &row, kind, stored),
                None => this.abandon(tx, server, id, LateRequests::MayLand),
            }
        })
        .await
    }

    /// Records that an upload of an earlier run was examined, and lets it rest for `by`. An upload
    /// that is whole rests longer, because another daemon may have recorded it.
    pub(crate) async fn rest_upload(&self, row: i64, by: Duration) -> Result<()> {
        self.put_off(row, by, "is_examined = 1").await
    }

    /// Puts an upload off: it is examined again after `by`, before it is given up.
    pub(crate) async fn put_off_upload(&self, row: i64, by: Duration) -> Result<()> {
        self.put_off(row, by, "is_examined = is_examined").await
    }

    async fn put_off(&self, row: i64, by: Duration, examined: &'static str) -> Result<()> {
        let until = self.after(by);
        self.write(move |tx| {
            let sql = format!("UPDATE coming SET expires_ms = ?2, {examined} WHERE share = ?1");
            tx.execute(&sql, params![row, until])?;
            Ok(())
        })
        .await
    }

    /// Reads an array's uploads of earlier runs whose rest is over and that were not examined yet,
    /// up to `limit`.
    pub(crate) async fn rested_uploads(
        &self,
        server: ServerId,
        limit: u32,
    ) -> Result<Vec<ShareRow>> {
        let (now, run) = (self.now(), self.run);
        self.read(move |c| {
            let sql = format!(
                "SELECT {} FROM coming JOIN shares ON shares.id = coming.share
                 WHERE coming.server = ?1 AND coming.expires_ms <= ?2 AND shares.kind = {ARRAY}
                   AND coming.owner <> ?3 AND NOT coming.is_examined
                 ORDER BY coming.expires_ms LIMIT ?4",
                shares::COLUMNS
            );
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map(params![server.0, now, run, limit], shares::row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Reads the upload that writes a share; `None` if the share is not COMING.
    pub(crate) async fn coming(&self, server: ServerId, id: ShareId) -> Result<Option<Coming>> {
        let run = self.run;
        self.read(move |c| {
            let coming = find(c, server, id)?.filter(|row| row.state == ShareState::Coming);
            let Some(ShareRow { row, .. }) = coming else {
                return Ok(None);
            };
            let mut ranges =
                c.prepare_cached("SELECT first, past FROM received WHERE share = ?1")?;
            let ranges = ranges.query_map([row], |r| Ok(uint(r.get(0)?)..uint(r.get(1)?)))?;
            let received = ranges.collect::<rusqlite::Result<RangeSet>>()?;
            let sql = "SELECT account, upload_secret, renew_secret, length, owner
                       FROM coming WHERE share = ?1";
            let coming = c.prepare_cached(sql)?.query_row([row], |r| {
                let renew = RenewSecret(r.get(2)?);
                let upload = match (r.get::<_, Option<[u8; 16]>>(1)?, r.get(3)?) {
                    (Some(secret), Some(length)) => Some(Upload {
                        secret: UploadSecret(secret),
                        renew,
                        length: uint(length),
                    }),
                    _ => None,
                };
                Ok(Coming {
                    row,
                    account: AccountId(r.get(0)?),
                    renew,
                    is_of_this_run: r.get::<_, [u8; 16]>(4)? == run,
                    upload,
                    received,
                })
            });
            Ok(coming.optional()?)
        })
        .await
    }

    /// Records the ranges of an upload that are durable, and extends the time until it expires.
    pub(crate) async fn received(&self, row: i64, received: &RangeSet) -> Result<()> {
        let ranges = received.ranges().to_vec();
        self.changed();
        let expires = self.after(self.grace_periods().upload);
        self.write(move |tx| {
            tx.prepare_cached("DELETE FROM received WHERE share = ?1")?
                .execute([row])?;
            for range in ranges {
                tx.prepare_cached("INSERT INTO received VALUES(?1, ?2, ?3)")?
                    .execute(params![row, int(range.start), int(range.end)])?;
            }
            tx.prepare_cached("UPDATE coming SET expires_ms = ?2 WHERE share = ?1")?
                .execute(params![row, expires])?;
            tx.prepare_cached("UPDATE leases SET expires_ms = ?2 WHERE share = ?1")?
                .execute(params![row, expires])?;
            Ok(())
        })
        .await
    }

    /// Reads the uploads by offset that go on, as the server's name and the share.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn uploads_under_way(&self) -> Result<Vec<(String, ShareId)>> {
        self.read(|c| {
            let sql = "SELECT name, storage_index, shares.share
                       FROM coming JOIN shares ON shares.id = coming.share
                       JOIN servers ON servers.id = coming.server WHERE upload_secret IS NOT NULL";
            let mut statement = c.prepare(sql)?;
            let rows = statement.query_map([], |r| Ok((r.get(0)?, shares::share_id(r, 1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Reads the uploads by offset that go on or whose objects are being removed, as the server's
    /// name and the share.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn uploads(&self) -> Result<Vec<(String, ShareId)>> {
        self.read(|c| {
            let sql = format!(
                "SELECT name, storage_index, shares.share
                 FROM coming JOIN shares ON shares.id = coming.share
                 JOIN servers ON servers.id = coming.server WHERE upload_secret IS NOT NULL
                 UNION ALL
                 SELECT name, storage_index, shares.share
                 FROM going JOIN shares ON shares.id = going.share
                 JOIN servers ON servers.id = going.server
                 WHERE kind = {IMMUTABLE} AND NOT is_whole"
            );
            let mut statement = c.prepare(&sql)?;
            let rows = statement.query_map([], |r| {
                let id = shares::share_id(r, 1)?;
                Ok((r.get(0)?, id))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
