//! What every [`Cloud`] must do: a list of behaviours, in the manner of arrow object_store's `integration.rs`.
//!
//! [`BEHAVIOURS`] is the list, [`check`] runs one of them: `raic connector test` makes its report of it. Tests call [`all`], or a
//! behaviour by its function, with a cloud and a key prefix that is theirs alone. Each removes what it stored, unless it fails.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, join_all},
    stream,
};

use crate::{
    ByteRange, Cloud, CloudError, ErrorKind, MAX_KEY_LEN, ObjectInfo, ObjectKey, Payload, Result, WriteMode,
    collect_body, delete_all,
};

/// How a behaviour came out: what the service lacks is no fault, as long as `describe` says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It holds.
    Holds,
    /// The service, or the connector, does not have it, and says so.
    Lacks(String),
}

/// What was found, or what is wrong and where.
pub type Verdict<T = Finding> = std::result::Result<T, String>;

/// How much is stored and listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A few hundred kilobytes, and a hundred requests or so.
    Quick,
    /// Objects to 64 MiB, listings of 2,500 names.
    Full,
}

/// Something that every cloud must do.
pub struct Behaviour {
    /// One word or two.
    pub name: &'static str,
    /// What must hold, in a sentence.
    pub what: &'static str,
    run: for<'a> fn(&'a dyn Cloud, &'a str, Extent) -> BoxFuture<'a, Verdict>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What is left to arrays that share a container.
const LONGEST_PREFIX: usize = 64;

/// The size of a chunk, around which objects are tried.
const CHUNK: usize = 4 << 20;

macro_rules! behaviour {
    ($name:literal, $what:literal, $run:expr) => {
        Behaviour { name: $name, what: $what, run: $run }
    };
}

/// Every behaviour, the simplest first.
pub const BEHAVIOURS: &[Behaviour] = &[
    behaviour!("describe", "capabilities are told in the contract's words", |c, _, _| describe(c).boxed()),
    behaviour!("probe", "credentials and container are good", |c, _, _| probe(c).boxed()),
    behaviour!("basic", "what is put is read, and what is deleted is gone", |c, p, _| {
        put_get_head_delete(c, p).boxed()
    }),
    behaviour!("sizes", "objects of many sizes come back bit for bit", |c, p, extent| match extent {
        Extent::Quick => sizes(c, p, &[0, 1, 4095, 4096, 4097, 300_000]).boxed(),
        Extent::Full => sizes(c, p, &[0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 64 << 20]).boxed(),
    }),
    behaviour!("ranges", "parts of objects are read, within, at and over the end", |c, p, _| ranges(c, p)
        .boxed()),
    behaviour!("missing", "what never was is not found", |c, p, _| missing(c, p).boxed()),
    behaviour!("overwrite", "a second put replaces the first", |c, p, _| overwrite(c, p).boxed()),
    behaviour!("create-only", "a create-only put does what describe says", |c, p, _| create_only(c, p)
        .boxed()),
    behaviour!("race", "of creators that race, exactly one wins", |c, p, _| create_only_race(c, p, 8)
        .boxed()),
    behaviour!("if-match", "conditions by etag hold", |c, p, _| if_match(c, p).boxed()),
    behaviour!("keys", "keys at both ends of the alphabet and of the length are kept", |c, p, _| {
        awkward_keys(c, p).boxed()
    }),
    behaviour!("delete", "deleting what is gone succeeds", |c, p, _| delete_is_idempotent(c, p).boxed()),
    behaviour!("delete-many", "several objects are removed at once, and no other", |c, p, _| {
        delete_many(c, p).boxed()
    }),
    behaviour!(
        "listing",
        "every object is listed once, by pages of any length",
        |c, p, extent| match extent {
            Extent::Quick => listing_pages(c, p, 30, 7).boxed(),
            Extent::Full => async move {
                listing_pages(c, p, 50, 1).await?;
                listing_pages(c, p, 300, 7).await?;
                listing_pages(c, p, 2500, 1000).await
            }
            .boxed(),
        }
    ),
    behaviour!("prefixes", "a prefix is a prefix of text: 1 is not 10", |c, p, _| {
        listing_matches_prefixes_exactly(c, p).boxed()
    }),
    behaviour!(
        "listing under writes",
        "what was there throughout is listed once, whatever is written meanwhile",
        |c, p, _| { listing_under_writes(c, p).boxed() }
    ),
    behaviour!("abandoned put", "an upload that is broken off is whole or not there", |c, p, _| {
        abandoned_put(c, p).boxed()
    }),
    behaviour!("abandoned get", "a download that is broken off harms no other", |c, p, _| {
        abandoned_get(c, p).boxed()
    }),
];

/// Runs a behaviour on keys below `prefix`.
///
/// # Errors
/// What is wrong, and where.
pub async fn check(behaviour: &Behaviour, cloud: &dyn Cloud, prefix: &str, extent: Extent) -> Verdict {
    let prefix = format!("{prefix}{}/", behaviour.name.replace(' ', "-"));
    (behaviour.run)(cloud, &prefix, extent).await
}

/// Every behaviour, quickly.
///
/// # Panics
/// With all that is wrong.
pub async fn all(cloud: &dyn Cloud, prefix: &str) {
    all_to(cloud, prefix, Extent::Quick).await;
}

/// Every behaviour, to an extent.
///
/// # Panics
/// With all that is wrong.
pub async fn all_to(cloud: &dyn Cloud, prefix: &str, extent: Extent) {
    let mut wrong = Vec::new();
    for behaviour in BEHAVIOURS {
        if let Err(why) = check(behaviour, cloud, prefix, extent).await {
            wrong.push(format!("{}: {why}", behaviour.name));
        }
    }
    assert!(wrong.is_empty(), "cloud {:?} does not conform:\n{}", cloud.name(), wrong.join("\n"));
}

/// Fails with a sentence unless something holds.
macro_rules! ensure {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err(format!($($sentence)+));
        }
    };
}

fn worked<T>(result: Result<T>, what: &str) -> Verdict<T> {
    result.map_err(|e| format!("{what} failed: {e}"))
}

fn key(prefix: &str, name: &str) -> Verdict<ObjectKey> {
    ObjectKey::new(format!("{prefix}{name}")).map_err(|e| format!("the prefix {prefix:?} is none: {e}"))
}

/// Bytes that differ everywhere, so that a wrong offset shows.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect::<Vec<_>>().into()
}

async fn put(cloud: &dyn Cloud, key: &ObjectKey, content: impl Into<Bytes>) -> Verdict<ObjectInfo> {
    let content: Bytes = content.into();
    let size = content.len() as u64;
    let info = worked(cloud.put(key, Payload::from(content), WriteMode::Overwrite).await, "put")?;
    ensure!(info.size == size, "put of {size} bytes answers {} bytes", info.size);
    Ok(info)
}

async fn read(cloud: &dyn Cloud, key: &ObjectKey, range: Option<ByteRange>) -> Result<Bytes> {
    let object = cloud.get(key, range, None).await?;
    collect_body(cloud.name(), object.body, 256 << 20).await
}

async fn reads(cloud: &dyn Cloud, key: &ObjectKey, expected: &[u8]) -> Verdict<()> {
    let found = worked(read(cloud, key, None).await, "get")?;
    ensure!(found == expected, "get of {} bytes gave {} others", expected.len(), found.len());
    Ok(())
}

async fn delete(cloud: &dyn Cloud, key: &ObjectKey) -> Verdict<()> {
    worked(cloud.delete(key, None).await, "delete")
}

fn fails<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Verdict<CloudError> {
    match result {
        Err(e) if e.kind == kind => Ok(e),
        Err(e) => Err(format!("{what} must fail as {kind}, not as {}: {e}", e.kind)),
        Ok(_) => Err(format!("{what} must fail as {kind}, and succeeded")),
    }
}

async fn capability(cloud: &dyn Cloud, name: &str) -> Verdict<Option<String>> {
    let described = worked(cloud.describe().await, "describe")?;
    Ok(described.into_iter().find(|(k, _)| k == name).map(|(_, v)| v))
}

/// `describe` says what must be said, in words that are known.
pub async fn describe(cloud: &dyn Cloud) -> Verdict {
    let known = |name, words: &'static [&'static str]| async move {
        match capability(cloud, name).await? {
            Some(value) if !words.contains(&value.as_str()) => {
                Err(format!("{name} = {value:?} is none of {}", words.join(", ")))
            }
            other => Ok(other),
        }
    };
    let create_only = known("create-only", &["native", "emulated", "none"]).await?;
    ensure!(create_only.is_some(), "describe must say create-only = native, emulated or none");
    known("if-match", &["native", "none"]).await?;
    known("ordered-list", &["yes", "no"]).await?;
    known("consistency", &["strong", "eventual"]).await?;
    if let Some(size) = capability(cloud, "max-object-size").await? {
        let bytes: u64 =
            size.parse().map_err(|_| format!("max-object-size = {size:?} is no number of bytes"))?;
        ensure!(bytes >= CHUNK as u64, "max-object-size = {bytes}: a chunk has {CHUNK} bytes");
    }
    Ok(Finding::Holds)
}

/// The probe of a cloud that works succeeds.
pub async fn probe(cloud: &dyn Cloud) -> Verdict {
    worked(cloud.probe().await, "probe")?;
    Ok(Finding::Holds)
}

/// What was put is what is read; head agrees; deleted is gone.
pub async fn put_get_head_delete(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let info = put(cloud, &key, pattern(1000)).await?;
    let head = worked(cloud.head(&key).await, "head of what was put")?;
    ensure!(head.size == 1000, "head of 1000 bytes says {}", head.size);
    ensure!(
        info.etag.is_none() || info.etag == head.etag,
        "put names the etag {:?}, head {:?}",
        info.etag,
        head.etag
    );
    let object = worked(cloud.get(&key, None, None).await, "get of what was put")?;
    ensure!(object.info.size == 1000, "get of 1000 bytes says {}", object.info.size);
    ensure!(object.info.etag == head.etag, "get names the etag {:?}, head {:?}", object.info.etag, head.etag);
    let found = worked(collect_body(cloud.name(), object.body, 1000).await, "reading what was put")?;
    ensure!(found == pattern(1000), "other bytes are read than were put");
    let page = worked(cloud.list(key.as_str(), None, 10).await, "list of what was put")?;
    let listed = page.entries.iter().find(|entry| entry.key == key);
    let listed = listed.ok_or("what was put is not listed")?;
    ensure!(listed.info.size == 1000, "list says that 1000 bytes are {}", listed.info.size);
    ensure!(
        listed.info.etag.is_none() || listed.info.etag == head.etag,
        "list names the etag {:?}, head {:?}",
        listed.info.etag,
        head.etag
    );
    delete(cloud, &key).await?;
    fails(cloud.head(&key).await, ErrorKind::NotFound, "head after delete")?;
    fails(read(cloud, &key, None).await, ErrorKind::NotFound, "get after delete")?;
    Ok(Finding::Holds)
}

/// Objects of these sizes come back bit for bit.
pub async fn sizes(cloud: &dyn Cloud, prefix: &str, sizes: &[usize]) -> Verdict {
    for &size in sizes {
        let at = |why: String| format!("{size} bytes: {why}");
        let key = key(prefix, &format!("s{size}"))?;
        put(cloud, &key, pattern(size)).await.map_err(at)?;
        let head = worked(cloud.head(&key).await, "head").map_err(at)?;
        ensure!(head.size == size as u64, "{size} bytes: head says {}", head.size);
        reads(cloud, &key, &pattern(size)).await.map_err(at)?;
        delete(cloud, &key).await.map_err(at)?;
    }
    Ok(Finding::Holds)
}

/// Ranges within, at and over the end; one that begins past it is refused.
pub async fn ranges(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let whole = pattern(10_000);
    put(cloud, &key, whole.clone()).await?;
    for (offset, length) in [(0, 1), (0, 10_000), (17, 4000), (9_999, 1), (9_000, 5_000), (5, 1 << 40)] {
        let what = format!("a get of {length} bytes from {offset} of 10000");
        let range = ByteRange::new(offset, length);
        let expected = whole.slice(offset as usize..(offset.saturating_add(length)).min(10_000) as usize);
        let object = worked(cloud.get(&key, range, None).await, &what)?;
        ensure!(
            object.info.size == 10_000,
            "{what} must tell the whole object's size, not {}",
            object.info.size
        );
        let bytes = worked(collect_body(cloud.name(), object.body, 10_000).await, &what)?;
        ensure!(bytes == expected, "{what} gave {} other bytes", bytes.len());
    }
    for offset in [10_000, 20_000] {
        let past = read(cloud, &key, ByteRange::new(offset, 10)).await;
        fails(past, ErrorKind::RangeNotSatisfiable, &format!("a range from {offset} of 10000"))?;
    }
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}

/// What never was is not found.
pub async fn missing(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "never")?;
    fails(cloud.head(&key).await, ErrorKind::NotFound, "head of nothing")?;
    fails(read(cloud, &key, None).await, ErrorKind::NotFound, "get of nothing")?;
    fails(read(cloud, &key, ByteRange::new(0, 1)).await, ErrorKind::NotFound, "get of a part of nothing")?;
    let page = worked(cloud.list(prefix, None, 10).await, "list of nothing")?;
    ensure!(page.entries.is_empty(), "list of nothing gives {} objects", page.entries.len());
    Ok(Finding::Holds)
}

/// A second put replaces the first.
pub async fn overwrite(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let first = put(cloud, &key, pattern(100)).await?;
    let second = put(cloud, &key, pattern(99)).await?;
    ensure!(first.etag.is_none() || first.etag != second.etag, "the etag stays though the content changes");
    reads(cloud, &key, &pattern(99)).await?;
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}

/// A create-only put does what `describe` says of it.
pub async fn create_only(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let create = |content: Bytes| cloud.put(&key, Payload::from(content), WriteMode::CreateOnly);
    worked(create(pattern(10)).await, "create-only put of a new object")?;
    let again = create(pattern(11)).await;
    let said = capability(cloud, "create-only").await?;
    let found = match said.as_deref() {
        Some(way @ ("native" | "emulated")) => {
            fails(again, ErrorKind::AlreadyExists, "a create-only put over an object")?;
            reads(cloud, &key, &pattern(10)).await?;
            match way {
                "native" => Finding::Holds,
                _ => Finding::Lacks("create-only is emulated: writers that race may all win".to_owned()),
            }
        }
        _ => {
            worked(again, "a create-only put over an object, which a service without create-only replaces")?;
            Finding::Lacks("the service has no create-only put: it replaces".to_owned())
        }
    };
    delete(cloud, &key).await?;
    Ok(found)
}

/// Of writers racing to create one object exactly one wins, where `describe` says native.
pub async fn create_only_race(cloud: &dyn Cloud, prefix: &str, writers: usize) -> Verdict {
    if capability(cloud, "create-only").await?.as_deref() != Some("native") {
        return Ok(Finding::Lacks("describe does not say that create-only is native".to_owned()));
    }
    let key = key(prefix, "race")?;
    let race = (0..writers).map(|i| cloud.put(&key, Payload::from(pattern(100 + i)), WriteMode::CreateOnly));
    let ended = join_all(race).await;
    let won: Vec<usize> = (0..writers).filter(|i| ended[*i].is_ok()).collect();
    ensure!(won.len() == 1, "{} of {writers} creators won; describe must not say native", won.len());
    reads(cloud, &key, &pattern(100 + won[0])).await?;
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}

/// Conditional gets, puts and deletes hold their condition, where `describe` says so.
pub async fn if_match(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    put(cloud, &key, pattern(10)).await?;
    let Some(old) = worked(cloud.head(&key).await, "head")?.etag else {
        delete(cloud, &key).await?;
        return Ok(Finding::Lacks("the service gives no strong etags".to_owned()));
    };
    put(cloud, &key, pattern(20)).await?;
    let stale = cloud.get(&key, None, Some(&old)).await;
    fails(stale.map(|o| o.info), ErrorKind::PreconditionFailed, "get with an older etag")?;
    let new = worked(cloud.head(&key).await, "head")?.etag.ok_or("an etag is there now and then only")?;
    worked(cloud.get(&key, None, Some(&new)).await, "get with the etag")?;
    fails(cloud.delete(&key, Some(&old)).await, ErrorKind::PreconditionFailed, "delete with an older etag")?;
    let mut found = Finding::Lacks("describe does not say that if-match is native for puts".to_owned());
    if capability(cloud, "if-match").await?.as_deref() == Some("native") {
        let stale = cloud.put(&key, Payload::from(pattern(30)), WriteMode::IfMatch(old)).await;
        fails(stale, ErrorKind::PreconditionFailed, "put with an older etag")?;
        reads(cloud, &key, &pattern(20)).await?;
        let put = cloud.put(&key, Payload::from(pattern(30)), WriteMode::IfMatch(new)).await;
        worked(put, "put with the etag")?;
        found = Finding::Holds;
    }
    let last = worked(cloud.head(&key).await, "head")?.etag;
    worked(cloud.delete(&key, last.as_deref()).await, "delete with the etag")?;
    fails(cloud.head(&key).await, ErrorKind::NotFound, "head after delete")?;
    Ok(found)
}

/// Keys at both ends of the alphabet and of the length.
pub async fn awkward_keys(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    // The longest there is, less the prefix of an array that shares its container; in segments that a folder's names may have too.
    let mut long = "x".repeat((MAX_KEY_LEN - LONGEST_PREFIX).saturating_sub(prefix.len()));
    for at in (200..long.len().saturating_sub(1)).step_by(201) {
        long.replace_range(at..=at, "/");
    }
    let names = ["-", "0", "Z", "_", "a.b", "..a", "a..", "z/-/_/.z", "A", "a", &long];
    for name in names {
        put(cloud, &key(prefix, name)?, name.as_bytes().to_vec())
            .await
            .map_err(|e| format!("{name}: {e}"))?;
    }
    for name in names {
        reads(cloud, &key(prefix, name)?, name.as_bytes()).await.map_err(|e| format!("{name}: {e}"))?;
    }
    let listed = list_all(cloud, prefix, 1000).await?;
    let expected: BTreeSet<_> = names.iter().map(|name| key(prefix, name)).collect::<Verdict<_>>()?;
    let lacking = expected.iter().find(|key| !listed.contains(key));
    ensure!(lacking.is_none(), "{lacking:?} is not listed");
    ensure!(listed.len() == names.len(), "{} keys are listed of {}", listed.len(), names.len());
    remove(cloud, listed).await
}

/// Deleting what is gone, or never was, succeeds.
pub async fn delete_is_idempotent(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    worked(cloud.delete(&key, None).await, "delete of what never was")?;
    put(cloud, &key, pattern(1)).await?;
    delete(cloud, &key).await?;
    worked(cloud.delete(&key, None).await, "delete of what is gone")?;
    Ok(Finding::Holds)
}

/// Several objects, of which some are gone, are removed by one call, and no other.
pub async fn delete_many(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let keys: Vec<_> = (0..12).map(|i| key(prefix, &format!("{i}"))).collect::<Verdict<_>>()?;
    for key in &keys[1..] {
        put(cloud, key, pattern(5)).await?;
    }
    worked(delete_all(cloud, &keys[..11]).await, "delete of 11 objects, of which one never was")?;
    let left = list_all(cloud, prefix, 1000).await?;
    ensure!(left == keys[11..], "{} objects are left of one", left.len());
    let alone = match cloud.delete_many(&keys[11..]).await {
        Err(e) if e.kind == ErrorKind::Unsupported => {
            Finding::Lacks("objects are removed one by one".to_owned())
        }
        removed => {
            let failed = worked(removed, "delete of one by several")?;
            ensure!(failed.is_empty(), "an object cannot be deleted: {}", failed[0].1);
            Finding::Holds
        }
    };
    delete(cloud, &keys[11]).await?;
    Ok(alone)
}

/// `count` keys by pages of `limit` are all listed, once each, by pages that are no longer than asked.
pub async fn listing_pages(cloud: &dyn Cloud, prefix: &str, count: usize, limit: u32) -> Verdict {
    let expected: BTreeSet<_> =
        (0..count).map(|i| key(prefix, &format!("{count}/{i:05}"))).collect::<Verdict<_>>()?;
    let prefix = &format!("{prefix}{count}/");
    let puts: Vec<_> = expected.iter().map(|key| put(cloud, key, pattern(3))).collect();
    for stored in stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await {
        stored?;
    }
    let listed = list_all(cloud, prefix, limit).await?;
    ensure!(listed.len() == count, "{} keys of {count} are listed by pages of {limit}", listed.len());
    let found: BTreeSet<_> = listed.iter().cloned().collect();
    ensure!(found == expected, "by pages of {limit} other keys are listed than were stored");
    if capability(cloud, "ordered-list").await?.as_deref() == Some("yes") {
        ensure!(listed.is_sorted(), "keys are listed out of order though describe says ordered-list");
    }
    remove(cloud, listed).await
}

/// A prefix is a prefix of text: share 1 is not share 10, and the empty prefix lists all.
pub async fn listing_matches_prefixes_exactly(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    for name in ["1", "1.1", "10", "10.1", "2/1"] {
        put(cloud, &key(prefix, name)?, pattern(2)).await?;
    }
    for (under, expected) in [("1", 4), ("1.", 1), ("10", 2), ("10.", 1), ("2/", 1), ("", 5), ("3", 0)] {
        let listed = list_all(cloud, &format!("{prefix}{under}"), 2).await?;
        ensure!(listed.len() == expected, "under {under:?} {} keys are listed of {expected}", listed.len());
    }
    remove(cloud, list_all(cloud, prefix, 1000).await?).await
}

/// While others come and go, each object that was there throughout is listed once.
pub async fn listing_under_writes(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let steady: Vec<_> = (0..20).map(|i| key(prefix, &format!("{i:02}-steady"))).collect::<Verdict<_>>()?;
    for key in &steady {
        put(cloud, key, pattern(3)).await?;
    }
    let come_and_go = async {
        for i in 0..20 {
            let key = key(prefix, &format!("{i:02}-passing"))?;
            put(cloud, &key, pattern(4)).await?;
            if i % 2 == 0 {
                delete(cloud, &key).await?;
            }
        }
        Verdict::Ok(())
    };
    let list = async {
        for _ in 0..3 {
            let listed = list_all(cloud, prefix, 3).await?;
            for key in &steady {
                let times = listed.iter().filter(|listed| *listed == key).count();
                ensure!(times == 1, "{key} is listed {times} times while others are written");
            }
        }
        Verdict::Ok(())
    };
    let (written, listed) = futures::join!(come_and_go, list);
    written.and(listed)?;
    remove(cloud, list_all(cloud, prefix, 1000).await?).await
}

/// An upload that its caller gives up is there as a whole or not at all.
pub async fn abandoned_put(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let content = pattern(CHUNK);
    for (i, patience) in [1_u64, 4, 12, 40].into_iter().enumerate() {
        let key = key(prefix, &format!("{i}"))?;
        let put = cloud.put(&key, Payload::from(content.clone()), WriteMode::Overwrite);
        // Whether it comes to an end before is the service's to decide.
        let _ = tokio::time::timeout(Duration::from_millis(patience), put).await;
        for _ in 0..5 {
            match cloud.head(&key).await {
                Err(e) if e.kind == ErrorKind::NotFound => {}
                Err(e) => return Err(format!("head of an abandoned upload: {e}")),
                Ok(info) => {
                    ensure!(
                        info.size == content.len() as u64,
                        "an abandoned upload of {} bytes left {} of them",
                        content.len(),
                        info.size
                    );
                    reads(cloud, &key, &content).await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // One may have landed since.
    tokio::time::sleep(Duration::from_millis(200)).await;
    remove(cloud, list_all(cloud, prefix, 1000).await?).await
}

/// A download that its reader gives up harms no other.
pub async fn abandoned_get(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let (key, content) = (key(prefix, "object")?, pattern(CHUNK));
    put(cloud, &key, content.clone()).await?;
    for _ in 0..8 {
        let mut object = worked(cloud.get(&key, None, None).await, "get")?;
        // The first piece, and no more.
        if let Some(piece) = object.body.next().await {
            worked(piece, "the first piece of a get")?;
        }
    }
    reads(cloud, &key, &content).await?;
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}

/// Every key under `prefix`, by pages of `limit`.
///
/// # Errors
/// Where a page is longer than asked, or the cursor stays.
pub async fn list_all(cloud: &dyn Cloud, prefix: &str, limit: u32) -> Verdict<Vec<ObjectKey>> {
    let mut keys = vec![];
    let mut cursor: Option<String> = None;
    loop {
        let page = worked(cloud.list(prefix, cursor.as_deref(), limit).await, "list")?;
        ensure!(page.entries.len() <= limit as usize, "{} entries are listed of {limit}", page.entries.len());
        keys.extend(page.entries.into_iter().map(|listed| listed.key));
        ensure!(page.next.is_none() || page.next != cursor, "a listing's cursor stays where it was");
        cursor = page.next;
        if cursor.is_none() {
            return Ok(keys);
        }
    }
}

/// Removes objects.
async fn remove(cloud: &dyn Cloud, keys: Vec<ObjectKey>) -> Verdict {
    worked(delete_all(cloud, &keys).await, "delete of several").map(|()| Finding::Holds)
}
