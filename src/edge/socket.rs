//! A client's socket, whatever it runs over, with the one write deadline of the daemon: a write that makes no progress for `limits.write_timeout` fails, and with it whatever stream it belongs to.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::engine::connections::profile::Kill;
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
    /// Taken out when it ends.
    wire: Option<Wire>,
    write_timeout: Duration,
    kill: Kill,
    /// Whether several streams share it: then one that takes nothing does not show as a socket that takes nothing.
    shared: bool,
    /// Whether there is nobody to be waited for at the end: the client has ended it, or takes nothing.
    over: bool,
    /// Set while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _places: P,
}

impl<P> Socket<P> {
    pub(super) fn new(wire: Wire, write_timeout: Duration, kill: Kill, places: P) -> Self {
        record::socket_opened();
        Self { wire: Some(wire), write_timeout, kill, shared: false, over: false, stalled: None, _places: places }
    }

    /// Several streams share it.
    pub(super) fn shared(self) -> Self {
        let mut socket = self;
        socket.shared = true;
        socket
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        if self.kill.poll(cx) {
            self.over = true;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "ended by the daemon")));
        }
        let limit = self.write_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        timer.as_mut().reset(Instant::now() + limit);
        self.over = true;
        record::connection_cut("stalled");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

/// The same call on whichever it is.
macro_rules! on_wire {
    ($self:expr, $wire:ident => $call:expr) => {
        match &mut $self.wire {
            Some(Wire::Tcp($wire)) => $call,
            Some(Wire::Unix($wire)) => $call,
            Some(Wire::Tls($wire)) => $call,
            // Only while it is dropped, and then nobody calls.
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl<P: Unpin> AsyncRead for Socket<P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.shared && self.kill.poll(cx) {
            self.over = true;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "ended by the daemon")));
        }
        let before = buffer.filled().len();
        let outcome = on_wire!(self, wire => Pin::new(wire).poll_read(cx, buffer));
        if let Poll::Ready(read) = &outcome {
            self.over |= read.is_err() || buffer.filled().len() == before;
        }
        outcome
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
            Some(Wire::Tcp(wire)) => wire.is_write_vectored(),
            Some(Wire::Unix(wire)) => wire.is_write_vectored(),
            Some(Wire::Tls(wire)) => wire.is_write_vectored(),
            None => false,
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
        // A client that is still sending would get a reset, and with it lose the answer that says why (RFC 9112, section 9.6).
        if let (false, Some(Wire::Tcp(stream)), Ok(runtime)) =
            (self.over, self.wire.take(), tokio::runtime::Handle::try_current())
        {
            let place = LINGERING
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < LINGERING_MAX).then_some(now + 1));
            if place.is_ok() {
                runtime.spawn(linger(stream));
            }
        }
    }
}

/// Sockets that are read on after their end.
static LINGERING: AtomicUsize = AtomicUsize::new(0);
/// So many of them at most; others are just closed.
const LINGERING_MAX: usize = 1024;
/// How long, and how much, is read on.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 << 20;

/// Says that nothing more comes, and takes what still does.
async fn linger(mut stream: TcpStream) {
    let reading = async {
        stream.shutdown().await?;
        let (mut rubbish, mut left) = ([0; 4096], LINGER_BYTES);
        while left > 0 {
            match stream.read(&mut rubbish).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<(), io::Error>(())
    };
    let _ = tokio::time::timeout(LINGER_TIME, reading).await;
    LINGERING.fetch_sub(1, Ordering::AcqRel);
}
