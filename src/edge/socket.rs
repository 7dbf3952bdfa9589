//! A client's socket, whatever it runs over, with the one write deadline of the daemon: a write that makes no progress for `limits.write_timeout` fails, and with it whatever stream it belongs to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::metrics::record;

/// What a socket runs over.
pub(super) enum Wire {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP. In a box, because it is large and the others are many.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A socket. `P` is what it holds while it is open.
pub(super) struct Socket<P> {
    wire: Wire,
    write_timeout: Duration,
    /// Set while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _places: P,
}

impl<P> Socket<P> {
    pub(super) fn new(wire: Wire, write_timeout: Duration, places: P) -> Self {
        record::socket_opened();
        Self { wire, write_timeout, stalled: None, _places: places }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let limit = self.write_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        timer.as_mut().reset(Instant::now() + limit);
        record::connection_cut("stalled");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

/// The same call on whichever it is.
macro_rules! on_wire {
    ($self:expr, $wire:ident => $call:expr) => {
        match &mut $self.wire {
            Wire::Tcp($wire) => $call,
            Wire::Unix($wire) => $call,
            Wire::Tls($wire) => $call,
        }
    };
}

impl<P: Unpin> AsyncRead for Socket<P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, wire => Pin::new(wire).poll_read(cx, buffer))
    }
}

impl<P: Unpin> AsyncWrite for Socket<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = on_wire!(self, wire => Pin::new(wire).poll_write(cx, bytes));
        self.judge(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = on_wire!(self, wire => Pin::new(wire).poll_write_vectored(cx, bytes));
        self.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Tcp(wire) => wire.is_write_vectored(),
            Wire::Unix(wire) => wire.is_write_vectored(),
            Wire::Tls(wire) => wire.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = on_wire!(self, wire => Pin::new(wire).poll_flush(cx));
        self.judge(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, wire => Pin::new(wire).poll_shutdown(cx))
    }
}

impl<P> Drop for Socket<P> {
    fn drop(&mut self) {
        record::socket_closed();
    }
}
