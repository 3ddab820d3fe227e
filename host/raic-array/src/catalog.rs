//! The catalog: raic-array's tables in the one database file. They record the files and the streams
//! that each file is made of. The tables of leasedb record where the streams' shares are.
//!
//! A file is a list of extents of streams. The shares of a stream have one storage index. Every
//! change that a user can see is one transaction:
//!
//! - `begin` allocates the shares that an upload will write, before the first byte goes out.
//! - `commit` makes the file and its stream, turns the upload's leases into lasting ones, and ends
//!   the leases of the file that it replaces.
//! - `abandon` gives up the shares of an upload that did not commit. After a restart, such shares
//!   first rest. Collection does the rest.

use std::collections::BTreeMap;

use raic_storage::{
    AccountId, Allocation, Database, FirstLease, LateRequests, LeaseDb, Moment, ServerId, ShareId,
    ShareKind, ShareNum, StorageIndex, Stored, placed,
};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use crate::{
    ArrayError, Result,
    format::{Geometry, HASH, Hash, KeyId, Layout, WrappedKey},
};

const STEPS: &[&str] = &["
CREATE TABLE streams(
    storage_index BLOB PRIMARY KEY, k INTEGER NOT NULL, n INTEGER NOT NULL, segment_size INTEGER NOT NULL,
    padded INTEGER NOT NULL, manifest_length INTEGER NOT NULL, key_id BLOB NOT NULL, nonce BLOB NOT NULL,
    wrapped_key BLOB NOT NULL, roots BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE lacking(
    storage_index BLOB NOT NULL REFERENCES streams, share INTEGER NOT NULL, cloud TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY(storage_index, share)) WITHOUT ROWID;
CREATE TABLE files(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, version BLOB NOT NULL UNIQUE, is_current INTEGER NOT NULL,
    is_delete_mark INTEGER NOT NULL, size INTEGER NOT NULL, modified_ms INTEGER NOT NULL, content_hash BLOB);
CREATE UNIQUE INDEX files_current ON files(name) WHERE is_current;
CREATE TABLE extents(
    file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, position INTEGER NOT NULL,
    storage_index BLOB NOT NULL REFERENCES streams, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY(file, position)) WITHOUT ROWID;
CREATE INDEX extents_offset ON extents(file, offset);
CREATE INDEX extents_storage_index ON extents(storage_index);
CREATE TABLE keyring_copies(cloud TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
-- Generations of the keyring that were once on n-k+1 clouds. They may be used for ever.
CREATE TABLE keyring_active(generation INTEGER PRIMARY KEY);
CREATE TABLE array(id BLOB NOT NULL);
"];

/// A file, as its users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Name of the file.
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// The moment at which the file was stored, in milliseconds since 1970.
    pub modified: Moment,
    /// BLAKE3 of the content, if it is recorded.
    pub content_hash: Option<Hash>,
    /// Storage index of the file's shares; `None` in a list of files.
    pub index: Option<StorageIndex>,
    /// Whether a put just now replaced an older file of this name.
    pub has_replaced: bool,
    /// The names of the clouds that hold the file's shares, with the share numbers. It is empty in
    /// a list of files.
    pub shares: Vec<(ShareNum, String)>,
    /// The shares that the file lacks. It is empty in a list of files.
    pub lacking: Vec<Lacking>,
}

impl FileInfo {
    /// Names each share and cloud once, however many extents the file has.
    fn without_repetitions(mut self) -> Self {
        self.shares.sort_unstable();
        self.shares.dedup();
        self.lacking.sort_unstable();
        self.lacking.dedup();
        self
    }
}

/// A share that a file lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lacking {
    /// Number of the share.
    pub share: ShareNum,
    /// Name of the cloud that did not take the share, or lost it.
    pub cloud: String,
    /// Reason why the share is lacking, as a sentence.
    pub reason: String,
}

/// A stream: the layout, keys and hashes of the shares of one storage index.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) index: StorageIndex,
    pub(crate) layout: Layout,
    pub(crate) key: WrappedKey,
    pub(crate) roots: Vec<Hash>,
    pub(crate) placements: Vec<Placement>,
}

/// An extent: the part of a file that a stream holds.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// Offset of the extent's first byte in the file.
    pub(crate) offset: u64,
    /// Bytes of content.
    pub(crate) length: u64,
    pub(crate) stream: Stream,
}

impl Stream {
    fn shares(&self) -> Vec<(ShareNum, String)> {
        self.placements
            .iter()
            .filter(|p| !p.is_lost)
            .map(|p| (p.share, p.cloud.clone()))
            .collect()
    }
}

/// A stored share, with the cloud that keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) share: ShareNum,
    pub(crate) cloud: String,
    pub(crate) is_lost: bool,
}

/// A share that an upload writes, with the server that gets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) share: ShareNum,
    pub(crate) server: ServerId,
}

/// A file that is about to be committed.
pub(crate) struct NewFile {
    pub(crate) name: String,
    /// Id of this version of the file.
    pub(crate) version: StorageIndex,
    pub(crate) content_hash: Hash,
    /// Bytes of content.
    pub(crate) size: u64,
    /// The extents, in their order.
    pub(crate) extents: Vec<NewExtent>,
}

/// A stream that was stored, with the part of the file that it holds.
pub(crate) struct NewExtent {
    pub(crate) stream: Stream,
    /// Bytes of content.
    pub(crate) length: u64,
    /// The shares that were to be stored.
    pub(crate) targets: Vec<Target>,
    /// The shares that were stored, with their objects and bytes.
    pub(crate) stored: Vec<(ShareNum, Stored)>,
    /// The shares that were not stored.
    pub(crate) lacking: Vec<Lacking>,
}

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
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
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
        database.migrate("array", STEPS).await?;
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
                Ok(uploads.rest_uploads_of_other_runs(tx)?)
            })
            .await?;
        Ok(Self { database, leasedb })
    }

    pub(crate) fn leasedb(&self) -> &LeaseDb {
        &self.leasedb
    }

    /// Allocates the shares of a stream. The account pays for `reserve` bytes of each share.
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
                // The sum is admitted at once, so that a refusal names the bytes of the whole file.
                leasedb.admit(tx, account, reserve.saturating_mul(targets.len() as u64))?;
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

    /// Returns the sequence of the last file that was committed.
    pub(crate) async fn sequence(&self) -> Result<u64> {
        let sequence = self.database.read(|c| {
            let sql = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'files'), 0)";
            let sequence: i64 = c.query_row(sql, [], |row| row.get(0))?;
            Ok::<_, ArrayError>(sequence.unsigned_abs())
        });
        sequence.await
    }

    /// Makes the file in one transaction. Returns the file as it was committed.
    pub(crate) async fn commit(&self, file: NewFile, account: AccountId) -> Result<FileInfo> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                let has_replaced = drop_current(tx, &leasedb, &file.name)?;
                let modified = leasedb.now();
                tx.execute(
                    "INSERT INTO files(name, version, is_current, is_delete_mark, size, modified_ms, content_hash)
                     VALUES(?1, ?2, 1, 0, ?3, ?4, ?5)",
                    params![file.name, file.version.0, int(file.size), modified, file.content_hash],
                )?;
                let (id, mut offset) = (tx.last_insert_rowid(), 0);
                let mut info = FileInfo {
                    name: file.name,
                    size: file.size,
                    modified,
                    content_hash: Some(file.content_hash),
                    index: file.extents.first().map(|extent| extent.stream.index),
                    has_replaced,
                    shares: Vec::new(),
                    lacking: Vec::new(),
                };
                for (position, extent) in (0_i64..).zip(file.extents) {
                    make_stream(tx, &leasedb, &extent, account)?;
                    let index = extent.stream.index;
                    tx.execute(
                        "INSERT INTO extents VALUES(?1, ?2, ?3, ?4, ?5)",
                        params![id, position, index.0, int(offset), int(extent.length)],
                    )?;
                    offset += extent.length;
                    let placed = placements(tx, index)?.into_iter();
                    info.shares.extend(placed.map(|p| (p.share, p.cloud)));
                    info.lacking.extend(extent.lacking);
                }
                Ok(info.without_repetitions())
            })
            .await
    }

    /// Removes a file. The leases on streams that no other file has extents of end in the same
    /// transaction.
    pub(crate) async fn remove(&self, name: String) -> Result<()> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                if drop_current(tx, &leasedb, &name)? {
                    Ok(())
                } else {
                    Err(ArrayError::NoSuchFile(name))
                }
            })
            .await
    }

    /// Reads a file with its extents, in their order.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchFile`] if there is no file of that name.
    pub(crate) async fn file(&self, name: String) -> Result<(FileInfo, Vec<Extent>)> {
        let found = self.database.read(move |c| {
            let file = c
                .query_row(
                    "SELECT name, size, modified_ms, content_hash, id FROM files
                     WHERE name = ?1 AND is_current AND NOT is_delete_mark",
                    [&name],
                    |row| Ok((file_info(row)?, row.get::<_, i64>(4)?)),
                )
                .optional()?;
            let Some((mut info, id)) = file else {
                return Err(ArrayError::NoSuchFile(name));
            };
            let mut rows = c.prepare(
                "SELECT offset, length, storage_index FROM extents WHERE file = ?1 ORDER BY position",
            )?;
            let rows = rows.query_map([id], |row| {
                Ok(Extent {
                    offset: row.get::<_, i64>(0)?.unsigned_abs(),
                    length: row.get::<_, i64>(1)?.unsigned_abs(),
                    stream: stream(c, StorageIndex(row.get(2)?))?,
                })
            })?;
            let extents = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            info.index = extents.first().map(|extent| extent.stream.index);
            for Extent { stream, .. } in &extents {
                info.shares.extend(stream.shares());
                info.lacking.extend(lacking(c, stream)?);
            }
            Ok((info.without_repetitions(), extents))
        });
        found.await
    }

    /// Lists up to `limit` files whose names begin with `prefix` and come after `after`, in the
    /// order of the bytes of their names.
    pub(crate) async fn list(
        &self,
        prefix: String,
        after: String,
        limit: u32,
    ) -> Result<Vec<FileInfo>> {
        let files = self.database.read(move |c| {
            let mut statement = c.prepare(
                "SELECT name, size, modified_ms, content_hash FROM files
                 WHERE is_current AND NOT is_delete_mark AND name > ?1 AND name >= ?2
                   AND substr(name, 1, length(?2)) = ?2
                 ORDER BY name LIMIT ?3",
            )?;
            let rows = statement.query_map(params![after, prefix, limit], file_info)?;
            Ok::<_, ArrayError>(rows.collect::<rusqlite::Result<_>>()?)
        });
        files.await
    }

    pub(crate) async fn totals(&self) -> Result<Totals> {
        let totals = self.database.read(|c| {
            let one = |sql| c.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n.unsigned_abs());
            Ok::<_, ArrayError>(Totals {
                files: one("SELECT count(*) FROM files WHERE is_current AND NOT is_delete_mark")?,
                bytes: one(
                    "SELECT coalesce(sum(size), 0) FROM files WHERE is_current AND NOT is_delete_mark",
                )?,
                lacking: one("SELECT count(*) FROM lacking")?,
                deletions: 0,
                lost: 0,
            })
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
            let mut statement = c.prepare("SELECT cloud, count(*) FROM lacking GROUP BY cloud")?;
            let rows =
                statement.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?.unsigned_abs())))?;
            Ok::<_, ArrayError>(rows.collect::<rusqlite::Result<_>>()?)
        });
        let mut lacking: BTreeMap<String, u64> = lacking.await?;
        for (cloud, vanished) in self.leasedb.vanished().await? {
            *lacking.entry(cloud).or_default() += vanished;
        }
        Ok(lacking)
    }

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

/// Makes a stream whose shares were stored, and turns the leases of its upload into lasting ones.
fn make_stream(
    tx: &Transaction<'_>,
    leasedb: &LeaseDb,
    extent: &NewExtent,
    account: AccountId,
) -> Result<()> {
    let Stream {
        index,
        layout,
        key,
        roots,
        ..
    } = &extent.stream;
    tx.execute(
        "INSERT INTO streams VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            index.0,
            layout.geometry.k,
            layout.geometry.n,
            layout.segment_size,
            int(layout.padded),
            layout.manifest_length,
            key.id.0,
            key.nonce,
            key.sealed,
            roots.as_flattened(),
        ],
    )?;
    for Target { share, server } in &extent.targets {
        let id = ShareId {
            index: *index,
            share: *share,
        };
        match extent.stored.iter().find(|(number, _)| number == share) {
            Some((_, stored)) => {
                let lease = FirstLease::Lasting(account);
                leasedb.complete(tx, *server, id, *stored, lease)?;
            }
            // The parts of a failed share are removed from its cloud.
            None => leasedb.abandon(tx, *server, id, LateRequests::MayLand)?,
        }
    }
    for Lacking {
        share,
        cloud,
        reason,
    } in &extent.lacking
    {
        tx.execute(
            "INSERT INTO lacking VALUES(?1, ?2, ?3, ?4)",
            params![index.0, share.0, cloud, reason],
        )?;
    }
    Ok(())
}

/// Reads which shares a stream lacks: those that were not stored, and those that were lost since.
fn lacking(c: &rusqlite::Connection, stream: &Stream) -> rusqlite::Result<Vec<Lacking>> {
    let mut rows =
        c.prepare("SELECT share, cloud, reason FROM lacking WHERE storage_index = ?1")?;
    let rows = rows.query_map([stream.index.0], |r| {
        Ok(Lacking {
            share: ShareNum(r.get(0)?),
            cloud: r.get(1)?,
            reason: r.get(2)?,
        })
    })?;
    let lost = stream.placements.iter().filter(|placed| placed.is_lost);
    let lost = lost.map(|placed| {
        Ok(Lacking {
            share: placed.share,
            cloud: placed.cloud.clone(),
            reason: "it has vanished from its cloud, or the cloud is gone".to_owned(),
        })
    });
    rows.chain(lost).collect()
}

/// Removes the current file of a name, with the streams that no extent names any longer. Returns
/// whether there was such a file.
fn drop_current(tx: &Transaction<'_>, leasedb: &LeaseDb, name: &str) -> Result<bool> {
    let id: Option<i64> = tx
        .query_row(
            "SELECT id FROM files WHERE name = ?1 AND is_current",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    let Some(id) = id else { return Ok(false) };
    let mut statement = tx.prepare("SELECT DISTINCT storage_index FROM extents WHERE file = ?1")?;
    let indexes: Vec<[u8; 16]> = statement
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    tx.execute("DELETE FROM files WHERE id = ?1", [id])?;
    for index in indexes {
        let used: bool = tx.query_row(
            "SELECT EXISTS(SELECT 1 FROM extents WHERE storage_index = ?1)",
            [index],
            |r| r.get(0),
        )?;
        if !used {
            leasedb.release(tx, StorageIndex(index))?;
            for table in ["lacking", "streams"] {
                tx.execute(
                    &format!("DELETE FROM {table} WHERE storage_index = ?1"),
                    [index],
                )?;
            }
        }
    }
    Ok(true)
}

fn placements(c: &rusqlite::Connection, index: StorageIndex) -> rusqlite::Result<Vec<Placement>> {
    let placed = placed(c, index)?.into_iter();
    Ok(placed
        .map(|p| Placement {
            share: p.share,
            cloud: p.server,
            is_lost: p.is_lost,
        })
        .collect())
}

fn file_info(row: &Row<'_>) -> rusqlite::Result<FileInfo> {
    Ok(FileInfo {
        name: row.get(0)?,
        size: row.get::<_, i64>(1)?.unsigned_abs(),
        modified: row.get(2)?,
        content_hash: row.get(3)?,
        index: None,
        has_replaced: false,
        shares: Vec::new(),
        lacking: Vec::new(),
    })
}

fn stream(c: &rusqlite::Connection, index: StorageIndex) -> rusqlite::Result<Stream> {
    let placements = placements(c, index)?;
    c.query_row(
        "SELECT k, n, segment_size, padded, manifest_length, key_id, nonce, wrapped_key, roots
         FROM streams WHERE storage_index = ?1",
        [index.0],
        |row| {
            let roots: Vec<u8> = row.get(8)?;
            let (roots, _) = roots.as_chunks::<HASH>();
            Ok(Stream {
                index,
                layout: Layout {
                    geometry: Geometry {
                        k: row.get(0)?,
                        n: row.get(1)?,
                    },
                    segment_size: row.get(2)?,
                    padded: row.get::<_, i64>(3)?.unsigned_abs(),
                    manifest_length: row.get(4)?,
                },
                key: WrappedKey {
                    id: KeyId(row.get(5)?),
                    nonce: row.get(6)?,
                    sealed: row.get(7)?,
                },
                roots: roots.to_vec(),
                placements,
            })
        },
    )
}
