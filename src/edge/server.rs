//! Accepts sockets: bounds how many there are, sets what the system may buffer, and gives up on clients that take nothing.
//!
//! Bound: `limits.connections`, or what the open-file limit leaves. One more is answered 503 and closed. Write deadline: `limits.write_timeout`, here and nowhere else, so that
//! it holds for every transport.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::Accept;
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::metrics::record;
use crate::settings::Limits;

/// Files that are not connections: the log's, and what is refused but not yet closed.
const FILES_RESERVED: u64 = 256;
/// Refusals under way at once; beyond it a socket is closed without a word.
const REFUSALS: usize = 64;
/// How long a refused client may take to send its request and read the answer.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// hyper's smallest: it is most of what an idle SSE connection costs. A request's head must fit in.
const HTTP_BUFFER_BYTES: usize = 8192;

const REFUSAL: &str = "{\"type\":\"urn:tidegate:problem:too-many-connections\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"there are as many connections as there may be; come back in a moment\"}";

/// Raises the open-file limit as far as it goes; how many connections it leaves room for.
#[must_use]
pub fn connections_max(limits: &Limits) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // A limit that cannot be raised is used as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    let room = usize::try_from(files.saturating_sub(FILES_RESERVED).max(16)).unwrap_or(usize::MAX);
    if limits.connections == 0 { room } else { limits.connections.min(room) }
}

/// Serves until the handle says to stop.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    handle: Handle<SocketAddr>,
    limits: &Limits,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let gate = Gate {
        open: Arc::new(AtomicUsize::new(0)),
        refusing: Arc::new(AtomicUsize::new(0)),
        max: connections_max(limits),
        send_buffer: limits.send_buffer,
        write_timeout: limits.write_timeout,
    };
    let mut server = axum_server::from_tcp(listener)?.acceptor(gate).handle(handle);
    // HTTP/1 alone: with HTTP/2 many streams would share one counted socket, and a socket that says nothing would be waited for.
    *server.http_builder() = Builder::new(TokioExecutor::new()).http1_only();
    let mut http = server.http_builder().http1();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(HTTP_BUFFER_BYTES);
    server.serve(router.into_make_service_with_connect_info::<SocketAddr>()).await
}

/// Counts sockets and lets no more in than there may be.
#[derive(Clone)]
struct Gate {
    open: Arc<AtomicUsize>,
    refusing: Arc<AtomicUsize>,
    max: usize,
    send_buffer: usize,
    write_timeout: Duration,
}

/// One place among so many, given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < max).then_some(now + 1));
        taken.is_ok().then(|| Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Gate {
    type Stream = Socket;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Socket, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let gate = self.clone();
        Box::pin(async move {
            let Some(place) = Place::take(&gate.open, gate.max) else {
                record::connection_refused("full");
                if let Some(_place) = Place::take(&gate.refusing, REFUSALS) {
                    // A client that does not listen is not waited for.
                    let _ = timeout(REFUSAL_TIME, refuse(stream)).await;
                }
                return Err(io::Error::other("as many connections as there may be"));
            };
            stream.set_nodelay(true)?;
            // Without this the system takes megabytes for a client that does not read before anybody notices.
            SockRef::from(&stream).set_send_buffer_size(gate.send_buffer)?;
            record::socket_opened();
            Ok((Socket { stream, write_timeout: gate.write_timeout, stalled: None, _place: place }, service))
        })
    }
}

/// Reads the request's beginning, so that the answer is not lost in a reset, and answers.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    let length = REFUSAL.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: {length}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n{REFUSAL}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// A client's socket. A write that makes no progress for `limits.write_timeout` fails, and with it whatever stream it belongs to.
struct Socket {
    stream: TcpStream,
    write_timeout: Duration,
    /// Set while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Socket {
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

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        record::socket_closed();
    }
}
