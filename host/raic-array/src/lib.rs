//! The array: files, encrypted and erasure-coded over storage servers of which any n-k may fail.
//!
//! [`Array`] stores, reads, lists and removes files over storage servers, one for each cloud. On
//! the way down a file passes `ingest` (cut into extents and segments), `sealer`, `encoder` and
//! `share_hasher` (sealed, coded, hashed), `share_upload` (to all clouds at once) and `catalog`
//! (one transaction). On the way up, `share_reader` reads blocks of one share and can judge them,
//! `read` takes them from the k fastest clouds, and `reader` hands them on. `class` says how new
//! files are stored, and `place` where. `format` describes the bytes of a share.
//!
//! **Invariant:** a byte that goes out was verified by its segment's seal. Only if a
//! seal does not open, blocks are judged by their hashes, which name the cloud that lied.
//!
//! **Invariant:** no file and no share is ever held whole.
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use futures::{TryStreamExt as _, stream};
//! use raic_array::{
//!     Array, ArrayConfig, Class, Classes, DEFAULT_BUCKET, FileName, Geometry, Keyring, MAX_STREAM,
//!     Padding, PutOptions, RecoveryKey, Transfer,
//! };
//! use raic_cloud::MemoryCloud;
//! use raic_storage::{CloudBackend, DEFAULT_CHUNK_SIZE, ServerSettings, StorageServer};
//! # use raic_storage::{ChunkBudget, Clock, Database, GracePeriods, Holds, LeaseDb, Owner};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let database = Database::open(&home.path().join("raic.db"))?;
//! # let leasedb = LeaseDb::open(database, Clock::system(), GracePeriods::default()).await?;
//! # let (holds, budget) = (Holds::default(), ChunkBudget::default());
//! # let read_budget = ChunkBudget::new(ArrayConfig::READ_MEMORY);
//! # let keyring = Keyring::generate()?;
//! # let sealed_keyring = Bytes::from(keyring.seal(&RecoveryKey::generate()?)?);
//! # let (array, key, identity) = (keyring.array, keyring.owner_key(), leasedb.identity().await?);
//! # let owner = Owner { array, key, identity };
//! // Four clouds in memory, each with its storage server.
//! let clouds = ["a", "b", "c", "d"].map(|name| Arc::new(MemoryCloud::new(name)));
//! let mut servers = Vec::new();
//! for cloud in &clouds {
//!     let backend = CloudBackend::new(cloud.clone(), DEFAULT_CHUNK_SIZE, budget.clone());
//!     let (backend, settings) = (Arc::new(backend), ServerSettings::default());
//!     let (leasedb, owner, holds) = (leasedb.clone(), owner.clone(), holds.clone());
//!     let server = StorageServer::open(backend, leasedb, owner, settings, holds).await?;
//!     servers.push(Arc::new(server));
//! }
//! // Any two of four shares give a file back. A write is acknowledged if one more may be lost.
//! let classes = Classes::one(Class {
//!     geometry: Geometry { k: 2, n: 4 }, survive: 1, padding: Padding::Padme,
//!     segment_size: Class::SEGMENT_SIZE,
//! })?;
//! let array = Array::open(ArrayConfig {
//!     classes, extent_size: MAX_STREAM, patience: ArrayConfig::PATIENCE, keyring,
//!     sealed_keyring, servers, leasedb, holds, budget, read_budget,
//! }).await?;
//!
//! let content = Bytes::from_static(b"a file over four clouds");
//! let pieces = stream::iter([Ok::<_, String>(content.clone())]);
//! let name = FileName { bucket: DEFAULT_BUCKET.to_owned(), name: "file".to_owned() };
//! array.put(&name, pieces, PutOptions::default()).await?;
//! // Two clouds lose everything. The other two give the file back.
//! clouds[..2].iter().for_each(|cloud| cloud.wipe());
//! let (_, _, read) = array.get(&name, None, Transfer::default()).await?;
//! assert_eq!(read.try_collect::<Vec<_>>().await?.concat(), content);
//! # Ok(())
//! # }
//! ```

mod array;
mod catalog;
mod class;
mod codec;
mod encoder;
mod error;
pub mod format;
mod galois;
mod health;
mod ingest;
mod keyring;
mod keyring_copies;
mod manifest;
mod pace;
mod place;
mod read;
mod read_ahead;
mod reader;
mod recovery_key;
mod sealer;
mod share_hasher;
mod share_reader;
mod share_rebuild;
mod share_upload;
mod transfer;
mod upload;
mod upload_memory;
#[cfg(test)]
mod vectors;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use array::{Array, ArrayConfig, ClassState, CloudState, PutOptions, Status};
pub use catalog::{
    BucketInfo, DEFAULT_BUCKET, Details, FileInfo, FileName, FileVersion, Lacking, ListPage,
    ListRequest, Listed, Replace, Totals, VersionId, Versioning,
};
pub use class::{Class, Classes, STANDARD_CLASS};
pub use error::{ArrayError, Fault, Result};
pub use format::{Geometry, MAX_STREAM, Padding};
pub use health::{LastFailure, Work};
pub use keyring::{Identity, Key, Keyring};
pub use keyring_copies::keep_keyring_copies;
pub use read::Content;
pub use reader::READER_PATIENCE;
pub use recovery_key::RecoveryKey;
pub use transfer::Transfer;
