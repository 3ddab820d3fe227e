//! A storage server: a backend with its leases, one for each cloud.

use std::{
    collections::HashMap,
    num::NonZeroU16,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::{
    Backend, Expiry, LeaseDb, Owner, Ownership, Result, ServerId, ShareId, ShareStream,
    ShareWriter, StorageError, StorageIndex, Stored, StreamMemory, uploads::Uploads,
};

/// How much a cloud is preferred when shares are placed. Of many clouds, one of twice the weight
/// gets twice the shares; of as many clouds as shares, each gets one. From 1; 100 is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// Makes a weight; `None` if it is 0.
    pub fn new(weight: u16) -> Option<Self> {
        NonZeroU16::new(weight).map(Self)
    }

    /// The weight as a number.
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        const HUNDRED: NonZeroU16 = NonZeroU16::MIN.saturating_add(99);
        Self(HUNDRED)
    }
}

/// What it costs to read 10^9 bytes from a cloud, in millionths of any unit: only differences
/// count. 0 is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(u64);

impl Cost {
    /// Makes the cost of reading 10^9 bytes; `None` if it is no number from 0 to a million.
    pub fn per_gigabyte(units: f64) -> Option<Self> {
        const MOST: f64 = 1e6;
        (0.0..=MOST)
            .contains(&units)
            .then(|| Self((units * 1e6).round() as u64))
    }
}

/// The settings of a storage server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Name of the group of clouds that may fail together. `None` means the cloud's own name.
    pub domain: Option<String>,
    /// How many shares the cloud gets beside the others.
    pub weight: Weight,
    /// What it costs to read from the cloud.
    pub cost: Cost,
    /// Whether nothing may be written to or deleted from the cloud.
    pub is_read_only: bool,
    /// The rule by which accounts' leases end by themselves.
    pub expiry: Expiry,
    /// Most shares that collection deletes in a second, 1 or more.
    pub deletions_per_second: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            domain: None,
            weight: Weight::default(),
            cost: Cost::default(),
            is_read_only: false,
            expiry: Expiry::Never,
            deletions_per_second: 100,
        }
    }
}

/// The operations that this process has open on all servers: reads, whose shares it must not delete
/// meanwhile, uploads, and writers of slots. It outlives reloads of the configuration. Clones share
/// it.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    reading: Arc<Mutex<HashMap<StorageIndex, usize>>>,
    uploads: Arc<Mutex<HashMap<ServerId, Arc<Uploads>>>>,
}

/// Holds a storage index: while this lives, this process does not delete shares of that storage
/// index.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    index: StorageIndex,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, HashMap<StorageIndex, usize>> {
        self.reading.lock()
    }

    fn uploads(&self, server: ServerId) -> Arc<Uploads> {
        self.uploads.lock().entry(server).or_default().clone()
    }

    /// Holds a storage index until the returned hold is dropped.
    pub fn hold(&self, index: StorageIndex) -> Hold {
        *self.lock().entry(index).or_default() += 1;
        Hold {
            holds: self.clone(),
            index,
        }
    }

    /// Returns whether a storage index is held.
    pub fn is_held(&self, index: StorageIndex) -> bool {
        self.lock().contains_key(&index)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock();
        if let Some(count) = holds.get_mut(&self.index) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.index);
            }
        }
    }
}

/// The last look at a container's owner, and its time.
#[derive(Debug)]
struct Looked {
    found: Ownership,
    at: Instant,
}

/// What a cloud that answers can do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether the cloud can take a share.
    pub stores: bool,
    /// Why it takes none, as a sentence; `None` if it takes some.
    pub fault: Option<String>,
    /// Bytes that may still be stored; `None` if that is not known.
    pub available: Option<u64>,
}

/// How long a look at a container's owner counts for operations that destroy nothing.
const SEEN: Duration = Duration::from_secs(120);

/// A storage server: a backend with its leases. There is one for each cloud.
#[derive(Debug)]
pub struct StorageServer {
    pub(crate) id: ServerId,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) leasedb: LeaseDb,
    pub(crate) owner: Owner,
    pub(crate) settings: ServerSettings,
    pub(crate) holds: Holds,
    pub(crate) uploads: Arc<Uploads>,
    /// Wakes the collector when there may be something to collect.
    pub(crate) wake: watch::Sender<()>,
    // Blocking locks: held only while a value is copied.
    ownership: Mutex<Option<Looked>>,
    /// Number of the run that this process has written into the container.
    told_run: Mutex<Option<u64>>,
    /// The bytes that could still be stored when that was found out last.
    pub(crate) last_available: Mutex<Option<u64>>,
}

impl StorageServer {
    /// Opens the server of a backend, under the backend's name. It sends nothing yet, and the
    /// backend may not be written to before [`StorageServer::check_owner`].
    ///
    /// # Errors
    /// Fails with [`StorageError::Database`] if the database cannot be written.
    pub async fn open(
        backend: Arc<dyn Backend>,
        leasedb: LeaseDb,
        owner: Owner,
        settings: ServerSettings,
        holds: Holds,
    ) -> Result<Self> {
        let id = leasedb.server(backend.name()).await?;
        // From the first request on, a not-found counts only if the owner object can be read.
        backend.set_owner(Some(owner.object()));
        // Nothing may be written until the container's owner is known.
        backend.set_writable(false);
        let wake = watch::Sender::new(());
        let uploads = holds.uploads(id);
        let (ownership, told_run) = (Mutex::default(), Mutex::default());
        Ok(Self {
            id,
            backend,
            leasedb,
            owner,
            settings,
            holds,
            uploads,
            wake,
            ownership,
            told_run,
            last_available: Mutex::default(),
        })
    }

    /// The configured name of the server's cloud.
    pub fn name(&self) -> &str {
        self.backend.name()
    }

    /// The server's number.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// The name of the group of clouds that may fail together with this one; its own name unless
    /// set.
    pub fn domain(&self) -> &str {
        self.settings.domain.as_deref().unwrap_or(self.name())
    }

    /// How many shares the cloud gets beside the others.
    pub fn weight(&self) -> Weight {
        self.settings.weight
    }

    /// What it costs to read from the cloud.
    pub fn cost(&self) -> Cost {
        self.settings.cost
    }

    /// The rule by which accounts' leases end by themselves.
    pub fn expiry(&self) -> Expiry {
        self.settings.expiry
    }

    /// The backend that keeps the server's shares.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The database of the server's leases.
    pub fn leasedb(&self) -> &LeaseDb {
        &self.leasedb
    }

    /// Wakes the collector, because there may be something to collect.
    pub fn wake(&self) {
        self.wake.send_replace(());
    }

    fn ownership(&self) -> MutexGuard<'_, Option<Looked>> {
        self.ownership.lock()
    }

    /// Forgets what was seen of the container's owner, so that the next operation looks anew.
    pub fn forget_owner(&self) {
        *self.ownership() = None;
    }

    /// Reads the container's owner, writes this run into the container, and claims a container that
    /// never had an owner.
    ///
    /// # Errors
    /// Fails if the ownership cannot be found out. Then nothing may be destroyed.
    pub async fn check_owner(&self) -> Result<Ownership> {
        // This is read before the container is: a claim writes the container first, and then the
        // row.
        let is_claimed = self.leasedb.is_claimed(self.id).await?;
        let mut found = self.begin_run().await?;
        let is_new = found == Ownership::Unowned && !is_claimed;
        if (is_new || found == Ownership::OursBefore) && !self.settings.is_read_only {
            let issued = self.leasedb.issued_runs().await?;
            self.owner.claim(&*self.backend, self.id, &issued).await?;
            found = self.begin_run().await?;
        }
        if found == Ownership::Ours && !is_claimed {
            self.leasedb.set_claimed(self.id).await?;
        }
        self.learned(found.clone());
        Ok(found)
    }

    /// Returns the ownership as seen within the last two minutes, or checks it now. This is for
    /// operations that destroy nothing.
    pub(crate) async fn seen_owner(&self) -> Result<Ownership> {
        let lately = self
            .ownership()
            .as_ref()
            .filter(|seen| seen.at.elapsed() < SEEN)
            .map(|seen| seen.found.clone());
        match lately {
            Some(found) => Ok(found),
            None => self.check_owner().await,
        }
    }

    /// Looks for other daemons, and writes this run into the container before anything else is
    /// sent. A read-only cloud gets no run.
    async fn begin_run(&self) -> Result<Ownership> {
        let issued = self.leasedb.issued_runs().await?;
        if self.settings.is_read_only {
            return self.owner.check(&*self.backend, self.id, &issued).await;
        }
        let written = *self.told_run.lock();
        let (found, written) = self
            .owner
            .begin_run(&*self.backend, self.id, &issued, written)
            .await?;
        *self.told_run.lock() = written;
        Ok(found)
    }

    fn learned(&self, found: Ownership) {
        self.backend
            .set_writable(!self.settings.is_read_only && found.refusal(self.name()).is_none());
        let before = self.ownership().replace(Looked {
            found: found.clone(),
            at: Instant::now(),
        });
        if before.is_none_or(|before| before.found != found)
            && let Some(reason) = found.refusal(self.name())
        {
            tracing::error!("cloud {:?} is read-only: {reason}", self.name());
        }
    }

    /// Gives a container that has lost its owner object a new one.
    ///
    /// # Errors
    /// Fails with [`StorageError::ReadOnly`] if the container belongs to another owner, or if
    /// config.toml sets the cloud read-only. Also fails if the ownership cannot be found out.
    pub async fn adopt(&self) -> Result<()> {
        self.require_configured_writable()?;
        let mut found = self.begin_run().await?;
        if found == Ownership::Unowned {
            let issued = self.leasedb.issued_runs().await?;
            self.owner.claim(&*self.backend, self.id, &issued).await?;
            self.leasedb.set_claimed(self.id).await?;
            found = self.begin_run().await?;
        }
        self.learned(found.clone());
        found.writable(self.name())
    }

    /// Requires that config.toml does not set the cloud read-only.
    pub(crate) fn require_configured_writable(&self) -> Result<()> {
        match self.settings.is_read_only {
            false => Ok(()),
            true => Err(StorageError::ReadOnly {
                backend: self.name().to_owned(),
                reason: "config.toml sets `read_only`".to_owned(),
            }),
        }
    }

    /// Returns the reason why nothing may be written or deleted; `None` if both are permitted or
    /// the ownership is not known yet.
    pub fn refusal(&self) -> Option<String> {
        if self.settings.is_read_only {
            return Some("config.toml sets `read_only`".to_owned());
        }
        self.ownership()
            .as_ref()
            .and_then(|seen| seen.found.refusal(self.name()))
    }

    /// Requires that shares may be written. If the ownership is not known yet, it is checked now.
    ///
    /// # Errors
    /// Fails with [`StorageError::ReadOnly`] if they may not, and with another error if the
    /// ownership cannot be found out.
    pub async fn require_writable(&self) -> Result<()> {
        if let Some(reason) = self.refusal() {
            return Err(StorageError::ReadOnly {
                backend: self.name().to_owned(),
                reason,
            });
        }
        let known = self.ownership().is_some();
        if known {
            Ok(())
        } else {
            self.check_owner().await?.writable(self.name())
        }
    }

    /// Begins a share of an array, which a transaction of the array has allocated. `length` is its
    /// length in bytes, if that is known.
    ///
    /// # Errors
    /// Fails with [`StorageError::ReadOnly`] if the cloud may not be written to, and with
    /// [`StorageError::NoSpace`] if a share of `length` bytes does not fit. Also fails if the
    /// backend does.
    pub async fn create(
        &self,
        id: ShareId,
        length: Option<u64>,
        memory: Arc<StreamMemory>,
    ) -> Result<Box<dyn ShareWriter>> {
        self.require_writable().await?;
        if let (Some(needed), Some(available)) = (length, self.available_space().await?)
            && available < needed
        {
            return Err(StorageError::NoSpace {
                backend: self.name().to_owned(),
                needed,
                available,
            });
        }
        self.backend.create(id, memory).await
    }

    /// Takes note of what is recorded of a whole share, before it is read.
    pub fn remember(&self, id: ShareId, stored: Stored) {
        self.backend.remember(id, stored);
    }

    /// Reads a part of a share, as it is stored.
    ///
    /// # Errors
    /// Fails as [`crate::ShareStore::read`] does.
    pub async fn read(&self, id: ShareId, range: Range<u64>) -> Result<ShareStream> {
        self.backend.read(id, range).await
    }

    /// Stores a small object that is not a share.
    ///
    /// # Errors
    /// Fails with [`StorageError::ReadOnly`] if the cloud may not be written to, or if the backend
    /// fails.
    pub async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        self.require_writable().await?;
        self.backend.store_object(name, content).await
    }

    /// Reads a small object that is not a share; `None` if there is none of that name.
    ///
    /// # Errors
    /// Fails as [`crate::Container::load_object`] does.
    pub async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        self.backend.load_object(name).await
    }

    /// Proves that the cloud answers.
    ///
    /// # Errors
    /// Fails with the backend's error if it does not.
    pub async fn probe(&self) -> Result<()> {
        self.backend.probe().await
    }

    /// Asks the cloud whether it can be used now.
    ///
    /// # Errors
    /// Fails with the backend's or the database's error if the cloud does not answer.
    pub async fn condition(&self) -> Result<Condition> {
        self.probe().await?;
        let available = self.available_space().await?;
        let name = self.name();
        let refusal = self
            .refusal()
            .map(|why| format!("cloud {name:?} is read-only: {why}"));
        let full = || format!("cloud {name:?} is full, except for the space reserved for others");
        let is_full = available == Some(0);
        Ok(Condition {
            stores: refusal.is_none() && !is_full && !self.is_draining(),
            fault: refusal.or_else(|| is_full.then(full)),
            available,
        })
    }

    /// Whether the cloud holds shares and gets no new ones.
    pub fn is_draining(&self) -> bool {
        self.leasedb.is_draining(self.id)
    }

    /// The bytes that could still be stored when [`StorageServer::available_space`] found it out
    /// last; `None` if it is not known, or there is no limit.
    pub fn last_available(&self) -> Option<u64> {
        *self.last_available.lock()
    }

    /// Requires that the container has its owner object, after objects were found missing or were
    /// deleted. Only then they count as gone.
    pub(crate) async fn require_owned(&self) -> Result<()> {
        match self.backend.load_object(&self.owner.object()).await? {
            Some(_) => Ok(()),
            None => {
                self.learned(Ownership::Unowned);
                Ownership::Unowned.writable(self.name())
            }
        }
    }
}
