//! The content of a file on its way in.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, BodyDataStream, Bytes};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::Mutex;

/// How long the rest of a refused content is read at most.
const DRAIN: Duration = Duration::from_secs(10);

/// A request's body whose rest can be read after the array has refused it. If the connection were
/// closed while the client sends, the client would see a broken pipe instead of the reason.
#[derive(Clone, Debug)]
pub(crate) struct Content(Arc<Mutex<BodyDataStream>>);

impl Content {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body.into_data_stream())))
    }

    /// Returns the pieces of the content. No other task waits for the lock while they are read.
    pub(crate) fn pieces(&self) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
        stream::unfold(self.0.clone(), |body| async move {
            let piece = body.lock().await.next().await;
            piece.map(|piece| (piece, body))
        })
    }

    /// Reads the rest of the content and drops it, for [`DRAIN`] at most. A client that still sends
    /// after that does not get the reason of the refusal.
    pub(crate) async fn drain(&self) {
        let drained = async {
            let mut body = self.0.lock().await;
            while body.next().await.is_some_and(|piece| piece.is_ok()) {}
        };
        let _ = tokio::time::timeout(DRAIN, drained).await;
    }
}
