//! A host that stops at any request to a cloud: after its restart each name has its old or its new
//! content, whole, and nothing else is left in the clouds or in what accounts pay.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use raic_array::{Array, ArrayError, Replace, Versioning};
use raic_storage::{Clock, Usage};
use rig::{Rig, Stopper, content, get, named, put};
use tokio::runtime::Runtime;

/// What is done when the host stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Put,
    Overwrite,
    Copy,
    CopyOver,
    Move,
    Remove,
    /// In a bucket that keeps versions.
    RemoveVersion,
}

/// The lengths of the contents of all names.
type Files = BTreeMap<&'static str, usize>;

impl Work {
    const ALL: [Self; 7] = [
        Self::Put,
        Self::Overwrite,
        Self::Copy,
        Self::CopyOver,
        Self::Move,
        Self::Remove,
        Self::RemoveVersion,
    ];

    /// The contents before, and those after.
    fn contents(self) -> (Files, Files) {
        let before = Files::from([("file", 7_000), ("other", 300)]);
        let mut after = before.clone();
        match self {
            Self::Put => drop(after.insert("new", 9_000)),
            Self::Overwrite => drop(after.insert("file", 9_000)),
            Self::Copy => drop(after.insert("new", 7_000)),
            Self::CopyOver => drop(after.insert("other", 7_000)),
            Self::Move => {
                after.remove("file");
                after.insert("other", 7_000);
            }
            Self::Remove => drop(after.remove("file")),
            // The older version is the content again.
            Self::RemoveVersion => {
                let before = Files::from([("file", 7_000)]);
                return (before, Files::from([("file", 2_000)]));
            }
        }
        (before, after)
    }

    async fn prepare(self, array: &Array) {
        if self == Self::RemoveVersion {
            array.set_versioning("files", Versioning::On).await.unwrap();
            put(array, "file", content(2_000)).await.unwrap();
        }
        for (name, length) in self.contents().0 {
            put(array, name, content(length)).await.unwrap();
        }
    }

    async fn run(self, array: &Array) -> Result<(), ArrayError> {
        let (file, replace) = (named("file"), Replace::Yes);
        match self {
            Self::Put => put(array, "new", content(9_000)).await,
            Self::Overwrite => put(array, "file", content(9_000)).await,
            Self::Copy => array.copy(&file, &named("new"), replace).await.map(drop),
            Self::CopyOver => array.copy(&file, &named("other"), replace).await.map(drop),
            Self::Move => array
                .rename(&file, &named("other"), replace)
                .await
                .map(drop),
            Self::Remove => array.remove(&file).await.map(drop),
            Self::RemoveVersion => {
                let version = array.stat(&file).await?.version;
                array.remove_version(&file, version).await
            }
        }
    }

    /// The objects of all shares once nothing is left of what went.
    fn objects(self, files: &Files) -> usize {
        // Copies share what is stored: contents of one length are one here.
        let mut streams: BTreeSet<usize> = files.values().copied().collect();
        if self == Self::RemoveVersion {
            streams.insert(2_000);
        }
        // Extents of 4,000 bytes, each of four shares of one object.
        streams
            .iter()
            .map(|length| length.div_ceil(4_000) * 4)
            .sum()
    }
}

async fn files(array: &Array) -> Files {
    let mut files = Files::new();
    for name in ["file", "other", "new"] {
        match get(array, name, None).await {
            Ok(bytes) => {
                assert_eq!(bytes, content(bytes.len()), "{name}");
                files.insert(name, bytes.len());
            }
            Err(ArrayError::NoSuchFile(_)) => {}
            Err(e) => panic!("{name}: {e}"),
        }
    }
    files
}

/// What the account pays.
async fn paid(array: &Array) -> Usage {
    let usage = array.leasedb().usage_by_account().await.unwrap();
    let mut of = usage.into_iter();
    of.find(|usage| usage.name == "anonymous").unwrap()
}

/// Lets time pass until the clouds hold so many objects of shares, and no upload reserves anything.
async fn settles(rig: &Rig, array: &Array, objects: usize, what: &str) {
    for _ in 0..400 {
        if rig.objects() == objects && paid(array).await.shares == 0 {
            return;
        }
        rig.clock.advance(Duration::from_secs(600));
        for server in array.servers() {
            server.wake();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: {} objects, and not {objects}", rig.objects());
}

/// Stops the host at a request. Returns whether it came so far.
fn stop_at(work: Work, at: usize, lands: bool) -> bool {
    let what = format!("{work:?} at {at}, {}", if lands { "done" } else { "lost" });
    let mut rig = Rig {
        extent_size: 4_000,
        clock: Clock::manual(1_700_000_000_000),
        ..Rig::new(4)
    };
    let (before, after) = work.contents();
    // Each life of the host is a runtime of its own: what it does ends with it.
    let life = Runtime::new().unwrap();
    life.block_on(async {
        let array = rig.open().await;
        work.prepare(&array).await;
        settles(&rig, &array, work.objects(&before), &what).await;
    });
    life.shutdown_timeout(Duration::from_secs(5));

    let stopper = Stopper::new(at, lands);
    rig.stopper = Some(stopper.clone());
    let life = Runtime::new().unwrap();
    let is_done = life.block_on(async {
        let array = Arc::new(rig.open().await);
        let run = {
            let array = array.clone();
            tokio::spawn(async move { work.run(&array).await })
        };
        let mut ended = None;
        let mut run = Some(run);
        for _ in 0..4_000 {
            if stopper.has_stopped() {
                break;
            }
            if run
                .as_ref()
                .is_some_and(tokio::task::JoinHandle::is_finished)
            {
                ended = Some(run.take().unwrap().await.unwrap());
            }
            // What follows is that old shares go.
            if ended.is_some() && rig.objects() == work.objects(&after) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ended.is_some_and(|ended| {
            ended.unwrap();
            true
        })
    });
    life.shutdown_timeout(Duration::from_secs(5));

    rig.stopper = None;
    let life = Runtime::new().unwrap();
    life.block_on(async {
        let array = rig.open().await;
        let seen = files(&array).await;
        match is_done {
            true => assert_eq!(seen, after, "{what}: it was acknowledged"),
            false => assert!(seen == before || seen == after, "{what}: {seen:?}"),
        }
        settles(&rig, &array, work.objects(&seen), &what).await;
        assert_eq!(files(&array).await, seen, "{what}");
        let paid = paid(&array).await;
        let mut lengths: Vec<usize> = seen.values().copied().collect();
        if work == Work::RemoveVersion && seen == before {
            lengths.push(2_000);
        }
        let expected = (
            0,
            lengths.len() as u64,
            2 * lengths.iter().sum::<usize>() as u64,
        );
        assert_eq!((paid.shares, paid.files, paid.bytes), expected, "{what}");
    });
    life.shutdown_timeout(Duration::from_secs(5));
    stopper.has_stopped()
}

#[test]
fn a_stop_at_any_request_leaves_the_old_or_the_new_file_and_nothing_else() {
    // Each request takes a minute: `cargo xtask test slow`. Otherwise some of each kind of work.
    let (step, least) = match std::env::var_os("RAIC_SLOW").is_some() {
        true => (1, 60),
        false => (5, 12),
    };
    let mut stops = 0;
    for (first, work) in Work::ALL.into_iter().enumerate() {
        for lands in [false, true] {
            let mut at = (first + usize::from(lands)) % step;
            while stop_at(work, at, lands) {
                (at, stops) = (at + step, stops + 1);
            }
        }
    }
    assert!(stops > least, "{stops}");
    println!("{stops} stops");
}
