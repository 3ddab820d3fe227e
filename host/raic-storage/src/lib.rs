//! Storage servers keep shares, and the leases that keep them from collection.
//!
//! A [`Backend`] keeps shares by storage index and share number. [`CloudBackend`] cuts them into
//! chunks, which are objects of a `Cloud`. [`DiskBackend`] keeps each share as one file.
//! [`MemoryBackend`] and [`NullBackend`] are for tests and measurements. [`LeaseDb`] records which
//! shares exist, which accounts hold leases on them, and the space that accounts use. A
//! [`StorageServer`] is a backend with its leases. [`Database`] is the one database file, with the
//! one writer that all floors share.
//!
//! **Invariant:** backends know neither files nor keys. A share is bytes.
//!
//! **Invariant:** an immutable share is written once, under a name that gets no other bytes while a
//! request for it may still land. Mutable shares follow decision 0004.
//!
//! ```
//! use std::sync::Arc;
//!
//! use futures::TryStreamExt as _;
//! use raic_cloud::MemoryCloud;
//! use raic_storage::{
//!     ChunkBudget, CloudBackend, ShareId, ShareNum, ShareStore, StorageIndex, StreamMemory,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Shares in a cloud, cut into chunks of four bytes.
//! let cloud = Arc::new(MemoryCloud::new("memory"));
//! let backend = CloudBackend::new(cloud.clone(), 4, ChunkBudget::default());
//! let id = ShareId { index: StorageIndex([7; 16]), share: ShareNum(0) };
//! let mut writer = backend.create(id, StreamMemory::of_one()).await?;
//! writer.write("a share".into()).await?;
//! assert_eq!(writer.finish().await?.objects, 2);
//!
//! let read = backend.read(id, 2..7).await?;
//! assert_eq!(read.try_collect::<Vec<_>>().await?.concat(), b"share");
//! # Ok(())
//! # }
//! ```

mod backend;
mod budget;
mod chunk_upload;
mod chunk_writer;
mod clock;
mod cloud;
mod collector;
mod commit;
mod database;
mod disk;
mod error;
mod examine;
pub mod inspect;
mod leasedb;
mod listing;
mod memory;
mod moment;
mod mutable;
mod name;
mod object;
mod owner;
mod range_set;
mod read_ahead;
mod read_test_write;
mod reconcile;
mod recovery;
mod server;
mod share_header;
mod spool;
mod stream_memory;
mod supervisor;
mod tahoe_file;
mod transfer;
mod unusable;
mod uploads;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use backend::{
    Backend, Container, EnablerHash, Found, FoundShare, MAX_OBJECT, MutableShare, MutableStore,
    MutableWrite, Recovered, ShareStore, ShareStream, ShareUpload, ShareWriter, Stored,
};
pub use budget::{ChunkBudget, Reserved};
pub use clock::Clock;
pub use cloud::{CloudBackend, DEFAULT_CHUNK_SIZE, chunk_size_for};
pub use collector::Collected;
pub use database::{Database, DatabaseError};
pub use disk::DiskBackend;
pub use error::{Result, StorageError};
pub use leasedb::{
    Account, AccountChange, AccountId, Allocated, Allocation, Attempt, Coming, Event, EventKind,
    Expiry, FirstLease, Going, GracePeriods, Identity, LateRequests, LeaseDb, LeaseInfo, MAX_SHARE,
    NewEvent, Pin, Pins, Placed, Remains, RenewSecret, Retired, Run, ServerId, ServerShares,
    ShareKind, ShareRow, ShareState, Slots, Suspect, Suspicion, TahoeIds, Upload, UploadSecret,
    Usage, UsageDay, Used, WriteEnabler, placed, server_id, server_name,
};
pub use memory::{MemoryBackend, NullBackend};
pub use moment::Moment;
pub use mutable::MUTABLE_CHUNK_SIZE;
pub use name::{IndexPrefix, ShareId, ShareNum, Span, StorageIndex};
pub use object::Generation;
pub use owner::{IssuedRuns, Owner, Ownership};
pub use range_set::RangeSet;
pub use read_test_write::{MAX_MUTABLE, MAX_VECTOR, ReadTestWritten, TestWrite};
pub use reconcile::Reconciled;
pub use server::{Condition, Cost, Hold, Holds, ServerSettings, StorageServer, Weight};
pub use share_header::ShareHeader;
pub use spool::Spool;
pub use stream_memory::{LEAST_CHUNK, StreamMemory};
pub use supervisor::Supervisor;
pub use tahoe_file::{FileKind, FileLease, NotAShareFile, ShareFile};
pub use transfer::{Exported, Imported};
pub use unusable::{Open, UnusableBackend};
pub use uploads::{SharePart, Written};
