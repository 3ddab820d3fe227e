//! Where shares go when clouds are down or fail in the middle of an upload.

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

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_array::{
    Array, ArrayError, FileInfo, Identity, PutOptions, RecoveryKey, Transfer, Versioning,
    format::{Header, Trailer, root},
};
use raic_cloud::{Cloud as _, ErrorKind, FaultPlan, ObjectKey, WriteMode, collect_body};
use raic_storage::{AccountChange, ShareNum};
use rig::{Rig, content, get, named, put, settle};

fn down() -> FaultPlan {
    FaultPlan {
        error: 1.0,
        ..FaultPlan::default()
    }
}

/// The clouds of a file, with the number of shares on each.
fn counts(file: &FileInfo) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, cloud) in &file.shares {
        *counts.entry(cloud.as_str()).or_default() += 1;
    }
    counts
}

fn distinct(file: &FileInfo) -> usize {
    file.shares
        .iter()
        .map(|(share, _)| share)
        .collect::<BTreeSet<_>>()
        .len()
}

/// Stores a content whose clouds `failing` fail when piece `at` of twelve is asked for.
async fn put_while_failing(
    rig: &Rig,
    array: &Array,
    failing: &[usize],
    at: usize,
) -> Result<FileInfo, ArrayError> {
    let clouds: Vec<_> = failing
        .iter()
        .map(|cloud| rig.clouds[*cloud].clone())
        .collect();
    let pieces = stream::unfold(0, move |piece| {
        if piece == at {
            for cloud in &clouds {
                cloud.set(down());
            }
        }
        let start = piece * 25_000;
        let bytes = (piece < 12).then(|| {
            let bytes = content(300_000).slice(start..start + 25_000);
            (Ok::<Bytes, String>(bytes), piece + 1)
        });
        std::future::ready(bytes)
    });
    let options = PutOptions {
        size: Some(300_000),
        ..PutOptions::default()
    };
    array.put(&named("file"), Box::pin(pieces), options).await
}

#[tokio::test]
async fn with_any_two_of_four_down_writes_go_on_and_survive_one_more() {
    for first in 0..4 {
        for second in 0..first {
            let rig = Rig::new(4);
            let array = rig.open().await;
            put(&array, "before", content(10)).await.unwrap();
            for cloud in [first, second] {
                rig.clouds[cloud].set(down());
            }
            // The first upload finds them down, and the next knows.
            for name in ["finds", "knows"] {
                put(&array, name, content(100_000)).await.unwrap();
                let file = array.stat(&named(name)).await.unwrap();
                assert_eq!(distinct(&file), 4, "{file:?}");
                let counts = counts(&file);
                assert_eq!(
                    counts.values().copied().collect::<Vec<_>>(),
                    [2, 2],
                    "{file:?}"
                );
                assert_eq!(file.lacking, [], "every share is somewhere");
            }
            let up: Vec<usize> = (0..4).filter(|i| ![first, second].contains(i)).collect();
            for lost in &up {
                rig.clouds[*lost].set(down());
                for name in ["finds", "knows"] {
                    assert_eq!(get(&array, name, None).await.unwrap(), content(100_000));
                }
                rig.clouds[*lost].set(FaultPlan::default());
            }
        }
    }
}

/// The objects of a share in a cloud, in the order of its chunks.
fn objects(rig: &Rig, cloud: usize, file: &FileInfo, share: ShareNum) -> Vec<ObjectKey> {
    let own = format!("/{}/{share}", file.index.unwrap());
    let place = |key: &ObjectKey| {
        let (_, rest) = key.as_str().split_once(&own)?;
        match rest.strip_prefix('.') {
            Some(chunk) => chunk.parse().ok(),
            None => rest.is_empty().then_some(0_u64),
        }
    };
    let keys = rig.clouds[cloud].inner().keys().into_iter();
    let mut keys: Vec<_> = keys.filter_map(|key| Some((place(&key)?, key))).collect();
    keys.sort_unstable();
    keys.into_iter().map(|(_, key)| key).collect()
}

async fn bytes_of(rig: &Rig, cloud: usize, key: &ObjectKey) -> Vec<u8> {
    let object = rig.clouds[cloud]
        .inner()
        .get(key, None, None)
        .await
        .unwrap();
    collect_body("c", object.body, usize::MAX)
        .await
        .unwrap()
        .to_vec()
}

async fn whole_share(rig: &Rig, cloud: &str, file: &FileInfo, share: ShareNum) -> Vec<u8> {
    let mut clouds = rig.clouds.iter();
    let cloud = clouds.position(|c| c.inner().name() == cloud).unwrap();
    let mut whole = Vec::new();
    for key in objects(rig, cloud, file, share) {
        whole.extend(bytes_of(rig, cloud, &key).await);
    }
    whole
}

/// Deletes all shares of a file but some, and returns what was deleted.
async fn hide(rig: &Rig, file: &FileInfo, but: &[u8]) -> Vec<(usize, ObjectKey, Vec<u8>)> {
    let mut hidden = Vec::new();
    for (share, _) in file
        .shares
        .iter()
        .filter(|(share, _)| !but.contains(&share.0))
    {
        for cloud in 0..rig.clouds.len() {
            for key in objects(rig, cloud, file, *share) {
                let bytes = bytes_of(rig, cloud, &key).await;
                rig.clouds[cloud].inner().delete(&key, None).await.unwrap();
                hidden.push((cloud, key, bytes));
            }
        }
    }
    hidden
}

#[tokio::test]
async fn clouds_that_fail_in_the_middle_are_made_up_for_from_the_others() {
    for at in [0, 1, 6, 11] {
        let rig = Rig::new(4);
        let array = rig.open().await;
        put(&array, "before", content(10)).await.unwrap();
        let file = put_while_failing(&rig, &array, &[1, 3], at).await.unwrap();
        let counts = counts(&file);
        assert_eq!(counts, [("c0", 2), ("c2", 2)].into(), "{at}: {file:?}");
        assert_eq!((distinct(&file), file.lacking.len()), (4, 0));
        assert_eq!(get(&array, "file", None).await.unwrap(), content(300_000));

        // What was computed is what would have been sent: whole shares, and any two give the file.
        for (share, cloud) in &file.shares {
            let bytes = whole_share(&rig, cloud, &file, *share).await;
            let header = Header::decode(&bytes[..64]).unwrap();
            assert_eq!(header.share, *share);
            let footer = bytes.len() - 16..bytes.len() - 8;
            let length = u64::from_be_bytes(bytes[footer].try_into().unwrap()) as usize;
            let trailer = Trailer::decode(&bytes[bytes.len() - length..], &header).unwrap();
            let own = root(&bytes[..64], &trailer.page_hashes);
            assert_eq!(trailer.roots[usize::from(share.0)], own);
            assert_eq!(trailer.layout(&header).share_length(), bytes.len() as u64);
        }
        for kept in 0..4_u8 {
            let others = [kept, (kept + 1) % 4];
            let hidden = hide(&rig, &file, &others).await;
            assert_eq!(get(&array, "file", None).await.unwrap(), content(300_000));
            for (cloud, key, bytes) in hidden {
                let cloud = rig.clouds[cloud].inner();
                cloud
                    .put(&key, bytes.into(), WriteMode::CreateOnly)
                    .await
                    .unwrap();
            }
        }
        for cloud in &rig.clouds {
            cloud.set(FaultPlan::default());
        }
        array.remove(&named("file")).await.unwrap();
        array.remove(&named("before")).await.unwrap();
        // What the others took before they failed goes later, and so do deletions that they
        // refused.
        let left = |cloud: usize| {
            let keys = rig.clouds[cloud].inner().keys().into_iter();
            keys.filter(|key| key.as_str().starts_with("shares/"))
                .count()
        };
        settle(|| left(0) + left(2) == 0).await;
    }
}

#[tokio::test]
async fn with_three_down_nothing_is_acknowledged_and_what_was_there_stays() {
    for at in [0, 6] {
        let rig = Rig::new(4);
        let array = rig.open().await;
        put(&array, "file", content(10)).await.unwrap();
        let refused = put_while_failing(&rig, &array, &[0, 1, 3], at).await;
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, ArrayError::TooFewClouds { n: 4, .. }),
            "{refused}"
        );
        for cloud in &rig.clouds {
            cloud.set(FaultPlan::default());
        }
        assert_eq!(get(&array, "file", None).await.unwrap(), content(10));
        array.remove(&named("file")).await.unwrap();
    }
}

/// Reads, and with them their cost, spread over all clouds.
#[tokio::test]
async fn share_numbers_rotate_over_the_clouds() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    let mut seen = BTreeSet::new();
    for i in 0..80 {
        let name = format!("file {i}");
        put(&array, &name, content(10)).await.unwrap();
        let file = array.stat(&named(&name)).await.unwrap();
        assert_eq!((distinct(&file), counts(&file).len()), (4, 4));
        seen.extend(file.shares);
    }
    assert_eq!(seen.len(), 16, "each share number on each cloud: {seen:?}");
}

/// A second share fails where it was sent. It is sent there again, since no other place will do.
#[tokio::test]
async fn a_second_share_that_fails_once_is_sent_again() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "before", content(10)).await.unwrap();
    for cloud in [1, 3] {
        rig.clouds[cloud].set(down());
    }
    put(&array, "knows", content(10)).await.unwrap();
    // One request fails. Both shares of the cloud were planned there, and one is left.
    rig.clouds[0].set(FaultPlan {
        error: 1.0,
        kinds: vec![ErrorKind::PermissionDenied],
        first: Some(1),
        ..FaultPlan::default()
    });
    put(&array, "file", content(40_000)).await.unwrap();
    let file = array.stat(&named("file")).await.unwrap();
    assert_eq!(counts(&file), [("c0", 2), ("c2", 2)].into(), "{file:?}");
    assert_eq!(get(&array, "file", None).await.unwrap(), content(40_000));
}

/// What was reserved for shares that failed does not count against those that take their place.
#[tokio::test]
async fn a_quota_that_a_file_just_fits_takes_it_though_two_clouds_fail() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(300_000)).await.unwrap();
    let leasedb = array.leasedb();
    let held = leasedb.usage_by_server().await.unwrap();
    let held: u64 = held.iter().map(|server| server.bytes).sum();
    array.remove(&named("file")).await.unwrap();
    settle(|| rig.objects() == 0).await;
    let quota = AccountChange {
        hard_quota: Some(Some(held)),
        ..AccountChange::default()
    };
    leasedb.change_account("anonymous", quota).await.unwrap();
    put_while_failing(&rig, &array, &[1, 3], 6).await.unwrap();
}

/// The quota must have room for all of a file before its first byte is sent.
#[tokio::test]
async fn a_file_of_several_extents_is_refused_at_once_if_the_quota_lacks_room_for_all() {
    let rig = Rig {
        extent_size: 20_000,
        ..Rig::new(4)
    };
    let array = rig.open().await;
    let quota = AccountChange {
        hard_quota: Some(Some(100_000)),
        ..AccountChange::default()
    };
    array
        .leasedb()
        .change_account("anonymous", quota)
        .await
        .unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let noted = asked.clone();
    let pieces = stream::once(async move {
        noted.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, String>(content(100_000))
    });
    let options = PutOptions {
        size: Some(100_000),
        ..PutOptions::default()
    };
    let refused = array
        .put(&named("file"), Box::pin(pieces), options)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("quota"), "{refused}");
    assert!(!asked.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(rig.objects(), 0);
}

/// After a rotation, the key before it is used until enough clouds have the new keyring.
#[tokio::test]
async fn a_rotation_with_two_clouds_down_stops_no_write() {
    let mut rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "before", content(10)).await.unwrap();
    drop(array);
    for cloud in [0, 1] {
        rig.clouds[cloud].set(down());
    }
    let recovery = RecoveryKey::generate().unwrap();
    rig.keyring = rig.keyring.rotated(Identity::Kept).unwrap();
    rig.sealed = rig.keyring.seal(&recovery).unwrap().into();
    let array = rig.open().await;
    put(&array, "meanwhile", content(10)).await.unwrap();
    for cloud in [0, 1] {
        rig.clouds[cloud].set(FaultPlan::default());
    }
    drop(array);
    let array = rig.open().await;
    put(&array, "after", content(10)).await.unwrap();
    for name in ["before", "meanwhile", "after"] {
        assert_eq!(
            get(&array, name, None).await.unwrap(),
            content(10),
            "{name}"
        );
    }
    let copies = |cloud: usize| {
        let keys = rig.clouds[cloud].inner().keys();
        keys.iter().any(|key| key.as_str() == "raic/keyring.2")
    };
    settle(|| (0..4).filter(|cloud| copies(*cloud)).count() == 4).await;
}

/// Stores files over more clouds than they have shares. The loss of any two clouds costs no file.
#[tokio::test]
async fn with_more_clouds_than_shares_each_file_lies_on_some_of_them() {
    let mut rig = Rig::new(6);
    rig.shares = Some(4);
    let array = rig.open().await;
    let mut used = BTreeMap::new();
    for i in 0..24 {
        let name = format!("file-{i}");
        put(&array, &name, content(30_000 + i)).await.unwrap();
        let file = array.stat(&named(&name)).await.unwrap();
        let counts = counts(&file);
        assert_eq!((counts.len(), distinct(&file)), (4, 4), "{counts:?}");
        assert!(file.lacking.is_empty());
        for cloud in counts.keys() {
            *used.entry((*cloud).to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(used.len(), 6, "every cloud has some: {used:?}");
    // A cloud that is down takes no share, and no second share is needed: there are others.
    rig.clouds[0].set(down());
    for _ in 0..20 {
        put(&array, "while down", content(30_000)).await.unwrap();
    }
    let file = array.stat(&named("while down")).await.unwrap();
    let now = counts(&file);
    assert_eq!((now.len(), now.get("c0")), (4, None), "{now:?}");
    rig.clouds[1].set(down());
    for i in 0..24 {
        let name = format!("file-{i}");
        assert_eq!(get(&array, &name, None).await.unwrap(), content(30_000 + i));
    }
}

/// With fewer clouds than shares, what would be on the clouds that are lacking lies beside others.
#[tokio::test]
async fn with_fewer_clouds_than_shares_a_file_survives_what_it_should() {
    for clouds in [2, 3] {
        let mut rig = Rig::new(clouds);
        rig.shares = Some(4);
        let array = rig.open().await;
        put(&array, "file", content(30_000)).await.unwrap();
        let file = array.stat(&named("file")).await.unwrap();
        assert_eq!(counts(&file).len(), clouds);
        for lost in 0..clouds {
            let sound = FaultPlan::default();
            rig.clouds.iter().for_each(|cloud| cloud.set(sound.clone()));
            rig.clouds[lost].set(down());
            assert_eq!(get(&array, "file", None).await.unwrap(), content(30_000));
        }
    }
    let mut rig = Rig::new(1);
    rig.shares = Some(4);
    let refused = rig.open_with(2, rig.keyring.clone()).await.unwrap_err();
    assert!(
        matches!(refused, ArrayError::ClassImpossible { clouds: 1, .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_file_has_the_class_of_its_request_or_else_of_its_bucket() {
    let mut rig = Rig::new(4);
    rig.classes.insert("whole".to_owned(), (1, 3));
    rig.classes.insert("thin".to_owned(), (3, 4));
    let array = rig.open().await;
    array
        .create_bucket("copies", Some("whole"), Versioning::Off)
        .await
        .unwrap();
    let unknown = array
        .create_bucket("others", Some("fat"), Versioning::Off)
        .await
        .unwrap_err();
    assert!(matches!(unknown, ArrayError::NoSuchClass(name) if name == "fat"));
    let buckets = array.buckets().await.unwrap();
    let classes: Vec<_> = buckets
        .iter()
        .map(|b| (&*b.name, b.class.as_deref()))
        .collect();
    assert_eq!(classes, [("copies", Some("whole")), ("files", None)]);
    let store = async |bucket: &str, class: Option<&str>| {
        let mut name = named("file");
        name.bucket = bucket.to_owned();
        let options = PutOptions {
            class: class.map(str::to_owned),
            ..PutOptions::default()
        };
        let piece = stream::iter([Ok::<_, String>(content(90_000))]);
        array.put(&name, piece, options).await
    };
    // What the clouds hold says how a file was stored.
    store("files", None).await.unwrap();
    array.remove(&named("file")).await.unwrap();
    settle(|| rig.objects() == 0).await;
    let held = rig.stored();
    for (bucket, class, times) in [
        ("files", None, 2.0),
        ("copies", None, 3.0),
        ("copies", Some("thin"), 4.0 / 3.0),
        ("files", Some("whole"), 3.0),
    ] {
        let file = store(bucket, class).await.unwrap();
        let factor = (rig.stored() - held) as f64 / 90_000.0;
        assert!(
            (times..times * 1.2).contains(&factor),
            "{bucket} {class:?}: {factor}"
        );
        assert!(file.lacking.is_empty());
        let mut name = named("file");
        name.bucket = bucket.to_owned();
        array.remove(&name).await.unwrap();
        settle(|| rig.objects() == 0).await;
    }
    let refused = store("files", Some("fat")).await.unwrap_err();
    assert!(matches!(refused, ArrayError::NoSuchClass(_)), "{refused}");
}

#[tokio::test]
async fn a_draining_cloud_holds_what_it_has_and_gets_nothing_new() {
    let mut rig = Rig::new(5);
    rig.shares = Some(4);
    let array = rig.open().await;
    let held = || {
        let keys = rig.clouds[0].inner().keys().into_iter();
        keys.filter(|key| key.as_str().starts_with("shares/"))
            .count()
    };
    for number in 0..8 {
        put(&array, &format!("old {number}"), content(3_000))
            .await
            .unwrap();
    }
    let before = held();
    assert!(before > 0);
    let leasedb = array.leasedb();
    leasedb.begin_draining("c0").await.unwrap();
    for number in 0..8 {
        let name = format!("new {number}");
        put(&array, &name, content(3_000)).await.unwrap();
        let file = array.stat(&named(&name)).await.unwrap();
        // The four others take the shares, so none is lacking.
        assert_eq!(file.lacking, []);
        assert_eq!(counts(&file).len(), 4);
    }
    assert_eq!(held(), before);
    let status = array.status().await.unwrap();
    let c0 = &status.clouds[0];
    assert!(c0.is_draining && !c0.stores);
    // It is still read, and what is removed goes there, too.
    for cloud in [1, 2] {
        rig.clouds[cloud].set(down());
    }
    assert_eq!(get(&array, "old 0", None).await.unwrap(), content(3_000));
    rig.clouds
        .iter()
        .for_each(|cloud| cloud.set(FaultPlan::default()));
    for number in 0..8 {
        array
            .remove(&named(&format!("old {number}")))
            .await
            .unwrap();
    }
    settle(|| held() == 0).await;
    // With too few others it is not written to either, and the error says why.
    for cloud in [1, 2, 3] {
        rig.clouds[cloud].set(down());
    }
    for number in 0..8 {
        let name = format!("more {number}");
        let refused = put(&array, &name, content(10))
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("is draining"), "{refused}");
    }
    rig.clouds
        .iter()
        .for_each(|cloud| cloud.set(FaultPlan::default()));
    for cloud in ["c1", "c2", "c3", "c4"] {
        leasedb.begin_draining(cloud).await.unwrap();
    }
    let refused = put(&array, "more", content(10))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("0 of 4 clouds took a share"), "{refused}");
    assert_eq!(held(), 0);
    for cloud in ["c1", "c2", "c3", "c4"] {
        leasedb.end_draining(cloud).await.unwrap();
    }

    // It is a state of the database: it outlives the process.
    drop(array);
    let array = rig.open().await;
    assert!(array.servers()[0].is_draining());
    array.leasedb().end_draining("c0").await.unwrap();
    for number in 0..8 {
        put(&array, &format!("again {number}"), content(10))
            .await
            .unwrap();
    }
    assert!(held() > 0);
    let unknown = array.leasedb().begin_draining("nobody").await;
    assert!(unknown.is_err());
}

#[tokio::test]
async fn of_clouds_about_as_fast_the_cheapest_are_read() {
    let mut rig = Rig::new(4);
    rig.costs = vec![0.09, 0.0, 0.02, 0.01];
    let array = rig.open().await;
    for number in 0..6 {
        let name = named(&format!("file {number}"));
        put(&array, &name.name, content(5_000)).await.unwrap();
        let transfer = Transfer::default();
        let (_, _, read) = array.get(&name, None, transfer.clone()).await.unwrap();
        read.try_collect::<Vec<_>>().await.unwrap();
        let clouds = transfer.clouds();
        assert_eq!(clouds.keys().collect::<Vec<_>>(), ["c1", "c3"]);
    }
    // A cheap cloud that is down is no use.
    rig.clouds[1].set(down());
    let transfer = Transfer::default();
    let name = named("file 0");
    let (_, _, read) = array.get(&name, None, transfer.clone()).await.unwrap();
    assert_eq!(
        read.try_collect::<Vec<_>>().await.unwrap().concat(),
        content(5_000)
    );
    assert!(transfer.clouds().contains_key("c2"));
}

/// What an account will pay is reserved when the upload begins, so what was admitted is stored.
#[tokio::test]
async fn with_a_cloud_down_as_much_is_reserved_as_will_be_paid() {
    let rig = Rig::new(4);
    let array = Arc::new(rig.open().await);
    let quota = AccountChange {
        hard_quota: Some(Some(90_000)),
        ..AccountChange::default()
    };
    array
        .leasedb()
        .create_account("alice", quota)
        .await
        .unwrap();
    rig.clouds[3].set(down());
    put(&array, "first", content(10)).await.unwrap();
    let options = || PutOptions {
        account: Some("alice".to_owned()),
        size: Some(25_000),
        ..PutOptions::default()
    };
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let first = stream::iter([Ok::<_, String>(content(10_000))]);
    let slow = first.chain(stream::once(async move {
        receive.await.unwrap();
        Ok(content(15_000))
    }));
    let slow = {
        let array = array.clone();
        let options = options();
        tokio::spawn(async move { array.put(&named("a"), Box::pin(slow), options).await })
    };
    let used = async || {
        let usage = array.leasedb().usage_by_account().await.unwrap();
        usage
            .into_iter()
            .find(|usage| usage.name == "alice")
            .unwrap()
            .bytes
    };
    for _ in 0..1000 {
        if used().await >= 50_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Three shares are on their way, and what four cost is taken.
    let content_of = stream::iter([Ok::<_, String>(content(25_000))]);
    let refused = array
        .put(&named("b"), content_of, options())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("uses 50"), "{refused}");
    send.send(()).unwrap();
    slow.await.unwrap().unwrap();
    assert_eq!(used().await, 50_000);
}
