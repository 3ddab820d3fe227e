//! Errors of storage servers, backends and leasedb.

use std::{io, time::Duration};

use raic_cloud::CloudError;

use crate::{DatabaseError, ShareId, StorageIndex};

/// The result of a storage operation.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// An error of a storage operation.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A request to the cloud failed.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// A job of the database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// An operation on a disk failed.
    #[error("cloud {backend:?}: {operation} {path}: {source}{}", advice(source))]
    Disk {
        /// The backend's name.
        backend: String,
        /// The operation, such as "write".
        operation: &'static str,
        /// Path of the file, below the backend's folder.
        path: String,
        /// Error of the filesystem.
        source: io::Error,
    },
    /// The cloud cannot be used: it cannot be opened, or lacks what the operation needs.
    #[error("{reason}")]
    Unusable {
        /// A sentence that names the cloud and says why.
        reason: String,
    },
    /// A task of this process ended before its time: a panic, whose reason is in the log.
    #[error("an inner task failed: {0}; the daemon's log has its reason")]
    Task(String),
    /// The cloud is read-only: nothing may be written or deleted there.
    #[error("cloud {backend:?} is read-only: {reason}")]
    ReadOnly {
        /// The backend's name.
        backend: String,
        /// Reason, with advice for the operator.
        reason: String,
    },
    /// The cloud holds shares and gets no new ones.
    #[error("cloud {0:?} is draining: it gets no new shares; `raic cloud undrain` ends that")]
    Draining(String),
    /// The space that may be used is used up.
    #[error(
        "cloud {backend:?}: {needed} bytes do not fit into the {available} bytes that may be \
         used; free space there, or lower its reserved_space"
    )]
    NoSpace {
        /// The backend's name.
        backend: String,
        /// Bytes that would be written.
        needed: u64,
        /// Bytes that may be written.
        available: u64,
    },
    /// The share does not exist, or a piece of it is missing.
    #[error("cloud {backend:?}: {id} is not there")]
    NotFound {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
    },
    /// The share ends before the requested part does.
    #[error("cloud {backend:?}: {id} ends before the requested part does")]
    Short {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
    },
    /// The cloud returns other bytes than were stored.
    #[error("cloud {backend:?}: {id} is not what was stored: {what}")]
    Damaged {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
        /// A description of the damage.
        what: String,
    },
    /// The share cannot be begun, because it exists, is being written or is being deleted.
    #[error("cloud {backend:?}: {id} {state}")]
    Taken {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
        /// State of the share, as the rest of a sentence.
        state: &'static str,
    },
    /// A chunk of an upload exists with other bytes, so the upload can never be complete.
    #[error(
        "cloud {backend:?}: {id} cannot be stored: chunk {chunk} exists with other bytes, from an \
         upload that was lost"
    )]
    InTheWay {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
        /// Number of the chunk.
        chunk: u64,
    },
    /// No upload writes the share.
    #[error("cloud {backend:?}: {id} is not being written")]
    NoUpload {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
    },
    /// An upload with another secret writes the share.
    #[error("cloud {backend:?}: {id} is being written by another upload")]
    OtherUpload {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
    },
    /// Other bytes were received at the same offset before.
    #[error("cloud {backend:?}: {id}: other bytes were received at this offset before")]
    Conflict {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
    },
    /// A write goes past the allocated length or past the length that a share can have, or a read
    /// asks for more bytes than one request may have.
    #[error("cloud {backend:?}: {id}: the request ends at byte {end}, past the end at {length}")]
    PastEnd {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
        /// Offset at which the request would end, in bytes.
        end: u64,
        /// Offset at which it may end, in bytes.
        length: u64,
    },
    /// The write enabler is not the one that the shares were made with.
    #[error("cloud {backend:?}: {index} has another write enabler")]
    WriteEnabler {
        /// The backend's name.
        backend: String,
        /// Storage index of the shares.
        index: StorageIndex,
    },
    /// The data of a share that is taken over cannot be read.
    #[error("the data of {id} cannot be read: {source}")]
    Source {
        /// The share.
        id: ShareId,
        /// Error of the file.
        source: io::Error,
    },
    /// The outcome of a write, mostly of a mutable share, is not known until the cloud answers.
    #[error("cloud {backend:?}: whether {id} was written is not known yet: {reason}; try again")]
    NotKnown {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
        /// The failure because of which the outcome is unknown.
        reason: String,
    },
    /// The cloud did not answer in the time that a step of background work may take.
    #[error("cloud {backend:?}: {work} of {id} took longer than {} s", most.as_secs())]
    Slow {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
        /// The work, such as "a deletion".
        work: &'static str,
        /// Time that the work may take.
        most: Duration,
    },
    /// The backend was opened without what this kind of share needs.
    #[error("cloud {backend:?} keeps no {what}")]
    Unsupported {
        /// The backend's name.
        backend: String,
        /// The kind of share, as the rest of a sentence.
        what: &'static str,
    },
    /// The container has more runs of unknown daemons than are read, so its owner cannot be found
    /// out.
    #[error(
        "cloud {backend:?}: its container has {found} objects below raic/run. that are unknown to \
         this database; find out which daemons use the container"
    )]
    ForeignRuns {
        /// The backend's name.
        backend: String,
        /// Number of such objects.
        found: usize,
    },
    /// Another writer was faster.
    #[error("cloud {backend:?}: another writer writes {id}; try again")]
    Busy {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
    },
    /// A share would be larger than a share can be.
    #[error(
        "{id} would have {asked} bytes, more than the {} bytes that a share can have",
        crate::MAX_SHARE
    )]
    TooLarge {
        /// The share.
        id: ShareId,
        /// Length that the share would have, in bytes.
        asked: u64,
    },
    /// An upload by offset has more separate pieces than are recorded.
    #[error(
        "cloud {backend:?}: {id} was received in more than {most} pieces that do not touch; send \
         the bytes between them first"
    )]
    TooManyPieces {
        /// The backend's name.
        backend: String,
        /// The share.
        id: ShareId,
        /// Most pieces that an upload may have.
        most: usize,
    },
    /// There is no cloud of that name.
    #[error("there is no cloud {0:?}; `raic cloud list` shows all clouds")]
    NoCloud(String),
    /// A reload took the cloud out of the configuration while the operation went on.
    #[error("cloud {0:?} was taken out of config.toml meanwhile; try again")]
    Retired(String),
    /// The ids for Tahoe-LAFS clients belong to another cloud, or the cloud has other ones.
    #[error(
        "cloud {0:?} has other ids for Tahoe-LAFS clients already, or another cloud has these; they \
         never change, because clients have derived their secrets from them"
    )]
    TahoeIds(String),
    /// The cloud kept shares that stay, and is to forget them at each start.
    #[error(
        "cloud {0:?} has shares, and would forget them as a cloud in memory; give that cloud \
         another name"
    )]
    Forgets(String),
    /// There never was a cloud of that name.
    #[error("there never was a cloud {0:?} in this home")]
    NeverACloud(String),
    /// There is no such account.
    #[error(
        "there is no account {0:?}; `raic account list` shows all accounts, `raic account create` \
         makes one"
    )]
    NoAccount(String),
    /// The account is the program's own: nobody stores or changes anything in its name.
    #[error("account {0:?} is raic's own; name another one")]
    OwnAccount(String),
    /// There is already an account of that name.
    #[error("there is an account {0:?} already")]
    AccountExists(String),
    /// The text cannot be the name of an account.
    #[error("{0:?} cannot be an account's name: 1 to 64 of A-Z, a-z, 0-9, - _ . and @")]
    AccountName(String),
    /// The account is disabled and may not write.
    #[error("account {0:?} is disabled; `raic account enable` lets it write again")]
    AccountDisabled(String),
    /// The soft quota is above the hard quota.
    #[error(
        "account {account:?}: its soft quota of {soft} bytes is above its hard quota of {hard} \
         bytes, so it would never warn; lower the soft quota"
    )]
    Quotas {
        /// Name of the account.
        account: String,
        /// Soft quota, in bytes.
        soft: u64,
        /// Hard quota, in bytes.
        hard: u64,
    },
    /// An account has the most leases on a share that it can have.
    #[error(
        "the account has {most} leases on the share, the most that it can have; renew a lease by \
         its secret instead"
    )]
    TooManyLeases {
        /// Most leases that an account can have on a share.
        most: u64,
    },
    /// The account's hard quota does not hold the bytes.
    #[error(
        "account {account:?} may use {quota} bytes and uses {used}; this takes {asked} more; \
         remove files, or raise the quota with `raic account set {account} --hard`"
    )]
    QuotaExceeded {
        /// Name of the account.
        account: String,
        /// Hard quota, in bytes.
        quota: u64,
        /// Bytes that the account uses or has reserved.
        used: u64,
        /// Bytes that it asks for.
        asked: u64,
    },
}

impl StorageError {
    /// Returns whether a disk, a quota of the cloud, or the space that may be used is full.
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
