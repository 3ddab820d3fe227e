//! The trait [`Backend`] and its parts: [`ShareStore`] for immutable shares, [`MutableStore`] for
//! mutable ones, and [`Container`] for the container as a whole.

use std::{collections::BTreeSet, fmt, ops::Range, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::{
    Generation, Moment, RangeSet, Result, ShareId, ShareNum, Span, StorageIndex, StreamMemory,
};

/// The bytes of a share that is being read. The stream ends after exactly the requested bytes, or
/// with an error.
pub type ShareStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Length of the longest object beside shares, in bytes. Such an object is held whole when it is
/// read.
pub const MAX_OBJECT: u64 = 1 << 20;

/// The objects and bytes that a whole share is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Number of the share's objects. They will be removed by their names.
    pub objects: u64,
    /// Bytes of all these objects.
    pub bytes: u64,
}

/// The keyed hash of a write enabler. Clouds see only this hash, never the enabler.
pub type EnablerHash = [u8; 32];

/// The length and the write enabler of a mutable share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutableShare {
    /// Length of the share's content, in bytes.
    pub length: u64,
    /// Hash of the write enabler that a writer must have.
    pub enabler: EnablerHash,
}

/// A change of a mutable share.
#[derive(Clone, Debug, Default)]
pub struct MutableWrite {
    /// Bytes to write, each with its offset, in this order. A gap between the old end and an offset
    /// is filled with zeros.
    pub writes: Vec<(u64, Bytes)>,
    /// Length of the share afterwards, cut or extended with zeros. `None` keeps the length that the
    /// writes give it.
    pub new_length: Option<u64>,
    /// Hash of the write enabler. It is used only if this change makes the share.
    pub enabler: EnablerHash,
}

impl MutableWrite {
    /// Returns the length of a share of `before` bytes after the change, in bytes.
    pub fn length_after(&self, before: u64) -> u64 {
        let written = self.writes.iter().filter(|(_, bytes)| !bytes.is_empty());
        let written = written
            .map(|(offset, bytes)| offset.saturating_add(bytes.len() as u64))
            .max()
            .unwrap_or(0);
        self.new_length.unwrap_or(before.max(written))
    }
}

/// A share that a walk through a container found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundShare {
    /// The share.
    pub id: ShareId,
    /// The objects of the share that were found.
    pub found: Found,
    /// The moment at which the newest of these objects was written, in milliseconds since 1970;
    /// `None` if the container does not report it.
    pub newest: Option<Moment>,
}

/// The objects of a share that a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Chunks of an immutable share, or a file.
    Immutable {
        /// Numbers of the chunks.
        chunks: RangeSet,
        /// Bytes of chunk 0, and of every chunk but the last; 0 if chunk 0 was not found.
        chunk_size: u64,
        /// Bytes of all chunks together.
        bytes: u64,
    },
    /// Commits and chunks of a mutable share.
    Mutable {
        /// Generations of the commits.
        commits: BTreeSet<Generation>,
        /// Numbers of the chunks, each with the generation that wrote it.
        chunks: BTreeSet<(u64, Generation)>,
    },
}

/// The state of a mutable share according to a complete listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// The share is whole, in its newest whole version.
    Whole(MutableShare),
    /// The share was deleted, or never committed. The objects that are left of it will be removed.
    Deleted,
    /// No version of the share is whole. Holds the name of an object that is missing and would make
    /// a version whole, or `None` if no such object is known because a commit cannot be read.
    Torn(Option<String>),
}

impl Found {
    /// Describes a share that is one file of `bytes` bytes.
    pub fn file(bytes: u64) -> Self {
        Self::Immutable {
            chunks: std::iter::once(0..1).collect(),
            chunk_size: bytes,
            bytes,
        }
    }
}

/// Immutable shares. A share is written once and may be read any number of times.
///
/// Every method may be cancelled by dropping its future. Then a part of a share may be left, which
/// [`ShareStore::remove`] clears.
#[async_trait]
pub trait ShareStore: Send + Sync + fmt::Debug {
    /// Begins a share, whose writer takes what it holds from `memory`. The share does not exist
    /// before [`ShareWriter::finish`] returns. A share that is sent again, because a part of it
    /// failed, gets the same memory, so that its chunks are the same.
    async fn create(&self, id: ShareId, memory: Arc<StreamMemory>) -> Result<Box<dyn ShareWriter>>;

    /// Begins or continues a share of `length` bytes that is written in any order. `received` has
    /// the ranges that were written before, as the caller recorded them. It is empty for a new
    /// share.
    async fn upload(
        &self,
        id: ShareId,
        length: u64,
        received: RangeSet,
    ) -> Result<Box<dyn ShareUpload>>;

    /// Reads a part of a share. The memory that this takes is bounded, whatever the part's length.
    ///
    /// # Errors
    /// Fails with [`crate::StorageError::NotFound`] if the share or a piece of it does not exist,
    /// and with [`crate::StorageError::Short`] if it ends before the range does. The stream may
    /// also end with either error.
    async fn read(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream>;

    /// Takes note of what is recorded of a whole share. So a backend need not ask for it when the
    /// share is read.
    fn remember(&self, id: ShareId, stored: Stored) {
        let _ = (id, stored);
    }

    /// Lists the shares of a storage index, in the order of share numbers. A backend may include
    /// shares that are not whole.
    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>>;

    /// Removes an immutable share, whole or in part. Removing a share that does not exist succeeds.
    ///
    /// `objects` is the number that [`ShareWriter::finish`] returned: that many objects are removed
    /// by their names, whatever a listing shows. It is `None` if the share was not finished. Then
    /// the objects that an upload is known to have sent are removed by their names, and so are
    /// those that a listing shows. In a cloud, nothing of a mutable share is removed. After the
    /// last removal the caller calls [`ShareStore::forget_upload`].
    async fn remove(&self, id: ShareId, objects: Option<u64>) -> Result<()>;

    /// Removes some chunks of an immutable share by their names, in order. They are a part of a
    /// large deletion, or leftovers of an older upload beyond the share's end.
    async fn remove_chunks(&self, _: ShareId, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// Returns the length of a chunk of an immutable share, in bytes. The chunk is looked up by its
    /// name; `None` means that it certainly does not exist. This decides whether a share is whole,
    /// whatever a listing shows.
    ///
    /// # Errors
    /// Fails if the cloud or disk gives no certain answer. One reason is that the owner object is
    /// missing: then the container may be another one.
    async fn chunk_length(&self, id: ShareId, chunk: u64) -> Result<Option<u64>>;

    /// Removes what an upload by offset needed to continue. The caller calls it after the upload
    /// was recorded as complete, or after its remains were removed.
    async fn forget_upload(&self, _: ShareId) -> Result<()> {
        Ok(())
    }

    /// Returns a unit in bytes: every chunk of an immutable share but the last is a multiple of it.
    /// So a share's only chunk shows by its length whether it was filled.
    fn chunk_unit(&self) -> u64 {
        crate::cloud::CHUNK_UNIT as u64
    }

    /// Returns whether a deletion may take effect again after it was answered, because an earlier
    /// attempt that was given up may still land.
    fn deletions_may_land(&self) -> bool {
        false
    }
}

/// Mutable shares, whose versions replace each other whole or not at all (decision 0004).
///
/// Every method may be cancelled by dropping its future. Then the share has its old or its new
/// content.
#[async_trait]
pub trait MutableStore: Send + Sync + fmt::Debug {
    /// Reads the state of a mutable share; `None` if the share does not exist. A write whose
    /// outcome is unknown, after a crash or a missing answer, is settled first.
    ///
    /// # Errors
    /// Fails with [`crate::StorageError::NotKnown`] if that write cannot be settled yet.
    async fn state(&self, id: ShareId) -> Result<Option<MutableShare>>;

    /// Reads a part of a mutable share. The part is cut at the share's end.
    ///
    /// # Errors
    /// Fails as [`ShareStore::read`] and [`MutableStore::state`] do.
    async fn read_mutable(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream>;

    /// Makes a change of a mutable share, whole or not at all. A share that does not exist is made.
    /// Returns the share's new length in bytes.
    ///
    /// # Errors
    /// Fails with [`crate::StorageError::NotKnown`] if the change may still take effect,
    /// [`crate::StorageError::Busy`] if another writer was faster, and
    /// [`crate::StorageError::PastEnd`] if the share would be longer than a share can be.
    async fn write_mutable(&self, id: ShareId, write: MutableWrite) -> Result<u64>;

    /// Deletes a mutable share. [`MutableStore::tidy_mutable`] removes its remains.
    ///
    /// # Errors
    /// Fails as [`MutableStore::write_mutable`] does.
    async fn delete_mutable(&self, id: ShareId) -> Result<()>;

    /// Removes the remains of a mutable share's earlier versions whose rest has ended. Returns
    /// whether the share was deleted and nothing of it is left.
    async fn tidy_mutable(&self, id: ShareId) -> Result<bool>;

    /// Lists the mutable shares of which [`MutableStore::tidy_mutable`] may remove something by
    /// now, up to `limit`.
    async fn untidy_mutable(&self, limit: u32) -> Result<Vec<ShareId>>;

    /// Compares a mutable share with the objects that a complete listing found of it. If the
    /// database was lost, the newest whole version becomes current, and the share is read-only
    /// until a later listing shows the same. [`MutableStore::tidy_mutable`] removes objects that no
    /// version names, such as late ones of an older host.
    async fn recover_mutable(&self, id: ShareId, found: &Found) -> Result<Recovered>;

    /// Forgets mutable shares of a span after a complete listing. They are known from an earlier
    /// listing only, are not in `listed`, and are not found by their names either.
    async fn forget_unlisted(&self, _: Span, _: BTreeSet<ShareId>) -> Result<()> {
        Ok(())
    }

    /// Gives up a mutable share of which no version is or will be whole.
    /// [`MutableStore::tidy_mutable`] removes its remains.
    async fn give_up_mutable(&self, _: ShareId, _: &Found) -> Result<()> {
        Ok(())
    }

    /// Returns the name of an object that a mutable share's current version lacks: a walk did not
    /// find it, and it is not found by its name either. Returns `None` if the version is whole.
    async fn lacks_mutable(&self, id: ShareId, found: &Found) -> Result<Option<String>>;
}

/// The container as a whole: its shares, its owner, and the small objects beside the shares.
#[async_trait]
pub trait Container: Send + Sync + fmt::Debug {
    /// Finds all shares within a span, by a complete listing of at most `most` objects.
    ///
    /// # Errors
    /// Fails if the listing breaks off or has more objects than `most`. Then nothing is known.
    async fn scan(&self, span: Span, most: u64) -> Result<Vec<FoundShare>>;

    /// Removes the files that unfinished writes left beside the shares and that were not changed
    /// since `before_ms`, in milliseconds since 1970. Returns the number of these files.
    async fn sweep(&self, _before: Moment) -> Result<u64> {
        Ok(0)
    }

    /// Sets whether the container may be written to. While it may not, a write whose outcome is
    /// unknown is not settled, because that could need a new commit.
    fn set_writable(&self, _: bool) {}

    /// Sets the name of the owner object below `raic/`. Only while it can be read, a not-found
    /// counts. With `None`, every not-found counts.
    fn set_owner(&self, object: Option<String>);

    /// Stores a small object that is not a share, such as the keyring, under `raic/NAME`. It
    /// replaces an older object of that name.
    async fn store_object(&self, name: &str, content: Bytes) -> Result<()>;

    /// Reads the object that [`Container::store_object`] stored under that name; `None` if there is
    /// none.
    ///
    /// # Errors
    /// Fails if the cloud or disk does, or if the object is longer than [`MAX_OBJECT`].
    async fn load_object(&self, name: &str) -> Result<Option<Bytes>>;

    /// Lists the names of all objects beside shares that begin with `prefix`.
    ///
    /// # Errors
    /// Fails if the listing breaks off, or has more objects than were ever stored. Then nothing is
    /// known.
    async fn objects(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes the object that [`Container::store_object`] stored under that name. Removing an
    /// object that does not exist succeeds.
    async fn remove_object(&self, name: &str) -> Result<()>;

    /// Returns the number of bytes that may still be written; `None` if it is not known, as in a
    /// cloud.
    async fn available_space(&self) -> Result<Option<u64>>;

    /// Proves as cheaply as possible that shares can be kept here.
    async fn probe(&self) -> Result<()>;
}

/// A place where a storage server keeps shares.
pub trait Backend: ShareStore + Container {
    /// The configured name of the cloud, for messages.
    fn name(&self) -> &str;

    /// The mutable shares, if the backend keeps any.
    fn mutable_store(&self) -> Option<&dyn MutableStore>;
}

/// Returns the mutable shares of a backend that must keep some.
///
/// # Errors
/// Fails with [`crate::StorageError::Unsupported`] if the backend keeps none.
pub(crate) fn mutable_store(backend: &dyn Backend) -> Result<&dyn MutableStore> {
    backend
        .mutable_store()
        .ok_or_else(|| crate::StorageError::Unsupported {
            backend: backend.name().to_owned(),
            what: "mutable shares",
        })
}

/// A share that is being written from its beginning to its end.
///
/// Dropping the writer abandons the share. The parts that were written stay until the share is
/// removed.
#[async_trait]
pub trait ShareWriter: Send {
    /// Adds bytes to the share. Returns when there is room for more: this is the back-pressure.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the share durable and visible.
    async fn finish(self: Box<Self>) -> Result<Stored>;
}

/// A share of known length that is being written in any order.
///
/// Dropping the upload loses no bytes for which a write has returned. [`ShareStore::upload`]
/// continues it.
#[async_trait]
pub trait ShareUpload: Send {
    /// Writes bytes at an offset that was not written before. They are durable when this returns.
    async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()>;

    /// Reads bytes that were written before.
    async fn read_back(&mut self, range: Range<u64>) -> Result<Bytes>;

    /// Returns whether a request of the upload was given up that may still land.
    fn may_land(&self) -> bool {
        false
    }

    /// Returns whether anything of the upload may be in the container. If not, an upload that is
    /// given up leaves nothing to delete.
    fn has_sent(&self) -> bool {
        true
    }

    /// Makes the share visible, after all of it was written. Calling it again after a crash does
    /// the same. Then the caller calls [`ShareStore::forget_upload`].
    async fn finish(self: Box<Self>) -> Result<Stored>;
}
