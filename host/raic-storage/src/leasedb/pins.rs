//! Pins record the version of its connector that each cloud runs. Approving another version moves
//! no cloud by itself.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::LeaseDb;
use crate::Result;

/// The version of its connector that a cloud runs. A pin counts for as long as the configuration
/// names the connector the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Name of the connector in the configuration, when the pin was made.
    pub connector: String,
    /// SHA-256 of the connector's file, in hex.
    pub sha256: String,
}

impl Pin {
    /// Returns the SHA-256 if the configuration still names the connector the same, else `None`.
    pub fn sha256_of(&self, connector: &str) -> Option<&str> {
        (self.connector == connector).then_some(self.sha256.as_str())
    }
}

/// Pins by the names of their clouds.
pub type Pins = BTreeMap<String, Pin>;

pub(crate) fn pins(c: &Connection) -> rusqlite::Result<Pins> {
    let mut statement = c.prepare("SELECT cloud, connector, sha256 FROM pins")?;
    let rows = statement.query_map([], |row| {
        let pin = Pin {
            connector: row.get(1)?,
            sha256: row.get(2)?,
        };
        Ok((row.get(0)?, pin))
    })?;
    rows.collect()
}

impl LeaseDb {
    /// Reads the pins of all clouds.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn pins(&self) -> Result<Pins> {
        self.read(|c| Ok(pins(c)?)).await
    }

    /// Stores pins. Each replaces the older pin of its cloud. If `clouds` is given, the pins of all
    /// other clouds are deleted.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be written.
    pub async fn store_pins(&self, new: Pins, clouds: Option<BTreeSet<String>>) -> Result<()> {
        self.write(move |tx| {
            if let Some(clouds) = clouds {
                for gone in pins(tx)?.keys().filter(|cloud| !clouds.contains(*cloud)) {
                    tx.execute("DELETE FROM pins WHERE cloud = ?1", [gone])?;
                }
            }
            for (cloud, Pin { connector, sha256 }) in new {
                tx.execute(
                    "INSERT OR REPLACE INTO pins VALUES(?1, ?2, ?3)",
                    (cloud, connector, sha256),
                )?;
            }
            Ok(())
        })
        .await
    }
}
