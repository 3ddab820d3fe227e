//! Listings that are longer than a page, on every service.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use raic_cloud::{Cloud, ObjectKey, Payload, WriteMode};
use raic_storage::{
    ChunkBudget, CloudBackend, Container as _, Found, IndexPrefix, RangeSet, ShareNum,
    ShareStore as _, Span, StorageIndex,
};

/// Stores 12,000 objects under one prefix, and checks that a walk by pages of 1,000 finds every one
/// of them. The first RAIC lost those past the first page.
///
/// # Panics
/// If an object is not found.
pub async fn twelve_thousand_objects_are_listed_to_the_last(cloud: Arc<dyn Cloud>) {
    let index = StorageIndex([0xab; 16]);
    let si = index.to_string();
    let keys = (0..12_000_u64)
        .map(|i| (i / 4_000, i % 4_000))
        .map(|(share, chunk)| {
            let name = if chunk == 0 {
                share.to_string()
            } else {
                format!("{share}.{chunk}")
            };
            ObjectKey::new(format!("shares/{}/{si}/{name}", &si[..2])).expect("a key")
        });
    let put = |key: ObjectKey| {
        let cloud = cloud.clone();
        async move {
            cloud
                .put(&key, Payload::from(&b"x"[..]), WriteMode::Overwrite)
                .await
                .expect("put");
        }
    };
    stream::iter(keys).for_each_concurrent(32, put).await;
    let backend = CloudBackend::new(cloud, 1, ChunkBudget::default());
    let found = backend
        .scan(Span::Below(IndexPrefix::from(index)), 20_000)
        .await
        .expect("a listing");
    let found: Vec<_> = found
        .into_iter()
        .filter(|f| f.id.index == index)
        .map(|f| (f.id.share, f.found))
        .collect();
    let chunks: RangeSet = std::iter::once(0..4_000).collect();
    let whole = |share| {
        (
            ShareNum(share),
            Found::Immutable {
                chunks: chunks.clone(),
                chunk_size: 1,
                bytes: 4_000,
            },
        )
    };
    assert_eq!(found, [whole(0), whole(1), whole(2)]);
    assert_eq!(
        backend.shares(index).await.expect("shares"),
        [0, 1, 2].map(ShareNum)
    );
}
