//! What every [`Cloud`] must do, as public functions of one behaviour each, in the manner of arrow
//! object_store's `integration.rs`: tests call [`all`], or one, with a cloud and a key prefix that is theirs
//! alone. Each panics with a sentence where the cloud does not conform, and removes what it stored.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};

use crate::{
    ByteRange, Cloud, CloudError, ErrorKind, ObjectInfo, ObjectKey, Payload, Result, WriteMode, collect_body,
};

/// Runs every behaviour, those of moderate size.
pub async fn all(cloud: &dyn Cloud, prefix: &str) {
    cloud.probe().await.expect("probe of a cloud that works");
    put_get_head_delete(cloud, &format!("{prefix}basic/")).await;
    sizes(cloud, &format!("{prefix}sizes/"), &[0, 1, 4095, 4096, 4097, 300_000]).await;
    ranges(cloud, &format!("{prefix}ranges/")).await;
    missing(cloud, &format!("{prefix}missing/")).await;
    overwrite(cloud, &format!("{prefix}overwrite/")).await;
    create_only(cloud, &format!("{prefix}create/")).await;
    if_match(cloud, &format!("{prefix}match/")).await;
    awkward_keys(cloud, &format!("{prefix}keys/")).await;
    delete_is_idempotent(cloud, &format!("{prefix}delete/")).await;
    listing_pages(cloud, &format!("{prefix}list/"), 30, 7).await;
    listing_matches_prefixes_exactly(cloud, &format!("{prefix}prefix/")).await;
}

fn key(prefix: &str, name: &str) -> ObjectKey {
    ObjectKey::new(format!("{prefix}{name}")).expect("conformance keys are valid")
}

/// Bytes that differ everywhere, so that a wrong offset shows.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect::<Vec<_>>().into()
}

async fn put(cloud: &dyn Cloud, key: &ObjectKey, content: impl Into<Bytes>) -> ObjectInfo {
    let content: Bytes = content.into();
    cloud
        .put(key, Payload::from(content), WriteMode::Overwrite)
        .await
        .unwrap_or_else(|e| panic!("put {key}: {e}"))
}

async fn read(cloud: &dyn Cloud, key: &ObjectKey, range: Option<ByteRange>) -> Result<Bytes> {
    let object = cloud.get(key, range, None).await?;
    collect_body(cloud.name(), object.body, 256 << 20).await
}

fn expect_kind<T: std::fmt::Debug>(result: Result<T>, kinds: &[ErrorKind], what: &str) -> CloudError {
    let error = result.expect_err(what);
    assert!(kinds.contains(&error.kind), "{what}: expected {kinds:?}, got {:?}: {error}", error.kind);
    error
}

async fn capability(cloud: &dyn Cloud, name: &str) -> Option<String> {
    let described = cloud.describe().await.expect("describe");
    described.into_iter().find(|(k, _)| k == name).map(|(_, v)| v)
}

/// What was put is what is read; head agrees; deleted is gone.
pub async fn put_get_head_delete(cloud: &dyn Cloud, prefix: &str) {
    let key = key(prefix, "object");
    let info = put(cloud, &key, pattern(1000)).await;
    assert_eq!(info.size, 1000, "put answers the size");
    let head = cloud.head(&key).await.expect("head of what was put");
    assert_eq!(head.size, 1000);
    if info.etag.is_some() {
        assert_eq!(info.etag, head.etag, "put and head name the same etag");
    }
    let object = cloud.get(&key, None, None).await.expect("get of what was put");
    assert_eq!((object.info.size, &object.info.etag), (1000, &head.etag));
    assert_eq!(collect_body(cloud.name(), object.body, 1000).await.expect("body"), pattern(1000));
    cloud.delete(&key, None).await.expect("delete");
    expect_kind(cloud.head(&key).await, &[ErrorKind::NotFound], "head after delete");
    expect_kind(read(cloud, &key, None).await, &[ErrorKind::NotFound], "get after delete");
}

/// Objects of these sizes come back bit for bit.
pub async fn sizes(cloud: &dyn Cloud, prefix: &str, sizes: &[usize]) {
    for &size in sizes {
        let key = key(prefix, &format!("s{size}"));
        put(cloud, &key, pattern(size)).await;
        assert_eq!(cloud.head(&key).await.expect("head").size, size as u64, "size of {size} bytes");
        assert!(read(cloud, &key, None).await.expect("get") == pattern(size), "content of {size} bytes");
        cloud.delete(&key, None).await.expect("delete");
    }
}

/// Ranges within, at and over the end; one that begins past it is refused.
pub async fn ranges(cloud: &dyn Cloud, prefix: &str) {
    let key = key(prefix, "object");
    let whole = pattern(10_000);
    put(cloud, &key, whole.clone()).await;
    for (offset, length) in [(0, 1), (0, 10_000), (17, 4000), (9_999, 1), (9_000, 5_000), (5, 1 << 40)] {
        let range = ByteRange::new(offset, length);
        let expected = whole.slice(offset as usize..(offset.saturating_add(length)).min(10_000) as usize);
        let object = cloud.get(&key, range, None).await.expect("ranged get");
        assert_eq!(object.info.size, 10_000, "a ranged get tells the whole object's size");
        let bytes = collect_body(cloud.name(), object.body, 10_000).await.expect("ranged body");
        assert!(bytes == expected, "range {offset}+{length}");
    }
    for offset in [10_000, 20_000] {
        let past = read(cloud, &key, ByteRange::new(offset, 10)).await;
        expect_kind(past, &[ErrorKind::RangeNotSatisfiable], "a range past the end");
    }
    cloud.delete(&key, None).await.expect("delete");
}

/// What never was is not found.
pub async fn missing(cloud: &dyn Cloud, prefix: &str) {
    let key = key(prefix, "never");
    expect_kind(cloud.head(&key).await, &[ErrorKind::NotFound], "head of nothing");
    expect_kind(read(cloud, &key, None).await, &[ErrorKind::NotFound], "get of nothing");
    expect_kind(read(cloud, &key, ByteRange::new(0, 1)).await, &[ErrorKind::NotFound], "range of nothing");
    let page = cloud.list(prefix, None, 10).await.expect("list of nothing");
    assert!(page.entries.is_empty(), "nothing is listed");
}

/// A second put replaces the first.
pub async fn overwrite(cloud: &dyn Cloud, prefix: &str) {
    let key = key(prefix, "object");
    let first = put(cloud, &key, pattern(100)).await;
    let second = put(cloud, &key, pattern(99)).await;
    if first.etag.is_some() {
        assert_ne!(first.etag, second.etag, "the etag changes with the content");
    }
    assert_eq!(read(cloud, &key, None).await.expect("get"), pattern(99));
    cloud.delete(&key, None).await.expect("delete");
}

/// A create-only put does what `describe` says of it.
pub async fn create_only(cloud: &dyn Cloud, prefix: &str) {
    let key = key(prefix, "object");
    let create = |content: Bytes| cloud.put(&key, Payload::from(content), WriteMode::CreateOnly);
    create(pattern(10)).await.expect("create-only put of a new object");
    let again = create(pattern(11)).await;
    match capability(cloud, "create-only").await.as_deref() {
        Some("native" | "emulated") => {
            expect_kind(again, &[ErrorKind::AlreadyExists], "create-only put over an object");
            assert_eq!(read(cloud, &key, None).await.expect("get"), pattern(10), "the first one stays");
        }
        Some("none") => {
            again.expect("a service without create-only overwrites");
        }
        other => panic!("describe must say create-only = native, emulated or none, not {other:?}"),
    }
    cloud.delete(&key, None).await.expect("delete");
}

/// Of writers racing to create one object exactly one wins, where `describe` says native.
pub async fn create_only_race(cloud: &dyn Cloud, prefix: &str, writers: usize) {
    if capability(cloud, "create-only").await.as_deref() != Some("native") {
        return;
    }
    let key = key(prefix, "race");
    let race = (0..writers).map(|i| cloud.put(&key, Payload::from(pattern(100 + i)), WriteMode::CreateOnly));
    let won: Vec<_> = join_all(race).await.into_iter().enumerate().filter(|(_, r)| r.is_ok()).collect();
    assert_eq!(won.len(), 1, "exactly one of {writers} creators wins");
    assert_eq!(read(cloud, &key, None).await.expect("get").len(), 100 + won[0].0);
    cloud.delete(&key, None).await.expect("delete");
}

/// Conditional gets, puts and deletes hold their condition, where `describe` says so.
pub async fn if_match(cloud: &dyn Cloud, prefix: &str) {
    let key = key(prefix, "object");
    put(cloud, &key, pattern(10)).await;
    let Some(old) = cloud.head(&key).await.expect("head").etag else { return };
    put(cloud, &key, pattern(20)).await;
    let stale = cloud.get(&key, None, Some(&old)).await;
    expect_kind(stale.map(|o| o.info), &[ErrorKind::PreconditionFailed], "get with a stale etag");
    let new = cloud.head(&key).await.expect("head").etag.expect("etag");
    cloud.get(&key, None, Some(&new)).await.expect("get with the current etag");
    if capability(cloud, "if-match").await.as_deref() == Some("native") {
        let stale = cloud.put(&key, Payload::from(pattern(30)), WriteMode::IfMatch(old)).await;
        expect_kind(stale, &[ErrorKind::PreconditionFailed], "put with a stale etag");
        assert_eq!(read(cloud, &key, None).await.expect("get"), pattern(20));
        let put = cloud.put(&key, Payload::from(pattern(30)), WriteMode::IfMatch(new)).await;
        put.expect("put with the current etag");
    }
    cloud.delete(&key, None).await.expect("delete");
}

/// Keys at both ends of the alphabet and of the length.
pub async fn awkward_keys(cloud: &dyn Cloud, prefix: &str) {
    let long = "x".repeat((crate::MAX_KEY_LEN - prefix.len()).min(200));
    let names = ["-", "0", "Z", "_", "a.b", "..a", "a..", "z/-/_/.z", "A", "a", &long];
    for name in names {
        put(cloud, &key(prefix, name), name.as_bytes().to_vec()).await;
    }
    for name in names {
        assert_eq!(read(cloud, &key(prefix, name), None).await.expect(name), name, "content of {name}");
    }
    let listed = list_all(cloud, prefix, 1000).await;
    assert_eq!(listed.len(), names.len(), "every key is listed");
    remove(cloud, listed).await;
}

/// Deleting what is gone, or never was, succeeds.
pub async fn delete_is_idempotent(cloud: &dyn Cloud, prefix: &str) {
    let key = key(prefix, "object");
    cloud.delete(&key, None).await.expect("delete of what never was");
    put(cloud, &key, pattern(1)).await;
    cloud.delete(&key, None).await.expect("delete");
    cloud.delete(&key, None).await.expect("delete of what is gone");
}

/// `count` keys by pages of `limit` are all listed, once each, by pages that are no longer than asked.
pub async fn listing_pages(cloud: &dyn Cloud, prefix: &str, count: usize, limit: u32) {
    let expected: BTreeSet<_> = (0..count).map(|i| key(prefix, &format!("{i:05}"))).collect();
    stream::iter(&expected)
        .for_each_concurrent(16, |key| async move { drop(put(cloud, key, pattern(3)).await) })
        .await;
    let listed = list_all(cloud, prefix, limit).await;
    assert_eq!(listed.len(), count, "each of {count} keys is listed once by pages of {limit}");
    assert!(listed.iter().collect::<BTreeSet<_>>() == expected.iter().collect(), "the keys are those stored");
    if capability(cloud, "ordered-list").await.as_deref() == Some("yes") {
        assert!(listed.is_sorted(), "in order, as describe says");
    }
    remove(cloud, listed).await;
}

/// A prefix is a prefix of text: share 1 is not share 10, and the empty prefix lists all.
pub async fn listing_matches_prefixes_exactly(cloud: &dyn Cloud, prefix: &str) {
    for name in ["1", "1.1", "10", "10.1", "2/1"] {
        put(cloud, &key(prefix, name), pattern(2)).await;
    }
    for (under, expected) in [("1", 4), ("1.", 1), ("10", 2), ("10.", 1), ("2/", 1), ("", 5), ("3", 0)] {
        let listed = list_all(cloud, &format!("{prefix}{under}"), 2).await;
        assert_eq!(listed.len(), expected, "keys under {under:?}");
    }
    remove(cloud, list_all(cloud, prefix, 1000).await).await;
}

/// Every key under `prefix`, by pages of `limit`.
pub async fn list_all(cloud: &dyn Cloud, prefix: &str, limit: u32) -> Vec<ObjectKey> {
    let mut keys = vec![];
    let mut cursor: Option<String> = None;
    loop {
        let page = cloud.list(prefix, cursor.as_deref(), limit).await.unwrap_or_else(|e| panic!("list: {e}"));
        assert!(page.entries.len() <= limit as usize, "a page is no longer than asked");
        keys.extend(page.entries.into_iter().map(|listed| listed.key));
        assert!(page.next.is_none() || page.next != cursor, "the cursor moves on");
        cursor = page.next;
        if cursor.is_none() {
            return keys;
        }
    }
}

/// Removes objects, 16 at a time.
pub async fn remove(cloud: &dyn Cloud, keys: Vec<ObjectKey>) {
    stream::iter(keys)
        .for_each_concurrent(16, |key| async move { cloud.delete(&key, None).await.expect("delete") })
        .await;
}
