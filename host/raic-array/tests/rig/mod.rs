//! Arrays over clouds in memory that are wiped, are corrupted, or fail.

#![allow(dead_code, reason = "each test uses a part")]

mod stopper;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{TryStreamExt as _, stream};
use raic_array::{
    Array, ArrayConfig, ArrayError, Class, Classes, DEFAULT_BUCKET, FileName, Geometry, Keyring,
    ListRequest, MAX_STREAM, Padding, PutOptions, RecoveryKey, STANDARD_CLASS, Transfer,
};
use raic_cloud::{Breaker, Cloud, FaultPlan, Faulty, MemoryCloud};
use raic_storage::{
    ChunkBudget, Clock, CloudBackend, Cost, Database, GracePeriods, Holds, LeaseDb, Owner,
    ServerSettings, StorageServer, Supervisor,
};

pub(crate) use stopper::{Stopper, Stopping};

pub(crate) struct Rig {
    pub(crate) clouds: Vec<Arc<Faulty<MemoryCloud>>>,
    pub(crate) keyring: Keyring,
    pub(crate) sealed: Bytes,
    pub(crate) patience: Duration,
    pub(crate) domains: Vec<&'static str>,
    /// What it costs to read from the first clouds; nothing from the others.
    pub(crate) costs: Vec<f64>,
    /// Shares of each file; `None` is one for each cloud.
    pub(crate) shares: Option<u8>,
    /// Classes beside the default, with their k and n.
    pub(crate) classes: BTreeMap<String, (u8, u8)>,
    pub(crate) extent_size: u64,
    pub(crate) padding: Padding,
    pub(crate) budget: ChunkBudget,
    pub(crate) read_budget: ChunkBudget,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Clock,
    /// Where the host stops; `None` if it does not.
    pub(crate) stopper: Option<Arc<Stopper>>,
}

/// An array with its background work.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) array: Array,
    _supervisor: Supervisor,
}

impl std::ops::Deref for Running {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.array
    }
}

impl Rig {
    pub(crate) fn new(n: usize) -> Self {
        let sound = |i| Faulty::new(MemoryCloud::new(format!("c{i}")), 0, FaultPlan::default());
        let clouds = (0..n).map(|i| Arc::new(sound(i))).collect();
        let keyring = Keyring::generate().unwrap();
        let sealed = Bytes::from(keyring.seal(&RecoveryKey::generate().unwrap()).unwrap());
        let patience = ArrayConfig::PATIENCE;
        let (budget, folder) = (ChunkBudget::default(), tempfile::tempdir().unwrap());
        Self {
            clouds,
            keyring,
            sealed,
            patience,
            domains: Vec::new(),
            costs: Vec::new(),
            shares: None,
            classes: BTreeMap::new(),
            extent_size: MAX_STREAM,
            padding: Padding::None,
            budget,
            read_budget: ChunkBudget::new(ArrayConfig::READ_MEMORY),
            folder,
            clock: Clock::system(),
            stopper: None,
        }
    }

    pub(crate) async fn open_with(&self, k: u8, keyring: Keyring) -> Result<Running, ArrayError> {
        let database = Database::open(&self.folder.path().join("raic.db")).unwrap();
        let leasedb = LeaseDb::open(database, self.clock.clone(), GracePeriods::default()).await?;
        let identity = leasedb.identity().await?;
        let owner = Owner {
            array: keyring.array,
            key: keyring.owner_key(),
            identity,
        };
        let holds = Holds::default();
        let mut servers = Vec::new();
        for (i, cloud) in self.clouds.iter().enumerate() {
            // As in the daemon, a cloud that failed is left alone for a while.
            let cloud: Arc<dyn Cloud> = match &self.stopper {
                None => cloud.clone(),
                Some(stopper) => Arc::new(Stopping {
                    inner: cloud.clone(),
                    stopper: stopper.clone(),
                }),
            };
            let cloud = Arc::new(Breaker::new(cloud));
            let backend = Arc::new(CloudBackend::new(cloud, 5_000, self.budget.clone()));
            let domain = self.domains.get(i).map(ToString::to_string);
            let settings = ServerSettings {
                domain,
                cost: Cost::per_gigabyte(self.costs.get(i).copied().unwrap_or(0.0)).unwrap(),
                ..ServerSettings::default()
            };
            let server = StorageServer::open(
                backend,
                leasedb.clone(),
                owner.clone(),
                settings,
                holds.clone(),
            );
            servers.push(Arc::new(server.await?));
        }
        let work_leasedb = leasedb.clone();
        let array = Array::open(ArrayConfig {
            classes: self.classes(k)?,
            extent_size: self.extent_size,
            patience: self.patience,
            sealed_keyring: self.sealed.clone(),
            keyring,
            servers,
            leasedb,
            holds,
            budget: self.budget.clone(),
            read_budget: self.read_budget.clone(),
        });
        let array = array.await?;
        let supervisor = Supervisor::start(work_leasedb, array.servers(), None);
        Ok(Running {
            array,
            _supervisor: supervisor,
        })
    }

    fn classes(&self, k: u8) -> Result<Classes, ArrayError> {
        let class = |k, n| Class {
            geometry: Geometry { k, n },
            survive: 1,
            padding: self.padding,
            segment_size: 1_000,
        };
        let others = self.classes.iter();
        let mut classes: BTreeMap<_, _> = others
            .map(|(name, (k, n))| (name.clone(), class(*k, *n)))
            .collect();
        let n = self.shares.unwrap_or(self.clouds.len() as u8);
        classes.insert(STANDARD_CLASS.to_owned(), class(k, n));
        Classes::new(classes, STANDARD_CLASS)
    }

    pub(crate) async fn open(&self) -> Running {
        self.open_with(2, self.keyring.clone()).await.unwrap()
    }

    /// Returns the bytes that all clouds hold.
    pub(crate) fn stored(&self) -> u64 {
        self.clouds
            .iter()
            .map(|cloud| cloud.inner().stored_bytes())
            .sum()
    }

    /// Returns the keys of the shares' objects, without the keyring.
    pub(crate) fn objects(&self) -> usize {
        self.clouds
            .iter()
            .flat_map(|c| c.inner().keys())
            .filter(|k| k.as_str().starts_with("shares/"))
            .count()
    }
}

pub(crate) fn content(length: usize) -> Bytes {
    (0..length).map(|i| (i * 7 % 253) as u8).collect()
}

/// Returns the name of a file in the bucket of files that name none.
pub(crate) fn named(name: &str) -> FileName {
    FileName {
        bucket: DEFAULT_BUCKET.to_owned(),
        name: name.to_owned(),
    }
}

/// Returns the names of a page of files.
pub(crate) async fn names(array: &Array, prefix: &str, after: &str, limit: usize) -> Vec<String> {
    let request = ListRequest {
        bucket: DEFAULT_BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        after: after.to_owned(),
        limit,
        ..ListRequest::default()
    };
    let files = array.list(request).await.unwrap().files;
    files.into_iter().map(|file| file.name).collect()
}

pub(crate) async fn put(array: &Array, name: &str, content: Bytes) -> Result<(), ArrayError> {
    let pieces: Vec<Result<Bytes, String>> = content
        .chunks(777)
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .collect();
    array
        .put(&named(name), stream::iter(pieces), PutOptions::default())
        .await
        .map(drop)
}

pub(crate) async fn get(
    array: &Array,
    name: &str,
    range: Option<std::ops::Range<u64>>,
) -> Result<Vec<u8>, ArrayError> {
    let (_, _, content) = array.get(&named(name), range, Transfer::default()).await?;
    content
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

pub(crate) async fn settle(what: impl Fn() -> bool) {
    for _ in 0..500 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come to pass");
}
