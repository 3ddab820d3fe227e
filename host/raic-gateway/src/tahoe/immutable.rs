//! Routes for uploads of immutable shares.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bytes::Bytes;
use raic_storage::{ShareId, StorageError, UploadSecret};

use super::{
    Caller, Refusal, SharedDoor, answer,
    body::Incoming,
    headers::{self, CBOR, Secrets},
    messages::{self, Allocate},
    shares::{index_of, share_of},
};

/// Longest document of an allocation, in bytes.
const LONGEST_ALLOCATION: u64 = 8192;
/// Most bytes that are given to the storage server at once. Clients send about as much in a
/// request.
const PIECE: usize = 1 << 20;

/// Allocates shares for an upload, and renews the lease on those that exist.
pub(crate) async fn allocate(
    State(door): SharedDoor,
    caller: Caller,
    Path(index): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut secrets = Secrets::of(&headers)?;
    let (renew, upload) = (secrets.lease()?, secrets.upload()?);
    secrets.require_no_other()?;
    headers::require_accepts(&headers, CBOR)?;
    headers::require_cbor(&headers)?;
    let index = index_of(&index)?;
    let body = Incoming::new(&headers, body)?;
    let document = body.whole(LONGEST_ALLOCATION, &door.memory).await?;
    let Allocate { shares, size } = Allocate::decode(&document.bytes)?;
    let account = caller.client.account;
    let allocated = caller
        .server
        .allocate(account, index, shares, size, upload, renew)
        .await?;
    if !allocated.already_have.is_empty() {
        let count = allocated.already_have.len();
        door.activity.leased(caller.client, count);
    }
    let document = messages::allocated(&allocated.already_have, &allocated.allocated);
    Ok(answer(StatusCode::OK, document))
}

/// Writes a part of an upload. The answer has the ranges that are still to be written.
pub(crate) async fn write(
    caller: Caller,
    Path((index, share)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut secrets = Secrets::of(&headers)?;
    let upload = secrets.upload()?;
    secrets.require_no_other()?;
    headers::require_accepts(&headers, CBOR)?;
    let range = headers::content_range(&headers)?;
    let id = share_of(&index, &share)?;
    let mut body = Incoming::new(&headers, body)?;
    if body.left() != range.end - range.start {
        return Err(Refusal::BadRequest("its body is not as long as its range"));
    }
    if body.left() > PIECE as u64 {
        // Otherwise the pieces before the wrong one would be written.
        caller.server.require_within(id, upload, range.end).await?;
    }
    let mut offset = range.start;
    loop {
        // Each piece is durable before the next is read, so that a body is never held whole.
        let piece = body.next(PIECE).await?;
        let length = piece.len() as u64;
        let required = write_piece(&caller, id, upload, offset, piece).await?;
        offset += length;
        // The share may be complete by a piece before the last, if the others came earlier.
        if offset == range.end || required.is_empty() {
            let status = match required.is_empty() {
                true => StatusCode::CREATED,
                false => StatusCode::OK,
            };
            return Ok(answer(status, messages::required(&required)));
        }
    }
}

async fn write_piece(
    caller: &Caller,
    id: ShareId,
    upload: UploadSecret,
    offset: u64,
    piece: Bytes,
) -> Result<Vec<std::ops::Range<u64>>, Refusal> {
    let written = caller.server.write(id, upload, offset, piece).await?;
    Ok(written.required)
}

/// Gives an upload up.
pub(crate) async fn abort(
    caller: Caller,
    Path((index, share)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut secrets = Secrets::of(&headers)?;
    let upload = secrets.upload()?;
    secrets.require_no_other()?;
    headers::require_accepts(&headers, CBOR)?;
    let id = share_of(&index, &share)?;
    match caller.server.abort(id, upload).await {
        Ok(()) => Ok(super::done()),
        Err(StorageError::Taken { .. }) => Err(Refusal::Complete),
        Err(e) => Err(e.into()),
    }
}
