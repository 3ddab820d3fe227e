//! Files, their versions and extents.

use std::ops::Range;

use raic_storage::{AccountId, LeaseDb, Moment, ShareNum, StorageIndex};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{
    Catalog,
    buckets::{self, BucketId},
    int,
    streams::{self, NewExtent, Stream, placements},
    uint,
};
use crate::{ArrayError, Result, format::Hash};

/// The columns that [`info`] reads.
pub(super) const COLUMNS: &str =
    "sequence, name, size, stored_ms, source_modified_ms, content_hash";

/// The name of a file: which bucket, and which file in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    /// Name of the bucket.
    pub bucket: String,
    /// Name of the file in the bucket.
    pub name: String,
}

/// A file, as its users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Name of the file in its bucket.
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// The moment at which the file was stored, in milliseconds since 1970.
    pub modified: Moment,
    /// When the source of the content was last modified, if whoever stored the file said so.
    pub source_modified: Option<Moment>,
    /// BLAKE3 of the content, if it is recorded.
    pub content_hash: Option<Hash>,
    /// Storage index of the shares of the file's first extent; `None` in a list of files.
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

/// An extent: the part of a file that a stream holds.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// Offset of the extent's first byte in the file.
    pub(crate) offset: u64,
    /// Bytes of content.
    pub(crate) length: u64,
    pub(crate) stream: Stream,
}

/// Whether a file may take the place of another of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replace {
    /// It replaces the other.
    #[default]
    Yes,
    /// It is refused if there is another.
    No,
}

/// Where a file can be stored.
pub(crate) struct NewPlace {
    /// Name of the bucket's class; `None` is the array's default.
    pub(crate) class: Option<String>,
    /// Sequence of the last file that was committed.
    pub(crate) sequence: u64,
}

/// A file that is about to be committed.
pub(crate) struct NewFile {
    pub(crate) name: FileName,
    pub(crate) replace: Replace,
    /// Id of this version of the file.
    pub(crate) version: StorageIndex,
    pub(crate) source_modified: Option<Moment>,
    pub(crate) content_hash: Hash,
    /// Bytes of content.
    pub(crate) size: u64,
    /// The extents, in their order.
    pub(crate) extents: Vec<NewExtent>,
}

/// A current file's number and the columns of [`COLUMNS`].
fn current(c: &Connection, name: &FileName) -> Result<(i64, FileInfo)> {
    let bucket = buckets::find(c, &name.bucket)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM files
         WHERE bucket = ?1 AND name = ?2 AND is_current AND NOT is_delete_mark"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let found = statement
        .query_row(params![bucket.0, name.name], |row| {
            Ok((row.get("sequence")?, info(row)?))
        })
        .optional()?;
    found.ok_or_else(|| ArrayError::NoSuchFile(name.name.clone()))
}

/// Reads a file from a row that has [`COLUMNS`].
pub(super) fn info(row: &Row<'_>) -> rusqlite::Result<FileInfo> {
    Ok(FileInfo {
        name: row.get("name")?,
        size: uint(row.get("size")?),
        modified: row.get("stored_ms")?,
        source_modified: row.get("source_modified_ms")?,
        content_hash: row.get("content_hash")?,
        index: None,
        has_replaced: false,
        shares: Vec::new(),
        lacking: Vec::new(),
    })
}

/// Removes the current file of a name, with the streams that no extent names any longer. Returns
/// whether there was such a file.
fn drop_current(
    tx: &Transaction<'_>,
    leasedb: &LeaseDb,
    bucket: BucketId,
    name: &str,
) -> Result<bool> {
    let mut statement = tx.prepare_cached(
        "SELECT sequence FROM files WHERE bucket = ?1 AND name = ?2 AND is_current",
    )?;
    let file: Option<i64> = statement
        .query_row(params![bucket.0, name], |row| row.get(0))
        .optional()?;
    let Some(file) = file else { return Ok(false) };
    let mut statement =
        tx.prepare_cached("SELECT DISTINCT storage_index FROM extents WHERE file = ?1")?;
    let indexes: Vec<[u8; 16]> = statement
        .query_map([file], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    tx.prepare_cached("DELETE FROM files WHERE sequence = ?1")?
        .execute([file])?;
    for index in indexes {
        streams::release(tx, leasedb, StorageIndex(index))?;
    }
    Ok(true)
}

/// Makes room for a file: the file that had the name goes, if it may be replaced. Returns the
/// bucket, and whether there was one.
fn take_place(
    tx: &Transaction<'_>,
    leasedb: &LeaseDb,
    name: &FileName,
    replace: Replace,
) -> Result<(BucketId, bool)> {
    let bucket = buckets::find(tx, &name.bucket)?;
    if replace == Replace::No {
        require_free(tx, name)?;
    }
    let has_replaced = drop_current(tx, leasedb, bucket, &name.name)?;
    Ok((bucket, has_replaced))
}

fn require_free(c: &Connection, name: &FileName) -> Result<()> {
    match current(c, name) {
        Ok(_) => Err(ArrayError::FileExists(name.name.clone())),
        Err(ArrayError::NoSuchFile(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

impl Catalog {
    /// Requires that a file can be stored under a name: that the bucket exists, and the name is
    /// free if nothing may be replaced. The commit requires it again.
    pub(crate) async fn require_place(&self, name: FileName, replace: Replace) -> Result<NewPlace> {
        self.database
            .read(move |c| {
                let bucket = buckets::find(c, &name.bucket)?;
                if replace == Replace::No {
                    require_free(c, &name)?;
                }
                let sql = "SELECT class,
                         coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'files'), 0)
                     FROM buckets WHERE id = ?1";
                let mut statement = c.prepare_cached(sql)?;
                let place = statement.query_row([bucket.0], |row| {
                    Ok(NewPlace {
                        class: row.get(0)?,
                        sequence: uint(row.get(1)?),
                    })
                });
                Ok(place?)
            })
            .await
    }

    /// Makes the file in one transaction. Returns the file as it was committed.
    pub(crate) async fn commit(&self, file: NewFile, account: AccountId) -> Result<FileInfo> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                let (bucket, has_replaced) = take_place(tx, &leasedb, &file.name, file.replace)?;
                let modified = leasedb.now();
                tx.prepare_cached(
                    "INSERT INTO files(bucket, name, version, is_current, is_delete_mark, account, size,
                         stored_ms, source_modified_ms, content_hash)
                     VALUES(?1, ?2, ?3, 1, 0, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    bucket.0,
                    file.name.name,
                    file.version.0,
                    account.number(),
                    int(file.size),
                    modified,
                    file.source_modified,
                    file.content_hash
                ])?;
                let (id, mut offset) = (tx.last_insert_rowid(), 0);
                let mut info = FileInfo {
                    name: file.name.name,
                    size: file.size,
                    modified,
                    source_modified: file.source_modified,
                    content_hash: Some(file.content_hash),
                    index: file.extents.first().map(|extent| extent.stream.index),
                    has_replaced,
                    shares: Vec::new(),
                    lacking: Vec::new(),
                };
                for (position, extent) in (0_i64..).zip(file.extents) {
                    streams::make(tx, &leasedb, &extent, account)?;
                    let index = extent.stream.index;
                    tx.prepare_cached("INSERT INTO extents VALUES(?1, ?2, ?3, ?4, ?5, 0)")?
                        .execute(params![id, position, int(offset), int(extent.length), index.0])?;
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
    pub(crate) async fn remove(&self, name: FileName) -> Result<()> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                let bucket = buckets::find(tx, &name.bucket)?;
                match drop_current(tx, &leasedb, bucket, &name.name)? {
                    true => Ok(()),
                    false => Err(ArrayError::NoSuchFile(name.name)),
                }
            })
            .await
    }

    /// Makes a file with the content of another, in one transaction. Both share their extents. If
    /// the file `moves`, the other goes.
    pub(crate) async fn copy(
        &self,
        from: FileName,
        to: FileName,
        replace: Replace,
        moves: Moves,
    ) -> Result<FileInfo> {
        let version = StorageIndex::random().map_err(|_| ArrayError::Randomness)?;
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                let (source, mut info) = current(tx, &from)?;
                if from == to {
                    return match replace {
                        Replace::Yes => Ok(info),
                        Replace::No => Err(ArrayError::FileExists(to.name)),
                    };
                }
                let (bucket, has_replaced) = take_place(tx, &leasedb, &to, replace)?;
                let modified = leasedb.now();
                tx.execute(
                    "INSERT INTO files(bucket, name, version, is_current, is_delete_mark, account, size,
                         stored_ms, source_modified_ms, content_hash, etag, content_type, details)
                     SELECT ?1, ?2, ?3, 1, 0, account, size, ?4, source_modified_ms, content_hash, etag,
                         content_type, details FROM files WHERE sequence = ?5",
                    params![bucket.0, to.name, version.0, modified, source],
                )?;
                tx.execute(
                    "INSERT INTO extents
                     SELECT ?1, position, offset, length, storage_index, start FROM extents WHERE file = ?2",
                    params![tx.last_insert_rowid(), source],
                )?;
                if moves == Moves::Yes {
                    let bucket = buckets::find(tx, &from.bucket)?;
                    drop_current(tx, &leasedb, bucket, &from.name)?;
                }
                info.name = to.name;
                (info.modified, info.has_replaced) = (modified, has_replaced);
                Ok(info)
            })
            .await
    }

    /// Reads a file with its extents that have bytes of `range`, in their order.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchFile`] if there is no file of that name.
    pub(crate) async fn file(
        &self,
        name: FileName,
        range: Range<u64>,
    ) -> Result<(FileInfo, Vec<Extent>)> {
        let found = self.database.read(move |c| {
            let (file, mut info) = current(c, &name)?;
            let mut rows = c.prepare_cached(
                "SELECT offset, length, storage_index FROM extents
                 WHERE file = ?1 AND offset < ?3 AND offset >= coalesce(
                     (SELECT max(offset) FROM extents WHERE file = ?1 AND offset <= ?2), 0)
                 ORDER BY offset",
            )?;
            let bounds = params![file, int(range.start), int(range.end.max(1))];
            let rows = rows.query_map(bounds, |row| {
                Ok(Extent {
                    offset: uint(row.get(0)?),
                    length: uint(row.get(1)?),
                    stream: streams::read(c, StorageIndex(row.get(2)?))?,
                })
            })?;
            let extents = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            info.index = extents.first().map(|extent| extent.stream.index);
            for Extent { stream, .. } in &extents {
                info.shares.extend(stream.shares());
                info.lacking.extend(streams::lacking(c, stream)?);
            }
            Ok::<_, ArrayError>((info.without_repetitions(), extents))
        });
        found.await
    }
}

/// Whether a copy takes the place of what it was copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    Yes,
    No,
}
