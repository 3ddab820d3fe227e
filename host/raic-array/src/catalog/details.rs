//! What a client keeps beside the content of a file.

use std::collections::BTreeMap;

use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::{ArrayError, Result};

/// Most bytes of all user metadata of a file, as Amazon S3 has it.
const MAX_METADATA: usize = 2048;
/// Most tags of a file, as Amazon S3 has it.
const MAX_TAGS: usize = 10;
/// Longest key of a tag, in characters.
const MAX_TAG_KEY: usize = 128;
/// Longest value of a tag, in characters.
const MAX_TAG_VALUE: usize = 256;
/// Longest content type, etag, or checksum, in bytes.
const MAX_VALUE: usize = 256;
/// Most checksums of a file. Each is of another algorithm.
const MAX_CHECKSUMS: usize = 8;

/// What a client keeps beside the content of a file. RAIC gives it back as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Media type of the content (RFC 9110, section 8.3).
    pub content_type: Option<String>,
    /// Opaque text that names this content (RFC 9110, section 8.8.3), without quotes.
    pub etag: Option<String>,
    /// Metadata of the client's own, by name.
    pub metadata: BTreeMap<String, String>,
    /// Tags, by key. Only they can be changed later.
    pub tags: BTreeMap<String, String>,
    /// Checksums of the content, by the name of their algorithm.
    pub checksums: BTreeMap<String, String>,
}

/// The details that one column holds as JSON.
#[derive(Default, Serialize, Deserialize)]
struct Packed {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    checksums: BTreeMap<String, String>,
}

fn require(holds: bool, problem: &'static str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(ArrayError::Details(problem)),
    }
}

/// Requires that tags can be a file's.
pub(crate) fn check_tags(tags: &BTreeMap<String, String>) -> Result<()> {
    require(tags.len() <= MAX_TAGS, "it has more than 10 tags")?;
    let fits = |(key, value): (&String, &String)| {
        !key.is_empty()
            && key.chars().count() <= MAX_TAG_KEY
            && value.chars().count() <= MAX_TAG_VALUE
    };
    require(
        tags.iter().all(fits),
        "a tag's key has 1 to 128 characters, and its value at most 256",
    )?;
    require_printable(tags)
}

fn require_printable(texts: &BTreeMap<String, String>) -> Result<()> {
    let is_printable = |text: &String| !text.chars().any(char::is_control);
    require(
        texts
            .iter()
            .all(|(k, v)| is_printable(k) && is_printable(v)),
        "a name or a value has control characters",
    )
}

impl Details {
    /// Requires that the details can be a file's.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Details`] and the limit that is not kept.
    pub(crate) fn check(&self) -> Result<()> {
        let short = |text: &Option<String>| {
            // As headers can have them, an etag in quotes.
            let is_plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"';
            let fits =
                |text: &String| (1..=MAX_VALUE).contains(&text.len()) && text.bytes().all(is_plain);
            text.as_ref().is_none_or(fits)
        };
        require(
            short(&self.content_type) && short(&self.etag),
            "a content type or an etag has 1 to 256 characters of ASCII, and no quotes",
        )?;
        let metadata = self
            .metadata
            .iter()
            .map(|(key, value)| key.len() + value.len());
        require(
            metadata.sum::<usize>() <= MAX_METADATA,
            "its metadata are more than 2048 bytes",
        )?;
        require(
            self.metadata.keys().all(|key| !key.is_empty()),
            "metadata without a name",
        )?;
        require_printable(&self.metadata)?;
        let fits = |(name, sum): (&String, &String)| {
            !name.is_empty() && name.len() <= MAX_VALUE && sum.len() <= MAX_VALUE
        };
        require(
            self.checksums.len() <= MAX_CHECKSUMS && self.checksums.iter().all(fits),
            "it has more than 8 checksums, or one that is longer than 256 bytes",
        )?;
        require_printable(&self.checksums)?;
        check_tags(&self.tags)
    }

    /// Reads the details from a row with the columns `etag`, `content_type` and `details`.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let packed: Option<String> = row.get("details")?;
        let packed: Packed = match packed {
            Some(json) => serde_json::from_str(&json).map_err(|e| {
                rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, e.into())
            })?,
            None => Packed::default(),
        };
        Ok(Self {
            content_type: row.get("content_type")?,
            etag: row.get("etag")?,
            metadata: packed.metadata,
            tags: packed.tags,
            checksums: packed.checksums,
        })
    }

    /// The value of the column `details`.
    pub(super) fn packed(&self) -> Result<Option<String>> {
        if self.metadata.is_empty() && self.tags.is_empty() && self.checksums.is_empty() {
            return Ok(None);
        }
        let packed = Packed {
            metadata: self.metadata.clone(),
            tags: self.tags.clone(),
            checksums: self.checksums.clone(),
        };
        let json = serde_json::to_string(&packed);
        json.map(Some).map_err(|e| ArrayError::Task(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn details_keep_the_limits_of_s3() {
        let fits = Details {
            content_type: Some("text/plain".into()),
            etag: Some("0cc175b9c0f1b6a831c399e269772661-2".into()),
            metadata: one("author", &"x".repeat(2042)),
            tags: one(&"k".repeat(128), &"ä".repeat(256)),
            checksums: one("crc64nvme", "AAAAAAAAAAA="),
        };
        fits.check().unwrap();
        Details::default().check().unwrap();
        let with = |change: fn(&mut Details)| {
            let mut changed = fits.clone();
            change(&mut changed);
            changed.check()
        };
        let many = |count: usize| -> BTreeMap<String, String> {
            (0..count).map(|n| (n.to_string(), String::new())).collect()
        };
        assert!(check_tags(&many(10)).is_ok() && check_tags(&many(11)).is_err());
        for refused in [
            with(|d| d.content_type = Some("a\nb".into())),
            with(|d| d.content_type = Some(String::new())),
            with(|d| d.etag = Some("e".repeat(257))),
            with(|d| d.etag = Some("a\"b".into())),
            with(|d| d.content_type = Some("text/é".into())),
            with(|d| d.metadata = one("author", &"x".repeat(2043))),
            with(|d| d.metadata = one("", "x")),
            with(|d| d.metadata = one("a", "\u{7}")),
            with(|d| d.tags = one("", "x")),
            with(|d| d.tags = one("k", &"v".repeat(257))),
            with(|d| d.tags = one("k\n", "v")),
            with(|d| d.checksums = one("md5", &"v".repeat(257))),
        ] {
            assert!(
                matches!(refused, Err(ArrayError::Details(_))),
                "{refused:?}"
            );
        }
    }
}
