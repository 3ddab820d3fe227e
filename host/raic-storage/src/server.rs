//! A storage server: a backend with its leases, one for each cloud.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    Backend, Expiry, LeaseDb, Owner, Ownership, Result, ServerId, ShareNum, ShareStream,
    ShareWriter, StorageError, StorageIndex, tahoe::Uploads,
};

/// How a storage server treats what it holds.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// What it fails together with; its own name unless set.
    pub domain: Option<String>,
    /// Nothing is written or deleted.
    pub is_read_only: bool,
    /// When accounts' leases end by themselves.
    pub expiry: Expiry,
    /// Shares that are deleted in a second, at most; 1 or more.
    pub deletions_per_second: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            domain: None,
            is_read_only: false,
            expiry: Expiry::Never,
            deletions_per_second: 100,
        }
    }
}

/// What this process has open, over all servers and every configuration since it started: what is
/// being read, and must not be deleted by it meanwhile; uploads; writers of slots. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    reading: Arc<Mutex<HashMap<StorageIndex, usize>>>,
    uploads: Arc<Mutex<HashMap<ServerId, Arc<Uploads>>>>,
}

/// While it lives, the shares of its storage index are not deleted by this process.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    index: StorageIndex,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, HashMap<StorageIndex, usize>> {
        // Each change is one call on the map, so a panic elsewhere leaves it whole.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploads(&self, server: ServerId) -> Arc<Uploads> {
        self.uploads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(server)
            .or_default()
            .clone()
    }

    /// Holds a storage index.
    pub fn hold(&self, index: StorageIndex) -> Hold {
        *self.lock().entry(index).or_default() += 1;
        Hold {
            holds: self.clone(),
            index,
        }
    }

    /// Whether somebody holds it.
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

/// What was seen of a container's owner, and when.
#[derive(Debug)]
struct Looked {
    found: Ownership,
    at: Instant,
}

/// How long what was seen of a container's owner counts, where nothing is destroyed by it.
const SEEN: Duration = Duration::from_secs(120);

/// A backend with its leases.
#[derive(Debug)]
pub struct StorageServer {
    pub(crate) id: ServerId,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) leasedb: LeaseDb,
    pub(crate) owner: Owner,
    pub(crate) settings: ServerSettings,
    pub(crate) holds: Holds,
    pub(crate) uploads: Arc<Uploads>,
    /// Changes when there may be something to collect.
    pub(crate) wake: watch::Sender<()>,
    // Std locks: held while a value is copied.
    ownership: Mutex<Option<Looked>>,
    /// The number of the run that the container was told of.
    told_run: Mutex<Option<u64>>,
    /// When the next deletions may go out.
    pub(crate) paced: Mutex<Option<Instant>>,
}

impl StorageServer {
    /// The server of a backend, by its name. Sends nothing yet.
    ///
    /// # Errors
    /// The database's.
    pub async fn open(
        backend: Arc<dyn Backend>,
        leasedb: LeaseDb,
        owner: Owner,
        settings: ServerSettings,
        holds: Holds,
    ) -> Result<Self> {
        let id = leasedb.server(backend.name()).await?;
        // From the first request on a not-found counts only beside the owner object.
        backend.set_owner(Some(owner.object()));
        // Until it is known whose the container is.
        backend.set_writable(false);
        let wake = watch::Sender::new(());
        let uploads = holds.uploads(id);
        let (ownership, told_run, paced) = (Mutex::default(), Mutex::default(), Mutex::default());
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
            paced,
        })
    }

    /// The cloud's configured name.
    pub fn name(&self) -> &str {
        self.backend.name()
    }

    /// Its number.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// What it fails together with.
    pub fn domain(&self) -> &str {
        self.settings.domain.as_deref().unwrap_or(self.name())
    }

    /// When accounts' leases end by themselves.
    pub fn expiry(&self) -> Expiry {
        self.settings.expiry
    }

    /// What keeps the shares.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Where its leases are.
    pub fn leasedb(&self) -> &LeaseDb {
        &self.leasedb
    }

    /// There may be something to collect.
    pub fn wake(&self) {
        self.wake.send_replace(());
    }

    fn ownership(&self) -> MutexGuard<'_, Option<Looked>> {
        self.ownership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads whose the container is, tells it of this run, and takes one that nobody ever had.
    ///
    /// # Errors
    /// Where it cannot be told: then nothing may be destroyed.
    pub async fn check_owner(&self) -> Result<Ownership> {
        // Before the container is read: who claims it writes there first, and then the row.
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

    /// What was seen of the owner lately, or is seen now: for what destroys nothing.
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

    /// Looks for other daemons, and tells the container of this one's run, before anything else is
    /// sent. A read-only cloud is not told.
    async fn begin_run(&self) -> Result<Ownership> {
        let issued = self.leasedb.issued_runs().await?;
        if self.settings.is_read_only {
            return self.owner.check(&*self.backend, self.id, &issued).await;
        }
        let told = *self.told_run.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, told) = self
            .owner
            .begin_run(&*self.backend, self.id, &issued, told)
            .await?;
        *self.told_run.lock().unwrap_or_else(PoisonError::into_inner) = told;
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

    /// Gives the container an owner object again, which has lost it.
    ///
    /// # Errors
    /// [`StorageError::ReadOnly`] where it is another's, or config.toml says that nothing is
    /// written there.
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

    /// That config.toml does not say that nothing is written there.
    pub(crate) fn require_configured_writable(&self) -> Result<()> {
        match self.settings.is_read_only {
            false => Ok(()),
            true => Err(StorageError::ReadOnly {
                backend: self.name().to_owned(),
                reason: "config.toml says so (read_only)".to_owned(),
            }),
        }
    }

    /// Why nothing may be written or deleted; none where it may, or where it is not known yet.
    pub fn refusal(&self) -> Option<String> {
        if self.settings.is_read_only {
            return Some("config.toml says so (read_only)".to_owned());
        }
        self.ownership()
            .as_ref()
            .and_then(|seen| seen.found.refusal(self.name()))
    }

    /// Whether shares may be written.
    ///
    /// # Errors
    /// [`StorageError::ReadOnly`], and what keeps it from being told.
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

    /// Begins a share of an array, which a transaction of the array's has allocated; of `length`
    /// bytes, where that is known.
    ///
    /// # Errors
    /// The backend's; [`StorageError::ReadOnly`]; [`StorageError::NoSpace`] where it would not fit.
    pub async fn create(
        &self,
        index: StorageIndex,
        share: ShareNum,
        length: Option<u64>,
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
        self.backend.create(index, share).await
    }

    /// Reads a part of a share, as it is stored.
    ///
    /// # Errors
    /// The backend's.
    pub async fn read(
        &self,
        index: StorageIndex,
        share: ShareNum,
        range: Range<u64>,
    ) -> Result<ShareStream> {
        self.backend.read(index, share, range).await
    }

    /// Keeps a small object that is no share.
    ///
    /// # Errors
    /// The backend's; [`StorageError::ReadOnly`].
    pub async fn store_object(&self, name: &str, content: Bytes) -> Result<()> {
        self.require_writable().await?;
        self.backend.store_object(name, content).await
    }

    /// Reads one.
    ///
    /// # Errors
    /// The backend's.
    pub async fn load_object(&self, name: &str) -> Result<Option<Bytes>> {
        self.backend.load_object(name).await
    }

    /// Proves that the cloud answers.
    ///
    /// # Errors
    /// The backend's.
    pub async fn probe(&self) -> Result<()> {
        self.backend.probe().await
    }

    /// After objects were found missing, or deleted: whether the container is the one in which that
    /// counts.
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
