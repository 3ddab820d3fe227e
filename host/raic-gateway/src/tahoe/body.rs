//! Reads the bodies of requests, within limits of length, memory and time.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, http::HeaderMap};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Refusal, headers::content_length};

/// How long each MiB of a body may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request waits for memory.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Longest body or answer that is not counted, in bytes: the number of connections bounds their
/// memory.
const SMALL: u64 = 32 << 10;
/// Most bytes that are read before the time is counted anew.
const PIECE: usize = 1 << 20;
/// Unit in which memory is counted, in bytes.
const UNIT: u64 = 1 << 10;

/// The memory for bodies that are held whole.
#[derive(Clone, Debug)]
pub(crate) struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    /// Makes a memory of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }

    /// Takes memory for so many bytes. A few bytes are not counted and wait for nobody: otherwise
    /// some slow clients with large requests would stop all others.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        if bytes <= SMALL {
            return Ok(None);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| Refusal::TooLong)?;
        let taken = self.0.clone().acquire_many_owned(units);
        match tokio::time::timeout(LONGEST_WAIT, taken).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(Refusal::Busy),
        }
    }
}

/// The body of an answer that is held whole, with the memory that it counts as.
pub(crate) struct Counted {
    bytes: Option<Bytes>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Counted {
    /// Makes the body of an answer.
    pub(crate) fn new(bytes: Bytes, memory: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            bytes: Some(bytes),
            _memory: memory,
        }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// The body of a request, as it comes.
pub(crate) struct Incoming {
    stream: axum::body::BodyDataStream,
    /// Bytes that came and were not taken.
    rest: Bytes,
    /// Bytes that the client announced and that have not come.
    left: u64,
}

/// A body that is held whole. Its memory is counted until this is dropped.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Incoming {
    /// Begins to read a body whose length must be announced.
    pub(crate) fn new(headers: &HeaderMap, body: Body) -> Result<Self, Refusal> {
        Ok(Self {
            stream: body.into_data_stream(),
            rest: Bytes::new(),
            left: content_length(headers)?,
        })
    }

    /// The announced length of what has not been taken, in bytes.
    pub(crate) fn left(&self) -> u64 {
        self.left + self.rest.len() as u64
    }

    /// Takes the next piece: `most` bytes, or all that is left. It is empty at the end.
    pub(crate) async fn next(&mut self, most: usize) -> Result<Bytes, Refusal> {
        let next = tokio::time::timeout(PATIENCE, self.gather(most)).await;
        next.map_err(|_| Refusal::Slow)?
    }

    async fn gather(&mut self, most: usize) -> Result<Bytes, Refusal> {
        let wanted = usize::try_from(self.left()).unwrap_or(most).min(most);
        let mut piece = BytesMut::new();
        while piece.len() < wanted {
            if self.rest.is_empty() {
                self.rest = self.arrived().await?;
            }
            let part = self
                .rest
                .split_to(self.rest.len().min(wanted - piece.len()));
            if piece.is_empty() && part.len() == wanted {
                return Ok(part);
            }
            piece.extend_from_slice(&part);
        }
        Ok(piece.freeze())
    }

    async fn arrived(&mut self) -> Result<Bytes, Refusal> {
        match self.stream.next().await {
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Ok(bytes)
            }
            _ => Err(Refusal::BadRequest("its body broke off")),
        }
    }

    /// Takes all of a body of at most `most` bytes into memory.
    pub(crate) async fn whole(mut self, most: u64, memory: &BodyMemory) -> Result<Held, Refusal> {
        let length = self.left();
        if length > most {
            return Err(Refusal::TooLong);
        }
        let permit = memory.take(length).await?;
        let mut whole = BytesMut::new();
        loop {
            // Grows with what has come, and not with what was announced.
            let piece = self.next(PIECE).await?;
            if piece.is_empty() {
                break;
            }
            if whole.is_empty() && self.left() == 0 {
                return Ok(Held {
                    bytes: piece,
                    _memory: permit,
                });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Held {
            bytes: whole.freeze(),
            _memory: permit,
        })
    }
}
