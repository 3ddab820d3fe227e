//! The route for slots, the mutable shares of a storage index.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use raic_storage::{MAX_VECTOR, StorageError};

use super::{
    Caller, LONGEST_SLOT_REQUEST, Refusal, SharedDoor, answer,
    body::{Counted, Incoming},
    headers::{self, CBOR, Secrets},
    messages::{self, ReadTestWrite},
    shares::index_of,
};

/// Tests, writes and reads the shares of a slot, in one turn.
pub(crate) async fn read_test_write(
    State(door): SharedDoor,
    caller: Caller,
    Path(index): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut secrets = Secrets::of(&headers)?;
    let (renew, enabler) = (secrets.lease()?, secrets.enabler()?);
    secrets.require_no_other()?;
    headers::require_accepts(&headers, CBOR)?;
    headers::require_cbor(&headers)?;
    let index = index_of(&index)?;
    let body = Incoming::new(&headers, body)?;
    let document = body.whole(LONGEST_SLOT_REQUEST, &door.memory).await?;
    let ReadTestWrite { vectors, reads } = ReadTestWrite::decode(&document.bytes)?;
    let named = vectors.len();
    // The answer is held whole, too. Every share of the slot may have every range.
    let asked: u64 = reads
        .iter()
        .map(|range| range.end - range.start)
        .fold(0, u64::saturating_add);
    let longest = asked.saturating_mul(256).min(MAX_VECTOR);
    let answers_memory = door.answers.take(longest).await?;
    let (server, account) = (caller.server.clone(), caller.client.account);
    // A task of its own counts the memory of the request until the write has ended, even if the
    // client goes away.
    let turn = tokio::spawn(async move {
        let _counted = document;
        server
            .read_test_write(account, index, enabler, renew, vectors, &reads)
            .await
    });
    let answered = turn
        .await
        .map_err(|e| StorageError::Task(e.to_string()))??;
    if answered.is_written && named > 0 {
        door.activity.leased(caller.client, named);
    }
    let document = messages::written(&answered);
    drop(answered);
    Ok(answer(
        StatusCode::OK,
        Body::new(Counted::new(document, answers_memory)),
    ))
}
