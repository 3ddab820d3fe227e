//! Collection's transactions: shares without a lease, deletions that are due, and the outcome of
//! each deletion.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::{
    LateRequests, LeaseDb, Remains, ServerId, ShareRow,
    shares::{self, COLUMNS},
    states::*,
};
use crate::{Moment, Result, ShareId};

/// The rule by which accounts' leases end by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Leases never end by themselves.
    #[default]
    Never,
    /// A lease ends if it is past its expiry.
    Age,
    /// A lease ends if it was renewed last before this moment, in milliseconds since 1970. A lease
    /// without an expiry stays.
    Cutoff(Moment),
}

/// A share that is being deleted (GOING), as the caller that claimed its deletion gets it.
#[derive(Clone, Debug)]
pub struct Going {
    /// The row of the share.
    pub row: ShareRow,
    /// What the share has left in its container.
    pub remains: Remains,
    /// The moment until which requests that were given up may land, in milliseconds since 1970.
    pub until: Moment,
    /// The moment at which the share's objects were deleted for good, in milliseconds since 1970.
    /// The row only waits until a deletion request that was given up can land no longer.
    pub deleted: Option<Moment>,
    /// Number of the claim: a later claim of the same deletion has a higher one.
    fence: i64,
}

/// The outcome of an attempt to delete a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The objects are gone, except for requests of the deletion itself that may still land.
    Deleted(LateRequests),
    /// The attempt failed, with this error. Its requests may still land.
    Failed(String),
}

/// Pause after the first failure of a deletion, in milliseconds. It doubles with each failure.
const FIRST_PAUSE_MS: i64 = 5_000;
/// Longest pause after a failure of a deletion, in milliseconds.
const LONGEST_PAUSE_MS: i64 = 3_600_000;
/// How long a claimed deletion belongs to the caller that claimed it. The claim is renewed before
/// each batch of objects.
const CLAIM: Duration = Duration::from_secs(3600);
/// Longest wait of a deletion for anything.
pub(super) const LONGEST_WAIT: Duration = CLAIM;

impl LeaseDb {
    /// Reads the STABLE shares of a server that have no lease, up to `limit`. Collection deletes
    /// these next.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn unleased(&self, server: ServerId, limit: u32) -> Result<Vec<ShareRow>> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM shares
                 WHERE server = ?1 AND state = {STABLE} AND leases = 0 ORDER BY id LIMIT ?2"
            ))?;
            Ok(statement
                .query_map(params![server.0, limit], shares::row)?
                .collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Makes shares without a lease GOING. A share that got a lease meanwhile stays as it is.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn condemn_unleased(&self, server: ServerId, rows: Vec<ShareRow>) -> Result<()> {
        let leasedb = self.clone();
        self.write(move |tx| {
            rows.iter().try_for_each(|row| {
                leasedb.condemn(tx, server, row.row, Remains::Whole, LateRequests::Answered)
            })
        })
        .await
    }

    /// Ends the server's uploads that are past their time, up to `limit`. Returns their number.
    /// Mutable shares are left for the caller to settle.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn abandon_expired(&self, server: ServerId, limit: u32) -> Result<usize> {
        let leasedb = self.clone();
        self.write(move |tx| {
            let mut statement = tx.prepare_cached(&format!(
                "SELECT coming.share FROM coming JOIN shares ON shares.id = coming.share
                 WHERE coming.server = ?1 AND coming.expires_ms <= ?2 AND shares.kind <> {MUTABLE}
                   AND (shares.kind <> {ARRAY} OR coming.is_examined)
                 ORDER BY coming.expires_ms LIMIT ?3"
            ))?;
            // An array's upload of this run ends by itself. One of an earlier run must have been
            // examined first.
            let rows = statement.query_map(params![server.0, leasedb.now(), limit], |r| {
                r.get::<_, i64>(0)
            })?;
            let expired: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
            expired
                .iter()
                .try_for_each(|row| leasedb.abandon_row(tx, server, *row, LateRequests::MayLand))?;
            Ok(expired.len())
        })
        .await
    }

    /// Reads the uploads by offset of a server that are past their time, up to `limit`.
    pub(crate) async fn expired_uploads(
        &self,
        server: ServerId,
        limit: u32,
    ) -> Result<Vec<ShareId>> {
        let now = self.now();
        self.read(move |c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT storage_index, shares.share FROM coming
                 JOIN shares ON shares.id = coming.share
                 WHERE coming.server = ?1 AND coming.expires_ms <= ?2 AND shares.kind = {IMMUTABLE}
                 ORDER BY coming.expires_ms LIMIT ?3"
            ))?;
            let rows =
                statement.query_map(params![server.0, now, limit], |r| shares::share_id(r, 0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Reads the COMING mutable shares of a server that are past their time, up to `limit`. The
    /// outcome of their first write is unknown.
    pub(crate) async fn expired_mutable(
        &self,
        server: ServerId,
        limit: u32,
    ) -> Result<Vec<ShareRow>> {
        let now = self.now();
        self.read(move |c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT {COLUMNS}
                 FROM coming JOIN shares ON shares.id = coming.share
                 WHERE coming.server = ?1 AND coming.expires_ms <= ?2 AND shares.kind = {MUTABLE}
                 ORDER BY coming.expires_ms LIMIT ?3"
            ))?;
            Ok(statement
                .query_map(params![server.0, now, limit], shares::row)?
                .collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Claims the server's deletions that are due, up to `limit`, by compare-and-set. No other
    /// caller gets them for an hour.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn claim_going(&self, server: ServerId, limit: u32) -> Result<Vec<Going>> {
        self.claim(server, None, limit).await
    }

    /// Claims the deletion of one share, if it is due, as [`LeaseDb::claim_going`] does.
    pub(crate) async fn claim_going_of(&self, server: ServerId, id: ShareId) -> Result<Vec<Going>> {
        self.claim(server, Some(id), 1).await
    }

    async fn claim(
        &self,
        server: ServerId,
        only: Option<ShareId>,
        limit: u32,
    ) -> Result<Vec<Going>> {
        let (now, claimed, run) = (self.now(), self.after(CLAIM), self.run);
        self.write(move |tx| {
            let mut statement = tx.prepare_cached(&format!(
                "SELECT {COLUMNS},
                   going.is_whole, going.until_ms, going.deleted_ms, going.fence + 1 AS next_fence
                 FROM going JOIN shares ON shares.id = going.share
                 WHERE going.server = ?1 AND going.next_ms <= ?2
                   AND (?4 IS NULL OR going.share = ?4) ORDER BY going.next_ms LIMIT ?3"
            ))?;
            let row = match only {
                Some(id) => match shares::find(tx, server, id)? {
                    Some(row) => Some(row.row),
                    None => return Ok(Vec::new()),
                },
                None => None,
            };
            let rows = statement.query_map(params![server.0, now, limit, row], |r| {
                Ok(Going {
                    row: shares::row(r)?,
                    remains: match r.get("is_whole")? {
                        true => Remains::Whole,
                        false => Remains::Parts,
                    },
                    until: r.get("until_ms")?,
                    deleted: r.get("deleted_ms")?,
                    fence: r.get("next_fence")?,
                })
            })?;
            let due: Vec<Going> = rows.collect::<rusqlite::Result<_>>()?;
            for going in &due {
                tx.prepare_cached(
                    "UPDATE going SET next_ms = ?2, fence = ?3, claimed_by = ?4 WHERE share = ?1",
                )?
                .execute(params![going.row.row, claimed, going.fence, run])?;
            }
            Ok(due)
        })
        .await
    }

    /// Returns whether a claimed deletion still belongs to this caller, and if so renews the claim.
    /// The caller asks immediately before it deletes objects, because the share may have gone
    /// meanwhile and been stored again.
    pub(crate) async fn still_claimed(&self, going: &Going) -> Result<bool> {
        let (id, fence, claimed) = (going.row.row, going.fence, self.after(CLAIM));
        self.write(move |tx| {
            let renewed = tx
                .prepare_cached(&format!(
                    "UPDATE going SET next_ms = ?3 WHERE share = ?1 AND fence = ?2
                       AND EXISTS(SELECT 1 FROM shares WHERE id = ?1 AND state = {GOING})"
                ))?
                .execute(params![id, fence, claimed])?;
            Ok(renewed == 1)
        })
        .await
    }

    /// Records that a share being deleted has only its first `objects` objects left. Objects are
    /// deleted from the share's end.
    pub(crate) async fn deleted_down_to(&self, going: &Going, objects: u64) -> Result<()> {
        let (id, fence) = (going.row.row, going.fence);
        self.write(move |tx| {
            tx.prepare_cached(&format!(
                "UPDATE shares SET objects = ?3 WHERE id = ?1 AND state = {GOING}
                   AND EXISTS(SELECT 1 FROM going WHERE share = ?1 AND fence = ?2)"
            ))?
            .execute(params![id, fence, super::int(objects)])?;
            Ok(())
        })
        .await
    }

    /// Makes the server's deletions due that another run of the daemon claimed, also those that
    /// wait after a failure: that run was stopped. The claims of this run stay, even if the
    /// configuration was reloaded.
    pub(crate) async fn release_claims(&self, server: ServerId) -> Result<()> {
        let (now, run) = (self.now(), self.run);
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

    /// Gives a claimed deletion back without an attempt. It is due again after `later`.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn unclaim_going(&self, going: &Going, later: Duration) -> Result<()> {
        let (id, fence, next) = (going.row.row, going.fence, self.after(later));
        self.write(move |tx| {
            tx.execute(
                "UPDATE going SET next_ms = ?2 WHERE share = ?1 AND fence = ?3",
                params![id, next, fence],
            )?;
            Ok(())
        })
        .await
    }

    /// Records the outcome of an attempt at a deletion. After success the row goes when no late
    /// request can land any longer. After a failure the deletion is due again after a pause.
    /// Returns whether the row has gone.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn going_tried(&self, going: &Going, attempt: Attempt) -> Result<bool> {
        let (error, may_land) = match attempt {
            Attempt::Deleted(late) => (None, late == LateRequests::MayLand),
            Attempt::Failed(error) => (Some(error), true),
        };
        let (id, fence, until, now) = (going.row.row, going.fence, going.until, self.now());
        let rests = going.deleted.is_none() && may_land;
        let rested = self.after(self.grace_periods().late);
        self.write(move |tx| {
            if error.is_none() && until <= now {
                if !rests {
                    return gone(tx, id, fence);
                }
                // A deletion request that was given up may still land. Until it cannot, the name
                // gets no other bytes.
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

    /// Counts shares on all servers: first those that wait to be collected, then those that are
    /// lost. The first are GOING, or STABLE without a lease, on servers that are not gone. The
    /// second have vanished, or have a lease and lie on a server that is gone.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn waiting(&self) -> Result<(u64, u64)> {
        self.read(|c| {
            // Of a server that is gone, only the shares that still have a lease count.
            let sql = "SELECT coalesce(sum(iif(gone_ms IS NULL, going + unleased, 0)), 0),
                              coalesce(sum(iif(gone_ms IS NULL, lost, leased)), 0)
                       FROM servers JOIN server_usage ON server = servers.id";
            Ok(c.query_row(sql, [], |row| {
                Ok((super::uint(row.get(0)?), super::uint(row.get(1)?)))
            })?)
        })
        .await
    }

    /// Reads the STABLE shares of a server that `expiry` would leave without a lease now, up to
    /// `limit`: each of their leases has an expiry and would end.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn would_expire(
        &self,
        server: ServerId,
        expiry: Expiry,
        limit: u32,
    ) -> Result<Vec<ShareRow>> {
        let (over, cutoff) = match expiry {
            Expiry::Never => return Ok(Vec::new()),
            Expiry::Age => (self.now(), Moment::MIN),
            Expiry::Cutoff(cutoff) => (Moment::MIN, cutoff),
        };
        self.read(move |c| {
            let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM shares
                 WHERE server = ?1 AND state = {STABLE} AND leases > 0 AND NOT EXISTS(SELECT 1 FROM leases WHERE leases.share = shares.id
                   AND (expires_ms IS NULL OR (expires_ms >= ?2 AND renewed_ms >= ?3))) ORDER BY id LIMIT ?4"))?;
            let rows = statement.query_map(params![server.0, over, cutoff, limit], shares::row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Returns the moment that lies `by` before now, in milliseconds since 1970.
    pub(crate) fn ago(&self, by: Duration) -> Moment {
        self.now().before(by)
    }
}

fn gone(tx: &Connection, id: i64, fence: i64) -> Result<bool> {
    let is_ours = tx
        .prepare_cached("DELETE FROM going WHERE share = ?1 AND fence = ?2")?
        .execute([id, fence])?;
    if is_ours == 1 {
        tx.prepare_cached(&format!(
            "DELETE FROM shares WHERE id = ?1 AND state = {GOING}"
        ))?
        .execute([id])?;
    }
    Ok(is_ours == 1)
}
