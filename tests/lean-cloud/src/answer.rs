//! Answers and their bodies.

use std::{convert::Infallible, io};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode, body::Frame};

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

fn never(e: Infallible) -> io::Error {
    match e {}
}

fn with(status: StatusCode, body: UnsyncBoxBody<Bytes, io::Error>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

pub(crate) fn empty(status: StatusCode) -> Answer {
    with(status, Full::default().map_err(never).boxed_unsync())
}

pub(crate) fn xml(status: StatusCode, document: String) -> Answer {
    let body = Full::new(Bytes::from(document))
        .map_err(never)
        .boxed_unsync();
    with(status, body)
}

pub(crate) fn pieces(
    status: StatusCode,
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Answer {
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
    with(status, body.boxed_unsync())
}

pub(crate) fn error(status: StatusCode, code: &str) -> Answer {
    xml(
        status,
        format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"),
    )
}

/// Cuts `first..=last` out of pieces, without copying.
pub(crate) fn cut(pieces: &[Bytes], first: u64, last: u64) -> Vec<Bytes> {
    let (mut cut, mut at) = (Vec::new(), 0_u64);
    for piece in pieces {
        let end = at + piece.len() as u64;
        let (from, to) = (first.max(at), (last + 1).min(end));
        if from < to {
            cut.push(piece.slice((from - at) as usize..(to - at) as usize));
        }
        at = end;
    }
    cut
}

/// A body of pieces that ends by a failure.
pub(crate) fn breaking(pieces: Vec<Bytes>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let broken = stream::once(async { Err(io::ErrorKind::ConnectionReset.into()) });
    stream::iter(pieces.into_iter().map(Ok)).chain(broken)
}

/// A body of pieces after which nothing comes.
pub(crate) fn hanging(pieces: Vec<Bytes>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::iter(pieces.into_iter().map(Ok)).chain(stream::pending())
}
