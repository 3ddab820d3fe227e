//! What walks through a container leave in the tables: how far they came, and what only a listing
//! said.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{LeaseDb, ServerId};
use crate::{IndexPrefix, Result, ShareNum, Span, StorageIndex};

/// What a listing said of a share that the tables do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Objects without a row that make no whole share: never complete, to be destroyed.
    Torn,
    /// A STABLE share whose objects are not there, or hold fewer bytes than were stored: to be
    /// marked as lost.
    Vanished,
    /// Objects beyond the end of a STABLE share: of an older upload under the same name, to be
    /// destroyed.
    Leftover,
}

/// One that was seen, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// What was seen.
    pub what: Suspicion,
    /// The object whose absence decides.
    pub object: String,
    /// When it was first seen so, in milliseconds since 1970.
    pub since_ms: i64,
}

impl LeaseDb {
    /// Where a walk goes on: the next prefix, and when it ended last.
    pub(crate) async fn walk(
        &self,
        server: ServerId,
        what: &'static str,
    ) -> Result<(u16, Option<i64>)> {
        self.read(move |c| {
            let found = c
                .query_row(
                    "SELECT next, ended_ms FROM walks WHERE server = ?1 AND what = ?2",
                    params![server.0, what],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .optional()?;
            Ok(found.unwrap_or((0, None)))
        })
        .await
    }

    /// A walk has done all at once.
    pub(crate) async fn walked_whole(&self, server: ServerId, what: &'static str) -> Result<()> {
        let now = self.now_ms();
        self.write(move |tx| {
            tx.execute(
                "INSERT INTO walks VALUES(?1, ?2, 0, ?3) ON CONFLICT DO UPDATE SET next = 0, ended_ms = excluded.ended_ms",
                params![server.0, what, now],
            )?;
            Ok(())
        })
        .await
    }

    /// Suspects of a server, of all kinds; more than a bound are not recorded.
    pub(crate) async fn suspect_count(&self, server: ServerId) -> Result<u64> {
        self.read(move |c| {
            let count = c.query_row(
                "SELECT count(*) FROM suspects WHERE server = ?1",
                [server.0],
                |r| r.get(0),
            )?;
            Ok(super::uint(count))
        })
        .await
    }

    /// A walk has done a prefix; after the last it begins anew.
    pub(crate) async fn walked(
        &self,
        server: ServerId,
        what: &'static str,
        prefix: IndexPrefix,
    ) -> Result<()> {
        let (next, now) = (prefix.number() + 1, self.now_ms());
        self.write(move |tx| {
            let (next, ended) = if next == IndexPrefix::COUNT { (0, Some(now)) } else { (next, None) };
            tx.execute(
                "INSERT INTO walks VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET next = excluded.next,
                   ended_ms = coalesce(excluded.ended_ms, ended_ms)",
                params![server.0, what, next, ended],
            )?;
            Ok(())
        })
        .await
    }

    /// Where the walk through all leases by their cutoff goes on; none where it ended less than a
    /// day ago.
    pub(crate) async fn cutoff_walk(&self, server: ServerId) -> Result<Option<u64>> {
        let day_ago = self.over_since(std::time::Duration::from_secs(24 * 3600));
        let now = self.now_ms();
        self.read(move |c| {
            let found = c
                .query_row(
                    "SELECT next, ended_ms FROM walks WHERE server = ?1 AND what = 'cutoff'",
                    [server.0],
                    |r| Ok((r.get::<_, i64>(0)?, r.get::<_, Option<i64>>(1)?)),
                )
                .optional()?;
            Ok(match found {
                Some((0, Some(ended))) if ended > day_ago && ended <= now => None,
                Some((next, _)) => Some(super::uint(next)),
                None => Some(0),
            })
        })
        .await
    }

    /// It came so far; none: to its end.
    pub(crate) async fn cutoff_walked(&self, server: ServerId, next: Option<u64>) -> Result<()> {
        let now = self.now_ms();
        self.write(move |tx| {
            tx.execute(
                "INSERT INTO walks VALUES(?1, 'cutoff', ?2, ?3) ON CONFLICT DO UPDATE SET next = excluded.next,
                   ended_ms = excluded.ended_ms",
                params![server.0, super::int(next.unwrap_or(0)), next.is_none().then_some(now)],
            )?;
            Ok(())
        })
        .await
    }

    /// Suspects of a server within a span.
    pub(crate) async fn suspects(
        &self,
        server: ServerId,
        span: Span,
    ) -> Result<Vec<(StorageIndex, ShareNum, Suspect)>> {
        let (first, last) = span.bounds();
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT storage_index, share, what, object, since_ms FROM suspects
                 WHERE server = ?1 AND storage_index BETWEEN ?2 AND ?3",
            )?;
            let rows = statement.query_map(params![server.0, first.0, last.0], |r| {
                let what = match r.get::<_, i64>(2)? {
                    0 => Suspicion::Torn,
                    1 => Suspicion::Vanished,
                    2 => Suspicion::Leftover,
                    other => return Err(rusqlite::Error::IntegralValueOutOfRange(2, other)),
                };
                let suspect = Suspect {
                    what,
                    object: r.get(3)?,
                    since_ms: r.get(4)?,
                };
                Ok((StorageIndex(r.get(0)?), ShareNum(r.get(1)?), suspect))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

/// Somebody is suspected from now on, unless of the same before.
pub(crate) fn suspect(
    tx: &Connection,
    server: ServerId,
    (index, share): (StorageIndex, ShareNum),
    what: Suspicion,
    object: &str,
    now: i64,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO suspects VALUES(?1, ?2, ?3, ?4, ?5, ?6, 1) ON CONFLICT DO UPDATE SET passes = passes + 1,
           since_ms = CASE WHEN what = excluded.what AND object = excluded.object THEN since_ms ELSE excluded.since_ms END,
           what = excluded.what, object = excluded.object",
    )?
    .execute(params![server.0, index.0, share.0, what as i64, object, now])?;
    Ok(())
}

/// Whether something is said against a share.
pub(crate) fn is_suspect(
    c: &Connection,
    server: ServerId,
    (index, share): (StorageIndex, ShareNum),
) -> Result<bool> {
    let sql = "SELECT EXISTS(SELECT 1 FROM suspects WHERE server = ?1 AND storage_index = ?2 AND share = ?3)";
    Ok(c.prepare_cached(sql)?
        .query_row(params![server.0, index.0, share.0], |r| r.get(0))?)
}

/// Nothing is said against a share any longer.
pub(crate) fn clear(
    tx: &Connection,
    server: ServerId,
    (index, share): (StorageIndex, ShareNum),
) -> Result<()> {
    tx.prepare_cached(
        "DELETE FROM suspects WHERE server = ?1 AND storage_index = ?2 AND share = ?3",
    )?
    .execute(params![server.0, index.0, share.0])?;
    Ok(())
}

/// Marks a STABLE share as lost, or as found again.
pub(crate) fn set_lost(tx: &Connection, id: i64, lost_ms: Option<i64>) -> Result<()> {
    tx.prepare_cached("UPDATE shares SET lost_ms = ?2 WHERE id = ?1 AND state = 1")?
        .execute(params![id, lost_ms])?;
    Ok(())
}
