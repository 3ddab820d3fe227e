//! Routes for files: storing, reading, removing and listing, and the progress of requests.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use raic_array::{
    ArrayError, DEFAULT_BUCKET, Details, FileName, FileVersion, ListRequest, Listed, PutOptions,
    Replace, Transfer, VersionId,
};
use raic_storage::Moment;
use serde::Deserialize;

use crate::{
    admin::{Answer, Refused, Shared},
    content::Content,
    wire::{Bucket, File, FileDetails, Files, MODIFIED, Versioning},
};

/// The transfers of requests under way, by the ids that the clients chose. Their number is bounded,
/// so that no client can fill the memory.
#[derive(Clone, Default)]
pub(crate) struct Transfers(Arc<Mutex<BTreeMap<String, Transfer>>>);

/// Most transfers at once. A request beyond them is served, but its progress is not counted.
const MAX_TRANSFERS: usize = 1024;

/// Longest id of a transfer, in bytes.
const MAX_TRANSFER_ID: usize = 64;

/// A request whose progress is counted. Dropping it, when the request ends, forgets its id.
struct Registered {
    transfers: Transfers,
    id: Option<String>,
    transfer: Transfer,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Transfer>> {
        self.0.lock()
    }

    fn register(&self, named: Named) -> Registered {
        let transfer = Transfer::default();
        let mut known = self.lock();
        let id = named.transfer.filter(|id| {
            id.len() <= MAX_TRANSFER_ID && known.len() < MAX_TRANSFERS && !known.contains_key(id)
        });
        if let Some(id) = &id {
            known.insert(id.clone(), transfer.clone());
        }
        Registered {
            transfers: self.clone(),
            id,
            transfer,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.transfers.lock().remove(id);
        }
    }
}

/// The query of a request for a file.
#[derive(Deserialize)]
pub(crate) struct Named {
    /// Id by which the client will ask for the request's progress.
    transfer: Option<String>,
    /// Name of the account that pays for the file; `None` is the account `anonymous`.
    account: Option<String>,
    /// Bytes of content, if the client knows them.
    size: Option<u64>,
    /// The bucket; `None` is the one of files that name none.
    bucket: Option<String>,
    /// Whether a file that has the name stays.
    #[serde(default)]
    no_replace: bool,
    /// When the source of the content was last modified, in milliseconds since 1970.
    modified_ms: Option<i64>,
    /// The class of the file; `None` is that of its bucket.
    class: Option<String>,
    /// What is kept beside the content: [`FileDetails`] as JSON.
    details: Option<String>,
    /// Id of the version; `None` is what the name stands for now.
    version: Option<String>,
}

impl Named {
    fn file(&self, name: String) -> FileName {
        named(self.bucket.clone(), name)
    }

    fn version(&self, name: String) -> Result<FileVersion, ArrayError> {
        Ok(FileVersion {
            name: self.file(name),
            version: parsed(self.version.as_deref())?,
        })
    }

    fn details(&self) -> Result<Details, ArrayError> {
        let Some(json) = &self.details else {
            return Ok(Details::default());
        };
        let details: Result<FileDetails, _> = serde_json::from_str(json);
        let details = details.map_err(|_| ArrayError::Details("`details` is not as it should be"));
        Ok(details?.into())
    }

    fn replace(&self) -> Replace {
        match self.no_replace {
            true => Replace::No,
            false => Replace::Yes,
        }
    }
}

fn parsed(version: Option<&str>) -> Result<Option<VersionId>, ArrayError> {
    version.map(str::parse).transpose()
}

fn named(bucket: Option<String>, name: String) -> FileName {
    FileName {
        bucket: bucket.unwrap_or_else(|| DEFAULT_BUCKET.to_owned()),
        name,
    }
}

pub(crate) async fn store(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(named): Query<Named>,
    body: Body,
) -> Answer<File> {
    let name = named.file(name);
    let options = PutOptions {
        size: named.size,
        account: named.account.clone(),
        class: named.class.clone(),
        replace: named.replace(),
        source_modified: named.modified_ms.map(Moment::from_millis),
        transfer: Transfer::default(),
        details: named.details()?,
    };
    let registered = admin.transfers.register(named);
    let content = Content::new(body);
    let options = PutOptions {
        transfer: registered.transfer.clone(),
        ..options
    };
    let stored = match admin.live.array() {
        Ok(array) => array.put(&name, content.pieces().boxed(), options).await,
        Err(e) => Err(e),
    };
    // Otherwise the client would find its connection closed, and not the answer.
    if stored.is_err() {
        content.drain().await;
    }
    Ok(Json(stored?.into()))
}

pub(crate) async fn transferred(
    State(admin): Shared,
    Path(id): Path<String>,
) -> Result<Json<BTreeMap<String, u64>>, StatusCode> {
    let transfer = admin.transfers.lock().get(&id).cloned();
    transfer
        .map(|transfer| Json(transfer.clouds()))
        .ok_or(StatusCode::NOT_FOUND)
}

pub(crate) async fn read(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let file = named.version(name)?;
    let registered = admin.transfers.register(named);
    let asked = headers
        .get(header::RANGE)
        .and_then(|v| v.to_str().ok())
        .and_then(parse_range);
    let (info, range, mut content) = admin
        .live
        .array()?
        .get(file, asked.clone(), registered.transfer.clone())
        .await?;
    // The first piece is read before the head of the answer goes out. So a content that cannot be
    // read at all is an error like any other.
    let first = content.try_next().await?;
    let content = content
        .inspect_err(|e| tracing::warn!("a content broke off on its way to the client: {e}"));
    let content = stream::iter(first.map(Ok))
        .chain(content)
        .inspect(move |_| {
            let _under_way = &registered;
        });
    let status = if asked.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let length = (range.end - range.start).to_string();
    let modified = info.source_modified.unwrap_or(info.modified);
    let part = asked.as_ref().map(|_| {
        let last = range.end.saturating_sub(1);
        format!("bytes {}-{last}/{}", range.start, info.size)
    });
    let etag = info.details.etag.map(|etag| format!("\"{etag}\""));
    let heads = [
        (header::CONTENT_LENGTH.as_str(), Some(length)),
        (header::CONTENT_RANGE.as_str(), part),
        (header::CONTENT_TYPE.as_str(), info.details.content_type),
        (header::ETAG.as_str(), etag),
        (MODIFIED, Some(modified.as_millis().to_string())),
    ];
    let mut answer = (status, Body::from_stream(content)).into_response();
    let heads = heads.into_iter();
    for (name, text) in heads.filter_map(|(name, text)| Some((name, text?))) {
        // A text that no header can have, such as one beyond ASCII, is left out.
        if let (Ok(name), Ok(text)) = (HeaderName::try_from(name), HeaderValue::try_from(text)) {
            answer.headers_mut().insert(name, text);
        }
    }
    tracing::debug!(name = info.name, ?range, "read");
    Ok(answer)
}

/// Parses a range header: `bytes=a-b` or `bytes=a-` (RFC 9110 section 14.1.2). Returns `None` for
/// any other range, which is ignored, as HTTP allows.
fn parse_range(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start = first.parse().ok()?;
    let end = if last.is_empty() {
        u64::MAX
    } else {
        last.parse::<u64>().ok()?.checked_add(1)?
    };
    (start < end).then_some(start..end)
}

pub(crate) async fn remove(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(query): Query<Named>,
) -> Result<StatusCode, Refused> {
    let (array, file) = (admin.live.array()?, query.version(name)?);
    match file.version {
        Some(version) => array.remove_version(&file.name, version).await?,
        None => array.remove(&file.name).await.map(drop)?,
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn stat(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(query): Query<Named>,
) -> Answer<File> {
    let file = query.version(name)?;
    Ok(Json(admin.live.array()?.stat(file).await?.into()))
}

/// The query of a request to copy or move a file.
#[derive(Deserialize)]
pub(crate) struct Source {
    /// Name of the file that is copied or moved.
    from: String,
    /// Its bucket.
    from_bucket: Option<String>,
    /// Id of the version that is copied; `None` is what the name stands for now.
    version: Option<String>,
    /// Bucket of the new file.
    bucket: Option<String>,
    #[serde(default)]
    no_replace: bool,
    /// Whether the old file goes.
    #[serde(default)]
    moves: bool,
}

pub(crate) async fn copy(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(source): Query<Source>,
) -> Answer<File> {
    let version = parsed(source.version.as_deref())?;
    let (from, to) = (
        named(source.from_bucket, source.from),
        named(source.bucket, name),
    );
    let replace = match source.no_replace {
        true => Replace::No,
        false => Replace::Yes,
    };
    let array = admin.live.array()?;
    let made = match source.moves {
        true if version.is_some() => {
            return Err(ArrayError::Details("an old version is copied, and not moved").into());
        }
        true => array.rename(&from, &to, replace).await?,
        false => {
            let from = FileVersion {
                name: from,
                version,
            };
            array.copy(from, &to, replace).await?
        }
    };
    Ok(Json(made.into()))
}

pub(crate) async fn buckets(State(admin): Shared) -> Answer<Vec<Bucket>> {
    let buckets = admin.live.array()?.buckets().await?;
    Ok(Json(buckets.into_iter().map(Bucket::from).collect()))
}

#[derive(Deserialize)]
pub(crate) struct NewBucket {
    /// The class of its files; `None` is the array's default.
    class: Option<String>,
    /// Whether it keeps old versions of its files.
    #[serde(default)]
    versioning: Versioning,
}

pub(crate) async fn create_bucket(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(NewBucket { class, versioning }): Query<NewBucket>,
) -> Result<StatusCode, Refused> {
    let array = admin.live.array()?;
    array
        .create_bucket(&name, class.as_deref(), versioning.into())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(crate) struct BucketChange {
    versioning: Versioning,
}

pub(crate) async fn change_bucket(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(BucketChange { versioning }): Query<BucketChange>,
) -> Result<StatusCode, Refused> {
    let array = admin.live.array()?;
    array.set_versioning(&name, versioning.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn remove_bucket(
    State(admin): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Refused> {
    admin.live.array()?.remove_bucket(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(crate) struct Listing {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    delimiter: String,
    #[serde(default)]
    after: String,
    bucket: Option<String>,
    limit: Option<usize>,
    /// Whether each version of each file is listed.
    #[serde(default)]
    versions: bool,
    /// The version of `after` that the page comes after, if versions are listed.
    after_version: Option<String>,
}

/// Most entries of a page.
const PAGE: usize = 1000;

pub(crate) async fn list(State(admin): Shared, Query(q): Query<Listing>) -> Answer<Files> {
    let request = ListRequest {
        listed: match q.versions {
            true => Listed::Versions,
            false => Listed::Current,
        },
        after_version: parsed(q.after_version.as_deref())?,
        bucket: q.bucket.unwrap_or_else(|| DEFAULT_BUCKET.to_owned()),
        prefix: q.prefix,
        delimiter: q.delimiter,
        after: q.after,
        limit: q.limit.unwrap_or(PAGE).min(PAGE),
    };
    let page = admin.live.array()?.list(request).await?;
    Ok(Json(Files {
        files: page.files.into_iter().map(File::from).collect(),
        prefixes: page.prefixes,
        next: page.next,
        next_version: page.next_version.map(|version| version.to_string()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_parsed_or_ignored() {
        assert_eq!(parse_range("bytes=0-9"), Some(0..10));
        assert_eq!(parse_range("bytes=5-"), Some(5..u64::MAX));
        for ignored in [
            "bytes=-5",
            "bytes=9-5",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=a-b",
            "",
        ] {
            assert_eq!(parse_range(ignored), None, "{ignored}");
        }
    }
}
