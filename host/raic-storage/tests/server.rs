//! Storage servers: leases, collection and reconciliation over a cloud that lists late, loses
//! objects and lies. Each known fault of the first RAIC has a test with its number.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]
#![allow(
    clippy::single_range_in_vec_init,
    reason = "a read vector may have one range"
)]

mod rig;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use raic_cloud::{Cloud as _, FaultPlan, Faulty, MemoryCloud, ObjectKey, Payload, WriteMode};
use raic_storage::{
    AccountChange, AccountId, Allocated, DiskBackend, Expiry, IndexPrefix, LeaseDb, Moment,
    Reconciled, ServerSettings, ShareId, ShareNum, ShareState, StorageError, StorageServer,
    TestWrite, UploadSecret, WriteEnabler,
};

use rig::{CHUNK, DAY, Rig, content, enabler, index, loaded, open, renew, upload};

#[tokio::test]
async fn known_fault_1_prefix_deletion_of_share_1_also_deleted_10_and_11() {
    let rig = Rig::new().await;
    for share in [1, 10, 11] {
        rig.store(index(1), share, &content(3500)).await;
    }
    rig.allocate(index(1), &[100], 50).await.unwrap();
    rig.server
        .abort(
            ShareId {
                index: index(1),
                share: ShareNum(100),
            },
            upload(),
        )
        .await
        .unwrap();
    // Only share 1 loses its lease.
    let leasedb = rig.server.leasedb().clone();
    leasedb
        .database()
        .write(|tx| {
            tx.execute(
                "DELETE FROM leases WHERE share = (SELECT id FROM shares WHERE share = 1)",
                [],
            )?;
            Ok::<_, StorageError>(())
        })
        .await
        .unwrap();
    rig.collect().await;
    assert_eq!(rig.shares(index(1)).await, [10, 11]);
    for share in [10, 11] {
        assert_eq!(rig.read(index(1), share).await.unwrap(), content(3500));
    }
    assert_eq!(rig.objects().len(), 8);
}

#[tokio::test]
async fn known_fault_2_listings_were_not_paginated_and_shares_past_the_first_page_disappeared() {
    let mut rig = Rig::new().await;
    // One prefix has 12,000 objects: three shares of 4,000 chunks, and a small share after them.
    let whole = [Bytes::from(vec![0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0])];
    let puts = (0..3_u8).flat_map(|share| (0..4000_u64).map(move |chunk| (share, chunk)));
    stream::iter(puts)
        .for_each_concurrent(16, |(share, chunk)| {
            let (cloud, mut content) = (rig.cloud.clone(), vec![share; 12]);
            async move {
                let name = if chunk == 0 {
                    share.to_string()
                } else {
                    format!("{share}.{chunk}")
                };
                if chunk == 0 {
                    // Chunks have twelve bytes. The first is the header, which has the length of
                    // the others together.
                    content = [2, 3999 * 12, 0].map(u32::to_be_bytes).concat();
                }
                let si = index(1).to_string();
                let key = ObjectKey::new(format!("shares/{}/{si}/{name}", &si[..2])).unwrap();
                cloud
                    .put(&key, Payload::from(content), WriteMode::CreateOnly)
                    .await
                    .unwrap();
            }
        })
        .await;
    rig.store(index(1), 200, &whole[0]).await;
    let progress = rig.walk().await;
    assert_eq!(
        (
            loaded(&progress.listed),
            loaded(&progress.discovered),
            loaded(&progress.torn)
        ),
        (4, 3, 0)
    );
    assert_eq!(rig.shares(index(1)).await, [0, 1, 2, 200]);
    rig.lose_database().await;
    let progress = rig.walk().await;
    assert_eq!(
        (loaded(&progress.listed), loaded(&progress.discovered)),
        (4, 4)
    );
    assert_eq!(rig.used().await, (4, 3 * 4000 * 12 + 24));
    // None of them is collected.
    rig.collect().await;
    assert_eq!(rig.shares(index(1)).await, [0, 1, 2, 200]);
}

#[tokio::test]
async fn known_fault_3_rediscovered_shares_stayed_coming_for_ever() {
    let mut rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    rig.store(index(1), 0, &content(2500)).await;
    rig.lose_database().await;
    assert_eq!(loaded(&rig.walk().await.discovered), 1);
    assert_eq!(rig.shares(index(1)).await, [0]);
    let leases = rig
        .server
        .leasedb()
        .leases(None, None, None, 10)
        .await
        .unwrap();
    assert_eq!(
        (leases[0].account.as_str(), leases[0].state),
        ("starter", ShareState::Stable)
    );
    // A starter lease ends as other leases do.
    rig.clock.advance(32 * DAY);
    rig.collect_to_the_end().await;
    assert_eq!(
        (
            rig.shares(index(1)).await,
            rig.objects().len(),
            rig.used().await
        ),
        (vec![], 0, (0, 0))
    );
}

#[tokio::test]
async fn known_fault_4_aborted_uploads_leaked_rows_and_objects() {
    let rig = Rig::new().await;
    rig.allocate(index(1), &[0, 1], 3000).await.unwrap();
    rig.write(index(1), 0, 0, &content(3000)[..2500])
        .await
        .unwrap();
    assert!(!rig.objects().is_empty());
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
    // Share 1 is not aborted, but only abandoned.
    rig.clock.advance(Duration::from_secs(31 * 60));
    rig.collect_to_the_end().await;
    assert_eq!((rig.objects(), rig.used().await), (vec![], (0, 0)));
    assert_eq!(
        std::fs::read_dir(rig.folder.path().join("spool"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn known_fault_5_the_read_cache_was_not_invalidated_after_a_mutable_write() {
    let rig = Rig::new().await;
    let write = |at, bytes: &'static [u8]| TestWrite {
        writes: vec![(at, Bytes::from_static(bytes))],
        ..TestWrite::default()
    };
    for (at, bytes, expected) in [
        (0, &b"first"[..], &b"first"[..]),
        (1, b"X", b"fXrst"),
        (4, b"version", b"fXrsversion"),
    ] {
        let vectors = [(ShareNum(0), write(at, bytes))].into();
        let done = rig
            .server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(1),
                enabler(b"enabler"),
                renew(1),
                vectors,
                &[],
            )
            .await;
        assert!(done.unwrap().is_written);
        let read = rig
            .server
            .read_mutable(
                ShareId {
                    index: index(1),
                    share: ShareNum(0),
                },
                0..100,
            )
            .await
            .unwrap();
        assert_eq!(
            read.content.try_collect::<Vec<_>>().await.unwrap().concat(),
            expected
        );
    }
}

#[tokio::test]
async fn known_fault_6_every_allocate_fetched_chunk_0_of_every_share() {
    let rig = Rig::new().await;
    for share in 0..5 {
        rig.store(index(1), share, &content(100)).await;
    }
    // The cloud does not answer any longer: listing complete shares takes no request.
    rig.cloud.set(Faulty::<MemoryCloud>::down_plan());
    let answer = rig.allocate(index(1), &[3, 4, 5], 100).await.unwrap();
    assert_eq!(
        answer.already_have,
        (0..5).map(ShareNum).collect::<BTreeSet<_>>()
    );
    assert_eq!(answer.allocated, [ShareNum(5)].into());
}

#[tokio::test]
async fn known_fault_7_available_space_of_2_to_the_64_broke_clients() {
    let folder = tempfile::tempdir().unwrap();
    let space = |reserved| {
        let disk = DiskBackend::open("d", folder.path())
            .unwrap()
            .with_reserved(reserved);
        async move {
            raic_storage::Container::available_space(&disk)
                .await
                .unwrap()
        }
    };
    let free = space(0).await.unwrap();
    assert!(free > 0 && i64::try_from(free).is_ok(), "{free}");
    assert_eq!(space(u64::MAX).await, Some(0));
    let rig = Rig::new().await;
    assert_eq!(
        rig.server.backend().available_space().await.unwrap(),
        None,
        "a cloud does not tell"
    );
}

#[tokio::test]
async fn a_share_is_written_in_any_order_and_goes_on_after_a_restart() {
    let mut rig = Rig::new().await;
    let whole = content(4321);
    let answer = rig.allocate(index(1), &[0], whole.len()).await.unwrap();
    assert_eq!(
        answer,
        Allocated {
            already_have: [].into(),
            allocated: [ShareNum(0)].into()
        }
    );
    for range in [2000..3000, 100..200, 0..150, 3500..4321, 2500..2600] {
        rig.write(index(1), 0, range.start, &whole[range])
            .await
            .unwrap();
        rig.restart().await;
        assert!(rig.read(index(1), 0).await.is_err(), "not complete");
        assert_eq!(rig.shares(index(1)).await, []);
    }
    let conflict = rig
        .write(index(1), 0, 2100, b"other bytes")
        .await
        .unwrap_err();
    assert!(
        matches!(conflict, StorageError::Conflict { .. }),
        "{conflict}"
    );
    let past = rig.write(index(1), 0, 4320, b"xx").await.unwrap_err();
    assert!(matches!(past, StorageError::PastEnd { .. }), "{past}");
    let other = rig
        .server
        .write(
            ShareId {
                index: index(1),
                share: ShareNum(0),
            },
            UploadSecret::of(b"another"),
            0,
            Bytes::from_static(b"x"),
        )
        .await
        .unwrap_err();
    assert!(matches!(other, StorageError::OtherUpload { .. }), "{other}");
    let required = rig
        .server
        .write(
            ShareId {
                index: index(1),
                share: ShareNum(0),
            },
            upload(),
            0,
            Bytes::new(),
        )
        .await
        .unwrap()
        .required;
    assert_eq!(required, [200..2000, 3000..3500]);
    rig.write(index(1), 0, 150, &whole[150..2100])
        .await
        .unwrap();
    // The complete chunk is in the cloud already.
    assert_eq!(rig.objects().len(), 3);
    assert_eq!(
        rig.write(index(1), 0, 3000, &whole[3000..3500])
            .await
            .unwrap(),
        0
    );
    assert_eq!(rig.read(index(1), 0).await.unwrap(), whole);
    assert_eq!(rig.used().await, (1, 4321 + 12));
    let done = rig
        .server
        .abort(
            ShareId {
                index: index(1),
                share: ShareNum(0),
            },
            upload(),
        )
        .await
        .unwrap_err();
    assert!(matches!(done, StorageError::Taken { .. }), "{done}");
}

#[tokio::test]
async fn a_share_that_is_going_is_refused_until_it_has_gone() {
    let rig = Rig::new().await;
    rig.allocate(index(1), &[0], 3000).await.unwrap();
    // A chunk of the upload goes out and is not answered, so it may land later.
    rig.cloud.set(FaultPlan {
        late: 1.0,
        ..FaultPlan::default()
    });
    rig.write(index(1), 0, 0, &content(2000)).await.unwrap();
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
    rig.cloud.set(FaultPlan::default());
    rig.collect().await;
    let answer = rig.allocate(index(1), &[0], 500).await.unwrap();
    assert_eq!(
        answer,
        Allocated::default(),
        "neither there nor to be written"
    );
    assert!(rig.cloud.land().await);
    assert_eq!(rig.objects().len(), 1, "it has landed");
    rig.collect_to_the_end().await;
    assert_eq!(rig.objects().len(), 0);
    rig.store(index(1), 0, b"other bytes").await;
    assert_eq!(rig.read(index(1), 0).await.unwrap(), b"other bytes");
}

#[tokio::test]
async fn leases_are_renewed_by_their_secret_and_keep_a_share_until_the_last_ends() {
    let rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    rig.store(index(1), 0, b"content").await;
    let leasedb = rig.server.leasedb().clone();
    let month = AccountChange {
        lease: Some(40 * DAY),
        ..AccountChange::default()
    };
    let alice = leasedb.create_account("alice", month).await.unwrap();
    assert_eq!(
        rig.server
            .renew(alice.id, index(1), renew(2))
            .await
            .unwrap(),
        [ShareNum(0)].into()
    );
    assert_eq!(
        rig.server
            .renew(alice.id, index(1), renew(2))
            .await
            .unwrap(),
        [ShareNum(0)].into()
    );
    assert_eq!(
        leasedb
            .leases(None, Some(index(1)), None, 10)
            .await
            .unwrap()
            .len(),
        2
    );
    let usage = leasedb.usage_by_account().await.unwrap();
    assert!(
        usage
            .iter()
            .filter(|u| !["starter", "system"].contains(&u.name.as_str()))
            .all(|u| (u.shares, u.bytes) == (1, 19)),
        "each pays the whole: {usage:?}"
    );
    rig.clock.advance(35 * DAY);
    rig.collect().await;
    assert_eq!(rig.shares(index(1)).await, [0], "alice's lasts longer");
    rig.server
        .renew(alice.id, index(1), renew(2))
        .await
        .unwrap();
    rig.clock.advance(35 * DAY);
    rig.collect().await;
    assert_eq!(rig.shares(index(1)).await, [0], "renewed");
    let would_go = rig.server.would_collect(10).await.unwrap();
    assert_eq!(would_go, []);
    rig.clock.advance(6 * DAY);
    assert_eq!(
        rig.server.would_collect(10).await.unwrap()[0].1,
        "its leases have ended"
    );
    rig.collect_to_the_end().await;
    assert_eq!(
        (rig.shares(index(1)).await, rig.used().await),
        (vec![], (0, 0))
    );
    assert!(
        leasedb
            .usage_by_account()
            .await
            .unwrap()
            .iter()
            .all(|u| (u.shares, u.bytes) == (0, 0))
    );
}

#[tokio::test]
async fn leases_end_by_a_cutoff_whatever_their_age() {
    let mut rig = Rig::new().await;
    rig.store(index(1), 0, b"old").await;
    rig.clock.advance(2 * DAY);
    rig.store(index(2), 0, b"new").await;
    let cutoff = rig.clock.now_ms() - 1000;
    rig.settings.expiry = Expiry::Cutoff(Moment::from_millis(cutoff));
    rig.restart().await;
    assert_eq!(rig.server.would_collect(10).await.unwrap().len(), 1);
    rig.collect().await;
    assert_eq!(
        (rig.shares(index(1)).await, rig.shares(index(2)).await),
        (vec![], vec![0])
    );
}

/// A mistyped year once ended every lease within a second.
#[tokio::test]
async fn a_cutoff_in_the_future_ends_no_lease_before_its_moment() {
    let mut rig = Rig::new().await;
    rig.store(index(1), 0, b"content").await;
    rig.clock.advance(DAY);
    rig.settings.expiry =
        Expiry::Cutoff(Moment::from_millis(rig.clock.now_ms() + 24 * 3600 * 1000));
    rig.restart().await;
    assert!(rig.server.would_collect(10).await.unwrap().is_empty());
    rig.collect().await;
    assert_eq!(rig.shares(index(1)).await, [0]);
    rig.clock.advance(2 * DAY);
    rig.collect().await;
    assert_eq!(rig.shares(index(1)).await, [] as [u8; 0]);
}

#[tokio::test]
async fn nothing_expires_unless_it_is_configured() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, b"content").await;
    rig.clock.advance(1000 * DAY);
    rig.collect().await;
    assert_eq!(rig.shares(index(1)).await, [0]);
}

#[tokio::test]
async fn collection_stops_at_every_step_and_goes_on() {
    let mut rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    for i in 0..20 {
        rig.store(index(i), 0, &content(2500)).await;
    }
    rig.clock.advance(32 * DAY);
    // Deletions fail, or are lost, or their answers are. The host restarts after every step.
    rig.cloud.set(FaultPlan {
        error: 0.2,
        lost_answer: 0.2,
        ..FaultPlan::default()
    });
    for _ in 0..60 {
        rig.server.collect_step().await.unwrap();
        rig.clock.advance(Duration::from_secs(700));
        rig.restart().await;
    }
    rig.cloud.set(FaultPlan::default());
    rig.clock.advance(DAY);
    rig.collect_to_the_end().await;
    assert_eq!((rig.objects(), rig.used().await), (vec![], (0, 0)));
}

/// A listing that leaves out live objects or breaks off changes nothing.
#[tokio::test]
async fn a_listing_that_leaves_out_live_shares_neither_loses_nor_destroys_them() {
    let rig = Rig::new().await;
    for i in 0..30 {
        rig.store(index(i), 0, &content(2500)).await;
    }
    let objects = rig.objects();
    rig.cloud.set(FaultPlan {
        omit_listed: 0.5,
        truncate_list: 0.3,
        ..FaultPlan::default()
    });
    for _ in 0..4 {
        let progress = rig.walk().await;
        assert_eq!(
            loaded(&progress.vanished),
            0,
            "head finds what the listing left out"
        );
        rig.collect().await;
        rig.clock.advance(2 * DAY);
    }
    assert_eq!(rig.objects(), objects);
    rig.cloud.set(FaultPlan {
        error: 1.0,
        ..FaultPlan::default()
    });
    let progress = Reconciled::default();
    assert!(
        rig.server.reconcile("breaks", &progress).await.is_err(),
        "a listing that fails ends the walk"
    );
    rig.cloud.set(FaultPlan::default());
    rig.server.reconcile("breaks", &progress).await.unwrap();
    assert_eq!(rig.objects(), objects);
}

#[tokio::test]
async fn a_vanished_share_is_lost_by_two_passes_a_day_apart_and_found_again_when_it_is_back() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(2500)).await;
    let key = rig
        .cloud
        .inner()
        .keys()
        .into_iter()
        .find(|k| k.as_str().ends_with("/0.1"))
        .unwrap();
    let object = rig.cloud.get(&key, None, None).await.unwrap();
    let bytes = raic_cloud::collect_body("c", object.body, 10_000)
        .await
        .unwrap();
    rig.cloud.inner().delete(&key, None).await.unwrap();
    let passes = [(1, 0), (1, 0)];
    for expected in passes {
        let progress = rig.walk().await;
        assert_eq!(
            (loaded(&progress.vanished), loaded(&progress.lost)),
            expected
        );
        rig.clock.advance(Duration::from_secs(3600));
    }
    rig.clock.advance(DAY);
    assert_eq!(loaded(&rig.walk().await.lost), 1);
    assert_eq!(rig.server.leasedb().waiting().await.unwrap().1, 1);
    rig.cloud
        .inner()
        .put(&key, bytes.into(), WriteMode::Overwrite)
        .await
        .unwrap();
    rig.walk().await;
    assert_eq!(rig.server.leasedb().waiting().await.unwrap().1, 0);
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
}

#[tokio::test]
async fn what_never_was_whole_is_destroyed_by_two_passes_and_a_late_chunk_saves_it() {
    let mut rig = Rig::new().await;
    let whole = content(3500);
    for i in [1, 2] {
        rig.store(index(i), 0, &whole).await;
    }
    // Both shares lack their last chunk when the database is lost. That of the second comes later.
    let missing: Vec<_> = rig
        .cloud
        .inner()
        .keys()
        .into_iter()
        .filter(|k| k.as_str().ends_with("/0.3"))
        .collect();
    let object = rig.cloud.get(&missing[1], None, None).await.unwrap();
    let late = raic_cloud::collect_body("c", object.body, 10_000)
        .await
        .unwrap();
    for key in &missing {
        rig.cloud.inner().delete(key, None).await.unwrap();
    }
    rig.lose_database().await;
    let progress = rig.walk().await;
    assert_eq!(
        (
            loaded(&progress.discovered),
            loaded(&progress.torn),
            loaded(&progress.reaped)
        ),
        (0, 2, 0)
    );
    rig.cloud
        .inner()
        .put(&missing[1], late.into(), WriteMode::Overwrite)
        .await
        .unwrap();
    let progress = rig.walk().await;
    assert_eq!(
        (loaded(&progress.discovered), loaded(&progress.reaped)),
        (1, 0),
        "not a day apart"
    );
    rig.clock.advance(3 * DAY);
    assert_eq!(loaded(&rig.walk().await.reaped), 1);
    rig.collect().await;
    let left: Vec<_> = rig.objects();
    assert!(
        left.len() == 4 && left.iter().all(|key| key.contains(&index(2).to_string())),
        "{left:?}"
    );
    assert_eq!(rig.read(index(2), 0).await.unwrap(), whole);
}

/// If the container is another one or has lost its owner, two passes are not enough: nothing counts
/// as gone, and nothing is destroyed.
#[tokio::test]
async fn in_a_container_without_its_owner_nothing_counts_as_gone() {
    let rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    rig.store(index(1), 0, &content(2500)).await;
    rig.store(index(2), 0, &content(2500)).await;
    rig.cloud.inner().wipe();
    rig.clock.advance(32 * DAY);
    for _ in 0..3 {
        let walked = rig.server.reconcile("test", &Reconciled::default()).await;
        assert!(
            matches!(walked, Err(StorageError::ReadOnly { .. })),
            "{walked:?}"
        );
        rig.server.collect_step().await.unwrap();
        rig.clock.advance(2 * DAY);
    }
    assert_eq!(rig.used().await.0, 2, "the rows stay");
    assert_eq!(
        rig.server.leasedb().waiting().await.unwrap().1,
        0,
        "and are not lost"
    );
    assert!(
        rig.allocate(index(3), &[0], 10)
            .await
            .unwrap()
            .allocated
            .is_empty()
    );
    let refused = rig.server.refusal().unwrap();
    assert!(refused.contains("raic cloud adopt c"), "{refused}");
    rig.server.adopt().await.unwrap();
    rig.allocate(index(3), &[0], 10).await.unwrap();
    rig.collect_to_the_end().await;
    rig.collect_to_the_end().await;
    assert_eq!(
        rig.used().await.0,
        0,
        "what had no lease has gone, and that counts now"
    );
}

/// An old host that goes on after its container was taken over writes and deletes nothing.
#[tokio::test]
async fn an_old_host_stops_when_its_container_was_taken_over() {
    let mut rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    rig.store(index(1), 0, b"content").await;
    let old = open(
        &rig.folder,
        &rig.clock,
        &rig.cloud,
        &rig.settings,
        (rig.spool, 0),
    )
    .await;
    rig.lose_database().await;
    rig.walk().await;
    rig.clock.advance(32 * DAY);
    rig.server
        .renew(AccountId::ANONYMOUS, index(1), renew(1))
        .await
        .unwrap();
    // In the old host's database the lease has ended.
    for _ in 0..3 {
        old.collect_step().await.unwrap();
        rig.clock.advance(Duration::from_secs(3600));
    }
    let answer = old
        .allocate(
            AccountId::ANONYMOUS,
            index(2),
            [ShareNum(0)].into(),
            5,
            upload(),
            renew(1),
        )
        .await
        .unwrap();
    assert!(answer.allocated.is_empty());
    let refused = old.refusal().unwrap();
    assert!(refused.contains("epoch 2"), "{refused}");
    assert_eq!(rig.read(index(1), 0).await.unwrap(), b"content");
    rig.store(index(2), 0, b"other").await;
}

/// A reload ends the collector, and Ctrl-C ends a request to collect. Once the deletions that their
/// step had claimed then waited for an hour.
#[tokio::test]
async fn a_step_of_collection_whose_caller_goes_away_goes_on_to_its_end() {
    let rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    rig.store(index(1), 0, b"content").await;
    rig.clock.advance(32 * DAY);
    rig.server.collect_step().await.unwrap();
    rig.cloud.set(FaultPlan {
        latency: Duration::from_millis(100)..Duration::from_millis(101),
        ..FaultPlan::default()
    });
    // Once the step has claimed, it waits for the cloud.
    for _ in 0..3 {
        let step = rig.server.collect_step();
        let _ = tokio::time::timeout(Duration::from_millis(150), step).await;
    }
    rig.cloud.set(FaultPlan::default());
    rig.collect().await;
    assert_eq!(rig.objects(), Vec::<String>::new());
}

/// A put that ran through a reload once left a share on a cloud that the reload removed, and the
/// next start was refused.
#[tokio::test]
async fn a_retired_server_gets_no_share_until_the_retirement_is_taken_back() {
    let rig = Rig::new().await;
    let leasedb = rig.server.leasedb().clone();
    let retired = leasedb.retire_others([].into()).await.unwrap().unwrap();
    let refused = rig.allocate(index(1), &[0], 7).await;
    assert!(matches!(refused, Err(StorageError::Retired(name)) if name == "c"));
    drop(retired);
    rig.allocate(index(1), &[0], 7).await.unwrap();
    // An upload under way keeps the server from being retired.
    let used = leasedb.retire_others([].into()).await.unwrap().unwrap_err();
    assert_eq!((&*used[0].name, used[0].shares), ("c", 1));
    let kept = leasedb.retire_others(["c".to_owned()].into()).await;
    kept.unwrap().unwrap().keep();
    rig.write(index(1), 0, 0, b"content").await.unwrap();
}

#[tokio::test]
async fn nobody_stores_or_changes_anything_in_the_name_of_a_reserved_account() {
    let leasedb = Rig::new().await.server.leasedb().clone();
    for own in ["system", "starter"] {
        let refused = leasedb.storing_account(own).await;
        assert!(matches!(refused, Err(StorageError::OwnAccount(name)) if name == own));
        let refused = leasedb.change_account(own, AccountChange::default()).await;
        assert!(matches!(refused, Err(StorageError::OwnAccount(name)) if name == own));
    }
    leasedb.storing_account("anonymous").await.unwrap();
}

#[tokio::test]
async fn quotas_hold_at_allocation_and_usage_is_exact_after_a_crash() {
    let mut rig = Rig::new().await;
    let leasedb = rig.server.leasedb().clone();
    let change = AccountChange {
        hard_quota: Some(Some(10_000)),
        soft_quota: Some(Some(5_000)),
        ..AccountChange::default()
    };
    let alice = leasedb.create_account("alice", change).await.unwrap();
    assert!(matches!(
        leasedb.create_account("alice", change).await,
        Err(StorageError::AccountExists(_))
    ));
    assert!(matches!(
        leasedb.create_account("a b", change).await,
        Err(StorageError::AccountName(_))
    ));
    let allocate = async |server: &Arc<StorageServer>, i, size| {
        server
            .allocate(
                alice.id,
                index(i),
                [ShareNum(0)].into(),
                size,
                upload(),
                renew(3),
            )
            .await
    };
    allocate(&rig.server, 1, 6_000).await.unwrap();
    let refused = allocate(&rig.server, 2, 4_000).await.unwrap_err();
    assert!(
        matches!(
            refused,
            StorageError::QuotaExceeded {
                quota: 10_000,
                used: 6_012,
                ..
            }
        ),
        "{refused}"
    );
    allocate(&rig.server, 2, 3_000).await.unwrap();
    rig.write(index(2), 0, 0, &content(3_000)).await.unwrap();
    rig.restart().await;
    let used = async |leasedb: &LeaseDb| {
        let usage = leasedb.usage_by_account().await.unwrap();
        usage
            .iter()
            .find(|u| u.name == "alice")
            .map(|u| (u.shares, u.bytes))
            .unwrap()
    };
    assert_eq!(
        used(rig.server.leasedb()).await,
        (2, 6_012 + 3_012),
        "what is reserved counts"
    );
    rig.clock.advance(DAY);
    rig.collect().await;
    assert_eq!(
        used(rig.server.leasedb()).await,
        (1, 3_012),
        "what was not carried on does not"
    );
    // The account pays for the bytes that a mutable share grows by.
    let vectors = |size: usize| {
        let writes = vec![(0, Bytes::from(content(size)))];
        [(
            ShareNum(0),
            TestWrite {
                writes,
                ..TestWrite::default()
            },
        )]
        .into()
    };
    let server = &rig.server;
    server
        .read_test_write(
            alice.id,
            index(9),
            enabler(b"e"),
            renew(3),
            vectors(5_000),
            &[],
        )
        .await
        .unwrap();
    assert_eq!(used(server.leasedb()).await, (2, 8_012));
    let refused = server
        .read_test_write(
            alice.id,
            index(9),
            enabler(b"e"),
            renew(3),
            vectors(8_000),
            &[],
        )
        .await
        .unwrap_err();
    assert!(
        matches!(refused, StorageError::QuotaExceeded { .. }),
        "{refused}"
    );
    assert_eq!(used(server.leasedb()).await, (2, 8_012));
}

#[tokio::test]
async fn usage_is_written_down_once_a_day_and_never_changed() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(100)).await;
    let leasedb = rig.server.leasedb().clone();
    assert!(leasedb.record_day().await.unwrap() && !leasedb.record_day().await.unwrap());
    rig.store(index(2), 0, &content(100)).await;
    rig.clock.advance(DAY);
    assert!(leasedb.record_day().await.unwrap());
    let days = leasedb.usage_days(None, 10).await.unwrap();
    assert_eq!(
        days.iter()
            .map(|d| (d.account.as_str(), d.shares, d.bytes))
            .collect::<Vec<_>>(),
        [("anonymous", 2, 224), ("anonymous", 1, 112)]
    );
    // A page has whole days, at least one.
    let page = leasedb.usage_days(None, 1).await.unwrap();
    assert_eq!(page, days[..1]);
    assert_eq!(
        leasedb
            .usage_days(Some(page[0].day.clone()), 1)
            .await
            .unwrap(),
        days[1..]
    );
    assert_eq!(
        leasedb
            .usage_days(Some(days[1].day.clone()), 1)
            .await
            .unwrap(),
        []
    );
    let changed = leasedb.database().write(|tx| {
        tx.execute("UPDATE usage_history SET bytes = 0", [])?;
        Ok::<_, StorageError>(())
    });
    assert!(
        changed
            .await
            .unwrap_err()
            .to_string()
            .contains("append-only")
    );
}

#[tokio::test]
async fn a_slot_is_tested_read_and_written_as_one() {
    let rig = Rig::new().await;
    let run = async |enabler: WriteEnabler,
                     vectors: Vec<(u8, TestWrite)>,
                     reads: &[std::ops::Range<u64>]| {
        let vectors = vectors
            .into_iter()
            .map(|(share, v)| (ShareNum(share), v))
            .collect();
        rig.server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(1),
                enabler,
                renew(1),
                vectors,
                reads,
            )
            .await
    };
    let write = |at, bytes: &'static [u8]| TestWrite {
        writes: vec![(at, Bytes::from_static(bytes))],
        ..TestWrite::default()
    };
    let empty = |mut vector: TestWrite| {
        vector.tests = vec![(0, 1, Bytes::new())];
        vector
    };
    assert!(
        run(
            enabler(b"e"),
            vec![(0, empty(write(0, b"zero"))), (1, empty(write(3, b"one")))],
            &[]
        )
        .await
        .unwrap()
        .is_written
    );
    // A share that exists is not empty. So nothing is written, and the present bytes are read.
    let refused = run(
        enabler(b"e"),
        vec![(0, empty(write(0, b"X"))), (2, write(0, b"two"))],
        &[0..10, 1..3],
    )
    .await
    .unwrap();
    assert!(!refused.is_written);
    let data = |share: u8| {
        refused.data[&ShareNum(share)]
            .iter()
            .map(|b| b.to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(refused.data.len(), 2);
    assert_eq!(
        (data(0), data(1)),
        (
            vec![b"zero".to_vec(), b"er".to_vec()],
            vec![b"\0\0\0one".to_vec(), b"\0\0".to_vec()]
        )
    );
    let other = run(enabler(b"other"), vec![(0, write(0, b"X"))], &[])
        .await
        .unwrap_err();
    assert!(
        matches!(other, StorageError::WriteEnabler { .. }),
        "{other}"
    );
    // Reads return the bytes from before the write. A length cuts the share, and 0 deletes it.
    let cut = TestWrite {
        new_length: Some(2),
        tests: vec![(0, 4, Bytes::from_static(b"zero"))],
        ..TestWrite::default()
    };
    let delete = TestWrite {
        new_length: Some(0),
        ..TestWrite::default()
    };
    let done = run(enabler(b"e"), vec![(0, cut), (1, delete)], &[0..10])
        .await
        .unwrap();
    assert!(done.is_written && done.data[&ShareNum(0)] == [Bytes::from_static(b"zero")]);
    let now = run(enabler(b"e"), vec![], &[0..10]).await.unwrap().data;
    assert_eq!(now, [(ShareNum(0), vec![Bytes::from_static(b"ze")])].into());
    // The name of the deleted share is refused until its remains have gone.
    let taken = run(enabler(b"e"), vec![(1, write(0, b"new"))], &[])
        .await
        .unwrap_err();
    assert!(matches!(taken, StorageError::Taken { .. }), "{taken}");
    rig.clock.advance(Duration::from_secs(16 * 60));
    for _ in 0..3 {
        rig.collect().await;
        rig.clock.advance(Duration::from_secs(60));
    }
    run(enabler(b"e"), vec![(1, write(0, b"new"))], &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn mutable_shares_come_back_after_the_database_was_lost() {
    let mut rig = Rig::new().await;
    let write = |bytes: &'static [u8]| -> std::collections::BTreeMap<_, _> {
        [(
            ShareNum(0),
            TestWrite {
                writes: vec![(0, Bytes::from_static(bytes))],
                ..TestWrite::default()
            },
        )]
        .into()
    };
    let run = async |server: &Arc<StorageServer>, vectors| {
        server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(1),
                enabler(b"e"),
                renew(1),
                vectors,
                &[0..100],
            )
            .await
    };
    run(&rig.server, write(b"first")).await.unwrap();
    run(&rig.server, write(b"second")).await.unwrap();
    rig.lose_database().await;
    assert_eq!(loaded(&rig.walk().await.discovered), 1);
    let read = run(&rig.server, Default::default()).await.unwrap().data;
    assert_eq!(read[&ShareNum(0)], [Bytes::from_static(b"second")]);
    for _ in 0..2 {
        // The previous host may still delete the share that this one has found. A listing after
        // that time decides.
        assert!(matches!(
            run(&rig.server, write(b"third")).await,
            Err(StorageError::ReadOnly { .. })
        ));
        rig.walk().await;
    }
    rig.clock.advance(Duration::from_secs(16 * 60));
    rig.walk().await;
    assert!(run(&rig.server, write(b"third")).await.unwrap().is_written);
}

/// A share once went back to an older version. The database was lost, one listing showed the newest
/// version, and the next listing left it out.
#[tokio::test]
async fn a_version_that_one_listing_showed_is_not_taken_back_by_another() {
    let mut rig = Rig::new().await;
    let write = async |rig: &Rig, at: u64, bytes: Vec<u8>| {
        let write = TestWrite {
            writes: vec![(at, bytes.into())],
            ..TestWrite::default()
        };
        let done = rig.server.read_test_write(
            AccountId::ANONYMOUS,
            index(1),
            enabler(b"e"),
            renew(1),
            [(ShareNum(0), write)].into(),
            &[],
        );
        assert!(done.await.unwrap().is_written);
    };
    write(&rig, 0, vec![1; 1000]).await;
    let before = rig.objects();
    write(&rig, 10, vec![2; 5]).await;
    let newest = rig
        .objects()
        .into_iter()
        .find(|key| key.contains(".v.") && !before.contains(key))
        .unwrap();
    let generation = newest.rsplit('.').next().unwrap().to_owned();
    rig.lose_database().await;
    rig.walk().await;
    let read = async |rig: &Rig| {
        let reads = &[8..17];
        let read = rig.server.read_test_write(
            AccountId::ANONYMOUS,
            index(1),
            enabler(b"e"),
            renew(1),
            [].into(),
            reads,
        );
        read.await.unwrap().data[&ShareNum(0)][0].to_vec()
    };
    for omit_named in [generation, String::new()] {
        rig.cloud.set(FaultPlan {
            omit_named,
            ..FaultPlan::default()
        });
        for _ in 0..3 {
            rig.walk().await;
            assert_eq!(read(&rig).await, [1, 1, 2, 2, 2, 2, 2, 1, 1]);
            rig.collect_to_the_end().await;
        }
    }
}

/// The previous host removed a deletion mark after one listing had shown it. Once such a share
/// stayed GOING for ever.
#[tokio::test]
async fn a_slot_whose_mark_has_gone_goes_too() {
    let mut rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    let write = |vector| [(ShareNum(0), vector)].into();
    let run = async |rig: &Rig, vectors| {
        rig.server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(1),
                enabler(b"e"),
                renew(1),
                vectors,
                &[],
            )
            .await
    };
    let bytes = TestWrite {
        writes: vec![(0, Bytes::from_static(b"slot"))],
        ..TestWrite::default()
    };
    run(&rig, write(bytes)).await.unwrap();
    rig.lose_database().await;
    rig.walk().await;
    // The share is found as it was, and then its leases end.
    let gone: Vec<String> = rig.objects();
    for _ in 0..33 {
        rig.clock.advance(DAY);
        rig.server.collect_step().await.unwrap();
    }
    assert_eq!(rig.used().await.0, 1, "doubtful, it waits for a listing");
    for key in gone {
        rig.cloud
            .inner()
            .delete(&ObjectKey::new(key).unwrap(), None)
            .await
            .unwrap();
    }
    rig.walk().await;
    rig.collect_to_the_end().await;
    assert_eq!(rig.used().await, (0, 0));
}

/// A chunk of the previous host may land after the container was taken over. So no new share gets
/// its name meanwhile.
#[tokio::test]
async fn after_a_take_over_no_name_is_used_that_an_older_request_may_still_take() {
    let mut rig = Rig::new().await;
    rig.allocate(index(1), &[0], 500).await.unwrap();
    rig.cloud.set(FaultPlan {
        late: 1.0,
        ..FaultPlan::default()
    });
    assert!(rig.write(index(1), 0, 0, &[7; 500]).await.is_err());
    rig.cloud.set(FaultPlan::default());
    rig.lose_database().await;
    rig.walk().await;
    let answer = rig.allocate(index(1), &[0], 100).await.unwrap();
    assert_eq!(
        answer,
        Allocated::default(),
        "neither there nor to be written"
    );
    while rig.cloud.land().await {}
    rig.clock.advance(Duration::from_secs(16 * 60));
    rig.walk().await;
    let answer = rig.allocate(index(1), &[0], 100).await.unwrap();
    assert_eq!(answer.already_have, [ShareNum(0)].into(), "it landed whole");
    rig.store(index(2), 0, b"a new one").await;
}

/// A chunk that an older, longer upload left beyond a share's end does not count against the share,
/// and is removed.
#[tokio::test]
async fn a_leftover_beyond_a_shares_end_neither_tears_it_nor_stays() {
    let mut rig = Rig::new().await;
    rig.store(index(1), 0, &content(2500)).await;
    let whole = rig.objects();
    let key = |chunk: u64| ObjectKey::new(format!("{}.{chunk}", whole[0])).unwrap();
    for database_is_lost in [false, true] {
        for chunk in [3, 7] {
            let left = Payload::from(vec![9; CHUNK]);
            rig.cloud
                .inner()
                .put(&key(chunk), left, WriteMode::CreateOnly)
                .await
                .unwrap();
        }
        if database_is_lost {
            rig.lose_database().await;
            assert_eq!(loaded(&rig.walk().await.discovered), 1);
            assert_eq!(rig.used().await, (1, 2500 + 12));
            assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
        }
        let progress = rig.walk().await;
        assert_eq!((loaded(&progress.torn), loaded(&progress.vanished)), (0, 0));
        assert_eq!(
            rig.objects().len(),
            whole.len() + 2,
            "one listing destroys nothing"
        );
        rig.clock.advance(2 * DAY);
        rig.walk().await;
        assert_eq!(rig.objects(), whole, "{database_is_lost}");
        assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
    }
}

/// The objects that an upload sent are removed by their names, whatever the listing leaves out.
#[tokio::test]
async fn what_an_upload_sent_goes_though_no_listing_shows_it() {
    let mut rig = Rig::new().await;
    rig.allocate(index(1), &[0], 5000).await.unwrap();
    rig.write(index(1), 0, 0, &content(2000)).await.unwrap();
    // The put of the third chunk is given up, and lands after everything was deleted.
    rig.cloud.set(FaultPlan {
        late: 1.0,
        ..FaultPlan::default()
    });
    rig.write(index(1), 0, 2000, &content(1000)).await.unwrap();
    rig.cloud.set(FaultPlan {
        omit_listed: 1.0,
        ..FaultPlan::default()
    });
    assert_eq!(rig.objects().len(), 2);
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
    rig.collect().await;
    assert_eq!(rig.objects(), Vec::<String>::new());
    assert!(rig.cloud.land().await);
    assert_eq!(rig.objects().len(), 1);
    rig.restart().await;
    rig.collect_to_the_end().await;
    assert_eq!(rig.objects(), Vec::<String>::new());
    assert_eq!(
        std::fs::read_dir(rig.folder.path().join("spool"))
            .unwrap()
            .count(),
        0
    );
}

/// A lease ends while its share is being written. The acknowledged write is there afterwards.
#[tokio::test]
async fn a_mutable_share_is_leased_from_the_beginning_of_a_write() {
    let rig = Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await;
    let run = async |secret: &[u8], bytes: &'static [u8]| {
        let write = TestWrite {
            writes: vec![(0, Bytes::from_static(bytes))],
            ..TestWrite::default()
        };
        let vectors = [(ShareNum(0), write)].into();
        rig.server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(1),
                enabler(secret),
                renew(1),
                vectors,
                &[],
            )
            .await
    };
    run(b"e", b"first").await.unwrap();
    rig.clock.advance(32 * DAY);
    // The cloud is slow, so a step of collection runs in the middle of the write.
    rig.cloud.set(FaultPlan {
        latency: Duration::from_millis(20)..Duration::from_millis(40),
        ..FaultPlan::default()
    });
    let collecting = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.server.collect_step().await.unwrap();
        }
    };
    let (written, ()) = futures::join!(run(b"e", b"other"), collecting);
    rig.cloud.set(FaultPlan::default());
    rig.collect_to_the_end().await;
    let read = rig
        .server
        .read_mutable(
            ShareId {
                index: index(1),
                share: ShareNum(0),
            },
            0..100,
        )
        .await;
    match written {
        Ok(done) => {
            assert!(done.is_written);
            assert_eq!(
                read.unwrap()
                    .content
                    .try_collect::<Vec<_>>()
                    .await
                    .unwrap()
                    .concat(),
                b"other"
            );
        }
        // The share was GOING before the write began.
        Err(e) => assert!(matches!(e, StorageError::Taken { .. }), "{e}"),
    }
}

/// A restored backup knows less than the containers. Nothing that was acknowledged since is
/// destroyed.
#[tokio::test]
async fn a_restored_backup_destroys_nothing_that_came_after_it() {
    let run = async |server: &Arc<StorageServer>, bytes: &'static [u8]| {
        let write = TestWrite {
            writes: vec![(0, Bytes::from_static(bytes))],
            ..TestWrite::default()
        };
        let vectors = [(ShareNum(0), write)].into();
        server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(1),
                enabler(b"e"),
                renew(1),
                vectors,
                &[],
            )
            .await
    };
    // Once the operator rebuilds the leases with `--restored-backup`, and once not.
    for is_rebuilt in [true, false] {
        let mut rig = Rig::with(ServerSettings {
            expiry: Expiry::Age,
            ..ServerSettings::default()
        })
        .await;
        run(&rig.server, b"before").await.unwrap();
        rig.allocate(index(2), &[0], 2500).await.unwrap();
        let backup = rig.folder.path().join("db1").to_str().unwrap().to_owned();
        let back_up = rig.server.leasedb().database().read(move |c| {
            c.execute_batch("ROLLBACK")?;
            c.execute("VACUUM INTO ?1", [backup])?;
            c.execute_batch("BEGIN")?;
            Ok::<_, raic_storage::DatabaseError>(())
        });
        back_up.await.unwrap();
        run(&rig.server, b"after!").await.unwrap();
        rig.write(index(2), 0, 0, &content(2500)).await.unwrap();
        rig.collect_to_the_end().await;
        rig.databases = 1;
        rig.restart().await;
        if is_rebuilt {
            rig.server.leasedb().restored().await.unwrap();
            rig.restart().await;
            rig.server.take_over().await.unwrap();
        }
        let before = rig.objects();
        for _ in 0..2 {
            rig.walk().await;
            rig.clock.advance(Duration::from_secs(16 * 60));
        }
        if is_rebuilt {
            let read = rig
                .server
                .read_mutable(
                    ShareId {
                        index: index(1),
                        share: ShareNum(0),
                    },
                    0..100,
                )
                .await
                .unwrap();
            assert_eq!(
                read.content.try_collect::<Vec<_>>().await.unwrap().concat(),
                b"after!"
            );
            assert_eq!(rig.read(index(2), 0).await.unwrap(), content(2500));
            rig.collect_to_the_end().await;
            assert_eq!(rig.objects(), before);
            assert!(run(&rig.server, b"again").await.unwrap().is_written);
        } else {
            for _ in 0..3 {
                rig.walk().await;
                rig.collect_to_the_end().await;
            }
            let versions =
                |objects: &[String]| objects.iter().filter(|key| key.contains(".v.")).count();
            assert_eq!(versions(&rig.objects()), versions(&before));
        }
    }
}

/// One bad object does not keep a walk from other shares.
#[tokio::test]
async fn a_share_that_cannot_be_examined_holds_up_no_other() {
    let mut rig = Rig::new().await;
    let write = TestWrite {
        writes: vec![(0, Bytes::from_static(b"content"))],
        ..TestWrite::default()
    };
    let vectors = [(ShareNum(0), write)].into();
    rig.server
        .read_test_write(
            AccountId::ANONYMOUS,
            index(1),
            enabler(b"e"),
            renew(1),
            vectors,
            &[],
        )
        .await
        .unwrap();
    rig.store(index(2), 0, &content(2500)).await;
    let commit = rig
        .cloud
        .inner()
        .keys()
        .into_iter()
        .find(|k| k.as_str().contains(".v."))
        .unwrap();
    let large = Payload::from(vec![1; 2 << 20]);
    rig.cloud
        .inner()
        .put(&commit, large, WriteMode::Overwrite)
        .await
        .unwrap();
    // Another object has an unknown format.
    let unknown = ObjectKey::new(format!(
        "shares/{}/{}/0",
        &index(3).to_string()[..2],
        index(3)
    ))
    .unwrap();
    let newer = Payload::from(b"RAICSHR9 and what a newer raic writes".to_vec());
    rig.cloud
        .inner()
        .put(&unknown, newer, WriteMode::CreateOnly)
        .await
        .unwrap();
    rig.lose_database().await;
    for _ in 0..3 {
        let progress = rig.walk().await;
        assert_eq!(
            (
                loaded(&progress.failed),
                loaded(&progress.torn),
                loaded(&progress.reaped)
            ),
            (1, 1, 0)
        );
        rig.clock.advance(3 * DAY);
    }
    assert_eq!(rig.shares(index(2)).await, [0]);
    rig.collect_to_the_end().await;
    assert!(
        rig.cloud.inner().keys().contains(&unknown),
        "what is not understood is not destroyed"
    );
}

/// A share whose objects have fewer bytes than were stored is marked as lost by two passes. Its row
/// keeps the stored length.
#[tokio::test]
async fn a_share_that_was_cut_short_is_lost_by_two_passes() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(2500)).await;
    let last = rig
        .cloud
        .inner()
        .keys()
        .into_iter()
        .find(|k| k.as_str().ends_with("/0.2"))
        .unwrap();
    rig.cloud
        .inner()
        .put(&last, Payload::from(vec![1; 5]), WriteMode::Overwrite)
        .await
        .unwrap();
    rig.walk().await;
    assert_eq!(rig.used().await, (1, 2512));
    rig.clock.advance(DAY + DAY);
    assert_eq!(loaded(&rig.walk().await.lost), 1);
    assert_eq!(rig.used().await, (1, 2512));
}

/// Objects of an older host are removed, also those that land after the container was taken over.
/// Known objects stay.
#[tokio::test]
async fn strays_of_a_mutable_share_go_and_its_version_stays() {
    let mut rig = Rig::new().await;
    let run = async |server: &Arc<StorageServer>, bytes: &'static [u8]| {
        let write = TestWrite {
            writes: vec![(0, Bytes::from_static(bytes))],
            ..TestWrite::default()
        };
        let vectors = [(ShareNum(0), write)].into();
        server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(1),
                enabler(b"e"),
                renew(1),
                vectors,
                &[],
            )
            .await
    };
    run(&rig.server, b"first").await.unwrap();
    // The old host writes once more. Its objects land after the new host has settled the slot.
    let old = rig.server.clone();
    let before = rig.cloud.inner().keys();
    run(&old, b"old").await.unwrap();
    let late: Vec<_> = rig
        .cloud
        .inner()
        .keys()
        .into_iter()
        .filter(|key| !before.contains(key))
        .collect();
    let mut bodies = Vec::new();
    for key in &late {
        let body = rig.cloud.inner().get(key, None, None).await.unwrap().body;
        bodies.push(raic_cloud::collect_body("c", body, 10_000).await.unwrap());
        rig.cloud.inner().delete(key, None).await.unwrap();
    }
    rig.lose_database().await;
    rig.walk().await;
    rig.clock.advance(Duration::from_secs(16 * 60));
    rig.walk().await;
    run(&rig.server, b"new").await.unwrap();
    for (key, body) in late.iter().zip(bodies) {
        rig.cloud
            .inner()
            .put(key, body.into(), WriteMode::CreateOnly)
            .await
            .unwrap();
    }
    for _ in 0..3 {
        rig.walk().await;
        rig.collect_to_the_end().await;
    }
    let objects = rig.objects();
    assert!(
        objects.len() == 2 && late.iter().all(|key| !objects.contains(&key.to_string())),
        "{objects:?}"
    );
    let read = rig
        .server
        .read_mutable(
            ShareId {
                index: index(1),
                share: ShareNum(0),
            },
            0..100,
        )
        .await
        .unwrap();
    assert_eq!(
        read.content.try_collect::<Vec<_>>().await.unwrap().concat(),
        b"newst"
    );
}

#[tokio::test]
async fn a_mutable_share_without_a_whole_version_is_destroyed_by_two_passes_and_a_late_chunk_saves_it()
 {
    let mut rig = Rig::new().await;
    for i in [1, 2] {
        let write = TestWrite {
            writes: vec![(0, Bytes::from_static(b"content"))],
            ..TestWrite::default()
        };
        let vectors = [(ShareNum(0), write)].into();
        let done = rig
            .server
            .read_test_write(
                AccountId::ANONYMOUS,
                index(i),
                enabler(b"e"),
                renew(1),
                vectors,
                &[],
            )
            .await;
        assert!(done.unwrap().is_written);
    }
    let is_chunk =
        |key: &ObjectKey| key.as_str().starts_with("shares/") && !key.as_str().contains(".v.");
    let chunks: Vec<_> = rig
        .cloud
        .inner()
        .keys()
        .into_iter()
        .filter(is_chunk)
        .collect();
    let body = rig
        .cloud
        .inner()
        .get(&chunks[1], None, None)
        .await
        .unwrap()
        .body;
    let saved = raic_cloud::collect_body("c", body, 10_000).await.unwrap();
    for key in &chunks {
        rig.cloud.inner().delete(key, None).await.unwrap();
    }
    rig.lose_database().await;
    let progress = rig.walk().await;
    assert_eq!(
        (
            loaded(&progress.torn),
            loaded(&progress.reaped),
            loaded(&progress.discovered)
        ),
        (2, 0, 0)
    );
    rig.cloud
        .inner()
        .put(&chunks[1], saved.into(), WriteMode::CreateOnly)
        .await
        .unwrap();
    let progress = rig.walk().await;
    assert_eq!(
        (loaded(&progress.reaped), loaded(&progress.discovered)),
        (0, 1),
        "not a day apart"
    );
    rig.collect_to_the_end().await;
    assert_eq!(rig.objects().len(), 3);
    rig.clock.advance(3 * DAY);
    assert_eq!(loaded(&rig.walk().await.reaped), 1);
    rig.collect_to_the_end().await;
    let objects = rig.objects();
    let is_second = |key: &String| key.contains(&index(2).to_string());
    assert!(
        objects.len() == 2 && objects.iter().all(is_second),
        "{objects:?}"
    );
    let read = rig
        .server
        .read_mutable(
            ShareId {
                index: index(2),
                share: ShareNum(0),
            },
            0..100,
        )
        .await
        .unwrap();
    assert_eq!(
        read.content.try_collect::<Vec<_>>().await.unwrap().concat(),
        b"content"
    );
}

#[test]
fn prefixes_cover_all_storage_indexes() {
    assert_eq!(
        IndexPrefix::all_from(0).count(),
        usize::from(IndexPrefix::COUNT)
    );
}

#[tokio::test]
async fn a_draining_server_renews_leases_and_takes_no_new_shares() {
    let rig = Rig::new().await;
    rig.store(index(1), 0, &content(100)).await;
    let leasedb = rig.server.leasedb();
    leasedb.begin_draining(rig.server.name()).await.unwrap();
    let offered = rig.allocate(index(1), &[0, 1], 100).await.unwrap();
    assert_eq!(offered.already_have.len(), 1);
    assert!(offered.allocated.is_empty());
    let condition = rig.server.condition().await.unwrap();
    assert!(
        !condition.stores && condition.fault.is_none(),
        "it is wanted so"
    );
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(100));
    leasedb.end_draining(rig.server.name()).await.unwrap();
    let offered = rig.allocate(index(1), &[1], 100).await.unwrap();
    assert_eq!(offered.allocated.len(), 1);
}
