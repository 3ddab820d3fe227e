//! A connection whose answers can be cut or changed on their way out, where the HTTP library would
//! not do it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::misbehaviour::{Fault, Misbehaviour, Moment};

/// Bytes of an answer's head that come before it is cut: less than its status line.
const HEAD: usize = 10;

/// What happens to the head of the first answer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Sound,
    Cut,
    Flipped,
}

/// A connection to a client.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    head: Head,
    sent: usize,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, misbehaviour: Option<Misbehaviour>) -> Self {
        let fault = misbehaviour.and_then(|m| m.when(Moment::Headers));
        let head = match fault {
            Some(Fault::Short) => Head::Cut,
            Some(Fault::BitFlip) => Head::Flipped,
            _ => Head::Sound,
        };
        let resets = misbehaviour.is_some_and(|m| m.fault == Fault::Reset);
        if resets {
            // The end of such a connection is a reset. An error here means that it has ended.
            let _ = stream.set_zero_linger();
        }
        Self {
            stream,
            head,
            sent: 0,
        }
    }

    fn send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let cut = |buf: &[u8], most: usize| buf[..buf.len().min(most)].to_vec();
        let now = match self.head {
            Head::Cut if self.sent >= HEAD => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            Head::Cut => cut(buf, HEAD - self.sent),
            Head::Flipped if self.sent <= HEAD => {
                let mut head = cut(buf, HEAD + 1);
                // Within "HTTP/1.1 200": the second digit of the status.
                if let Some(byte) = head.get_mut(HEAD - self.sent) {
                    *byte ^= 2;
                }
                head
            }
            _ => {
                let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
                return sent.map_ok(|sent| {
                    self.sent += sent;
                    sent
                });
            }
        };
        let sent = Pin::new(&mut self.stream).poll_write(cx, &now);
        sent.map_ok(|sent| {
            self.sent += sent;
            sent
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().send(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.head == Head::Sound {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        this.send(cx, first.map_or(&[], |buf| buf))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
