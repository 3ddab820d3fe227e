//! Files of several extents, and padded ones.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream;
use raic_array::{ArrayError, Padding, PutOptions};
use raic_cloud::{Cloud as _, FaultPlan, MemoryCloud};
use rig::{Rig, content, get, named, names, put, settle};

/// Bytes of an extent here.
const EXTENT: usize = 20_000;

fn of_extents() -> Rig {
    Rig {
        extent_size: EXTENT as u64,
        ..Rig::new(4)
    }
}

#[tokio::test]
async fn a_file_of_several_extents_reads_whole_and_across_their_borders() {
    let rig = of_extents();
    let array = rig.open().await;
    // Contents that end before, at and behind a border, announced and not.
    for length in [EXTENT - 1, EXTENT, EXTENT + 1, 3 * EXTENT, 3 * EXTENT + 777] {
        for size in [None, Some(length as u64)] {
            let options = PutOptions {
                size,
                ..PutOptions::default()
            };
            let pieces = stream::iter([Ok::<_, String>(content(length))]);
            let stored = array.put(&named("file"), pieces, options).await.unwrap();
            assert_eq!(stored.size, length as u64);
            assert_eq!(
                stored.content_hash,
                Some(blake3::hash(&content(length)).into())
            );
            let shares: BTreeSet<_> = stored.shares.iter().map(|(share, _)| share).collect();
            assert_eq!(shares.len(), 4, "{stored:?}");
            assert!(
                stored.shares.len() <= 16,
                "each share and cloud once: {stored:?}"
            );
            assert_eq!(get(&array, "file", None).await.unwrap(), content(length));
        }
    }
    rig.clouds[0].inner().wipe();
    rig.clouds[2].inner().wipe();
    let whole = content(3 * EXTENT + 777);
    for (start, end) in [
        (EXTENT - 1, EXTENT + 1),
        (EXTENT, 2 * EXTENT),
        (1_500, 3 * EXTENT + 10),
        (3 * EXTENT, whole.len() + 100),
    ] {
        let read = get(&array, "file", Some(start as u64..end as u64)).await;
        let part = &whole[start..end.min(whole.len())];
        assert!(read.unwrap() == part, "{start}..{end}");
    }
}

#[tokio::test]
async fn all_extents_of_a_removed_file_leave_the_clouds() {
    let rig = of_extents();
    let array = rig.open().await;
    put(&array, "file", content(5 * EXTENT)).await.unwrap();
    let large = rig.objects();
    put(&array, "file", content(2 * EXTENT)).await.unwrap();
    settle(|| rig.objects() == large * 2 / 5).await;
    array.remove(&named("file")).await.unwrap();
    settle(|| rig.objects() == 0).await;
}

/// The content breaks off, or the clouds fail, in the third extent.
#[tokio::test]
async fn an_upload_that_fails_in_a_later_extent_leaves_nothing_and_what_was_there() {
    let rig = of_extents();
    let array = rig.open().await;
    put(&array, "file", content(100)).await.unwrap();
    let before = rig.objects();
    let broken = [Ok(content(2 * EXTENT + 5_000)), Err("the line went down")];
    let refused = array
        .put(&named("file"), stream::iter(broken), PutOptions::default())
        .await;
    assert!(
        matches!(refused, Err(ArrayError::Content(_))),
        "{refused:?}"
    );
    settle(|| rig.objects() == before).await;

    let clouds = rig.clouds.clone();
    let pieces = stream::unfold(0, move |piece| {
        if piece == 3 {
            for cloud in &clouds[..3] {
                let refusing = FaultPlan {
                    error: 1.0,
                    ..FaultPlan::default()
                };
                cloud.set(refusing);
            }
        }
        let bytes = (piece < 6).then(|| (Ok::<Bytes, String>(content(EXTENT)), piece + 1));
        std::future::ready(bytes)
    });
    let refused = array
        .put(&named("file"), Box::pin(pieces), PutOptions::default())
        .await;
    assert!(
        matches!(refused, Err(ArrayError::TooFewClouds { .. })),
        "{refused:?}"
    );
    for cloud in &rig.clouds {
        cloud.set(FaultPlan::default());
    }
    assert_eq!(get(&array, "file", None).await.unwrap(), content(100));
    assert_eq!(names(&array, "", "", 10).await, ["file"]);
}

/// The lengths of the objects of shares in a cloud, sorted.
async fn lengths(cloud: &MemoryCloud) -> Vec<u64> {
    let mut lengths = Vec::new();
    for key in cloud.keys() {
        if key.as_str().starts_with("shares/") {
            lengths.push(cloud.head(&key).await.unwrap().size);
        }
    }
    lengths.sort_unstable();
    lengths
}

#[tokio::test]
async fn padding_hides_the_length_and_reads_back_without_it() {
    let mut seen = Vec::new();
    for length in [57_400_usize, 58_000, 58_368] {
        let rig = Rig {
            padding: Padding::Padme,
            ..of_extents()
        };
        let array = rig.open().await;
        put(&array, "file", content(length)).await.unwrap();
        assert_eq!(get(&array, "file", None).await.unwrap(), content(length));
        assert_eq!(
            array.stat(&named("file")).await.unwrap().size,
            length as u64
        );
        seen.push(lengths(rig.clouds[1].inner()).await);
    }
    // Each file has two whole extents and a third of 17,400 to 18,368 bytes, padded to 17,408 and
    // 18,432.
    assert_eq!(seen[1], seen[2]);
    assert_ne!(seen[0], seen[1]);
}
