//! The trait.

use std::{collections::BTreeSet, fmt, ops::Range, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::{Generation, RangeSet, Result, ShareNum, Span, StorageIndex};

/// Bytes of a share on their way out. Ends after exactly those asked for, or with an error.
pub type ShareStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The longest object beside shares, in bytes: those that are read are held whole.
pub const MAX_OBJECT: u64 = 1 << 20;

/// What a share is kept in, once it is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Objects, by whose names it will be removed.
    pub objects: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// The keyed hash of a write enabler: clouds never see the enabler.
pub type EnablerHash = [u8; 32];

/// What is known of a mutable share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutableShare {
    /// Its bytes.
    pub length: u64,
    /// Who may write to it.
    pub enabler: EnablerHash,
}

/// A change of a mutable share.
#[derive(Clone, Debug, Default)]
pub struct MutableWrite {
    /// What is written where, in order; what lies between its old end and there becomes zeros.
    pub writes: Vec<(u64, Bytes)>,
    /// Its length afterwards: cut, or extended with zeros.
    pub new_length: Option<u64>,
    /// Who may write to it, where it is made now.
    pub enabler: EnablerHash,
}

impl MutableWrite {
    /// How long a share of `before` bytes is after the change.
    pub fn length_after(&self, before: u64) -> u64 {
        let written = self.writes.iter().filter(|(_, bytes)| !bytes.is_empty());
        let written = written
            .map(|(at, bytes)| at.saturating_add(bytes.len() as u64))
            .max()
            .unwrap_or(0);
        self.new_length.unwrap_or(before.max(written))
    }
}

/// A share that a walk through a container found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundShare {
    /// Whose.
    pub index: StorageIndex,
    /// Which.
    pub share: ShareNum,
    /// What there is of it.
    pub found: Found,
    /// When the newest of it was written, in milliseconds since 1970, as far as the container
    /// tells.
    pub newest_ms: Option<i64>,
}

/// What there is of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Chunks of an immutable share, or a file.
    Immutable {
        /// Their numbers.
        chunks: RangeSet,
        /// Bytes of chunk 0, which all but the last have; 0 where it is not there.
        chunk_size: u64,
        /// Bytes of all.
        bytes: u64,
    },
    /// Of a mutable share.
    Mutable {
        /// Its commits.
        commits: BTreeSet<Generation>,
        /// Its chunks.
        chunks: BTreeSet<(u64, Generation)>,
    },
}

/// What a complete listing makes of a mutable share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Its newest whole version.
    Whole(MutableShare),
    /// It was deleted, or never committed: what is there of it goes.
    Deleted,
    /// No version is whole. With an object that is not found by its name and would make one so;
    /// none where that cannot be told, because a commit cannot be read.
    Torn(Option<String>),
}

impl Found {
    /// A share that is one file.
    pub fn file(bytes: u64) -> Self {
        Self::Immutable {
            chunks: std::iter::once(0..1).collect(),
            chunk_size: bytes,
            bytes,
        }
    }
}

/// Where a storage server keeps shares.
///
/// Every method may be cancelled by dropping its future; then a share may be there in part, for
/// `remove` to clear, and a mutable share has its old or its new content.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// The configured name, as in messages.
    fn name(&self) -> &str;

    /// Begins a share. It is not there before [`ShareWriter::finish`] returns.
    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>>;

    /// Begins, or goes on with, a share of `length` bytes that is written in any order. `received`
    /// is what was written before, as the one who asks has recorded it; nothing where it begins.
    async fn upload(
        &self,
        index: StorageIndex,
        share: ShareNum,
        length: u64,
        received: RangeSet,
    ) -> Result<Box<dyn ShareUpload>>;

    /// Reads a part of a share. Memory is bounded whatever the part's length.
    ///
    /// # Errors
    /// [`crate::StorageError::NotFound`] where the share or a piece of it is not there,
    /// [`crate::StorageError::Short`] where it ends before the range does; either may also come out
    /// of the stream.
    async fn read(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream>;

    /// The shares there are of a storage index, in order; also those that are there in part.
    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>>;

    /// Removes a share, or what there is of it. Removing what is not there succeeds.
    ///
    /// `objects` is what [`ShareWriter::finish`] told: so many are removed by their names, whatever
    /// a listing shows. None where it did not finish: then what an upload is known to have sent is
    /// removed by its names, and what a listing shows of the share. Of a mutable share nothing is.
    /// Once no more is to be removed, [`Backend::forget_upload`] follows.
    async fn remove(
        &self,
        index: StorageIndex,
        share: ShareNum,
        objects: Option<u64>,
    ) -> Result<()>;

    /// Removes some chunks of an immutable share by their names: those beyond its end, which an
    /// older upload left.
    async fn remove_chunks(&self, _: StorageIndex, _: ShareNum, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// The bytes of an immutable share's chunk, by its name; `None` if it is not there, which is
    /// certain. It decides over the share's wholeness, whatever a listing says.
    ///
    /// # Errors
    /// Where it cannot be told, also because the container is not the one it was.
    async fn chunk_length(
        &self,
        index: StorageIndex,
        share: ShareNum,
        chunk: u64,
    ) -> Result<Option<u64>>;

    /// What is known of a mutable share; none where there is none. A write that a crash or silence
    /// left open is settled first.
    ///
    /// # Errors
    /// [`crate::StorageError::NotKnown`] where it cannot be settled yet.
    async fn mutable(&self, index: StorageIndex, share: ShareNum) -> Result<Option<MutableShare>>;

    /// Reads a part of a mutable share, cut at its end.
    ///
    /// # Errors
    /// As [`Backend::read`] and [`Backend::mutable`].
    async fn read_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream>;

    /// Changes a mutable share, whole or not at all; makes it where it is not there. Returns its
    /// length.
    ///
    /// # Errors
    /// [`crate::StorageError::NotKnown`] where it may still come to be done,
    /// [`crate::StorageError::Busy`] where another was faster, [`crate::StorageError::PastEnd`]
    /// where it would be longer than a share can be.
    async fn write_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        write: MutableWrite,
    ) -> Result<u64>;

    /// Deletes a mutable share. What is left of it goes with [`Backend::tidy_mutable`].
    ///
    /// # Errors
    /// As [`Backend::write_mutable`].
    async fn delete_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<()>;

    /// Removes what earlier versions of a mutable share left and what may be removed by now.
    /// Returns whether nothing is left of a share that was deleted.
    async fn tidy_mutable(&self, index: StorageIndex, share: ShareNum) -> Result<bool>;

    /// Mutable shares that have something [`Backend::tidy_mutable`] may remove by now, up to
    /// `limit`.
    async fn untidy_mutable(&self, limit: u32) -> Result<Vec<(StorageIndex, ShareNum)>>;

    /// Compares a mutable share with what a complete listing found of it. Where the database was
    /// lost, the newest whole version is taken, and the share is read-only until the next listing
    /// shows the same. What no version names, such as what an older host sent late, goes with
    /// [`Backend::tidy_mutable`].
    async fn recover_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<Recovered>;

    /// After a complete listing: what is known of mutable shares by an earlier listing only,
    /// `listed` does not have, and is not found by its name either, is forgotten.
    async fn forget_unlisted(&self, _: Span, _: BTreeSet<(StorageIndex, ShareNum)>) -> Result<()> {
        Ok(())
    }

    /// A mutable share of which no version is whole, and none will be: what is there of it goes
    /// with [`Backend::tidy_mutable`].
    async fn give_up_mutable(&self, _: StorageIndex, _: ShareNum, _: &Found) -> Result<()> {
        Ok(())
    }

    /// All shares within a span, by a complete listing of `most` objects and no more.
    ///
    /// # Errors
    /// Where it cannot be had to its end, or has more: then nothing is known.
    async fn scan(&self, span: Span, most: u64) -> Result<Vec<FoundShare>>;

    /// An object of a mutable share's current version that a walk did not find and that is not
    /// found by its name either; none where all are there.
    async fn lacks_mutable(
        &self,
        index: StorageIndex,
        share: ShareNum,
        found: &Found,
    ) -> Result<Option<String>>;

    /// Removes what unfinished writes left beside the shares and nobody touched since `before_ms`,
    /// in milliseconds since
    /// 1970. Returns how much there was.
    async fn sweep(&self, _before_ms: i64) -> Result<u64> {
        Ok(0)
    }

    /// An upload by offset is complete, and recorded to be, or what it left has gone: what it
    /// needed to go on goes.
    async fn forget_upload(&self, _: StorageIndex, _: ShareNum) -> Result<()> {
        Ok(())
    }

    /// Bytes of which every chunk of an immutable share is a multiple, but for a share's last: so a
    /// share's only chunk tells whether it was filled.
    fn chunk_unit(&self) -> u64 {
        crate::cloud::CHUNK_UNIT as u64
    }

    /// Whether a deletion that was answered may be done once more later, by an attempt that was
    /// given up before.
    fn deletions_may_land(&self) -> bool {
        false
    }

    /// Whether the container may be written to. Where it may not, a write that was left open stays
    /// so: settling it could take a new commit.
    fn set_writable(&self, _: bool) {}

    /// Names the object below `raic/` that, when it can be read, proves that a not-found is one.
    fn set_owner(&self, object: Option<String>);

    /// Keeps a small object that is no share, such as the keyring, whole under `raic/NAME`,
    /// replacing the one there.
    async fn store_object(&self, name: &str, content: Bytes) -> Result<()>;

    /// The object that [`Backend::store_object`] keeps under that name; none where there is none.
    ///
    /// # Errors
    /// Also where it is longer than [`MAX_OBJECT`].
    async fn load_object(&self, name: &str) -> Result<Option<Bytes>>;

    /// The names of the objects beside shares that begin so, all of them.
    ///
    /// # Errors
    /// Where there are more than ever were stored: then nothing is known.
    async fn objects(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes the object that [`Backend::store_object`] keeps under that name. Removing what is
    /// not there succeeds.
    async fn remove_object(&self, name: &str) -> Result<()>;

    /// Bytes that may still be written; none where there is no telling, as in a cloud.
    async fn available_space(&self) -> Result<Option<u64>>;

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

    /// Makes the share durable, and visible.
    async fn finish(self: Box<Self>) -> Result<Stored>;
}

/// A share of known length being written in any order.
///
/// Dropping it loses nothing that a write returned for: [`Backend::upload`] goes on with it.
#[async_trait]
pub trait ShareUpload: Send {
    /// Writes bytes that were not written before. They are durable when it returns.
    async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()>;

    /// Bytes that were written before.
    async fn read_back(&mut self, range: Range<u64>) -> Result<Bytes>;

    /// Whether a request was given up that may still land.
    fn may_land(&self) -> bool {
        false
    }

    /// All was written: makes the share visible. Once more after a crash it does the same; then
    /// comes [`Backend::forget_upload`].
    async fn finish(self: Box<Self>) -> Result<Stored>;
}
