//! `cargo xtask bench backend`: measures each backend by MB/s of writing and reading a share, by
//! patches of a mutable share, by allocations and by peak memory.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on should say where"
)]
use std::{alloc::System, env, fs, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::TryStreamExt as _;
use raic_cloud::MemoryCloud;
use raic_storage::{
    Backend, ChunkBudget, Clock, CloudBackend, DEFAULT_CHUNK_SIZE, Database, DiskBackend,
    GracePeriods, LeaseDb, MUTABLE_CHUNK_SIZE, MemoryBackend, MutableWrite, NullBackend, ShareId,
    ShareNum, Slots, Spool, StorageIndex, StreamMemory,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PIECE: usize = 256 << 10;
const PATCHES: u64 = 500;

struct Measured {
    write: f64,
    read: f64,
    patches: f64,
    allocations: usize,
    peak: u64,
}

/// Peak resident memory since it was reset, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("0");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap_or(0)
        << 10
}

async fn measure(backend: &dyn Backend, mebibytes: u64) -> Measured {
    let piece: Bytes = (0..PIECE).map(|i| (i * 31 % 251) as u8).collect();
    let id = ShareId {
        index: StorageIndex([1; 16]),
        share: ShareNum(0),
    };
    // Writing 5 resets the peak to the memory that is resident now (proc(5)). If this is not
    // permitted, the peak is that of the whole process.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (allocations, live) = (COUNTING.stats().allocations, peak());
    let began = Instant::now();
    let mut writer = backend.create(id, StreamMemory::of_one()).await.unwrap();
    let pieces = (mebibytes << 20) / PIECE as u64;
    for _ in 0..pieces {
        writer.write(piece.clone()).await.unwrap();
    }
    let stored = writer.finish().await.unwrap();
    let write = mebibytes as f64 * 1.048_576 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    let read = match backend.read(id, 0..mebibytes << 20).await {
        Ok(stream) => {
            let bytes = stream
                .try_fold(0, async |sum, piece| Ok(sum + piece.len() as u64))
                .await
                .unwrap();
            assert_eq!(bytes, mebibytes << 20);
            mebibytes as f64 * 1.048_576 / began.elapsed().as_secs_f64()
        }
        // The null backend keeps no shares.
        Err(_) => 0.0,
    };
    let allocations = COUNTING.stats().allocations - allocations;
    let peak = peak().saturating_sub(live);
    backend.remove(id, Some(stored.objects)).await.unwrap();
    // The null backend has no mutable shares.
    let mutable = backend.mutable_store();
    let id = ShareId {
        index: StorageIndex([1; 16]),
        share: ShareNum(1),
    };
    let began = Instant::now();
    for i in 0..mutable.map_or(0, |_| PATCHES) {
        let writes = vec![(i * 7 % 50_000, Bytes::from_static(b"one small patch"))];
        let write = MutableWrite {
            writes,
            ..MutableWrite::default()
        };
        if let Some(store) = mutable {
            store.write_mutable(id, write).await.unwrap();
        }
    }
    let patches = mutable.map_or(0.0, |_| PATCHES as f64) / began.elapsed().as_secs_f64();
    Measured {
        write,
        read,
        patches,
        allocations,
        peak,
    }
}

#[tokio::main]
async fn main() {
    let mebibytes: u64 = env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(512);
    let parent = if fs::metadata("/dev/shm").is_ok() {
        "/dev/shm".into()
    } else {
        env::temp_dir()
    };
    let folder = tempfile::tempdir_in(parent).unwrap();
    fs::create_dir(folder.path().join("disk")).unwrap();
    let leasedb = Database::open(&folder.path().join("db")).unwrap();
    let leasedb = LeaseDb::open(leasedb, Clock::system(), GracePeriods::default())
        .await
        .unwrap();
    let server = leasedb.server("cloud").await.unwrap();
    let spool = Spool::open(&folder.path().join("spool"), 1 << 30).unwrap();
    let cloud = CloudBackend::new(
        Arc::new(MemoryCloud::new("cloud")),
        DEFAULT_CHUNK_SIZE,
        ChunkBudget::default(),
    )
    .with_slots(Slots::new(leasedb, server, [0; 32]), MUTABLE_CHUNK_SIZE)
    .with_spool(spool);
    let backends: [(&str, Box<dyn Backend>); 4] = [
        (
            "disk",
            Box::new(DiskBackend::open("disk", &folder.path().join("disk")).unwrap()),
        ),
        ("cloud", Box::new(cloud)),
        ("memory", Box::new(MemoryBackend::new("memory"))),
        ("null", Box::new(NullBackend::new("null"))),
    ];
    println!(
        "{:<8} {:>11} {:>11} {:>11} {:>12} {:>10}",
        "", "write MB/s", "read MB/s", "patches/s", "allocations", "peak MiB"
    );
    let mut json = Vec::new();
    for (name, backend) in &backends {
        let Measured {
            write,
            read,
            patches,
            allocations,
            peak,
        } = measure(&**backend, mebibytes).await;
        println!(
            "{name:<8} {write:>11.0} {read:>11.0} {patches:>11.0} {allocations:>12} {:>10}",
            peak >> 20
        );
        json.push(format!(
            r#"{{"backend":"{name}","write_mb_s":{write:.0},"read_mb_s":{read:.0},"patches_s":{patches:.0},"allocations":{allocations},"peak_bytes":{peak}}}"#
        ));
    }
    println!(
        r#"{{"job":"backend","mebibytes":{mebibytes},"rows":[{}]}}"#,
        json.join(",")
    );
}
