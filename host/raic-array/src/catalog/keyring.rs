//! Which clouds have a copy of the keyring, and which of its generations may be used.

use rusqlite::params;

use super::Catalog;
use crate::{ArrayError, Result, format::KeyId};

impl Catalog {
    /// Returns whether a generation of the keyring was once on enough clouds.
    pub(crate) async fn is_keyring_active(&self, id: KeyId) -> Result<bool> {
        let active = self.database.read(move |c| {
            let sql = "SELECT EXISTS(SELECT 1 FROM keyring_active WHERE key_id = ?1)";
            Ok::<_, ArrayError>(c.query_row(sql, [id.0], |r| r.get(0))?)
        });
        active.await
    }

    /// Records that a generation of the keyring is on enough clouds.
    pub(crate) async fn activate_keyring(&self, id: KeyId) -> Result<()> {
        self.database
            .write(move |tx| {
                tx.execute("INSERT OR IGNORE INTO keyring_active VALUES(?1)", [id.0])?;
                Ok(())
            })
            .await
    }

    /// Returns the names of the clouds with a copy of the keyring whose newest generation this is.
    pub(crate) async fn keyring_copies(&self, id: KeyId) -> Result<Vec<String>> {
        let copies = self.database.read(move |c| {
            let sql = "SELECT name FROM keyring_copies JOIN servers ON servers.id = server
                       WHERE key_id = ?1";
            let mut statement = c.prepare(sql)?;
            let rows = statement.query_map([id.0], |row| row.get(0))?;
            Ok::<_, ArrayError>(rows.collect::<rusqlite::Result<_>>()?)
        });
        copies.await
    }

    /// Records that a cloud has no copy of the keyring.
    pub(crate) async fn keyring_missing(&self, cloud: String) -> Result<()> {
        self.database
            .write(move |tx| {
                let sql = "DELETE FROM keyring_copies
                           WHERE server = (SELECT id FROM servers WHERE name = ?1)";
                Ok(tx.execute(sql, [cloud]).map(drop)?)
            })
            .await
    }

    /// Records that a cloud has a copy of this generation of the keyring.
    pub(crate) async fn keyring_stored(&self, cloud: String, id: KeyId) -> Result<()> {
        self.database
            .write(move |tx| {
                tx.execute(
                    "INSERT OR REPLACE INTO keyring_copies SELECT id, ?2 FROM servers WHERE name = ?1",
                    params![cloud, id.0],
                )?;
                Ok(())
            })
            .await
    }
}
