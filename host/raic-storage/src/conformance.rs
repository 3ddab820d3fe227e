//! The behaviours of every backend, one in each function.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::{
    Backend, Found, IndexPrefix, MutableWrite, RangeSet, Result, ShareId, ShareNum, Span,
    StorageError, StorageIndex, StreamMemory,
};

/// Runs all behaviours on a backend.
///
/// # Panics
/// Panics if the backend does not have one of them.
pub async fn all(backend: &dyn Backend) {
    a_share_reads_back_whole_and_in_part(backend).await;
    what_is_not_there_is_not_found(backend).await;
    a_share_is_not_there_before_it_is_finished(backend).await;
    removing_a_share_leaves_its_neighbours(backend).await;
    an_empty_share_is_a_share(backend).await;
    an_object_is_loaded_as_it_was_stored_last(backend).await;
    uploads_are_written_in_any_order_and_go_on(backend).await;
    mutable_shares_are_written_in_place(backend).await;
    a_walk_finds_every_share(backend).await;
    backend.probe().await.expect("probe");
}

/// Makes the id of a share with a storage index that nothing else in the suite uses.
fn share_id(share: u8) -> ShareId {
    ShareId {
        index: index(),
        share: ShareNum(share),
    }
}

fn index() -> StorageIndex {
    StorageIndex::random().expect("randomness")
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

async fn write(backend: &dyn Backend, id: ShareId, content: &Bytes) -> u64 {
    let mut writer = backend
        .create(id, StreamMemory::of_one())
        .await
        .expect("create");
    // The pieces fit no chunk size.
    for start in (0..content.len()).step_by(777) {
        writer
            .write(content.slice(start..content.len().min(start + 777)))
            .await
            .expect("write");
    }
    let stored = writer.finish().await.expect("finish");
    assert_eq!(stored.bytes, content.len() as u64);
    stored.objects
}

async fn read(backend: &dyn Backend, id: ShareId, range: Range<u64>) -> Result<Vec<u8>> {
    let stream = backend.read(id, range).await?;
    stream
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

/// A share reads back as a whole, across chunks and at both ends. A read past its end fails.
pub async fn a_share_reads_back_whole_and_in_part(backend: &dyn Backend) {
    let id = share_id(3);
    let content = pattern(10_000);
    write(backend, id, &content).await;
    for range in [
        0..10_000,
        0..1,
        9_999..10_000,
        4_095..4_097,
        1_000..9_000,
        8_192..8_193,
    ] {
        let part = &content[range.start..range.end];
        let range = range.start as u64..range.end as u64;
        assert_eq!(
            read(backend, id, range.clone()).await.expect("read"),
            part,
            "{range:?}"
        );
    }
    for range in [0..10_001, 10_000..10_001, 9_000..20_000, 50_000..50_001] {
        let past = read(backend, id, range.clone())
            .await
            .expect_err("past the end");
        let is_expected = matches!(
            past,
            StorageError::Short { .. } | StorageError::NotFound { .. }
        );
        assert!(is_expected, "{range:?}: {past}");
    }
    backend.remove(id, None).await.expect("remove");
}

/// A share that does not exist is not found and not listed, and removing it succeeds.
pub async fn what_is_not_there_is_not_found(backend: &dyn Backend) {
    let absent = read(backend, share_id(0), 0..1)
        .await
        .expect_err("nothing there");
    assert!(matches!(absent, StorageError::NotFound { .. }), "{absent}");
    assert_eq!(backend.shares(index()).await.expect("shares"), []);
    backend
        .remove(share_id(0), Some(3))
        .await
        .expect("removing nothing succeeds");
}

/// A share does not exist before it is finished. `remove` clears all that a dropped writer left.
pub async fn a_share_is_not_there_before_it_is_finished(backend: &dyn Backend) {
    let id = share_id(0);
    let mut writer = backend
        .create(id, StreamMemory::of_one())
        .await
        .expect("create");
    writer.write(pattern(100)).await.expect("write");
    assert!(read(backend, id, 0..100).await.is_err(), "not finished");
    drop(writer);
    backend.remove(id, None).await.expect("remove");
    assert_eq!(backend.shares(id.index).await.expect("shares"), []);
    let objects = write(backend, id, &pattern(50)).await;
    assert_eq!(read(backend, id, 0..50).await.expect("read"), pattern(50));
    backend.remove(id, Some(objects)).await.expect("remove");
}

/// Removing share 1 leaves shares 10 and 11: the first RAIC removed all three.
pub async fn removing_a_share_leaves_its_neighbours(backend: &dyn Backend) {
    let index = index();
    let id = |share| ShareId {
        index,
        share: ShareNum(share),
    };
    let mut objects = 0;
    for share in [1, 10, 11] {
        objects = write(backend, id(share), &pattern(9_000)).await;
    }
    backend.remove(id(1), None).await.expect("remove");
    assert_eq!(
        backend.shares(index).await.expect("shares"),
        [ShareNum(10), ShareNum(11)]
    );
    assert_eq!(
        read(backend, id(10), 0..9_000).await.expect("read"),
        pattern(9_000)
    );
    for share in [10, 11] {
        backend
            .remove(id(share), Some(objects))
            .await
            .expect("remove");
    }
    assert_eq!(backend.shares(index).await.expect("shares"), []);
}

/// A share without bytes exists like any other.
pub async fn an_empty_share_is_a_share(backend: &dyn Backend) {
    let id = share_id(0);
    write(backend, id, &Bytes::new()).await;
    assert_eq!(
        backend.shares(id.index).await.expect("shares"),
        [ShareNum(0)]
    );
    backend.remove(id, None).await.expect("remove");
}

/// An object is loaded with the content that was stored last, and does not exist before it is
/// stored.
pub async fn an_object_is_loaded_as_it_was_stored_last(backend: &dyn Backend) {
    assert_eq!(
        backend.load_object("conformance").await.expect("load"),
        None
    );
    for content in [pattern(300), pattern(20)] {
        backend
            .store_object("conformance", content.clone())
            .await
            .expect("store");
        assert_eq!(
            backend.load_object("conformance").await.expect("load"),
            Some(content)
        );
    }
}

/// An upload is written by offset in any order and continues after it was reopened. An abandoned
/// upload leaves nothing.
pub async fn uploads_are_written_in_any_order_and_go_on(backend: &dyn Backend) {
    let id = share_id(5);
    for length in [9_000, 0] {
        let content = pattern(length);
        let mut received = RangeSet::default();
        for range in [
            4_000..5_000,
            0..1_500,
            8_000..9_000,
            1_500..4_000,
            5_000..8_000,
        ] {
            let range = range.start.min(length)..range.end.min(length);
            let mut upload = backend
                .upload(id, length as u64, received.clone())
                .await
                .expect("upload");
            upload
                .write_at(range.start as u64, content.slice(range.clone()))
                .await
                .expect("write");
            received.insert(range.start as u64..range.end as u64);
            for range in received.ranges() {
                let part = content.slice(range.start as usize..range.end as usize);
                assert!(
                    upload.read_back(range.clone()).await.expect("read back") == part,
                    "{range:?}"
                );
            }
        }
        let upload = backend
            .upload(id, length as u64, received)
            .await
            .expect("upload");
        let stored = upload.finish().await.expect("finish");
        assert_eq!(stored.bytes, length as u64);
        assert!(read(backend, id, 0..length as u64).await.expect("read") == content);
        backend
            .remove(id, Some(stored.objects))
            .await
            .expect("remove");
        assert_eq!(backend.shares(id.index).await.expect("shares"), []);
    }
    let mut upload = backend
        .upload(id, 5_000, RangeSet::default())
        .await
        .expect("upload");
    upload.write_at(0, pattern(4_500)).await.expect("write");
    drop(upload);
    backend.remove(id, None).await.expect("remove");
    backend.forget_upload(id).await.expect("forget");
    assert_eq!(backend.shares(id.index).await.expect("shares"), []);
}

/// A mutable share is written, patched, cut, extended with zeros and deleted, each as a whole.
pub async fn mutable_shares_are_written_in_place(backend: &dyn Backend) {
    let id = share_id(7);
    let backend = backend.mutable_store().expect("mutable shares");
    let content = async |range: Range<u64>| {
        let stream = backend.read_mutable(id, range).await?;
        stream
            .try_fold(Vec::new(), async |mut all, piece| {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
    };
    assert_eq!(backend.state(id).await.expect("mutable"), None);
    assert!(matches!(
        content(0..1).await,
        Err(StorageError::NotFound { .. })
    ));
    let mut model: Vec<u8> = Vec::new();
    let long = pattern(3_000);
    type Step<'a> = (&'a [(u64, Bytes)], Option<u64>);
    let steps: [Step<'_>; 8] = [
        (&[(0, pattern(700))], None),
        (&[(10, pattern(1)), (650, pattern(100))], None),
        (&[], Some(720)),
        (&[], Some(1_000)),
        (&[(1_500, pattern(10))], None),
        (&[(0, long.clone())], Some(2_500)),
        (&[(100, pattern(900)), (2_400, pattern(300))], Some(2_600)),
        (&[(0, pattern(3))], Some(3)),
    ];
    for (writes, new_length) in steps {
        for (offset, bytes) in writes {
            let (start, end) = (*offset as usize, *offset as usize + bytes.len());
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(bytes);
        }
        model.resize(new_length.unwrap_or(model.len() as u64) as usize, 0);
        let write = MutableWrite {
            writes: writes.to_vec(),
            new_length,
            enabler: [9; 32],
        };
        assert_eq!(
            backend.write_mutable(id, write).await.expect("write"),
            model.len() as u64
        );
        assert!(
            content(0..10_000).await.expect("read") == model,
            "{new_length:?}"
        );
        for range in [0..1, 2..3, 500..800, 2_000..2_500] {
            let part = &model
                [(range.start as usize).min(model.len())..(range.end as usize).min(model.len())];
            assert!(
                content(range.clone()).await.expect("read") == part,
                "{range:?}"
            );
        }
        let share = backend
            .state(id)
            .await
            .expect("mutable")
            .expect("it exists");
        assert_eq!((share.length, share.enabler), (model.len() as u64, [9; 32]));
    }
    backend.delete_mutable(id).await.expect("delete");
    backend
        .delete_mutable(id)
        .await
        .expect("deleting what is gone succeeds");
    assert_eq!(backend.state(id).await.expect("mutable"), None);
    let write = MutableWrite {
        writes: vec![(5, pattern(2))],
        new_length: None,
        enabler: [8; 32],
    };
    backend.write_mutable(id, write).await.expect("a new one");
    assert_eq!(content(0..5).await.expect("read"), [0; 5]);
    backend.delete_mutable(id).await.expect("delete");
}

/// A walk by the prefix of a storage index finds every share, with its chunks and bytes.
pub async fn a_walk_finds_every_share(backend: &dyn Backend) {
    let index = index();
    let id = |share| ShareId {
        index,
        share: ShareNum(share),
    };
    let mut objects = 0;
    for share in [0, 1, 10] {
        objects = write(backend, id(share), &pattern(9_000)).await;
    }
    let found = backend
        .scan(Span::Below(IndexPrefix::from(index)), 1000)
        .await
        .expect("scan");
    let found: Vec<_> = found.into_iter().filter(|f| f.id.index == index).collect();
    assert_eq!(
        found.iter().map(|f| f.id.share.0).collect::<Vec<_>>().len(),
        3
    );
    for share in &found {
        let Found::Immutable { chunks, bytes, .. } = &share.found else {
            panic!("{share:?}")
        };
        let all = std::iter::once(0..objects).collect();
        assert_eq!((chunks, *bytes), (&all, 9_000), "{share:?}");
    }
    assert!(
        backend
            .chunk_length(id(1), 0)
            .await
            .expect("its length")
            .is_some()
    );
    assert!(
        backend
            .chunk_length(id(2), 0)
            .await
            .expect("its length")
            .is_none()
    );
    for share in [0, 1, 10] {
        backend
            .remove(id(share), Some(objects))
            .await
            .expect("remove");
    }
    let found = backend
        .scan(Span::Below(IndexPrefix::from(index)), 1000)
        .await
        .expect("scan");
    assert!(found.iter().all(|f| f.id.index != index));
}
