//! Servers that are draining: they hold shares, and get no new ones. Removed leases still remove
//! shares there, and slots that are there are still written.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{LeaseDb, ServerId};
use crate::{Result, StorageError};

/// The servers that are draining, as the database has them. It is kept in memory, because every
/// upload asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Draining(Arc<Mutex<BTreeSet<ServerId>>>);

impl Draining {
    pub(super) fn load(&self, c: &Connection) -> Result<()> {
        let mut statement = c.prepare("SELECT id FROM servers WHERE draining_ms IS NOT NULL")?;
        let ids = statement.query_map([], |row| row.get(0).map(ServerId))?;
        *self.0.lock() = ids.collect::<rusqlite::Result<_>>()?;
        Ok(())
    }
}

impl LeaseDb {
    /// Whether a server gets no new shares.
    pub fn is_draining(&self, server: ServerId) -> bool {
        self.draining.0.lock().contains(&server)
    }

    /// Lets a server get no new shares from now on. Uploads that have begun there go on.
    ///
    /// # Errors
    /// Fails with [`StorageError::NeverACloud`] if there never was a server of that name, and with
    /// [`StorageError::Database`] if the database cannot be written.
    pub async fn begin_draining(&self, name: &str) -> Result<()> {
        let now = self.now();
        self.change_draining(
            name,
            "UPDATE servers SET draining_ms = coalesce(draining_ms, ?2) WHERE name = ?1",
            now,
        )
        .await
    }

    /// Lets a server get new shares again.
    ///
    /// # Errors
    /// Fails as [`LeaseDb::begin_draining`] does.
    pub async fn end_draining(&self, name: &str) -> Result<()> {
        let now = self.now();
        self.change_draining(
            name,
            "UPDATE servers SET draining_ms = NULL WHERE name = ?1 AND ?2 NOT NULL",
            now,
        )
        .await
    }

    async fn change_draining(
        &self,
        name: &str,
        sql: &'static str,
        now: crate::Moment,
    ) -> Result<()> {
        let name = name.to_owned();
        let draining = self.draining.clone();
        // One writer after the other: what is in memory follows the order of the database.
        self.write(move |tx| match tx.execute(sql, (&name, now))? {
            0 => Err(StorageError::NeverACloud(name)),
            _ => draining.load(tx),
        })
        .await
    }
}
