//! Takes the rest of a request's body before the answer goes out.
//!
//! A client sends its whole body before it reads the answer. If a refusal came while the body is
//! still on its way and the connection were closed then, the client would see a broken connection
//! in the place of the refusal.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;

use super::LONGEST_SLOT_REQUEST;

/// How long the rest of a body may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A body that comes back when its reader has dropped it.
struct Lent {
    body: Option<Body>,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map(HttpBody::size_hint)
            .unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // Nobody waits for it if the request itself was dropped.
            let _ = back.send(body);
        }
    }
}

/// Answers a request, and takes what is left of its body first. More than a request may have is
/// left on the way.
pub(crate) async fn drained(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (back, lent) = oneshot::channel();
    let body = Body::new(Lent {
        body: Some(body),
        back: Some(back),
    });
    let response = next.run(Request::from_parts(parts, body)).await;
    if let Ok(body) = lent.await {
        let mut rest = body.into_data_stream();
        let take = async {
            let mut taken = 0;
            while let Some(Ok(piece)) = rest.next().await {
                taken += piece.len() as u64;
                if taken > LONGEST_SLOT_REQUEST {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, take).await;
    }
    response
}
