//! Rows of mutable shares. A write reserves the space that it will take. Its outcome is recorded;
//! if the outcome is unknown, the share is measured later.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    AccountId, Allocation, FirstLease, LateRequests, LeaseDb, Remains, RenewSecret, ServerId,
    ShareKind, ShareRow, ShareState, accounts, find, int, leases, name_of, shares, states::*,
    uploads::forget_coming,
};
use crate::{Result, ShareId, StorageError, StorageIndex, Stored};

/// The secret that guards a slot: who writes must present it. Clouds see only a keyed hash of it.
/// The database keeps it, so that a slot can be moved to a storage folder of Tahoe-LAFS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WriteEnabler(pub [u8; 32]);

impl std::fmt::Debug for WriteEnabler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteEnabler(..)")
    }
}

impl WriteEnabler {
    /// Makes a write enabler that nobody has.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the system gives no random numbers.
    pub(crate) fn random() -> Result<Self> {
        let mut enabler = [0; 32];
        getrandom::fill(&mut enabler).map_err(|e| crate::DatabaseError::Randomness(e.into()))?;
        Ok(Self(enabler))
    }
}

fn keep_enabler(
    tx: &Connection,
    server: ServerId,
    index: StorageIndex,
    enabler: WriteEnabler,
) -> Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO write_enablers VALUES(?1, ?2, ?3)")?
        .execute(params![server.0, index.0, enabler.0])?;
    Ok(())
}

impl LeaseDb {
    /// Reads the write enabler of a slot; `None` if it is not known, as after a lost database.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be read.
    pub async fn write_enabler(
        &self,
        server: ServerId,
        index: StorageIndex,
    ) -> Result<Option<WriteEnabler>> {
        self.read(move |c| {
            let sql = "SELECT enabler FROM write_enablers WHERE server = ?1 AND storage_index = ?2";
            let mut statement = c.prepare_cached(sql)?;
            let enabler = statement.query_row(params![server.0, index.0], |r| r.get(0));
            Ok(enabler.optional()?.map(WriteEnabler))
        })
        .await
    }

    /// Requires that an account may write.
    ///
    /// # Errors
    /// Fails with [`StorageError::AccountDisabled`] if the account is disabled,
    /// [`StorageError::NoAccount`] if there is none, and [`StorageError::Database`] if the database
    /// cannot be read.
    pub(crate) async fn require_enabled(&self, account: AccountId) -> Result<()> {
        self.read(move |c| accounts::admit(c, account, 0)).await
    }

    /// Reserves the space that mutable shares will take once they are written, and makes rows for
    /// those that have none: for all of them or for none. The account pays for the bytes that a
    /// share grows by, or for the whole share if it has no lease on it yet. Its leases begin now:
    /// otherwise a share could be collected during the write.
    pub(crate) async fn begin_mutable_writes(
        &self,
        shares: Vec<Allocation>,
        renew: RenewSecret,
        enabler: WriteEnabler,
    ) -> Result<()> {
        if shares.is_empty() {
            return Ok(());
        }
        let this = self.clone();
        self.write(move |tx| {
            shares
                .iter()
                .try_for_each(|new| this.begin_mutable_write_in(tx, new, renew, enabler))
        })
        .await
    }

    fn begin_mutable_write_in(
        &self,
        tx: &Connection,
        new: &Allocation,
        renew: RenewSecret,
        enabler: WriteEnabler,
    ) -> Result<()> {
        match find(tx, new.server, new.id)? {
            None => {
                if self.is_draining(new.server) {
                    return Err(StorageError::Draining(name_of(tx, new.server)?));
                }
                self.allocate(tx, new)?;
                keep_enabler(tx, new.server, new.id.index, enabler)?;
                // If the outcome of the write is unknown, the lease begins when it is settled.
                tx.prepare_cached(
                    "UPDATE coming SET renew_secret = ?4 WHERE share = (SELECT id FROM shares
                       WHERE server = ?1 AND storage_index = ?2 AND share = ?3)",
                )?
                .execute(params![
                    new.server.0,
                    new.id.index.0,
                    new.id.share.0,
                    renew.0
                ])?;
                Ok(())
            }
            Some(row) if row.kind != ShareKind::Mutable => Err(StorageError::Taken {
                backend: name_of(tx, new.server)?,
                id: new.id,
                state: "is there and is immutable",
            }),
            Some(row) if row.state == ShareState::Going => Err(StorageError::Taken {
                backend: name_of(tx, new.server)?,
                id: new.id,
                state: "is being deleted; it can be stored again when it has gone",
            }),
            Some(row) => {
                // After a lost database the write enabler was not known.
                keep_enabler(tx, new.server, new.id.index, enabler)?;
                self.grow_mutable(tx, &row, new, renew)
            }
        }
    }

    fn grow_mutable(
        &self,
        tx: &Connection,
        row: &ShareRow,
        new: &Allocation,
        renew: RenewSecret,
    ) -> Result<()> {
        let used_space = new.reserve;
        shares::require_possible(new.id, used_space)?;
        // An account that holds no lease on the share yet pays for the whole share.
        let pays = if leases::holds(tx, row.row, new.account)? {
            used_space.saturating_sub(row.used_space)
        } else {
            used_space
        };
        accounts::admit(tx, new.account, pays)?;
        self.changed();
        tx.prepare_cached("UPDATE shares SET used_space = ?2, is_unmeasured = 1 WHERE id = ?1")?
            .execute(params![row.row, int(used_space.max(row.used_space))])?;
        if row.state == ShareState::Stable && !leases::is_full(tx, row.row, new.account, renew)? {
            let expires = self.after(accounts::by_id(tx, new.account)?.lease);
            leases::insert(tx, row.row, new.account, renew, self.now(), Some(expires))?;
        }
        Ok(())
    }

    /// Records the length of a mutable share, in bytes; `None` records that the share is deleted. A
    /// share that was COMING becomes STABLE, and the account gets a lease on it.
    pub(crate) async fn measured(
        &self,
        server: ServerId,
        id: ShareId,
        length: Option<u64>,
        lease: (AccountId, RenewSecret),
        late: LateRequests,
    ) -> Result<()> {
        self.measured_all(server, vec![(id, length)], lease, late)
            .await
    }

    /// Does what [`LeaseDb::measured`] does, for several shares at once.
    pub(crate) async fn measured_all(
        &self,
        server: ServerId,
        shares: Vec<(ShareId, Option<u64>)>,
        lease: (AccountId, RenewSecret),
        late: LateRequests,
    ) -> Result<()> {
        if shares.is_empty() {
            return Ok(());
        }
        let this = self.clone();
        self.write(move |tx| {
            shares.into_iter().try_for_each(|(id, length)| {
                this.measured_in(tx, server, (id, length), lease, late)
            })
        })
        .await
    }

    fn measured_in(
        &self,
        tx: &Connection,
        server: ServerId,
        (id, length): (ShareId, Option<u64>),
        (account, renew): (AccountId, RenewSecret),
        late: LateRequests,
    ) -> Result<()> {
        let Some(bytes) = length else {
            return self.mutable_deleted_in(tx, server, id, late);
        };
        match find(tx, server, id)? {
            Some(row) if row.state == ShareState::Coming => {
                let stored = Stored { objects: 0, bytes };
                let lease = FirstLease::Timed { account, renew };
                self.complete(tx, server, id, stored, lease)
            }
            Some(row) => {
                tx.prepare_cached(
                    "UPDATE shares SET used_space = ?2, is_unmeasured = 0 WHERE id = ?1",
                )?
                .execute(params![row.row, int(bytes)])?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Marks a mutable share as unmeasured: a request changes it, and its outcome may stay unknown.
    /// Until it is known, the share's length (or whether it exists) must be looked up.
    pub(crate) async fn unmeasure(&self, server: ServerId, id: ShareId) -> Result<()> {
        self.write(move |tx| {
            let sql = format!(
                "UPDATE shares SET is_unmeasured = 1
                 WHERE server = ?1 AND storage_index = ?2 AND share = ?3 AND state = {STABLE}"
            );
            tx.prepare_cached(&sql)?
                .execute(params![server.0, id.index.0, id.share.0])?;
            Ok(())
        })
        .await
    }

    /// Records that a mutable share was deleted. Its leases end, and it becomes GOING.
    pub(crate) async fn mutable_deleted(
        &self,
        server: ServerId,
        id: ShareId,
        late: LateRequests,
    ) -> Result<()> {
        let this = self.clone();
        self.write(move |tx| this.mutable_deleted_in(tx, server, id, late))
            .await
    }

    fn mutable_deleted_in(
        &self,
        tx: &Connection,
        server: ServerId,
        id: ShareId,
        late: LateRequests,
    ) -> Result<()> {
        let Some(row) = find(tx, server, id)? else {
            return Ok(());
        };
        leases::end(tx, row.row, None)?;
        forget_coming(tx, row.row)?;
        self.condemn(tx, server, row.row, Remains::Whole, late)
    }

    /// Reads a server's unmeasured mutable shares, up to `limit`.
    pub(crate) async fn unmeasured(&self, server: ServerId, limit: u32) -> Result<Vec<ShareRow>> {
        self.read(move |c| {
            let sql = format!(
                "SELECT {} FROM shares WHERE server = ?1 AND is_unmeasured AND kind = {MUTABLE}
                 LIMIT ?2",
                shares::COLUMNS
            );
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map(params![server.0, limit], shares::row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
