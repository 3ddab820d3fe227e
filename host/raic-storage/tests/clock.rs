//! The wall clock alone ends no wait and destroys nothing (decision 0009).

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::time::Duration;

use raic_storage::{Expiry, ServerSettings, ShareId, ShareNum};
use rig::{DAY, Rig, content, index, upload};

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

async fn with_leases_that_end() -> Rig {
    Rig::with(ServerSettings {
        expiry: Expiry::Age,
        ..ServerSettings::default()
    })
    .await
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_ends_no_lease_and_one_that_comes_back_finds_all() {
    let rig = with_leases_that_end().await;
    rig.store(index(1), 0, &content(2500)).await;
    let right = rig.clock.now_ms();
    for ahead in [40 * 24 * 3600 * 1000, 10 * YEAR_MS] {
        rig.clock.set(right + ahead);
        rig.collect().await;
        rig.walk().await;
        assert!(
            rig.server
                .leasedb()
                .clock_fault()
                .unwrap()
                .contains("raic clock accept")
        );
        assert_eq!(
            rig.read(index(1), 0).await.unwrap(),
            content(2500),
            "{ahead}"
        );
    }
    rig.clock.set(right);
    rig.collect_to_the_end().await;
    assert!(rig.server.leasedb().clock_fault().is_none());
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
    // Time that passes ends the lease.
    for _ in 0..32 {
        rig.clock.advance(DAY);
        rig.collect().await;
    }
    rig.collect_to_the_end().await;
    assert!(rig.objects().is_empty());
}

/// An upload that was given up in a wrong future is deleted in time, and not ten years later.
#[tokio::test]
async fn what_waits_since_a_wrong_future_is_not_waited_for() {
    let rig = Rig::new().await;
    rig.store(index(2), 0, b"a share").await;
    rig.clock.set(rig.clock.now_ms() + 10 * YEAR_MS);
    rig.allocate(index(1), &[0], 2500).await.unwrap();
    rig.write(index(1), 0, 0, &content(1500)).await.unwrap();
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
    rig.clock.set(rig.clock.now_ms() - 10 * YEAR_MS);
    rig.collect_to_the_end().await;
    assert_eq!(rig.objects().len(), 1, "the share that is whole");
}

/// Moments that are recorded while the clock is off count as if the clock had been right: a lease
/// from 1970 would be over at once.
#[tokio::test]
async fn a_lease_that_is_given_while_the_clock_is_behind_lasts_as_long_as_any() {
    let rig = with_leases_that_end().await;
    let right = rig.clock.now_ms();
    rig.clock.set(0);
    rig.store(index(1), 0, &content(2500)).await;
    rig.clock.set(right);
    rig.collect_to_the_end().await;
    for _ in 0..29 {
        rig.clock.advance(DAY);
        rig.collect().await;
    }
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
}

/// A machine without a battery starts in 1970, and its clock is set right some minutes later.
#[tokio::test]
async fn a_clock_that_was_behind_at_the_start_is_right_again_by_itself() {
    let mut rig = with_leases_that_end().await;
    rig.store(index(1), 0, &content(2500)).await;
    rig.collect().await;
    let right = rig.clock.now_ms() + 3 * 24 * 3600 * 1000;
    rig.clock.start_anew();
    rig.clock.set(1000);
    rig.restart().await;
    rig.collect().await;
    assert!(rig.server.leasedb().clock_is_off().is_some());
    rig.store(index(2), 0, &content(100)).await;
    rig.clock.set(right);
    rig.collect().await;
    assert!(
        rig.server.leasedb().clock_is_off().is_none(),
        "as at any start after three days"
    );
    rig.collect_to_the_end().await;
    for of in [1, 2] {
        assert!(rig.read(index(of), 0).await.is_ok(), "{of}");
    }
}

#[tokio::test]
async fn a_clock_that_is_said_to_be_right_moves_what_waits_and_keeps_leases() {
    let rig = with_leases_that_end().await;
    rig.store(index(1), 0, &content(2500)).await;
    rig.allocate(index(2), &[0], 2500).await.unwrap();
    rig.write(index(2), 0, 0, &content(1500)).await.unwrap();
    let hours = 5 * 3600 * 1000;
    rig.clock.set(rig.clock.now_ms() + hours);
    rig.collect().await;
    assert_eq!(rig.server.leasedb().accept_clock().await.unwrap(), hours);
    assert!(rig.server.leasedb().clock_fault().is_none());
    // The upload has as much time left as before.
    rig.collect().await;
    rig.clock.advance(Duration::from_secs(25 * 60));
    rig.collect().await;
    assert_eq!(
        rig.write(index(2), 0, 1500, &content(2500)[1500..])
            .await
            .unwrap(),
        0
    );
    rig.collect_to_the_end().await;
    assert_eq!(rig.read(index(1), 0).await.unwrap(), content(2500));
    assert_eq!(
        rig.server.leasedb().accept_clock().await.unwrap(),
        0,
        "once more it says nothing"
    );
}

/// Small corrections, as time servers make them, need no operator's consent.
#[tokio::test]
async fn a_clock_may_be_corrected_by_minutes() {
    let rig = Rig::new().await;
    for by in [4 * 60 * 1000, -4 * 60 * 1000] {
        rig.clock.set(rig.clock.now_ms() + by);
        assert!(rig.server.leasedb().clock_fault().is_none());
        rig.clock.advance(Duration::from_secs(11 * 60));
        rig.collect().await;
    }
}
