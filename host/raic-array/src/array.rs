//! The array as its users see it, and the work it does beside: deletions and copies of the keyring.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::Stream;
use raic_storage::{Backend, Database, StorageIndex};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    ArrayError, Content, FileInfo, Geometry, Keyring, Result, Totals,
    catalog::{Catalog, Placed},
    download::is_sound,
    segment::Codec,
};

/// How long a cloud that failed is asked last.
const DISTRUST: Duration = Duration::from_secs(60);
/// How often work that waits for nothing else is looked for.
const PAUSE: Duration = Duration::from_secs(20);
const DELETIONS_AT_ONCE: u32 = 64;
const MAX_NAME: usize = 1024;

/// What an array is made of.
#[derive(Debug)]
pub struct ArrayConfig {
    /// Shares that suffice, and shares there are; as many as servers.
    pub geometry: Geometry,
    /// Bytes of content in a segment; 128 KiB unless there is a reason.
    pub segment_size: u32,
    /// Further clouds that may be lost right after a write was acknowledged.
    pub survive: usize,
    /// The keys.
    pub keyring: Keyring,
    /// The keyring as it is stored on every cloud.
    pub sealed_keyring: Bytes,
    /// One a cloud; share i goes to server i.
    pub servers: Vec<Arc<dyn Backend>>,
    /// The one database.
    pub database: Database,
}

impl ArrayConfig {
    /// Bytes of content in a segment, unless there is a reason.
    pub const SEGMENT_SIZE: u32 = 128 << 10;
}

/// An array, running. Dropping it stops its work beside; nothing is lost, since that work is recorded.
#[derive(Debug)]
pub struct Array {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) geometry: Geometry,
    pub(crate) segment_size: u32,
    survive: usize,
    pub(crate) keyring: Keyring,
    sealed_keyring: Bytes,
    pub(crate) servers: Vec<Arc<dyn Backend>>,
    pub(crate) catalog: Catalog,
    pub(crate) codec: Codec,
    pub(crate) health: Health,
    pub(crate) deletions_queued: Notify,
    /// Shared with the array that takes this one's place.
    reading: Arc<Mutex<HashMap<StorageIndex, usize>>>,
}

/// How an array is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its geometry.
    pub geometry: Geometry,
    /// Files and what waits.
    pub totals: Totals,
    /// Each cloud, and what is wrong with it.
    pub clouds: Vec<(String, Option<String>)>,
    /// Clouds that have the keyring.
    pub keyring_copies: Vec<String>,
}

impl Array {
    /// Opens an array and begins its work beside. Uploads that a crash ended are turned into deletions first.
    ///
    /// # Errors
    /// [`ArrayError::Geometry`], [`ArrayError::Keyring`] where the database is another array's, or the database's.
    pub async fn open(config: ArrayConfig) -> Result<Self> {
        let catalog = Catalog::open(config.database.clone(), config.keyring.array).await?;
        Self::start(config, catalog, Arc::default()).await
    }

    /// An array of another configuration in the place of this one, on the same database. Uploads and reads under way
    /// here go on, and their shares are safe from its deletions.
    ///
    /// # Errors
    /// As [`Array::open`].
    pub async fn reopen(&self, config: ArrayConfig) -> Result<Self> {
        if config.keyring.array != self.inner.keyring.array {
            return Err(ArrayError::Keyring);
        }
        Self::start(config, self.inner.catalog.clone(), self.inner.reading.clone()).await
    }

    async fn start(
        config: ArrayConfig,
        catalog: Catalog,
        reading: Arc<Mutex<HashMap<StorageIndex, usize>>>,
    ) -> Result<Self> {
        let n = config.servers.len();
        if n != usize::from(config.geometry.n) {
            return Err(ArrayError::Geometry { k: config.geometry.k, n });
        }
        let inner = Arc::new(Inner {
            codec: Codec::new(config.geometry)?,
            catalog,
            geometry: config.geometry,
            segment_size: config.segment_size,
            survive: config.survive,
            keyring: config.keyring,
            sealed_keyring: config.sealed_keyring,
            servers: config.servers,
            health: Health::default(),
            deletions_queued: Notify::new(),
            reading,
        });
        inner.store_keyring().await?;
        let (deleting, copying) = (inner.clone(), inner.clone());
        let tasks = vec![
            tokio::spawn(async move { deleting.delete_for_ever().await }),
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(PAUSE).await;
                    if let Err(e) = copying.store_keyring().await {
                        tracing::warn!("the keyring's copies: {e}");
                    }
                }
            }),
        ];
        Ok(Self { inner, tasks })
    }

    /// Stores `content` under `name`, replacing the file there. When it returns, the file is durable, and survives
    /// the loss of one more cloud than fail now (`survive`).
    ///
    /// # Errors
    /// [`ArrayError::TooFewClouds`] with each cloud's fault; what was there before stays.
    pub async fn put<S, E>(&self, name: &str, content: S) -> Result<FileInfo>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        check_name(name)?;
        let (inner, name_owned) = (self.inner.clone(), name.to_owned());
        // A task of its own: an upload whose asker goes away is still tidied up.
        tokio::spawn(async move { inner.store(name_owned, content).await }).await??;
        self.stat(name).await
    }

    /// A file and its content, or a range of it, cut at its end.
    ///
    /// # Errors
    /// [`ArrayError::NoSuchFile`], [`ArrayError::Range`]; [`ArrayError::Unreadable`] may also come out of the content.
    pub async fn get(
        &self,
        name: &str,
        range: Option<Range<u64>>,
    ) -> Result<(FileInfo, Range<u64>, Content)> {
        let (info, mut streams) = self.inner.catalog.file(name.to_owned()).await?;
        let range = match range {
            Some(range) if range.start >= info.size => return Err(ArrayError::Range { size: info.size }),
            Some(range) => range.start..range.end.min(info.size),
            None => 0..info.size,
        };
        let stream = streams.pop().filter(|s| streams.is_empty() && is_sound(&s.layout));
        let stream =
            stream.ok_or_else(|| ArrayError::Task(format!("the catalog's entry of {name:?} is damaged")))?;
        let content = self.inner.clone().read_stream(stream, range.clone())?;
        Ok((info, range, content))
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// [`ArrayError::NoSuchFile`].
    pub async fn stat(&self, name: &str) -> Result<FileInfo> {
        Ok(self.inner.catalog.file(name.to_owned()).await?.0)
    }

    /// Up to `limit` files after `after`, whose names begin with `prefix`, in the order of their names.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, prefix: &str, after: &str, limit: u32) -> Result<Vec<FileInfo>> {
        self.inner.catalog.list(prefix.to_owned(), after.to_owned(), limit).await
    }

    /// Removes a file. Its shares are deleted afterwards, as soon as their clouds let them.
    ///
    /// # Errors
    /// [`ArrayError::NoSuchFile`].
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.inner.catalog.remove(name.to_owned()).await?;
        self.inner.deletions_queued.notify_one();
        Ok(())
    }

    /// How the array is; asks every cloud.
    ///
    /// # Errors
    /// The database's.
    pub async fn status(&self) -> Result<Status> {
        let probes = self.inner.servers.iter().map(|server| async {
            let fault = tokio::time::timeout(Duration::from_secs(10), server.probe()).await;
            let fault = match fault {
                Ok(Ok(())) => None,
                Ok(Err(e)) => Some(e.to_string()),
                Err(_) => Some(format!("cloud {:?}: no answer within 10 s", server.name())),
            };
            (server.name().to_owned(), fault)
        });
        Ok(Status {
            geometry: self.inner.geometry,
            totals: self.inner.catalog.totals().await?,
            clouds: futures::future::join_all(probes).await,
            keyring_copies: self.inner.catalog.keyring_copies(self.inner.keyring.generation()).await?,
        })
    }

    /// The storage servers, by share number.
    pub fn servers(&self) -> &[Arc<dyn Backend>] {
        &self.inner.servers
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn check_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 1024 bytes"
    } else if name.chars().any(char::is_control) {
        "it has control characters"
    } else {
        return Ok(());
    };
    Err(ArrayError::Name { name: name.chars().take(64).collect(), problem })
}

impl Inner {
    /// Shares that must be stored for a write to be acknowledged.
    pub(crate) fn needed(&self) -> usize {
        (usize::from(self.geometry.k) + self.survive).min(self.servers.len())
    }

    /// A generation is used once it is on n-k+1 clouds: then any k clouds have it.
    pub(crate) async fn keyring_is_stored(&self) -> Result<()> {
        let needed = usize::from(self.geometry.n - self.geometry.k) + 1;
        let stored = self.catalog.keyring_copies(self.keyring.generation()).await?.len();
        if stored >= needed { Ok(()) } else { Err(ArrayError::KeyringNotStored { stored, needed }) }
    }

    /// Stores the keyring on the clouds that lack it.
    async fn store_keyring(&self) -> Result<()> {
        let generation = self.keyring.generation();
        let have = self.catalog.keyring_copies(generation).await?;
        let name = format!("keyring.{generation}");
        let lacking = self.servers.iter().filter(|server| !have.iter().any(|cloud| cloud == server.name()));
        let stores = lacking.map(|server| {
            let name = &name;
            async move {
                match server.store_object(name, self.sealed_keyring.clone()).await {
                    Ok(()) => self.catalog.keyring_stored(server.name().to_owned(), generation).await,
                    Err(e) => {
                        tracing::warn!("the keyring's copy: {e}");
                        Ok(())
                    }
                }
            }
        });
        futures::future::try_join_all(stores).await.map(drop)
    }

    /// Deletes what is queued, for as long as the array runs.
    async fn delete_for_ever(&self) {
        loop {
            match self.delete_some().await {
                Ok(0) => {
                    // Woken by a removal, or to try again what failed or was too early.
                    let _ = tokio::time::timeout(PAUSE, self.deletions_queued.notified()).await;
                }
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!("deletions: {e}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn delete_some(&self) -> Result<usize> {
        let mut due = self.catalog.due_deletions(DELETIONS_AT_ONCE).await?;
        due.retain(|placed| !self.reading().contains_key(&placed.index));
        let tried = due.len();
        for placed in due {
            let error = match self.servers.iter().find(|server| server.name() == placed.cloud) {
                Some(server) => server.remove(placed.index, placed.share).await.err().map(|e| e.to_string()),
                None => Some(format!("cloud {:?} is not configured", placed.cloud)),
            };
            if let Some(error) = &error {
                let Placed { index, share, .. } = &placed;
                tracing::warn!("deleting share {share} of {index}: {error}; tried again later");
            }
            self.catalog.deletion_tried(placed, error).await?;
        }
        Ok(tried)
    }

    fn reading(&self) -> std::sync::MutexGuard<'_, HashMap<StorageIndex, usize>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, the stream's shares are not deleted by this process.
pub(crate) struct Reading {
    inner: Arc<Inner>,
    index: StorageIndex,
}

impl Reading {
    pub(crate) fn begin(inner: &Arc<Inner>, index: StorageIndex) -> Self {
        *inner.reading().entry(index).or_default() += 1;
        Self { inner: inner.clone(), index }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut reading = self.inner.reading();
        if let Some(count) = reading.get_mut(&self.index) {
            *count -= 1;
            if *count == 0 {
                reading.remove(&self.index);
            }
        }
    }
}

/// Which clouds failed a read lately, and are asked last for a while.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<HashMap<String, Instant>>);

impl Health {
    pub(crate) fn failed(&self, cloud: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(cloud.to_owned(), Instant::now());
    }

    pub(crate) fn failed_lately(&self, cloud: &str) -> bool {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(cloud).is_some_and(|at| at.elapsed() < DISTRUST)
    }
}
