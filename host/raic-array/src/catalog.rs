//! The catalog: which files there are, of which streams they are made, and where the streams' shares are.
//!
//! raic-array's tables in the one database file. A file is a list of extents of streams; a stream is what one
//! storage index names. Every change that a person can see is one transaction:
//!
//! - `begin` records the shares an upload is about to write, before the first byte goes out;
//! - `commit` makes the file, its stream and its placements, and queues what it replaces for deletion;
//! - `abandon`, and a restart, turn what began and did not commit into deletions.

use std::time::{SystemTime, UNIX_EPOCH};

use raic_storage::{Database, ShareNum, StorageIndex};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use crate::{
    ArrayError, Result,
    format::{Geometry, HASH, Hash, Layout, WRAPPED_KEY},
};

const STEPS: &[&str] = &["
CREATE TABLE streams(
    storage_index BLOB PRIMARY KEY, k INTEGER NOT NULL, n INTEGER NOT NULL, segment_size INTEGER NOT NULL,
    length INTEGER NOT NULL, manifest_length INTEGER NOT NULL, generation INTEGER NOT NULL,
    wrapped_key BLOB NOT NULL, roots BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE placements(
    storage_index BLOB NOT NULL REFERENCES streams, share INTEGER NOT NULL, cloud TEXT NOT NULL,
    objects INTEGER NOT NULL, PRIMARY KEY(storage_index, share, cloud)) WITHOUT ROWID;
CREATE TABLE lacking(
    storage_index BLOB NOT NULL REFERENCES streams, share INTEGER NOT NULL, cloud TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY(storage_index, share)) WITHOUT ROWID;
CREATE TABLE files(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, version BLOB NOT NULL UNIQUE, is_current INTEGER NOT NULL,
    is_delete_mark INTEGER NOT NULL, size INTEGER NOT NULL, modified_ms INTEGER NOT NULL, content_hash BLOB);
CREATE UNIQUE INDEX files_current ON files(name) WHERE is_current;
CREATE TABLE extents(
    file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, position INTEGER NOT NULL,
    storage_index BLOB NOT NULL REFERENCES streams, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY(file, position)) WITHOUT ROWID;
CREATE INDEX extents_storage_index ON extents(storage_index);
CREATE TABLE uploads(
    storage_index BLOB NOT NULL, share INTEGER NOT NULL, cloud TEXT NOT NULL, began_ms INTEGER NOT NULL,
    PRIMARY KEY(storage_index, share, cloud)) WITHOUT ROWID;
CREATE TABLE deletions(
    storage_index BLOB NOT NULL, share INTEGER NOT NULL, cloud TEXT NOT NULL, objects INTEGER, until_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, last_error TEXT, next_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(storage_index, share, cloud)) WITHOUT ROWID;
CREATE INDEX deletions_next ON deletions(cloud, next_ms);
CREATE TABLE keyring_copies(cloud TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE array(id BLOB NOT NULL);
"];

/// How long a request that was given up may still land: what it wrote is deleted until then.
pub(crate) const GOING_MS: i64 = 15 * 60 * 1000;

/// What a person sees of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: i64,
    /// BLAKE3 of the content.
    pub content_hash: Option<Hash>,
    /// What names its shares.
    pub index: Option<StorageIndex>,
    /// The clouds that hold its shares, by share number.
    pub shares: Vec<(ShareNum, String)>,
    /// The shares it lacks, with the cloud that did not take them and why.
    pub lacking: Vec<(ShareNum, String, String)>,
}

/// What one storage index names.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) index: StorageIndex,
    pub(crate) layout: Layout,
    pub(crate) generation: u32,
    pub(crate) wrapped_key: [u8; WRAPPED_KEY],
    pub(crate) roots: Vec<Hash>,
    pub(crate) placements: Vec<Placement>,
}

impl Stream {
    fn shares(&self) -> Vec<(ShareNum, String)> {
        self.placements.iter().map(|p| (p.share, p.cloud.clone())).collect()
    }
}

/// A share that is stored.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) share: ShareNum,
    pub(crate) cloud: String,
    /// Objects it is kept in, by which it will be removed.
    pub(crate) objects: u64,
}

/// A share on a cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) index: StorageIndex,
    pub(crate) share: ShareNum,
    pub(crate) cloud: String,
    /// Objects it is kept in; none where it never was whole.
    pub(crate) objects: Option<u64>,
}

/// A file about to be committed.
pub(crate) struct NewFile {
    pub(crate) name: String,
    pub(crate) content_hash: Hash,
    pub(crate) stream: Stream,
    /// Shares that were not stored: cloud and reason.
    pub(crate) lacking: Vec<(ShareNum, String, String)>,
}

/// Totals for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Shares that should be and are not.
    pub lacking: u64,
    /// Shares that wait to be deleted.
    pub deletions: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    database: Database,
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Catalog {
    /// Brings the tables up to date and turns uploads that a crash ended into deletions.
    pub(crate) async fn open(database: Database, array: [u8; 16]) -> Result<Self> {
        database.migrate("array", STEPS).await?;
        database
            .write(move |tx| {
                let known: Option<[u8; 16]> =
                    tx.query_row("SELECT id FROM array", [], |row| row.get(0)).optional()?;
                match known {
                    None => tx.execute("INSERT INTO array VALUES(?1)", [array]).map(drop)?,
                    Some(id) if id != array => return Err(ArrayError::Keyring),
                    Some(_) => {}
                }
                tx.execute(
                    "INSERT OR REPLACE INTO deletions(storage_index, share, cloud, until_ms)
                     SELECT storage_index, share, cloud, ?1 FROM uploads",
                    [now_ms() + GOING_MS],
                )?;
                tx.execute("DELETE FROM uploads", [])?;
                Ok(())
            })
            .await?;
        Ok(Self { database })
    }

    pub(crate) async fn begin(&self, index: StorageIndex, clouds: Vec<(ShareNum, String)>) -> Result<()> {
        self.database
            .write(move |tx| {
                for (share, cloud) in clouds {
                    tx.execute(
                        "INSERT INTO uploads VALUES(?1, ?2, ?3, ?4)",
                        params![index.0, share.0, cloud, now_ms()],
                    )?;
                }
                Ok(())
            })
            .await
    }

    pub(crate) async fn abandon(&self, index: StorageIndex) -> Result<()> {
        self.database.write(move |tx| uploads_to_deletions(tx, index)).await
    }

    /// Makes the file. What it says of it is what was committed, whatever follows.
    pub(crate) async fn commit(&self, file: NewFile) -> Result<FileInfo> {
        let version = StorageIndex::random().map_err(|_| ArrayError::Randomness)?;
        self.database
            .write(move |tx| {
                let NewFile { name, content_hash, stream, lacking } = file;
                let (index, layout) = (stream.index.0, stream.layout);
                tx.execute(
                    "INSERT INTO streams VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        index,
                        layout.geometry.k,
                        layout.geometry.n,
                        layout.segment_size,
                        int(layout.length),
                        layout.manifest_length,
                        stream.generation,
                        stream.wrapped_key,
                        stream.roots.concat(),
                    ],
                )?;
                for Placement { share, cloud, objects } in &stream.placements {
                    tx.execute(
                        "INSERT INTO placements VALUES(?1, ?2, ?3, ?4)",
                        params![index, share.0, cloud, int(*objects)],
                    )?;
                    tx.execute(
                        "DELETE FROM uploads WHERE storage_index = ?1 AND share = ?2 AND cloud = ?3",
                        params![index, share.0, cloud],
                    )?;
                }
                // What a cloud got of a share that failed goes.
                uploads_to_deletions(tx, stream.index)?;
                for (share, cloud, reason) in &lacking {
                    tx.execute("INSERT INTO lacking VALUES(?1, ?2, ?3, ?4)", params![index, share.0, cloud, reason])?;
                }
                drop_current(tx, &name)?;
                let modified_ms = now_ms();
                tx.execute(
                    "INSERT INTO files(name, version, is_current, is_delete_mark, size, modified_ms, content_hash)
                     VALUES(?1, ?2, 1, 0, ?3, ?4, ?5)",
                    params![name, version.0, int(layout.length), modified_ms, content_hash],
                )?;
                tx.execute(
                    "INSERT INTO extents VALUES(last_insert_rowid(), 0, ?1, 0, ?2)",
                    params![index, int(layout.length)],
                )?;
                Ok(FileInfo {
                    name,
                    size: layout.length,
                    modified_ms,
                    content_hash: Some(content_hash),
                    index: Some(stream.index),
                    shares: stream.shares(),
                    lacking,
                })
            })
            .await
    }

    /// Removes a file. What it held and nothing else holds is queued for deletion in the same transaction.
    pub(crate) async fn remove(&self, name: String) -> Result<()> {
        self.database
            .write(
                move |tx| if drop_current(tx, &name)? { Ok(()) } else { Err(ArrayError::NoSuchFile(name)) },
            )
            .await
    }

    pub(crate) async fn file(&self, name: String) -> Result<(FileInfo, Vec<Stream>)> {
        let found = self.database.read(move |c| {
            let file = c
                .query_row(
                    "SELECT name, size, modified_ms, content_hash, id FROM files WHERE name = ?1 AND is_current",
                    [&name],
                    |row| Ok((file_info(row)?, row.get::<_, i64>(4)?)),
                )
                .optional()?;
            let Some((mut info, id)) = file else { return Ok(Err(ArrayError::NoSuchFile(name))) };
            let mut extents =
                c.prepare("SELECT storage_index FROM extents WHERE file = ?1 ORDER BY position")?;
            let indexes = extents.query_map([id], |row| row.get(0).map(StorageIndex))?;
            let indexes = indexes.collect::<rusqlite::Result<Vec<_>>>()?;
            let streams = indexes.iter().map(|index| stream(c, *index)).collect::<rusqlite::Result<Vec<_>>>()?;
            info.index = indexes.first().copied();
            info.shares = streams.iter().flat_map(Stream::shares).collect();
            for index in indexes {
                let mut lacking = c.prepare("SELECT share, cloud, reason FROM lacking WHERE storage_index = ?1")?;
                let rows = lacking.query_map([index.0], |r| Ok((ShareNum(r.get(0)?), r.get(1)?, r.get(2)?)))?;
                info.lacking.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
            }
            Ok(Ok((info, streams)))
        });
        found.await?
    }

    /// Up to `limit` files after `after` whose name begins with `prefix`, in the order of their names' bytes.
    pub(crate) async fn list(&self, prefix: String, after: String, limit: u32) -> Result<Vec<FileInfo>> {
        let files = self.database.read(move |c| {
            let mut statement = c.prepare(
                "SELECT name, size, modified_ms, content_hash FROM files
                 WHERE is_current AND NOT is_delete_mark AND name > ?1 AND name >= ?2
                   AND substr(name, 1, length(?2)) = ?2
                 ORDER BY name LIMIT ?3",
            )?;
            let rows = statement.query_map(params![after, prefix, limit], file_info)?;
            rows.collect()
        });
        Ok(files.await?)
    }

    pub(crate) async fn totals(&self) -> Result<Totals> {
        let totals = self.database.read(|c| {
            let one = |sql| c.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n.unsigned_abs());
            Ok(Totals {
                files: one("SELECT count(*) FROM files WHERE is_current")?,
                bytes: one("SELECT coalesce(sum(size), 0) FROM files WHERE is_current")?,
                lacking: one("SELECT count(*) FROM lacking")?,
                deletions: one("SELECT count(*) FROM deletions")?,
            })
        });
        Ok(totals.await?)
    }

    /// Whether a file still names that stream.
    pub(crate) async fn is_live(&self, index: StorageIndex) -> Result<bool> {
        let live = self.database.read(move |c| {
            c.query_row("SELECT EXISTS(SELECT 1 FROM streams WHERE storage_index = ?1)", [index.0], |r| {
                r.get(0)
            })
        });
        Ok(live.await?)
    }

    /// A cloud's deletions that are due, oldest first.
    pub(crate) async fn due_deletions(&self, cloud: String, limit: u32) -> Result<Vec<Placed>> {
        let due = self.database.read(move |c| {
            let mut statement = c.prepare(
                "SELECT storage_index, share, cloud, objects FROM deletions WHERE cloud = ?1 AND next_ms <= ?2
                 ORDER BY next_ms LIMIT ?3",
            )?;
            let rows = statement.query_map(params![cloud, now_ms(), limit], |row| {
                Ok(Placed {
                    index: StorageIndex(row.get(0)?),
                    share: ShareNum(row.get(1)?),
                    cloud: row.get(2)?,
                    objects: row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs),
                })
            })?;
            rows.collect()
        });
        Ok(due.await?)
    }

    /// What came of a deletion: done for good, to be done once more when nothing can land any longer, or failed.
    pub(crate) async fn deletion_tried(&self, placed: Placed, error: Option<String>) -> Result<()> {
        self.database
            .write(move |tx| {
                let Placed { index, share, cloud, .. } = placed;
                let now = now_ms();
                if error.is_none() {
                    tx.execute(
                        "DELETE FROM deletions WHERE storage_index = ?1 AND share = ?2 AND cloud = ?3 AND until_ms <= ?4",
                        params![index.0, share.0, cloud, now],
                    )?;
                }
                // Again when late requests are over; after a failure with a growing pause, of an hour at most.
                tx.execute(
                    "UPDATE deletions SET attempts = attempts + 1, last_error = ?5, next_ms = CASE WHEN ?5 IS NULL
                       THEN until_ms ELSE ?4 + min(3600000, 5000 << min(attempts, 10)) END
                     WHERE storage_index = ?1 AND share = ?2 AND cloud = ?3",
                    params![index.0, share.0, cloud, now, error],
                )?;
                Ok(())
            })
            .await
    }

    pub(crate) async fn keyring_copies(&self, generation: u32) -> Result<Vec<String>> {
        let copies = self.database.read(move |c| {
            let mut statement = c.prepare("SELECT cloud FROM keyring_copies WHERE generation >= ?1")?;
            let rows = statement.query_map([generation], |row| row.get(0))?;
            rows.collect()
        });
        Ok(copies.await?)
    }

    pub(crate) async fn keyring_missing(&self, cloud: String) -> Result<()> {
        self.database
            .write(move |tx| {
                Ok(tx.execute("DELETE FROM keyring_copies WHERE cloud = ?1", [cloud]).map(drop)?)
            })
            .await
    }

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

fn uploads_to_deletions(tx: &Transaction<'_>, index: StorageIndex) -> Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO deletions(storage_index, share, cloud, until_ms)
         SELECT storage_index, share, cloud, ?2 FROM uploads WHERE storage_index = ?1",
        params![index.0, now_ms() + GOING_MS],
    )?;
    tx.execute("DELETE FROM uploads WHERE storage_index = ?1", [index.0])?;
    Ok(())
}

/// Removes the current file of a name; streams that no extent names any longer go with it.
fn drop_current(tx: &Transaction<'_>, name: &str) -> Result<bool> {
    let id: Option<i64> = tx
        .query_row("SELECT id FROM files WHERE name = ?1 AND is_current", [name], |row| row.get(0))
        .optional()?;
    let Some(id) = id else { return Ok(false) };
    let mut statement = tx.prepare("SELECT DISTINCT storage_index FROM extents WHERE file = ?1")?;
    let indexes: Vec<[u8; 16]> =
        statement.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    tx.execute("DELETE FROM files WHERE id = ?1", [id])?;
    for index in indexes {
        let used: bool =
            tx.query_row("SELECT EXISTS(SELECT 1 FROM extents WHERE storage_index = ?1)", [index], |r| {
                r.get(0)
            })?;
        if !used {
            tx.execute(
                "INSERT OR REPLACE INTO deletions(storage_index, share, cloud, objects, until_ms)
                 SELECT storage_index, share, cloud, objects, ?2 FROM placements WHERE storage_index = ?1",
                params![index, now_ms()],
            )?;
            for table in ["placements", "lacking", "streams"] {
                tx.execute(&format!("DELETE FROM {table} WHERE storage_index = ?1"), [index])?;
            }
        }
    }
    Ok(true)
}

fn file_info(row: &Row<'_>) -> rusqlite::Result<FileInfo> {
    Ok(FileInfo {
        name: row.get(0)?,
        size: row.get::<_, i64>(1)?.unsigned_abs(),
        modified_ms: row.get(2)?,
        content_hash: row.get(3)?,
        index: None,
        shares: Vec::new(),
        lacking: Vec::new(),
    })
}

fn stream(c: &rusqlite::Connection, index: StorageIndex) -> rusqlite::Result<Stream> {
    let mut placements =
        c.prepare("SELECT share, cloud, objects FROM placements WHERE storage_index = ?1 ORDER BY share")?;
    let placements = placements.query_map([index.0], |row| {
        let objects = row.get::<_, i64>(2)?.unsigned_abs();
        Ok(Placement { share: ShareNum(row.get(0)?), cloud: row.get(1)?, objects })
    })?;
    let placements = placements.collect::<rusqlite::Result<Vec<_>>>()?;
    c.query_row(
        "SELECT k, n, segment_size, length, manifest_length, generation, wrapped_key, roots FROM streams
         WHERE storage_index = ?1",
        [index.0],
        |row| {
            let roots: Vec<u8> = row.get(7)?;
            Ok(Stream {
                index,
                layout: Layout {
                    geometry: Geometry { k: row.get(0)?, n: row.get(1)? },
                    segment_size: row.get(2)?,
                    length: row.get::<_, i64>(3)?.unsigned_abs(),
                    manifest_length: row.get(4)?,
                },
                generation: row.get(5)?,
                wrapped_key: row.get(6)?,
                roots: roots.chunks_exact(HASH).filter_map(|h| h.try_into().ok()).collect(),
                placements,
            })
        },
    )
}
