//! A storage server for tests, over a cloud in memory that can fail in every way. The test sets its
//! clock.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt as _;
use raic_cloud::{FaultPlan, Faulty, MemoryCloud};
use raic_storage::{
    AccountId, Allocated, ChunkBudget, Clock, CloudBackend, Database, GracePeriods, Holds, LeaseDb,
    MUTABLE_CHUNK_SIZE, Owner, Reconciled, RenewSecret, ServerSettings, ShareId, ShareKind,
    ShareNum, Slots, Spool, StorageError, StorageIndex, StorageServer, UploadSecret, WriteEnabler,
};

pub const DAY: Duration = Duration::from_secs(24 * 3600);
pub const CHUNK: usize = 1000;

pub struct Rig {
    pub folder: tempfile::TempDir,
    pub clock: Clock,
    pub cloud: Arc<Faulty<MemoryCloud>>,
    pub server: Arc<StorageServer>,
    pub settings: ServerSettings,
    /// Size of the spool, in bytes.
    pub spool: u64,
    pub databases: usize,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(ServerSettings::default()).await
    }

    pub async fn with(settings: ServerSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cloud = Arc::new(Faulty::new(MemoryCloud::new("c"), 7, FaultPlan::default()));
        // The memory cloud dates its objects by the system's clock.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let clock = Clock::manual(i64::try_from(now.as_millis()).unwrap());
        let spool = 1 << 20;
        let server = open(&folder, &clock, &cloud, &settings, (spool, 0)).await;
        Self {
            folder,
            clock,
            cloud,
            server,
            settings,
            spool,
            databases: 0,
        }
    }

    /// Stops the server as by kill -9, and starts it again.
    pub async fn restart(&mut self) {
        let rest = (self.spool, self.databases);
        self.server = open(&self.folder, &self.clock, &self.cloud, &self.settings, rest).await;
    }

    /// Loses the database: a new one takes the container over.
    pub async fn lose_database(&mut self) {
        self.databases += 1;
        self.restart().await;
        self.server
            .leasedb()
            .raise_epoch(self.databases as u32)
            .await
            .unwrap();
        self.restart().await;
        self.server.take_over().await.unwrap();
    }

    pub async fn walk(&self) -> Reconciled {
        let progress = Reconciled::default();
        self.server.reconcile("test", &progress).await.unwrap();
        progress
    }

    /// Collects until there is nothing to do.
    pub async fn collect(&self) {
        while self.server.collect_step().await.unwrap().went_on() {}
    }

    /// Collects until nothing is left, and lets the time of every rest pass.
    pub async fn collect_to_the_end(&self) {
        for _ in 0..4 {
            self.collect().await;
            self.clock.advance(Duration::from_secs(16 * 60));
        }
    }

    pub fn objects(&self) -> Vec<String> {
        let keys = self
            .cloud
            .inner()
            .keys()
            .into_iter()
            .map(|key| key.as_str().to_owned());
        keys.filter(|key| key.starts_with("shares/")).collect()
    }

    pub async fn store(&self, index: StorageIndex, share: u8, content: &[u8]) {
        let answer = self.allocate(index, &[share], content.len()).await.unwrap();
        assert_eq!(answer.allocated.len(), 1, "{answer:?}");
        self.write(index, share, 0, content).await.unwrap();
    }

    pub async fn allocate(
        &self,
        index: StorageIndex,
        shares: &[u8],
        size: usize,
    ) -> Result<Allocated, StorageError> {
        let shares = shares.iter().map(|share| ShareNum(*share)).collect();
        self.server
            .allocate(
                AccountId::ANONYMOUS,
                index,
                shares,
                size as u64,
                upload(),
                renew(1),
            )
            .await
    }

    pub async fn write(
        &self,
        index: StorageIndex,
        share: u8,
        at: usize,
        content: &[u8],
    ) -> Result<usize, StorageError> {
        let bytes = Bytes::copy_from_slice(content);
        let written = self
            .server
            .write(
                ShareId {
                    index,
                    share: ShareNum(share),
                },
                upload(),
                at as u64,
                bytes,
            )
            .await?;
        Ok(written.required.len())
    }

    pub async fn read(&self, index: StorageIndex, share: u8) -> Result<Vec<u8>, StorageError> {
        let part = self
            .server
            .read_immutable(
                ShareId {
                    index,
                    share: ShareNum(share),
                },
                0..u64::MAX,
            )
            .await?;
        part.content
            .try_fold(Vec::new(), async |mut all, piece| {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
    }

    pub async fn shares(&self, index: StorageIndex) -> Vec<u8> {
        let shares = self
            .server
            .shares(index, ShareKind::Immutable)
            .await
            .unwrap();
        shares.into_iter().map(|share| share.0).collect()
    }

    pub async fn used(&self) -> (u64, u64) {
        let usage = self.server.leasedb().usage_by_server().await.unwrap();
        (usage[0].shares, usage[0].bytes)
    }
}

pub async fn open(
    folder: &tempfile::TempDir,
    clock: &Clock,
    cloud: &Arc<Faulty<MemoryCloud>>,
    settings: &ServerSettings,
    (spool, databases): (u64, usize),
) -> Arc<StorageServer> {
    let database = Database::open(&folder.path().join(format!("db{databases}"))).unwrap();
    let leasedb = LeaseDb::open(database, clock.clone(), GracePeriods::default())
        .await
        .unwrap();
    let id = leasedb.server("c").await.unwrap();
    let spool = Spool::open(&folder.path().join("spool"), spool).unwrap();
    let key = [4; 32];
    let backend = CloudBackend::new(cloud.clone(), CHUNK, ChunkBudget::default())
        .with_slots(Slots::new(leasedb.clone(), id, key), MUTABLE_CHUNK_SIZE)
        .with_spool(spool);
    let owner = Owner {
        array: [9; 16],
        key,
        identity: leasedb.identity().await.unwrap(),
    };
    Arc::new(
        StorageServer::open(
            Arc::new(backend),
            leasedb,
            owner,
            settings.clone(),
            Holds::default(),
        )
        .await
        .unwrap(),
    )
}

pub fn upload() -> UploadSecret {
    UploadSecret::of(b"upload secret")
}

pub fn renew(of: u8) -> RenewSecret {
    RenewSecret::of(&[of; 32])
}

pub fn enabler(secret: &[u8]) -> WriteEnabler {
    let mut whole = [0; 32];
    whole[..secret.len()].copy_from_slice(secret);
    WriteEnabler(whole)
}

pub fn index(of: u8) -> StorageIndex {
    StorageIndex([of; 16])
}

pub fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

pub fn loaded(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::SeqCst)
}
