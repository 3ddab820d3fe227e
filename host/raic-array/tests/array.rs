//! Tests the array over clouds in memory that are wiped, are corrupted, or fail.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_array::{ArrayError, Keyring, Lacking, PutOptions, Transfer};
use raic_cloud::{Cloud, FaultPlan, Faulty, MemoryCloud, ObjectKey, WriteMode};
use raic_storage::{AccountChange, ChunkBudget, StorageError};

mod rig;
use rig::{Rig, content, get, named, names, put, settle};

#[tokio::test]
async fn files_of_every_size_read_back_whole_and_in_part() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    for length in [0, 1, 999, 1_000, 1_001, 5_000, 123_456, 1_100_000] {
        put(&array, "file", content(length)).await.unwrap();
        assert_eq!(
            get(&array, "file", None).await.unwrap(),
            content(length),
            "{length}"
        );
        assert_eq!(
            array.stat(&named("file")).await.unwrap().size,
            length as u64
        );
    }
    let whole = content(1_100_000);
    for range in [
        0..1,
        999..1_001,
        1_023_000..1_025_000,
        1_099_999..2_000_000,
        500_000..900_001,
    ] {
        let part = &whole[range.start as usize..whole.len().min(range.end as usize)];
        assert_eq!(
            get(&array, "file", Some(range.clone())).await.unwrap(),
            part,
            "{range:?}"
        );
    }
    assert!(matches!(
        get(&array, "file", Some(1_100_000..1_100_001)).await,
        Err(ArrayError::Range { .. })
    ));
}

/// Any two clouds are wiped, or every object of them is changed somewhere. The file is whole.
#[tokio::test]
async fn any_two_of_four_clouds_may_be_wiped_or_lie() {
    for first in 0..4 {
        for second in 0..first {
            for corrupt in [false, true] {
                let rig = Rig::new(4);
                let array = rig.open().await;
                put(&array, "file", content(200_000)).await.unwrap();
                for cloud in [rig.clouds[first].inner(), rig.clouds[second].inner()] {
                    if corrupt {
                        for (i, key) in cloud.keys().iter().enumerate() {
                            // A run object has 32 bytes.
                            let at = if key.as_str().starts_with("raic/run.") {
                                i
                            } else {
                                i * 37
                            };
                            assert!(cloud.corrupt(key, at));
                        }
                    } else {
                        cloud.wipe();
                    }
                }
                assert_eq!(
                    get(&array, "file", None).await.unwrap(),
                    content(200_000),
                    "{first} {second} {corrupt}"
                );
            }
        }
    }
}

#[tokio::test]
async fn with_three_gone_each_clouds_fault_is_reported_and_no_byte_is_wrong() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(50_000)).await.unwrap();
    rig.clouds[0].inner().wipe();
    rig.clouds[1].inner().wipe();
    let liar = rig.clouds[2].inner();
    let shares = liar
        .keys()
        .into_iter()
        .filter(|key| key.as_str().starts_with("shares/"));
    shares.for_each(|key| assert!(liar.corrupt(&key, 70)));
    let e = get(&array, "file", None).await.unwrap_err();
    let ArrayError::Unreadable { k: 2, faults, .. } = &e else {
        panic!("{e}")
    };
    let mut told: Vec<_> = faults.iter().map(|f| f.cloud.as_str()).collect();
    told.sort_unstable();
    assert_eq!(told, ["c0", "c1", "c2"], "{e}");
}

/// What was read is judged, and not what a second look gives: that may be right again.
#[tokio::test]
async fn a_cloud_that_lies_now_and_then_is_blamed_and_costs_no_read() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    let names: Vec<String> = (0..8).map(|number| format!("file {number}")).collect();
    for name in &names {
        put(&array, name, content(700_000)).await.unwrap();
    }
    let lying = FaultPlan {
        corrupt_body: 0.5,
        corrupt_below: "shares/",
        ..FaultPlan::default()
    };
    rig.clouds[1].set(lying);
    for name in &names {
        assert_eq!(
            get(&array, name, None).await.unwrap(),
            content(700_000),
            "{name}"
        );
    }
    let clouds = array.status().await.unwrap().clouds;
    let blamed: Vec<_> = clouds.iter().map(|cloud| cloud.last.len()).collect();
    assert_eq!(blamed, [0, 1, 0, 0], "{clouds:?}");
}

#[tokio::test]
async fn what_is_removed_or_replaced_leaves_the_clouds() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(100_000)).await.unwrap();
    let one = rig.objects();
    put(&array, "file", content(100_000)).await.unwrap();
    settle(|| rig.objects() == one).await;
    assert_eq!(get(&array, "file", None).await.unwrap(), content(100_000));
    array.remove(&named("file")).await.unwrap();
    assert!(matches!(
        get(&array, "file", None).await,
        Err(ArrayError::NoSuchFile(_))
    ));
    assert!(matches!(
        array.remove(&named("file")).await,
        Err(ArrayError::NoSuchFile(_))
    ));
    settle(|| rig.objects() == 0).await;
    // The row of a deletion goes after the share has gone.
    while array.status().await.unwrap().totals.deletions > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_and_what_was_there() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(10_000)).await.unwrap();
    let before = rig.objects();
    let pieces = vec![Ok(content(90_000)), Err("the client went away".to_owned())];
    let e = array
        .put(&named("file"), stream::iter(pieces), PutOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&e, ArrayError::Content(why) if why.contains("went away")),
        "{e}"
    );
    settle(|| rig.objects() == before).await;
    assert_eq!(get(&array, "file", None).await.unwrap(), content(10_000));
    // A late request may still land, so the deletions are repeated later.
    assert_eq!(array.status().await.unwrap().totals.deletions, 4);
}

#[tokio::test]
async fn another_arrays_keyring_opens_nothing() {
    let rig = Rig::new(4);
    drop(rig.open().await);
    let other = rig
        .open_with(2, Keyring::generate().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(other, ArrayError::OtherArray), "{other}");
}

#[tokio::test]
async fn every_geometry_reads_with_its_clouds_gone() {
    for (k, n) in [(1, 2), (1, 3), (2, 3), (3, 5), (3, 6), (5, 8)] {
        let rig = Rig::new(n);
        let array = rig.open_with(k, rig.keyring.clone()).await.unwrap();
        put(&array, "file", content(20_000)).await.unwrap();
        rig.clouds[..n - usize::from(k)]
            .iter()
            .for_each(|cloud| cloud.inner().wipe());
        assert_eq!(
            get(&array, "file", None).await.unwrap(),
            content(20_000),
            "{k}-of-{n}"
        );
    }
}

#[tokio::test]
async fn names_are_keys_and_lists_are_paged() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    for name in ["a", "A", "dir/1", "dir/2", "dir%", "é"] {
        put(&array, name, content(10)).await.unwrap();
    }
    let list = async |prefix: &str, after: &str, limit| names(&array, prefix, after, limit).await;
    assert_eq!(
        list("", "", 100).await,
        ["A", "a", "dir%", "dir/1", "dir/2", "é"]
    );
    assert_eq!(list("dir/", "", 100).await, ["dir/1", "dir/2"]);
    assert_eq!(list("", "a", 2).await, ["dir%", "dir/1"]);
    for bad in ["", "a\nb", &"x".repeat(1025)] {
        assert!(
            matches!(
                put(&array, bad, content(1)).await,
                Err(ArrayError::Name { .. })
            ),
            "{bad:?}"
        );
    }
}

fn keyring_key() -> ObjectKey {
    ObjectKey::new("raic/keyring.1").unwrap()
}

const HANGS: f64 = 1.0;

#[tokio::test]
async fn a_cloud_that_hangs_holds_up_neither_the_start_nor_reading_nor_the_others_deletions() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(20_000)).await.unwrap();
    drop(array);
    rig.clouds[0].set(FaultPlan {
        hang: HANGS,
        ..FaultPlan::default()
    });
    let began = std::time::Instant::now();
    let array = rig.open().await;
    assert_eq!(get(&array, "file", None).await.unwrap(), content(20_000));
    array.remove(&named("file")).await.unwrap();
    let left = || {
        rig.clouds[1..]
            .iter()
            .flat_map(|c| c.inner().keys())
            .filter(|k| k.as_str().starts_with("shares/"))
            .count()
    };
    settle(|| left() == 0).await;
    assert!(
        began.elapsed().as_secs() < 20,
        "it waited for the cloud that hangs"
    );
}

#[tokio::test]
async fn a_cloud_that_takes_nothing_is_given_up_and_its_share_recorded_as_lacking() {
    let mut rig = Rig::new(4);
    rig.patience = Duration::from_secs(1);
    let array = rig.open().await;
    put(&array, "before", content(10)).await.unwrap();
    rig.clouds[3].set(FaultPlan {
        hang: HANGS,
        ..FaultPlan::default()
    });
    for length in [10, 200_000] {
        put(&array, "file", content(length)).await.unwrap();
        let lacking = array.stat(&named("file")).await.unwrap().lacking;
        assert!(
            matches!(&lacking[..], [Lacking { cloud, reason, .. }] if cloud == "c3" && reason.contains("too slow")),
            "{lacking:?}"
        );
        assert_eq!(get(&array, "file", None).await.unwrap(), content(length));
    }
}

/// If one upload takes the whole budget, the next upload waits until it ends. Reads go on
/// meanwhile.
#[tokio::test]
async fn an_upload_without_memory_waits_and_reads_go_on() {
    let mut rig = Rig::new(4);
    rig.budget = ChunkBudget::new(1);
    let array = Arc::new(rig.open().await);
    put(&array, "file", content(100_000)).await.unwrap();
    let (send, receive) = tokio::sync::mpsc::channel::<Result<Bytes, String>>(1);
    let pieces = stream::unfold(receive, |mut receive| async {
        Some((receive.recv().await?, receive))
    });
    let (pieces, slow_array) = (Box::pin(pieces), array.clone());
    let slow = tokio::spawn(async move {
        slow_array
            .put(&named("slow"), pieces, PutOptions::default())
            .await
            .map(drop)
    });
    send.send(Ok(content(10))).await.unwrap();
    let budget = rig.budget.clone();
    settle(|| budget.free() == 0).await;
    let next_array = array.clone();
    let next = tokio::spawn(async move { put(&next_array, "next", content(10)).await });
    assert_eq!(get(&array, "file", None).await.unwrap(), content(100_000));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!next.is_finished(), "it waits");
    drop(send);
    slow.await.unwrap().unwrap();
    next.await.unwrap().unwrap();
    assert_eq!(get(&array, "next", None).await.unwrap(), content(10));
    settle(|| budget.free() > 0).await;
}

/// Many uploads whose content stopped coming hold what came and little more, so others go on.
#[tokio::test]
async fn uploads_whose_content_stalls_leave_memory_for_others() {
    let mut rig = Rig::new(4);
    rig.budget = ChunkBudget::new(64 << 20);
    // Memory is given back after a part of it.
    rig.patience = Duration::from_secs(12);
    let array = Arc::new(rig.open().await);
    put(&array, "first", content(1000)).await.unwrap();
    let stalled = (0..20).map(|number| {
        let array = array.clone();
        let begun = stream::iter([Ok::<_, String>(content(3 << 20))]).chain(stream::pending());
        tokio::spawn(async move {
            let name = named(&format!("stalled {number}"));
            let stored = array.put(&name, Box::pin(begun), PutOptions::default());
            stored.await.map(drop)
        })
    });
    let stalled: Vec<_> = stalled.collect();
    let objects = rig.objects();
    settle(|| rig.objects() > objects + 20).await;
    let next = put(&array, "next", content(20 << 20));
    tokio::time::timeout(Duration::from_secs(20), next)
        .await
        .unwrap()
        .unwrap();
    assert!(stalled.iter().all(|upload| !upload.is_finished()));
    // What they hold is the beginning of a chunk each, and one batch: less than they grew to.
    let budget = rig.budget.clone();
    settle(|| budget.free() > 8 << 20).await;
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Who sends nothing takes no memory, and a small upload finds some when others take all.
#[tokio::test]
async fn small_uploads_pass_whatever_others_hold() {
    let mut rig = Rig::new(4);
    rig.budget = ChunkBudget::new(8 << 20);
    let array = Arc::new(rig.open().await);
    let silent = (0..20).map(|number| {
        let array = array.clone();
        tokio::spawn(async move {
            let nothing = stream::pending::<Result<Bytes, String>>();
            let name = named(&format!("silent {number}"));
            let stored = array.put(&name, Box::pin(nothing), PutOptions::default());
            stored.await.map(drop)
        })
    });
    let silent: Vec<_> = silent.collect();
    put(&array, "of unknown length", content(10)).await.unwrap();
    assert_eq!(rig.budget.free(), 8 << 20);
    let _all = rig.budget.reserve(8 << 20).await;
    let options = PutOptions {
        size: Some(10_000),
        ..PutOptions::default()
    };
    let pieces = stream::iter([Ok::<_, String>(content(10_000))]);
    array.put(&named("small"), pieces, options).await.unwrap();
    silent.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn an_upload_whose_content_stops_coming_ends_and_gives_its_memory_back() {
    let mut rig = Rig::new(4);
    rig.patience = Duration::from_millis(50);
    let array = rig.open().await;
    let begun = stream::iter([Ok::<_, String>(content(10))]).chain(stream::pending());
    let ended = array
        .put(&named("file"), Box::pin(begun), PutOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&ended, ArrayError::Content(why) if why.contains("nothing came")),
        "{ended}"
    );
    assert_eq!(rig.budget.free(), ChunkBudget::DEFAULT);
    assert!(matches!(
        array.stat(&named("file")).await,
        Err(ArrayError::NoSuchFile(_))
    ));
}

#[tokio::test]
async fn a_wiped_cloud_gets_the_keyring_again() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    settle(|| {
        rig.clouds
            .iter()
            .all(|c| c.inner().keys().contains(&keyring_key()))
    })
    .await;
    drop(array);
    rig.clouds[1].inner().wipe();
    rig.open().await.servers()[1].adopt().await.unwrap();
    let _array = rig.open().await;
    settle(|| rig.clouds[1].inner().keys().contains(&keyring_key())).await;
}

#[tokio::test]
async fn a_container_of_another_array_keeps_its_keyring_and_does_not_count() {
    let rig = Rig::new(4);
    let theirs = Bytes::from("the keyring of another array");
    for cloud in &rig.clouds[..2] {
        cloud
            .put(&keyring_key(), theirs.clone().into(), WriteMode::Overwrite)
            .await
            .unwrap();
    }
    let array = rig.open().await;
    // Two of four clouds have the keyring. Some pairs of clouds do not have it, so the write is
    // refused.
    let refused = put(&array, "file", content(10)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ArrayError::KeyringNotStored {
                stored: 2,
                needed: 3
            }
        ),
        "{refused}"
    );
    let status = array.status().await.unwrap();
    let faults: Vec<_> = status
        .clouds
        .iter()
        .filter(|c| c.fault.is_some())
        .map(|c| &c.name)
        .collect();
    assert_eq!(faults, ["c0", "c1"]);
    let holders: Vec<_> = status
        .clouds
        .iter()
        .filter(|c| c.has_keyring)
        .map(|c| &c.name)
        .collect();
    assert_eq!(holders, ["c2", "c3"]);
    let object = rig.clouds[0].get(&keyring_key(), None, None).await.unwrap();
    assert_eq!(
        raic_cloud::collect_body("c0", object.body, 100)
            .await
            .unwrap(),
        theirs
    );
}

/// Any two clouds may be emptied or lie. Lost copies of the keyring are made again and stop no
/// write.
#[tokio::test]
async fn a_keyring_that_was_once_stored_may_be_used_ever_after() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(10)).await.unwrap();
    drop(array);
    for cloud in &rig.clouds[..2] {
        cloud
            .put(
                &keyring_key(),
                Bytes::from("a lie").into(),
                WriteMode::Overwrite,
            )
            .await
            .unwrap();
    }
    let array = rig.open().await;
    put(&array, "another", content(20)).await.unwrap();
    let state = async || array.status().await.unwrap().clouds;
    while state()
        .await
        .iter()
        .filter(|cloud| cloud.fault.is_some())
        .count()
        < 2
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fault = state().await[0].fault.clone().unwrap();
    assert!(
        fault.contains("secrets/keyring.sealed") && !fault.contains("container of its own"),
        "{fault}"
    );
    assert!(
        state().await.iter().all(|cloud| cloud.stores),
        "and each takes its share all the same"
    );
}

/// Content that is longer or shorter than its announced size is refused.
#[tokio::test]
async fn a_content_is_as_long_as_was_announced() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    for (announced, why) in [
        (99, "longer than the 99 bytes"),
        (101, "ended after 100 of the 101 bytes"),
    ] {
        let pieces: Vec<Result<Bytes, String>> = vec![Ok(content(60)), Ok(content(40))];
        let options = PutOptions {
            size: Some(announced),
            ..PutOptions::default()
        };
        let refused = array
            .put(&named("file"), stream::iter(pieces), options)
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, ArrayError::Content(e) if e.contains(why)),
            "{refused}"
        );
    }
    // Content that is longer is refused at once, and not at its end.
    let endless = stream::repeat_with(|| Ok::<_, String>(content(1 << 16)));
    let options = PutOptions {
        size: Some(1),
        ..PutOptions::default()
    };
    array
        .put(&named("file"), endless, options)
        .await
        .unwrap_err();
    assert!(matches!(
        array.stat(&named("file")).await,
        Err(ArrayError::NoSuchFile(_))
    ));
}

#[tokio::test]
async fn a_quota_that_a_file_just_fits_takes_it() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    let leasedb = array.leasedb();
    let store = async |name: &str, account: &str| {
        let pieces: Vec<Result<Bytes, String>> = vec![Ok(content(10_000))];
        let options = PutOptions {
            size: Some(10_000),
            account: Some(account.to_owned()),
            ..PutOptions::default()
        };
        array.put(&named(name), stream::iter(pieces), options).await
    };
    leasedb
        .create_account("measure", AccountChange::default())
        .await
        .unwrap();
    store("a file", "measure").await.unwrap();
    let used = leasedb
        .usage_by_account()
        .await
        .unwrap()
        .into_iter()
        .find(|u| u.name == "measure")
        .unwrap()
        .bytes;
    for (name, quota) in [("fits", used), ("not", used - 1)] {
        let change = AccountChange {
            hard_quota: Some(Some(quota)),
            ..AccountChange::default()
        };
        leasedb.create_account(name, change).await.unwrap();
        let before = rig.clouds[0].inner().keys().len();
        let stored = store("a file", name).await;
        assert_eq!(stored.is_ok(), name == "fits", "{stored:?}");
        if let Err(e) = &stored {
            let whole = ArrayError::Storage(StorageError::QuotaExceeded {
                account: name.to_owned(),
                quota,
                used: 0,
                asked: used,
            });
            assert_eq!(e.to_string(), whole.to_string(), "what the file takes");
        }
        if name == "not" {
            assert_eq!(
                rig.clouds[0].inner().keys().len(),
                before,
                "it is refused before a byte goes out"
            );
        }
    }
}

/// A cloud that lies is found while the new content is still elsewhere.
#[tokio::test]
async fn a_cloud_that_gives_other_bytes_back_is_found_when_it_stores() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "the keyring first", content(10)).await.unwrap();
    drop(array);
    let array = rig.open().await;
    // The owner object and the keyring may be read at any time, and stay as they are.
    let lying = FaultPlan {
        corrupt_body: 1.0,
        corrupt_below: "shares/",
        ..FaultPlan::default()
    };
    rig.clouds[2].set(lying);
    put(&array, "file", content(50_000)).await.unwrap();
    let lacking = array.stat(&named("file")).await.unwrap().lacking;
    assert_eq!(lacking.len(), 1, "{lacking:?}");
    assert!(
        lacking[0].cloud == "c2" && lacking[0].reason.contains("other bytes"),
        "{lacking:?}"
    );
    let state = &array.status().await.unwrap().clouds[2];
    assert_eq!((state.lacking, state.last.len()), (1, 1), "{state:?}");
}

#[tokio::test]
async fn what_a_cloud_that_is_gone_held_is_lost_and_a_cloud_that_comes_back_has_it() {
    let mut rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(10)).await.unwrap();
    array.leasedb().set_gone("c3").await.unwrap();
    drop(array);
    let cloud = rig.clouds.pop().unwrap();
    let array = rig.open_with(2, rig.keyring.clone()).await.unwrap();
    let status = array.status().await.unwrap();
    assert_eq!(
        (status.totals.lost, status.gone),
        (1, vec![("c3".to_owned(), 1)])
    );
    let file = array.stat(&named("file")).await.unwrap();
    assert_eq!((file.shares.len(), file.lacking.len()), (3, 1), "{file:?}");
    array.remove(&named("file")).await.unwrap();
    assert_eq!(
        array.status().await.unwrap().totals.lost,
        0,
        "nothing needs it any more"
    );
    drop(array);
    rig.clouds.push(cloud);
    let array = rig.open().await;
    let served = array.servers().iter().map(|server| server.id()).collect();
    array.leasedb().came_back(served).await.unwrap();
    let status = array.status().await.unwrap();
    assert_eq!((status.totals.lost, status.gone.len()), (0, 0));
}

#[tokio::test]
async fn a_transfer_counts_what_each_cloud_takes_and_gives() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    let (up, down) = (Transfer::default(), Transfer::default());
    let pieces: Vec<Result<Bytes, String>> = vec![Ok(content(100_000))];
    let options = PutOptions {
        transfer: up.clone(),
        ..PutOptions::default()
    };
    array
        .put(&named("file"), stream::iter(pieces), options)
        .await
        .unwrap();
    let shares = up.clouds();
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["c0", "c1", "c2", "c3"]);
    for (cloud, counted) in rig.clouds.iter().zip(shares.values()) {
        let mut stored = 0;
        for key in cloud
            .inner()
            .keys()
            .iter()
            .filter(|key| key.as_str().starts_with("shares/"))
        {
            stored += cloud.head(key).await.unwrap().size;
        }
        assert_eq!(*counted, stored);
    }
    let (_, _, content) = array.get(&named("file"), None, down.clone()).await.unwrap();
    content.try_for_each(async |_| Ok(())).await.unwrap();
    assert!(down.clouds().values().sum::<u64>() >= 100_000, "{down:?}");
}

/// A file keeps the geometry that it was stored with, whatever the array's geometry is today.
#[tokio::test]
async fn another_geometry_reads_what_was_stored_before() {
    let mut rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "of 2-of-4", content(30_000)).await.unwrap();
    drop(array);
    rig.clouds.push(Arc::new(Faulty::new(
        MemoryCloud::new("c4"),
        0,
        FaultPlan::default(),
    )));
    let array = rig.open_with(3, rig.keyring.clone()).await.unwrap();
    put(&array, "of 3-of-5", content(30_000)).await.unwrap();
    assert_eq!(
        get(&array, "of 2-of-4", None).await.unwrap(),
        content(30_000)
    );
    drop(array);
    // The second cloud goes. The last two keep their shares under numbers that a 2-of-3 array does
    // not have.
    rig.clouds.remove(1);
    rig.clouds.remove(0);
    let array = rig.open_with(2, rig.keyring.clone()).await.unwrap();
    for name in ["of 2-of-4", "of 3-of-5"] {
        assert_eq!(
            get(&array, name, None).await.unwrap(),
            content(30_000),
            "{name}"
        );
    }
}

/// A reader sees a file as it was at one moment, or that there is no file.
#[tokio::test(flavor = "multi_thread")]
async fn reading_while_the_file_is_replaced_gives_one_version_whole() {
    let rig = Rig::new(4);
    let array = Arc::new(rig.open().await);
    let versions = [content(3_000), Bytes::from(vec![7; 5_000])];
    put(&array, "file", versions[0].clone()).await.unwrap();
    let writer = array.clone();
    let contents = versions.clone();
    let writing = tokio::spawn(async move {
        for i in 0..60 {
            put(&writer, "file", contents[i % 2].clone()).await.unwrap();
        }
    });
    while !writing.is_finished() {
        let read = get(&array, "file", None).await.unwrap();
        assert!(versions.iter().any(|version| *version == read));
    }
    writing.await.unwrap();
}

/// A cloud is left alone after a failure. Once it is back, this must not make a file unreadable or
/// refuse a write.
#[tokio::test]
async fn clouds_that_are_back_are_asked_again_where_the_others_do_not_suffice() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(50_000)).await.unwrap();
    let down = |clouds: &[usize]| {
        for (i, cloud) in rig.clouds.iter().enumerate() {
            let plan = if clouds.contains(&i) {
                Faulty::<MemoryCloud>::down_plan()
            } else {
                FaultPlan::default()
            };
            cloud.set(plan);
        }
    };
    for (first, then) in [([0, 2], [1, 3]), ([1, 3], [0, 1]), ([0, 1], [2, 3])] {
        down(&first);
        assert_eq!(
            get(&array, "file", None).await.unwrap(),
            content(50_000),
            "{first:?} down"
        );
        down(&then);
        assert_eq!(
            get(&array, "file", None).await.unwrap(),
            content(50_000),
            "{first:?} back, {then:?} down"
        );
    }
    down(&[1, 2, 3]);
    let refused = put(&array, "new", content(10)).await.unwrap_err();
    assert!(
        matches!(refused, ArrayError::TooFewClouds { .. }),
        "{refused}"
    );
    down(&[]);
    put(&array, "new", content(10)).await.unwrap();
    assert_eq!(array.stat(&named("new")).await.unwrap().lacking, []);
}

/// One cloud hangs for good, another is wiped, and the one that is needed comes back only while the
/// reader waits.
#[tokio::test]
async fn a_cloud_that_comes_back_is_asked_before_one_that_hangs_has_answered() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(50_000)).await.unwrap();
    rig.clouds[0].set(FaultPlan {
        hang: HANGS,
        ..FaultPlan::default()
    });
    rig.clouds[1].inner().wipe();
    rig.clouds[2].set(Faulty::<MemoryCloud>::down_plan());
    let late = rig.clouds[2].clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        late.set(FaultPlan::default());
    });
    let read = tokio::time::timeout(Duration::from_secs(30), get(&array, "file", None)).await;
    assert_eq!(
        read.expect("it waits for the cloud that hangs").unwrap(),
        content(50_000)
    );
}

/// Two clouds of one failure domain count as one.
#[tokio::test]
async fn shares_of_one_failure_domain_do_not_make_a_write_survive() {
    // If a, b and c have their shares, two are left after the loss of any one. With a and c alone,
    // c takes a second one. With a alone, its loss would leave nothing.
    for (domains, down, is_stored) in [
        (["a", "a", "b", "c"], 0, true),
        (["a", "a", "b", "c"], 2, true),
        (["a", "a", "a", "b"], 3, false),
    ] {
        let mut rig = Rig::new(4);
        rig.domains = domains.to_vec();
        let array = rig.open().await;
        put(&array, "file", content(5_000)).await.unwrap();
        rig.clouds[down].set(Faulty::<MemoryCloud>::down_plan());
        let stored = put(&array, "file", content(5_000)).await;
        assert_eq!(stored.is_ok(), is_stored, "{stored:?}");
        if let Err(refused) = stored {
            assert!(matches!(
                refused,
                ArrayError::TooFewClouds { stored: 3, .. }
            ));
            assert!(
                refused.to_string().contains("more failure domains"),
                "{refused}"
            );
        }
    }
}

#[tokio::test]
async fn an_account_pays_for_its_files_and_no_more_than_its_quota() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    let leasedb = array.leasedb().clone();
    let quota = AccountChange {
        hard_quota: Some(Some(100_000)),
        ..AccountChange::default()
    };
    let alice = leasedb.create_account("alice", quota).await.unwrap();
    let store = async |name: &str, length: usize, size| {
        let pieces: Vec<Result<Bytes, String>> = vec![Ok(content(length))];
        let options = PutOptions {
            account: Some(alice.name.clone()),
            size,
            ..PutOptions::default()
        };
        array.put(&named(name), stream::iter(pieces), options).await
    };
    let used = async || {
        let usage = leasedb.usage_by_account().await.unwrap();
        usage
            .into_iter()
            .find(|u| u.name == "alice")
            .map(|u| (u.shares, u.files, u.bytes))
            .unwrap()
    };
    store("one", 20_000, Some(20_000)).await.unwrap();
    // The content times n/k. The shares are leased by the account of the array.
    let paid = (0, 1, 40_000);
    assert_eq!(used().await, paid);
    // The file is refused before a byte is sent if its size is known, else when all was sent.
    // Nothing stays either way.
    for size in [Some(50_000), None] {
        let refused = store("two", 50_000, size).await.unwrap_err();
        assert!(
            matches!(
                &refused,
                ArrayError::Storage(StorageError::QuotaExceeded { quota: 100_000, .. })
            ),
            "{refused}"
        );
        assert_eq!(used().await, paid, "{size:?}");
    }
    array.remove(&named("one")).await.unwrap();
    assert_eq!(used().await, (0, 0, 0));
    settle(|| rig.objects() == 0).await;
    leasedb
        .change_account(
            "alice",
            AccountChange {
                is_disabled: Some(true),
                ..quota
            },
        )
        .await
        .unwrap();
    let refused = store("two", 10, None).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ArrayError::Storage(StorageError::AccountDisabled(_))
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn a_share_that_vanished_is_lacking_and_read_last() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(5_000)).await.unwrap();
    let before = array.stat(&named("file")).await.unwrap().shares;
    let home = before
        .into_iter()
        .find(|(share, _)| share.0 == 1)
        .unwrap()
        .1;
    let leasedb = array.leasedb();
    let vanish = leasedb.database().write(|tx| {
        tx.execute("UPDATE shares SET lost_ms = 1 WHERE share = 1", [])?;
        Ok::<_, StorageError>(())
    });
    vanish.await.unwrap();
    let file = array.stat(&named("file")).await.unwrap();
    let lacking: Vec<_> = file
        .lacking
        .iter()
        .map(|lacking| (lacking.share.0, &*lacking.cloud, &*lacking.reason))
        .collect();
    assert_eq!(
        lacking,
        [(
            1,
            &*home,
            "it has vanished from its cloud, or the cloud is gone"
        )]
    );
    assert_eq!(
        file.shares
            .iter()
            .map(|(share, _)| share.0)
            .collect::<Vec<_>>(),
        [0, 2, 3]
    );
    assert_eq!(get(&array, "file", None).await.unwrap(), content(5_000));
}

/// A cloud takes nothing if its container lost its owner object or belongs to another owner. The
/// array goes on with the other clouds.
#[tokio::test]
async fn a_cloud_that_was_emptied_takes_nothing_before_it_is_adopted() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    put(&array, "file", content(5_000)).await.unwrap();
    drop(array);
    rig.clouds[1].inner().wipe();
    let array = rig.open().await;
    put(&array, "other", content(5_000)).await.unwrap();
    let lacking = array.stat(&named("other")).await.unwrap().lacking;
    assert!(
        matches!(&lacking[..], [Lacking { cloud, reason, .. }] if cloud == "c1" && reason.contains("raic cloud adopt c1")),
        "{lacking:?}"
    );
    assert_eq!(rig.clouds[1].inner().keys(), []);
    array.servers()[1].adopt().await.unwrap();
    put(&array, "other", content(5_000)).await.unwrap();
    assert_eq!(array.stat(&named("other")).await.unwrap().lacking, []);
}

/// What was read ahead for a reader that stops is given back. It goes on where it stopped.
#[tokio::test]
async fn a_reader_that_stops_gives_its_memory_back_and_goes_on() {
    let mut rig = Rig::new(4);
    rig.read_budget = ChunkBudget::new(8 << 20);
    let array = rig.open().await;
    put(&array, "file", content(3_000_000)).await.unwrap();
    let name = named("file");
    let opened = array.get(&name, None, Transfer::default());
    let (_, _, mut reading) = opened.await.unwrap();
    let mut read = Vec::new();
    while read.len() < 700_000 {
        read.extend_from_slice(&reading.try_next().await.unwrap().unwrap());
    }
    assert!(rig.read_budget.free() < 8 << 20, "some is read ahead");
    tokio::time::sleep(Duration::from_millis(5_600)).await;
    assert_eq!(rig.read_budget.free(), 8 << 20, "all is given back");
    while let Some(piece) = reading.try_next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert!(read == content(3_000_000));
}
