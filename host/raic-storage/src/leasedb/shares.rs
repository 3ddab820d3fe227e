//! Shares and their states: COMING, STABLE, GOING.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{AccountId, LeaseDb, RenewSecret, ServerId, accounts, int, leases, uint};
use crate::{RangeSet, Result, ShareNum, Span, StorageError, StorageIndex};

/// What is stored in a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareKind {
    /// A share of an array; its length is known at its end.
    Array,
    /// An immutable share of Tahoe-LAFS.
    Immutable,
    /// A mutable share of Tahoe-LAFS.
    Mutable,
}

/// Where a share is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareState {
    /// Being written.
    Coming,
    /// Whole.
    Stable,
    /// Being deleted.
    Going,
}

/// A share, as leasedb has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareRow {
    pub(crate) id: i64,
    /// Whose.
    pub index: StorageIndex,
    /// Which.
    pub share: ShareNum,
    /// What is stored in it.
    pub kind: ShareKind,
    /// Where it is on its way.
    pub state: ShareState,
    /// Bytes it takes, or reserves.
    pub used_space: u64,
    /// Objects it is kept in, where it is STABLE and immutable.
    pub objects: u64,
    /// Leases on it.
    pub leases: u64,
    /// Whether it vanished from its container, as two passes agreed; or was found after a take-over
    /// and not yet once more.
    pub is_lost: bool,
    /// Whether it vanished.
    pub has_vanished: bool,
}

/// A share on a server, by the server's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The server.
    pub server: String,
    /// The share.
    pub share: ShareNum,
    /// Objects it is kept in.
    pub objects: u64,
    /// Whether it vanished, or its server is gone.
    pub is_lost: bool,
}

/// A share that is about to be written.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// Where.
    pub server: ServerId,
    /// Whose.
    pub index: StorageIndex,
    /// Which.
    pub share: ShareNum,
    /// What it will be.
    pub kind: ShareKind,
    /// Who pays.
    pub account: AccountId,
    /// Bytes that are reserved.
    pub reserve: u64,
    /// Of an upload by offset.
    pub upload: Option<Upload>,
}

/// What an upload by offset is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The hash of its secret.
    pub secret: RenewSecret,
    /// Of the lease that the share will have.
    pub renew: RenewSecret,
    /// Bytes of the share.
    pub length: u64,
}

/// A share being written.
#[derive(Clone, Debug)]
pub struct Coming {
    pub(crate) id: i64,
    pub(crate) account: AccountId,
    pub(crate) renew: RenewSecret,
    /// Whether it began in this run of the process: what was sent for it is known then.
    pub(crate) is_of_this_run: bool,
    /// Of an upload by offset.
    pub upload: Option<Upload>,
    /// What was received and is durable.
    pub received: RangeSet,
}

/// In the place of the moment at which a share was lost: nothing is known to be wrong with it.
pub(super) const UNCONFIRMED: i64 = 0;

/// The largest share, in bytes. Sums of sizes stay far below what SQLite's integers hold.
pub const MAX_SHARE: u64 = 1 << 44;

const COLUMNS: &str = "id, storage_index, share, kind, state, used_space, objects, leases, lost_ms";

pub(super) fn row(row: &Row<'_>) -> rusqlite::Result<ShareRow> {
    let lost: Option<i64> = row.get(8)?;
    Ok(ShareRow {
        id: row.get(0)?,
        index: StorageIndex(row.get(1)?),
        share: ShareNum(row.get(2)?),
        // A newer program's, or damage: nothing is done by guessing.
        kind: match row.get::<_, i64>(3)? {
            0 => ShareKind::Array,
            1 => ShareKind::Immutable,
            2 => ShareKind::Mutable,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(3, other)),
        },
        state: match row.get::<_, i64>(4)? {
            0 => ShareState::Coming,
            1 => ShareState::Stable,
            2 => ShareState::Going,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(4, other)),
        },
        used_space: uint(row.get(5)?),
        objects: uint(row.get(6)?),
        leases: uint(row.get(7)?),
        is_lost: lost.is_some(),
        has_vanished: lost.is_some_and(|ms| ms > UNCONFIRMED),
    })
}

/// The row of a share; none where there is none.
pub(crate) fn find(
    c: &Connection,
    server: ServerId,
    index: StorageIndex,
    share: ShareNum,
) -> Result<Option<ShareRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM shares WHERE server = ?1 AND storage_index = ?2 AND share = ?3"
    );
    Ok(c.prepare_cached(&sql)?
        .query_row(params![server.0, index.0, share.0], row)
        .optional()?)
}

/// The rows of a shareset, in order.
pub(crate) fn shareset(
    c: &Connection,
    server: ServerId,
    index: StorageIndex,
) -> Result<Vec<ShareRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM shares WHERE server = ?1 AND storage_index = ?2 ORDER BY share"
    );
    let mut statement = c.prepare_cached(&sql)?;
    Ok(statement
        .query_map(params![server.0, index.0], row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// How many shares a server has rows of.
pub(crate) fn count(c: &Connection, server: ServerId) -> Result<u64> {
    let sql = "SELECT coalesce((SELECT shares FROM server_usage WHERE server = ?1), 0)";
    Ok(uint(
        c.prepare_cached(sql)?.query_row([server.0], |r| r.get(0))?,
    ))
}

/// The rows of a server within a span, in order.
pub(crate) fn below(c: &Connection, server: ServerId, span: Span) -> Result<Vec<ShareRow>> {
    let (first, last) = span.bounds();
    let sql = format!(
        "SELECT {COLUMNS} FROM shares WHERE server = ?1 AND storage_index BETWEEN ?2 AND ?3 ORDER BY storage_index, share"
    );
    let mut statement = c.prepare_cached(&sql)?;
    Ok(statement
        .query_map(params![server.0, first.0, last.0], row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// The hash of the secret of a share's upload by offset; none where there is no such upload.
pub(crate) fn upload_of(c: &Connection, id: i64) -> Result<Option<RenewSecret>> {
    let mut statement = c.prepare_cached("SELECT upload_secret FROM coming WHERE share = ?1")?;
    let secret: Option<Option<[u8; 16]>> = statement.query_row([id], |r| r.get(0)).optional()?;
    Ok(secret.flatten().map(RenewSecret))
}

fn insert(
    tx: &Connection,
    server: ServerId,
    (index, share): (StorageIndex, ShareNum),
    (kind, state): (ShareKind, ShareState),
    (used_space, objects): (u64, u64),
) -> Result<i64> {
    tx.prepare_cached(
        "INSERT INTO shares(server, storage_index, share, kind, state, used_space, objects) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![server.0, index.0, share.0, kind as i64, state as i64, int(used_space), int(objects)])?;
    Ok(tx.last_insert_rowid())
}

/// What is stored of a storage index, and where, in the order of share numbers.
///
/// # Errors
/// The database's.
pub fn placed(c: &Connection, index: StorageIndex) -> rusqlite::Result<Vec<Placed>> {
    // One lookup for each server: an index of its own for this would cost every share an entry
    // more.
    let mut statement = c.prepare_cached(
        "SELECT servers.name, shares.share, shares.objects, shares.lost_ms IS NOT NULL OR servers.gone_ms IS NOT NULL FROM servers
         CROSS JOIN shares ON shares.server = servers.id AND shares.storage_index = ?1
         WHERE shares.state = 1 ORDER BY shares.share",
    )?;
    let rows = statement.query_map([index.0], |row| {
        Ok(Placed {
            server: row.get(0)?,
            share: ShareNum(row.get(1)?),
            objects: uint(row.get(2)?),
            is_lost: row.get(3)?,
        })
    })?;
    rows.collect()
}

impl LeaseDb {
    /// Begins a share: it is COMING, its space is reserved and its account charged.
    ///
    /// # Errors
    /// [`StorageError::Taken`] where there is one in any state; the account's.
    pub fn allocate(&self, tx: &Connection, backend: &str, new: &Allocation) -> Result<()> {
        let Allocation {
            server,
            index,
            share,
            kind,
            account,
            reserve,
            upload,
        } = new;
        if let Some(there) = find(tx, *server, *index, *share)? {
            let state = match there.state {
                ShareState::Coming => "is being written",
                ShareState::Stable => "is there already",
                ShareState::Going => "is being deleted; it can be stored again when it has gone",
            };
            return Err(StorageError::Taken {
                backend: backend.to_owned(),
                index: *index,
                share: *share,
                state,
            });
        }
        if *reserve > MAX_SHARE {
            return Err(StorageError::TooLarge {
                index: *index,
                share: *share,
                asked: *reserve,
            });
        }
        accounts::admit(tx, *account, *reserve)?;
        self.changed();
        let id = insert(
            tx,
            *server,
            (*index, *share),
            (*kind, ShareState::Coming),
            (*reserve, 0),
        )?;
        let expires = self.after(self.patience().upload);
        tx.prepare_cached("INSERT INTO coming VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params![
                id,
                server.0,
                self.run,
                expires,
                upload.map(|u| int(u.length)),
                upload.map(|u| u.secret.0),
                account.0,
                upload.map_or(RenewSecret::NONE, |u| u.renew).0,
            ])?;
        leases::insert(
            tx,
            id,
            *account,
            RenewSecret::UPLOAD,
            self.now_ms(),
            Some(expires),
        )
    }

    /// A share that was written is STABLE. Its upload's lease ends; the lease of `account` begins,
    /// for good (`expires_ms` none) or until then.
    ///
    /// # Errors
    /// [`StorageError::NoUpload`] where it is not COMING; the account's, where it became larger
    /// than was reserved.
    pub fn complete(
        &self,
        tx: &Connection,
        (server, backend): (ServerId, &str),
        (index, share): (StorageIndex, ShareNum),
        (objects, used_space): (u64, u64),
        (account, renew, expires_ms): (AccountId, RenewSecret, Option<i64>),
    ) -> Result<()> {
        let there = find(tx, server, index, share)?.filter(|row| row.state == ShareState::Coming);
        let no_upload = || StorageError::NoUpload {
            backend: backend.to_owned(),
            index,
            share,
        };
        let there = there.ok_or_else(no_upload)?;
        if used_space > MAX_SHARE {
            return Err(StorageError::TooLarge {
                index,
                share,
                asked: used_space,
            });
        }
        self.changed();
        // What was reserved was admitted then.
        let beyond = used_space.saturating_sub(there.used_space);
        if beyond > 0 {
            accounts::admit(tx, account, beyond)?;
        }
        leases::insert(tx, there.id, account, renew, self.now_ms(), expires_ms)?;
        leases::end(tx, there.id, Some(RenewSecret::UPLOAD))?;
        tx.prepare_cached("DELETE FROM coming WHERE share = ?1")?
            .execute([there.id])?;
        tx.prepare_cached(
            "UPDATE shares SET state = 1, objects = ?2, used_space = ?3 WHERE id = ?1 AND state = 0",
        )?
        .execute(params![there.id, int(objects), int(used_space)])?;
        Ok(())
    }

    /// A share that is COMING is given up: it is GOING, and gone no sooner than requests may land
    /// that were given up.
    ///
    /// # Errors
    /// The database's. One that is not COMING stays as it is.
    pub fn abandon(
        &self,
        tx: &Connection,
        server: ServerId,
        (index, share): (StorageIndex, ShareNum),
        may_land: bool,
    ) -> Result<()> {
        match find(tx, server, index, share)? {
            Some(row) if row.state == ShareState::Coming => {
                self.abandon_row(tx, server, row.id, may_land)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn abandon_row(
        &self,
        tx: &Connection,
        server: ServerId,
        id: i64,
        may_land: bool,
    ) -> Result<()> {
        leases::end(tx, id, None)?;
        tx.prepare_cached("DELETE FROM coming WHERE share = ?1")?
            .execute([id])?;
        self.condemn(tx, server, id, may_land, false)
    }

    /// A share without leases is GOING.
    pub(super) fn condemn(
        &self,
        tx: &Connection,
        server: ServerId,
        id: i64,
        may_land: bool,
        is_whole: bool,
    ) -> Result<()> {
        let changed = tx
            .prepare_cached(
                "UPDATE shares SET state = 2 WHERE id = ?1 AND state <> 2 AND leases = 0",
            )?
            .execute([id])?;
        if changed == 1 {
            self.changed();
            let now = self.now_ms();
            let until = if may_land {
                self.after(self.patience().late)
            } else {
                now
            };
            tx.prepare_cached(
                "INSERT INTO going(share, server, until_ms, next_ms, is_whole) VALUES(?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![id, server.0, until, now, is_whole])?;
        }
        Ok(())
    }

    /// Uploads of an array that a crash ended are given up, after a rest: this home may be the copy
    /// of one whose daemon goes on with them. Those by offset go on.
    ///
    /// # Errors
    /// The database's.
    pub fn rest_uploads_of_other_runs(&self, tx: &Connection) -> Result<()> {
        let until = self.after(self.patience().of_other_runs());
        tx.execute(
            "UPDATE coming SET expires_ms = ?2 WHERE owner <> ?1 AND owner <> zeroblob(16) AND share IN (SELECT id FROM shares WHERE state = 0 AND kind = 0)",
            params![self.run, until],
        )?;
        Ok(())
    }

    /// An upload of an earlier run was looked at, and rests so long: longer where it is whole,
    /// since somebody may have recorded that elsewhere.
    pub(crate) async fn rest_upload(&self, id: i64, by: std::time::Duration) -> Result<()> {
        let until = self.after(by);
        self.write(move |tx| {
            tx.execute(
                "UPDATE coming SET expires_ms = ?2, owner = zeroblob(16) WHERE share = ?1",
                params![id, until],
            )?;
            Ok(())
        })
        .await
    }

    /// An upload is looked at again in a while, before it is given up.
    pub(crate) async fn put_off_upload(&self, id: i64, by: std::time::Duration) -> Result<()> {
        let until = self.after(by);
        self.write(move |tx| {
            tx.execute(
                "UPDATE coming SET expires_ms = ?2 WHERE share = ?1",
                params![id, until],
            )?;
            Ok(())
        })
        .await
    }

    /// Uploads of an array, of earlier runs, whose rest is over and that were not looked at yet.
    pub(crate) async fn rested_uploads(
        &self,
        server: ServerId,
        limit: u32,
    ) -> Result<Vec<ShareRow>> {
        let (now, run) = (self.now_ms(), self.run);
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT id, storage_index, shares.share, kind, state, used_space, objects, leases, lost_ms
                 FROM coming JOIN shares ON shares.id = coming.share
                 WHERE coming.server = ?1 AND coming.expires_ms <= ?2 AND shares.kind = 0 AND coming.owner <> ?3
                   AND coming.owner <> zeroblob(16) ORDER BY coming.expires_ms LIMIT ?4",
            )?;
            Ok(statement.query_map(params![server.0, now, run, limit], row)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// A Tahoe share that was lost and that a client would store again: whoever held it holds
    /// nothing any more, and what may be there of it goes.
    pub(crate) fn condemn_lost(
        &self,
        tx: &Connection,
        server: ServerId,
        row: &ShareRow,
    ) -> Result<()> {
        leases::end(tx, row.id, None)?;
        self.condemn(tx, server, row.id, false, true)
    }

    /// The upload of a share; none where it is not COMING.
    pub(crate) async fn coming(
        &self,
        server: ServerId,
        index: StorageIndex,
        share: ShareNum,
    ) -> Result<Option<Coming>> {
        let run = self.run;
        self.read(move |c| {
            let Some(there) = find(c, server, index, share)?.filter(|row| row.state == ShareState::Coming)
            else {
                return Ok(None);
            };
            let mut ranges = c.prepare_cached("SELECT first, past FROM received WHERE share = ?1")?;
            let ranges = ranges.query_map([there.id], |r| Ok(uint(r.get(0)?)..uint(r.get(1)?)))?;
            let received = ranges.collect::<rusqlite::Result<RangeSet>>()?;
            let sql =
                "SELECT account, upload_secret, renew_secret, length, owner FROM coming WHERE share = ?1";
            let coming = c.prepare_cached(sql)?.query_row([there.id], |r| {
                let upload = match (r.get::<_, Option<[u8; 16]>>(1)?, r.get::<_, Option<i64>>(3)?) {
                    (Some(secret), Some(length)) => Some(Upload {
                        secret: RenewSecret(secret),
                        renew: RenewSecret(r.get(2)?),
                        length: uint(length),
                    }),
                    _ => None,
                };
                let (account, is_of_this_run) = (AccountId(r.get(0)?), r.get::<_, [u8; 16]>(4)? == run);
                let renew = RenewSecret(r.get(2)?);
                Ok(Coming { id: there.id, account, renew, is_of_this_run, upload, received })
            });
            Ok(coming.optional()?)
        })
        .await
    }

    /// Bytes of an upload are durable: records them, and that it goes on.
    pub(crate) async fn received(&self, id: i64, received: &RangeSet) -> Result<()> {
        let ranges = received.ranges().to_vec();
        self.changed();
        let expires = self.after(self.patience().upload);
        self.write(move |tx| {
            tx.prepare_cached("DELETE FROM received WHERE share = ?1")?
                .execute([id])?;
            for range in ranges {
                tx.prepare_cached("INSERT INTO received VALUES(?1, ?2, ?3)")?
                    .execute(params![id, int(range.start), int(range.end)])?;
            }
            tx.prepare_cached("UPDATE coming SET expires_ms = ?2 WHERE share = ?1")?
                .execute(params![id, expires])?;
            tx.prepare_cached("UPDATE leases SET expires_ms = ?2 WHERE share = ?1")?
                .execute(params![id, expires])?;
            Ok(())
        })
        .await
    }

    /// A share that a listing showed and no row: STABLE, with a starter lease that lasts until
    /// somebody's takes its place. Where it is not `confirmed`, because a deletion of the host
    /// before may still land, it counts as lost until the next listing.
    pub(crate) fn discover(
        &self,
        tx: &Connection,
        server: ServerId,
        (index, share): (StorageIndex, ShareNum),
        kind: ShareKind,
        (objects, used_space): (u64, u64),
        confirmed: bool,
    ) -> Result<bool> {
        if find(tx, server, index, share)?.is_some() {
            return Ok(false);
        }
        let id = insert(
            tx,
            server,
            (index, share),
            (kind, ShareState::Stable),
            (used_space, objects),
        )?;
        // Of an array: for good, until the recovered catalog claims it or does not.
        let lease = accounts::by_id(tx, AccountId::STARTER)?.lease;
        let expires = (kind != ShareKind::Array).then(|| self.after(lease));
        leases::insert(
            tx,
            id,
            AccountId::STARTER,
            RenewSecret::NONE,
            self.now_ms(),
            expires,
        )?;
        if !confirmed {
            super::set_lost(tx, id, Some(UNCONFIRMED))?;
        }
        Ok(true)
    }

    /// In the place of an upload a share was found that is whole.
    pub(crate) fn found_instead(
        &self,
        tx: &Connection,
        server: ServerId,
        upload: &ShareRow,
        kind: ShareKind,
        stored: (u64, u64),
    ) -> Result<()> {
        leases::end(tx, upload.id, None)?;
        for sql in [
            "DELETE FROM coming WHERE share = ?1",
            "DELETE FROM shares WHERE id = ?1",
        ] {
            tx.execute(sql, [upload.id])?;
        }
        self.changed();
        let at = (upload.index, upload.share);
        self.discover(tx, server, at, kind, stored, true).map(drop)
    }

    /// What a listing showed that never was whole is GOING, unless there is a row of it by now.
    pub(crate) fn condemn_unknown(
        &self,
        tx: &Connection,
        server: ServerId,
        (index, share): (StorageIndex, ShareNum),
    ) -> Result<()> {
        if find(tx, server, index, share)?.is_some() {
            return Ok(());
        }
        let id = insert(
            tx,
            server,
            (index, share),
            (ShareKind::Immutable, ShareState::Stable),
            (0, 0),
        )?;
        self.condemn(tx, server, id, false, false)
    }

    /// A mutable share is about to be written and will take so many bytes; made where it is not
    /// there. An account is asked for what it grows, and its lease begins now: else the share could
    /// be collected while it is written.
    pub(crate) fn begin_mutable_write(
        &self,
        tx: &Connection,
        backend: &str,
        new: &Allocation,
        renew: RenewSecret,
    ) -> Result<()> {
        let used_space = new.reserve;
        match find(tx, new.server, new.index, new.share)? {
            None => {
                self.allocate(tx, backend, new)?;
                // For whoever settles it, should its end not be seen.
                tx.prepare_cached(
                    "UPDATE coming SET renew_secret = ?4 WHERE share = (
                       SELECT id FROM shares WHERE server = ?1 AND storage_index = ?2 AND share = ?3)",
                )?
                .execute(params![new.server.0, new.index.0, new.share.0, renew.0])?;
                Ok(())
            }
            Some(row) if row.state == ShareState::Going => {
                let state = "is being deleted; it can be stored again when it has gone";
                Err(StorageError::Taken {
                    backend: backend.to_owned(),
                    index: new.index,
                    share: new.share,
                    state,
                })
            }
            Some(row) => {
                if used_space > MAX_SHARE {
                    return Err(StorageError::TooLarge {
                        index: new.index,
                        share: new.share,
                        asked: used_space,
                    });
                }
                // Whoever holds nothing of it yet pays all of it.
                let holds = leases::holds(tx, row.id, new.account)?;
                let pays = if holds {
                    used_space.saturating_sub(row.used_space)
                } else {
                    used_space
                };
                accounts::admit(tx, new.account, pays)?;
                self.changed();
                let used = int(used_space.max(row.used_space));
                // While it is negative in `objects`, what it takes is to be measured again.
                tx.prepare_cached("UPDATE shares SET used_space = ?2, objects = -1 WHERE id = ?1")?
                    .execute(params![row.id, used])?;
                if row.state == ShareState::Stable
                    && !leases::is_full(tx, row.id, new.account, renew)?
                {
                    let expires = self.after(accounts::by_id(tx, new.account)?.lease);
                    leases::insert(tx, row.id, new.account, renew, self.now_ms(), Some(expires))?;
                }
                Ok(())
            }
        }
    }

    /// A mutable share takes so many bytes now. One that was COMING is STABLE, and `account` holds
    /// its lease.
    pub(crate) fn end_mutable_write(
        &self,
        tx: &Connection,
        (server, backend): (ServerId, &str),
        (index, share): (StorageIndex, ShareNum),
        used_space: u64,
        (account, renew, expires_ms): (AccountId, RenewSecret, Option<i64>),
    ) -> Result<()> {
        match find(tx, server, index, share)? {
            Some(row) if row.state == ShareState::Coming => {
                let stored = (0, used_space);
                self.complete(
                    tx,
                    (server, backend),
                    (index, share),
                    stored,
                    (account, renew, expires_ms),
                )
            }
            Some(row) => {
                tx.prepare_cached("UPDATE shares SET used_space = ?2, objects = 0 WHERE id = ?1")?
                    .execute(params![row.id, int(used_space)])?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What is done to a mutable share is not seen to end yet: what it takes, or whether it is
    /// there, is to be measured.
    pub(crate) fn unmeasure(
        &self,
        tx: &Connection,
        server: ServerId,
        (index, share): (StorageIndex, ShareNum),
    ) -> Result<()> {
        tx.prepare_cached("UPDATE shares SET objects = -1 WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND state = 1")?
            .execute(params![server.0, index.0, share.0])?;
        Ok(())
    }

    /// A mutable share was deleted: its leases end and it is GOING.
    pub(crate) fn mutable_deleted(
        &self,
        tx: &Connection,
        server: ServerId,
        (index, share): (StorageIndex, ShareNum),
    ) -> Result<()> {
        let Some(row) = find(tx, server, index, share)? else {
            return Ok(());
        };
        leases::end(tx, row.id, None)?;
        tx.prepare_cached("DELETE FROM coming WHERE share = ?1")?
            .execute([row.id])?;
        self.condemn(tx, server, row.id, true, true)
    }

    /// Uploads by offset that go on, or whose objects are being removed: the server's name, and the
    /// share.
    ///
    /// # Errors
    /// The database's.
    pub async fn uploads(&self) -> Result<Vec<(String, StorageIndex, ShareNum)>> {
        self.read(|c| {
            let mut statement = c.prepare(
                "SELECT name, storage_index, shares.share FROM coming JOIN shares ON shares.id = coming.share
                 JOIN servers ON servers.id = coming.server WHERE upload_secret IS NOT NULL
                 UNION ALL
                 SELECT name, storage_index, shares.share FROM going JOIN shares ON shares.id = going.share
                 JOIN servers ON servers.id = going.server WHERE kind = 1 AND NOT is_whole",
            )?;
            let rows =
                statement.query_map([], |r| Ok((r.get(0)?, StorageIndex(r.get(1)?), ShareNum(r.get(2)?))))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Mutable shares whose last write was not seen to end.
    pub(crate) async fn unmeasured(&self, server: ServerId, limit: u32) -> Result<Vec<ShareRow>> {
        self.read(move |c| {
            let sql = format!(
                "SELECT {COLUMNS} FROM shares WHERE server = ?1 AND kind = 2 AND objects < 0 LIMIT ?2"
            );
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map(params![server.0, limit], |r| {
                let mut share = row(r)?;
                share.objects = 0;
                Ok(share)
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

/// Bytes of a server's uploads by offset of which nothing was written yet.
pub(crate) fn not_begun(c: &Connection, server: ServerId) -> Result<u64> {
    let mut statement = c.prepare_cached(
        "SELECT coalesce(sum(length), 0) FROM coming WHERE server = ?1 AND upload_secret IS NOT NULL
           AND NOT EXISTS(SELECT 1 FROM received WHERE received.share = coming.share)",
    )?;
    Ok(uint(statement.query_row([server.0], |r| r.get(0))?))
}
