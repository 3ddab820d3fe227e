//! Every backend keeps to the same rules.

use std::sync::Arc;

use raic_cloud::MemoryCloud;
use raic_storage::{CloudBackend, DiskBackend, MemoryBackend, conformance};

#[tokio::test]
async fn the_memory_backend_conforms() {
    conformance::all(&MemoryBackend::new("m")).await;
}

#[tokio::test]
async fn the_disk_backend_conforms_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    conformance::all(&DiskBackend::open("d", folder.path()).unwrap()).await;
    assert_eq!(std::fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_cloud_backend_conforms_with_any_chunk_size_and_leaves_no_chunk() {
    for chunk_size in [1_000, 4_096, 10_000, 1 << 20] {
        let cloud = Arc::new(MemoryCloud::new("c"));
        conformance::all(&CloudBackend::new(cloud.clone(), chunk_size)).await;
        let left: Vec<_> = cloud.keys().iter().map(|key| key.as_str().to_owned()).collect();
        assert_eq!(left, ["raic/conformance"], "{chunk_size}");
    }
}
