//! What every [`Cloud`] must do: a list of behaviours, in the manner of arrow object_store's
//! `integration.rs`.
//!
//! [`BEHAVIOURS`] is the list and [`check`] runs one behaviour; `raic connector test` makes its
//! report of them. Tests call [`all`], or the function of one behaviour. They give it a cloud and a
//! prefix of keys that nobody else uses. A behaviour removes the objects that it stored, unless it
//! fails.

/// Returns a formatted sentence as an error, unless a condition holds.
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

/// The outcome of a behaviour. An ability that the service lacks is no fault, as long as `describe`
/// reports that it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The cloud has the behaviour.
    Holds,
    /// The service or the connector does not have this ability, and reports so. The text names what
    /// is missing.
    Lacks(String),
}

/// The finding, or a sentence on what is wrong and where.
pub type Verdict<T = Finding> = std::result::Result<T, String>;

/// How much the behaviours store and list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Some 400 requests, and objects of up to 4 MiB.
    Quick,
    /// Objects of up to 64 MiB, and listings of up to 2,500 keys.
    Full,
}

/// One thing that every cloud must do.
pub struct Behaviour {
    /// A few words for reports, such as `create-only`.
    pub name: &'static str,
    /// What must hold, in one sentence.
    pub what: &'static str,
    run: for<'a> fn(&'a dyn Cloud, &'a str, Extent) -> BoxFuture<'a, Verdict>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Bytes of a key that are left for the prefix of an array that shares its container.
const LONGEST_PREFIX: usize = 64;

/// Most pages without an object that may follow each other; Azure sends some.
const MAX_EMPTY_PAGES: u32 = 1000;

/// Size of a chunk in bytes; objects of about this size are tried.
const CHUNK: usize = 4 << 20;
/// Size of an object that every service must take, in bytes.
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
        "capabilities are reported in the contract's words",
        |c, _, _| describe(c).boxed()
    ),
    behaviour!("probe", "credentials and container are good", |c, _, _| {
        probe(c).boxed()
    }),
    behaviour!(
        "basic",
        "an object that was put is read, and a deleted one is gone",
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
        "ranges of objects are read: within, at and past the end",
        |c, p, _| ranges(c, p).boxed()
    ),
    behaviour!(
        "missing",
        "an object that was never put is not found",
        |c, p, _| { missing(c, p).boxed() }
    ),
    behaviour!("overwrite", "a second put replaces the first", |c, p, _| {
        overwrite(c, p).boxed()
    }),
    behaviour!(
        "create-only",
        "a create-only put does what describe reports",
        |c, p, _| create_only(c, p).boxed()
    ),
    behaviour!(
        "race",
        "if several creators race, exactly one wins",
        |c, p, _| create_only_race(c, p, 8).boxed()
    ),
    behaviour!("if-match", "if-match conditions are kept", |c, p, _| {
        if_match(c, p).boxed()
    }),
    behaviour!(
        "keys",
        "long keys and keys with unusual characters are kept",
        |c, p, _| { awkward_keys(c, p).boxed() }
    ),
    behaviour!(
        "delete",
        "deleting an object that is gone succeeds",
        |c, p, _| { delete_is_idempotent(c, p).boxed() }
    ),
    behaviour!(
        "delete-many",
        "several objects are deleted at once, and no other",
        |c, p, _| { delete_many(c, p).boxed() }
    ),
    behaviour!(
        "listing",
        "every object is listed once, in pages of any length",
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
        "a prefix matches as text: \"1.\" does not match 10",
        |c, p, _| { listing_matches_prefixes_exactly(c, p).boxed() }
    ),
    behaviour!(
        "listing under writes",
        "an object that exists throughout is listed once, whatever is written meanwhile",
        |c, p, _| { listing_under_writes(c, p).boxed() }
    ),
    behaviour!(
        "abandoned put",
        "an upload that is broken off leaves a whole object or none",
        |c, p, _| { abandoned_put(c, p).boxed() }
    ),
    behaviour!(
        "abandoned get",
        "a download that is broken off disturbs no other",
        |c, p, _| { abandoned_get(c, p).boxed() }
    ),
    behaviour!("usage", "used space is reported", |c, _, _| usage(c)
        .boxed()),
];

/// Runs a behaviour on keys below `prefix` and the behaviour's name.
///
/// # Errors
/// A sentence on what is wrong, and where.
pub async fn check(
    behaviour: &Behaviour,
    cloud: &dyn Cloud,
    prefix: &str,
    extent: Extent,
) -> Verdict {
    let prefix = format!("{prefix}{}/", behaviour.name.replace(' ', "-"));
    (behaviour.run)(cloud, &prefix, extent).await
}

/// Runs every behaviour to [`Extent::Quick`].
///
/// # Panics
/// Panics with the list of all that is wrong, if a behaviour fails.
pub async fn all(cloud: &dyn Cloud, prefix: &str) {
    all_to(cloud, prefix, Extent::Quick).await;
}

/// Runs every behaviour to an extent.
///
/// # Panics
/// Panics with the list of all that is wrong, if a behaviour fails.
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
        .map_err(|e| format!("the prefix {prefix:?} cannot begin a key: {e}"))
}

/// Returns bytes that differ everywhere, so that a wrong offset shows.
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
        "put of {size} bytes reports {} bytes",
        info.size
    );
    Ok(info)
}

async fn read(cloud: &dyn Cloud, key: &ObjectKey, range: Option<ByteRange>) -> Result<Bytes> {
    let object = cloud.get(key, range, None).await?;
    collect_body(cloud.name(), object.body, 256 << 20).await
}

async fn reads(cloud: &dyn Cloud, key: &ObjectKey, expected: &[u8]) -> Verdict<()> {
    let content = worked(read(cloud, key, None).await, "get")?;
    ensure!(
        content == expected,
        "get of {} bytes returned {} other bytes",
        expected.len(),
        content.len()
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

/// `describe` reports the required capabilities, in the contract's words.
pub async fn describe(cloud: &dyn Cloud) -> Verdict {
    let known = |name, words: &'static [&'static str]| async move {
        match capability(cloud, name).await? {
            Some(value) if !words.contains(&value.as_str()) => Err(format!(
                "{name} = {value:?} is not one of {}",
                words.join(", ")
            )),
            other => Ok(other),
        }
    };
    let create_only = known("create-only", &["native", "emulated", "none"]).await?;
    ensure!(
        create_only.is_some(),
        "describe must report create-only = native, emulated or none"
    );
    known("if-match", &["native", "none"]).await?;
    known("ordered-list", &["yes", "no"]).await?;
    known("consistency", &["strong", "eventual"]).await?;
    let bytes = largest(cloud).await?;
    ensure!(
        bytes >= LEAST,
        "max-object-size = {bytes}: what the host keeps beside chunks needs {LEAST} or more"
    );
    Ok(Finding::Holds)
}

/// Returns the size in bytes of the largest object that the service takes, as `describe` reports
/// it.
async fn largest(cloud: &dyn Cloud) -> Verdict<usize> {
    let Some(size) = capability(cloud, "max-object-size").await? else {
        return Ok(usize::MAX);
    };
    size.parse()
        .map_err(|_| format!("max-object-size = {size:?} is not a number of bytes"))
}

/// The probe of a working cloud succeeds.
pub async fn probe(cloud: &dyn Cloud) -> Verdict {
    worked(cloud.probe().await, "probe")?;
    Ok(Finding::Holds)
}

/// `usage` reports bytes, objects or a quota, if the cloud has that ability.
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

/// Lists every key that begins with `prefix`, in pages of `limit` entries.
///
/// # Errors
/// A sentence, if a request fails, a page is longer than asked, too many pages are empty, or the
/// cursor stays.
pub async fn list_all(cloud: &dyn Cloud, prefix: &str, limit: u32) -> Verdict<Vec<ObjectKey>> {
    let mut keys = vec![];
    let mut cursor: Option<String> = None;
    let mut empty = 0;
    loop {
        let page = worked(cloud.list(prefix, cursor.as_deref(), limit).await, "list")?;
        ensure!(
            page.entries.len() <= limit as usize,
            "a page has {} entries, though {limit} were asked for",
            page.entries.len()
        );
        empty = if page.entries.is_empty() {
            empty + 1
        } else {
            0
        };
        ensure!(
            empty < MAX_EMPTY_PAGES,
            "{empty} pages of a listing in a row are empty"
        );
        keys.extend(page.entries.into_iter().map(|listed| listed.key));
        ensure!(
            page.next.is_none() || page.next != cursor,
            "a page's next cursor is the one that was sent"
        );
        cursor = page.next;
        if cursor.is_none() {
            return Ok(keys);
        }
    }
}

/// Deletes the objects that a behaviour stored.
async fn remove(cloud: &dyn Cloud, keys: Vec<ObjectKey>) -> Verdict {
    worked(delete_all(cloud, &keys).await, "delete of several").map(|()| Finding::Holds)
}
