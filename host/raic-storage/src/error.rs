//! What goes wrong at a storage server.

use std::io;

use raic_cloud::CloudError;

use crate::{DatabaseError, ShareNum, StorageIndex};

/// Shorthand for results of storage operations.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// What can go wrong at a storage server.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A cloud's own word.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The database's.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The disk's.
    #[error("cloud {backend:?}: {operation} {path}: {source}{}", advice(source))]
    Disk {
        /// The backend's name.
        backend: String,
        /// What was done.
        operation: &'static str,
        /// To which file, below the backend's folder.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It could not be opened when the daemon started.
    #[error("{reason}")]
    Unusable {
        /// Why: a sentence that names it.
        reason: String,
    },
    /// Nothing may be written or deleted there.
    #[error("cloud {backend:?} is read-only: {reason}")]
    ReadOnly {
        /// The backend's name.
        backend: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The space that may be used is used up.
    #[error(
        "cloud {backend:?}: {needed} bytes do not fit into the {available} that may be used; free space there, or lower its reserved_space"
    )]
    NoSpace {
        /// The backend's name.
        backend: String,
        /// Bytes that would be written.
        needed: u64,
        /// Bytes that may be.
        available: u64,
    },
    /// The share is not there, or a piece of it is missing.
    #[error("cloud {backend:?}: share {share} of {index} is not there")]
    NotFound {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
    },
    /// The share ends before the part asked for.
    #[error("cloud {backend:?}: share {share} of {index} ends early")]
    Short {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
    },
    /// What the cloud has is not what was stored.
    #[error("cloud {backend:?}: share {share} of {index} is not what was stored: {what}")]
    Damaged {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
        /// What is wrong with it.
        what: String,
    },
    /// The share is there, being written or being deleted: it cannot be begun.
    #[error("cloud {backend:?}: share {share} of {index} {state}")]
    Taken {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
        /// What it is doing there.
        state: &'static str,
    },
    /// Other bytes lie under the name of a chunk of an upload, which can never be complete.
    #[error(
        "cloud {backend:?}: share {share} of {index} cannot be stored: chunk {chunk} is there with other bytes, of an upload that was lost"
    )]
    InTheWay {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
        /// The chunk's number.
        chunk: u64,
    },
    /// No upload of that share, or not that uploader's.
    #[error("cloud {backend:?}: share {share} of {index} is not being written by this upload")]
    NoUpload {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
    },
    /// Other bytes were received there before.
    #[error("cloud {backend:?}: share {share} of {index}: other bytes were received there before")]
    Conflict {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
    },
    /// A write past what was allocated, or longer than a share can be.
    #[error("cloud {backend:?}: share {share} of {index}: {end} is past its end at {length}")]
    PastEnd {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
        /// Where the write would end.
        end: u64,
        /// Where the share ends.
        length: u64,
    },
    /// The write enabler is another's.
    #[error("cloud {backend:?}: the write enabler of {index} is another one")]
    WriteEnabler {
        /// The backend's name.
        backend: String,
        /// Whose.
        index: StorageIndex,
    },
    /// A mutable share's write ended without an answer: whether it was done is known once the cloud
    /// answers.
    #[error(
        "cloud {backend:?}: whether share {share} of {index} was written is not known yet: {reason}; ask again"
    )]
    NotKnown {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
        /// What failed.
        reason: String,
    },
    /// Another writer was faster.
    #[error("cloud {backend:?}: share {share} of {index} is being written by another; ask again")]
    Busy {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
    },
    /// A share would be larger than any can be.
    #[error(
        "share {share} of {index} would have {asked} bytes, more than the {} a share can have",
        crate::MAX_SHARE
    )]
    TooLarge {
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
        /// Its length.
        asked: u64,
    },
    /// An upload by offset is in more pieces than are kept track of.
    #[error(
        "cloud {backend:?}: share {share} of {index} was received in more than {most} pieces that do not touch; send what lies between first"
    )]
    TooManyPieces {
        /// The backend's name.
        backend: String,
        /// Whose share.
        index: StorageIndex,
        /// Which.
        share: ShareNum,
        /// The most there may be.
        most: usize,
    },
    /// There is no such account.
    #[error(
        "there is no account {0:?}; `raic account list` shows which there are, `raic account create` makes one"
    )]
    NoAccount(String),
    /// There is one of that name.
    #[error("there is an account {0:?} already")]
    AccountExists(String),
    /// An account's name.
    #[error("{0:?} cannot be an account's name: 1 to 64 of A-Z, a-z, 0-9, - _ . and @")]
    AccountName(String),
    /// The account may not write.
    #[error("account {0:?} is disabled; `raic account enable` lets it write again")]
    AccountDisabled(String),
    /// Quotas that contradict each other.
    #[error(
        "account {account:?}: its soft quota of {soft} bytes is above the hard one of {hard}, and would never be told; lower it"
    )]
    Quotas {
        /// Whose.
        account: String,
        /// The soft one, in bytes.
        soft: u64,
        /// The hard one, in bytes.
        hard: u64,
    },
    /// An account has all the leases of a share that it can have.
    #[error(
        "the account has {most} leases of the share, as many as it can have; renew it by a secret that it was leased by"
    )]
    TooManyLeases {
        /// How many.
        most: u64,
    },
    /// The account's hard quota.
    #[error(
        "account {account:?} may use {quota} bytes and uses {used}; this takes {asked} more. Remove files, or raise it with `raic account set {account} --hard`"
    )]
    QuotaExceeded {
        /// Whose.
        account: String,
        /// The most it may use, in bytes.
        quota: u64,
        /// What it uses and has reserved.
        used: u64,
        /// What it asks for.
        asked: u64,
    },
}

impl StorageError {
    /// Whether a disk, or what is left of it to use, is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Disk { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            Self::Database(e) => e.is_full(),
            Self::Cloud(e) => e.kind == raic_cloud::ErrorKind::QuotaExceeded,
            _ => false,
        }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on that disk",
        io::ErrorKind::PermissionDenied => {
            "; let the user who runs raic read and write that folder"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; mount that disk for writing",
        _ => "",
    }
}

impl From<rusqlite::Error> for StorageError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Database(e.into())
    }
}
