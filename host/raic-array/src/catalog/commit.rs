//! The one way by which versions of files come and go.
//!
//! A version is made beside those that its name has, with its extents. Then it becomes the current
//! one, and what it replaces goes, if its bucket does not keep it. So the extents of a copy are
//! never without a file that names them, even if the copy replaces what it was made from.

use raic_storage::{AccountId, LeaseDb, Moment, StorageIndex};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{
    Catalog, Details, FileInfo, FileName, FileVersion, Replace, VersionId, Versioning,
    buckets::{self, Bucket},
    files, int,
    streams::{self, NewExtent, placements},
    uint,
};
use crate::{Result, format::Hash};

/// A file that is about to be committed.
pub(crate) struct NewFile {
    pub(crate) name: FileName,
    pub(crate) replace: Replace,
    /// Id of this version of the file.
    pub(crate) version: VersionId,
    pub(crate) source_modified: Option<Moment>,
    pub(crate) content_hash: Hash,
    /// Bytes of content.
    pub(crate) size: u64,
    pub(crate) details: Details,
    /// The extents, in their order.
    pub(crate) extents: Vec<NewExtent>,
}

/// Whether a copy takes the place of what it was copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    Yes,
    No,
}

/// A row of `files` that is about to be made.
struct NewVersion<'a> {
    version: VersionId,
    is_delete_mark: bool,
    account: AccountId,
    /// Bytes that the account pays.
    paid: u64,
    size: u64,
    stored: Moment,
    source_modified: Option<Moment>,
    content_hash: Option<Hash>,
    details: &'a Details,
}

/// Makes a version that is not the current one yet. Returns its number in the order of all.
fn insert(
    tx: &Transaction<'_>,
    leasedb: &LeaseDb,
    (bucket, name): (Bucket, &str),
    new: &NewVersion<'_>,
) -> Result<i64> {
    tx.prepare_cached(
        "INSERT INTO files(bucket, name, version, is_current, is_delete_mark, is_unversioned, account,
             paid, size, stored_ms, source_modified_ms, content_hash, etag, content_type, details)
         VALUES(?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        bucket.id,
        name,
        new.version,
        new.is_delete_mark,
        bucket.versioning != Versioning::On,
        new.account.number(),
        int(new.paid),
        int(new.size),
        new.stored,
        new.source_modified,
        new.content_hash,
        new.details.etag,
        new.details.content_type,
        new.details.packed()?,
    ])?;
    let sequence = tx.last_insert_rowid();
    if !new.is_delete_mark {
        leasedb.pay_for_file(tx, new.account, new.paid)?;
    }
    Ok(sequence)
}

/// Makes a version the current one of its name. The one before goes, or is kept as an old version.
/// Returns whether there was a file before.
fn make_current(
    tx: &Transaction<'_>,
    leasedb: &LeaseDb,
    (bucket, name): (Bucket, &str),
    sequence: i64,
) -> Result<bool> {
    // The current version is the newest but for the one that was just made.
    let sql = "SELECT sequence, is_unversioned, is_delete_mark FROM files INDEXED BY files_versions
               WHERE bucket = ?1 AND name = ?2 AND is_current ORDER BY sequence DESC LIMIT 1";
    let before: Option<(i64, bool, bool)> = tx
        .prepare_cached(sql)?
        .query_row(params![bucket.id, name], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let replaced = match (bucket.versioning, before) {
        (Versioning::On, _) => None,
        (_, Some((before, true, _))) => Some(before),
        (Versioning::Off, _) => None,
        // The version that goes is an older one.
        (Versioning::Suspended, _) => tx
            .prepare_cached(
                "SELECT sequence FROM files
                 WHERE bucket = ?1 AND name = ?2 AND is_unversioned AND sequence <> ?3",
            )?
            .query_row(params![bucket.id, name, sequence], |row| row.get(0))
            .optional()?,
    };
    if let Some(replaced) = replaced {
        drop_version(tx, leasedb, replaced)?;
    }
    if let Some((before, ..)) = before.filter(|(before, ..)| replaced != Some(*before)) {
        tx.prepare_cached("UPDATE files SET is_current = 0 WHERE sequence = ?1")?
            .execute([before])?;
    }
    tx.prepare_cached("UPDATE files SET is_current = 1 WHERE sequence = ?1")?
        .execute([sequence])?;
    Ok(before.is_some_and(|(_, _, is_delete_mark)| !is_delete_mark))
}

/// Removes a version, with the streams that no extent names any longer.
fn drop_version(tx: &Transaction<'_>, leasedb: &LeaseDb, sequence: i64) -> Result<()> {
    let sql = "SELECT account, paid, is_delete_mark FROM files WHERE sequence = ?1";
    let (account, paid, is_delete_mark): (u32, i64, bool) =
        tx.prepare_cached(sql)?.query_row([sequence], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let mut statement =
        tx.prepare_cached("SELECT DISTINCT storage_index FROM extents WHERE file = ?1")?;
    let indexes: Vec<[u8; 16]> = statement
        .query_map([sequence], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    tx.prepare_cached("DELETE FROM files WHERE sequence = ?1")?
        .execute([sequence])?;
    for index in indexes {
        streams::release(tx, leasedb, StorageIndex(index))?;
    }
    if !is_delete_mark {
        leasedb.no_longer_pay(tx, AccountId::of(account), uint(paid))?;
    }
    Ok(())
}

/// Removes what a name stands for now. A bucket that keeps versions gets a delete mark instead,
/// whose id is returned.
fn remove_current(
    tx: &Transaction<'_>,
    leasedb: &LeaseDb,
    name: &FileName,
) -> Result<Option<VersionId>> {
    let bucket = buckets::find(tx, &name.bucket)?;
    let (sequence, _) = files::find(tx, name, None)?;
    if bucket.versioning == Versioning::Off {
        drop_version(tx, leasedb, sequence)?;
        return Ok(None);
    }
    let mark = NewVersion {
        version: VersionId::random()?,
        is_delete_mark: true,
        account: AccountId::SYSTEM,
        paid: 0,
        size: 0,
        stored: leasedb.now(),
        source_modified: None,
        content_hash: None,
        details: &Details::default(),
    };
    let at = (bucket, &*name.name);
    let marked = insert(tx, leasedb, at, &mark)?;
    make_current(tx, leasedb, at, marked)?;
    Ok(Some(mark.version))
}

fn require_place(tx: &Transaction<'_>, name: &FileName, replace: Replace) -> Result<Bucket> {
    let bucket = buckets::find(tx, &name.bucket)?;
    if replace == Replace::No {
        files::require_free(tx, name)?;
    }
    Ok(bucket)
}

impl Catalog {
    /// Makes the file in one transaction. Returns the file as it was committed.
    pub(crate) async fn commit(&self, file: NewFile, account: AccountId) -> Result<FileInfo> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                let bucket = require_place(tx, &file.name, file.replace)?;
                let used = leasedb.used(tx, account)?;
                let new = NewVersion {
                    version: file.version,
                    is_delete_mark: false,
                    account,
                    paid: file.extents.iter().map(NewExtent::paid).sum(),
                    size: file.size,
                    stored: leasedb.now(),
                    source_modified: file.source_modified,
                    content_hash: Some(file.content_hash),
                    details: &file.details,
                };
                let at = (bucket, &*file.name.name);
                let sequence = insert(tx, &leasedb, at, &new)?;
                let mut info = FileInfo {
                    name: file.name.name.clone(),
                    size: file.size,
                    modified: new.stored,
                    source_modified: file.source_modified,
                    content_hash: new.content_hash,
                    version: file.version,
                    is_current: true,
                    is_delete_mark: false,
                    details: file.details.clone(),
                    index: None,
                    class: None,
                    geometry: None,
                    has_replaced: false,
                    shares: Vec::new(),
                    lacking: Vec::new(),
                };
                if let Some(first) = file.extents.first() {
                    info.stored_as(&first.stream);
                }
                let mut offset = 0;
                for (position, extent) in (0_i64..).zip(file.extents) {
                    streams::make(tx, &leasedb, &extent)?;
                    let index = extent.stream.index;
                    tx.prepare_cached("INSERT INTO extents VALUES(?1, ?2, ?3, ?4, ?5, 0)")?
                        .execute(params![
                            sequence,
                            position,
                            int(offset),
                            int(extent.length),
                            index.0
                        ])?;
                    offset += extent.length;
                    let placed = placements(tx, index)?.into_iter();
                    info.shares.extend(placed.map(|p| (p.share, p.cloud)));
                    info.lacking.extend(extent.lacking);
                }
                info.has_replaced = make_current(tx, &leasedb, at, sequence)?;
                // What was reserved for the upload is used no longer, and was admitted then.
                leasedb.admit_since(tx, used)?;
                Ok(info.without_repetitions())
            })
            .await
    }

    /// Removes a file. The leases on streams that no other file has extents of end in the same
    /// transaction. A bucket that keeps versions gets a delete mark, whose id is returned.
    pub(crate) async fn remove(&self, name: FileName) -> Result<Option<VersionId>> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| remove_current(tx, &leasedb, &name))
            .await
    }

    /// Removes one version of a file, or a delete mark, for good. If it was what the name stands
    /// for, the newest of the others is now.
    pub(crate) async fn remove_version(&self, name: FileName, version: VersionId) -> Result<()> {
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                let bucket = buckets::find(tx, &name.bucket)?;
                let (sequence, info) = files::find(tx, &name, Some(version))?;
                drop_version(tx, &leasedb, sequence)?;
                if info.is_current {
                    tx.execute(
                        "UPDATE files SET is_current = 1 WHERE sequence =
                           (SELECT max(sequence) FROM files WHERE bucket = ?1 AND name = ?2)",
                        params![bucket.id, name.name],
                    )?;
                }
                Ok(())
            })
            .await
    }

    /// Makes a file with the content of another, or of one of its versions, in one transaction.
    /// Both share their extents, and each is paid for. If the file `moves`, the other goes.
    pub(crate) async fn copy(
        &self,
        from: FileVersion,
        to: FileName,
        replace: Replace,
        moves: Moves,
    ) -> Result<FileInfo> {
        let copied = VersionId::random()?;
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| {
                let (source, info) = files::find_content(tx, &from)?;
                let bucket = require_place(tx, &to, replace)?;
                if from.name == to && info.is_current {
                    return Ok(info);
                }
                let sql = "SELECT account, paid FROM files WHERE sequence = ?1";
                let (account, paid): (u32, i64) =
                    tx.query_row(sql, [source], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let account = AccountId::of(account);
                let used = leasedb.used(tx, account)?;
                let new = NewVersion {
                    version: copied,
                    is_delete_mark: false,
                    account,
                    paid: uint(paid),
                    size: info.size,
                    stored: leasedb.now(),
                    source_modified: info.source_modified,
                    content_hash: info.content_hash,
                    details: &info.details,
                };
                let at = (bucket, &*to.name);
                let sequence = insert(tx, &leasedb, at, &new)?;
                tx.execute(
                    "INSERT INTO extents
                     SELECT ?1, position, offset, length, storage_index, start FROM extents WHERE file = ?2",
                    params![sequence, source],
                )?;
                let has_replaced = make_current(tx, &leasedb, at, sequence)?;
                if moves == Moves::Yes {
                    remove_current(tx, &leasedb, &from.name)?;
                }
                leasedb.admit_since(tx, used)?;
                Ok(FileInfo {
                    name: to.name.clone(),
                    modified: new.stored,
                    version: copied,
                    is_current: true,
                    has_replaced,
                    ..info
                })
            })
            .await
    }

    /// Gives a file, or one of its versions, other tags.
    pub(crate) async fn set_tags(
        &self,
        file: FileVersion,
        tags: std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        self.database
            .write(move |tx| {
                let (sequence, mut info) = files::find_content(tx, &file)?;
                info.details.tags = tags;
                tx.execute(
                    "UPDATE files SET details = ?2 WHERE sequence = ?1",
                    params![sequence, info.details.packed()?],
                )?;
                Ok(())
            })
            .await
    }
}
