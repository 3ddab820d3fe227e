//! Which clouds have a copy of the keyring, and which of its generations may be used.

use rusqlite::params;

use super::Catalog;
use crate::{ArrayError, Result};

impl Catalog {
    /// Returns whether a generation of the keyring was once on enough clouds.
    pub(crate) async fn is_keyring_active(&self, generation: u32) -> Result<bool> {
        let active = self.database.read(move |c| {
            let sql = "SELECT EXISTS(SELECT 1 FROM keyring_active WHERE generation = ?1)";
            Ok::<_, ArrayError>(c.query_row(sql, [generation], |r| r.get(0))?)
        });
        active.await
    }

    /// Records that a generation of the keyring is on enough clouds.
    pub(crate) async fn activate_keyring(&self, generation: u32) -> Result<()> {
        self.database
            .write(move |tx| {
                tx.execute(
                    "INSERT OR IGNORE INTO keyring_active VALUES(?1)",
                    [generation],
                )?;
                Ok(())
            })
            .await
    }

    /// Returns the names of the clouds with a copy of this generation of the keyring, or of a later
    /// one.
    pub(crate) async fn keyring_copies(&self, generation: u32) -> Result<Vec<String>> {
        let copies = self.database.read(move |c| {
            let mut statement =
                c.prepare("SELECT cloud FROM keyring_copies WHERE generation >= ?1")?;
            let rows = statement.query_map([generation], |row| row.get(0))?;
            Ok::<_, ArrayError>(rows.collect::<rusqlite::Result<_>>()?)
        });
        copies.await
    }

    /// Records that a cloud has no copy of the keyring.
    pub(crate) async fn keyring_missing(&self, cloud: String) -> Result<()> {
        self.database
            .write(move |tx| {
                Ok(tx
                    .execute("DELETE FROM keyring_copies WHERE cloud = ?1", [cloud])
                    .map(drop)?)
            })
            .await
    }

    /// Records that a cloud has a copy of this generation of the keyring.
    pub(crate) async fn keyring_stored(&self, cloud: String, generation: u32) -> Result<()> {
        self.database
            .write(move |tx| {
                tx.execute(
                    "INSERT OR REPLACE INTO keyring_copies VALUES(?1, ?2)",
                    params![cloud, generation],
                )?;
                Ok(())
            })
            .await
    }
}
