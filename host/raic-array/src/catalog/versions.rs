//! Versions of files, for buckets that keep them.

use std::{fmt, str::FromStr};

use raic_storage::StorageIndex;
use rusqlite::{
    ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};

use super::Catalog;
use crate::{ArrayError, Result};

/// The id of one version of a file: 16 random bytes, written as 26 characters of a-z and 2-7. No
/// other version of any file of the array has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(pub(crate) StorageIndex);

impl VersionId {
    pub(super) fn random() -> Result<Self> {
        let random = StorageIndex::random().map_err(|_| ArrayError::Randomness)?;
        Ok(Self(random))
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VersionId {
    type Err = ArrayError;

    fn from_str(text: &str) -> Result<Self> {
        let cut = || ArrayError::VersionId(text.chars().take(64).collect());
        text.parse().map(Self).map_err(|_| cut())
    }
}

impl ToSql for VersionId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.0.to_sql()
    }
}

impl FromSql for VersionId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 16]>::column_result(value).map(|bytes| Self(StorageIndex(bytes)))
    }
}

/// Whether a bucket keeps the old versions of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// It never did. A new file takes the place of the old one.
    #[default]
    Off,
    /// It keeps each version until it is removed by its id. Removing a file leaves a delete mark.
    On,
    /// It keeps those that it has. A new file takes the place of the one that was stored last
    /// while no versions were kept.
    Suspended,
}

impl ToSql for Versioning {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let number: i64 = match self {
            Self::Off => 0,
            Self::On => 1,
            Self::Suspended => 2,
        };
        Ok(number.into())
    }
}

impl FromSql for Versioning {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_i64()? {
            0 => Ok(Self::Off),
            1 => Ok(Self::On),
            2 => Ok(Self::Suspended),
            other => Err(FromSqlError::OutOfRange(other)),
        }
    }
}

impl Catalog {
    /// Changes whether a bucket keeps old versions.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchBucket`] if there is no such bucket, and with
    /// [`ArrayError::VersioningStays`] if it should be off and was ever on.
    pub(crate) async fn set_versioning(&self, name: String, wanted: Versioning) -> Result<()> {
        self.database
            .write(move |tx| {
                let bucket = super::buckets::find(tx, &name)?;
                if wanted == Versioning::Off && bucket.versioning != Versioning::Off {
                    return Err(ArrayError::VersioningStays(name));
                }
                let sql = "UPDATE buckets SET versioning = ?2 WHERE id = ?1";
                tx.execute(sql, (bucket.id, wanted))?;
                Ok(())
            })
            .await
    }
}
