//! The array as its users see it: configuration, status, and the operations on files.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::Stream;
use raic_storage::{AccountId, ChunkBudget, Hold, Holds, LeaseDb, Moment, StorageServer};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ArrayError, BucketInfo, Class, Classes, Content, Details, FileInfo, FileName, FileVersion,
    Keyring, ListPage, ListRequest, MAX_STREAM, Replace, Result, Totals, Transfer, VersionId,
    Versioning,
    catalog::{Catalog, Extent, Moves, NewBucket, check_tags},
    health::{Health, LastFailure},
    keyring_copies::KeyringCopies,
};

/// Longest time that the probe of a cloud may take.
pub(crate) const PROBE: Duration = Duration::from_secs(10);
const MAX_NAME: usize = 1024;
/// Pause between two measurements of how much can be stored in the clouds.
const MEASURED_EVERY: Duration = Duration::from_secs(60);

/// The configuration of an array.
#[derive(Debug)]
pub struct ArrayConfig {
    /// How new files are stored.
    pub classes: Classes,
    /// Most bytes of content in one extent of new files; usually [`MAX_STREAM`].
    pub extent_size: u64,
    /// How long the other clouds of an upload wait for a cloud that takes nothing; usually
    /// [`Self::PATIENCE`]. A cloud without which there are too few gets five times as long.
    pub patience: Duration,
    /// The array's keyring.
    pub keyring: Keyring,
    /// The keyring, sealed as it is stored on every cloud.
    pub sealed_keyring: Bytes,
    /// The storage servers, one for each cloud.
    pub servers: Vec<Arc<StorageServer>>,
    /// The database of the servers' leases.
    pub leasedb: LeaseDb,
    /// The holds of the servers, which keep shares that are being read.
    pub holds: Holds,
    /// The budget for the memory of uploads.
    pub budget: ChunkBudget,
    /// The budget for the memory of reads. A read goes on without it, but slowly.
    pub read_budget: ChunkBudget,
}

impl ArrayConfig {
    /// Default budget for the memory of reads, in bytes: one at full pace, and many at less.
    pub const READ_MEMORY: u64 = 64 << 20;
    /// Default time that the other clouds of an upload wait for one that takes nothing.
    pub const PATIENCE: Duration = Duration::from_secs(120);
}

/// An array that is running. Dropping it stops its background work. Nothing is lost, because that
/// work is recorded.
#[derive(Debug)]
pub struct Array {
    inner: Arc<Inner>,
    _keyring_task: AbortOnDropHandle<()>,
    _measuring_task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) classes: Classes,
    pub(crate) extent_size: u64,
    pub(crate) patience: Duration,
    pub(crate) keyring: Keyring,
    pub(crate) sealed_keyring: Bytes,
    pub(crate) keyring_copies: KeyringCopies,
    pub(crate) servers: Vec<Arc<StorageServer>>,
    pub(crate) catalog: Catalog,
    /// The health of the clouds. An array that takes this one's place shares it.
    pub(crate) health: Arc<Health>,
    /// The shares that are being read. An array that takes this one's place shares them.
    holds: Holds,
    pub(crate) budget: ChunkBudget,
    pub(crate) read_budget: ChunkBudget,
    /// Memory for small uploads, if others take all of `budget`: an eighth of it.
    pub(crate) small_budget: ChunkBudget,
    /// The turn to probe clouds before an upload.
    pub(crate) probing: Semaphore,
}

/// The options of storing a file.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Counts the bytes that each cloud takes.
    pub transfer: Transfer,
    /// The name of the account that pays for the file; `None` is the account `anonymous`.
    pub account: Option<String>,
    /// Bytes of content, if they are known. The quota must have room for all of them before the
    /// first byte is sent; they are reserved extent by extent.
    pub size: Option<u64>,
    /// The name of the file's class; `None` is that of the bucket.
    pub class: Option<String>,
    /// Whether the file may replace another of its name.
    pub replace: Replace,
    /// When the source of the content was last modified, if that is known.
    pub source_modified: Option<Moment>,
    /// What is kept beside the content.
    pub details: Details,
}

/// The state of an array.
#[derive(Clone, Debug)]
pub struct Status {
    /// The classes, in the order of their names.
    pub classes: Vec<ClassState>,
    /// Totals of files, shares and deletions.
    pub totals: Totals,
    /// State of each cloud.
    pub clouds: Vec<CloudState>,
    /// Clouds that are marked as gone, each with the number of shares that it held.
    pub gone: Vec<(String, u64)>,
    /// A sentence about the machine's clock, if it is off; `None` if it is right.
    pub clock: Option<String>,
}

/// What a class gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassState {
    /// Name of the class.
    pub name: String,
    /// Whether new files have the class if neither their bucket nor their request names one.
    pub is_default: bool,
    /// The class.
    pub class: Class,
    /// Number of clouds that must work for a file of the class to be stored.
    pub needed: usize,
}

/// The state of one cloud.
#[derive(Clone, Debug)]
pub struct CloudState {
    /// Name of the cloud.
    pub name: String,
    /// The cloud's fault now, as a sentence; `None` if it has none.
    pub fault: Option<String>,
    /// Whether the cloud can take a share now.
    pub stores: bool,
    /// Whether the cloud is draining: it holds shares and gets no new ones.
    pub is_draining: bool,
    /// Whether the cloud has a copy of the keyring.
    pub has_keyring: bool,
    /// Number of shares of files that the cloud should have and has not: it did not take them, or
    /// they vanished.
    pub lacking: u64,
    /// Bytes that may still be stored in the cloud; `None` if that is not known.
    pub available: Option<u64>,
    /// The last failure of each kind of work since the process began.
    pub last: Vec<LastFailure>,
}

impl Array {
    /// Opens an array and begins its background work. Uploads of earlier runs begin their rest,
    /// after which they are given up.
    ///
    /// # Errors
    /// Fails with [`ArrayError::ClassImpossible`] if a class can store nothing on the servers that
    /// there are. Fails with [`ArrayError::OtherArray`] if the database belongs to another array,
    /// and with [`ArrayError::Database`] if the database fails.
    pub async fn open(config: ArrayConfig) -> Result<Self> {
        let catalog = Catalog::open(config.leasedb.clone(), config.keyring.array).await?;
        Self::start(config, catalog, Arc::default()).await
    }

    /// Opens an array with another configuration on the same database, to take the place of this
    /// one. Uploads and reads under way here go on. The new array does not delete their shares.
    ///
    /// # Errors
    /// Fails as [`Array::open`] does.
    pub async fn reopen(&self, config: ArrayConfig) -> Result<Self> {
        if config.keyring.array != self.inner.keyring.array {
            return Err(ArrayError::OtherArray);
        }
        Self::start(
            config,
            self.inner.catalog.clone(),
            self.inner.health.clone(),
        )
        .await
    }

    async fn start(config: ArrayConfig, catalog: Catalog, health: Arc<Health>) -> Result<Self> {
        let domains = config
            .servers
            .iter()
            .map(|server| server.domain().to_owned());
        let domains: Vec<String> = domains.collect();
        for (name, class) in config.classes.all() {
            if !class.is_possible_on(&domains) {
                return Err(ArrayError::ClassImpossible {
                    name: name.to_owned(),
                    clouds: domains.len(),
                });
            }
        }
        let inner = Arc::new(Inner {
            catalog,
            classes: config.classes,
            extent_size: config.extent_size.clamp(1, MAX_STREAM),
            patience: config.patience,
            keyring: config.keyring,
            sealed_keyring: config.sealed_keyring,
            keyring_copies: KeyringCopies::default(),
            servers: config.servers,
            health,
            holds: config.holds,
            small_budget: ChunkBudget::new(config.budget.all() / 8),
            budget: config.budget,
            read_budget: config.read_budget,
            probing: Semaphore::new(1),
        });
        let keyring_task = tokio::spawn(inner.clone().keep_keyring_copies());
        let measuring_task = tokio::spawn(inner.clone().measure_clouds());
        Ok(Self {
            inner,
            _keyring_task: AbortOnDropHandle::new(keyring_task),
            _measuring_task: AbortOnDropHandle::new(measuring_task),
        })
    }

    /// Stores `content` under `name` and replaces the file of that name. When this returns, the
    /// file is durable and survives the loss of `survive` more clouds.
    ///
    /// # Errors
    /// Fails with [`ArrayError::TooFewClouds`] and each cloud's fault if too few clouds take a
    /// share. Fails with [`ArrayError::Name`] if the name cannot be a file's, with
    /// [`ArrayError::KeyringNotStored`] if too few clouds have the keyring, and with
    /// [`ArrayError::Content`] if the content breaks off. Fails with [`ArrayError::Storage`] if the
    /// account may not write, with [`ArrayError::NoSuchBucket`] or [`ArrayError::NoSuchClass`] if
    /// there is no such bucket or class, and with [`ArrayError::FileExists`] if another file may
    /// not be replaced. Fails with [`ArrayError::Details`] if more is to be kept beside the content
    /// than can be. The file that had the name before stays.
    pub async fn put<S, E>(
        &self,
        name: &FileName,
        content: S,
        options: PutOptions,
    ) -> Result<FileInfo>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        check_name(&name.name)?;
        options.details.check()?;
        let (inner, name) = (self.inner.clone(), name.clone());
        // A task of its own runs the upload, so that it is tidied up even if the caller goes away.
        tokio::spawn(async move { inner.store(name, content, options).await }).await?
    }

    /// Reads a file, or a range of it that is cut at the file's end. The file may be an older
    /// version of what its name stands for now. Returns the file, the range and its content.
    /// `transfer` counts the bytes that each cloud returns.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchFile`] or [`ArrayError::NoSuchVersion`] if there is none,
    /// with [`ArrayError::DeleteMark`] if the version has no content, and with
    /// [`ArrayError::Range`] if the range begins past the end of the file. The content may end with
    /// [`ArrayError::Unreadable`], and with [`ArrayError::WrongKey`] if the keyring does not open
    /// the key of an extent.
    pub async fn get(
        &self,
        file: impl Into<FileVersion>,
        range: Option<Range<u64>>,
        transfer: Transfer,
    ) -> Result<(FileInfo, Range<u64>, Content)> {
        let file = file.into();
        let (info, extents) = loop {
            let wanted = range.clone().unwrap_or(0..u64::MAX);
            let (info, extents) = self
                .inner
                .catalog
                .file(file.clone(), wanted.clone())
                .await?;
            if !are_sound(&info, &extents, &wanted) {
                return Err(ArrayError::DamagedEntry(info.name));
            }
            let held = extents.into_iter().map(|extent| {
                let hold = self.inner.hold(extent.stream.index);
                (extent, hold)
            });
            let held: Vec<_> = held.collect();
            // The file may have been replaced or removed since it was looked up. Then its shares
            // may be GOING already.
            let mut is_live = true;
            for (extent, _) in &held {
                is_live &= self.inner.catalog.is_live(extent.stream.index).await?;
            }
            if is_live {
                break (info, held);
            }
        };
        let range = match range {
            Some(range) if range.start >= info.size => {
                return Err(ArrayError::Range { size: info.size });
            }
            Some(range) => range.start..range.end.min(info.size),
            None => 0..info.size,
        };
        let content = self
            .inner
            .clone()
            .read_extents(extents, range.clone(), transfer);
        Ok((info, range, content))
    }

    /// Reads what the catalog has of a file, or of one of its versions.
    ///
    /// # Errors
    /// Fails as [`Array::get`] does for the whole file.
    pub async fn stat(&self, file: impl Into<FileVersion>) -> Result<FileInfo> {
        let (info, _) = self.inner.catalog.file(file.into(), 0..u64::MAX).await?;
        Ok(info)
    }

    /// Gives a file, or one of its versions, other tags.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Details`] if the tags cannot be a file's, and as [`Array::stat`]
    /// does.
    pub async fn set_tags(
        &self,
        file: impl Into<FileVersion>,
        tags: BTreeMap<String, String>,
    ) -> Result<()> {
        check_tags(&tags)?;
        self.inner.catalog.set_tags(file.into(), tags).await
    }

    /// Lists a page of files.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchBucket`] if there is no such bucket, and with
    /// [`ArrayError::Database`] if the database cannot be read.
    pub async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.inner.catalog.list(request).await
    }

    /// Makes a file with the content of another, or of one of its versions. Both share what is
    /// stored, and the account that pays for one pays for both. Returns it, without its shares.
    ///
    /// # Errors
    /// Fails as [`Array::stat`] does if there is no file to copy, with [`ArrayError::Name`] or
    /// [`ArrayError::NoSuchBucket`] if there can be none of the new name, and with
    /// [`ArrayError::FileExists`] if another file may not be replaced. Fails with
    /// [`ArrayError::Storage`] if the account may not store so much.
    pub async fn copy(
        &self,
        from: impl Into<FileVersion>,
        to: &FileName,
        replace: Replace,
    ) -> Result<FileInfo> {
        self.copy_or_move(from.into(), to, replace, Moves::No).await
    }

    /// Gives a file another name, also in another bucket. Returns it, without its shares.
    ///
    /// # Errors
    /// Fails as [`Array::copy`] does.
    pub async fn rename(
        &self,
        from: &FileName,
        to: &FileName,
        replace: Replace,
    ) -> Result<FileInfo> {
        self.copy_or_move(from.into(), to, replace, Moves::Yes)
            .await
    }

    async fn copy_or_move(
        &self,
        from: FileVersion,
        to: &FileName,
        replace: Replace,
        moves: Moves,
    ) -> Result<FileInfo> {
        check_name(&to.name)?;
        let to = to.clone();
        let info = self.inner.catalog.copy(from, to, replace, moves).await?;
        // The shares of a file that was replaced are to be collected.
        self.inner.servers.iter().for_each(|server| server.wake());
        Ok(info)
    }

    /// Makes a bucket, which `anonymous` owns.
    ///
    /// # Errors
    /// Fails with [`ArrayError::BucketName`] if the name cannot be a bucket's, with
    /// [`ArrayError::BucketExists`] if there is one, and with [`ArrayError::NoSuchClass`] if there
    /// is no class of the name that its files are to have.
    pub async fn create_bucket(
        &self,
        name: &str,
        class: Option<&str>,
        versioning: Versioning,
    ) -> Result<()> {
        let (owner, inner) = (AccountId::ANONYMOUS, &self.inner);
        inner.classes.find(class)?;
        let class = class.map(str::to_owned);
        inner
            .catalog
            .create_bucket(
                NewBucket {
                    name: name.to_owned(),
                    class,
                    versioning,
                },
                owner,
            )
            .await
    }

    /// Changes whether a bucket keeps the old versions of its files.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchBucket`] if there is none, and with
    /// [`ArrayError::VersioningStays`] if it should be as if it had never kept any, but has.
    pub async fn set_versioning(&self, bucket: &str, versioning: Versioning) -> Result<()> {
        let bucket = bucket.to_owned();
        self.inner.catalog.set_versioning(bucket, versioning).await
    }

    /// Removes a bucket that holds no file, and no old version of one.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchBucket`] if there is none, with
    /// [`ArrayError::BucketNotEmpty`] if it holds files or versions, and with
    /// [`ArrayError::DefaultBucket`] if it is the one that every array has.
    pub async fn remove_bucket(&self, name: &str) -> Result<()> {
        self.inner.catalog.remove_bucket(name.to_owned()).await
    }

    /// Returns all buckets, in the order of their names.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Database`] if the database cannot be read.
    pub async fn buckets(&self) -> Result<Vec<BucketInfo>> {
        let mut buckets = self.inner.catalog.buckets().await?;
        for bucket in &mut buckets {
            bucket.lacks_class = self.inner.classes.find(bucket.class.as_deref()).is_err();
        }
        Ok(buckets)
    }

    /// Removes a file. Collection deletes its shares afterwards, as soon as their clouds answer. In
    /// a bucket that keeps versions, a delete mark becomes what the name stands for, and its id is
    /// returned.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchFile`] if there is no file of that name, and with
    /// [`ArrayError::Database`] if the database cannot be written.
    pub async fn remove(&self, name: &FileName) -> Result<Option<VersionId>> {
        let mark = self.inner.catalog.remove(name.clone()).await?;
        self.inner.servers.iter().for_each(|server| server.wake());
        Ok(mark)
    }

    /// Removes one version of a file for good, or a delete mark. If it was what the name stands
    /// for, the newest of the others is now.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchVersion`] if there is no such version, and with
    /// [`ArrayError::Database`] if the database cannot be written.
    pub async fn remove_version(&self, name: &FileName, version: VersionId) -> Result<()> {
        let catalog = &self.inner.catalog;
        catalog.remove_version(name.clone(), version).await?;
        self.inner.servers.iter().for_each(|server| server.wake());
        Ok(())
    }

    /// The array's storage servers, in the order of the configuration.
    pub fn servers(&self) -> &[Arc<StorageServer>] {
        &self.inner.servers
    }

    /// The database of the servers' leases.
    pub fn leasedb(&self) -> &LeaseDb {
        self.inner.catalog.leasedb()
    }

    /// Returns the array's state. It probes every cloud, for at most ten seconds each.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Database`] or [`ArrayError::Storage`] if the database fails. A
    /// cloud's fault is a part of the state.
    pub async fn status(&self) -> Result<Status> {
        let (holders, lacking) = (
            self.inner.keyring_holders().await?,
            self.inner.catalog.lacking().await?,
        );
        let probes = self
            .inner
            .servers
            .iter()
            .map(|server| self.state(server, &holders, &lacking));
        let leasedb = self.leasedb();
        Ok(Status {
            classes: self.classes(),
            totals: self.inner.catalog.totals().await?,
            clouds: futures::future::join_all(probes).await,
            gone: leasedb.gone().await?.into_iter().collect(),
            clock: leasedb.clock_fault(),
        })
    }

    fn classes(&self) -> Vec<ClassState> {
        let classes = &self.inner.classes;
        let (default, _) = classes.default();
        let all = classes.all().map(|(name, class)| ClassState {
            name: name.to_owned(),
            is_default: name == default,
            class,
            needed: class.needed(),
        });
        all.collect()
    }

    async fn state(
        &self,
        server: &StorageServer,
        holders: &[String],
        lacking: &BTreeMap<String, u64>,
    ) -> CloudState {
        let name = server.name();
        let (stores, fault, available) = match tokio::time::timeout(PROBE, server.condition()).await
        {
            Ok(Ok(condition)) => {
                // Whoever asked knows that it works, and so do the next uploads.
                if condition.stores {
                    self.inner.health.answered(name);
                }
                let keyring = || self.inner.keyring_copies.fault(name);
                let fault = condition.fault.or_else(keyring);
                (condition.stores, fault, condition.available)
            }
            Ok(Err(e)) => (false, Some(e.to_string()), None),
            Err(_) => {
                let silent = format!("cloud {name:?}: no answer within {} s", PROBE.as_secs());
                (false, Some(silent), None)
            }
        };
        CloudState {
            name: name.to_owned(),
            fault,
            stores,
            is_draining: server.is_draining(),
            has_keyring: holders.iter().any(|holder| holder == name),
            lacking: lacking.get(name).copied().unwrap_or_default(),
            available,
            last: self.inner.health.last_failures(name),
        }
    }
}

/// Returns whether a file's extents lie one after the other and have all of a range, and their
/// numbers are such that their segments can be held in memory.
fn are_sound(info: &FileInfo, extents: &[Extent], range: &Range<u64>) -> bool {
    let mut end = extents.first().map_or(0, |extent| extent.offset);
    let begins = end <= range.start || range.start >= info.size;
    let is_sound = |extent: &Extent| {
        let layout = &extent.stream.layout;
        let follows = extent.offset == end && extent.length <= layout.padded;
        end += extent.length;
        follows && layout.is_sound()
    };
    extents.iter().all(is_sound) && begins && end >= range.end.min(info.size)
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
    Err(ArrayError::Name {
        name: name.chars().take(64).collect(),
        problem,
    })
}

impl Inner {
    /// Probes servers that failed, and returns the names of those that answer. A probe passes a
    /// circuit breaker that lets no other request pass, and closes it.
    pub(crate) async fn that_answer(&self, servers: Vec<&Arc<StorageServer>>) -> Vec<String> {
        let probes = servers.into_iter().map(|server| async move {
            let probed = tokio::time::timeout(PROBE, server.probe()).await;
            matches!(probed, Ok(Ok(()))).then(|| server.name().to_owned())
        });
        let answering: Vec<String> = futures::future::join_all(probes)
            .await
            .into_iter()
            .flatten()
            .collect();
        answering
            .iter()
            .for_each(|cloud| self.health.answered(cloud));
        answering
    }

    /// Asks clouds that failed whether they can take shares again. Those that can count as up.
    pub(crate) async fn that_store(&self, servers: Vec<&Arc<StorageServer>>, patience: Duration) {
        let asked = servers.into_iter().map(|server| async move {
            let began = Instant::now();
            match tokio::time::timeout(patience, server.condition()).await {
                Ok(Ok(condition)) if condition.stores => self.health.answered(server.name()),
                _ => self.health.probed_in_vain(server.name(), began.elapsed()),
            }
        });
        futures::future::join_all(asked).await;
    }

    /// Measures every minute how much can be stored in the clouds, for as long as the array runs.
    /// Placement goes by the last figure.
    async fn measure_clouds(self: Arc<Self>) {
        let mut minutes = tokio::time::interval(MEASURED_EVERY);
        minutes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            minutes.tick().await;
            let measured = self.servers.iter().map(|server| async move {
                if let Ok(Err(e)) = tokio::time::timeout(PROBE, server.available_space()).await {
                    tracing::debug!("the space of cloud {:?} is unknown: {e}", server.name());
                }
            });
            futures::future::join_all(measured).await;
        }
    }

    /// Holds a stream: while the hold lives, this process does not delete the stream's shares.
    pub(crate) fn hold(&self, index: raic_storage::StorageIndex) -> Hold {
        self.holds.hold(index)
    }
}
