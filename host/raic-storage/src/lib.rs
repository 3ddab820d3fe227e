//! Storage servers: where shares are kept.
//!
//! A [`Backend`] keeps shares by storage index and share number. [`CloudBackend`] cuts them into chunks, objects
//! of a `Cloud`; [`DiskBackend`] keeps each as one file; [`MemoryBackend`] and [`NullBackend`] are for tests and
//! measurements. [`Database`] is the one database file, with the one writer that all floors share.
//!
//! **Invariant:** backends know neither files nor keys; a share is bytes. Array shares are immutable: written once,
//! from the beginning to the end, under a storage index that is never used twice.

mod backend;
mod cloud;
mod database;
mod disk;
mod memory;
mod name;
mod unusable;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use backend::{Backend, MAX_OBJECT, Result, ShareStream, ShareWriter, StorageError};
pub use cloud::{CloudBackend, DEFAULT_CHUNK_SIZE, chunk_size_for};
pub use database::{Database, DatabaseError};
pub use disk::DiskBackend;
pub use memory::{MemoryBackend, NullBackend};
pub use name::{ShareNum, StorageIndex};
pub use unusable::{Open, UnusableBackend};
