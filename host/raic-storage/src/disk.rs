//! The `disk` backend: a share is one file below a directory.
//!
//! `shares/ST/SI/SHNUM`, written as `incoming/SI.SHNUM` first. Order of a share's end: the file's bytes are synced,
//! then it is renamed, then the directories that name it are synced. So a name that is there has a whole share.

use std::{
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cap_std::{
    ambient_authority,
    fs::{Dir, File},
};
use futures::{StreamExt as _, stream};

use crate::{Backend, MAX_OBJECT, Result, ShareNum, ShareStream, ShareWriter, StorageError, StorageIndex};

/// Bytes read from a file at once.
const PIECE: u64 = 256 << 10;
/// Bytes gathered before a write.
const GATHER: usize = 1 << 20;

/// Keeps shares as files below one directory, and reaches nothing outside it.
#[derive(Clone, Debug)]
pub struct DiskBackend {
    name: Arc<str>,
    root: Arc<Dir>,
}

impl DiskBackend {
    /// Opens a directory. It must be there: a disk that is not mounted must not look like an empty one.
    ///
    /// # Errors
    /// [`StorageError::Disk`].
    pub fn open(name: &str, path: &Path) -> Result<Self> {
        let failed = |source| StorageError::Disk {
            backend: name.to_owned(),
            operation: "open",
            path: path.display().to_string(),
            source,
        };
        let root = Dir::open_ambient_dir(path, ambient_authority()).map_err(failed)?;
        Ok(Self { name: name.into(), root: Arc::new(root) })
    }

    /// Runs blocking work off the runtime.
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

    /// A file that nobody else writes at the same time.
    fn temporary(&self, name: &str) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        Path::new("incoming").join(format!("{name}.{}.{unique}", std::process::id()))
    }

    fn absent(&self, e: StorageError, index: StorageIndex, share: ShareNum) -> StorageError {
        let backend = self.name.to_string();
        match e {
            StorageError::Disk { source, .. } if source.kind() == ErrorKind::NotFound => {
                StorageError::NotFound { backend, index, share }
            }
            StorageError::Disk { source, .. } if source.kind() == ErrorKind::UnexpectedEof => {
                StorageError::Short { backend, index, share }
            }
            other => other,
        }
    }
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
impl Backend for DiskBackend {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, index: StorageIndex, share: ShareNum) -> Result<Box<dyn ShareWriter>> {
        let incoming = Path::new("incoming").join(format!("{index}.{share}"));
        let file = self
            .run("create", incoming, |root, path| {
                root.create_dir_all("incoming")?;
                root.create(path)
            })
            .await?;
        Ok(Box::new(FileWriter {
            backend: self.clone(),
            index,
            share,
            file: Arc::new(file),
            gathered: BytesMut::new(),
        }))
    }

    async fn read(&self, index: StorageIndex, share: ShareNum, range: Range<u64>) -> Result<ShareStream> {
        let path = shareset(index).join(share.to_string());
        let start = range.start;
        let opened = self.run("open", path.clone(), move |root, path| {
            let mut file = root.open(path)?;
            if file.metadata()?.len() < range.end {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        });
        let file = opened.await.map_err(|e| self.absent(e, index, share))?;
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
            let (file, piece) = read.map_err(|e| backend.absent(e, index, share))?;
            let left = left - piece.len() as u64;
            Ok(Some((piece, (backend, path, file, left))))
        });
        Ok(pieces.boxed())
    }

    async fn shares(&self, index: StorageIndex) -> Result<Vec<ShareNum>> {
        self.run("list", shareset(index), |root, path| {
            let entries = match root.read_dir(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let mut shares = Vec::new();
            for entry in entries {
                let name = entry?.file_name();
                let number =
                    name.to_str().and_then(|name| name.parse().ok().filter(|n: &u8| n.to_string() == name));
                shares.extend(number.map(ShareNum));
            }
            shares.sort_unstable();
            Ok(shares)
        })
        .await
    }

    async fn remove(&self, index: StorageIndex, share: ShareNum, _: Option<u64>) -> Result<()> {
        let incoming = Path::new("incoming").join(format!("{index}.{share}"));
        self.run("remove", shareset(index).join(share.to_string()), move |root, path| {
            for file in [path, &incoming] {
                match root.remove_file(file) {
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            // Folders that are empty now go too; others are not.
            if let Some(folder) = path.parent().filter(|folder| root.remove_dir(folder).is_ok())
                && let Some(parent) = folder.parent()
            {
                sync(root, parent)?;
            }
            Ok(())
        })
        .await
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

    async fn probe(&self) -> Result<()> {
        self.run("write", self.temporary("probe"), |root, path| {
            root.create_dir_all("incoming")?;
            root.write(path, b"raic")?;
            root.remove_file(path)
        })
        .await
    }
}

struct FileWriter {
    backend: DiskBackend,
    index: StorageIndex,
    share: ShareNum,
    file: Arc<File>,
    gathered: BytesMut,
}

impl FileWriter {
    fn incoming(&self) -> PathBuf {
        Path::new("incoming").join(format!("{}.{}", self.index, self.share))
    }

    async fn flush(&mut self) -> Result<()> {
        let (file, bytes) = (self.file.clone(), self.gathered.split().freeze());
        self.backend.run("write", self.incoming(), move |_, _| (&*file).write_all(&bytes)).await
    }
}

#[async_trait]
impl ShareWriter for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= GATHER {
            self.flush().await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64> {
        self.flush().await?;
        let incoming = self.incoming();
        let folder = shareset(self.index);
        let file = self.file.clone();
        let work = move |root: &Dir, path: &Path| {
            file.sync_all()?;
            root.create_dir_all(&folder)?;
            root.rename(&incoming, root, path)?;
            folder.ancestors().filter(|f| !f.as_os_str().is_empty()).try_for_each(|f| sync(root, f))?;
            sync(root, Path::new("."))
        };
        self.backend.run("finish", shareset(self.index).join(self.share.to_string()), work).await?;
        Ok(1)
    }
}
