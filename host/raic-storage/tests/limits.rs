//! Limits: what a storage server takes or refuses from a client, from a cloud, and after a file was
//! lost.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::{fs, sync::Arc, time::Duration};

use raic_cloud::{Cloud as _, FaultPlan, Faulty, Invented, MemoryCloud, ObjectKey, WriteMode};
use raic_storage::{
    AccountChange, AccountId, ChunkBudget, CloudBackend, DEFAULT_CHUNK_SIZE, Reconciled,
    RenewSecret, ServerSettings, ShareId, ShareNum, ShareStore as _, StorageError, StorageIndex,
    StreamMemory,
};
use rig::{DAY, Rig, content, index, loaded, renew, upload};

/// Acknowledged parts that are lost are not replaced by zeros.
#[tokio::test]
async fn an_upload_whose_spooled_parts_were_lost_never_becomes_whole() {
    let mut rig = Rig::new().await;
    rig.allocate(index(1), &[0], 900).await.unwrap();
    rig.write(index(1), 0, 0, &content(900)[..500])
        .await
        .unwrap();
    for file in fs::read_dir(rig.folder.path().join("spool"))
        .unwrap()
        .flatten()
    {
        fs::remove_file(file.path()).unwrap();
    }
    rig.restart().await;
    rig.write(index(1), 0, 500, &content(900)[500..])
        .await
        .unwrap_err();
    assert_eq!(rig.shares(index(1)).await, [] as [u8; 0]);
}

/// Each upload has room for the chunk that it fills. Uploads that wait hold no room that another
/// upload needs.
#[tokio::test]
async fn uploads_that_fill_the_spool_together_can_all_go_on() {
    let mut rig = Rig::new().await;
    // There is room for the parts and headers, and not for a chunk more.
    rig.spool = 1600;
    rig.restart().await;
    let mut begun = Vec::new();
    for of in 1..=2 {
        rig.allocate(index(of), &[0], 3000).await.unwrap();
        if rig
            .write(index(of), 0, 0, &content(3000)[..750])
            .await
            .is_ok()
        {
            begun.push(of);
        }
    }
    assert_eq!(begun.len(), 2);
    for of in &begun {
        rig.write(index(*of), 0, 750, &content(3000)[750..1000])
            .await
            .unwrap();
    }
    for of in begun {
        rig.write(index(of), 0, 1000, &content(3000)[1000..])
            .await
            .unwrap();
        assert_eq!(rig.read(index(of), 0).await.unwrap(), content(3000));
    }
}

#[tokio::test]
async fn sizes_beyond_all_shares_are_refused_and_sums_stay_whole_numbers() {
    let rig = Rig::new().await;
    for size in [usize::MAX / 2, 1 << 55, (1 << 44) + 1] {
        assert!(
            rig.allocate(index(1), &[0, 1], size).await.is_err(),
            "{size}"
        );
    }
    rig.store(index(2), 0, b"x").await;
    let (shares, bytes) = rig.used().await;
    assert!(shares == 1 && bytes < 1000);
}

#[tokio::test]
async fn whoever_leases_anothers_share_pays_for_it_within_the_quota() {
    let rig = Rig::new().await;
    let leasedb = rig.server.leasedb();
    let quota = AccountChange {
        hard_quota: Some(Some(1000)),
        ..AccountChange::default()
    };
    let alice = leasedb.create_account("alice", quota).await.unwrap().id;
    rig.store(index(1), 0, &content(10_000)).await;
    let refused = rig
        .server
        .renew(alice, index(1), renew(9))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, StorageError::QuotaExceeded { .. }),
        "{refused}"
    );
    rig.store(index(2), 0, &content(100)).await;
    assert_eq!(
        rig.server
            .renew(alice, index(2), renew(9))
            .await
            .unwrap()
            .len(),
        1
    );
    let disabled = AccountChange {
        is_disabled: Some(true),
        ..quota
    };
    leasedb.change_account("alice", disabled).await.unwrap();
    rig.store(index(3), 0, &content(100)).await;
    rig.server
        .renew(alice, index(3), renew(9))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_share_that_was_lost_can_be_stored_again() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(2500)).await;
    for key in rig.objects() {
        rig.cloud
            .delete(&ObjectKey::new(key).unwrap(), None)
            .await
            .unwrap();
    }
    for _ in 0..2 {
        rig.walk().await;
        rig.clock.advance(DAY + DAY / 24);
    }
    assert_eq!(
        rig.shares(index(1)).await,
        [] as [u8; 0],
        "a lost share is not in the answer"
    );
    let first = rig.allocate(index(1), &[0], 2500).await.unwrap();
    if first.allocated.is_empty() {
        rig.collect_to_the_end().await;
        assert_eq!(
            rig.allocate(index(1), &[0], 2500)
                .await
                .unwrap()
                .allocated
                .len(),
            1
        );
    }
    rig.write(index(1), 0, 0, &content(2500)).await.unwrap();
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
}

#[tokio::test]
async fn a_read_only_cloud_is_walked_to_its_end_and_nothing_is_changed_there() {
    let mut rig = Rig::new().await;
    rig.store(index(1), 0, &content(2500)).await;
    let name = rig.objects()[0].clone();
    let beyond = ObjectKey::new(format!("{name}.9")).unwrap();
    rig.cloud
        .put(&beyond, b"a leftover"[..].into(), WriteMode::Overwrite)
        .await
        .unwrap();
    let torn = ObjectKey::new(name.replace(&index(1).to_string(), &index(7).to_string()));
    rig.cloud
        .put(&torn.unwrap(), b"no share"[..].into(), WriteMode::Overwrite)
        .await
        .unwrap();
    rig.settings = ServerSettings {
        is_read_only: true,
        ..ServerSettings::default()
    };
    rig.restart().await;
    let before = rig.cloud.inner().keys();
    for _ in 0..4 {
        rig.walk().await;
        rig.collect().await;
        rig.clock.advance(2 * DAY);
    }
    assert_eq!(rig.cloud.inner().keys(), before);
}

/// The pieces of an upload are bounded: each piece is a row, and each write writes all rows again.
#[tokio::test]
async fn an_upload_has_a_bounded_number_of_gaps() {
    let rig = Rig::new().await;
    rig.allocate(index(1), &[0], 5000).await.unwrap();
    let mut refused = None;
    for at in (0..5000).step_by(2) {
        if let Err(e) = rig.write(index(1), 0, at, b"x").await {
            refused = Some((at, e));
            break;
        }
    }
    let (at, e) = refused.expect("too many");
    assert!(matches!(e, StorageError::TooManyPieces { .. }), "{e}");
    assert!((1000..4000).contains(&at), "{at}");
}

/// The highest row id was once used again. Then a caller that waited for the old row wrote into
/// another share's row.
#[tokio::test]
async fn an_upload_that_ended_while_it_waited_writes_into_no_other() {
    let rig = Rig::new().await;
    rig.allocate(index(1), &[0], 2500).await.unwrap();
    rig.write(index(1), 0, 0, &content(2500)[..500])
        .await
        .unwrap();
    rig.server
        .abort(
            ShareId {
                index: index(1),
                share: ShareNum(0),
            },
            upload(),
        )
        .await
        .unwrap();
    rig.collect_to_the_end().await;
    rig.allocate(index(2), &[0], 2500).await.unwrap();
    assert!(
        rig.write(index(1), 0, 500, &content(2500)[500..])
            .await
            .is_err()
    );
    rig.write(index(2), 0, 0, &content(2500)).await.unwrap();
    assert_eq!(rig.read(index(2), 0).await.unwrap(), content(2500));
    // Aborting an upload that does not exist leaves nothing behind, however often.
    for of in 0..1000_u32 {
        let mut unknown = index(9);
        unknown.0[..4].copy_from_slice(&of.to_be_bytes());
        assert!(
            rig.server
                .abort(
                    ShareId {
                        index: unknown,
                        share: ShareNum(0)
                    },
                    upload()
                )
                .await
                .is_err()
        );
    }
}

/// Listings of a cloud have bounds: ten million invented names once took gigabytes, and a row each.
#[tokio::test]
async fn a_million_names_that_a_cloud_makes_up_end_its_listing_and_take_no_row() {
    /// Makes the key of an invented object. They come in the order of their numbers and after all
    /// other keys, because this cloud's listings are ordered.
    fn name(number: u64) -> String {
        let digits = format!("{number:023x}");
        let letters = digits.bytes().map(|b| match b {
            b'0'..=b'9' => char::from(b - b'0' + b'a'),
            hex => char::from(hex - b'a' + b'k'),
        });
        let index = format!("zz{}a", letters.collect::<String>());
        assert!(index.parse::<StorageIndex>().is_ok(), "{index}");
        format!("shares/zz/{index}/0")
    }

    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(2500)).await;
    let invented = Some(Invented {
        count: 1_000_000,
        name,
    });
    rig.cloud.set(FaultPlan {
        invented,
        ..FaultPlan::default()
    });
    let progress = Reconciled::default();
    let e = rig.server.reconcile("test", &progress).await.unwrap_err();
    assert!(
        e.to_string()
            .contains("far more objects than were stored there"),
        "{e}"
    );
    assert_eq!((loaded(&progress.listed), loaded(&progress.torn)), (1, 0));
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
    assert_eq!(rig.used().await.0, 1);
    rig.cloud.set(FaultPlan::default());
    // The walk continues where it stopped.
    rig.walk().await;
    assert_eq!(loaded(&rig.walk().await.listed), 1);
}

#[tokio::test]
async fn a_share_has_a_bounded_number_of_leases_and_keeps_those_it_has() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(10)).await;
    let account = AccountId::ANONYMOUS;
    let secret = |of: u32| RenewSecret::of(&of.to_be_bytes());
    let mut refused = None;
    for of in 0..2000 {
        if let Err(e) = rig.server.renew(account, index(1), secret(of)).await {
            refused = Some((of, e));
            break;
        }
    }
    let (of, e) = refused.expect("a bound");
    assert!(
        of >= 1000 && matches!(e, StorageError::TooManyLeases { .. }),
        "{of}: {e}"
    );
    rig.server
        .renew(account, index(1), secret(of - 1))
        .await
        .expect("one that it has is renewed");
}

#[tokio::test]
async fn a_soft_quota_above_the_hard_one_is_refused() {
    let rig = Rig::new().await;
    let quotas = |soft, hard| AccountChange {
        soft_quota: Some(Some(soft)),
        hard_quota: Some(Some(hard)),
        ..AccountChange::default()
    };
    let leasedb = rig.server.leasedb();
    let refused = leasedb
        .create_account("alice", quotas(2, 1))
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            StorageError::Quotas {
                soft: 2,
                hard: 1,
                ..
            }
        ),
        "{refused}"
    );
    assert!(
        leasedb.account("alice").await.is_err(),
        "and there is none half made"
    );
    leasedb.create_account("alice", quotas(1, 2)).await.unwrap();
    let lower = AccountChange {
        hard_quota: Some(Some(0)),
        ..AccountChange::default()
    };
    leasedb.change_account("alice", lower).await.unwrap_err();
}

/// Each try once kept the upload and the other bytes in its way alive, for ever.
#[tokio::test]
async fn an_upload_that_meets_other_bytes_under_its_name_goes_and_the_next_is_whole() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(10)).await;
    // An upload left these objects, and its database was lost.
    let of_before = rig.objects()[0].replace(&index(1).to_string(), &index(2).to_string());
    let prefix = &index(2).to_string()[..2];
    let of_before =
        ObjectKey::new(of_before.replacen(&index(1).to_string()[..2], prefix, 1)).unwrap();
    rig.cloud
        .put(&of_before, b"of before"[..].into(), WriteMode::CreateOnly)
        .await
        .unwrap();
    rig.allocate(index(2), &[0], 2500).await.unwrap();
    let refused = rig.write(index(2), 0, 0, &content(2500)).await.unwrap_err();
    assert!(
        matches!(refused, StorageError::InTheWay { .. }),
        "{refused}"
    );
    let again = rig.write(index(2), 0, 0, &content(2500)).await.unwrap_err();
    assert!(matches!(again, StorageError::NoUpload { .. }), "{again}");
    assert!(
        rig.allocate(index(2), &[0], 2500)
            .await
            .unwrap()
            .allocated
            .is_empty(),
        "not before it has gone"
    );
    rig.collect_to_the_end().await;
    rig.store(index(2), 0, &content(2500)).await;
    assert_eq!(rig.read(index(2), 0).await.unwrap(), content(2500));
}

/// A proxy before a service may take only objects of a megabyte. Once every larger share was
/// refused there, although `cloud test` succeeded.
#[tokio::test]
async fn chunks_are_as_small_as_the_cloud_says_that_objects_must_be() {
    let store = async |max_object_size| {
        let plan = FaultPlan {
            max_object_size,
            ..FaultPlan::default()
        };
        let cloud = Arc::new(Faulty::new(MemoryCloud::new("c"), 1, plan));
        let backend = CloudBackend::new(cloud.clone(), DEFAULT_CHUNK_SIZE, ChunkBudget::default());
        let mut writer = backend
            .create(
                ShareId {
                    index: index(1),
                    share: ShareNum(0),
                },
                StreamMemory::of_one(),
            )
            .await?;
        writer.write(content(2_600_000).into()).await?;
        writer.finish().await
    };
    assert_eq!(store(None).await.unwrap().objects, 1);
    assert_eq!(store(Some(1 << 20)).await.unwrap().objects, 3);
    // Chunks have whole units. So the only chunk of a torn share shows that it was filled.
    assert_eq!(store(Some((1 << 20) + 1)).await.unwrap().objects, 3);
    let refused = store(Some(100)).await.unwrap_err();
    assert!(refused.to_string().contains("max-object-size"), "{refused}");
}

/// The bytes in an upload's way may be a whole share that no walk has found yet.
#[tokio::test]
async fn an_upload_that_meets_a_whole_share_finds_it() {
    let mut rig = Rig::new().await;
    rig.store(index(1), 0, &content(2500)).await;
    rig.lose_database().await;
    // By the clock, no request of the previous host can land any more.
    rig.clock.advance(Duration::from_secs(16 * 60));
    assert_eq!(
        rig.allocate(index(1), &[0], 3500)
            .await
            .unwrap()
            .allocated
            .len(),
        1
    );
    let refused = rig.write(index(1), 0, 0, &vec![1; 1200]).await.unwrap_err();
    assert!(
        matches!(refused, StorageError::InTheWay { chunk: 0, .. }),
        "at its first chunk: {refused}"
    );
    rig.collect_to_the_end().await;
    assert_eq!(rig.shares(index(1)).await, [0]);
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
}

/// The bytes that an account pays for files of the array count beside those that it leases.
#[tokio::test]
async fn a_quota_holds_over_leases_and_files_together() {
    let rig = Rig::new().await;
    let leasedb = rig.server.leasedb();
    let quota = AccountChange {
        hard_quota: Some(Some(1000)),
        ..AccountChange::default()
    };
    let alice = leasedb.create_account("alice", quota).await.unwrap().id;
    let reserved = leasedb
        .create_account("system", AccountChange::default())
        .await;
    assert!(matches!(reserved, Err(StorageError::AccountExists(_))));
    // Pays `after` for a file instead of `before`.
    let pay = async |before: u64, after: u64| {
        let db = leasedb.clone();
        let database = leasedb.database();
        database
            .write::<_, StorageError>(move |tx| {
                let used = db.used(tx, alice)?;
                if before > 0 {
                    db.no_longer_pay(tx, alice, before)?;
                }
                db.pay_for_file(tx, alice, after)?;
                db.admit_since(tx, used)
            })
            .await
    };
    pay(0, 900).await.unwrap();
    rig.store(index(1), 0, &content(150)).await;
    let refused = rig
        .server
        .renew(alice, index(1), renew(9))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, StorageError::QuotaExceeded { used: 900, .. }),
        "{refused}"
    );
    pay(900, 500).await.unwrap();
    rig.server.renew(alice, index(1), renew(9)).await.unwrap();
    let refused = pay(500, 900).await.unwrap_err();
    assert!(
        matches!(refused, StorageError::QuotaExceeded { asked: 400, .. }),
        "{refused}"
    );
    // A file that takes less than the one before is stored even above the quota.
    let lower = AccountChange {
        hard_quota: Some(Some(10)),
        ..AccountChange::default()
    };
    leasedb.change_account("alice", lower).await.unwrap();
    pay(500, 400).await.unwrap();
    let usage = leasedb.usage_by_account().await.unwrap();
    let alice = usage.iter().find(|usage| usage.name == "alice").unwrap();
    assert_eq!((alice.shares, alice.files, alice.bytes), (1, 1, 562));
}
