//! What every [`Cloud`] must do: a list of behaviours, in the manner of arrow object_store's
//! `integration.rs`.
//!
//! [`BEHAVIOURS`] is the list, [`check`] runs one of them: `raic connector test` makes its report
//! of it. Tests call [`all`], or a behaviour by its function, with a cloud and a key prefix that is
//! theirs alone. Each removes what it stored, unless it fails.

/// Fails with a sentence unless something holds.
macro_rules! ensure {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err(format!($($sentence)+));
        }
    };
}

mod listings;
mod objects;
mod refusals;

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    ByteRange, Cloud, CloudError, ErrorKind, ObjectInfo, ObjectKey, Payload, Result, WriteMode,
    collect_body, delete_all,
};

pub use listings::*;
pub use objects::*;
pub use refusals::*;

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

/// Pages without an object in a row; Azure has some.
const MAX_EMPTY_PAGES: u32 = 1000;

/// The size of a chunk, around which objects are tried.
const CHUNK: usize = 4 << 20;
/// What every service must take in one object.
const LEAST: usize = 1 << 20;

macro_rules! behaviour {
    ($name:literal, $what:literal, $run:expr) => {
        Behaviour {
            name: $name,
            what: $what,
            run: $run,
        }
    };
}

/// Every behaviour, the simplest first.
pub const BEHAVIOURS: &[Behaviour] = &[
    behaviour!(
        "describe",
        "capabilities are told in the contract's words",
        |c, _, _| describe(c).boxed()
    ),
    behaviour!("probe", "credentials and container are good", |c, _, _| {
        probe(c).boxed()
    }),
    behaviour!(
        "basic",
        "what is put is read, and what is deleted is gone",
        |c, p, _| { put_get_head_delete(c, p).boxed() }
    ),
    behaviour!(
        "sizes",
        "objects of many sizes come back bit for bit",
        |c, p, extent| match extent {
            Extent::Quick => sizes(c, p, &[0, 1, 4095, 4096, 4097, 300_000]).boxed(),
            Extent::Full => sizes(c, p, &[0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 64 << 20]).boxed(),
        }
    ),
    behaviour!(
        "ranges",
        "parts of objects are read, within, at and over the end",
        |c, p, _| ranges(c, p).boxed()
    ),
    behaviour!("missing", "what never was is not found", |c, p, _| missing(
        c, p
    )
    .boxed()),
    behaviour!("overwrite", "a second put replaces the first", |c, p, _| {
        overwrite(c, p).boxed()
    }),
    behaviour!(
        "create-only",
        "a create-only put does what describe says",
        |c, p, _| create_only(c, p).boxed()
    ),
    behaviour!(
        "race",
        "of creators that race, exactly one wins",
        |c, p, _| create_only_race(c, p, 8).boxed()
    ),
    behaviour!("if-match", "conditions by etag hold", |c, p, _| if_match(
        c, p
    )
    .boxed()),
    behaviour!(
        "keys",
        "keys at both ends of the alphabet and of the length are kept",
        |c, p, _| { awkward_keys(c, p).boxed() }
    ),
    behaviour!("delete", "deleting what is gone succeeds", |c, p, _| {
        delete_is_idempotent(c, p).boxed()
    }),
    behaviour!(
        "delete-many",
        "several objects are removed at once, and no other",
        |c, p, _| { delete_many(c, p).boxed() }
    ),
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
    behaviour!(
        "prefixes",
        "a prefix is a prefix of text: 1 is not 10",
        |c, p, _| { listing_matches_prefixes_exactly(c, p).boxed() }
    ),
    behaviour!(
        "listing under writes",
        "what was there throughout is listed once, whatever is written meanwhile",
        |c, p, _| { listing_under_writes(c, p).boxed() }
    ),
    behaviour!(
        "abandoned put",
        "an upload that is broken off is whole or not there",
        |c, p, _| { abandoned_put(c, p).boxed() }
    ),
    behaviour!(
        "abandoned get",
        "a download that is broken off harms no other",
        |c, p, _| { abandoned_get(c, p).boxed() }
    ),
    behaviour!("usage", "what is used is reported", |c, _, _| usage(c)
        .boxed()),
];

/// Runs a behaviour on keys below `prefix`.
///
/// # Errors
/// What is wrong, and where.
pub async fn check(
    behaviour: &Behaviour,
    cloud: &dyn Cloud,
    prefix: &str,
    extent: Extent,
) -> Verdict {
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
    assert!(
        wrong.is_empty(),
        "cloud {:?} does not conform:\n{}",
        cloud.name(),
        wrong.join("\n")
    );
}

fn worked<T>(result: Result<T>, what: &str) -> Verdict<T> {
    result.map_err(|e| format!("{what} failed: {e:#}"))
}

fn key(prefix: &str, name: &str) -> Verdict<ObjectKey> {
    ObjectKey::new(format!("{prefix}{name}"))
        .map_err(|e| format!("the prefix {prefix:?} is none: {e}"))
}

/// Bytes that differ everywhere, so that a wrong offset shows.
fn pattern(len: usize) -> Bytes {
    (0..len)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect::<Vec<_>>()
        .into()
}

async fn put(cloud: &dyn Cloud, key: &ObjectKey, content: impl Into<Bytes>) -> Verdict<ObjectInfo> {
    let content: Bytes = content.into();
    let size = content.len() as u64;
    let info = worked(
        cloud
            .put(key, Payload::from(content), WriteMode::Overwrite)
            .await,
        "put",
    )?;
    ensure!(
        info.size == size,
        "put of {size} bytes answers {} bytes",
        info.size
    );
    Ok(info)
}

async fn read(cloud: &dyn Cloud, key: &ObjectKey, range: Option<ByteRange>) -> Result<Bytes> {
    let object = cloud.get(key, range, None).await?;
    collect_body(cloud.name(), object.body, 256 << 20).await
}

async fn reads(cloud: &dyn Cloud, key: &ObjectKey, expected: &[u8]) -> Verdict<()> {
    let found = worked(read(cloud, key, None).await, "get")?;
    ensure!(
        found == expected,
        "get of {} bytes gave {} others",
        expected.len(),
        found.len()
    );
    Ok(())
}

async fn delete(cloud: &dyn Cloud, key: &ObjectKey) -> Verdict<()> {
    worked(cloud.delete(key, None).await, "delete")
}

fn fails<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Verdict<CloudError> {
    match result {
        Err(e) if e.kind == kind => Ok(e),
        Err(e) => Err(format!(
            "{what} must fail as {kind}, not as {}: {e:#}",
            e.kind
        )),
        Ok(_) => Err(format!("{what} must fail as {kind}, and succeeded")),
    }
}

async fn capability(cloud: &dyn Cloud, name: &str) -> Verdict<Option<String>> {
    let described = worked(cloud.describe().await, "describe")?;
    Ok(described
        .into_iter()
        .find(|(k, _)| k == name)
        .map(|(_, v)| v))
}

/// `describe` says what must be said, in words that are known.
pub async fn describe(cloud: &dyn Cloud) -> Verdict {
    let known = |name, words: &'static [&'static str]| async move {
        match capability(cloud, name).await? {
            Some(value) if !words.contains(&value.as_str()) => Err(format!(
                "{name} = {value:?} is none of {}",
                words.join(", ")
            )),
            other => Ok(other),
        }
    };
    let create_only = known("create-only", &["native", "emulated", "none"]).await?;
    ensure!(
        create_only.is_some(),
        "describe must say create-only = native, emulated or none"
    );
    known("if-match", &["native", "none"]).await?;
    known("ordered-list", &["yes", "no"]).await?;
    known("consistency", &["strong", "eventual"]).await?;
    let bytes = largest(cloud).await?;
    ensure!(
        bytes >= LEAST,
        "max-object-size = {bytes}: what the host keeps beside chunks may have {LEAST} bytes"
    );
    Ok(Finding::Holds)
}

/// Bytes of the largest object that the service takes, as the connector describes it.
async fn largest(cloud: &dyn Cloud) -> Verdict<usize> {
    let Some(size) = capability(cloud, "max-object-size").await? else {
        return Ok(usize::MAX);
    };
    size.parse()
        .map_err(|_| format!("max-object-size = {size:?} is no number of bytes"))
}

/// The probe of a cloud that works succeeds.
pub async fn probe(cloud: &dyn Cloud) -> Verdict {
    worked(cloud.probe().await, "probe")?;
    Ok(Finding::Holds)
}

/// What the provider says is used, where it says it.
pub async fn usage(cloud: &dyn Cloud) -> Verdict {
    match cloud.usage().await {
        Err(e) if e.kind == ErrorKind::Unsupported => Ok(Finding::Lacks(e.message)),
        reported => {
            let usage = worked(reported, "usage")?;
            let is_empty =
                usage.bytes.is_none() && usage.objects.is_none() && usage.quota.is_none();
            ensure!(
                !is_empty,
                "usage is reported without bytes, objects or a quota"
            );
            Ok(Finding::Holds)
        }
    }
}

/// Every key under `prefix`, by pages of `limit`.
///
/// # Errors
/// Where a page is longer than asked, or the cursor stays.
pub async fn list_all(cloud: &dyn Cloud, prefix: &str, limit: u32) -> Verdict<Vec<ObjectKey>> {
    let mut keys = vec![];
    let mut cursor: Option<String> = None;
    let mut empty = 0;
    loop {
        let page = worked(cloud.list(prefix, cursor.as_deref(), limit).await, "list")?;
        ensure!(
            page.entries.len() <= limit as usize,
            "{} entries are listed of {limit}",
            page.entries.len()
        );
        empty = if page.entries.is_empty() {
            empty + 1
        } else {
            0
        };
        ensure!(
            empty < MAX_EMPTY_PAGES,
            "{empty} pages of a listing are empty, one after the other"
        );
        keys.extend(page.entries.into_iter().map(|listed| listed.key));
        ensure!(
            page.next.is_none() || page.next != cursor,
            "a listing's cursor stays where it was"
        );
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
