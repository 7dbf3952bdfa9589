//! Accepts sockets: bounds how many there are, sets what the system may buffer, speaks TLS where it is asked to, and hands them to HTTP.
//!
//! Bound: `limits.connections`, or what the open-file limit leaves. One more is answered 503 and closed. The write deadline is in [`socket`](super::socket), so that it holds for every transport.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::listen::Listener;
use super::socket::{Socket, Wire};
use super::tls::Tls;
use super::way_in::Api;
use crate::engine::connections::profile::Kill;
use crate::limits::places::{Place as IpPlace, Places};
use crate::limits::{Guards, client};
use crate::metrics::record;
use crate::settings::Limits;

/// Files that are not connections: the log's, and what is refused but not yet closed.
const FILES_RESERVED: u64 = 256;
/// Sockets beside those of streams, where streams are limited; at least so many.
const CALLS_BESIDE: usize = 64;
/// Refusals under way at once; beyond it a socket is closed without a word.
const REFUSALS: usize = 64;
/// How long a refused client may take to send its request and read the answer.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// How long to wait when the system has no socket to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often an HTTP/2 client that says nothing is asked whether it lives, and how long it may take to say so.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// All places are taken.
const FULL: Refusal = (
    "503 Service Unavailable",
    "{\"type\":\"urn:tidegate:problem:too-many-connections\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"there are as many connections as there may be; come back in a moment\",\"retryAfter\":5}",
);
/// One address has taken all that it may.
const TOO_MANY_OF_ONE: Refusal = (
    "429 Too Many Requests",
    "{\"type\":\"urn:tidegate:problem:too-many-connections\",\"title\":\"Too Many Requests\",\"status\":429,\"detail\":\"this address has as many TCP connections as it may (limits.per_ip_sockets)\",\"retryAfter\":5}",
);

/// Raises the open-file limit as far as it goes; how many files may be open then.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // A limit that cannot be raised is used as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// Raises the open-file limit as far as it goes; how many connections it leaves room for.
#[must_use]
pub fn connections_max(limits: &Limits) -> usize {
    let files = raise_open_files();
    let room = usize::try_from(files.saturating_sub(FILES_RESERVED).max(16)).unwrap_or(usize::MAX);
    // Beside the streams there is room for calls, so that a full daemon still answers its probes.
    if limits.connections == 0 {
        room
    } else {
        limits.connections.saturating_add(CALLS_BESIDE.max(limits.connections / 10)).min(room)
    }
}

/// Who a request comes from, by its socket.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address; `None` on a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// What every socket is served with.
struct Serving {
    gate: Gate,
    api: Api,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    tls: Option<Tls>,
    handshake_timeout: Duration,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// Starts to accept.
///
/// # Errors
/// Where a listener cannot be used.
pub fn start(
    listeners: Vec<Listener>,
    api: Api,
    limits: &Limits,
    guards: Guards,
    tls: Option<Tls>,
) -> io::Result<Server> {
    let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
    let serving = Arc::new(Serving {
        gate: Gate::new(limits, guards),
        api,
        http1: http1(limits),
        http2: http2(limits),
        tls,
        handshake_timeout: limits.header_timeout,
        stopping: stopping.clone(),
        tasks: tasks.clone(),
    });
    for listener in listeners {
        let serving = Arc::clone(&serving);
        match listener {
            Listener::Tcp(listener) => tasks.spawn(accept_tcp(TcpListener::from_std(listener)?, serving)),
            Listener::Unix(listener) => tasks.spawn(accept_unix(UnixListener::from_std(listener)?, serving)),
        };
    }
    Ok(Server { stopping, tasks })
}

impl Server {
    /// Accepts nothing more; requests under way go on, and connections without one are closed. Waits for all to end, up to `limit`; `true` if they did.
    pub async fn stop(self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tasks.close();
        timeout(limit, self.tasks.wait()).await.is_ok()
    }
}

/// Without TLS a client speaks HTTP/1: to find out whether it does, a socket that says nothing would be waited for without a limit.
fn http1(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(limits.header_bytes);
    http
}

/// Over TLS it is agreed on beforehand. Streams on one connection are bounded, because each of them is counted but the socket only once.
fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let header_bytes = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING)
        .max_send_buf_size(limits.send_buffer);
    http
}

async fn accept_tcp(listener: TcpListener, serving: Arc<Serving>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = serving.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => serving.take_tcp(stream, peer),
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_unix(listener: UnixListener, serving: Arc<Serving>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = serving.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => serving.take_unix(stream),
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// A client that has gone again is nothing; a system that has no more files is told and waited for.
async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if ![ConnectionAborted, ConnectionReset, Interrupted].contains(&error.kind()) {
        record::connection_refused("system");
        tracing::warn!(%error, "no connection can be accepted");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// What becomes of a socket is a task of its own for each step: one that serves should not be as large as one that shakes hands or refuses, because there are many.
impl Serving {
    fn take_tcp(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let places = match self.gate.enter(Some(peer.ip())) {
            Ok(places) => places,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        // Without the second the system takes megabytes for a client that does not read before anybody notices.
        let ready =
            stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_send_buffer_size(self.gate.send_buffer));
        if ready.is_err() {
            // It has gone already.
            return;
        }
        match &self.tls {
            Some(tls) => {
                let shaking = Arc::clone(self).shake_hands(tls.acceptor(), stream, peer, places);
                self.tasks.spawn(shaking);
            }
            None => self.serve_http1(Wire::Tcp(stream), Peer { address: Some(peer), tls: false }, places),
        }
    }

    fn take_unix(self: &Arc<Self>, stream: UnixStream) {
        match self.gate.enter(None) {
            Ok(places) => self.serve_http1(Wire::Unix(stream), Peer { address: None, tls: false }, places),
            Err(refusal) => self.refuse(stream, refusal),
        }
    }

    fn refuse(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, refusal: Refusal) {
        let serving = Arc::clone(self);
        self.tasks.spawn(async move { serving.gate.refuse(stream, refusal).await });
    }

    async fn shake_hands(self: Arc<Self>, tls: TlsAcceptor, mut stream: TcpStream, peer: SocketAddr, places: Held) {
        if said_plain_http(&stream).await {
            let _ = timeout(REFUSAL_TIME, answer_plain(&mut stream)).await;
            return;
        }
        match timeout(self.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let (wire, peer) = (Wire::Tls(Box::new(stream)), Peer { address: Some(peer), tls: true });
                if http2 {
                    self.serve_http2(wire, peer, places);
                } else {
                    self.serve_http1(wire, peer, places);
                }
            }
            Ok(Err(_)) | Err(_) => record::connection_refused("tls"),
        }
    }

    fn serve_http1(self: &Arc<Self>, wire: Wire, peer: Peer, places: Held) {
        let kill = places.kill.clone();
        let socket = Io::new(Socket::new(wire, self.gate.write_timeout, kill.clone(), places));
        let mut connection = self.http1.serve_connection(socket, service(&self.api, peer, kill)).with_upgrades();
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            // Polled where it is: pinned by value it would be moved, and the task would have a place for it twice, a KiB for each connection.
            tokio::select! {
                // A connection that breaks off is no fault of ours, and its streams notice by themselves.
                _ = &mut connection => return,
                () = stopping.cancelled() => std::pin::Pin::new(&mut connection).graceful_shutdown(),
            }
            let _ = (&mut connection).await;
        });
    }

    fn serve_http2(self: &Arc<Self>, wire: Wire, peer: Peer, places: Held) {
        let kill = places.kill.clone();
        let socket = TokioIo::new(Socket::new(wire, self.gate.write_timeout, kill.clone(), places).shared());
        let connection = self.http2.serve_connection(socket, service(&self.api, peer, kill));
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
}

/// The API as hyper calls it; each request is told who it comes from.
fn service(
    api: &Api,
    peer: Peer,
    kill: Kill,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future = <Api as Service<Request>>::Future,
> + use<> {
    let api = api.clone();
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(kill.clone());
        // It is always ready.
        Service::call(&mut api.clone(), request)
    })
}

/// Whether a client speaks HTTP where TLS is due. Looks at what has come without waiting long: a TLS client speaks first.
async fn said_plain_http(stream: &TcpStream) -> bool {
    let mut first = [0_u8; 1];
    match timeout(REFUSAL_TIME, stream.peek(&mut first)).await {
        // A TLS record of a handshake begins with 22; a method with a letter.
        Ok(Ok(1)) => first[0].is_ascii_uppercase(),
        _ => false,
    }
}

async fn answer_plain(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 36\r\nConnection: close\r\n\r\nthis address speaks TLS: use https:\n").await?;
    stream.shutdown().await
}

/// Counts sockets and lets no more in than there may be.
struct Gate {
    open: Arc<AtomicUsize>,
    refusing: Arc<AtomicUsize>,
    by_ip: Places<IpAddr>,
    max: usize,
    per_ip: usize,
    guards: Guards,
    send_buffer: usize,
    write_timeout: Duration,
}

/// A client's socket with what it takes.
pub(super) type Wired = Socket<Held>;
/// The same as hyper has it over HTTP/1, and gives it back where it becomes something else.
pub(super) type Io = TokioIo<Wired>;

/// What one socket takes while it is open.
pub(super) struct Held {
    _place: Place,
    _ip: Option<IpPlace<IpAddr>>,
    kill: Kill,
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

/// Why a socket is not let in, as its answer says.
type Refusal = (&'static str, &'static str);

impl Gate {
    fn new(limits: &Limits, guards: Guards) -> Self {
        Self {
            open: Arc::new(AtomicUsize::new(0)),
            refusing: Arc::new(AtomicUsize::new(0)),
            by_ip: Places::default(),
            max: connections_max(limits),
            per_ip: limits.per_ip_sockets,
            guards,
            send_buffer: limits.send_buffer,
            write_timeout: limits.write_timeout,
        }
    }

    fn enter(&self, ip: Option<IpAddr>) -> Result<Held, Refusal> {
        let Some(place) = Place::take(&self.open, self.max) else {
            record::connection_refused("full");
            return Err(FULL);
        };
        // A proxy brings many clients.
        let ip = ip.map(|ip| ip.to_canonical()).filter(|ip| !self.guards.is_proxy(ip));
        let own = ip.map(|ip| self.by_ip.take(client::counted(ip), self.per_ip)).transpose();
        match own {
            Ok(own) => Ok(Held { _place: place, _ip: own, kill: Kill::default() }),
            Err(_) => {
                record::connection_refused("per_ip_sockets");
                Err(TOO_MANY_OF_ONE)
            }
        }
    }

    /// Reads the request's beginning, so that the answer is not lost in a reset, and answers.
    async fn refuse(&self, stream: impl AsyncRead + AsyncWrite + Unpin, refusal: Refusal) {
        if let Some(_place) = Place::take(&self.refusing, REFUSALS) {
            // A client that does not listen is not waited for.
            let _ = timeout(REFUSAL_TIME, refuse(stream, refusal)).await;
        }
    }
}

async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin, (status, body): Refusal) -> io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nContent-Length: {length}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
