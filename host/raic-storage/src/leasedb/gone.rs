//! Servers that are no longer there: what they held is lost, and is told as lost.

use super::{LeaseDb, uint};
use crate::{Result, StorageError};

/// A server, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerShares {
    /// Its name.
    pub name: String,
    /// Shares that it holds, or that are being written there.
    pub shares: u64,
    /// Whether it was said to be gone.
    pub is_gone: bool,
}

impl LeaseDb {
    /// All servers that were ever used, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn servers(&self) -> Result<Vec<ServerShares>> {
        self.read(|c| {
            let mut statement = c.prepare(
                "SELECT name, gone_ms IS NOT NULL,
                        (SELECT count(*) FROM shares WHERE server = servers.id AND state IN (0, 1) AND lost_ms IS NULL)
                 FROM servers ORDER BY name",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(ServerShares { name: row.get(0)?, is_gone: row.get(1)?, shares: uint(row.get(2)?) })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Says that a server is gone for good, with all that it holds: its shares count as lost. One
    /// that is opened again is there again, and what it still holds is.
    ///
    /// # Errors
    /// [`StorageError::Unusable`] where there never was one of that name; the database's.
    pub async fn set_gone(&self, name: &str) -> Result<()> {
        let (name, now) = (name.to_owned(), self.now_ms());
        self.write(move |tx| {
            let sql = "UPDATE servers SET gone_ms = coalesce(gone_ms, ?2) WHERE name = ?1";
            if tx.execute(sql, (&name, now))? == 0 {
                return Err(StorageError::Unusable {
                    reason: format!("there never was a cloud {name:?}"),
                });
            }
            Ok(())
        })
        .await
    }
}
