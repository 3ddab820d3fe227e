//! What can go wrong with a file.

use raic_storage::{DatabaseError, StorageError, StorageIndex};

/// Shorthand for results of file operations.
pub type Result<T, E = ArrayError> = std::result::Result<T, E>;

/// What can go wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// There is no file of that name.
    #[error("there is no file {0:?}; `raic ls` shows which there are")]
    NoSuchFile(String),
    /// The name cannot be a file's.
    #[error("{name:?} cannot be a file's name: {problem}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// What is no storage index.
    #[error("{0:?} is no storage index: it has 26 characters of a-z and 2-7")]
    StorageIndex(String),
    /// The range begins past the end.
    #[error("the range begins past the end of the file ({size} bytes)")]
    Range {
        /// The file's size.
        size: u64,
    },
    /// Too few clouds took a share.
    #[error(
        "not stored: {stored} of {n} clouds took a share, {needed} are needed so that the file survives what `survive` in config.toml \
         says; {}",
        list(faults)
    )]
    TooFewClouds {
        /// Clouds that have their share.
        stored: usize,
        /// Clouds there are.
        n: usize,
        /// Clouds that must have theirs.
        needed: usize,
        /// Whether it was for want of room only.
        is_full: bool,
        /// Each cloud's fault.
        faults: Vec<Fault>,
    },
    /// Fewer than k valid blocks of a segment can be had.
    #[error(
        "segment {segment} cannot be read: {valid} valid blocks of the {k} needed; {}",
        list(faults)
    )]
    Unreadable {
        /// Which segment.
        segment: u64,
        /// Valid blocks found.
        valid: usize,
        /// Blocks needed.
        k: u8,
        /// Each cloud's fault.
        faults: Vec<Fault>,
    },
    /// The blocks are authentic and the segment is not: the key is wrong.
    #[error(
        "segment {segment} of {index} does not open with this array's key; is it the right key file?"
    )]
    Sealed {
        /// Whose segment.
        index: StorageIndex,
        /// Which.
        segment: u64,
    },
    /// The keyring cannot unwrap a stream's key.
    #[error(
        "the key of {index} (generation {generation}) does not open with this keyring; is it the right key file?"
    )]
    WrongKey {
        /// Whose key.
        index: StorageIndex,
        /// By which generation it was wrapped.
        generation: u32,
    },
    /// The keyring itself.
    #[error("the keyring does not open: it is damaged, or the key is another's")]
    Keyring,
    /// The keyring is not yet on enough clouds.
    #[error(
        "not stored: the keyring must be on {needed} clouds before its key is used, and is on {stored}; see `raic status`"
    )]
    KeyringNotStored {
        /// Clouds that have it.
        stored: usize,
        /// Clouds that must.
        needed: usize,
    },
    /// A recovery key that is none.
    #[error("this is no recovery key: a letter is wrong or missing")]
    RecoveryKey,
    /// The system gave no randomness.
    #[error("the system gives no random numbers")]
    Randomness,
    /// A geometry that cannot be.
    #[error("{k}-of-{n} is no geometry: 1 <= k < n <= 32, and as many clouds as n")]
    Geometry {
        /// Shares that would suffice.
        k: u8,
        /// Shares, or clouds, there would be.
        n: usize,
    },
    /// Whoever sent the content stopped.
    #[error("not stored: the content broke off: {0}")]
    Content(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A storage server.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A task of ours ended before its time.
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

/// What one cloud did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The cloud.
    pub cloud: String,
    /// The fault, as a sentence that names the cloud.
    pub text: String,
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
