//! A door to one storage server, in this process.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::{Method, StatusCode};
use raic_array::Keyring;
use raic_cloud::Cloud;
use raic_gateway::{
    Live, Opened,
    tahoe::{TahoeDoor, TahoeIdentity},
};
use raic_storage::{
    Backend, ChunkBudget, Clock, CloudBackend, Database, GracePeriods, Holds, LeaseDb,
    MUTABLE_CHUNK_SIZE, Owner, ServerSettings, Slots, Spool, StorageIndex, StorageServer,
    Supervisor,
};
use raic_tests::tahoe_client::{TahoeConnection, TahoeRequest};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// A door to one storage server, whose clock the test moves, and a look into that server.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    /// The NURL of the account `anonymous`.
    pub(crate) nurl: String,
    /// The address at which the reference's tests look into the server.
    pub(crate) control: String,
    pub(crate) server: Arc<StorageServer>,
    pub(crate) door: Arc<TahoeDoor>,
    address: SocketAddr,
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
    pub(crate) async fn new(
        backend: impl FnOnce(&Path, &LeaseDb, Slots) -> Arc<dyn Backend>,
    ) -> Self {
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = TahoeDoor::new(live, TahoeIdentity::new(keyring), address);
        let door = Arc::new(door);
        let one = door.servers("anonymous").await.unwrap().remove(0);
        let nurl = format!("pb://{}@{address}/{}#v=1", one.key_hash, one.swissnum);
        let served = door.clone();
        let serving = tokio::spawn(async move {
            served
                .serve(listener, std::future::pending())
                .await
                .unwrap();
        });
        let looking = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let looked_at = looking.local_addr().unwrap().to_string();
        let look = tokio::spawn(control(looking, server.clone(), clock));
        Self {
            folder,
            nurl,
            control: looked_at,
            server,
            door,
            address,
            _supervisor: supervisor,
            _tasks: vec![
                AbortOnDropHandle::new(serving),
                AbortOnDropHandle::new(look),
            ],
        }
    }

    /// Returns the NURL of an account.
    pub(crate) async fn nurl_of(&self, account: &str) -> String {
        let one = self.door.servers(account).await.unwrap().remove(0);
        format!(
            "pb://{}@{}/{}#v=1",
            one.key_hash, self.address, one.swissnum
        )
    }

    pub(crate) async fn client(&self) -> TahoeConnection {
        TahoeConnection::open(&self.nurl).await
    }
}

/// Makes the request that writes a part of an upload.
pub(crate) fn part(index: &str, offset: usize, content: &[u8]) -> TahoeRequest {
    let last = offset + content.len() - 1;
    TahoeRequest::new(Method::PATCH, &format!("/storage/v1/immutable/{index}/0"))
        .header("content-range", format!("bytes {offset}-{last}/*"))
        .body(content.to_vec())
}

/// Requires that a request gets a status, and returns the answer's body.
#[track_caller]
pub(crate) fn is(answer: (StatusCode, bytes::Bytes), status: u16) -> bytes::Bytes {
    assert_eq!(answer.0.as_u16(), status, "{:?}", answer.1);
    answer.1
}

/// Makes a backend whose chunks are objects of a cloud.
pub(crate) fn over(
    cloud: Arc<dyn Cloud>,
    folder: &Path,
    slots: Slots,
    chunk: usize,
) -> Arc<dyn Backend> {
    let spool = Spool::open(&folder.join("spool"), 1 << 30).unwrap();
    let backend = CloudBackend::new(cloud, chunk, ChunkBudget::default());
    Arc::new(
        backend
            .with_slots(slots, MUTABLE_CHUNK_SIZE)
            .with_spool(spool),
    )
}
