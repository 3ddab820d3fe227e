//! Buckets, which hold files.

use raic_storage::{AccountId, Moment};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{Catalog, Versioning};
use crate::{ArrayError, Result};

/// The bucket of files that name none. Every array has it.
pub const DEFAULT_BUCKET: &str = "files";

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Name of the bucket.
    pub name: String,
    /// When the bucket was made.
    pub created: Moment,
    /// Number of files.
    pub files: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Name of the class of new files; `None` is the array's default.
    pub class: Option<String>,
    /// Whether the array has no such class, so that the bucket takes no files.
    pub lacks_class: bool,
    /// Whether it keeps old versions of its files.
    pub versioning: Versioning,
}

/// A bucket, as a transaction finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) id: i64,
    pub(super) versioning: Versioning,
}

/// Requires that a text can be the name of a bucket. The rules are those of Amazon S3
/// (bucketnamingrules in its user guide), so that every bucket can be reached by S3's clients.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let problem = if !(3..=63).contains(&name.len()) {
        "it has 3 to 63 characters"
    } else if !name.chars().all(|c| is_plain(c) || ".-".contains(c)) {
        "it has only a-z, 0-9, dots and hyphens"
    } else if !name.starts_with(is_plain) || !name.ends_with(is_plain) {
        "it begins and ends with a letter or a digit"
    } else if name.contains("..") {
        "it has no two dots side by side"
    } else if name.parse::<std::net::Ipv4Addr>().is_ok() {
        "it is no IP address"
    } else {
        return Ok(());
    };
    Err(ArrayError::BucketName {
        name: name.chars().take(64).collect(),
        problem,
    })
}

/// Finds a bucket.
///
/// # Errors
/// Fails with [`ArrayError::NoSuchBucket`] if there is none of that name.
pub(super) fn find(c: &Connection, name: &str) -> Result<Bucket> {
    let mut statement = c.prepare_cached("SELECT id, versioning FROM buckets WHERE name = ?1")?;
    let bucket = |row: &Row<'_>| {
        Ok(Bucket {
            id: row.get(0)?,
            versioning: row.get(1)?,
        })
    };
    let found = statement.query_row([name], bucket).optional()?;
    found.ok_or_else(|| ArrayError::NoSuchBucket(name.chars().take(64).collect()))
}

fn info(row: &Row<'_>) -> rusqlite::Result<BucketInfo> {
    Ok(BucketInfo {
        name: row.get(0)?,
        created: row.get(1)?,
        files: row.get::<_, i64>(2)?.unsigned_abs(),
        bytes: row.get::<_, i64>(3)?.unsigned_abs(),
        class: row.get(4)?,
        lacks_class: false,
        versioning: row.get(5)?,
    })
}

/// A bucket that is about to be made.
pub(crate) struct NewBucket {
    pub(crate) name: String,
    /// Name of the class of its files; `None` is the array's default.
    pub(crate) class: Option<String>,
    pub(crate) versioning: Versioning,
}

/// Makes a bucket, unless it exists. Returns whether it was made.
pub(super) fn make(
    c: &Connection,
    new: &NewBucket,
    owner: AccountId,
    now: Moment,
) -> rusqlite::Result<bool> {
    let made = c.execute(
        "INSERT OR IGNORE INTO buckets(name, owner, class, versioning, created_ms)
         VALUES(?1, ?2, ?3, ?4, ?5)",
        (&new.name, owner.number(), &new.class, new.versioning, now),
    )?;
    Ok(made > 0)
}

impl Catalog {
    /// Makes a bucket.
    ///
    /// # Errors
    /// Fails with [`ArrayError::BucketName`] if the name cannot be a bucket's, and with
    /// [`ArrayError::BucketExists`] if there is one.
    pub(crate) async fn create_bucket(&self, new: NewBucket, owner: AccountId) -> Result<()> {
        check_name(&new.name)?;
        let leasedb = self.leasedb.clone();
        self.database
            .write(move |tx| match make(tx, &new, owner, leasedb.now())? {
                true => Ok(()),
                false => Err(ArrayError::BucketExists(new.name)),
            })
            .await
    }

    /// Removes a bucket that holds no file, and no old version of one.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchBucket`] if there is none of that name, with
    /// [`ArrayError::BucketNotEmpty`] if it holds files, and with [`ArrayError::DefaultBucket`] if
    /// it is the one that every array has.
    pub(crate) async fn remove_bucket(&self, name: String) -> Result<()> {
        self.database
            .write(move |tx| {
                let bucket = find(tx, &name)?;
                if name == DEFAULT_BUCKET {
                    return Err(ArrayError::DefaultBucket);
                }
                let sql = "SELECT EXISTS(SELECT 1 FROM files WHERE bucket = ?1)";
                if tx.query_row(sql, [bucket.id], |row| row.get(0))? {
                    return Err(ArrayError::BucketNotEmpty(name));
                }
                tx.execute("DELETE FROM buckets WHERE id = ?1", [bucket.id])?;
                Ok(())
            })
            .await
    }

    /// Reads all buckets, in the order of their names.
    pub(crate) async fn buckets(&self) -> Result<Vec<BucketInfo>> {
        let buckets = self.database.read(|c| {
            let mut statement = c.prepare(
                "SELECT name, created_ms, files, bytes, class, versioning FROM buckets ORDER BY name",
            )?;
            let rows = statement.query_map([], info)?;
            Ok::<_, ArrayError>(rows.collect::<rusqlite::Result<_>>()?)
        });
        buckets.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_buckets_are_those_of_s3() {
        for name in ["files", "a.b", "my-photos", "0-9", &"a".repeat(63)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "ab",
            "Files",
            "a_b",
            "-ab",
            "ab-",
            ".ab",
            "a..b",
            "192.168.0.1",
            "ä-b",
            "a/b",
            &"a".repeat(64),
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
