//! Servers that are gone for good: the shares that they held count as lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{LeaseDb, ServerId, states::*, uint};
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
        self.read(servers).await
    }

    /// Counts the shares that lie on each server that is gone for good, by the server's name. Those
    /// without shares are left out.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn gone(&self) -> Result<BTreeMap<String, u64>> {
        self.read(|c| {
            let mut statement = c.prepare(
                "SELECT name, leased + unleased FROM servers JOIN server_usage ON server = servers.id
                 WHERE gone_ms IS NOT NULL AND leased + unleased > 0",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, uint(row.get(1)?))))?;
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
                "SELECT name, lost FROM servers JOIN server_usage ON server = servers.id WHERE lost > 0",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, uint(row.get(1)?))))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Marks a server as gone for good: its shares count as lost. [`LeaseDb::came_back`] takes the
    /// mark away.
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

    /// Records that these servers are served. Those that were marked as gone have come back: they
    /// are marked so no longer, and their shares count again.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be written.
    pub async fn came_back(&self, served: Vec<ServerId>) -> Result<()> {
        self.write(move |tx| {
            let sql = "UPDATE servers SET gone_ms = NULL WHERE id = ?1 AND gone_ms IS NOT NULL";
            let mut statement = tx.prepare_cached(sql)?;
            for server in served {
                statement.execute([server.0])?;
            }
            Ok(())
        })
        .await
    }

    /// Forgets the shares and leases of a server whose container is empty again: it was in memory,
    /// and the process has ended since.
    ///
    /// # Errors
    /// Fails with [`StorageError::Forgets`] if the server has shares that were not in memory, and
    /// with [`StorageError::Database`] if the database cannot be written.
    pub async fn emptied(&self, server: ServerId) -> Result<()> {
        self.write(move |tx| {
            let kept = "SELECT NOT is_volatile AND EXISTS(SELECT 1 FROM shares WHERE server = ?1)
                        FROM servers WHERE id = ?1";
            if tx.query_row(kept, [server.0], |r| r.get(0))? {
                return Err(StorageError::Forgets(super::name_of(tx, server)?));
            }
            for table in ["superseded", "slots", "suspects", "walks", "write_enablers"] {
                tx.execute(
                    &format!("DELETE FROM {table} WHERE server = ?1"),
                    [server.0],
                )?;
            }
            let leases = "DELETE FROM leases WHERE share IN
                            (SELECT id FROM shares WHERE server = ?1)";
            tx.execute(leases, [server.0])?;
            tx.execute("DELETE FROM shares WHERE server = ?1", [server.0])?;
            tx.execute(
                "UPDATE servers SET is_claimed = 0, is_volatile = 1 WHERE id = ?1",
                [server.0],
            )?;
            Ok(())
        })
        .await
    }

    /// Retires all servers but those named in `kept`: from now on they get no new share. Returns
    /// the servers that must not be retired, because shares lie on them or are being written
    /// there, and they are not marked as gone. If there are any, none is retired.
    ///
    /// The check and the retirement are one step between two transactions, so that no upload
    /// begins a share in between.
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be read.
    pub async fn retire_others(
        &self,
        kept: BTreeSet<String>,
    ) -> Result<Result<Retired, Vec<ServerShares>>> {
        let retired = self.retired.clone();
        self.write(move |tx| {
            let others = servers(tx)?;
            let others = others.into_iter().filter(|s| !kept.contains(&s.name));
            let (used, unused): (Vec<_>, Vec<_>) =
                others.partition(|server| server.shares > 0 && !server.is_gone);
            if !used.is_empty() {
                return Ok(Err(used));
            }
            let mut ids = BTreeSet::new();
            for server in unused {
                ids.insert(super::server_id(tx, &server.name)?);
            }
            let before = std::mem::replace(&mut *retired.lock(), ids);
            Ok(Ok(Retired {
                retired: retired.clone(),
                before: Some(before),
            }))
        })
        .await
    }

    /// Requires that a server is not retired.
    pub(super) fn require_served(&self, tx: &Connection, server: ServerId) -> Result<()> {
        match self.retired.lock().contains(&server) {
            true => Err(StorageError::Retired(super::name_of(tx, server)?)),
            false => Ok(()),
        }
    }
}

/// Servers that were just retired. Unless [`Retired::keep`] is called, they are served again when
/// this is dropped, as if nothing had happened.
#[derive(Debug)]
#[must_use = "dropping it takes the retirement back"]
pub struct Retired {
    retired: Arc<Mutex<BTreeSet<ServerId>>>,
    before: Option<BTreeSet<ServerId>>,
}

impl Retired {
    /// Lets the servers stay retired.
    pub fn keep(mut self) {
        self.before = None;
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            *self.retired.lock() = before;
        }
    }
}

fn servers(c: &Connection) -> Result<Vec<ServerShares>> {
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
}
