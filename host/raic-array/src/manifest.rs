//! The manifest of a stream: by it, a file is found although no catalog is left. Only a recovery
//! reads it.

use data_encoding::HEXLOWER;
use raic_storage::{Moment, StorageIndex};
use serde::{Deserialize, Serialize};

use crate::{
    ArrayError, FileName, Result,
    format::{Hash, KeyId, MANIFEST_UNIT, MAX_MANIFEST},
};

const VERSION: u32 = 1;

/// What a stream says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// Id of the database whose catalog has the stream.
    database: StorageIndexText,
    /// The last sequence of the catalog when the stream began.
    pub(crate) sequence: u64,
    /// The extents that the stream holds: one, for a stream of role `file`.
    pub(crate) extents: Vec<ManifestExtent>,
}

/// An extent of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestExtent {
    /// Id of the file's version.
    file: StorageIndexText,
    pub(crate) bucket: String,
    pub(crate) name: String,
    /// Place of the extent in its file, from 0.
    pub(crate) position: u64,
    /// Offset of the extent's first byte in its file, in bytes.
    pub(crate) offset: u64,
    /// Whether the file ends with the extent.
    pub(crate) is_last: bool,
    /// Bytes of content, without padding.
    pub(crate) length: u64,
    /// BLAKE3 of the content of the extent, in hexadecimal.
    content_hash: String,
    /// Name of the account that pays.
    pub(crate) account: String,
    /// When the upload began, in milliseconds since 1970.
    pub(crate) modified: i64,
}

/// Sixteen bytes, written as a storage index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StorageIndexText(String);

/// The file that an upload makes.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) database: StorageIndex,
    pub(crate) sequence: u64,
    pub(crate) file: StorageIndex,
    pub(crate) name: FileName,
    pub(crate) account: String,
    pub(crate) modified: Moment,
    /// The generation of the array's key that wraps the keys of its streams.
    pub(crate) wraps: KeyId,
}

/// Where an extent lies in its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) offset: u64,
    pub(crate) is_last: bool,
}

impl Manifest {
    /// Makes the manifest of a stream that holds one extent.
    pub(crate) fn of_extent(file: &Described, at: Place, length: u64, content_hash: Hash) -> Self {
        Self {
            version: VERSION,
            database: StorageIndexText(file.database.to_string()),
            sequence: file.sequence,
            extents: vec![ManifestExtent {
                file: StorageIndexText(file.file.to_string()),
                bucket: file.name.bucket.clone(),
                name: file.name.name.clone(),
                position: at.position,
                offset: at.offset,
                is_last: at.is_last,
                length,
                content_hash: HEXLOWER.encode(&content_hash),
                account: file.account.clone(),
                modified: file.modified.as_millis(),
            }],
        }
    }

    /// Encodes the manifest as JSON, and pads it with spaces: what follows from the length of a
    /// name is hidden. Whether the extent is the last does not change the length.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self).map_err(|e| ArrayError::Task(e.to_string()))?;
        let spare = usize::from(self.extents.iter().any(|extent| extent.is_last));
        let padded = (text.len() + spare).next_multiple_of(MANIFEST_UNIT as usize);
        text.resize(padded, b' ');
        if padded > MAX_MANIFEST as usize {
            return Err(ArrayError::Task(format!("a manifest of {padded} bytes")));
        }
        Ok(text)
    }

    /// Decodes a manifest; `None` if the bytes are not one of this version.
    #[cfg_attr(
        not(any(test, feature = "fuzzing")),
        expect(dead_code, reason = "only a recovery reads manifests")
    )]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let manifest: Self = serde_json::from_slice(bytes).ok()?;
        (manifest.version == VERSION).then_some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn described(name: String) -> Described {
        Described {
            database: StorageIndex([1; 16]),
            sequence: 7,
            file: StorageIndex([2; 16]),
            name: FileName {
                bucket: "files".to_owned(),
                name,
            },
            account: "anonymous".to_owned(),
            modified: Moment::from_millis(1_795_000_000_000),
            wraps: KeyId([3; 16]),
        }
    }

    proptest! {
        #[test]
        fn manifests_read_as_they_are_written(name in ".{0,400}", offset: u64, length: u64, content_hash: Hash) {
            let file = described(name);
            let [last, another] = [true, false].map(|is_last| {
                let at = Place { position: 3, offset, is_last };
                Manifest::of_extent(&file, at, length, content_hash)
            });
            let bytes = last.encode().unwrap();
            prop_assert_eq!(bytes.len() % 256, 0);
            prop_assert_eq!(Manifest::decode(&bytes), Some(last));
            // The length is reserved before it is known whether more content follows.
            prop_assert_eq!(another.encode().unwrap().len(), bytes.len());
        }

        #[test]
        fn rubbish_is_no_manifest(rubbish: Vec<u8>) {
            prop_assert_eq!(Manifest::decode(&rubbish), None);
        }
    }
}
