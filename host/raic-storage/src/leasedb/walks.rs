//! Records how far each walk through a container came, so that a stopped walk continues there.

use rusqlite::{OptionalExtension as _, params};

use super::{LeaseDb, ServerId};
use crate::{IndexPrefix, Moment, Result};

impl LeaseDb {
    /// Reads where a walk continues: the number of the next prefix, and the moment at which the
    /// walk last reached its end, in milliseconds since 1970 (`None` if it never did).
    pub(crate) async fn walk(
        &self,
        server: ServerId,
        what: &'static str,
    ) -> Result<(u16, Option<Moment>)> {
        self.read(move |c| {
            let place = c
                .query_row(
                    "SELECT next, ended_ms FROM walks WHERE server = ?1 AND what = ?2",
                    params![server.0, what],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .optional()?;
            Ok(place.unwrap_or((0, None)))
        })
        .await
    }

    /// Records that a walk went through the whole container at once. The next walk begins anew.
    pub(crate) async fn walked_whole(&self, server: ServerId, what: &'static str) -> Result<()> {
        let now = self.now();
        self.write(move |tx| {
            tx.execute(
                "INSERT INTO walks VALUES(?1, ?2, 0, ?3) ON CONFLICT DO UPDATE SET next = 0, ended_ms = excluded.ended_ms",
                params![server.0, what, now],
            )?;
            Ok(())
        })
        .await
    }

    /// Records that a walk has finished a prefix. After the last prefix the walk has ended, and the
    /// next one begins anew.
    pub(crate) async fn walked(
        &self,
        server: ServerId,
        what: &'static str,
        prefix: IndexPrefix,
    ) -> Result<()> {
        let (next, now) = (prefix.number() + 1, self.now());
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

    /// Reads where the walk that ends leases by the cutoff continues, as the row number of a share.
    /// Returns `None` if the walk reached its end less than a day ago.
    pub(crate) async fn cutoff_walk(&self, server: ServerId) -> Result<Option<u64>> {
        let day_ago = self.ago(std::time::Duration::from_secs(24 * 3600));
        let now = self.now();
        self.read(move |c| {
            let place = c
                .query_row(
                    "SELECT next, ended_ms FROM walks WHERE server = ?1 AND what = 'cutoff'",
                    [server.0],
                    |r| Ok((r.get::<_, i64>(0)?, r.get::<_, Option<Moment>>(1)?)),
                )
                .optional()?;
            Ok(match place {
                Some((0, Some(ended))) if ended > day_ago && ended <= now => None,
                Some((next, _)) => Some(super::uint(next)),
                None => Some(0),
            })
        })
        .await
    }

    /// Records how far the walk that ends leases by the cutoff came, as the row number of a share.
    /// `None` means that it reached the end.
    pub(crate) async fn cutoff_walked(&self, server: ServerId, next: Option<u64>) -> Result<()> {
        let now = self.now();
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
}
