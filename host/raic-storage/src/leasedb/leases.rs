//! Leases. A lease is an account's claim on a share that keeps the share from collection. It ends
//! at its expiry, if it has one.

use std::collections::BTreeSet;

use blake2::{Blake2b, Digest as _, digest::consts::U32};
use rusqlite::{Connection, params};

use super::{AccountId, LeaseDb, ServerId, ShareState, int, shares, uint};
use crate::{FileLease, Moment, Result, ShareId, ShareNum, StorageError, StorageIndex};

/// The hash of a client's renew secret: BLAKE2b-256, as the newer leases of Tahoe-LAFS keep it. So
/// leases move in both directions between its storage folders and this database. Share, account and
/// this hash identify a lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RenewSecret(pub(crate) [u8; 32]);

impl std::fmt::Debug for RenewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RenewSecret(..)")
    }
}

impl RenewSecret {
    /// Stands for leases that no client renews: those of an array, and starter leases.
    pub const NONE: Self = Self([0; 32]);
    /// Stands for the lease of an upload, which ends with the upload.
    pub(crate) const UPLOAD: Self = Self([0xff; 32]);

    /// Hashes a client's renew secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(Blake2b256::digest(secret).into())
    }

    /// Takes a hash that is known already, from a lease of Tahoe-LAFS. Returns `None` for the two
    /// values that stand for leases of other kinds.
    pub fn from_hash(hash: [u8; 32]) -> Option<Self> {
        let secret = Self(hash);
        (secret != Self::NONE && secret != Self::UPLOAD).then_some(secret)
    }

    /// The hash of the secret.
    pub fn hash(self) -> [u8; 32] {
        self.0
    }
}

type Blake2b256 = Blake2b<U32>;

/// Most leases that one account can have on one share. A client has one, and no honest account has
/// so many clients. Leases of other accounts do not count: they would shut the account out.
const MOST_LEASES: u64 = 1024;

/// A lease, as a listing of leases shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The server's name.
    pub server: String,
    /// The share.
    pub id: ShareId,
    /// Name of the account that holds the lease.
    pub account: String,
    /// The moment at which the lease was renewed last, in milliseconds since 1970.
    pub renewed: Moment,
    /// The moment at which the lease ends, in milliseconds since 1970; `None` if it has no end.
    pub expires: Option<Moment>,
    /// Bytes that the share takes, or that are reserved for it.
    pub used_space: u64,
    /// State of the share.
    pub state: ShareState,
}

/// Adds a lease, or renews it if it exists. A lease is never shortened.
pub(super) fn insert(
    tx: &Connection,
    share: i64,
    account: AccountId,
    renew: RenewSecret,
    now: Moment,
    expires: Option<Moment>,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO leases VALUES(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET renewed_ms = excluded.renewed_ms,
           expires_ms = CASE WHEN expires_ms IS NULL OR excluded.expires_ms IS NULL THEN NULL
             ELSE max(expires_ms, excluded.expires_ms) END",
    )?
    .execute(params![share, account.0, renew.0, now, expires])?;
    Ok(())
}

/// Returns whether an account already has the most leases on a share that it can have, none of them
/// with this secret.
pub(super) fn is_full(
    c: &Connection,
    share: i64,
    account: AccountId,
    renew: RenewSecret,
) -> Result<bool> {
    let sql = "SELECT count(*) >= ?4 AND NOT EXISTS(SELECT 1 FROM leases
                 WHERE share = ?1 AND account = ?2 AND renew_secret = ?3)
               FROM leases WHERE share = ?1 AND account = ?2";
    let most = int(MOST_LEASES);
    Ok(c.prepare_cached(sql)?
        .query_row(params![share, account.0, renew.0, most], |r| r.get(0))?)
}

/// Ends the leases of a share that have this secret; `None` ends all of them.
pub(super) fn end(tx: &Connection, share: i64, renew: Option<RenewSecret>) -> Result<()> {
    match renew {
        Some(renew) => tx
            .prepare_cached("DELETE FROM leases WHERE share = ?1 AND renew_secret = ?2")?
            .execute(params![share, renew.0])?,
        None => tx
            .prepare_cached("DELETE FROM leases WHERE share = ?1")?
            .execute([share])?,
    };
    Ok(())
}

/// Returns whether an account holds a lease on a share.
pub(super) fn holds(c: &Connection, share: i64, account: AccountId) -> Result<bool> {
    let sql = "SELECT EXISTS(SELECT 1 FROM leases WHERE share = ?1 AND account = ?2)";
    Ok(c.prepare_cached(sql)?
        .query_row(params![share, account.0], |r| r.get(0))?)
}

impl LeaseDb {
    /// Ends the leases without a client's secret on all shares of a storage index, on every server,
    /// because no file names the storage index any longer. Collection does the rest. Returns
    /// whether there were such leases.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if a statement fails.
    pub fn release(&self, tx: &Connection, index: StorageIndex) -> Result<bool> {
        self.changed();
        let ended = tx
            .prepare_cached(
                "DELETE FROM leases WHERE renew_secret = ?2 AND share IN (
                   SELECT shares.id FROM servers CROSS JOIN shares
                   ON shares.server = servers.id AND shares.storage_index = ?1)",
            )?
            .execute(params![index.0, RenewSecret::NONE.0])?;
        Ok(ended > 0)
    }

    /// Adds or renews an account's lease on all shares of a shareset that are whole and not lost.
    /// Returns the shares on which the account has the lease now.
    ///
    /// # Errors
    /// Fails as [`LeaseDb::renew_in`] does.
    pub async fn renew(
        &self,
        server: ServerId,
        index: StorageIndex,
        account: AccountId,
        renew: RenewSecret,
    ) -> Result<BTreeSet<ShareNum>> {
        let leasedb = self.clone();
        self.write(move |tx| leasedb.renew_in(tx, server, index, account, renew))
            .await
    }

    /// Does what [`LeaseDb::renew`] does, in the caller's transaction.
    ///
    /// # Errors
    /// Fails with [`StorageError::AccountDisabled`] if the account is disabled, and with
    /// [`StorageError::QuotaExceeded`] if its quota does not hold a share that it would newly pay
    /// for. Fails with [`StorageError::TooManyLeases`] if no share took the lease because the
    /// account has too many. Also fails with [`StorageError::NoAccount`] or
    /// [`StorageError::Database`].
    pub fn renew_in(
        &self,
        tx: &Connection,
        server: ServerId,
        index: StorageIndex,
        account: AccountId,
        renew: RenewSecret,
    ) -> Result<BTreeSet<ShareNum>> {
        let expires = self.after(super::accounts::by_id(tx, account)?.lease);
        let rows = shares::shareset(tx, server, index)?;
        let whole = rows
            .iter()
            .filter(|row| row.state == ShareState::Stable && !row.is_lost);
        let (mut renewed, mut is_refused) = (BTreeSet::new(), false);
        super::accounts::admit(tx, account, 0)?;
        for row in whole {
            if is_full(tx, row.row, account, renew)? {
                is_refused = true;
                continue;
            }
            // An account that takes a lease pays for the whole share.
            if !holds(tx, row.row, account)? {
                super::accounts::admit(tx, account, row.used_space)?;
            }
            insert(tx, row.row, account, renew, self.now(), Some(expires))?;
            renewed.insert(row.id.share);
        }
        if is_refused && renewed.is_empty() {
            return Err(StorageError::TooManyLeases { most: MOST_LEASES });
        }
        Ok(renewed)
    }

    /// Puts leases of an account on a share that is whole, each with its end. A lease that is there
    /// is never shortened. The starter lease of the share ends if there are others.
    pub(crate) async fn put_leases(
        &self,
        server: ServerId,
        id: ShareId,
        account: AccountId,
        leases: Vec<FileLease>,
    ) -> Result<()> {
        let now = self.now();
        self.write(move |tx| {
            let row = shares::find(tx, server, id)?.filter(|row| row.state == ShareState::Stable);
            let (Some(row), false) = (row, leases.is_empty()) else {
                return Ok(());
            };
            for lease in &leases {
                if !is_full(tx, row.row, account, lease.renew)? {
                    insert(tx, row.row, account, lease.renew, now, Some(lease.expires))?;
                }
            }
            let starter = "DELETE FROM leases WHERE share = ?1 AND account = ?2";
            tx.prepare_cached(starter)?
                .execute(params![row.row, AccountId::STARTER.0])?;
            Ok(())
        })
        .await
    }

    /// Reads the leases on a share that have an end, of all accounts. Those of uploads are left
    /// out.
    pub(crate) async fn leases_on(&self, server: ServerId, id: ShareId) -> Result<Vec<FileLease>> {
        self.read(move |c| {
            let Some(row) = shares::find(c, server, id)? else {
                return Ok(Vec::new());
            };
            let sql = "SELECT renew_secret, max(expires_ms) FROM leases
                       WHERE share = ?1 AND renew_secret <> ?2 AND expires_ms IS NOT NULL
                       GROUP BY renew_secret ORDER BY min(account), renew_secret";
            let mut statement = c.prepare_cached(sql)?;
            let rows = statement.query_map(params![row.row, RenewSecret::UPLOAD.0], |r| {
                Ok(FileLease {
                    renew: RenewSecret(r.get(0)?),
                    expires: r.get(1)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Reads a page of leases, in the order of servers, storage indexes and shares. It has those
    /// of `account` and `index` (`None` for all) that come after the share `after`. A page has up
    /// to `limit` leases and, if it has more than one share, ends with a whole share.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn leases(
        &self,
        account: Option<AccountId>,
        index: Option<StorageIndex>,
        after: Option<(String, ShareId)>,
        limit: u32,
    ) -> Result<Vec<LeaseInfo>> {
        self.read(move |c| {
            let (server, from, share) = after.map_or((String::new(), [0; 16], -1), |(server, id)| {
                    (server, id.index.0, i64::from(id.share.0))
                });
            let mut statement = c.prepare(
                "SELECT servers.name, shares.storage_index, shares.share, accounts.name, leases.renewed_ms,
                   leases.expires_ms, shares.used_space, shares.state
                 FROM servers CROSS JOIN shares ON shares.server = servers.id
                 CROSS JOIN leases ON leases.share = shares.id JOIN accounts ON accounts.id = leases.account
                 WHERE (?1 IS NULL OR leases.account = ?1) AND (?2 IS NULL OR shares.storage_index = ?2)
                   AND (servers.name > ?3 OR (servers.name = ?3 AND (shares.storage_index, shares.share) > (?4, ?5)))
                 ORDER BY servers.name, shares.storage_index, shares.share, leases.account LIMIT ?6",
            )?;
            let rows = statement.query_map(
                params![account.map(|a| a.0), index.map(|i| i.0), server, from, share, limit],
                |r| {
                    Ok(LeaseInfo {
                        server: r.get(0)?,
                        id: shares::share_id(r, 1)?,
                        account: r.get(3)?,
                        renewed: r.get(4)?,
                        expires: r.get(5)?,
                        used_space: uint(r.get(6)?),
                        state: r.get(7)?,
                    })
                },
            )?;
            let mut leases: Vec<LeaseInfo> = rows.collect::<rusqlite::Result<_>>()?;
            // A page ends with the last lease of a share, so that the next page begins after it.
            let place = |l: &LeaseInfo| (l.server.clone(), l.id);
            if leases.len() == limit as usize
                && let (Some(first), Some(last)) = (leases.first().map(place), leases.last().map(place))
                && first != last
            {
                leases.retain(|l| place(l) != last);
            }
            Ok(leases)
        })
        .await
    }

    /// Ends up to `limit` leases that expired before `before_ms`, in milliseconds since 1970.
    /// Returns their number. Leases of uploads stay.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn end_expired(&self, before: Moment, limit: u32) -> Result<usize> {
        self.write(move |tx| {
            // Uploads' leases end with their uploads.
            let mut statement = tx.prepare_cached(
                "SELECT share, account, renew_secret FROM leases WHERE expires_ms IS NOT NULL AND expires_ms < ?1
                   AND renew_secret <> ?2 ORDER BY expires_ms LIMIT ?3",
            )?;
            let rows = statement.query_map(params![before, RenewSecret::UPLOAD.0, limit], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, [u8; 32]>(2)?))
            })?;
            let expired: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
            for (share, account, renew) in &expired {
                tx.prepare_cached("DELETE FROM leases WHERE share = ?1 AND account = ?2 AND renew_secret = ?3")?
                    .execute(params![share, account, renew])?;
            }
            Ok(expired.len())
        })
        .await
    }

    /// Ends the leases that were renewed last before `cutoff_ms`, in milliseconds since 1970, among
    /// the next `limit` leases. `from` is the row number of the share at which the walk continues.
    /// Leases of uploads and leases without an expiry stay. Returns the next `from`, or `None` at
    /// the end of the walk.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn end_not_renewed_since(
        &self,
        cutoff: Moment,
        from: u64,
        limit: u32,
    ) -> Result<Option<u64>> {
        self.write(move |tx| {
            let next: Option<i64> = tx
                .prepare_cached("SELECT max(share) FROM (SELECT share FROM leases WHERE share >= ?1 ORDER BY share LIMIT ?2)")?
                .query_row(params![int(from), limit], |r| r.get(0))?;
            let Some(last) = next else { return Ok(None) };
            tx.prepare_cached(
                "DELETE FROM leases WHERE share BETWEEN ?1 AND ?2 AND renewed_ms < ?3 AND expires_ms IS NOT NULL
                   AND renew_secret <> ?4",
            )?
            .execute(params![int(from), last, cutoff, RenewSecret::UPLOAD.0])?;
            Ok(Some(uint(last) + 1))
        })
        .await
    }
}
