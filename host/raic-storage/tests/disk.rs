//! A storage server over a disk: reserved space, the remains of a crash, and a full disk.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use raic_storage::{
    AccountId, Clock, Database, DiskBackend, GracePeriods, Holds, LeaseDb, Owner, Reconciled,
    RenewSecret, ServerSettings, ShareId, ShareNum, StorageError, StorageIndex, StorageServer,
    TestWrite, UploadSecret, WriteEnabler,
};

fn index(of: u8) -> StorageIndex {
    StorageIndex([of; 16])
}

fn renew() -> RenewSecret {
    RenewSecret::of(b"renew")
}

fn secret() -> UploadSecret {
    UploadSecret::of(b"secret")
}

/// Opens a server whose database is below `home` and whose shares are below `disk`.
async fn open(home: &Path, disk: &Path) -> Arc<StorageServer> {
    let database = Database::open(&home.join("db")).unwrap();
    let leasedb = LeaseDb::open(database, Clock::system(), GracePeriods::default())
        .await
        .unwrap();
    let owner = Owner {
        array: [1; 16],
        key: [2; 32],
        identity: leasedb.identity().await.unwrap(),
    };
    let backend = Arc::new(DiskBackend::open("d", disk).unwrap());
    let server = StorageServer::open(
        backend,
        leasedb,
        owner,
        ServerSettings::default(),
        Holds::default(),
    );
    Arc::new(server.await.unwrap())
}

async fn allocate(server: &StorageServer, of: u8, size: u64) -> Result<usize, StorageError> {
    let shares = [ShareNum(0)].into();
    let answer = server
        .allocate(
            AccountId::ANONYMOUS,
            index(of),
            shares,
            size,
            secret(),
            renew(),
        )
        .await?;
    Ok(answer.allocated.len())
}

async fn write(server: &Arc<StorageServer>, of: u8, content: &[u8]) -> Result<(), StorageError> {
    server
        .write(
            ShareId {
                index: index(of),
                share: ShareNum(0),
            },
            secret(),
            0,
            Bytes::copy_from_slice(content),
        )
        .await
        .map(drop)
}

async fn store(server: &Arc<StorageServer>, of: u8, content: &[u8]) -> Result<(), StorageError> {
    allocate(server, of, content.len() as u64).await?;
    write(server, of, content).await
}

async fn read(server: &StorageServer, of: u8) -> Vec<u8> {
    let stream = server
        .read_immutable(
            ShareId {
                index: index(of),
                share: ShareNum(0),
            },
            0..u64::MAX,
        )
        .await
        .unwrap();
    stream
        .content
        .try_collect::<Vec<_>>()
        .await
        .unwrap()
        .concat()
}

/// A small disk of its own. It exists only if the user who runs the tests may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", &format!("size={size}"), "raic-test"];
        let mounted = Command::new("mount")
            .args(options)
            .arg(folder.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        eprintln!("not run: only root can mount a small disk");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk to the last byte.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        for piece in [1 << 16, 1 << 12, 1 << 9, 1] {
            while file.write(&vec![1; piece]).is_ok_and(|written| written > 0) {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn what_was_allocated_is_nobody_elses_before_and_after_its_first_byte() {
    let Some(disk) = SmallDisk::mount("8m") else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let server = open(home.path(), disk.path()).await;
    allocate(&server, 1, 5 << 20).await.unwrap();
    assert_eq!(allocate(&server, 2, 5 << 20).await.unwrap(), 0);
    // After the upload has begun, the disk keeps its blocks.
    write(&server, 1, b"the first bytes of five mebibytes")
        .await
        .unwrap();
    let available = server.available_space().await.unwrap().unwrap();
    assert!((2 << 20..3 << 20).contains(&available), "{available}");
    assert_eq!(allocate(&server, 2, 5 << 20).await.unwrap(), 0);
    allocate(&server, 2, 2 << 20).await.unwrap();
    // After it was given up, there is room again.
    server
        .abort(
            ShareId {
                index: index(1),
                share: ShareNum(0),
            },
            secret(),
        )
        .await
        .unwrap();
    while server.collect_step().await.unwrap().went_on() {}
    allocate(&server, 3, 5 << 20).await.unwrap();
}

#[tokio::test]
async fn files_that_a_crash_left_beside_the_shares_go_when_nobody_can_want_them() {
    let (home, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = open(home.path(), disk.path()).await;
    store(&server, 1, b"a share").await.unwrap();
    allocate(&server, 2, 100).await.unwrap();
    write(&server, 2, b"the beginning").await.unwrap();
    let incoming = disk.path().join("incoming");
    let leave = |name: &str, age: Duration| {
        let file = fs::File::create(incoming.join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    let day = Duration::from_secs(24 * 3600);
    leave(&format!("{}.0.4711.3", index(3)), day * 2);
    leave(&format!("{}.7", index(4)), day * 2);
    leave(&format!("{}.0.4711.4", index(5)), day);
    server
        .reconcile("test", &Reconciled::default())
        .await
        .unwrap();
    let mut left: Vec<_> = fs::read_dir(&incoming)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [format!("{}.0", index(2)), format!("{}.0.4711.4", index(5))]
    );
    let rest = Bytes::from(vec![7; 87]);
    let done = server
        .write(
            ShareId {
                index: index(2),
                share: ShareNum(0),
            },
            secret(),
            13,
            rest,
        )
        .await
        .unwrap();
    assert_eq!(done.required, []);
}

/// If the disk of the database is full, there is a clear error and nothing acknowledged is lost.
/// Work goes on when there is room.
#[tokio::test]
async fn a_full_disk_under_the_database_is_reported_and_loses_nothing() {
    let Some(home) = SmallDisk::mount("4m") else {
        return;
    };
    let disk = tempfile::tempdir().unwrap();
    let server = open(home.path(), disk.path()).await;
    let mutable = async |server: &Arc<StorageServer>, bytes: &'static [u8]| {
        let write = TestWrite {
            writes: vec![(0, Bytes::from_static(bytes))],
            ..TestWrite::default()
        };
        let vectors = [(ShareNum(0), write)].into();
        server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(200),
                WriteEnabler([5; 32]),
                renew(),
                vectors,
                &[],
            )
            .await
    };
    let usage = async |server: &StorageServer| {
        let usage = server.leasedb().usage_by_server().await.unwrap();
        (usage[0].shares, usage[0].bytes)
    };
    store(&server, 1, b"before").await.unwrap();
    mutable(&server, b"first version").await.unwrap();
    let ballast = home.fill();
    // Writes that were acknowledged while the log still had room count.
    let (mut acknowledged, mut refused) = (vec![1], None);
    for of in 2..200 {
        match store(&server, of, &[of; 50]).await {
            Ok(()) => acknowledged.push(of),
            Err(e) => {
                refused = Some(e.to_string());
                break;
            }
        }
    }
    let refused = refused.unwrap();
    assert!(
        refused.contains("full") && refused.contains("free space on the disk of raic's home"),
        "{refused}"
    );
    let refused = mutable(&server, b"other").await.unwrap_err().to_string();
    assert!(refused.contains("full"), "{refused}");
    assert_eq!(read(&server, 1).await, b"before", "reads go on");
    let renewed = server.renew(AccountId::ANONYMOUS, index(1), renew()).await;
    assert!(
        renewed.is_err(),
        "a lease that is not written down is not acknowledged"
    );
    fs::remove_file(ballast).unwrap();
    for restarted in [false, true] {
        let server = if restarted {
            open(home.path(), disk.path()).await
        } else {
            server.clone()
        };
        for of in &acknowledged[1..] {
            assert_eq!(read(&server, *of).await, [*of; 50]);
        }
        let version = server
            .read_mutable(
                ShareId {
                    index: index(200),
                    share: ShareNum(0),
                },
                0..100,
            )
            .await
            .unwrap();
        let version = version
            .content
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .concat();
        assert_eq!(version, b"first version");
        let kept = usage(&server).await;
        let sums = server.leasedb().database().read(|c| {
            let sql = "SELECT count(*), coalesce(sum(used_space), 0) FROM shares";
            let row = c.query_row(sql, [], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)));
            Ok::<_, raic_storage::DatabaseError>(row?)
        });
        let (shares, bytes) = sums.await.unwrap();
        assert_eq!(kept, (shares.unsigned_abs(), bytes.unsigned_abs()));
        let new = if restarted { 201 } else { 202 };
        store(&server, new, b"there is room").await.unwrap();
        assert_eq!(read(&server, new).await, b"there is room");
    }
}
