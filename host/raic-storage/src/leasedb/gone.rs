//! Servers that are gone for good: the shares that they held count as lost.

use std::collections::BTreeMap;

use super::{LeaseDb, states::*, uint};
use crate::{Result, StorageError};

/// A server, and the number of its shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerShares {
    /// The server's name.
    pub name: String,
    /// Number of shares that the server holds or that are being written to it. Lost shares are not
    /// counted.
    pub shares: u64,
    /// Whether the operator marked the server as gone.
    pub is_gone: bool,
}

impl LeaseDb {
    /// Reads all servers that were ever used, in the order of their names.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn servers(&self) -> Result<Vec<ServerShares>> {
        self.read(|c| {
            let sql = format!(
                "SELECT name, gone_ms IS NOT NULL, (SELECT count(*) FROM shares
                   WHERE server = servers.id AND state IN ({COMING}, {STABLE}) AND lost_ms IS NULL
                     AND NOT is_unconfirmed)
                 FROM servers ORDER BY name"
            );
            let mut statement = c.prepare(&sql)?;
            let rows = statement.query_map([], |row| {
                Ok(ServerShares {
                    name: row.get(0)?,
                    is_gone: row.get(1)?,
                    shares: uint(row.get(2)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Counts the shares that have vanished from each server, by the server's name. Servers without
    /// such shares are left out.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn vanished(&self) -> Result<BTreeMap<String, u64>> {
        self.read(|c| {
            let mut statement = c.prepare(
                "SELECT servers.name, count(*) FROM servers
                 CROSS JOIN shares ON server = servers.id WHERE lost_ms IS NOT NULL
                 GROUP BY servers.id",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, uint(row.get(1)?))))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Marks a server as gone for good: its shares count as lost. A server that is opened again
    /// ([`LeaseDb::server`]) is marked so no longer, and its shares count again.
    ///
    /// # Errors
    /// Fails with [`StorageError::NeverACloud`] if there never was a server of that name, and with
    /// [`StorageError::Database`] if the database cannot be written.
    pub async fn set_gone(&self, name: &str) -> Result<()> {
        let (name, now) = (name.to_owned(), self.now());
        self.write(move |tx| {
            let sql = "UPDATE servers SET gone_ms = coalesce(gone_ms, ?2) WHERE name = ?1";
            if tx.execute(sql, (&name, now))? == 0 {
                return Err(StorageError::NeverACloud(name));
            }
            Ok(())
        })
        .await
    }
}
