//! Suspicions: findings of a single listing. A second listing must confirm each before anything is
//! destroyed or marked as lost.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{LeaseDb, ServerId, shares, uint};
use crate::{Moment, Result, ShareId, Span};

/// A contradiction between a listing and the row of a share. The database stores these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Objects without a row that are not a whole share: its upload was never complete. They are to
    /// be destroyed.
    Torn = 0,
    /// A STABLE share whose objects are missing, or hold fewer bytes than were stored. The share is
    /// to be marked as lost.
    Vanished = 1,
    /// Objects beyond the end of a STABLE share, from an older upload under the same name. They are
    /// to be destroyed.
    Leftover = 2,
}

/// A suspicion against a share, with the moment since which it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The kind of the suspicion.
    pub what: Suspicion,
    /// Name of the object whose absence decides, or the length that a shortened share had. A second
    /// listing must give the same.
    pub object: String,
    /// The moment of the first listing that gave this suspicion, in milliseconds since 1970.
    pub since: Moment,
}

impl LeaseDb {
    /// Counts the suspicions against shares of a server. Only a bounded number is recorded.
    pub(crate) async fn suspect_count(&self, server: ServerId) -> Result<u64> {
        self.read(move |c| {
            let sql = "SELECT count(*) FROM suspects WHERE server = ?1";
            Ok(uint(c.query_row(sql, [server.0], |r| r.get(0))?))
        })
        .await
    }

    /// Reads the suspicions against a server's shares within a span of storage indexes.
    pub(crate) async fn suspects(
        &self,
        server: ServerId,
        span: Span,
    ) -> Result<BTreeMap<ShareId, Suspect>> {
        let (first, last) = span.bounds();
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT storage_index, share, what, object, since_ms FROM suspects
                 WHERE server = ?1 AND storage_index BETWEEN ?2 AND ?3",
            )?;
            let rows = statement.query_map(params![server.0, first.0, last.0], |r| {
                let id = shares::share_id(r, 0)?;
                let suspect = Suspect {
                    what: r.get(2)?,
                    object: r.get(3)?,
                    since: r.get(4)?,
                };
                Ok((id, suspect))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Records a suspicion. If the same object was already suspected of the same, the first moment
    /// is kept.
    pub(crate) async fn suspect(
        &self,
        server: ServerId,
        id: ShareId,
        what: Suspicion,
        object: String,
    ) -> Result<()> {
        let now = self.now();
        self.write(move |tx| {
            tx.prepare_cached(
                "INSERT INTO suspects VALUES(?1, ?2, ?3, ?4, ?5, ?6, 1)
                 ON CONFLICT DO UPDATE SET passes = passes + 1,
                   since_ms = CASE WHEN what = excluded.what AND object = excluded.object
                     THEN since_ms ELSE excluded.since_ms END,
                   what = excluded.what, object = excluded.object",
            )?
            .execute(params![server.0, id.index.0, id.share.0, what, object, now])?;
            Ok(())
        })
        .await
    }

    /// Drops the suspicion against a share, if there is one.
    pub(crate) async fn clear_suspicion(&self, server: ServerId, id: ShareId) -> Result<()> {
        self.write(move |tx| clear(tx, server, id)).await
    }
}

/// Returns whether a suspicion stands against a share.
pub(super) fn is_suspect(c: &Connection, server: ServerId, id: ShareId) -> Result<bool> {
    let sql = "SELECT EXISTS(SELECT 1 FROM suspects
                 WHERE server = ?1 AND storage_index = ?2 AND share = ?3)";
    Ok(c.prepare_cached(sql)?
        .query_row(params![server.0, id.index.0, id.share.0], |r| r.get(0))?)
}

/// Drops the suspicion against a share, if there is one.
pub(super) fn clear(tx: &Connection, server: ServerId, id: ShareId) -> Result<()> {
    tx.prepare_cached(
        "DELETE FROM suspects WHERE server = ?1 AND storage_index = ?2 AND share = ?3",
    )?
    .execute(params![server.0, id.index.0, id.share.0])?;
    Ok(())
}
