//! Errors of file operations.

use raic_storage::{DatabaseError, StorageError, StorageIndex};

use crate::{VersionId, format::KeyId};

/// The result of a file operation.
pub type Result<T, E = ArrayError> = std::result::Result<T, E>;

/// An error of a file operation.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// There is no file of that name.
    #[error("there is no file {0:?}; `raic ls` shows files, and folders with a /")]
    NoSuchFile(String),
    /// The text cannot be the name of a file.
    #[error("{name:?} cannot be a file's name: {problem}")]
    Name {
        /// The refused name, cut to 64 characters.
        name: String,
        /// Problem with the name, as a sentence about it.
        problem: &'static str,
    },
    /// The file has no version of that id.
    #[error("the file {name:?} has no version {version}; `raic ls --versions` shows all versions")]
    NoSuchVersion {
        /// Name of the file.
        name: String,
        /// The id.
        version: VersionId,
    },
    /// The text is not the id of a version.
    #[error("{0:?} is not the id of a version, which has 26 characters of a-z and 2-7")]
    VersionId(String),
    /// The version is a delete mark, which has no content.
    #[error("the version {version} of {name:?} only marks that the file was removed then")]
    DeleteMark {
        /// Name of the file.
        name: String,
        /// The id.
        version: VersionId,
    },
    /// A bucket that kept versions can only stop keeping new ones.
    #[error("the bucket {0:?} kept versions; it can be suspended, and never be as if it had not")]
    VersioningStays(String),
    /// What is to be kept beside a file's content is too much.
    #[error("not stored: {0}")]
    Details(&'static str),
    /// There is a file of that name, and it may not be replaced.
    #[error("there is a file {0:?} already, and --no-replace keeps it")]
    FileExists(String),
    /// There is no bucket of that name.
    #[error("there is no bucket {0:?}; `raic bucket list` shows all buckets")]
    NoSuchBucket(String),
    /// There is a bucket of that name.
    #[error("there is a bucket {0:?} already")]
    BucketExists(String),
    /// The bucket holds files.
    #[error("the bucket {0:?} holds files; `raic ls --versions --bucket {0}` shows them")]
    BucketNotEmpty(String),
    /// The bucket that every array has cannot be removed.
    #[error("the bucket \"files\" cannot be removed: it is the one of commands that name none")]
    DefaultBucket,
    /// The text cannot be the name of a bucket.
    #[error("{name:?} cannot be a bucket's name: {problem}")]
    BucketName {
        /// The refused name, cut to 64 characters.
        name: String,
        /// The rule that it does not keep, as a sentence about a name.
        problem: &'static str,
    },
    /// The text is not a storage index.
    #[error("{0:?} is not a storage index, which has 26 characters of a-z and 2-7")]
    StorageIndex(String),
    /// The range begins past the end of the file.
    #[error("the range begins past the end of the file ({size} bytes)")]
    Range {
        /// Size of the file, in bytes.
        size: u64,
    },
    /// Too few clouds took a share.
    #[error(
        "not stored: {stored} of {n} clouds took a share, and {}, so that the file survives the loss \
         of further clouds (`survive` in config.toml); {}",
        needs(*stored, *needed, *lacks_domains),
        list(faults)
    )]
    TooFewClouds {
        /// Number of clouds that took a share.
        stored: usize,
        /// Number of the array's clouds.
        n: usize,
        /// Number of clouds that must take shares.
        needed: usize,
        /// Whether the clouds that took a share would suffice if they were not of too few failure
        /// domains.
        lacks_domains: bool,
        /// Whether every share that was not taken failed because its cloud is full.
        is_full: bool,
        /// Faults of the clouds that took no share, also of those that were not asked because they
        /// failed a moment before.
        faults: Vec<Fault>,
    },
    /// The clouds have fewer than k valid blocks of a segment.
    #[error(
        "segment {segment} cannot be read: the clouds have {valid} valid blocks of the {k} that \
         are needed; {}",
        list(faults)
    )]
    Unreadable {
        /// Number of the segment, from 0.
        segment: u64,
        /// Number of valid blocks that were read.
        valid: usize,
        /// Number of valid blocks that are needed.
        k: u8,
        /// Faults of the other clouds.
        faults: Vec<Fault>,
    },
    /// The blocks are authentic but the segment is not, so the key is wrong.
    #[error(
        "segment {segment} of {index} does not open with this array's key; is it the right key file?"
    )]
    Sealed {
        /// Storage index of the stream.
        index: StorageIndex,
        /// Number of the segment, from 0.
        segment: u64,
    },
    /// The keyring cannot unwrap a stream's key.
    #[error(
        "the key of {index} (wrapped by key {key}) does not open with this keyring; is it the right \
         key file?"
    )]
    WrongKey {
        /// Storage index of the stream.
        index: StorageIndex,
        /// Id of the array key that wrapped the stream's key.
        key: KeyId,
    },
    /// The keyring does not open, or belongs to another array.
    #[error(
        "the keyring does not open: it is damaged, or the key belongs to another array, or it was \
         changed since"
    )]
    Keyring,
    /// The configuration has no Tahoe door.
    #[error("config.toml has no section [tahoe]; add it with a `listen` address, and restart")]
    NoTahoe,
    /// The configuration has no array, so there are no files.
    #[error(
        "config.toml has no section [array], so this daemon keeps no files, but serves Tahoe-LAFS \
         clients alone"
    )]
    NoArray,
    /// The database belongs to another array than the keyring.
    #[error("the database is another array's than the keyring; put the right key file in place")]
    OtherArray,
    /// The catalog's entry of a file makes no sense.
    #[error("the catalog's entry of {0:?} is damaged; restore the database from a backup")]
    DamagedEntry(String),
    /// The keyring is not yet on enough clouds.
    #[error(
        "not stored: the keyring must be on {needed} clouds before its key is used, and is on \
         {stored}; see `raic status`"
    )]
    KeyringNotStored {
        /// Number of clouds that have the keyring.
        stored: usize,
        /// Number of clouds that must have it.
        needed: usize,
    },
    /// The text is not a recovery key.
    #[error("this is not a recovery key: a letter or a word is wrong or missing")]
    RecoveryKey,
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    Randomness,
    /// The numbers are not a possible geometry.
    #[error(
        "{k}-of-{n} is not a geometry: k must be 1 or more, and less than n, which is 32 at most"
    )]
    Geometry {
        /// Number of shares that would suffice to read.
        k: u8,
        /// Number of shares.
        n: usize,
    },
    /// The reader took nothing for so long that it lost its stream.
    #[error("the reader took nothing for {} s, so what was held for it was given back; read again", .0.as_secs())]
    ReaderIdle(std::time::Duration),
    /// There is no class of that name.
    #[error(
        "there is no class {0:?}: config.toml has a section [classes.NAME] for each; `raic bucket \
         list` shows the classes of buckets, and `raic put --class` names another"
    )]
    NoSuchClass(String),
    /// The text cannot be the name of a class.
    #[error("{0:?} cannot be a class's name: 1 to 64 of A-Z, a-z, 0-9, - and _")]
    ClassName(String),
    /// The class can store nothing on the clouds that there are.
    #[error(
        "class {name:?}: with {clouds} clouds no file could be stored that survives what it should; \
         add clouds of other failure domains, or lower k or survive"
    )]
    ClassImpossible {
        /// Name of the class.
        name: String,
        /// Number of clouds.
        clouds: usize,
    },
    /// The content did not come to its end, or was not as announced.
    #[error("not stored: the content broke off: {0}")]
    Content(String),
    /// A job of the database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// An operation of a storage server failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An inner task failed, or the catalog has an impossible entry.
    #[error("an inner task failed: {0}")]
    Task(String),
}

impl From<rusqlite::Error> for ArrayError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Database(e.into())
    }
}

impl From<tokio::task::JoinError> for ArrayError {
    fn from(e: tokio::task::JoinError) -> Self {
        Self::Task(e.to_string())
    }
}

/// The fault of one cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Name of the cloud; empty if no cloud is known.
    pub cloud: String,
    /// The fault, as a sentence that names the cloud if one is known.
    pub text: String,
}

/// Says what the clouds that took a share lack.
fn needs(stored: usize, needed: usize, lacks_domains: bool) -> String {
    if lacks_domains {
        "clouds of more failure domains (`domain` in config.toml) must".to_owned()
    } else if stored < needed {
        format!("{needed} must")
    } else {
        "they must take those of the others, too".to_owned()
    }
}

fn list(faults: &[Fault]) -> String {
    if faults.is_empty() {
        return "no cloud reported a fault".to_owned();
    }
    faults
        .iter()
        .map(|f| f.text.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}
