//! The catalog: raic-array's tables in the one database file. They record buckets, files and the
//! streams that each file is made of. The tables of leasedb record where the streams' shares are.
//!
//! A file is a list of extents of streams. The shares of a stream have one storage index. Every
//! change that a user can see is one transaction:
//!
//! - `begin` allocates the shares that an upload will write, before the first byte goes out.
//! - `commit` makes the file and its streams, turns the upload's leases into lasting ones, lets the
//!   account pay for the file, and ends the leases of the file that it replaces.
//! - `abandon` gives up the shares of an upload that did not commit. After a restart, such shares
//!   first rest. Collection does the rest.

mod buckets;
mod commit;
mod details;
mod files;
mod keyring;
mod listing;
mod schema;
mod streams;
mod versions;

use std::collections::BTreeMap;

use raic_storage::{
    AccountId, Allocation, Database, LateRequests, LeaseDb, ServerId, ShareId, ShareKind,
    StorageIndex, server_name,
};
use rusqlite::OptionalExtension as _;

pub(crate) use self::{
    buckets::NewBucket,
    commit::{Moves, NewFile},
    details::check_tags,
    files::Extent,
    streams::{NewExtent, Placement, Stream, Target, paid},
};
pub use self::{
    buckets::{BucketInfo, DEFAULT_BUCKET},
    details::Details,
    files::{FileInfo, FileName, FileVersion, Lacking, Replace},
    listing::{ListPage, ListRequest, Listed},
    versions::{VersionId, Versioning},
};
use crate::{ArrayError, Result};

/// Totals of an array, for [`crate::Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of files.
    pub files: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Number of shares of files that their clouds did not take.
    pub lacking: u64,
    /// Number of shares that wait to be deleted.
    pub deletions: u64,
    /// Number of shares that vanished from their clouds, or whose cloud is gone.
    pub lost: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    database: Database,
    leasedb: LeaseDb,
    /// Id of the database. It changes only while no array is open.
    id: StorageIndex,
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    value.unsigned_abs()
}

impl Catalog {
    /// Brings the tables to the newest version. Lets uploads of earlier runs rest before they are
    /// given up.
    ///
    /// # Errors
    /// Fails with [`ArrayError::OtherArray`] if the database belongs to another array, and with
    /// [`ArrayError::Database`] if the database fails.
    pub(crate) async fn open(leasedb: LeaseDb, array: [u8; 16]) -> Result<Self> {
        let database = leasedb.database().clone();
        database.migrate("array", schema::STEPS).await?;
        let uploads = leasedb.clone();
        database
            .write(move |tx| {
                let known: Option<[u8; 16]> = tx
                    .query_row("SELECT id FROM array", [], |row| row.get(0))
                    .optional()?;
                match known {
                    None => tx
                        .execute("INSERT INTO array VALUES(?1)", [array])
                        .map(drop)?,
                    Some(id) if id != array => return Err(ArrayError::OtherArray),
                    Some(_) => {}
                }
                let files = NewBucket {
                    name: DEFAULT_BUCKET.to_owned(),
                    class: None,
                    versioning: Versioning::Off,
                };
                buckets::make(tx, &files, AccountId::ANONYMOUS, uploads.now())?;
                Ok(uploads.rest_uploads_of_other_runs(tx)?)
            })
            .await?;
        let id = leasedb.identity().await?.database;
        Ok(Self {
            database,
            leasedb,
            id,
        })
    }

    /// Id of the database, which manifests name.
    pub(crate) fn id(&self) -> StorageIndex {
        self.id
    }

    pub(crate) fn leasedb(&self) -> &LeaseDb {
        &self.leasedb
    }

    /// Requires that an account may use so many bytes more. The upload requires it again.
    pub(crate) async fn admit(&self, account: AccountId, bytes: u64) -> Result<()> {
        let leasedb = self.leasedb.clone();
        self.database
            .read(move |c| Ok(leasedb.admit(c, account, bytes)?))
            .await
    }

    /// Allocates the shares of a stream. The account uses `reserve` bytes for each share until the
    /// file is committed.
    pub(crate) async fn begin(
        &self,
        index: StorageIndex,
        targets: Vec<Target>,
        account: AccountId,
        reserve: u64,
    ) -> Result<()> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                // The sum is admitted at once, so that a refusal names all bytes.
                let now = reserve.saturating_mul(targets.len() as u64);
                leasedb.admit(tx, account, now)?;
                for Target { share, server } in targets {
                    let new = Allocation {
                        server,
                        id: ShareId { index, share },
                        kind: ShareKind::Array,
                        account,
                        reserve,
                        upload: None,
                    };
                    leasedb.allocate(tx, &new)?;
                }
                Ok(())
            })
            .await
    }

    /// Gives up the COMING shares of an upload that did not commit.
    pub(crate) async fn abandon(&self, index: StorageIndex, targets: Vec<Target>) -> Result<()> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                targets.iter().try_for_each(|target| {
                    let id = ShareId {
                        index,
                        share: target.share,
                    };
                    Ok(leasedb.abandon(tx, target.server, id, LateRequests::MayLand)?)
                })
            })
            .await
    }

    pub(crate) async fn totals(&self) -> Result<Totals> {
        let totals = self.database.read(|c| {
            // Sums over some buckets and some clouds, and not over files.
            let sql = "SELECT coalesce(sum(files), 0), coalesce(sum(bytes), 0),
                 (SELECT coalesce(sum(shares), 0) FROM lacking_by_server) FROM buckets";
            let totals = c.query_row(sql, [], |row| {
                Ok(Totals {
                    files: uint(row.get(0)?),
                    bytes: uint(row.get(1)?),
                    lacking: uint(row.get(2)?),
                    deletions: 0,
                    lost: 0,
                })
            });
            Ok::<_, ArrayError>(totals?)
        });
        let (deletions, lost) = self.leasedb.waiting().await?;
        Ok(Totals {
            deletions,
            lost,
            ..totals.await?
        })
    }

    /// Returns whether a file still has an extent of the stream.
    pub(crate) async fn is_live(&self, index: StorageIndex) -> Result<bool> {
        let live = self.database.read(move |c| {
            let sql = "SELECT EXISTS(SELECT 1 FROM streams WHERE storage_index = ?1)";
            Ok::<_, ArrayError>(c.query_row(sql, [index.0], |r| r.get(0))?)
        });
        live.await
    }

    /// Counts the shares of files that each cloud should have and has not, by the cloud's name.
    pub(crate) async fn lacking(&self) -> Result<BTreeMap<String, u64>> {
        let lacking = self.database.read(|c| {
            let mut statement =
                c.prepare("SELECT server, shares FROM lacking_by_server WHERE shares > 0")?;
            let rows = statement.query_map([], |row| {
                let cloud = server_name(c, ServerId::of(row.get(0)?))?;
                Ok((cloud, uint(row.get(1)?)))
            })?;
            Ok::<_, ArrayError>(rows.collect::<rusqlite::Result<_>>()?)
        });
        let mut lacking: BTreeMap<String, u64> = lacking.await?;
        for (cloud, vanished) in self.leasedb.vanished().await? {
            *lacking.entry(cloud).or_default() += vanished;
        }
        Ok(lacking)
    }
}
