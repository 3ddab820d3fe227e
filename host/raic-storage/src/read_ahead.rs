//! Reads several objects in a row. The next object is fetched while the reader takes one.
//!
//! A request holds one of its cloud's places, and keeps a timer of the breaker running, until its
//! body has come. So a task of its own reads each object to its end, whatever the reader does. A
//! reader that is slow or stops holds only memory, which is bounded, and no place that others need.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{Result, ShareStream};

/// The bytes of one object, in the pieces in which they came.
pub(crate) type Pieces = Vec<Bytes>;

/// Collects all pieces of a stream.
pub(crate) async fn gathered(body: impl Stream<Item = Result<Bytes>> + Unpin) -> Result<Pieces> {
    body.try_collect().await
}

/// Returns a stream of the objects that `requests` fetch, in their order. At most `ahead` requests
/// are under way, and two objects wait to be taken. The first object is awaited here, so that a
/// missing one is an error at once.
///
/// Dropping the stream ends the requests under way.
pub(crate) async fn read_ahead<F>(
    requests: impl Stream<Item = F> + Send + 'static,
    ahead: usize,
) -> Result<ShareStream>
where
    F: Future<Output = Result<Pieces>> + Send + 'static,
{
    let mut requests = Box::pin(requests.buffered(ahead));
    let first = match requests.next().await {
        None => return Ok(stream::empty().boxed()),
        Some(first) => first?,
    };
    let (sender, receiver) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        while let Some(next) = requests.next().await {
            let is_last = next.is_err();
            if sender.send(next).await.is_err() || is_last {
                break;
            }
        }
    });
    let rest = Ahead {
        receiver,
        _task: AbortOnDropHandle::new(task),
    };
    let pieces = stream::once(async { Ok(first) }).chain(rest);
    Ok(pieces
        .map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)))
        .try_flatten()
        .boxed())
}

struct Ahead {
    receiver: mpsc::Receiver<Result<Pieces>>,
    _task: AbortOnDropHandle<()>,
}

impl Stream for Ahead {
    type Item = Result<Pieces>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context)
    }
}
