//! `cargo xtask bench catalog`: measures copies, puts, look-ups and lists by the number of files,
//! and the size of the database. One run measures all sizes, in rounds that take turns.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on should say where"
)]

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use raic_array::{
    Array, ArrayConfig, Class, Classes, FileName, Geometry, Keyring, ListRequest, MAX_STREAM,
    Padding, PutOptions, RecoveryKey, Replace,
};
use raic_cloud::MemoryCloud;
use raic_storage::{
    ChunkBudget, Clock, CloudBackend, DEFAULT_CHUNK_SIZE, Database, GracePeriods, Holds, LeaseDb,
    Owner, ServerSettings, StorageServer,
};

const ROUNDS: usize = 5;
const LOOK_UPS: u64 = 500;
const AT_ONCE: usize = 64;
/// Files that are put in each round, of 4 KiB each.
const PUTS: u64 = 1_000;

/// An array with so many files.
struct Sized {
    files: u64,
    array: Array,
    home: tempfile::TempDir,
    /// Copies a second while the files were made.
    copies: f64,
    /// Puts a second, into clouds that answer at once.
    puts: Vec<f64>,
    look_up: Vec<f64>,
    /// Pages: of all files, of a folder, of all folders, and of a folder whose sisters are large.
    pages: [Vec<f64>; 4],
}

fn bucket(name: String) -> FileName {
    FileName {
        bucket: "files".to_owned(),
        name,
    }
}

/// The name of a file: folders of 1,000, and one folder of half of all files.
fn name(number: u64) -> FileName {
    bucket(match number % 2 {
        0 => format!("large/{number:010}"),
        _ => format!("small/{:07}/{number:010}", number / 2_000),
    })
}

async fn array(home: &tempfile::TempDir) -> Array {
    let database = Database::open(&home.path().join("raic.db")).unwrap();
    let leasedb = LeaseDb::open(database, Clock::system(), GracePeriods::default());
    let leasedb = leasedb.await.unwrap();
    let (holds, budget) = (Holds::default(), ChunkBudget::default());
    let keyring = Keyring::generate().unwrap();
    let sealed = keyring.seal(&RecoveryKey::generate().unwrap()).unwrap();
    let owner = Owner {
        array: keyring.array,
        key: keyring.owner_key(),
        identity: leasedb.identity().await.unwrap(),
    };
    let mut servers = Vec::new();
    for cloud in ["a", "b", "c", "d"] {
        let cloud = Arc::new(MemoryCloud::new(cloud));
        let backend = Arc::new(CloudBackend::new(cloud, DEFAULT_CHUNK_SIZE, budget.clone()));
        let (leasedb, owner, settings) =
            (leasedb.clone(), owner.clone(), ServerSettings::default());
        let server = StorageServer::open(backend, leasedb, owner, settings, holds.clone());
        servers.push(Arc::new(server.await.unwrap()));
    }
    let config = ArrayConfig {
        classes: Classes::one(Class {
            geometry: Geometry { k: 2, n: 4 },
            survive: 1,
            padding: Padding::None,
            segment_size: Class::SEGMENT_SIZE,
        })
        .unwrap(),
        extent_size: MAX_STREAM,
        patience: ArrayConfig::PATIENCE,
        keyring,
        sealed_keyring: sealed.into(),
        servers,
        leasedb,
        holds,
        budget,
        read_budget: ChunkBudget::new(ArrayConfig::READ_MEMORY),
    };
    Array::open(config).await.unwrap()
}

impl Sized {
    async fn make(files: u64) -> Self {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let array = array(&home).await;
        let content = stream::iter([Ok::<_, String>(Bytes::from_static(b"content"))]);
        let first = name(0);
        array
            .put(&first, content, PutOptions::default())
            .await
            .unwrap();
        let began = Instant::now();
        let copies = stream::iter(1..files).map(|number| {
            let (array, first) = (&array, &first);
            async move {
                let copied = array.copy(first, &name(number), Replace::Yes).await;
                copied.unwrap();
            }
        });
        copies.buffer_unordered(AT_ONCE).collect::<()>().await;
        let copies = files as f64 / began.elapsed().as_secs_f64();
        Self {
            files,
            array,
            home,
            copies,
            puts: Vec::new(),
            look_up: Vec::new(),
            pages: Default::default(),
        }
    }

    async fn page(&self, prefix: &str, delimiter: &str, after: &str) -> Duration {
        let request = ListRequest {
            bucket: "files".to_owned(),
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
            after: after.to_owned(),
            limit: 1000,
            ..ListRequest::default()
        };
        let began = Instant::now();
        let page = self.array.list(request).await.unwrap();
        let took = began.elapsed();
        assert!(!page.files.is_empty() || !page.prefixes.is_empty());
        took
    }

    async fn put_some(&mut self) {
        let round = self.puts.len();
        let began = Instant::now();
        let puts = stream::iter(0..PUTS).map(|number| {
            let array = &self.array;
            async move {
                let content = stream::iter([Ok::<_, String>(Bytes::from_static(&[7; 4096]))]);
                let options = PutOptions {
                    size: Some(4096),
                    ..PutOptions::default()
                };
                let name = bucket(format!("put/{round}/{number:07}"));
                array.put(&name, content, options).await.unwrap();
            }
        });
        puts.buffer_unordered(AT_ONCE).collect::<()>().await;
        self.puts.push(PUTS as f64 / began.elapsed().as_secs_f64());
    }

    async fn round(&mut self) {
        self.put_some().await;
        let began = Instant::now();
        for i in 0..LOOK_UPS {
            // Spread over all files.
            let number = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.files;
            self.array.stat(&name(number)).await.unwrap();
        }
        let each = began.elapsed().as_secs_f64() / LOOK_UPS as f64;
        self.look_up.push(each * 1e6);
        let middle = name((self.files / 2) & !1).name;
        let folder = format!("small/{:07}/", self.files / 4_000);
        for (times, (prefix, delimiter, after)) in [
            ("", "", &*middle),
            (&*folder, "", ""),
            ("small/", "/", ""),
            ("", "/", ""),
        ]
        .into_iter()
        .enumerate()
        {
            let took = self.page(prefix, delimiter, after).await;
            self.pages[times].push(took.as_secs_f64() * 1e3);
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

async fn run(most: u64) {
    let mut all = Vec::new();
    let mut files = 1_000;
    while files <= most {
        all.push(Sized::make(files).await);
        files *= 10;
    }
    for _ in 0..ROUNDS {
        for sized in &mut all {
            sized.round().await;
        }
    }
    println!(
        "{:>9} {:>9} {:>8} {:>10} {:>11} {:>11} {:>11} {:>11} {:>10}",
        "files",
        "copies/s",
        "puts/s",
        "stat us",
        "page ms",
        "folder ms",
        "folders ms",
        "top ms",
        "MiB"
    );
    for sized in &all {
        let size = std::fs::metadata(sized.home.path().join("raic.db"))
            .unwrap()
            .len();
        let [page, folder, folders, top] = [0, 1, 2, 3].map(|i| median(&sized.pages[i]));
        println!(
            "{:>9} {:>9.0} {:>8.0} {:>10.1} {page:>11.2} {folder:>11.2} {folders:>11.2} {top:>11.2} {:>10.1}",
            sized.files,
            sized.copies,
            median(&sized.puts),
            median(&sized.look_up),
            size as f64 / f64::from(1 << 20)
        );
    }
}

fn main() {
    let mut arguments = env::args().skip(1).filter(|word| word != "--bench");
    // `cargo test` runs benches, too, and has nothing to say here.
    let Some(most) = arguments.next().and_then(|text| text.parse().ok()) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(most));
}
