//! The spool: files below the home in which parts of uploads wait until they fill a chunk for the
//! cloud. Only the home's owner can read them.
//!
//! A file begins with the number of chunks that went out already and the size of a chunk, 8 bytes
//! each, big-endian. From offset 4096 on it has the share's bytes at their places. After a chunk
//! went out and the count is durable, the chunk is cut out of the file. So each byte is in the
//! spool or in the cloud.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cap_std::{
    ambient_authority,
    fs::{Dir, MetadataExt as _, OpenOptions},
};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::sync::Semaphore;

use crate::{RangeSet, Result, ShareId, StorageError};

/// Offset in a spool file at which the share's bytes begin.
const DATA: u64 = 4096;
/// How long a write waits for room in the spool before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads a big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// A bounded folder of upload parts. Clones share its room.
#[derive(Clone, Debug)]
pub struct Spool {
    root: Arc<Dir>,
    path: Arc<PathBuf>,
    room: Arc<Semaphore>,
    /// Bytes of room that each file takes that no upload has opened since the start, by the file's
    /// name. A blocking lock: held only while a number is moved.
    lying: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Spool {
    /// Takes up to `bytes` of room without waiting. Returns the bytes that it took.
    fn take(&self, bytes: u64) -> u64 {
        // A semaphore gives at most 4 GiB at once.
        let mut taken = 0;
        while taken < bytes {
            let some = (bytes - taken)
                .min(self.room.available_permits() as u64)
                .min(u64::from(u32::MAX));
            match self
                .room
                .try_acquire_many(u32::try_from(some).unwrap_or(u32::MAX))
            {
                Ok(permit) if some > 0 => permit.forget(),
                _ => break,
            }
            taken += some;
        }
        taken
    }

    fn lying(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.lying.lock()
    }

    /// Gives back the room of a file that no upload has opened since the start.
    fn stand_up(&self, name: &str) {
        if let Some(bytes) = self.lying().remove(name) {
            self.room.add_permits(usize::try_from(bytes).unwrap_or(0));
        }
    }

    /// Opens the folder at `path` for up to `bytes` of parts, and makes it if it does not exist.
    /// Blocks the thread.
    ///
    /// # Errors
    /// Fails with the filesystem's error if the folder cannot be made or opened.
    pub fn open(path: &Path, bytes: u64) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        let root = Dir::open_ambient_dir(path, ambient_authority())?;
        let bytes = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Ok(Self {
            root: Arc::new(root),
            path: Arc::new(path.to_owned()),
            room: Arc::new(Semaphore::new(bytes)),
            lying: Arc::default(),
        })
    }

    /// Returns the name of an upload's file, made of the cloud's configured name and the share.
    pub fn name(cloud: &str, id: ShareId) -> String {
        let ShareId { index, share } = id;
        format!("{cloud}.{index}.{share}")
    }

    /// Removes the files that a crash left behind: those whose name `lives` does not accept. The
    /// other files take their room. Blocks the thread.
    ///
    /// # Errors
    /// Fails with the filesystem's error if a file cannot be looked up or removed.
    pub fn tidy(&self, lives: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in self.root.entries()? {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_str().filter(|name| lives(name)) {
                // A block has 512 bytes, and a hole has no blocks.
                Some(name) => {
                    let held = self.take(entry.metadata()?.blocks() * 512);
                    self.lying().insert(name.to_owned(), held);
                }
                None => self.root.remove_file(name)?,
            }
        }
        Ok(())
    }

    /// Removes the file of an upload that is complete or was given up, if there is one.
    pub(crate) async fn discard(&self, name: String) -> Result<()> {
        let (root, path) = (self.root.clone(), name.clone());
        self.stand_up(&name);
        let removed = tokio::task::spawn_blocking(move || match root.remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        });
        removed
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(self.failed(&name, "remove"))
    }

    /// Cuts the bytes of an upload that is given up, and keeps its count. Returns the number of its
    /// chunks that went out, each time until its file is discarded; `None` if there is no such
    /// file.
    pub(crate) async fn end(&self, name: String) -> Result<Option<u64>> {
        let (root, path) = (self.root.clone(), name.clone());
        let end = move || {
            let file = match root.open_with(path, OpenOptions::new().read(true).write(true)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?.into_std(),
            };
            let mut head = [0; 16];
            match file.read_exact_at(&mut head, 0) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(0)),
                other => other?,
            }
            file.set_len(16)?;
            Ok(Some(number(&head[..8])))
        };
        self.stand_up(&name);
        let ended = tokio::task::spawn_blocking(end)
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)));
        ended.map_err(self.failed(&name, "open"))
    }

    fn failed(&self, name: &str, operation: &'static str) -> impl Fn(io::Error) -> StorageError {
        let path = self.path.join(name).display().to_string();
        move |source| StorageError::Disk {
            backend: "spool".to_owned(),
            operation,
            path: path.clone(),
            source,
        }
    }

    /// Opens the file of an upload. A new file gets `chunk_size`, in bytes. `received` has the
    /// ranges that were written to the upload before.
    pub(crate) async fn file(
        &self,
        name: String,
        chunk_size: u64,
        received: &RangeSet,
    ) -> Result<SpoolFile> {
        use cap_std::fs::OpenOptionsExt as _;
        let (root, path) = (self.root.clone(), name.clone());
        // Acknowledged bytes must be here or in the cloud. So a file that was lost is not made
        // anew, with zeros in place of its bytes.
        let (is_new, last) = (
            received.ranges().is_empty(),
            received.ranges().last().map_or(0, |range| range.end),
        );
        let open = move || {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).truncate(false).mode(0o600);
            let file = root.open_with(path, options.create(is_new))?.into_std();
            let mut head = [0; 16];
            let mut reader = &file;
            match reader.read_exact(&mut head) {
                Ok(()) => {
                    let (drained, size) = (number(&head[..8]), number(&head[8..]).max(1));
                    let is_short =
                        drained.saturating_mul(size) < last && file.metadata()?.len() < DATA + last;
                    if is_short {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "it has fewer bytes than were acknowledged",
                        ));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && is_new => {
                    head[8..].copy_from_slice(&chunk_size.to_be_bytes());
                    file.write_all_at(&head, 0)?;
                    file.sync_data()?;
                    // The file's name is durable once the folder is synced.
                    root.open(".")?.sync_all()?;
                }
                Err(e) => return Err(e),
            }
            Ok((file, number(&head[..8]), number(&head[8..]).max(1)))
        };
        let opened = tokio::task::spawn_blocking(open)
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)));
        let (file, drained, chunk_size) = opened.map_err(self.failed(&name, "open"))?;
        // The bytes that wait in the file take their room, as far as there is some.
        let waits = received.within(&(drained.saturating_mul(chunk_size)..u64::MAX));
        let waits: u64 = waits.iter().map(|range| range.end - range.start).sum();
        self.stand_up(&name);
        let held = AtomicU64::new(self.take(waits));
        Ok(SpoolFile {
            spool: self.clone(),
            name,
            file: Arc::new(file),
            drained,
            chunk_size,
            held,
        })
    }
}

/// The open file of one upload in the spool. Dropping it keeps the file and gives its room back.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    spool: Spool,
    name: String,
    file: Arc<File>,
    drained: u64,
    chunk_size: u64,
    /// Bytes of the spool's room that the file holds.
    held: AtomicU64,
}

impl SpoolFile {
    /// The upload's chunk size, in bytes.
    pub(crate) fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// The number of the upload's chunks that went out.
    pub(crate) fn drained(&self) -> u64 {
        self.drained
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(self.spool.failed(&self.name, operation))
    }

    /// Writes bytes at an offset of the share. They are durable when this returns. It waits for
    /// room, unless the write `completes` the chunk that goes out next: that chunk then frees more
    /// room than the write takes. If such writes waited too, all uploads could wait for each other.
    pub(crate) async fn write_at(&self, offset: u64, bytes: Bytes, completes: bool) -> Result<()> {
        let length = bytes.len() as u64;
        let held = if completes {
            self.spool.take(length)
        } else {
            self.wait_for(length).await?
        };
        self.held.fetch_add(held, Ordering::Relaxed);
        let written = self.run("write", move |file| {
            file.write_all_at(&bytes, DATA + offset)?;
            file.sync_data()
        });
        // Bytes that were not written take no room.
        written.await.inspect_err(|_| self.give_back(held))
    }

    async fn wait_for(&self, length: u64) -> Result<u64> {
        let room = self
            .spool
            .room
            .acquire_many(u32::try_from(length).unwrap_or(u32::MAX));
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(permit)) => permit.forget(),
            _ => {
                let available = self.spool.room.available_permits() as u64;
                return Err(StorageError::NoSpace {
                    backend: "spool".to_owned(),
                    needed: length,
                    available,
                });
            }
        }
        Ok(length)
    }

    pub(crate) async fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        self.run("read", move |file| {
            let mut bytes =
                vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, DATA + range.start)?;
            Ok(bytes.into())
        })
        .await
    }

    /// Records that one more chunk went out, and cuts its `range` out of the file.
    pub(crate) async fn drain(&mut self, range: Range<u64>) -> Result<()> {
        let drained = self.drained + 1;
        let length = range.end - range.start;
        self.run("write", move |file| {
            file.write_all_at(&drained.to_be_bytes(), 0)?;
            file.sync_data()?;
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(file, hole, DATA + range.start, range.end - range.start) {
                // If the filesystem cannot do this, the room is free only when the upload ends.
                Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => Ok(()),
                Err(e) => Err(e.into()),
            }
        })
        .await?;
        self.drained = drained;
        self.give_back(length);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        let held = self.held.load(Ordering::Relaxed);
        let bytes = bytes.min(held);
        self.held.store(held - bytes, Ordering::Relaxed);
        self.spool
            .room
            .add_permits(usize::try_from(bytes).unwrap_or(0));
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.give_back(u64::MAX);
    }
}
