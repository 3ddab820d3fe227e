//! What accounts and servers use, now and by days.

use rusqlite::params;

use super::{LeaseDb, uint};
use crate::Result;

/// What is used of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The account or the server.
    pub name: String,
    /// Shares, those being written included.
    pub shares: u64,
    /// Their bytes, or those reserved for them.
    pub bytes: u64,
}

/// What an account used on a server when a day began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageDay {
    /// The day, as `2026-11-25`, UTC.
    pub day: String,
    /// Whose.
    pub account: String,
    /// Where.
    pub server: String,
    /// Shares.
    pub shares: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl LeaseDb {
    /// What each account uses over all servers.
    ///
    /// # Errors
    /// The database's.
    pub async fn usage_by_account(&self) -> Result<Vec<Usage>> {
        self.usages(
            "SELECT name, coalesce(sum(shares), 0), coalesce(sum(bytes), 0) FROM accounts
             LEFT JOIN usage ON usage.account = accounts.id GROUP BY accounts.id ORDER BY accounts.id",
        )
        .await
    }

    /// What each server holds, leased or not.
    ///
    /// # Errors
    /// The database's.
    pub async fn usage_by_server(&self) -> Result<Vec<Usage>> {
        self.usages(
            "SELECT name, coalesce(shares, 0), coalesce(bytes, 0) FROM servers
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
                    bytes: uint(r.get(2)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Writes down what is used today, unless that was done; days are UTC's. Returns whether it was
    /// this time.
    ///
    /// # Errors
    /// The database's.
    pub async fn record_day(&self) -> Result<bool> {
        let now = self.now_ms();
        self.write(move |tx| {
            let added = tx.execute(
                "INSERT INTO usage_history SELECT date(?1 / 1000, 'unixepoch'), account, server, shares, bytes FROM usage
                 WHERE NOT EXISTS(SELECT 1 FROM usage_history WHERE day = date(?1 / 1000, 'unixepoch'))",
                [now],
            )?;
            Ok(added > 0)
        })
        .await
    }

    /// The history, newest day first: whole days before `before` (`YYYY-MM-DD`), as many as make up
    /// to `limit` lines, one at least.
    ///
    /// # Errors
    /// The database's.
    pub async fn usage_days(&self, before: Option<String>, limit: u32) -> Result<Vec<UsageDay>> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "WITH days AS (
                   SELECT day, sum(count(*)) OVER (ORDER BY day DESC) AS lines FROM usage_history
                   WHERE ?1 IS NULL OR day < ?1 GROUP BY day)
                 SELECT day, accounts.name, servers.name, shares, bytes FROM usage_history
                 JOIN accounts ON accounts.id = account JOIN servers ON servers.id = server
                 WHERE day IN (SELECT day FROM days WHERE lines <= ?2) OR day = (SELECT max(day) FROM days)
                 ORDER BY day DESC, accounts.id, servers.name",
            )?;
            let rows = statement.query_map(params![before, limit], |r| {
                Ok(UsageDay {
                    day: r.get(0)?,
                    account: r.get(1)?,
                    server: r.get(2)?,
                    shares: uint(r.get(3)?),
                    bytes: uint(r.get(4)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
