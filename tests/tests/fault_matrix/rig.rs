//! An array over four lean loopback clouds, each behind the S3 connector.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{TryStreamExt as _, stream};
use raic_array::{
    Array, ArrayConfig, ArrayError, Class, Classes, DEFAULT_BUCKET, FileName, Geometry, Keyring,
    ListRequest, MAX_STREAM, Padding, PutOptions, RecoveryKey, Transfer,
};
use raic_cloud::{Breaker, Limit, Retry, RetryPolicy};
use raic_lean_cloud::{Keys, LeanCloud, Pace};
use raic_storage::{
    ChunkBudget, Clock, CloudBackend, Database, GracePeriods, Holds, LeaseDb, Owner,
    ServerSettings, StorageServer, Supervisor,
};
use raic_tests::components::{package, s3_keys};
use raic_wasm::{Configuration, ConnectorCloud, Engine, Package};

const BUCKET: &str = "raic";

/// The S3 connector, which is compiled once for all cells.
pub(crate) struct Connector {
    package: Package,
    compiled: tempfile::TempDir,
}

impl Connector {
    pub(crate) fn load() -> Self {
        Self {
            package: package(env!("CARGO_TARGET_TMPDIR"), "s3"),
            compiled: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Opens a cloud. As in the daemon, no cloud uses up another's memory.
    fn open(&self, engine: &Engine, name: &str, url: &str) -> ConnectorCloud {
        let loaded = engine.load(&self.package, Some(self.compiled.path()));
        let settings = [("endpoint", url), ("bucket", BUCKET)];
        let configuration = Configuration {
            settings: settings.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            credentials: BTreeMap::from([("keys".to_owned(), s3_keys("key", "secret"))]),
            ..Configuration::default()
        };
        let loaded = loaded.expect("the S3 connector");
        ConnectorCloud::new(name, &loaded, &configuration).expect("a cloud")
    }
}

/// Less patience than a daemon has, so that a cell takes seconds.
fn policy() -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        put_attempts: 3,
        base: Duration::from_millis(20),
        cap: Duration::from_millis(100),
        patience: Duration::from_secs(1),
        ..RetryPolicy::default()
    }
}

pub(crate) struct Rig {
    pub(crate) clouds: Vec<LeanCloud>,
    array: Array,
    _supervisor: Supervisor,
    _folder: tempfile::TempDir,
}

pub(crate) fn named(name: &str) -> FileName {
    FileName {
        bucket: DEFAULT_BUCKET.to_owned(),
        name: name.to_owned(),
    }
}

impl Rig {
    pub(crate) async fn start(connector: &Connector) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("raic.db")).expect("a database");
        let leasedb = LeaseDb::open(database, Clock::system(), GracePeriods::default())
            .await
            .expect("leases");
        let keyring = Keyring::generate().expect("keys");
        let recovery = RecoveryKey::generate().expect("a key");
        let owner = Owner {
            array: keyring.array,
            key: keyring.owner_key(),
            identity: leasedb.identity().await.expect("an identity"),
        };
        let (holds, budget) = (Holds::default(), ChunkBudget::default());
        let engine = Engine::new().expect("an engine");
        let (mut clouds, mut servers) = (Vec::new(), Vec::new());
        for name in ["one", "two", "three", "four"] {
            let keys = Keys {
                access_key: "key".to_owned(),
                secret_key: "secret".to_owned(),
            };
            let lean = LeanCloud::start(0, keys, Pace::default())
                .await
                .expect("a service");
            lean.create_bucket(BUCKET);
            let cloud = Limit::new(connector.open(&engine, name, &lean.url), 16);
            let cloud = Arc::new(Breaker::new(Retry::new(cloud, policy())));
            let backend = Arc::new(CloudBackend::new(cloud, 5_000, budget.clone()));
            let server = StorageServer::open(
                backend,
                leasedb.clone(),
                owner.clone(),
                ServerSettings::default(),
                holds.clone(),
            );
            servers.push(Arc::new(server.await.expect("a server")));
            clouds.push(lean);
        }
        let config = ArrayConfig {
            classes: Classes::one(Class {
                geometry: Geometry { k: 2, n: 4 },
                survive: 1,
                padding: Padding::None,
                segment_size: 1_000,
            })
            .expect("a class"),
            extent_size: MAX_STREAM,
            patience: Duration::from_secs(1),
            sealed_keyring: Bytes::from(keyring.seal(&recovery).expect("sealed")),
            keyring,
            servers,
            leasedb: leasedb.clone(),
            holds,
            budget,
            read_budget: ChunkBudget::new(ArrayConfig::READ_MEMORY),
        };
        let array = Array::open(config).await.expect("an array");
        let supervisor = Supervisor::start(leasedb, array.servers(), None);
        Self {
            clouds,
            array,
            _supervisor: supervisor,
            _folder: folder,
        }
    }

    pub(crate) async fn put(&self, name: &str, content: &Bytes) -> Result<(), ArrayError> {
        let pieces: Vec<Result<Bytes, String>> = content
            .chunks(777)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let options = PutOptions::default();
        let name = named(name);
        let stored = self.array.put(&name, stream::iter(pieces), options);
        stored.await.map(drop)
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Bytes, ArrayError> {
        let name = named(name);
        let opened = self.array.get(&name, None, Transfer::default());
        let (_, _, content) = opened.await?;
        let pieces: Vec<Bytes> = content.try_collect().await?;
        Ok(pieces.concat().into())
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<(), ArrayError> {
        self.array.remove(&named(name)).await.map(drop)
    }

    pub(crate) async fn names(&self) -> Result<Vec<String>, ArrayError> {
        let request = ListRequest {
            bucket: DEFAULT_BUCKET.to_owned(),
            limit: 100,
            ..ListRequest::default()
        };
        let page = self.array.list(request).await?;
        Ok(page.files.into_iter().map(|file| file.name).collect())
    }

    /// Compares a cloud with the leases, as the daemon does once a day.
    pub(crate) async fn reconcile(&self, cloud: usize) -> Result<(), raic_storage::StorageError> {
        let server = self.array.servers()[cloud].clone();
        server.reconcile("matrix", &Default::default()).await
    }
}
