//! The stream that a reader takes a file's content from. It gives back what it holds if the reader
//! stops.
//!
//! A reader that has taken nothing for [`IDLE`] loses what was read ahead for it: its memory is
//! others'. When it goes on, reading begins anew where it stopped. After [`READER_PATIENCE`] it
//! loses the stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::{ArrayError, Content, Result};

/// A reader that takes nothing for so long loses what was read ahead.
const IDLE: Duration = Duration::from_secs(5);
/// A reader that takes nothing for so long loses its stream.
pub const READER_PATIENCE: Duration = Duration::from_secs(60);
/// A reader that waits for content is not idle, but none waits for so long: the read would have
/// failed before.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How often readers are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Makes the content from an offset on.
type Open = Box<dyn Fn(u64) -> Content + Send>;

struct Reading {
    /// What is being read; `None` if it was given back.
    content: Option<Content>,
    /// `None` once the stream was cut: then nothing is held for it any longer.
    open: Option<Open>,
    /// Bytes that the reader has taken.
    taken: u64,
    last: Instant,
    /// Wakes the reader while it waits for content.
    waits: Option<Waker>,
}

/// A content whose memory does not depend on its reader.
pub(crate) struct Reader {
    reading: Arc<Mutex<Reading>>,
    _watch: AbortOnDropHandle<()>,
}

impl Reader {
    /// Makes the stream of a content that `open` makes from an offset on.
    pub(crate) fn new(open: impl Fn(u64) -> Content + Send + 'static) -> Self {
        let reading = Arc::new(Mutex::new(Reading {
            content: None,
            open: Some(Box::new(open)),
            taken: 0,
            last: Instant::now(),
            waits: None,
        }));
        let watch = AbortOnDropHandle::new(tokio::spawn(watch(reading.clone())));
        Self {
            reading,
            _watch: watch,
        }
    }
}

/// Gives back what an idle reader holds.
async fn watch(reading: Arc<Mutex<Reading>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        // What is dropped is dropped without the lock.
        let (content, open, waits) = {
            let mut reading = reading.lock();
            let idle = reading.last.elapsed();
            let (to_idle, to_cut) = match reading.waits {
                None => (IDLE, READER_PATIENCE),
                Some(_) => (FORGOTTEN, FORGOTTEN),
            };
            (
                reading.content.take_if(|_| idle >= to_idle),
                reading.open.take_if(|_| idle >= to_cut),
                reading.waits.take_if(|_| idle >= to_cut),
            )
        };
        drop(content);
        if let Some(waits) = waits {
            waits.wake();
        }
        if open.is_some() {
            return;
        }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut guard = self.reading.lock();
        let reading = &mut *guard;
        reading.last = Instant::now();
        let content = match (&mut reading.content, &reading.open) {
            (Some(content), _) => content,
            (content, Some(open)) => content.insert(open(reading.taken)),
            (None, None) => return Poll::Ready(Some(Err(ArrayError::ReaderIdle(READER_PATIENCE)))),
        };
        let polled = content.as_mut().poll_next(context);
        reading.waits = match polled {
            Poll::Pending => Some(context.waker().clone()),
            Poll::Ready(_) => None,
        };
        if let Poll::Ready(Some(Ok(piece))) = &polled {
            reading.taken += piece.len() as u64;
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use parking_lot::Mutex;

    use super::*;

    /// Counts how often a content was opened, and how many are held.
    #[derive(Clone, Default)]
    struct Opened(Arc<Mutex<Vec<u64>>>, Arc<()>);

    fn reader(opened: &Opened) -> Reader {
        let opened = opened.clone();
        Reader::new(move |from| {
            opened.0.lock().push(from);
            let held = opened.1.clone();
            let pieces = (from..10).map(|number| Ok(Bytes::from(vec![number as u8])));
            let pieces = stream::iter(pieces).inspect(move |_| {
                let _held = &held;
            });
            pieces.boxed()
        })
    }

    #[tokio::test]
    async fn an_idle_reader_holds_nothing_goes_on_and_is_cut_after_a_minute() {
        let opened = Opened::default();
        let mut reading = reader(&opened);
        let next = async |reading: &mut Reader| reading.next().await.unwrap().unwrap()[0];
        assert_eq!((next(&mut reading).await, next(&mut reading).await), (0, 1));
        assert_eq!(Arc::strong_count(&opened.1), 3, "test, opener and content");
        reading.reading.lock().last = Instant::now() - IDLE;
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(
            Arc::strong_count(&opened.1),
            2,
            "the content was given back"
        );
        assert_eq!(next(&mut reading).await, 2);
        assert_eq!(*opened.0.lock(), [0, 2]);
        reading.reading.lock().last = Instant::now() - READER_PATIENCE;
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(Arc::strong_count(&opened.1), 1, "the opener, too");
        let cut = reading.next().await.unwrap();
        assert!(matches!(cut, Err(ArrayError::ReaderIdle(_))));
    }

    /// Once what a reader waited for was given back after 5 seconds, and nobody woke it any more.
    #[tokio::test]
    async fn a_reader_that_waits_for_content_is_not_idle() {
        let late = || {
            let piece = async {
                tokio::time::sleep(LOOK * 4).await;
                Ok(Bytes::from_static(b"late"))
            };
            stream::once(piece).boxed()
        };
        let mut reading = Reader::new(move |_| late());
        let shared = reading.reading.clone();
        let next = tokio::spawn(async move { reading.next().await });
        tokio::time::sleep(LOOK).await;
        shared.lock().last = Instant::now() - READER_PATIENCE;
        let piece = next.await.unwrap().unwrap().unwrap();
        assert_eq!(piece, "late");
    }

    #[tokio::test]
    async fn a_content_comes_whole() {
        let bytes: Vec<_> = reader(&Opened::default()).collect::<Vec<_>>().await;
        let bytes: Vec<u8> = bytes.into_iter().flat_map(|piece| piece.unwrap()).collect();
        assert_eq!(bytes, (0..10).collect::<Vec<u8>>());
    }
}
