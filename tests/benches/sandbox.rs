//! What the sandbox costs. It measures puts and gets through the S3 connector beside object_store's
//! native client, interleaved, on one server in this process. It prints medians of runs, and their
//! ratios. `cargo xtask bench sandbox` runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that fails has nothing to say"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{
    ClientOptions, ObjectStoreExt as _, PutPayload,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path as StorePath,
};
use raic_cloud::{Cloud, ObjectKey, Payload, WriteMode, collect_body};
use raic_tests::{
    components::{s3_cloud, s3_keys},
    s3s_fs::S3sFs,
};
use raic_wasm::{ConnectorCloud, TlsSettings};
use tokio::task::JoinSet;

const SIZES: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 4 << 20];
const AT_ONCE: [usize; 3] = [1, 8, 64];
/// What one measurement moves, in bytes, if that is between 64 and 1024 objects.
const BYTES: usize = 64 << 20;

/// One of the two clients that are compared.
enum Client {
    Sandboxed(ConnectorCloud),
    Native(AmazonS3),
}

impl Client {
    async fn put(&self, name: &str, content: Bytes) {
        match self {
            Self::Sandboxed(cloud) => {
                let key = ObjectKey::new(name).unwrap();
                cloud
                    .put(&key, Payload::from(content), WriteMode::Overwrite)
                    .await
                    .unwrap();
            }
            Self::Native(store) => {
                store
                    .put(&StorePath::from(name), PutPayload::from(content))
                    .await
                    .unwrap();
            }
        }
    }

    async fn get(&self, name: &str, size: usize) {
        let found = match self {
            Self::Sandboxed(cloud) => {
                let object = cloud
                    .get(&ObjectKey::new(name).unwrap(), None, None)
                    .await
                    .unwrap();
                collect_body("s3", object.body, size).await.unwrap()
            }
            Self::Native(store) => {
                let object = store.get(&StorePath::from(name)).await.unwrap();
                let pieces: Vec<Bytes> = object.into_stream().try_collect().await.unwrap();
                pieces.concat().into()
            }
        };
        assert_eq!(found.len(), size);
    }
}

/// Runs `objects` jobs in `at_once` tasks, on every core as in a daemon. Returns how long they
/// took together.
async fn timed<F: Future<Output = ()> + Send>(
    objects: usize,
    at_once: usize,
    run: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Duration {
    let (began, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (next, run) = (next.clone(), run.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= objects {
                    break;
                }
                run(n).await;
            }
        });
    }
    tasks.join_all().await;
    began.elapsed()
}

fn median(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took[took.len() / 2].as_secs_f64()
}

#[tokio::main]
async fn main() {
    let runs: usize = std::env::args()
        .nth(1)
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(5);
    let target_tmp = std::env::args().nth(2).expect("the target folder's tmp");
    let folder = tempfile::Builder::new()
        .prefix("raic-bench-")
        .tempdir_in("/dev/shm")
        .unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let service = S3sFs::start(folder.path(), "ACCESS", "SECRET").await;
    let settings = [("bucket", "bucket"), ("endpoint", service.url.as_str())];
    let sandboxed = s3_cloud(
        &target_tmp,
        &settings,
        s3_keys("ACCESS", "SECRET"),
        TlsSettings::default(),
    );
    // object_store's client asks for a provider of TLS, though nothing here uses TLS.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    let native = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_region("us-east-1")
        .with_endpoint(service.url.clone())
        .with_access_key_id("ACCESS")
        .with_secret_access_key("SECRET")
        .with_client_options(ClientOptions::new().with_allow_http(true));
    let clients = [
        Client::Sandboxed(sandboxed.unwrap()),
        Client::Native(native.build().unwrap()),
    ];
    let clients = Arc::new(clients);
    println!(
        "{:>8} {:>8} {:>6} {:>12} {:>12} {:>7}",
        "job", "size", "tasks", "sandboxed", "native", "ratio"
    );
    for size in SIZES {
        let content = Bytes::from((0..size).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>());
        let objects = (BYTES / size).clamp(64, 1024);
        for at_once in AT_ONCE {
            let mut took = [[const { Vec::new() }; 2], [const { Vec::new() }; 2]];
            for run in 0..=runs {
                for turn in 0..2 {
                    // Each client comes first in every other run.
                    let i = (run + turn) % 2;
                    let name = move |n: usize| format!("{i}/{size}/{}", n % 256);
                    let (stored, content) = (clients.clone(), content.clone());
                    let put = move |n| {
                        let (clients, content) = (stored.clone(), content.clone());
                        async move { clients[i].put(&name(n), content).await }
                    };
                    let stored = clients.clone();
                    let get = move |n| {
                        let clients = stored.clone();
                        async move { clients[i].get(&name(n), size).await }
                    };
                    let (put, get) = (
                        timed(objects, at_once, put).await,
                        timed(objects, at_once, get).await,
                    );
                    // The first run is to warm up.
                    if run > 0 {
                        took[0][i].push(put);
                        took[1][i].push(get);
                    }
                }
            }
            for (job, took) in ["put", "get"].into_iter().zip(took) {
                let [ours, theirs] = took.map(median);
                let rate = |seconds: f64| (objects * size) as f64 / seconds / 1e6;
                println!(
                    "{job:>8} {:>8} {at_once:>6} {:>7.1} MB/s {:>7.1} MB/s {:>6.2}x",
                    size >> 10,
                    rate(ours),
                    rate(theirs),
                    theirs / ours
                );
            }
        }
    }
}
