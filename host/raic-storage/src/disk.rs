//! The `disk` backend: a share is one file below a directory.
//!
//! The file of a share is `shares/ST/SI/SHNUM`. It is written as `incoming/SI.SHNUM` first. When a
//! share ends, first its bytes are synced, then the file is renamed, then the directories that name
//! it are synced. So a file that has its name is a whole share. A mutable share has a header of its
//! own ([`ShareHeader::Mutable`]) and is replaced as a whole, in the same order.

use std::{
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use cap_std::{
    ambient_authority,
    fs::{Dir, File, OpenOptions},
};
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;

use crate::{
    Backend, Container, Found, FoundShare, MAX_OBJECT, Moment, MutableShare, MutableStore,
    MutableWrite, RangeSet, Recovered, Result, ShareHeader, ShareId, ShareNum, ShareStore,
    ShareStream, ShareUpload, ShareWriter, Span, StorageError, StorageIndex, Stored, StreamMemory,
    share_header::{HEADER, MUTABLE_HEADER},
};

/// Bytes that are read from a file at once.
const PIECE: u64 = 256 << 10;
/// Bytes that are gathered before they are written to a file.
const GATHER: usize = 1 << 20;

/// Keeps shares as files below one directory, and reaches nothing outside it.
#[derive(Clone, Debug)]
pub struct DiskBackend {
    name: Arc<str>,
    root: Arc<Dir>,
    /// Bytes of the disk that are left free for others.
    reserved: u64,
    // A blocking lock: held while a name is copied.
    owner: Arc<Mutex<Option<String>>>,
}

impl DiskBackend {
    /// Opens a directory. It must exist: a disk that is not mounted must not look like an empty
    /// one.
    ///
    /// # Errors
    /// Fails with [`StorageError::Disk`] if the directory cannot be opened.
    pub fn open(name: &str, path: &Path) -> Result<Self> {
        let failed = |source| StorageError::Disk {
            backend: name.to_owned(),
            operation: "open",
            path: path.display().to_string(),
            source,
        };
        let root = Dir::open_ambient_dir(path, ambient_authority()).map_err(failed)?;
        Ok(Self {
            name: name.into(),
            root: Arc::new(root),
            reserved: 0,
            owner: Arc::default(),
        })
    }

    /// Leaves `reserved` bytes of the disk free for others.
    #[must_use]
    pub fn with_reserved(self, reserved: u64) -> Self {
        Self { reserved, ..self }
    }

    async fn require_space(&self, needed: u64) -> Result<()> {
        match self.available_space().await? {
            Some(available) if available < needed || available == 0 => Err(StorageError::NoSpace {
                backend: self.name.to_string(),
                needed,
                available,
            }),
            _ => Ok(()),
        }
    }

    /// Runs blocking work on the blocking pool. An error gets the operation and the path.
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: PathBuf,
        work: impl FnOnce(&Dir, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = self.root.clone();
        let shown = path.display().to_string();
        let outcome = tokio::task::spawn_blocking(move || work(&root, &path)).await;
        let outcome = outcome.unwrap_or_else(|e| Err(io::Error::other(e)));
        outcome.map_err(|source| StorageError::Disk {
            backend: self.name.to_string(),
            operation,
            path: shown,
            source,
        })
    }

    /// Makes the path of a file that no other write uses at the same time.
    fn temporary(&self, name: &str) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        Path::new("incoming").join(format!("{name}.{}.{unique}", std::process::id()))
    }

    async fn stream(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        let path = file(id);
        let start = range.start;
        let opened = self.run("open", path.clone(), move |root, path| {
            let mut file = root.open(path)?;
            if file.metadata()?.len() < range.end {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        });
        let file = opened.await.map_err(|e| self.absent(e, id))?;
        let left = range.end - range.start;
        let state = (self.clone(), path, file, left);
        let pieces = stream::try_unfold(state, move |(backend, path, mut file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let work = move |_: &Dir, _: &Path| {
                let mut piece = vec![0; usize::try_from(left.min(PIECE)).unwrap_or_default()];
                file.read_exact(&mut piece)?;
                Ok((file, Bytes::from(piece)))
            };
            let read = backend.run("read", path.clone(), work).await;
            let (file, piece) = read.map_err(|e| backend.absent(e, id))?;
            let left = left - piece.len() as u64;
            Ok(Some((piece, (backend, path, file, left))))
        });
        Ok(pieces.boxed())
    }

    fn absent(&self, e: StorageError, id: ShareId) -> StorageError {
        let backend = self.name.to_string();
        match e {
            StorageError::Disk { source, .. } if source.kind() == ErrorKind::NotFound => {
                StorageError::NotFound { backend, id }
            }
            StorageError::Disk { source, .. } if source.kind() == ErrorKind::UnexpectedEof => {
                StorageError::Short { backend, id }
            }
            other => other,
        }
    }
}

/// Reads a share number from a file's name. Only the number's one canonical form counts.
fn share_number(name: &std::ffi::OsStr) -> Option<ShareNum> {
    let name = name.to_str()?;
    name.parse()
        .ok()
        .filter(|n: &u8| n.to_string() == name)
        .map(ShareNum)
}

/// Syncs the directories that name a share, from the shareset's up to the root.
fn sync_names(root: &Dir, folder: &Path) -> io::Result<()> {
    folder
        .ancestors()
        .filter(|f| !f.as_os_str().is_empty())
        .try_for_each(|f| sync(root, f))?;
    sync(root, Path::new("."))
}

/// Reads the header of a mutable share from its file.
fn mutable_header(file: &mut impl io::Read) -> io::Result<MutableShare> {
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    match ShareHeader::parse(&header) {
        Some(ShareHeader::Mutable { length, enabler }) => Ok(MutableShare { length, enabler }),
        _ => Err(io::Error::new(
            ErrorKind::InvalidData,
            "it is not a mutable share",
        )),
    }
}

/// The path of a share's file once the share is whole.
fn file(id: ShareId) -> PathBuf {
    shareset(id.index).join(id.share.to_string())
}

/// The path of a share's file while the share is being written.
fn incoming(id: ShareId) -> PathBuf {
    Path::new("incoming").join(format!("{}.{}", id.index, id.share))
}

fn shareset(index: StorageIndex) -> PathBuf {
    let index = index.to_string();
    Path::new("shares").join(&index[..2]).join(&index)
}

fn sync(dir: &Dir, path: &Path) -> io::Result<()> {
    // A directory's entries are durable only once the directory itself is synced.
    dir.open(path)?.sync_all()
}

#[async_trait]
impl ShareStore for DiskBackend {
    async fn create(&self, id: ShareId, memory: Arc<StreamMemory>) -> Result<Box<dyn ShareWriter>> {
        self.require_space(0).await?;
        let incoming = incoming(id);
        let file = self
            .run("create", incoming, |root, path| {
                root.create_dir_all("incoming")?;
                root.create(path)
            })
            .await?;
        Ok(Box::new(FileWriter {
            backend: self.clone(),
            id,
            file: Arc::new(file),
            memory,
            parts: Vec::new(),
            gathered: 0,
            written: 0,
            is_finished: false,
        }))
    }

    async fn upload(
        &self,
        id: ShareId,
        length: u64,
        received: RangeSet,
    ) -> Result<Box<dyn ShareUpload>> {
        let missing: u64 = received
            .missing(length)
            .iter()
            .map(|r| r.end - r.start)
            .sum();
        if missing > 0 {
            self.require_space(missing).await?;
        }
        let incoming = incoming(id);
        let is_begun = !received.ranges().is_empty();
        let file = self.run("create", incoming, move |root, path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            // After a crash between the rename and the row's change, the file has its name already.
            if is_begun && !root.try_exists(path)? {
                return Ok(root.open_with(file(id), &options)?.into_std());
            }
            root.create_dir_all("incoming")?;
            let file = root
                .open_with(path, options.create(true).truncate(!is_begun))?
                .into_std();
            if length > 0 {
                // The disk keeps the reserved space, if its filesystem can.
                match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length)
                {
                    Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                    other => other?,
                }
            }
            sync(root, Path::new("incoming"))?;
            Ok(file)
        });
        Ok(Box::new(FileUpload {
            backend: self.clone(),
            id,
            length,
            file: Arc::new(file.await?),
        }))
    }

    async fn read(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        self.stream(id, range).await
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        self.run("list", shareset(index), |root, path| {
            let entries = match root.read_dir(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let mut shares = Vec::new();
            for entry in entries {
                shares.extend(share_number(&entry?.file_name()));
            }
            shares.sort_unstable();
            Ok(shares)
        })
        .await
    }

    async fn remove(&self, id: ShareId, _: Option<u64>) -> Result<()> {
        let incoming = incoming(id);
        self.run("remove", file(id), move |root, path| {
            for file in [path, &incoming] {
                match root.remove_file(file) {
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            // A folder that is empty now is removed too. The sync makes the removal durable.
            let Some(folder) = path.parent() else {
                return Ok(());
            };
            let changed = if root.remove_dir(folder).is_ok() {
                folder.parent()
            } else {
                Some(folder)
            };
            match changed.map_or(Ok(()), |changed| sync(root, changed)) {
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                other => other,
            }
        })
        .await
    }

    async fn chunk_length(&self, id: ShareId, chunk: u64) -> Result<Option<u64>> {
        let owner = self.owner.lock().clone();
        self.run("look for", file(id), move |root, path| {
            match root.metadata(path) {
                // A file is one chunk.
                Ok(meta) if chunk == 0 => return Ok(Some(meta.len())),
                Ok(_) => return Ok(None),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            match owner {
                Some(owner) if !root.try_exists(Path::new("raic").join(&owner))? => {
                    Err(io::Error::other(format!(
                        "raic/{owner} is not there, so nothing that is missing counts as gone"
                    )))
                }
                _ => Ok(None),
            }
        })
        .await
    }
}

#[async_trait]
impl MutableStore for DiskBackend {
    async fn state(&self, id: ShareId) -> Result<Option<MutableShare>> {
        self.run("read", file(id), |root, path| match root.open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
            Ok(mut file) => mutable_header(&mut file).map(Some),
        })
        .await
    }

    async fn read_mutable(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        let share = self.state(id).await?;
        let absent = || StorageError::NotFound {
            backend: self.name.to_string(),
            id,
        };
        let end = range.end.min(share.ok_or_else(absent)?.length);
        if range.start >= end {
            return Ok(stream::empty().boxed());
        }
        self.stream(id, range.start + MUTABLE_HEADER..end + MUTABLE_HEADER)
            .await
    }

    async fn write_mutable(&self, id: ShareId, write: MutableWrite) -> Result<u64> {
        let ShareId { index, share } = id;
        let folder = shareset(index);
        let incoming = self.temporary(&format!("{index}.{share}"));
        let reserved = self.reserved;
        // All in one turn of the blocking pool: a small share costs little more than its turns.
        let written = self.run(
            "write",
            folder.join(share.to_string()),
            move |root, path| {
                root.create_dir_all("incoming")?;
                let old = match root.open(path) {
                    Err(e) if e.kind() == ErrorKind::NotFound => None,
                    other => Some(other?),
                };
                let mut old = old.map(cap_std::fs::File::into_std);
                let (mut before, mut enabler) = (0, write.enabler);
                if let Some(old) = &mut old {
                    let header = mutable_header(old)?;
                    (before, enabler) = (header.length, header.enabler);
                }
                // The whole share is written anew.
                let length = write.length_after(before);
                let available = available(root, reserved)?;
                if available < length || available == 0 {
                    return Ok(Err((length, available)));
                }
                let mut written = || {
                    let mut file = root.create(&incoming)?.into_std();
                    if let Some(old) = &mut old {
                        file.write_all(&ShareHeader::mutable(0, &enabler))?;
                        // The kernel copies, and shares blocks if the filesystem can.
                        io::copy(old, &mut file)?;
                    }
                    for (offset, bytes) in &write.writes {
                        // What lies beyond the end is cut.
                        let left = usize::try_from(length.saturating_sub(*offset));
                        let part = &bytes[..bytes.len().min(left.unwrap_or(usize::MAX))];
                        if !part.is_empty() {
                            file.write_all_at(part, MUTABLE_HEADER + offset)?;
                        }
                    }
                    file.set_len(MUTABLE_HEADER + length)?;
                    file.write_all_at(&ShareHeader::mutable(length, &enabler), 0)?;
                    file.sync_all()?;
                    root.create_dir_all(&folder)?;
                    root.rename(&incoming, root, path)?;
                    sync_names(root, &folder)?;
                    Ok(Ok(length))
                };
                written().inspect_err(|_: &io::Error| {
                    // The unfinished file is of no use to anyone.
                    let _ = root.remove_file(&incoming);
                })
            },
        );
        written
            .await?
            .map_err(|(needed, available)| StorageError::NoSpace {
                backend: self.name.to_string(),
                needed,
                available,
            })
    }

    async fn delete_mutable(&self, id: ShareId) -> Result<()> {
        self.remove(id, None).await
    }

    async fn tidy_mutable(&self, id: ShareId) -> Result<bool> {
        Ok(self.state(id).await?.is_none())
    }

    async fn untidy_mutable(&self, _: u32) -> Result<Vec<ShareId>> {
        Ok(Vec::new())
    }

    async fn recover_mutable(&self, id: ShareId, _: &Found) -> Result<Recovered> {
        Ok(self
            .state(id)
            .await?
            .map_or(Recovered::Deleted, Recovered::Whole))
    }

    async fn lacks_mutable(&self, id: ShareId, _: &Found) -> Result<Option<String>> {
        let is_there = self.chunk_length(id, 0).await?.is_some();
        Ok((!is_there).then(|| file(id).display().to_string()))
    }
}

#[async_trait]
impl Container for DiskBackend {
    async fn scan(&self, span: Span, most: u64) -> Result<Vec<FoundShare>> {
        self.run("list", PathBuf::from("shares"), move |root, path| {
            let mut found = Vec::new();
            let prefixes = match span {
                Span::Below(prefix) => vec![path.join(prefix.to_string())],
                Span::Whole => present(root.read_dir(path))?
                    .into_iter()
                    .flatten()
                    .map(|entry| Ok(path.join(entry?.file_name())))
                    .collect::<io::Result<_>>()?,
            };
            for prefix in prefixes {
                for folder in present(root.read_dir(prefix))?.into_iter().flatten() {
                    let folder = folder?;
                    let Some(index) = folder.file_name().to_str().and_then(|n| n.parse().ok())
                    else {
                        continue;
                    };
                    let Some(files) = present(folder.open_dir())? else {
                        continue;
                    };
                    for file in files.entries()? {
                        let file = file?;
                        let Some(share) = share_number(&file.file_name()) else {
                            continue;
                        };
                        let Some(meta) = present(file.metadata())? else {
                            continue;
                        };
                        let modified = meta
                            .modified()
                            .ok()
                            .map(cap_std::time::SystemTime::into_std);
                        let newest = modified.and_then(Moment::of);
                        let whole = Found::file(meta.len());
                        found.push(FoundShare {
                            id: ShareId { index, share },
                            found: whole,
                            newest,
                        });
                        if found.len() as u64 > most {
                            return Err(io::Error::other(
                                "there are far more shares than were ever stored",
                            ));
                        }
                    }
                }
            }
            Ok(found)
        })
        .await
    }

    async fn sweep(&self, before: Moment) -> Result<u64> {
        self.run("sweep", PathBuf::from("incoming"), move |root, path| {
            let files = match root.read_dir(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
                other => other?,
            };
            let mut removed = 0;
            for file in files {
                let file = file?;
                let touched = file.metadata().and_then(|meta| meta.modified());
                let touched = match touched {
                    // Its write has finished meanwhile.
                    Err(e) if e.kind() == ErrorKind::NotFound => continue,
                    other => other?.into_std(),
                };
                if Moment::of(touched).is_some_and(|touched| touched < before) {
                    file.remove_file()?;
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await
    }

    fn set_owner(&self, object: Option<String>) {
        *self.owner.lock() = object;
    }

    async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        let incoming = self.temporary(name);
        self.run("write", Path::new("raic").join(name), move |root, path| {
            root.create_dir_all("incoming")?;
            root.create_dir_all("raic")?;
            let mut file = root.create(&incoming)?;
            file.write_all(&content)?;
            file.sync_all()?;
            root.rename(&incoming, root, path)?;
            sync(root, Path::new("raic"))?;
            sync(root, Path::new("."))
        })
        .await
    }

    async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        self.run("read", Path::new("raic").join(name), |root, path| {
            let file = match root.open(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let mut content = Vec::new();
            file.take(MAX_OBJECT + 1).read_to_end(&mut content)?;
            if content.len() as u64 > MAX_OBJECT {
                return Err(ErrorKind::FileTooLarge.into());
            }
            Ok(Some(content.into()))
        })
        .await
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        let prefix = prefix.to_owned();
        self.run("list", PathBuf::from("raic"), move |root, path| {
            let entries = match root.read_dir(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let names = names.collect::<io::Result<Vec<_>>>()?;
            Ok(names
                .into_iter()
                .filter(|name| name.starts_with(&prefix))
                .collect())
        })
        .await
    }

    async fn remove_object(&self, name: &str) -> Result<()> {
        self.run("remove", Path::new("raic").join(name), |root, path| {
            present(root.remove_file(path)).map(drop)
        })
        .await
    }

    async fn available_space(&self) -> Result<Option<u64>> {
        let reserved = self.reserved;
        self.run("measure", PathBuf::from("."), move |root, _| {
            available(root, reserved).map(Some)
        })
        .await
    }

    async fn probe(&self) -> Result<()> {
        self.run("write", self.temporary("probe"), |root, path| {
            root.create_dir_all("incoming")?;
            // On a full disk the file is made, and stays empty.
            let written = root.write(path, b"raic");
            let removed = root.remove_file(path);
            written.and(removed)
        })
        .await
    }
}

/// Returns the bytes that may still be written, besides those that are reserved for other programs.
fn available(root: &Dir, reserved: u64) -> io::Result<u64> {
    let disk = rustix::fs::fstatvfs(root)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    // 2^64 broke clients, so the number that is returned fits a signed integer.
    Ok(free.saturating_sub(reserved).min(i64::MAX.unsigned_abs()))
}

impl Backend for DiskBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn mutable_store(&self) -> Option<&dyn MutableStore> {
        Some(self)
    }
}

struct FileWriter {
    backend: DiskBackend,
    id: ShareId,
    file: Arc<File>,
    memory: Arc<StreamMemory>,
    /// What was not written yet, and its bytes.
    parts: Vec<Bytes>,
    gathered: usize,
    written: u64,
    is_finished: bool,
}

impl Drop for FileWriter {
    /// Removes the file of a share that was given up at once, and not when its row is collected: on
    /// a full disk there may be no room to record that.
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let (root, incoming) = (self.backend.root.clone(), self.incoming());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || root.remove_file(incoming));
        }
    }
}

impl FileWriter {
    fn incoming(&self) -> PathBuf {
        incoming(self.id)
    }

    async fn flush(&mut self) -> Result<()> {
        let (file, parts) = (self.file.clone(), std::mem::take(&mut self.parts));
        self.written += std::mem::take(&mut self.gathered) as u64;
        self.backend
            .run("write", self.incoming(), move |_, _| {
                parts.iter().try_for_each(|part| (&*file).write_all(part))
            })
            .await
    }
}

impl DiskBackend {
    /// Gives a share that was written beside its place its name, durably. `sync_file` syncs its
    /// bytes first.
    async fn publish(
        &self,
        id: ShareId,
        bytes: u64,
        sync_file: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Stored> {
        let (folder, incoming) = (shareset(id.index), incoming(id));
        self.run("finish", file(id), move |root, path| {
            sync_file()?;
            root.create_dir_all(&folder)?;
            match root.rename(&incoming, root, path) {
                // It was renamed before a crash already.
                Err(e) if e.kind() == ErrorKind::NotFound && root.try_exists(path)? => {}
                other => other?,
            }
            sync_names(root, &folder)
        })
        .await?;
        Ok(Stored { objects: 1, bytes })
    }
}

#[async_trait]
impl ShareWriter for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.gathered += bytes.len();
        self.parts.push(bytes);
        if self.gathered >= self.memory.chunk_size(self.gathered, GATHER) {
            self.flush().await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Stored> {
        self.flush().await?;
        let file = self.file.clone();
        // From here on the file may have its name, whatever the outcome is.
        self.is_finished = true;
        self.backend
            .publish(self.id, self.written, move || file.sync_all())
            .await
    }
}

/// Turns a not-found error into `None`.
fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// A share that is written by offset, into the file that will be the share.
struct FileUpload {
    backend: DiskBackend,
    id: ShareId,
    length: u64,
    file: Arc<std::fs::File>,
}

impl FileUpload {
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (file, path) = (self.file.clone(), incoming(self.id));
        self.backend
            .run(operation, path, move |_, _| work(&file))
            .await
    }
}

#[async_trait]
impl ShareUpload for FileUpload {
    async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        self.run("write", move |file| {
            file.write_all_at(&bytes, offset)?;
            file.sync_data()
        })
        .await
    }

    async fn read_back(&mut self, range: Range<u64>) -> Result<Bytes> {
        self.run("read", move |file| {
            let mut bytes =
                vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes.into())
        })
        .await
    }

    async fn finish(self: Box<Self>) -> Result<Stored> {
        let file = self.file.clone();
        self.backend
            .publish(self.id, self.length, move || file.sync_all())
            .await
    }
}
