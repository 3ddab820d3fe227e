//! arrow object_store's own integration tests, over our clouds.

use std::sync::Arc;

use object_store::integration;
use raic_cloud::{Cloud, MemoryCloud};
use raic_tests::{
    adapter::CloudStore,
    components::{s3_cloud, s3_keys},
    radosgw::{ACCESS_KEY, Radosgw, SECRET_KEY},
};
use raic_wasm::TlsSettings;

async fn pass(cloud: Arc<dyn Cloud>, replaces_by_etag: bool) {
    let store = CloudStore(cloud);
    integration::put_get_delete_list(&store).await;
    integration::get_opts(&store).await;
    integration::put_opts(&store, replaces_by_etag).await;
    integration::list_uses_directories_correctly(&store).await;
    integration::list_with_delimiter(&store).await;
    integration::list_with_offset_exclusivity(&store).await;
    integration::rename_and_copy(&store).await;
    integration::copy_if_not_exists(&store).await;
    integration::copy_rename_nonexistent_object(&store).await;
    integration::stream_get(&store).await;
    integration::multipart_out_of_order(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_cloud_passes_object_stores_tests() {
    pass(Arc::new(MemoryCloud::new("memory")), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_s3_connector_passes_object_stores_tests_on_radosgw() {
    let service = tokio::task::spawn_blocking(Radosgw::start)
        .await
        .expect("RADOSGW");
    let settings = [
        ("bucket", "bucket"),
        ("endpoint", service.url.as_str()),
        ("if-match", "none"),
    ];
    let keys = s3_keys(ACCESS_KEY, SECRET_KEY);
    let cloud = s3_cloud(
        env!("CARGO_TARGET_TMPDIR"),
        &settings,
        keys,
        TlsSettings::default(),
    )
    .expect("a cloud");
    cloud.create_container().await.expect("a bucket");
    pass(Arc::new(cloud), false).await;
}
