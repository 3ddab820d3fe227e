//! Rules of the storage protocol that the reference's tests do not have, and what the reference
//! does wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::Method;
use raic_cloud::{FaultPlan, Faulty, MemoryCloud};
use raic_storage::{AccountChange, DiskBackend};
use raic_tests::tahoe_client::{
    TahoeConnection, TahoeRequest, advisory, allocation, authorization, slot_write, tls,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, is, over, part};

const INDEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa";

async fn on_disk() -> Rig {
    Rig::new(|folder, _, _| Arc::new(DiskBackend::open("cloud", folder).unwrap())).await
}

fn get(path: &str) -> TahoeRequest {
    TahoeRequest::new(Method::GET, &format!("/storage/v1/{path}"))
}

fn post(path: &str) -> TahoeRequest {
    TahoeRequest::new(Method::POST, &format!("/storage/v1/{path}"))
}

fn allocate(index: &str, shares: &[u8], size: u64) -> TahoeRequest {
    let request = post(&format!("immutable/{index}")).lease(1).upload(1);
    request.cbor(allocation(shares, size))
}

/// Stores a share, whole.
async fn store(client: &mut TahoeConnection, index: &str, content: &[u8]) {
    let size = content.len() as u64;
    is(client.send(allocate(index, &[0], size)).await, 200);
    is(client.send(part(index, 0, content).upload(1)).await, 201);
}

/// What the version says of a number.
async fn offered(client: &mut TahoeConnection, key: &str) -> u64 {
    let version = is(client.send(get("version")).await, 200);
    let at = version
        .windows(key.len())
        .position(|part| part == key.as_bytes())
        .unwrap();
    let value = &version[at + key.len()..];
    match value[0] {
        0x1b => u64::from_be_bytes(value[1..9].try_into().unwrap()),
        0x1a => u64::from(u32::from_be_bytes(value[1..5].try_into().unwrap())),
        0x19 => u64::from(u16::from_be_bytes(value[1..3].try_into().unwrap())),
        small => u64::from(small),
    }
}

/// The reference decides about the answer's type after it has done the work.
#[tokio::test]
async fn a_request_that_is_refused_has_done_nothing() {
    let rig = on_disk().await;
    let mut client = rig.client().await;
    let usage = async || rig.server.leasedb().usage_by_server().await.unwrap()[0].shares;
    let html = allocate(INDEX, &[0], 10).header("accept", "text/html");
    is(client.send(html).await, 406);
    let text = post(&format!("immutable/{INDEX}")).lease(1).upload(1);
    let text = text
        .header("content-type", "text/plain")
        .body(allocation(&[0], 10));
    is(client.send(text).await, 415);
    let long = post(&format!("immutable/{INDEX}")).lease(1).upload(1);
    is(client.send(long.cbor(vec![0; 8193])).await, 413);
    let more = allocate(INDEX, &[0], 10).enabler(1);
    is(client.send(more).await, 400);
    let slot = post(&format!("mutable/{INDEX}/read-test-write")).cbor(slot_write(0, b"x"));
    is(client.send(slot.lease(1)).await, 400);
    is(client.send(allocate(INDEX, &[0], 1 << 45)).await, 413);
    assert_eq!(usage().await, 0);
    // Who is not known is told nothing else, whatever is wrong beside.
    let stranger = get("version").header("authorization", "Tahoe-LAFS bm9ib2R5");
    is(
        client.send(stranger.header("accept", "text/html")).await,
        401,
    );
    let other = get("version").header("authorization", "Bearer bm9ib2R5");
    is(client.send(other).await, 401);
    is(client.send(get("nothing")).await, 404);
    let lower = INDEX.to_ascii_uppercase();
    is(
        client.send(get(&format!("immutable/{lower}/shares"))).await,
        404,
    );
    // An error has no body, so that the client can use the connection again.
    assert_eq!(client.headers["content-length"], "0");
}

/// Short bodies and writes past the allocation are internal errors in the reference.
#[tokio::test]
async fn a_write_that_does_not_fit_is_the_clients_error_and_leaves_nothing() {
    let rig = on_disk().await;
    let mut client = rig.client().await;
    is(client.send(allocate(INDEX, &[0], 10)).await, 200);
    is(client.send(part(INDEX, 8, b"abc").upload(1)).await, 400);
    let short = part(INDEX, 0, b"abc").upload(1);
    is(client.send(short.body(&b"ab"[..])).await, 400);
    let unlike = part(INDEX, 0, b"abc").upload(1).body(&b"abcdef"[..]);
    is(client.send(unlike).await, 400);
    is(client.send(part(INDEX, 0, b"abc").upload(2)).await, 401);
    let required = is(client.send(part(INDEX, 0, b"0123").upload(1)).await, 200);
    let whole = [&b"\xa1\x68required\x81\xa2\x65begin\x04\x63end\x0a"[..]].concat();
    assert_eq!(required, whole, "nothing of the refused ones counts");
    is(client.send(part(INDEX, 4, b"456789").upload(1)).await, 201);
    let read = get(&format!("immutable/{INDEX}/0"));
    assert_eq!(is(client.send(read).await, 200), "0123456789");
}

/// A client that goes away in the middle of a body leaves an upload that goes on.
#[tokio::test]
async fn a_body_that_breaks_off_leaves_an_upload_that_goes_on() {
    let rig = on_disk().await;
    let mut client = rig.client().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    is(client.send(allocate(INDEX, &[0], 3_000_000)).await, 200);
    let mut broken = tls(&rig.nurl).await;
    let secret = "upload-secret AQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let head = format!(
        "PATCH /storage/v1/immutable/{INDEX}/0 HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\
         X-Tahoe-Authorization: {secret}\r\nContent-Range: bytes 0-2999999/*\r\n\
         Content-Length: 3000000\r\n\r\n",
        authorization(&rig.nurl)
    );
    broken.write_all(head.as_bytes()).await.unwrap();
    broken.write_all(&content[..2_500_000]).await.unwrap();
    broken.flush().await.unwrap();
    drop(broken);
    // The same bytes may come again.
    let again = part(INDEX, 0, &content[..2_800_000]).upload(1);
    is(client.send(again).await, 200);
    let rest = part(INDEX, 2_800_000, &content[2_800_000..]).upload(1);
    is(client.send(rest).await, 201);
    let read = get(&format!("immutable/{INDEX}/0"));
    assert_eq!(is(client.send(read).await, 200), content);
}

/// A piece before the last may complete a share whose end came first.
#[tokio::test]
async fn a_write_may_complete_a_share_by_its_beginning_and_one_past_the_end_writes_nothing() {
    let rig = on_disk().await;
    let mut client = rig.client().await;
    let content: Vec<u8> = (0..2_500_000_u32).map(|i| (i % 249) as u8).collect();
    is(client.send(allocate(INDEX, &[0], 2_500_000)).await, 200);
    let past = [&content[..], b"x"].concat();
    is(client.send(part(INDEX, 0, &past).upload(1)).await, 400);
    let end = part(INDEX, 1_000_000, &content[1_000_000..]).upload(1);
    let required = is(client.send(end).await, 200);
    assert!(
        required.ends_with(b"\x65begin\x00\x63end\x1a\x00\x0f\x42\x40"),
        "{required:?}"
    );
    is(client.send(part(INDEX, 0, &content).upload(1)).await, 201);
    let read = get(&format!("immutable/{INDEX}/0"));
    assert_eq!(is(client.send(read).await, 200), content);
}

#[tokio::test]
async fn ranges_are_cut_at_the_end_and_beyond_it_nothing_is_there() {
    let rig = on_disk().await;
    let mut client = rig.client().await;
    store(&mut client, INDEX, b"0123456789").await;
    let read = |range: &str| get(&format!("immutable/{INDEX}/0")).header("range", range);
    assert_eq!(is(client.send(read("bytes=8-100")).await, 206), "89");
    assert_eq!(client.headers["content-range"], "bytes 8-9/*");
    assert_eq!(client.headers["content-type"], "application/octet-stream");
    assert_eq!(client.headers["content-length"], "2");
    is(client.send(read("bytes=10-20")).await, 204);
    is(client.send(read("bytes=10-")).await, 416);
    let missing = get(&format!("immutable/{INDEX}/1")).header("range", "bytes=5-");
    is(client.send(missing).await, 404);
    // Internal errors in the reference: each kind asked for under the other.
    is(client.send(get(&format!("mutable/{INDEX}/0"))).await, 404);
    let slot = post(&format!("mutable/{INDEX}/read-test-write")).cbor(slot_write(1, b"x"));
    is(client.send(slot.lease(1).enabler(1)).await, 409);
}

/// Clients ask every second with a patience of five, and take a server that is late for dead.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_never_waits_for_a_cloud_and_tells_when_nothing_can_be_stored() {
    let cloud = Arc::new(Faulty::new(
        MemoryCloud::new("cloud"),
        7,
        FaultPlan::default(),
    ));
    let faulty = cloud.clone();
    let rig = Rig::new(|folder, _, slots| over(faulty, folder, slots, 1 << 20)).await;
    let mut client = rig.client().await;
    assert!(offered(&mut client, "maximum-immutable-share-size").await > 1 << 40);
    store(&mut client, INDEX, b"content").await;
    cloud.set(FaultPlan {
        hang: 1.0,
        ..FaultPlan::default()
    });
    let began = Instant::now();
    for _ in 0..20 {
        offered(&mut client, "available-space").await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    // An account that may store less is offered less, on this server and in its own name.
    let leasedb = rig.server.leasedb();
    let quota = AccountChange {
        hard_quota: Some(Some(5_000)),
        ..AccountChange::default()
    };
    leasedb.create_account("alice", quota).await.unwrap();
    rig.door.accounts_changed();
    let mut alice = TahoeConnection::open(&rig.nurl_of("alice").await).await;
    assert_eq!(
        offered(&mut alice, "maximum-immutable-share-size").await,
        5_000
    );
    let disabled = AccountChange {
        is_disabled: Some(true),
        ..AccountChange::default()
    };
    leasedb.change_account("alice", disabled).await.unwrap();
    assert_eq!(offered(&mut alice, "maximum-immutable-share-size").await, 0);
}

#[tokio::test]
async fn a_cloud_that_fails_is_offered_as_one_that_takes_nothing() {
    let cloud = Arc::new(Faulty::new(
        MemoryCloud::new("cloud"),
        7,
        FaultPlan::default(),
    ));
    let faulty = cloud.clone();
    let rig = Rig::new(|folder, _, slots| over(faulty, folder, slots, 1 << 20)).await;
    cloud.set(FaultPlan {
        error: 1.0,
        ..FaultPlan::default()
    });
    let mut client = rig.client().await;
    let began = Instant::now();
    while offered(&mut client, "maximum-immutable-share-size").await > 0 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is not found out"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One secret for each account and server: what each stores is its own to pay for, and a revoked
/// secret opens nothing from then on, also on an open connection.
#[tokio::test]
async fn a_swissnum_is_an_accounts_own_and_can_be_revoked() {
    let rig = on_disk().await;
    let leasedb = rig.server.leasedb();
    leasedb
        .create_account("alice", AccountChange::default())
        .await
        .unwrap();
    let nurl = rig.nurl_of("alice").await;
    assert_ne!(nurl, rig.nurl);
    let mut alice = TahoeConnection::open(&nurl).await;
    store(&mut alice, INDEX, &[7; 1_000]).await;
    let usage = leasedb.usage_by_account().await.unwrap();
    let of = |name: &str| usage.iter().find(|line| line.name == name).unwrap().bytes;
    assert_eq!((of("alice"), of("anonymous")), (1_012, 0));
    leasedb.revoke("alice").await.unwrap();
    rig.door.accounts_changed();
    is(alice.send(get("version")).await, 401);
    let mut again = TahoeConnection::open(&rig.nurl_of("alice").await).await;
    is(again.send(get("version")).await, 200);
    is(rig.client().await.send(get("version")).await, 200);
}

/// A request to add a lease goes to every server, most of which have no such share.
#[tokio::test]
async fn leases_need_a_share_and_advisories_are_events() {
    let rig = on_disk().await;
    let mut client = rig.client().await;
    let lease = || TahoeRequest::new(Method::PUT, &format!("/storage/v1/lease/{INDEX}")).lease(9);
    is(client.send(lease()).await, 404);
    store(&mut client, INDEX, b"content").await;
    is(client.send(lease()).await, 204);
    let leases = rig
        .server
        .leasedb()
        .leases(None, None, None, 10)
        .await
        .unwrap();
    assert_eq!(leases.len(), 2);
    let report = |share: u8, reason: &str| {
        let path = format!("immutable/{INDEX}/{share}/corrupt");
        post(&path).cbor(advisory(reason))
    };
    is(client.send(report(1, "x")).await, 404);
    is(client.send(report(0, "")).await, 400);
    is(client.send(report(0, &"x".repeat(40_000))).await, 413);
    is(
        client.send(report(0, "hash \u{1b}[31m mismatch")).await,
        200,
    );
    let events = rig.server.leasedb().events(None, 10).await.unwrap();
    let text = &events.last().unwrap().text;
    assert!(text.contains(INDEX) && text.contains("mismatch"), "{text}");
}

/// Each writer of a slot proves what it saw. Of many at once exactly one wins each round.
#[tokio::test(flavor = "multi_thread")]
async fn of_writers_that_race_for_a_slot_one_wins() {
    let rig = Arc::new(on_disk().await);
    let wins = Arc::new(AtomicU64::new(0));
    let writers = (0..8_u8).map(|writer| {
        let (rig, wins) = (rig.clone(), wins.clone());
        tokio::spawn(async move {
            let mut client = rig.client().await;
            for _ in 0..10 {
                // The test: the share is empty or absent.
                let mut document = slot_write(0, &[writer + 1; 64]);
                let test = b"\x64test\x81\xa3\x66offset\x00\x64size\x01\x68specimen\x40";
                let at = document
                    .windows(6)
                    .position(|w| w == b"\x64test\x80")
                    .unwrap();
                document.splice(at..at + 6, test.iter().copied());
                let request = post(&format!("mutable/{INDEX}/read-test-write"));
                let request = request.lease(1).enabler(1).cbor(document);
                let answer = is(client.send(request).await, 200);
                let won = answer.windows(9).any(|part| part == b"\x67success\xf5");
                wins.fetch_add(u64::from(won), Ordering::SeqCst);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(wins.load(Ordering::SeqCst), 1);
    let mut client = rig.client().await;
    let read = is(client.send(get(&format!("mutable/{INDEX}/0"))).await, 200);
    assert!(
        read.len() == 64 && read.iter().all(|b| *b == read[0]),
        "{read:?}"
    );
    let other = post(&format!("mutable/{INDEX}/read-test-write"));
    let other = other.lease(1).enabler(2).cbor(slot_write(1, b"x"));
    is(client.send(other).await, 401);
}

/// After an unhappy upload a client gives up what it allocated, and tries again at once.
#[tokio::test]
async fn what_was_given_up_or_deleted_can_be_made_again_at_once() {
    let rig = on_disk().await;
    let mut client = rig.client().await;
    let other = "beaaaaaaaaaaaaaaaaaaaaaaaa";
    let all = |index: &str| allocate(index, &[0], 10);
    let fresh = is(client.send(all(INDEX)).await, 200);
    for written in [&b""[..], b"0123"] {
        if !written.is_empty() {
            is(client.send(part(INDEX, 0, written).upload(1)).await, 200);
        }
        let abort = format!("/storage/v1/immutable/{INDEX}/0/abort");
        let abort = TahoeRequest::new(Method::PUT, &abort).upload(1);
        is(client.send(abort).await, 200);
        assert_eq!(is(client.send(all(INDEX)).await, 200), fresh, "{written:?}");
    }
    let slot = |enabler: u8, document: Vec<u8>| {
        let request = post(&format!("mutable/{other}/read-test-write"));
        request.lease(1).enabler(enabler).cbor(document)
    };
    let mut delete = slot_write(0, b"");
    let null = delete.iter().rposition(|b| *b == 0xf6).unwrap();
    delete[null] = 0;
    for enabler in [1, 2, 3] {
        is(
            client.send(slot(enabler, slot_write(0, b"content"))).await,
            200,
        );
        is(
            client.send(slot(enabler + 1, slot_write(0, b"x"))).await,
            401,
        );
        is(client.send(slot(enabler, delete.clone())).await, 200);
        is(client.send(get(&format!("mutable/{other}/0"))).await, 404);
    }
    // Nobody's upload gets into a slot, where its writers would find it in the way.
    is(client.send(slot(4, slot_write(0, b"content"))).await, 200);
    let stranger = is(client.send(allocate(other, &[9], 10)).await, 200);
    let nothing = stranger
        .windows(4)
        .filter(|w| *w == b"\xd9\x01\x02\x80")
        .count();
    assert_eq!(nothing, 1, "it has share 0, and gets none: {stranger:?}");
    is(client.send(slot(4, slot_write(0, b"more"))).await, 200);
}

/// What is no TLS, or no HTTP, ends its own connection and nothing else.
#[tokio::test]
async fn garbage_ends_its_own_connection() {
    let rig = on_disk().await;
    let mut plain = tokio::net::TcpStream::connect(rig.nurl.split(['@', '/']).nth(3).unwrap())
        .await
        .unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let mut long = tls(&rig.nurl).await;
    let header = format!(
        "GET /storage/v1/version HTTP/1.1\r\nX: {}\r\n",
        "x".repeat(100_000)
    );
    let _ = long.write_all(header.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), long.read_to_end(&mut answer)).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 431"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    is(rig.client().await.send(get("version")).await, 200);
}
