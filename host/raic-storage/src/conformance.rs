//! What every backend keeps to, one behaviour a function.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::{Backend, Result, ShareNum, StorageError, StorageIndex};

/// Runs every check.
///
/// # Panics
/// Where one does not hold.
pub async fn all(backend: &dyn Backend) {
    a_share_reads_back_whole_and_in_part(backend).await;
    what_is_not_there_is_not_found(backend).await;
    a_share_is_not_there_before_it_is_finished(backend).await;
    removing_a_share_leaves_its_neighbours(backend).await;
    an_empty_share_is_a_share(backend).await;
    an_object_is_loaded_as_it_was_stored_last(backend).await;
    backend.probe().await.expect("probe");
}

fn index() -> StorageIndex {
    StorageIndex::random().expect("randomness")
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

async fn write(backend: &dyn Backend, index: StorageIndex, share: ShareNum, content: &Bytes) -> u64 {
    let mut writer = backend.create(index, share).await.expect("create");
    // In pieces that fit no chunk size.
    for start in (0..content.len()).step_by(777) {
        writer.write(content.slice(start..content.len().min(start + 777))).await.expect("write");
    }
    writer.finish().await.expect("finish")
}

async fn read(
    backend: &dyn Backend,
    index: StorageIndex,
    share: ShareNum,
    range: Range<u64>,
) -> Result<Vec<u8>> {
    let stream = backend.read(index, share, range).await?;
    stream
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

/// Whole, across chunks, at both ends, and not past the end.
pub async fn a_share_reads_back_whole_and_in_part(backend: &dyn Backend) {
    let (index, share) = (index(), ShareNum(3));
    let content = pattern(10_000);
    write(backend, index, share, &content).await;
    for range in [0..10_000, 0..1, 9_999..10_000, 4_095..4_097, 1_000..9_000, 8_192..8_193] {
        let part = &content[range.start..range.end];
        let range = range.start as u64..range.end as u64;
        assert_eq!(read(backend, index, share, range.clone()).await.expect("read"), part, "{range:?}");
    }
    for range in [0..10_001, 10_000..10_001, 9_000..20_000, 50_000..50_001] {
        let past = read(backend, index, share, range.clone()).await.expect_err("past the end");
        let told = matches!(past, StorageError::Short { .. } | StorageError::NotFound { .. });
        assert!(told, "{range:?}: {past}");
    }
    backend.remove(index, share, None).await.expect("remove");
}

/// Not found, and nothing to list or remove.
pub async fn what_is_not_there_is_not_found(backend: &dyn Backend) {
    let absent = read(backend, index(), ShareNum(0), 0..1).await.expect_err("nothing there");
    assert!(matches!(absent, StorageError::NotFound { .. }), "{absent}");
    assert_eq!(backend.shares(index()).await.expect("shares"), []);
    backend.remove(index(), ShareNum(0), Some(3)).await.expect("removing nothing succeeds");
}

/// A writer that was dropped leaves nothing that `remove` does not clear.
pub async fn a_share_is_not_there_before_it_is_finished(backend: &dyn Backend) {
    let (index, share) = (index(), ShareNum(0));
    let mut writer = backend.create(index, share).await.expect("create");
    writer.write(pattern(100)).await.expect("write");
    assert!(read(backend, index, share, 0..100).await.is_err(), "not finished");
    drop(writer);
    backend.remove(index, share, None).await.expect("remove");
    assert_eq!(backend.shares(index).await.expect("shares"), []);
    let objects = write(backend, index, share, &pattern(50)).await;
    assert_eq!(read(backend, index, share, 0..50).await.expect("read"), pattern(50));
    backend.remove(index, share, Some(objects)).await.expect("remove");
}

/// Share 1 is not share 10, nor 11: the first RAIC removed all three.
pub async fn removing_a_share_leaves_its_neighbours(backend: &dyn Backend) {
    let index = index();
    let mut objects = 0;
    for share in [1, 10, 11] {
        objects = write(backend, index, ShareNum(share), &pattern(9_000)).await;
    }
    backend.remove(index, ShareNum(1), None).await.expect("remove");
    assert_eq!(backend.shares(index).await.expect("shares"), [ShareNum(10), ShareNum(11)]);
    assert_eq!(read(backend, index, ShareNum(10), 0..9_000).await.expect("read"), pattern(9_000));
    for share in [10, 11] {
        backend.remove(index, ShareNum(share), Some(objects)).await.expect("remove");
    }
    assert_eq!(backend.shares(index).await.expect("shares"), []);
}

/// A share without bytes is there all the same.
pub async fn an_empty_share_is_a_share(backend: &dyn Backend) {
    let index = index();
    write(backend, index, ShareNum(0), &Bytes::new()).await;
    assert_eq!(backend.shares(index).await.expect("shares"), [ShareNum(0)]);
    backend.remove(index, ShareNum(0), None).await.expect("remove");
}

/// And none is there before.
pub async fn an_object_is_loaded_as_it_was_stored_last(backend: &dyn Backend) {
    assert_eq!(backend.load_object("conformance").await.expect("load"), None);
    for content in [pattern(300), pattern(20)] {
        backend.store_object("conformance", content.clone()).await.expect("store");
        assert_eq!(backend.load_object("conformance").await.expect("load"), Some(content));
    }
}
