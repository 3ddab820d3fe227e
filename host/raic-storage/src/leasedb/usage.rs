//! The space that accounts and servers use, now and on each day.

use rusqlite::params;

use super::{LeaseDb, uint};
use crate::Result;

/// The shares and bytes of one account or server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Name of the account or the server.
    pub name: String,
    /// Number of shares, including those that are being written. A server's shares that are being
    /// deleted are counted too.
    pub shares: u64,
    /// Number of the files of an array that an account pays for; 0 for a server.
    pub files: u64,
    /// Bytes that the shares take, or that are reserved for them, and what is paid for files.
    pub bytes: u64,
}

/// The space that an account used on a server, or for its files in the array, recorded once on each
/// day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageDay {
    /// The day in UTC, written as `2026-11-25`.
    pub day: String,
    /// Name of the account.
    pub account: String,
    /// Name of the server; `None` for files of the array.
    pub server: Option<String>,
    /// Number of shares that the account held leases on.
    pub shares: u64,
    /// Number of files that the account paid for.
    pub files: u64,
    /// Bytes of these shares, or what was paid for these files.
    pub bytes: u64,
}

impl LeaseDb {
    /// Reads what each account uses by its leases, over all servers, and by its files.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn usage_by_account(&self) -> Result<Vec<Usage>> {
        self.usages(
            "SELECT name, coalesce(sum(usage.shares), 0), coalesce(array_usage.files, 0),
               coalesce(sum(usage.bytes), 0) + coalesce(array_usage.bytes, 0) FROM accounts
             LEFT JOIN array_usage ON array_usage.account = accounts.id
             LEFT JOIN usage ON usage.account = accounts.id GROUP BY accounts.id ORDER BY accounts.id",
        )
        .await
    }

    /// Reads what each server holds, including shares without a lease.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn usage_by_server(&self) -> Result<Vec<Usage>> {
        self.usages(
            "SELECT name, coalesce(shares, 0), 0, coalesce(bytes, 0) FROM servers
             LEFT JOIN server_usage ON server_usage.server = servers.id ORDER BY name",
        )
        .await
    }

    async fn usages(&self, sql: &'static str) -> Result<Vec<Usage>> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(sql)?;
            let rows = statement.query_map([], |r| {
                Ok(Usage {
                    name: r.get(0)?,
                    shares: uint(r.get(1)?),
                    files: uint(r.get(2)?),
                    bytes: uint(r.get(3)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Records the usage of today (in UTC), unless today was recorded already. Returns whether
    /// anything was recorded now.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn record_day(&self) -> Result<bool> {
        let now = self.now();
        self.write(move |tx| {
            let recorded = "SELECT EXISTS(SELECT 1 FROM usage_history WHERE day = date(?1 / 1000, 'unixepoch'))
                              OR EXISTS(SELECT 1 FROM array_usage_history WHERE day = date(?1 / 1000, 'unixepoch'))";
            if tx.query_row(recorded, [now], |r| r.get(0))? {
                return Ok(false);
            }
            let leased = tx.execute(
                "INSERT INTO usage_history
                 SELECT date(?1 / 1000, 'unixepoch'), account, server, shares, bytes FROM usage",
                [now],
            )?;
            let paid = tx.execute(
                "INSERT INTO array_usage_history
                 SELECT date(?1 / 1000, 'unixepoch'), account, files, bytes FROM array_usage",
                [now],
            )?;
            Ok(leased + paid > 0)
        })
        .await
    }

    /// Reads the history of whole days before `before` (`YYYY-MM-DD`; `None` for all), newest day
    /// first. It has as many days as fit into `limit` lines, but at least one.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn usage_days(&self, before: Option<String>, limit: u32) -> Result<Vec<UsageDay>> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "WITH history AS (
                   SELECT day, account, server, shares, 0 AS files, bytes FROM usage_history
                   WHERE ?1 IS NULL OR day < ?1
                   UNION ALL SELECT day, account, NULL, 0, files, bytes FROM array_usage_history
                   WHERE ?1 IS NULL OR day < ?1),
                 days AS (
                   SELECT day, sum(count(*)) OVER (ORDER BY day DESC) AS lines FROM history GROUP BY day)
                 SELECT day, accounts.name, servers.name, shares, files, bytes FROM history
                 JOIN accounts ON accounts.id = account LEFT JOIN servers ON servers.id = server
                 WHERE day IN (SELECT day FROM days WHERE lines <= ?2) OR day = (SELECT max(day) FROM days)
                 ORDER BY day DESC, accounts.id, servers.name",
            )?;
            let rows = statement.query_map(params![before, limit], |r| {
                Ok(UsageDay {
                    day: r.get(0)?,
                    account: r.get(1)?,
                    server: r.get(2)?,
                    shares: uint(r.get(3)?),
                    files: uint(r.get(4)?),
                    bytes: uint(r.get(5)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
