//! Every backend has the same behaviours.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::{path::Path, sync::Arc, time::Duration};

use raic_cloud::MemoryCloud;
use raic_storage::{
    Backend as _, ChunkBudget, Clock, CloudBackend, Database, DiskBackend, GracePeriods, LeaseDb,
    MemoryBackend, Slots, Spool, conformance,
};

#[tokio::test]
async fn the_memory_backend_conforms() {
    conformance::all(&MemoryBackend::new("m")).await;
}

#[tokio::test]
async fn the_disk_backend_conforms_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    conformance::all(&DiskBackend::open("d", folder.path()).unwrap()).await;
    assert_eq!(
        std::fs::read_dir(folder.path().join("incoming"))
            .unwrap()
            .count(),
        0
    );
}

/// Makes a cloud backend with slots and a spool in a folder.
async fn cloud_backend(
    cloud: Arc<MemoryCloud>,
    chunk_size: usize,
    folder: &Path,
    clock: &Clock,
) -> CloudBackend {
    let database = Database::open(&folder.join("db")).unwrap();
    let leasedb = LeaseDb::open(database, clock.clone(), GracePeriods::default())
        .await
        .unwrap();
    let server = leasedb.server("c").await.unwrap();
    let spool = Spool::open(&folder.join("spool"), 1 << 20).unwrap();
    CloudBackend::new(cloud, chunk_size, ChunkBudget::default())
        .with_slots(Slots::new(leasedb, server, [3; 32]), 256)
        .with_spool(spool)
}

#[tokio::test]
async fn the_cloud_backend_conforms_with_any_chunk_size_and_leaves_no_chunk() {
    for chunk_size in [1_000, 4_096, 10_000, 1 << 20] {
        let (cloud, folder, clock) = (
            Arc::new(MemoryCloud::new("c")),
            tempfile::tempdir().unwrap(),
            Clock::manual(1 << 40),
        );
        let backend = cloud_backend(cloud.clone(), chunk_size, folder.path(), &clock).await;
        conformance::all(&backend).await;
        clock.advance(Duration::from_secs(16 * 60));
        let slots = backend.mutable_store().unwrap();
        for id in slots.untidy_mutable(100).await.unwrap() {
            assert!(slots.tidy_mutable(id).await.unwrap());
        }
        let left: Vec<_> = cloud
            .keys()
            .iter()
            .map(|key| key.as_str().to_owned())
            .collect();
        assert_eq!(left, ["raic/conformance"], "{chunk_size}");
        assert_eq!(
            std::fs::read_dir(folder.path().join("spool"))
                .unwrap()
                .count(),
            0,
            "{chunk_size}"
        );
    }
}
