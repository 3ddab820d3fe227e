//! Reads a database that another process may be writing, for commands that run beside a daemon.
//!
//! Nothing is made or migrated. A database that does not exist or has no tables yet is empty, which
//! is not an error.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::{
    Identity, Pins, Result, ServerId, StorageIndex,
    leasedb::{pins, shares_of},
};

/// A database that is opened for reading only.
#[derive(Clone, Debug)]
pub struct Inspector {
    path: PathBuf,
}

/// The identity of a database, as in owner objects, and the number that it gave a cloud.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The database's identity.
    pub identity: Identity,
    /// The cloud's number; `None` if the database knows no cloud of that name.
    pub server: Option<ServerId>,
}

impl Inspector {
    /// Makes an inspector of the database at `path`. Nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Runs `look` on the database; `None` if the database or its table does not exist.
    fn look<T>(
        &self,
        table: &str,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let c = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        if !c.table_exists(None, table)? {
            return Ok(None);
        }
        Ok(Some(look(&c)?))
    }

    /// Reads the pins of all clouds.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub fn pins(&self) -> Result<Pins> {
        Ok(self.look("pins", pins)?.unwrap_or_default())
    }

    /// Counts the shares that a cloud holds or that are being written to it.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub fn shares_of(&self, cloud: &str) -> Result<u64> {
        let shares = self.look("shares", |c| shares_of(c, cloud))?;
        Ok(shares.unwrap_or_default())
    }

    /// Reads the database's identity and the number of a cloud; `None` if there is no database yet.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub fn identity(&self, cloud: &str) -> Result<Option<Known>> {
        self.look("identity", |c| {
            let sql = "SELECT database_id, epoch, (SELECT id FROM servers WHERE name = ?1)
                       FROM identity";
            c.query_row(sql, [cloud], |row| {
                Ok(Known {
                    identity: Identity {
                        database: StorageIndex(row.get(0)?),
                        epoch: row.get(1)?,
                    },
                    server: row.get::<_, Option<i64>>(2)?.map(ServerId),
                })
            })
        })
    }
}
