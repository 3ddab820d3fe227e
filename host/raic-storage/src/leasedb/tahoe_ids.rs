//! The ids by which Tahoe-LAFS clients knew a storage server before it moved here.

use std::collections::BTreeMap;

use rusqlite::params;

use super::{LeaseDb, ServerId};
use crate::{Result, StorageError};

/// The ids of a storage server that Tahoe-LAFS clients know. They derive lease secrets and write
/// enablers from the first, and place shares by the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TahoeIds {
    /// The id in the server's FURL: 32 characters of lower-case base32.
    pub furl_id: String,
    /// The id in clients' `servers.yaml`: `v0-` and 52 characters of lower-case base32.
    pub server_id: String,
}

impl LeaseDb {
    /// Reads the ids of the servers that have ids from elsewhere.
    ///
    /// # Errors
    /// Fails with `StorageError::Database` if the database cannot be read.
    pub async fn tahoe_ids(&self) -> Result<BTreeMap<ServerId, TahoeIds>> {
        self.read(|c| {
            let mut statement = c.prepare("SELECT server, furl_id, server_id FROM tahoe_ids")?;
            let rows = statement.query_map([], |r| {
                let ids = TahoeIds {
                    furl_id: r.get(1)?,
                    server_id: r.get(2)?,
                };
                Ok((ServerId(r.get(0)?), ids))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Sets the ids of a server that come from elsewhere. Once they are set they never change:
    /// clients have derived their secrets from them.
    ///
    /// # Errors
    /// Fails with [`StorageError::TahoeIds`] if the server has other ids, or another server has one
    /// of these. Fails with `StorageError::Database` if the database cannot be written.
    pub async fn set_tahoe_ids(&self, server: ServerId, ids: TahoeIds) -> Result<()> {
        self.write(move |tx| {
            let taken = "SELECT EXISTS(SELECT 1 FROM tahoe_ids
                           WHERE (server = ?1 AND (furl_id <> ?2 OR server_id <> ?3))
                              OR (server <> ?1 AND (furl_id = ?2 OR server_id = ?3)))";
            let of = params![server.0, ids.furl_id, ids.server_id];
            if tx.query_row(taken, of, |r| r.get(0))? {
                return Err(StorageError::TahoeIds(super::name_of(tx, server)?));
            }
            tx.execute(
                "INSERT INTO tahoe_ids VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING",
                of,
            )?;
            Ok(())
        })
        .await
    }
}
