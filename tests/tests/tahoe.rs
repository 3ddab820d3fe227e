//! The Tahoe door by the reference's own tests: those of Tahoe-LAFS 1.20 for storage clients and
//! servers (`tests/tahoe/reference_tests.py`), over TLS.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use raic_array::Keyring;
use raic_cloud::MemoryCloud;
use raic_gateway::{
    Live, Opened,
    tahoe::{TahoeDoor, TahoeIdentity},
};
use raic_storage::{
    Backend, ChunkBudget, Clock, CloudBackend, Database, DiskBackend, GracePeriods, Holds, LeaseDb,
    MUTABLE_CHUNK_SIZE, Owner, ServerSettings, Slots, Spool, StorageIndex, StorageServer,
    Supervisor,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// Tests that pass: all but two, which need sets of secrets that no request has.
const PASSING: &str = "successes=88";

/// A door to one storage server, whose clock the test moves, and a look into that server.
struct Rig {
    folder: tempfile::TempDir,
    nurl: String,
    control: String,
    _supervisor: Supervisor,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Answers the questions of the reference's tests about the inside of a server.
async fn answer(server: &Arc<StorageServer>, clock: &Clock, seen: &mut u64, line: &str) -> String {
    let leasedb = server.leasedb();
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("now"), _) => format!("{:.3}", clock.now_ms() as f64 / 1000.0),
        (Some("advance"), Some(seconds)) => {
            clock.advance(Duration::from_secs_f64(seconds.parse().unwrap()));
            // The collector looks every 20 s, and the test cannot wait for it.
            while server.collect_step().await.unwrap().went_on() {}
            "null".to_owned()
        }
        (Some("leases"), Some(index)) => {
            let index: StorageIndex = index.parse().unwrap();
            let leases = leasedb.leases(None, Some(index), None, 1000).await.unwrap();
            let first = leases.first().map(|lease| lease.id);
            let of_first = leases.iter().filter(|lease| Some(lease.id) == first);
            let ends = of_first.filter_map(|lease| lease.expires);
            let mut ends: Vec<f64> = ends.map(|end| end.as_millis() as f64 / 1000.0).collect();
            ends.sort_by(f64::total_cmp);
            serde_json::to_string(&ends).unwrap()
        }
        (Some("advisories"), _) => {
            let events = leasedb.events(Some(*seen), 1000).await.unwrap();
            let mut advisories = Vec::new();
            for event in events {
                *seen = event.number;
                let Some((before, reason)) =
                    event.text.split_once(" is corrupt, a client reports: ")
                else {
                    continue;
                };
                // KIND share NUMBER of INDEX
                let words: Vec<&str> = before.split(' ').collect();
                let share: u32 = words[2].parse().unwrap();
                advisories.push((
                    words[0].to_owned(),
                    words[4].to_owned(),
                    share,
                    reason.to_owned(),
                ));
            }
            serde_json::to_string(&advisories).unwrap()
        }
        _ => panic!("{line}"),
    }
}

async fn control(listener: TcpListener, server: Arc<StorageServer>, clock: Clock) {
    // Number of the last event that was told.
    let mut seen = 0;
    while let Ok((stream, _)) = listener.accept().await {
        let mut stream: BufReader<TcpStream> = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let answer = answer(&server, &clock, &mut seen, &line).await;
        stream
            .write_all(format!("{answer}\n").as_bytes())
            .await
            .unwrap();
    }
}

impl Rig {
    async fn new(backend: impl FnOnce(&Path, &LeaseDb, Slots) -> Arc<dyn Backend>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The clock stands still between the moves of the tests, which compare exact times.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let clock = Clock::manual(i64::try_from(now.as_secs()).unwrap() * 1000);
        let database = Database::open(&folder.path().join("db")).unwrap();
        let leasedb = LeaseDb::open(database, clock.clone(), GracePeriods::default())
            .await
            .unwrap();
        let keyring = Keyring::generate().unwrap();
        let owner = Owner {
            array: keyring.array,
            key: keyring.owner_key(),
            identity: leasedb.identity().await.unwrap(),
        };
        let id = leasedb.server("cloud").await.unwrap();
        let backend = backend(
            folder.path(),
            &leasedb,
            Slots::new(leasedb.clone(), id, owner.key),
        );
        let settings = ServerSettings::default();
        let server =
            StorageServer::open(backend, leasedb.clone(), owner, settings, Holds::default());
        let server = Arc::new(server.await.unwrap());
        let servers = vec![server.clone()];
        let supervisor = Supervisor::start(leasedb.clone(), &servers, None);
        let live = Live::new(Opened {
            leasedb: leasedb.clone(),
            servers,
            array: None,
        });
        let door = Arc::new(TahoeDoor::new(live, TahoeIdentity::new(keyring)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let one = door.servers("anonymous").await.unwrap().remove(0);
        let nurl = format!("pb://{}@{address}/{}#v=1", one.key_hash, one.swissnum);
        let serving = tokio::spawn(async move {
            door.serve(listener, std::future::pending()).await.unwrap();
        });
        let looking = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let looked_at = looking.local_addr().unwrap().to_string();
        let look = tokio::spawn(control(looking, server, clock));
        Self {
            folder,
            nurl,
            control: looked_at,
            _supervisor: supervisor,
            _tasks: vec![
                AbortOnDropHandle::new(serving),
                AbortOnDropHandle::new(look),
            ],
        }
    }

    /// Runs the reference's tests, and requires that they pass.
    async fn passes_the_references_tests(&self) {
        let python = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .with_file_name("clouds")
            .join("tahoe/bin/python");
        assert!(
            python.is_file(),
            "{} is not there; `cargo xtask test` installs it",
            python.display()
        );
        let mut tests = Command::new(python);
        tests
            .args(["-m", "twisted.trial", "reference_tests"])
            .current_dir(self.folder.path())
            .env(
                "PYTHONPATH",
                PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tahoe"),
            )
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("RAIC_NURL", &self.nurl)
            .env("RAIC_CONTROL", &self.control);
        let run = tokio::task::spawn_blocking(move || tests.output().unwrap());
        let run = run.await.unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && text.contains(PASSING), "{text}");
    }
}

fn in_memory(folder: &Path, slots: Slots, chunk: usize) -> Arc<dyn Backend> {
    let cloud = Arc::new(MemoryCloud::new("cloud"));
    let spool = Spool::open(&folder.join("spool"), 1 << 30).unwrap();
    let backend = CloudBackend::new(cloud, chunk, ChunkBudget::default());
    Arc::new(
        backend
            .with_slots(slots, MUTABLE_CHUNK_SIZE)
            .with_spool(spool),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_tahoe_lafs_hold_on_a_folder() {
    let rig = Rig::new(|folder, _, _| Arc::new(DiskBackend::open("cloud", folder).unwrap())).await;
    rig.passes_the_references_tests().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_tahoe_lafs_hold_on_a_cloud() {
    let rig = Rig::new(|folder, _, slots| in_memory(folder, slots, 1 << 20)).await;
    rig.passes_the_references_tests().await;
}
