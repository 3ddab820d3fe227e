//! The array as its users see it.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use raic_storage::{ChunkBudget, Hold, Holds, LeaseDb, StorageServer};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ArrayError, Content, FileInfo, Geometry, Keyring, Result, Totals, Transfer,
    catalog::Catalog,
    codec::Codec,
    download::is_sound,
    health::{Health, LastFailure},
    keyring_copies::KeyringCopies,
};

/// How long a cloud's probe may take.
const PROBE: Duration = Duration::from_secs(10);
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
    /// How long an upload's clouds that keep up wait for one that takes nothing; [`Self::PATIENCE`]
    /// unless there is a reason. One without which there are too few is waited for five times as
    /// long.
    pub patience: Duration,
    /// The keys.
    pub keyring: Keyring,
    /// The keyring as it is stored on every cloud.
    pub sealed_keyring: Bytes,
    /// One a cloud; share i goes to server i.
    pub servers: Vec<Arc<StorageServer>>,
    /// The leases of all of them.
    pub leasedb: LeaseDb,
    /// What is being read: the servers' own.
    pub holds: Holds,
    /// What uploads and reads hold in memory comes from it.
    pub budget: ChunkBudget,
}

impl ArrayConfig {
    /// Bytes of content in a segment, unless there is a reason.
    pub const SEGMENT_SIZE: u32 = 128 << 10;
    /// How long an upload waits for one cloud, unless there is a reason.
    pub const PATIENCE: Duration = Duration::from_secs(120);
}

/// An array, running. Dropping it stops its work beside; nothing is lost, since that work is
/// recorded.
#[derive(Debug)]
pub struct Array {
    inner: Arc<Inner>,
    _keyring_task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) geometry: Geometry,
    pub(crate) segment_size: u32,
    pub(crate) survive: usize,
    pub(crate) patience: Duration,
    pub(crate) keyring: Keyring,
    pub(crate) sealed_keyring: Bytes,
    pub(crate) keyring_copies: KeyringCopies,
    pub(crate) servers: Vec<Arc<StorageServer>>,
    pub(crate) catalog: Catalog,
    pub(crate) codec: Codec,
    /// What is known of the clouds' health; shared with the array that takes this one's place.
    pub(crate) health: Arc<Health>,
    /// Shared with the array that takes this one's place.
    holds: Holds,
    pub(crate) budget: ChunkBudget,
}

/// How a file is stored.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Counts the bytes that each cloud takes.
    pub transfer: Transfer,
    /// The name of the account that pays for the file; `None` is the account `anonymous`.
    pub account: Option<String>,
    /// Bytes of content, if they are known: reserved before the first is sent.
    pub size: Option<u64>,
}

/// How an array is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its geometry.
    pub geometry: Geometry,
    /// Clouds that must take their share for a file to be stored.
    pub needed: usize,
    /// Files and what waits.
    pub totals: Totals,
    /// Each cloud.
    pub clouds: Vec<CloudState>,
    /// Clouds that were said to be gone, and shares of files that were there.
    pub gone: Vec<(String, u64)>,
    /// What is wrong with the machine's clock, while leases wait for it.
    pub clock: Option<String>,
}

/// How one cloud is.
#[derive(Clone, Debug)]
pub struct CloudState {
    /// Its name.
    pub name: String,
    /// What is wrong with it now.
    pub fault: Option<String>,
    /// Whether it can take a share now.
    pub stores: bool,
    /// Whether it has the keyring.
    pub has_keyring: bool,
    /// Shares of files that it should have and has not: it did not take them, or they vanished.
    pub lacking: u64,
    /// Bytes that may still be stored there, where that is known.
    pub available: Option<u64>,
    /// The last failure of each kind since the process began.
    pub last: Vec<LastFailure>,
}

impl Array {
    /// Opens an array and begins its work beside. Uploads that a crash ended are turned into
    /// deletions first.
    ///
    /// # Errors
    /// [`ArrayError::Geometry`], [`ArrayError::Keyring`] where the database is another array's, or
    /// the database's.
    pub async fn open(config: ArrayConfig) -> Result<Self> {
        let catalog = Catalog::open(config.leasedb.clone(), config.keyring.array).await?;
        Self::start(config, catalog, Arc::default()).await
    }

    /// An array of another configuration in the place of this one, on the same database. Uploads
    /// and reads under way here go on, and their shares are safe from its deletions.
    ///
    /// # Errors
    /// As [`Array::open`].
    pub async fn reopen(&self, config: ArrayConfig) -> Result<Self> {
        if config.keyring.array != self.inner.keyring.array {
            return Err(ArrayError::Keyring);
        }
        Self::start(
            config,
            self.inner.catalog.clone(),
            self.inner.health.clone(),
        )
        .await
    }

    async fn start(config: ArrayConfig, catalog: Catalog, health: Arc<Health>) -> Result<Self> {
        let n = config.servers.len();
        if n != usize::from(config.geometry.n) {
            return Err(ArrayError::Geometry {
                k: config.geometry.k,
                n,
            });
        }
        let inner = Arc::new(Inner {
            codec: Codec::new(config.geometry)?,
            catalog,
            geometry: config.geometry,
            segment_size: config.segment_size,
            survive: config.survive,
            patience: config.patience,
            keyring: config.keyring,
            sealed_keyring: config.sealed_keyring,
            keyring_copies: KeyringCopies::default(),
            servers: config.servers,
            health,
            holds: config.holds,
            budget: config.budget,
        });
        let keyring_task = tokio::spawn(inner.clone().keep_keyring_copies());
        Ok(Self {
            inner,
            _keyring_task: AbortOnDropHandle::new(keyring_task),
        })
    }

    /// Stores `content` under `name`, replacing the file there. When it returns, the file is
    /// durable, and survives the loss of one more cloud than fail now (`survive`).
    ///
    /// # Errors
    /// [`ArrayError::TooFewClouds`] with each cloud's fault; what was there before stays.
    pub async fn put<S, E>(&self, name: &str, content: S, options: PutOptions) -> Result<FileInfo>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        check_name(name)?;
        let (inner, name_owned) = (self.inner.clone(), name.to_owned());
        // A task of its own: an upload whose asker goes away is still tidied up.
        tokio::spawn(async move { inner.store(name_owned, content, options).await }).await?
    }

    /// A file and its content, or a range of it, cut at its end; `transfer` counts along.
    ///
    /// # Errors
    /// [`ArrayError::NoSuchFile`], [`ArrayError::Range`]; [`ArrayError::Unreadable`] may also come
    /// out of the content.
    pub async fn get(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        transfer: Transfer,
    ) -> Result<(FileInfo, Range<u64>, Content)> {
        let (info, stream, reading) = loop {
            let (info, mut streams) = self.inner.catalog.file(name.to_owned()).await?;
            let stream = streams
                .pop()
                .filter(|s| streams.is_empty() && is_sound(&s.layout));
            let stream = stream.ok_or_else(|| {
                ArrayError::Task(format!("the catalog's entry of {name:?} is damaged"))
            })?;
            let reading = self.inner.hold(stream.index);
            // Replaced or removed since it was looked up, its shares may be going already.
            if self.inner.catalog.is_live(stream.index).await? {
                break (info, stream, reading);
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
            .read_stream(stream, reading, range.clone(), transfer)?;
        Ok((info, range, content))
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// [`ArrayError::NoSuchFile`].
    pub async fn stat(&self, name: &str) -> Result<FileInfo> {
        Ok(self.inner.catalog.file(name.to_owned()).await?.0)
    }

    /// Up to `limit` files after `after`, whose names begin with `prefix`, in the order of their
    /// names.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, prefix: &str, after: &str, limit: u32) -> Result<Vec<FileInfo>> {
        self.inner
            .catalog
            .list(prefix.to_owned(), after.to_owned(), limit)
            .await
    }

    /// Removes a file. Its shares are deleted afterwards, as soon as their clouds let them.
    ///
    /// # Errors
    /// [`ArrayError::NoSuchFile`].
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.inner.catalog.remove(name.to_owned()).await?;
        self.inner.servers.iter().for_each(|server| server.wake());
        Ok(())
    }

    /// Its storage servers, in the order of their share numbers.
    pub fn servers(&self) -> &[Arc<StorageServer>] {
        &self.inner.servers
    }

    /// The leases of all its servers.
    pub fn leasedb(&self) -> &LeaseDb {
        self.inner.catalog.leasedb()
    }

    /// How the array is; asks every cloud.
    ///
    /// # Errors
    /// The database's.
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
        let gone = leasedb.servers().await?;
        Ok(Status {
            geometry: self.inner.geometry,
            needed: self.inner.needed(),
            totals: self.inner.catalog.totals().await?,
            clouds: futures::future::join_all(probes).await,
            gone: gone
                .into_iter()
                .filter(|s| s.is_gone && s.shares > 0)
                .map(|s| (s.name, s.shares))
                .collect(),
            clock: leasedb.clock_fault(),
        })
    }

    async fn state(
        &self,
        server: &StorageServer,
        holders: &[String],
        lacking: &BTreeMap<String, u64>,
    ) -> CloudState {
        let name = server.name();
        let asked = async {
            server.probe().await?;
            server.available_space().await
        };
        let mut stores = false;
        let (fault, available) = match tokio::time::timeout(PROBE, asked).await {
            Ok(Ok(available)) => {
                let fault = server
                    .refusal()
                    .map(|why| format!("cloud {name:?} is read-only: {why}"));
                stores = fault.is_none() && available != Some(0);
                let full = || {
                    (available == Some(0)).then(|| {
                        format!("cloud {name:?} is full, beyond what is reserved for others")
                    })
                };
                (
                    fault
                        .or_else(|| self.inner.keyring_copies.fault(name))
                        .or_else(full),
                    available,
                )
            }
            Ok(Err(e)) => (Some(e.to_string()), None),
            Err(_) => (
                Some(format!(
                    "cloud {name:?}: no answer within {} s",
                    PROBE.as_secs()
                )),
                None,
            ),
        };
        CloudState {
            name: name.to_owned(),
            fault,
            stores,
            has_keyring: holders.iter().any(|holder| holder == name),
            lacking: lacking.get(name).copied().unwrap_or_default(),
            available,
            last: self.inner.health.last_failures(name),
        }
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
    Err(ArrayError::Name {
        name: name.chars().take(64).collect(),
        problem,
    })
}

impl Inner {
    /// Shares that must be stored for a write to be acknowledged.
    pub(crate) fn needed(&self) -> usize {
        (usize::from(self.geometry.k) + self.survive).min(self.servers.len())
    }

    /// Asks servers that failed whether they are back: a probe passes where a circuit breaker lets
    /// nothing else pass, and closes it. Returns those that answer.
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

    /// While it lives, the stream's shares are not deleted by this process.
    pub(crate) fn hold(&self, index: raic_storage::StorageIndex) -> Hold {
        self.holds.hold(index)
    }
}
