//! `cargo xtask bench leasedb`: measures a lease renewal, a usage query and a step of collection by
//! the number of shares, and the size of the database. One run measures all sizes, in rounds that
//! take turns.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on should say where"
)]

use std::{
    env,
    path::Path,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use raic_storage::{
    AccountId, Attempt, Clock, Database, GracePeriods, LateRequests, LeaseDb, RenewSecret,
    ServerId, StorageError, StorageIndex,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rusqlite::params;

const ROUNDS: usize = 5;
const RENEWALS: u64 = 2_000;
const AT_ONCE: usize = 64;
const BATCH: u32 = 64;

struct Sized {
    shares: u64,
    leasedb: LeaseDb,
    server: ServerId,
    build: Duration,
    bytes: u64,
    renew: Vec<f64>,
    usage: Vec<f64>,
    collect: Vec<f64>,
}

/// Makes the storage index of a share from its number. The indexes are spread evenly.
fn index(number: u64) -> StorageIndex {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    StorageIndex(bytes)
}

async fn build(folder: &Path, shares: u64) -> Sized {
    let path = folder.join(format!("{shares}.db"));
    let leasedb = LeaseDb::open(
        Database::open(&path).unwrap(),
        Clock::system(),
        GracePeriods::default(),
    )
    .await
    .unwrap();
    let server = leasedb.server("one").await.unwrap();
    let began = Instant::now();
    let mut at = 0;
    while at < shares {
        let end = shares.min(at + 20_000);
        let work = leasedb.database().write(move |tx| {
            let mut share = tx.prepare_cached(
                "INSERT INTO shares(server, storage_index, share, kind, state, used_space, objects) VALUES(1, ?1, 0, 1, 1, 4096, 1)",
            )?;
            let mut lease = tx.prepare_cached("INSERT INTO leases VALUES(?1, 0, ?2, 1, ?3)")?;
            for number in at..end {
                let id = share.insert(params![index(number).0])?;
                lease.execute(params![id, [7_u8; 16], 1_000_000_000_000_i64 + number as i64])?;
            }
            Ok::<_, StorageError>(())
        });
        work.await.unwrap();
        at = end;
    }
    let build = began.elapsed();
    // The size is counted by pages, because the newest pages are still in the write-ahead log.
    let pages = leasedb.database().read(|c| {
        Ok::<_, StorageError>(c.query_row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            [],
            |r| r.get::<_, i64>(0),
        )?)
    });
    let bytes = pages.await.unwrap().unsigned_abs();
    Sized {
        shares,
        leasedb,
        server,
        build,
        bytes,
        renew: vec![],
        usage: vec![],
        collect: vec![],
    }
}

async fn round(sized: &mut Sized, dice: &mut StdRng) {
    let (leasedb, server, shares) = (&sized.leasedb, sized.server, sized.shares);
    let renew = RenewSecret::of(b"bench");
    let numbers: Vec<u64> = (0..RENEWALS)
        .map(|_| dice.random_range(0..shares))
        .collect();
    let began = Instant::now();
    stream::iter(numbers)
        .for_each_concurrent(AT_ONCE, |number| async move {
            leasedb
                .renew(server, index(number), AccountId::ANONYMOUS, renew)
                .await
                .unwrap();
        })
        .await;
    sized
        .renew
        .push(began.elapsed().as_secs_f64() * 1e6 / RENEWALS as f64);

    let began = Instant::now();
    for _ in 0..200 {
        leasedb.usage_by_account().await.unwrap();
    }
    sized
        .usage
        .push(began.elapsed().as_secs_f64() * 1e6 / 200.0);

    // Shares lose their leases, and a step collects them: condemned, claimed, gone.
    let numbers: Vec<u64> = (0..u64::from(BATCH))
        .map(|_| dice.random_range(0..shares))
        .collect();
    let release = leasedb.database().write(move |tx| {
        for number in numbers {
            tx.execute(
                "DELETE FROM leases WHERE share IN (SELECT id FROM shares WHERE server = 1 AND storage_index = ?1)",
                [index(number).0],
            )?;
        }
        Ok::<_, StorageError>(())
    });
    release.await.unwrap();
    let began = Instant::now();
    let unleased = leasedb.unleased(server, BATCH).await.unwrap();
    let count = unleased.len().max(1);
    leasedb.condemn_unleased(server, unleased).await.unwrap();
    let due = leasedb.claim_going(server, BATCH).await.unwrap();
    stream::iter(due)
        .for_each_concurrent(AT_ONCE, |going| async move {
            leasedb
                .going_tried(&going, Attempt::Deleted(LateRequests::Answered))
                .await
                .unwrap();
        })
        .await;
    sized
        .collect
        .push(began.elapsed().as_secs_f64() * 1e6 / count as f64);
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let most: u64 = env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(10_000_000);
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    let mut shares = 10_000;
    while shares <= most {
        let sized = build(folder.path(), shares).await;
        eprintln!(
            "{shares} shares: built in {:.1} s",
            sized.build.as_secs_f64()
        );
        all.push(sized);
        shares *= 10;
    }
    let mut dice = StdRng::seed_from_u64(2013);
    for _ in 0..ROUNDS {
        for sized in &mut all {
            round(sized, &mut dice).await;
        }
    }
    println!(
        "{:>10} {:>9} {:>9} {:>7} {:>11} {:>11} {:>13}",
        "shares", "build s", "MiB", "B/share", "renew us", "usage us", "collect us"
    );
    let mut json = Vec::new();
    for sized in &all {
        let (renew, usage, collect) = (
            median(&sized.renew),
            median(&sized.usage),
            median(&sized.collect),
        );
        let (build, per_share) = (sized.build.as_secs_f64(), sized.bytes / sized.shares);
        println!(
            "{:>10} {build:>9.1} {:>9} {per_share:>7} {renew:>11.1} {usage:>11.1} {collect:>13.1}",
            sized.shares,
            sized.bytes >> 20
        );
        json.push(format!(
            r#"{{"shares":{},"build_s":{build:.1},"bytes":{},"renew_us":{renew:.1},"usage_us":{usage:.1},"collect_us":{collect:.1}}}"#,
            sized.shares, sized.bytes
        ));
    }
    if let (Some(first), Some(last)) = (all.first(), all.last()) {
        let ratio = |of: fn(&Sized) -> &Vec<f64>| median(of(last)) / median(of(first));
        println!(
            "{} shares cost, of what {} cost: renew {:.2}, usage {:.2}, collect {:.2}",
            last.shares,
            first.shares,
            ratio(|s| &s.renew),
            ratio(|s| &s.usage),
            ratio(|s| &s.collect)
        );
    }
    println!(
        r#"{{"job":"leasedb","rounds":{ROUNDS},"rows":[{}]}}"#,
        json.join(",")
    );
}
