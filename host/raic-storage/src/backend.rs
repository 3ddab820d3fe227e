//! The trait, and what goes wrong.

use std::{fmt, io, ops::Range, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use raic_cloud::CloudError;

use crate::{ShareNum, StorageIndex};

/// Shorthand for results of storage operations.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// Bytes of a share on their way out. Ends after exactly those asked for, or with an error.
pub type ShareStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The longest object beside shares, in bytes: those that are read are held whole.
pub const MAX_OBJECT: u64 = 1 << 20;

/// Where a storage server keeps shares.
///
/// Every method may be cancelled by dropping its future; then a share may be there in part, for `remove` to clear.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// The configured name, as in messages.
    fn name(&self) -> &str;

    /// Begins a share. It is not there before [`ShareWriter::finish`] returns.
    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>>;

    /// Reads a part of a share. Memory is bounded whatever the part's length.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] where the share or a piece of it is not there, [`StorageError::Short`] where it
    /// ends before the range does; either may also come out of the stream.
    async fn read(&self, index: StorageIndex, share: ShareNum, range: Range<u64>) -> Result<ShareStream>;

    /// The shares there are of a storage index, in order; also those that are there in part.
    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>>;

    /// Removes a share, or what there is of it. Removing what is not there succeeds.
    ///
    /// `objects` is what [`ShareWriter::finish`] told: so many are removed by their names, whatever a listing shows. None
    /// where it did not finish: then what a listing shows of the share is removed.
    async fn remove(&self, index: StorageIndex, share: ShareNum, objects: Option<u64>) -> Result<()>;

    /// Keeps a small object that is no share, such as the keyring, whole under `raic/NAME`, replacing the one there.
    async fn store_object(&self, name: &str, content: Bytes) -> Result<()>;

    /// The object that [`Backend::store_object`] keeps under that name; none where there is none.
    ///
    /// # Errors
    /// Also where it is longer than [`MAX_OBJECT`].
    async fn load_object(&self, name: &str) -> Result<Option<Bytes>>;

    /// The cheapest proof that shares can be kept here.
    async fn probe(&self) -> Result<()>;
}

/// A share being written, from its beginning to its end.
///
/// Dropping it abandons the share; what was written stays until it is removed.
#[async_trait]
pub trait ShareWriter: Send {
    /// Adds bytes. Returns when there is room for more: this is the back-pressure.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the share durable, and visible. Returns how many objects it is kept in.
    async fn finish(self: Box<Self>) -> Result<u64>;
}

/// What can go wrong at a storage server.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A cloud's own word.
    #[error(transparent)]
    Cloud(#[from] CloudError),
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
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on that disk",
        io::ErrorKind::PermissionDenied => "; let the user who runs raic read and write that folder",
        io::ErrorKind::ReadOnlyFilesystem => "; mount that disk for writing",
        _ => "",
    }
}
