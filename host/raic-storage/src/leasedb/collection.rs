//! What collection asks of the tables: what has no lease, what is due, and what came of it.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::{LeaseDb, ServerId, ShareRow, shares};
use crate::{Result, clock::millis};

/// When accounts' leases end by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// When they were not renewed in time.
    Age,
    /// When they were renewed last before this moment, in milliseconds since 1970.
    Cutoff(i64),
}

/// A share being deleted.
#[derive(Clone, Debug)]
pub struct Going {
    /// The share.
    pub row: ShareRow,
    /// Whether it was whole: then it is removed by the names of its objects.
    pub is_whole: bool,
    /// Until when requests may land that were given up.
    pub until_ms: i64,
    /// When its objects were deleted for good; what is left is to wait until that cannot be done
    /// once more.
    pub deleted_ms: Option<i64>,
    /// Of whoever took it up.
    fence: i64,
}

/// After a failure it is tried again with a growing pause, of an hour at most.
const FIRST_PAUSE_MS: i64 = 5_000;
const LONGEST_PAUSE_MS: i64 = 3_600_000;
/// Whoever took up a deletion has so long before another may; it is renewed before each batch of
/// objects.
const CLAIM: Duration = Duration::from_secs(3600);
/// The longest that a deletion waits for anything.
pub(super) const LONGEST_WAIT: Duration = CLAIM;

impl LeaseDb {
    /// STABLE shares of a server without a lease, up to `limit`: what collection takes next.
    ///
    /// # Errors
    /// The database's.
    pub async fn unleased(&self, server: ServerId, limit: u32) -> Result<Vec<ShareRow>> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT id, storage_index, share, kind, state, used_space, objects, leases, lost_ms FROM shares
                 WHERE server = ?1 AND state = 1 AND leases = 0 ORDER BY id LIMIT ?2",
            )?;
            Ok(statement.query_map(params![server.0, limit], shares::row)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// STABLE shares without a lease are GOING; those that got one meanwhile stay.
    ///
    /// # Errors
    /// The database's.
    pub async fn condemn_unleased(&self, server: ServerId, rows: Vec<ShareRow>) -> Result<()> {
        let leasedb = self.clone();
        self.write(move |tx| {
            rows.iter()
                .try_for_each(|row| leasedb.condemn(tx, server, row.id, false, true))
        })
        .await
    }

    /// Ends uploads that nobody carries on, up to `limit`; returns how many. Mutable shares are for
    /// the caller to settle.
    ///
    /// # Errors
    /// The database's.
    pub async fn abandon_expired(&self, server: ServerId, limit: u32) -> Result<usize> {
        let leasedb = self.clone();
        self.write(move |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT coming.share FROM coming JOIN shares ON shares.id = coming.share
                 WHERE coming.server = ?1 AND coming.expires_ms <= ?2 AND shares.kind <> 2
                   AND (shares.kind <> 0 OR coming.owner = zeroblob(16))
                 ORDER BY coming.expires_ms LIMIT ?3",
            )?;
            // An array's upload of this run ends by itself, or is waited for; one of an earlier run
            // was looked at first.
            let rows = statement.query_map(params![server.0, leasedb.now_ms(), limit], |r| {
                r.get::<_, i64>(0)
            })?;
            let expired: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
            expired
                .iter()
                .try_for_each(|id| leasedb.abandon_row(tx, server, *id, true))?;
            Ok(expired.len())
        })
        .await
    }

    /// Mutable shares that began and whose first write was not seen to end, and are past their
    /// time.
    pub(crate) async fn expired_mutable(
        &self,
        server: ServerId,
        limit: u32,
    ) -> Result<Vec<ShareRow>> {
        let now = self.now_ms();
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT id, storage_index, shares.share, kind, state, used_space, objects, leases, lost_ms
                 FROM coming JOIN shares ON shares.id = coming.share
                 WHERE coming.server = ?1 AND coming.expires_ms <= ?2 AND shares.kind = 2
                 ORDER BY coming.expires_ms LIMIT ?3",
            )?;
            Ok(statement
                .query_map(params![server.0, now, limit], shares::row)?
                .collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Takes up deletions that are due, up to `limit`, by compare-and-set: no other gets them for a
    /// while.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim_going(&self, server: ServerId, limit: u32) -> Result<Vec<Going>> {
        let (now, claimed, run) = (self.now_ms(), self.after(CLAIM), self.run);
        self.write(move |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT id, storage_index, shares.share, kind, state, used_space, objects, leases, lost_ms,
                   going.is_whole, going.until_ms, going.deleted_ms, going.fence + 1
                 FROM going JOIN shares ON shares.id = going.share
                 WHERE going.server = ?1 AND going.next_ms <= ?2 ORDER BY going.next_ms LIMIT ?3",
            )?;
            let rows = statement.query_map(params![server.0, now, limit], |r| {
                Ok(Going {
                    row: shares::row(r)?,
                    is_whole: r.get(9)?,
                    until_ms: r.get(10)?,
                    deleted_ms: r.get(11)?,
                    fence: r.get(12)?,
                })
            })?;
            let due: Vec<Going> = rows.collect::<rusqlite::Result<_>>()?;
            for going in &due {
                tx.prepare_cached(
                    "UPDATE going SET next_ms = ?2, fence = ?3, claimed_by = ?4 WHERE share = ?1",
                )?
                .execute(params![going.row.id, claimed, going.fence, run])?;
            }
            Ok(due)
        })
        .await
    }

    /// Whether a deletion that was taken up is still this caller's, just now: then it is for as
    /// long as a claim lasts. Asked immediately before objects are deleted: the share may have gone
    /// meanwhile, and been stored again.
    pub(crate) async fn still_claimed(&self, going: &Going) -> Result<bool> {
        let (id, fence, claimed) = (going.row.id, going.fence, self.after(CLAIM));
        self.write(move |tx| {
            let renewed = tx
                .prepare_cached(
                    "UPDATE going SET next_ms = ?3 WHERE share = ?1 AND fence = ?2
                       AND EXISTS(SELECT 1 FROM shares WHERE id = ?1 AND state = 2)",
                )?
                .execute(params![id, fence, claimed])?;
            Ok(renewed == 1)
        })
        .await
    }

    /// Objects of a share that is being deleted have gone, from its end: so many are left.
    pub(crate) async fn deleted_down_to(&self, going: &Going, objects: u64) -> Result<()> {
        let (id, fence) = (going.row.id, going.fence);
        self.write(move |tx| {
            tx.prepare_cached(
                "UPDATE shares SET objects = ?3 WHERE id = ?1 AND state = 2
                   AND EXISTS(SELECT 1 FROM going WHERE share = ?1 AND fence = ?2)",
            )?
            .execute(params![id, fence, super::int(objects)])?;
            Ok(())
        })
        .await
    }

    /// Deletions that another run of the daemon took up, or that wait after a failure, are due: it
    /// was stopped. Those of this run go on, also where the configuration was read anew.
    pub(crate) async fn release_claims(&self, server: ServerId) -> Result<()> {
        let (now, run) = (self.now_ms(), self.run);
        self.write(move |tx| {
            tx.execute(
                "UPDATE going SET next_ms = ?2, fence = fence + 1, claimed_by = NULL
                 WHERE server = ?1 AND next_ms > ?2 AND deleted_ms IS NULL AND until_ms <= ?2
                   AND claimed_by IS NOT ?3",
                params![server.0, now, run],
            )?;
            Ok(())
        })
        .await
    }

    /// A deletion was not tried after all: it is due at once.
    ///
    /// # Errors
    /// The database's.
    pub async fn unclaim_going(&self, going: &Going, later: Duration) -> Result<()> {
        let (id, fence, next) = (going.row.id, going.fence, self.after(later));
        self.write(move |tx| {
            tx.execute(
                "UPDATE going SET next_ms = ?2 WHERE share = ?1 AND fence = ?3",
                params![id, next, fence],
            )?;
            Ok(())
        })
        .await
    }

    /// What came of a deletion: its objects are gone, and the row with them once nothing can land
    /// any longer; or it failed and is tried again later. Returns whether the row has gone.
    ///
    /// # Errors
    /// The database's.
    pub async fn going_tried(
        &self,
        going: &Going,
        error: Option<String>,
        may_land: bool,
    ) -> Result<bool> {
        let (id, fence, until, now) = (going.row.id, going.fence, going.until_ms, self.now_ms());
        let rests = going.deleted_ms.is_none() && may_land;
        let rested = self.after(self.patience().late);
        self.write(move |tx| {
            if error.is_none() && until <= now {
                if !rests {
                    return gone(tx, id, fence);
                }
                // An attempt at the deletion that was given up may be done later: until then the
                // name has no other bytes.
                tx.prepare_cached("UPDATE going SET deleted_ms = ?2, next_ms = ?3 WHERE share = ?1 AND fence = ?4")?
                    .execute(params![id, now, rested, fence])?;
                return Ok(false);
            }
            tx.prepare_cached(
                "UPDATE going SET attempts = attempts + 1, last_error = ?2, next_ms = CASE WHEN ?2 IS NULL THEN until_ms
                   ELSE ?3 + min(?4, ?5 << min(attempts, 10)) END WHERE share = ?1 AND fence = ?6",
            )?
            .execute(params![id, error, now, LONGEST_PAUSE_MS, FIRST_PAUSE_MS, fence])?;
            Ok(false)
        })
        .await
    }

    /// How many shares are in each state on all servers: COMING, STABLE, GOING, and those that are
    /// lost.
    ///
    /// # Errors
    /// The database's.
    pub async fn waiting(&self) -> Result<(u64, u64)> {
        self.read(|c| {
            let one = |sql| c.query_row(sql, [], |row| row.get::<_, i64>(0)).map(super::uint);
            Ok((
                one("SELECT count(*) FROM going CROSS JOIN servers ON servers.id = server WHERE gone_ms IS NULL")?
                    + one(
                        "SELECT count(*) FROM servers CROSS JOIN shares ON server = servers.id
                         WHERE gone_ms IS NULL AND state = 1 AND leases = 0",
                    )?,
                // What a server that is gone held, as far as anything still leases it.
                one(
                    "SELECT count(*) FROM servers CROSS JOIN shares ON server = servers.id
                     WHERE gone_ms IS NULL AND lost_ms > 0",
                )? + one(
                    "SELECT count(*) FROM servers CROSS JOIN shares ON server = servers.id
                     WHERE gone_ms IS NOT NULL AND state = 1 AND leases > 0",
                )?,
            ))
        })
        .await
    }

    /// What expiry by age would end next if it were at `now_ms`: shares whose every lease has an
    /// end that is over.
    ///
    /// # Errors
    /// The database's.
    pub async fn would_expire(
        &self,
        server: ServerId,
        expiry: Expiry,
        limit: u32,
    ) -> Result<Vec<ShareRow>> {
        let (over, cutoff) = match expiry {
            Expiry::Never => return Ok(Vec::new()),
            Expiry::Age => (self.now_ms(), i64::MIN),
            Expiry::Cutoff(cutoff) => (i64::MIN, cutoff),
        };
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT id, storage_index, share, kind, state, used_space, objects, leases, lost_ms FROM shares
                 WHERE server = ?1 AND state = 1 AND leases > 0 AND NOT EXISTS(SELECT 1 FROM leases WHERE leases.share = shares.id
                   AND (expires_ms IS NULL OR (expires_ms >= ?2 AND renewed_ms >= ?3))) ORDER BY id LIMIT ?4",
            )?;
            let rows = statement.query_map(params![server.0, over, cutoff, limit], shares::row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// A pause that is no less than what `by` asks for, in milliseconds from now.
    pub(crate) fn over_since(&self, by: Duration) -> i64 {
        self.now_ms().saturating_sub(millis(by))
    }
}

fn gone(tx: &Connection, id: i64, fence: i64) -> Result<bool> {
    let is_ours = tx
        .prepare_cached("DELETE FROM going WHERE share = ?1 AND fence = ?2")?
        .execute([id, fence])?;
    if is_ours == 1 {
        tx.prepare_cached("DELETE FROM shares WHERE id = ?1 AND state = 2")?
            .execute([id])?;
    }
    Ok(is_ours == 1)
}
