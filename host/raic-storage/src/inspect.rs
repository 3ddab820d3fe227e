//! Looks into a database that another process may be writing: what commands ask beside a daemon.
//!
//! Nothing is made or migrated. A database that is not there, or has no tables yet, has nothing to
//! tell: that is no error.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::{
    Identity, Pins, Result, ServerId, StorageIndex,
    leasedb::{pins, shares_of},
};

/// A database, opened for reading only.
#[derive(Clone, Debug)]
pub struct Inspector {
    path: PathBuf,
}

/// Who a database is, as owner objects have it, and the number that it gave a cloud.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The database's identity.
    pub identity: Identity,
    /// The cloud's number; `None` if the database knows no cloud of that name.
    pub server: Option<ServerId>,
}

impl Inspector {
    /// Of the database at `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Runs `look` if the database has the table.
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

    /// The pins of all clouds.
    ///
    /// # Errors
    /// The database's.
    pub fn pins(&self) -> Result<Pins> {
        Ok(self.look("pins", pins)?.unwrap_or_default())
    }

    /// How many shares a cloud holds, or that are being written there.
    ///
    /// # Errors
    /// The database's.
    pub fn shares_of(&self, cloud: &str) -> Result<u64> {
        let shares = self.look("shares", |c| shares_of(c, cloud))?;
        Ok(shares.unwrap_or_default())
    }

    /// Who the database is, and the number of a cloud; `None` if there is no database yet.
    ///
    /// # Errors
    /// The database's.
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
