//! Files and their extents.

use std::ops::Range;

use raic_storage::{Moment, ShareNum, StorageIndex};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    Catalog, Details, VersionId, buckets, int,
    streams::{self, Stream},
    uint,
};
use crate::{ArrayError, Geometry, Result, format::Hash};

/// The columns that [`info`] reads.
pub(super) const COLUMNS: &str = "sequence, name, version, is_current, is_delete_mark, size, \
     stored_ms, source_modified_ms, content_hash, etag, content_type, details";

/// The name of a file: which bucket, and which file in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    /// Name of the bucket.
    pub bucket: String,
    /// Name of the file in the bucket.
    pub name: String,
}

/// A file, or one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileVersion {
    /// Name of the file.
    pub name: FileName,
    /// Id of the version; `None` is what the name stands for now.
    pub version: Option<VersionId>,
}

impl From<&FileName> for FileVersion {
    fn from(name: &FileName) -> Self {
        Self {
            name: name.clone(),
            version: None,
        }
    }
}

/// A version of a file, as its users see it.
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
    /// Id of this version of the file.
    pub version: VersionId,
    /// Whether this is what the name stands for now.
    pub is_current: bool,
    /// Whether this only marks that the file was removed. Then it has no content.
    pub is_delete_mark: bool,
    /// What whoever stored the file keeps beside its content.
    pub details: Details,
    /// Storage index of the shares of the file's first extent; `None` in a list of files.
    pub index: Option<StorageIndex>,
    /// Name of the class that the first extent was stored with; `None` in a list of files.
    pub class: Option<String>,
    /// How many shares the first extent has, and how many suffice; `None` in a list of files.
    pub geometry: Option<Geometry>,
    /// Whether a put just now replaced an older file of this name.
    pub has_replaced: bool,
    /// The names of the clouds that hold the file's shares, with the share numbers. It is empty in
    /// a list of files.
    pub shares: Vec<(ShareNum, String)>,
    /// The shares that the file lacks. It is empty in a list of files.
    pub lacking: Vec<Lacking>,
}

impl FileInfo {
    /// Notes how the first extent is stored.
    pub(super) fn stored_as(&mut self, stream: &Stream) {
        self.index = Some(stream.index);
        self.class.clone_from(&stream.class);
        self.geometry = Some(stream.layout.geometry);
    }

    /// Names each share and cloud once, however many extents the file has.
    pub(super) fn without_repetitions(mut self) -> Self {
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

/// The number of a version of a file in the order of all versions, and the columns of [`COLUMNS`].
/// Without a `version` it is the current one, which must not be a delete mark.
pub(super) fn find(
    c: &Connection,
    name: &FileName,
    version: Option<VersionId>,
) -> Result<(i64, FileInfo)> {
    let bucket = buckets::find(c, &name.bucket)?;
    let found = |row: &Row<'_>| Ok((row.get("sequence")?, info(row)?));
    match version {
        None => {
            let sql = format!(
                "SELECT {COLUMNS} FROM files
                 WHERE bucket = ?1 AND name = ?2 AND is_current AND NOT is_delete_mark"
            );
            let mut statement = c.prepare_cached(&sql)?;
            let found = statement.query_row(params![bucket.id, name.name], found);
            let found = found.optional()?;
            found.ok_or_else(|| ArrayError::NoSuchFile(name.name.clone()))
        }
        Some(version) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM files WHERE version = ?3 AND bucket = ?1 AND name = ?2"
            );
            let mut statement = c.prepare_cached(&sql)?;
            let found = statement.query_row(params![bucket.id, name.name, version], found);
            let found = found.optional()?;
            found.ok_or_else(|| ArrayError::NoSuchVersion {
                name: name.name.clone(),
                version,
            })
        }
    }
}

/// Finds a version that has content.
pub(super) fn find_content(c: &Connection, file: &FileVersion) -> Result<(i64, FileInfo)> {
    let (sequence, info) = find(c, &file.name, file.version)?;
    match info.is_delete_mark {
        true => Err(ArrayError::DeleteMark {
            name: info.name,
            version: info.version,
        }),
        false => Ok((sequence, info)),
    }
}

/// Reads a file from a row that has [`COLUMNS`].
pub(super) fn info(row: &Row<'_>) -> rusqlite::Result<FileInfo> {
    Ok(FileInfo {
        name: row.get("name")?,
        size: uint(row.get("size")?),
        modified: row.get("stored_ms")?,
        source_modified: row.get("source_modified_ms")?,
        content_hash: row.get("content_hash")?,
        version: row.get("version")?,
        is_current: row.get("is_current")?,
        is_delete_mark: row.get("is_delete_mark")?,
        details: Details::read(row)?,
        index: None,
        class: None,
        geometry: None,
        has_replaced: false,
        shares: Vec::new(),
        lacking: Vec::new(),
    })
}

/// Requires that there is no file of that name.
pub(super) fn require_free(c: &Connection, name: &FileName) -> Result<()> {
    match find(c, name, None) {
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
                let place = statement.query_row([bucket.id], |row| {
                    Ok(NewPlace {
                        class: row.get(0)?,
                        sequence: uint(row.get(1)?),
                    })
                });
                Ok(place?)
            })
            .await
    }

    /// Reads a file, or one of its versions, with its extents that have bytes of `range`, in their
    /// order.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchFile`] or [`ArrayError::NoSuchVersion`] if there is none, and
    /// with [`ArrayError::DeleteMark`] if it has no content.
    pub(crate) async fn file(
        &self,
        file: FileVersion,
        range: Range<u64>,
    ) -> Result<(FileInfo, Vec<Extent>)> {
        let found = self.database.read(move |c| {
            let (file, mut info) = find_content(c, &file)?;
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
            if let Some(Extent { stream, .. }) = extents.first() {
                info.stored_as(stream);
            }
            for Extent { stream, .. } in &extents {
                info.shares.extend(stream.shares());
                info.lacking.extend(streams::lacking(c, stream)?);
            }
            Ok::<_, ArrayError>((info.without_repetitions(), extents))
        });
        found.await
    }
}
