//! Routes that immutable and mutable shares have in common: lists, reads, leases and advisories.

use std::ops::Range;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use raic_storage::{EventKind, NewEvent, ShareId, ShareKind, ShareNum, SharePart, StorageIndex};

use super::{
    Caller, Refusal, SharedDoor, answer,
    body::Incoming,
    headers::{self, CBOR, OCTETS, Secrets},
    messages,
};

/// Longest document of an advisory, in bytes.
const LONGEST_ADVISORY: u64 = 32_768;

/// Reads a storage index from a path.
pub(crate) fn index_of(text: &str) -> Result<StorageIndex, Refusal> {
    text.parse().map_err(|_| Refusal::NoSuchResource)
}

/// Reads a share from a path: the storage index and the share number.
pub(crate) fn share_of(index: &str, share: &str) -> Result<ShareId, Refusal> {
    let is_plain = !share.is_empty() && share.bytes().all(|b| b.is_ascii_digit());
    let number = is_plain.then(|| share.parse().ok()).flatten();
    Ok(ShareId {
        index: index_of(index)?,
        share: number.map(ShareNum).ok_or(Refusal::NoSuchResource)?,
    })
}

async fn list(
    caller: &Caller,
    headers: &HeaderMap,
    index: &str,
    kind: ShareKind,
) -> Result<Response, Refusal> {
    Secrets::of(headers)?.require_no_other()?;
    headers::require_accepts(headers, CBOR)?;
    let shares = caller.server.shares(index_of(index)?, kind).await?;
    Ok(answer(StatusCode::OK, messages::set(&shares)))
}

pub(crate) async fn list_immutable(
    caller: Caller,
    headers: HeaderMap,
    Path(index): Path<String>,
) -> Result<Response, Refusal> {
    list(&caller, &headers, &index, ShareKind::Immutable).await
}

pub(crate) async fn list_mutable(
    caller: Caller,
    headers: HeaderMap,
    Path(index): Path<String>,
) -> Result<Response, Refusal> {
    list(&caller, &headers, &index, ShareKind::Mutable).await
}

async fn part(
    caller: &Caller,
    id: ShareId,
    kind: ShareKind,
    range: Range<u64>,
) -> Result<SharePart, Refusal> {
    Ok(match kind {
        ShareKind::Mutable => caller.server.read_mutable(id, range).await?,
        _ => caller.server.read_immutable(id, range).await?,
    })
}

async fn read(
    caller: &Caller,
    headers: &HeaderMap,
    id: ShareId,
    kind: ShareKind,
) -> Result<Response, Refusal> {
    Secrets::of(headers)?.require_no_other()?;
    let asked = match headers::range(headers) {
        Ok(asked) => asked,
        Err(refusal) => {
            // A share that is not there is the better reason.
            part(caller, id, kind, 0..0).await?;
            return Err(refusal);
        }
    };
    let is_ranged = asked.is_some();
    let part = part(caller, id, kind, asked.unwrap_or(0..u64::MAX)).await?;
    if is_ranged && part.range.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let length = part.range.end - part.range.start;
    let mut response = Body::from_stream(part.content).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if is_ranged {
        let last = part.range.end - 1;
        let range = format!("bytes {}-{last}/*", part.range.start);
        if let Ok(range) = HeaderValue::try_from(range) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

pub(crate) async fn read_immutable(
    caller: Caller,
    headers: HeaderMap,
    Path((index, share)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let id = share_of(&index, &share)?;
    read(&caller, &headers, id, ShareKind::Immutable).await
}

pub(crate) async fn read_mutable(
    caller: Caller,
    headers: HeaderMap,
    Path((index, share)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let id = share_of(&index, &share)?;
    read(&caller, &headers, id, ShareKind::Mutable).await
}

/// Adds or renews the caller's lease on all shares of a storage index. Clients ask every server,
/// most of which have no such share.
pub(crate) async fn renew(
    State(door): SharedDoor,
    caller: Caller,
    headers: HeaderMap,
    Path(index): Path<String>,
) -> Result<Response, Refusal> {
    let mut secrets = Secrets::of(&headers)?;
    let renew = secrets.lease()?;
    secrets.require_no_other()?;
    headers::require_accepts(&headers, CBOR)?;
    let index = index_of(&index)?;
    let account = caller.client.account;
    let renewed = caller.server.renew(account, index, renew).await?;
    if renewed.is_empty() {
        return Err(Refusal::NoSuchResource);
    }
    door.activity.leased(caller.client, renewed.len());
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn advise_immutable(
    door: SharedDoor,
    caller: Caller,
    Path((index, share)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    advise(door, &caller, ("immutable", index, share), &headers, body).await
}

pub(crate) async fn advise_mutable(
    door: SharedDoor,
    caller: Caller,
    Path((index, share)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    advise(door, &caller, ("mutable", index, share), &headers, body).await
}

/// Records a client's report that a share is corrupt. Either kind's path serves any share.
async fn advise(
    State(door): SharedDoor,
    caller: &Caller,
    (kind, index, share): (&str, String, String),
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    Secrets::of(headers)?.require_no_other()?;
    headers::require_accepts(headers, CBOR)?;
    let id = share_of(&index, &share)?;
    if !caller.server.has_share(id).await? {
        return Err(Refusal::NoSuchResource);
    }
    headers::require_cbor(headers)?;
    let body = Incoming::new(headers, body)?;
    let document = body.whole(LONGEST_ADVISORY, &door.memory).await?;
    let reason = messages::decode_reason(&document.bytes)?;
    let (number, index) = (id.share, id.index);
    let text = format!("{kind} share {number} of {index} is corrupt, a client reports: {reason}");
    let name = caller.server.name();
    tracing::warn!("cloud {name:?}: {text:?}");
    let event = NewEvent {
        kind: EventKind::Advisory,
        server: Some(caller.client.server),
        account: Some(caller.client.account),
        text,
    };
    caller.server.leasedb().record_events(vec![event]).await?;
    Ok(super::done())
}
