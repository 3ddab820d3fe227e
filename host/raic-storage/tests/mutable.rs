//! Mutable shares on an object store (decision 0004). The host may stop at any step of a write, and
//! its database may be lost. A reader then sees the old or the new version whole.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use raic_cloud::{
    ByteRange, Cloud, CloudError, ErrorKind, MemoryCloud, Object, ObjectInfo, ObjectKey, Operation,
    Page, Payload, Result, WriteMode,
};
use raic_storage::{
    Backend as _, ChunkBudget, Clock, CloudBackend, Container as _, Database, Found, GracePeriods,
    IndexPrefix, LeaseDb, MutableStore, MutableWrite, ShareId, ShareNum, Slots, Span, StorageError,
    StorageIndex,
};

/// The fate of the request at which the host stops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The host stops before the request is sent.
    NeverSent,
    /// The request is done, and the host stops before the answer.
    Unheard,
    /// The host stops, and the request lands after the host is up again.
    Late,
    /// The request is done, its answer is a timeout, and the host goes on.
    TimeoutDone,
    /// The answer is a timeout, the host goes on, and the request lands later.
    TimeoutLate,
    /// The answer is a timeout, the host goes on, and the request never lands.
    TimeoutLost,
    /// The request is refused, as by a full cloud, and the host goes on.
    Refused,
}

const FATES: [Fate; 7] = [
    Fate::NeverSent,
    Fate::Unheard,
    Fate::Late,
    Fate::TimeoutDone,
    Fate::TimeoutLate,
    Fate::TimeoutLost,
    Fate::Refused,
];

enum LateRequest {
    Put(ObjectKey, Payload, WriteMode),
    Delete(ObjectKey),
}

/// A cloud that gives request number `at` its fate.
#[derive(Debug)]
struct Fateful {
    inner: Arc<MemoryCloud>,
    count: AtomicUsize,
    at: usize,
    fate: Fate,
    late: Mutex<VecDeque<LateRequest>>,
}

impl std::fmt::Debug for LateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Put(..) => "put",
            Self::Delete(..) => "delete",
        })
    }
}

impl Fateful {
    fn new(inner: Arc<MemoryCloud>, at: usize, fate: Fate) -> Self {
        Self {
            inner,
            count: AtomicUsize::new(0),
            at,
            fate,
            late: Mutex::default(),
        }
    }

    fn strikes(&self) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst) == self.at
    }

    /// Whether the host has stopped. Then nothing more is sent.
    fn has_stopped(&self) -> bool {
        let stops = matches!(self.fate, Fate::NeverSent | Fate::Unheard | Fate::Late);
        stops && self.count.load(Ordering::SeqCst) > self.at
    }

    async fn land(&self) {
        let late: Vec<_> = self.late.lock().drain(..).collect();
        for request in late {
            match request {
                LateRequest::Put(key, content, mode) => {
                    drop(self.inner.put(&key, content, mode).await)
                }
                LateRequest::Delete(key) => drop(self.inner.delete(&key, None).await),
            }
        }
    }

    async fn write(&self, operation: Operation, request: LateRequest) -> Result<ObjectInfo> {
        if self.has_stopped() {
            return std::future::pending().await;
        }
        let strikes = self.strikes();
        let fate = if strikes { Some(self.fate) } else { None };
        let error = |kind| Err(CloudError::new(kind, "c", operation, format!("{fate:?}")));
        if matches!(fate, Some(Fate::Late | Fate::TimeoutLate)) {
            self.late.lock().push_back(request);
        } else if !matches!(
            fate,
            Some(Fate::NeverSent | Fate::TimeoutLost | Fate::Refused)
        ) {
            let done = match request {
                LateRequest::Put(key, content, mode) => self.inner.put(&key, content, mode).await,
                LateRequest::Delete(key) => self
                    .inner
                    .delete(&key, None)
                    .await
                    .map(|()| ObjectInfo::default()),
            };
            if fate.is_none() {
                return done;
            }
        }
        match fate {
            Some(Fate::TimeoutDone | Fate::TimeoutLate | Fate::TimeoutLost) => {
                error(ErrorKind::Timeout)
            }
            Some(Fate::Refused) => error(ErrorKind::QuotaExceeded),
            _ => std::future::pending().await,
        }
    }

    async fn read(&self, operation: Operation) -> Result<()> {
        if self.has_stopped() {
            return std::future::pending().await;
        }
        if self.strikes() {
            return match self.fate {
                Fate::NeverSent | Fate::Unheard | Fate::Late => std::future::pending().await,
                _ => Err(CloudError::new(
                    ErrorKind::Timeout,
                    "c",
                    operation,
                    "no answer",
                )),
            };
        }
        Ok(())
    }
}

#[async_trait]
impl Cloud for Fateful {
    fn name(&self) -> &str {
        "c"
    }

    async fn describe(&self) -> Result<Vec<(String, String)>> {
        self.inner.describe().await
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, key: &ObjectKey, content: Payload, mode: WriteMode) -> Result<ObjectInfo> {
        self.write(Operation::Put, LateRequest::Put(key.clone(), content, mode))
            .await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&str>,
    ) -> Result<Object> {
        self.read(Operation::Get).await?;
        self.inner.get(key, range, if_match).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.read(Operation::Head).await?;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &ObjectKey, _: Option<&str>) -> Result<()> {
        self.write(Operation::Delete, LateRequest::Delete(key.clone()))
            .await
            .map(drop)
    }

    async fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page> {
        self.inner.list(prefix, cursor, limit).await
    }
}

const CHUNK: u32 = 10;
const KEY: [u8; 32] = [5; 32];

fn id() -> ShareId {
    ShareId {
        index: index(),
        share: ShareNum(3),
    }
}

/// Returns the mutable shares of a backend.
fn slots(backend: &CloudBackend) -> &dyn MutableStore {
    backend.mutable_store().unwrap()
}

fn index() -> StorageIndex {
    StorageIndex([7; 16])
}

/// A host. Its database and clock survive restarts, and its container survives the loss of the
/// database.
struct Host {
    folder: tempfile::TempDir,
    clock: Clock,
    container: Arc<MemoryCloud>,
    databases: usize,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let container = Arc::new(MemoryCloud::new("c"));
        Self {
            folder,
            clock: Clock::manual(1_700_000_000_000),
            container,
            databases: 0,
        }
    }

    async fn leasedb(&self) -> LeaseDb {
        let database =
            Database::open(&self.folder.path().join(format!("db{}", self.databases))).unwrap();
        LeaseDb::open(database, self.clock.clone(), GracePeriods::default())
            .await
            .unwrap()
    }

    async fn open(&self, cloud: Arc<dyn Cloud>) -> CloudBackend {
        let leasedb = self.leasedb().await;
        let server = leasedb.server("c").await.unwrap();
        CloudBackend::new(cloud, 1 << 20, ChunkBudget::default())
            .with_slots(Slots::new(leasedb, server, KEY), CHUNK)
    }

    /// Starts the host again, without faults.
    async fn restart(&self) -> CloudBackend {
        self.clock.advance(Duration::from_millis(1));
        self.open(self.container.clone()).await
    }

    /// Starts the host again without its database. Two complete listings recover the share.
    async fn restart_without_database(&mut self) -> CloudBackend {
        self.databases += 1;
        self.clock.advance(Duration::from_millis(1));
        let epoch = u32::try_from(self.databases).unwrap();
        self.leasedb().await.raise_epoch(epoch).await.unwrap();
        let backend = self.open(self.container.clone()).await;
        for _ in 0..2 {
            for found in backend
                .scan(Span::Below(IndexPrefix::from(index())), 10_000)
                .await
                .unwrap()
            {
                slots(&backend)
                    .recover_mutable(found.id, &found.found)
                    .await
                    .unwrap();
            }
        }
        backend
    }
}

async fn content(backend: &CloudBackend) -> std::result::Result<Option<Vec<u8>>, StorageError> {
    match slots(backend).read_mutable(id(), 0..u64::MAX).await {
        Err(StorageError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
        Ok(stream) => {
            let all = stream.try_fold(Vec::new(), async |mut all, piece| {
                all.extend_from_slice(&piece);
                Ok(all)
            });
            all.await.map(Some)
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u64, &'static [u8])>, Option<u64>),
    Delete,
    /// Lets time pass and removes superseded versions.
    Tidy,
}

fn apply(before: Option<&[u8]>, step: &Step) -> Option<Vec<u8>> {
    match step {
        Step::Tidy => before.map(<[u8]>::to_vec),
        Step::Delete => None,
        Step::Write(writes, new_length) => {
            let mut after = before.unwrap_or_default().to_vec();
            for (at, bytes) in writes {
                let (start, end) = (*at as usize, *at as usize + bytes.len());
                after.resize(after.len().max(end), 0);
                after[start..end].copy_from_slice(bytes);
            }
            if let Some(length) = new_length {
                after.resize(*length as usize, 0);
            }
            Some(after)
        }
    }
}

async fn run(
    host: &Host,
    backend: &CloudBackend,
    step: &Step,
) -> std::result::Result<(), StorageError> {
    match step {
        Step::Write(writes, new_length) => {
            let writes = writes
                .iter()
                .map(|(at, bytes)| (*at, Bytes::from_static(bytes)))
                .collect();
            let write = MutableWrite {
                writes,
                new_length: *new_length,
                enabler: [1; 32],
            };
            slots(backend).write_mutable(id(), write).await.map(drop)
        }
        Step::Delete => slots(backend).delete_mutable(id()).await,
        Step::Tidy => {
            host.clock.advance(Duration::from_secs(16 * 60));
            slots(backend).tidy_mutable(id()).await.map(drop)
        }
    }
}

fn scripts() -> Vec<Vec<Step>> {
    let create = Step::Write(vec![(0, b"the first version, in three chunks")], None);
    let patch = Step::Write(vec![(12, b"X")], None);
    let two = Step::Write(vec![(0, b"A"), (25, b"BCDEFGHIJKLMN")], None);
    let cut = Step::Write(vec![(1, b"c")], Some(13));
    let extend = Step::Write(vec![(45, b"far")], Some(60));
    let (delete, tidy) = (Step::Delete, Step::Tidy);
    vec![
        vec![create.clone()],
        vec![create.clone(), patch.clone()],
        vec![create.clone(), two.clone(), tidy.clone()],
        vec![create.clone(), cut.clone(), extend.clone()],
        vec![create.clone(), delete.clone(), tidy.clone()],
        vec![
            create.clone(),
            patch.clone(),
            delete.clone(),
            create.clone(),
            tidy.clone(),
            patch.clone(),
        ],
        vec![
            create.clone(),
            delete.clone(),
            tidy.clone(),
            create.clone(),
            two,
            tidy.clone(),
        ],
        vec![create, cut, tidy.clone(), extend, delete, tidy],
    ]
}

/// The outcome of a script in which one request had its fate.
struct Struck {
    /// The contents that a reader may see.
    allowed: BTreeSet<Option<Vec<u8>>>,
    cloud: Arc<Fateful>,
    /// Number of requests that were made.
    requests: usize,
    stopped: bool,
}

async fn strike(host: &Host, script: &[Step], at: usize, fate: Fate) -> Struck {
    let cloud = Arc::new(Fateful::new(host.container.clone(), at, fate));
    let backend = host.open(cloud.clone()).await;
    let mut acknowledged: Option<Vec<u8>> = None;
    let mut allowed = BTreeSet::from([None]);
    let mut stopped = false;
    for step in script {
        // After this time, every request that was given up has landed or never will.
        if matches!(step, Step::Tidy) && !cloud.has_stopped() {
            cloud.land().await;
        }
        // Each attempt starts from the content that a reader sees. If it is not known yet, the
        // reader asks again.
        let after = apply(acknowledged.as_deref(), step);
        let outcome = {
            let running = run(host, &backend, step);
            tokio::pin!(running);
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut running => break Some(outcome),
                    () = tokio::time::sleep(Duration::from_millis(1)), if cloud.has_stopped() => break None,
                    () = tokio::time::sleep(Duration::from_millis(1)), if !cloud.has_stopped() => {}
                }
            }
        };
        match outcome {
            Some(Ok(())) => {
                acknowledged = after;
                allowed = BTreeSet::from([acknowledged.clone()]);
            }
            Some(Err(e)) => {
                let is_known = !matches!(e, StorageError::NotKnown { .. });
                let seen = content(&backend)
                    .await
                    .unwrap_or_else(|e| panic!("{script:?} {at} {fate:?}: {e}"));
                assert!(
                    seen == acknowledged || seen == after,
                    "{script:?} {at} {fate:?}: {seen:?}"
                );
                // A write that was reported as failed stays undone, and the content that is seen
                // now stays.
                if is_known {
                    let is_same = seen == acknowledged || matches!(step, Step::Tidy);
                    assert!(
                        is_same,
                        "{script:?} {at} {fate:?}: it was reported as failed and was done"
                    );
                }
                acknowledged = seen.clone();
                allowed = BTreeSet::from([seen]);
            }
            None => {
                allowed.insert(after);
                stopped = true;
                break;
            }
        }
    }
    let requests = cloud.count.load(Ordering::SeqCst);
    Struck {
        allowed,
        cloud,
        requests,
        stopped,
    }
}

/// Walks every script, every request and every fate, with the database and without it. Late
/// requests land at three moments.
#[tokio::test]
async fn a_stop_at_any_request_leaves_the_old_or_the_new_version_whole() {
    let mut walked = 0;
    // All scripts take a minute: `cargo xtask test slow`. The scripts that are always walked have
    // every kind of write.
    let scripts = if std::env::var_os("RAIC_SLOW").is_some() {
        scripts()
    } else {
        scripts().drain(1..5).collect()
    };
    for script in scripts {
        for fate in FATES {
            for at in 0.. {
                let mut ended = false;
                for (lands_first, database_lost) in
                    [(false, false), (true, false), (false, true), (true, true)]
                {
                    let mut host = Host::new();
                    let Struck {
                        allowed,
                        cloud,
                        requests,
                        stopped,
                    } = strike(&host, &script, at, fate).await;
                    let what = format!(
                        "{script:?} at {at} {fate:?}, first {lands_first}, lost {database_lost}"
                    );
                    if requests <= at {
                        ended = true;
                        break;
                    }
                    walked += 1;
                    if lands_first {
                        cloud.land().await;
                    }
                    let backend = if database_lost {
                        host.restart_without_database().await
                    } else {
                        host.restart().await
                    };
                    let seen = content(&backend)
                        .await
                        .unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert!(
                        allowed.contains(&seen),
                        "{what}: {seen:?} is none of {allowed:?}"
                    );
                    // A content that was seen once stays, whatever lands now, and over another
                    // restart.
                    cloud.land().await;
                    assert_eq!(
                        content(&backend).await.unwrap(),
                        seen,
                        "{what}: after late requests landed"
                    );
                    let patch = Step::Write(vec![(0, b"after")], None);
                    let expected = apply(seen.as_deref(), &patch);
                    run(&host, &backend, &patch)
                        .await
                        .unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(content(&backend).await.unwrap(), expected, "{what}");
                    host.clock.advance(Duration::from_secs(16 * 60));
                    slots(&backend).tidy_mutable(id()).await.unwrap();
                    slots(&backend).tidy_mutable(id()).await.unwrap();
                    assert_eq!(
                        content(&backend).await.unwrap(),
                        expected,
                        "{what}: after tidying"
                    );
                    let lost = host.restart_without_database().await;
                    assert_eq!(
                        content(&lost).await.unwrap(),
                        expected,
                        "{what}: tidied, without the database"
                    );
                    if !database_lost && !stopped {
                        // The names that are left show everything: one commit, and the chunks that
                        // it names.
                        let commits = host
                            .container
                            .keys()
                            .iter()
                            .filter(|k| k.as_str().contains(".v."))
                            .count();
                        assert_eq!(commits, 1, "{what}: {:?}", host.container.keys());
                    }
                }
                if ended {
                    break;
                }
            }
        }
    }
    assert!(walked > 300, "{walked}");
}

#[tokio::test]
async fn one_byte_costs_one_chunk_and_one_commit_and_a_deleted_share_leaves_nothing() {
    let host = Host::new();
    let backend = host.restart().await;
    let create = Step::Write(vec![(0, b"the first version, in some chunks")], None);
    run(&host, &backend, &create).await.unwrap();
    let before: BTreeSet<_> = host.container.keys().into_iter().collect();
    run(&host, &backend, &Step::Write(vec![(12, b"X")], None))
        .await
        .unwrap();
    let new: Vec<_> = host
        .container
        .keys()
        .into_iter()
        .filter(|key| !before.contains(key))
        .collect();
    assert_eq!(new.len(), 2, "{new:?}");
    run(&host, &backend, &Step::Delete).await.unwrap();
    assert_eq!(content(&backend).await.unwrap(), None);
    assert!(
        !slots(&backend).tidy_mutable(id()).await.unwrap(),
        "what it was rests still"
    );
    host.clock.advance(Duration::from_secs(16 * 60));
    assert!(slots(&backend).tidy_mutable(id()).await.unwrap());
    assert_eq!(host.container.keys(), []);
}

#[tokio::test]
async fn what_one_listing_shows_is_read_only_until_another_shows_the_same() {
    let mut host = Host::new();
    let backend = host.restart().await;
    run(&host, &backend, &Step::Write(vec![(0, b"first")], None))
        .await
        .unwrap();
    run(&host, &backend, &Step::Write(vec![(0, b"other")], None))
        .await
        .unwrap();
    host.databases += 1;
    host.leasedb().await.raise_epoch(1).await.unwrap();
    let backend = host.restart().await;
    let found = backend
        .scan(Span::Below(IndexPrefix::from(index())), 10_000)
        .await
        .unwrap();
    slots(&backend)
        .recover_mutable(id(), &found[0].found)
        .await
        .unwrap();
    assert_eq!(content(&backend).await.unwrap().unwrap(), b"other");
    let refused = run(&host, &backend, &Step::Write(vec![(0, b"x")], None))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, StorageError::ReadOnly { .. }),
        "{refused}"
    );
    slots(&backend)
        .recover_mutable(id(), &found[0].found)
        .await
        .unwrap();
    run(&host, &backend, &Step::Write(vec![(0, b"x")], None))
        .await
        .unwrap();
    assert_eq!(content(&backend).await.unwrap().unwrap(), b"xther");
}

/// Some services list late. A version that one listing showed is superseded, even if the next
/// listing leaves it out; else it would be found as the share after the deletion's mark has gone.
#[tokio::test]
async fn an_old_version_that_the_second_listing_leaves_out_goes_with_the_share() {
    let mut host = Host::new();
    let backend = host.restart().await;
    for step in [
        Step::Write(vec![], Some(30)),
        Step::Write(vec![(0, b"the next version")], None),
        Step::Delete,
    ] {
        run(&host, &backend, &step).await.unwrap();
    }
    host.databases += 1;
    host.leasedb().await.raise_epoch(1).await.unwrap();
    let backend = host.restart().await;
    let span = Span::Below(IndexPrefix::from(index()));
    let first = backend.scan(span, 10_000).await.unwrap();
    let Found::Mutable { commits, chunks } = &first[0].found else {
        panic!("{first:?}");
    };
    let second = Found::Mutable {
        commits: commits.iter().skip(1).copied().collect(),
        chunks: chunks.clone(),
    };
    for found in [&first[0].found, &second] {
        slots(&backend).recover_mutable(id(), found).await.unwrap();
    }
    host.clock.advance(Duration::from_secs(16 * 60));
    assert!(slots(&backend).tidy_mutable(id()).await.unwrap());
    assert_eq!(host.container.keys(), []);
}

/// A commit that cannot be read hides the chunks that it names. So nothing of the share is
/// destroyed.
#[tokio::test]
async fn a_damaged_commit_costs_no_chunk_when_the_database_is_lost() {
    for older_stays in [false, true] {
        let mut host = Host::new();
        let backend = host.restart().await;
        run(
            &host,
            &backend,
            &Step::Write(vec![(0, b"the first, in chunks")], None),
        )
        .await
        .unwrap();
        if older_stays {
            run(&host, &backend, &Step::Write(vec![(0, b"THE NEXT!")], None))
                .await
                .unwrap();
        }
        let commit = host
            .container
            .keys()
            .into_iter()
            .rfind(|k| k.as_str().contains(".v."))
            .unwrap();
        assert!(host.container.corrupt(&commit, 60));
        let chunks = |host: &Host| -> Vec<_> {
            host.container
                .keys()
                .into_iter()
                .filter(|k| !k.as_str().contains(".v."))
                .collect()
        };
        let before = chunks(&host);
        let backend = host.restart_without_database().await;
        for _ in 0..3 {
            host.clock.advance(Duration::from_secs(16 * 60));
            slots(&backend).tidy_mutable(id()).await.unwrap();
        }
        assert_eq!(chunks(&host), before, "{older_stays}");
        let expected = older_stays.then(|| b"the first, in chunks".to_vec());
        assert_eq!(content(&backend).await.unwrap(), expected);
        // After the commit was mended, the share is found again.
        assert!(host.container.corrupt(&commit, 60));
        let backend = host.restart_without_database().await;
        let newest: &[u8] = if older_stays {
            b"THE NEXT!, in chunks"
        } else {
            b"the first, in chunks"
        };
        assert_eq!(content(&backend).await.unwrap().unwrap(), newest);
    }
}

#[tokio::test]
async fn a_cloud_that_changes_a_chunk_or_forges_a_commit_is_reported() {
    let host = Host::new();
    let backend = host.restart().await;
    run(&host, &backend, &Step::Write(vec![(0, b"content")], None))
        .await
        .unwrap();
    let chunk = host
        .container
        .keys()
        .into_iter()
        .find(|k| !k.as_str().contains(".v."))
        .unwrap();
    assert!(host.container.corrupt(&chunk, 3));
    let refused = content(&backend).await.unwrap_err();
    assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
}
