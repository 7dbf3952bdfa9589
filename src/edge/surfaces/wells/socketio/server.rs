//! The Engine.IO server: what a request wants, which session it belongs to, and how many of them there may be.
//!
//! Bounds: sessions that have not signed in `wells.guests_max`, of one address `wells.guests_per_ip` (one that does not sign in within `wells.connect_timeout` is closed), all together as many as there may be
//! connections; from one address as many as `limits.per_ip_connections` says. Errors look as the protocol has them: `{"code", "message"}`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use crate::edge::websocket::Upgrade;
use axum::extract::{Extension, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use dashmap::DashMap;
use serde_json::json;
use smol_str::SmolStr;
use tokio::sync::mpsc;

use super::polling::{self, Order};
use super::recovery::{self, Recovery};
use super::session::Session;
use super::{packet, websocket};
use crate::edge::auth::{self, ClientIp, Shown};
use crate::edge::problem::Problem;
use crate::edge::server::{Peer, connections_max};
use crate::edge::{Edge, body, wellformed};
use crate::limits::places::{Place, Places};
use crate::metrics::record;
use crate::settings::{Limits, Settings, Wells};

/// Orders of one session under way at once: a poll, a post, and what a WebSocket wants.
const ORDERS: usize = 8;
/// Python's client takes no more packets than this in one payload.
const PACKETS: usize = 16;
/// Those of browsers and of Node take any number.
const PACKETS_MANY: usize = 1000;

/// The routes.
pub(in crate::edge) fn routes() -> Router<Edge> {
    Router::new().route("/socket.io", any(serve)).route("/socket.io/", any(serve)).layer(Extension(Server::default()))
}

/// What nobody can guess, in letters that need no escape anywhere.
pub(super) fn secret() -> SmolStr {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>()).into()
}

/// How many bytes a message, or a payload of them, may have. Before somebody has signed in it needs to hold no more than a token.
pub(super) fn message_max(settings: &Settings, signed_in: bool) -> usize {
    let max = settings.limits.message_bytes;
    if signed_in { max } else { max.min(settings.surfaces.wells.guest_message_bytes) }
}

/// How a session is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Carrier {
    Polling,
    /// By polls, while a WebSocket is tried.
    Probing,
    WebSocket,
}

/// A session as requests see it that belong to it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) orders: mpsc::Sender<Order>,
    carrier: AtomicU8,
    /// Whether it has signed in, so that it may send more at once.
    pub(super) signed_in: AtomicBool,
}

impl Entry {
    fn is_websocket(&self) -> bool {
        self.carrier.load(Ordering::Acquire) == Carrier::WebSocket as u8
    }

    /// Goes over from one carrier to another, if it is there.
    pub(super) fn pass(&self, from: Carrier, to: Carrier) -> bool {
        self.carrier.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// All sessions. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Server(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Those that began by polling: others have one socket and nothing else.
    polled: DashMap<SmolStr, Arc<Entry>, ahash::RandomState>,
    open: AtomicUsize,
    guests: AtomicUsize,
    /// The same by address, so that one alone cannot keep all others from signing in.
    guests_by_ip: Places<IpAddr>,
    recovery: Recovery,
}

impl Server {
    /// Who may come back.
    pub(super) fn recovery(&self) -> &Recovery {
        &self.0.recovery
    }

    /// How many sessions there are.
    pub(super) fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    fn find(&self, sid: &str) -> Option<Arc<Entry>> {
        self.0.polled.get(sid).map(|entry| Arc::clone(&entry))
    }

    fn seat(&self, limits: &Limits, wells: &Wells, ip: Option<IpAddr>) -> Result<Seat, Problem> {
        let take = |count: &AtomicUsize, max: usize| {
            count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < max).then_some(now + 1)).is_ok()
        };
        let full = |detail| {
            record::connection_refused("full");
            Problem::unavailable("too-many-connections", detail)
        };
        if !take(&self.0.open, connections_max(limits)) {
            return Err(full("there are as many connections as there may be"));
        }
        // It gives back what it has taken, also where it is refused.
        let mut seat = Seat { server: self.clone(), ip, guest: None };
        if !take(&self.0.guests, wells.guests_max) {
            return Err(full("too many have not signed in yet (wells.guests_max)"));
        }
        let of_address = ip.map(|ip| self.0.guests_by_ip.take(ip, wells.guests_per_ip)).transpose();
        let Ok(place) = of_address else {
            self.0.guests.fetch_sub(1, Ordering::AcqRel);
            return Err(full("too many of this address have not signed in yet (wells.guests_per_ip)"));
        };
        seat.guest = Some(place);
        Ok(seat)
    }
}

/// A session's place among so many, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    server: Server,
    ip: Option<IpAddr>,
    /// Whether it counts as one that has not signed in, and its place among those of its address.
    guest: Option<Option<Place<IpAddr>>>,
}

impl Seat {
    pub(super) fn set_guest(&mut self, guest: bool) {
        let all = &self.server.0;
        if !guest && self.guest.take().is_some() {
            all.guests.fetch_sub(1, Ordering::AcqRel);
        } else if guest && self.guest.is_none() {
            all.guests.fetch_add(1, Ordering::AcqRel);
            // It was let in before, and is not refused now.
            self.guest = Some(self.ip.and_then(|ip| all.guests_by_ip.take(ip, 0).ok()));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set_guest(false);
        self.server.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes a session out of the table when it ends.
#[derive(Debug)]
pub(super) struct Listed {
    server: Server,
    sid: SmolStr,
    pub(super) entry: Arc<Entry>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.server.0.polled.remove(&self.sid);
    }
}

/// Who has opened a session, before it is known who that is.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) ip: Option<IpAddr>,
    pub(super) peer: Peer,
    /// What the request showed that opened it.
    pub(super) shown: Shown,
    /// Whether the client can come back to where it stood.
    pub(super) recovers: bool,
    /// How many packets it takes in one payload.
    pub(super) packets_max: usize,
}

impl Guest {
    fn of(edge: &Edge, request: &Request) -> Self {
        let ClientIp(ip) = request.extensions().get().copied().unwrap_or(ClientIp(None));
        let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer { address: None, tls: false });
        let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let many = agent.starts_with("Mozilla/") || agent.starts_with("node-");
        Self {
            ip,
            peer,
            shown: auth::shown_if_any(edge, request),
            recovers: recovery::is_for(request.headers(), request.uri().query().unwrap_or_default()),
            packets_max: if many { PACKETS_MANY } else { PACKETS },
        }
    }
}

/// Why a request is refused, by the numbers that the protocol gives its errors.
#[derive(Debug)]
pub(super) enum Refusal {
    UnknownTransport,
    UnknownSession,
    HandshakeMethod,
    BadRequest,
    Version,
    Other(Box<Problem>),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Other(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (code, message) = match self {
            Self::UnknownTransport => (0, "Transport unknown"),
            Self::UnknownSession => (1, "Session ID unknown"),
            Self::HandshakeMethod => (2, "Bad handshake method"),
            Self::BadRequest => (3, "Bad request"),
            Self::Version => (5, "Unsupported protocol version"),
            Self::Other(problem) => return problem.into_response(),
        };
        (StatusCode::BAD_REQUEST, Json(json!({ "code": code, "message": message }))).into_response()
    }
}

async fn serve(State(edge): State<Edge>, Extension(server): Extension<Server>, request: Request) -> Response {
    match Box::pin(answer(edge, server, request)).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(edge: Edge, server: Server, request: Request) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let get = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value)
    };
    let wanted = match get("transport").as_deref() {
        Some("polling") => Carrier::Polling,
        Some("websocket") => Carrier::WebSocket,
        _ => return refuse(request, Refusal::UnknownTransport).await,
    };
    if get("EIO").as_deref() != Some("4") {
        return refuse(request, Refusal::Version).await;
    }
    let (is_get, upgrade) = (request.method() == Method::GET, wellformed::wants_websocket(request.headers()));
    let Some(sid) = get("sid") else {
        return match wanted {
            _ if !is_get => refuse(request, Refusal::HandshakeMethod).await,
            Carrier::WebSocket if upgrade => websocket_opens(edge, server, request).await,
            Carrier::WebSocket => refuse(request, Refusal::BadRequest).await,
            _ => Ok(polling_opens(&edge, &server, &request)?),
        };
    };
    let Some(entry) = server.find(&sid) else { return refuse(request, Refusal::UnknownSession).await };
    match (wanted, request.method()) {
        (Carrier::WebSocket, &Method::GET) if upgrade => websocket_probes(&edge, entry, request).await,
        (Carrier::WebSocket, _) => refuse(request, Refusal::BadRequest).await,
        // What went over to a WebSocket does not come back.
        _ if entry.is_websocket() => refuse(request, Refusal::BadRequest).await,
        (_, &Method::GET) => polling::poll(&entry).await,
        (_, &Method::POST) => polling::post(&edge, &entry, request).await,
        _ => refuse(request, Refusal::HandshakeMethod).await,
    }
}

async fn refuse(request: Request, refusal: Refusal) -> Result<Response, Refusal> {
    body::decline(request).await;
    Err(refusal)
}

fn session(edge: &Edge, server: &Server, request: &Request) -> Result<Session, Problem> {
    if edge.is_stopping() {
        record::connection_refused("stopping");
        return Err(Problem::unavailable("stopping", "the daemon is stopping"));
    }
    let (settings, guest) = (edge.settings(), Guest::of(edge, request));
    let seat = server.seat(&settings.limits, &settings.surfaces.wells, guest.ip)?;
    let place = edge.guards.open_address(guest.ip).map_err(|too_much| {
        record::connection_refused("per_client");
        Problem::too_much(too_much)
    })?;
    Ok(Session::new(edge.clone(), server.clone(), guest, seat, place))
}

/// The first packet of a session.
fn opening(edge: &Edge, sid: &str, upgrades: &[&str]) -> String {
    let settings = edge.settings();
    let (interval, timeout) =
        (settings.surfaces.wells.ping_interval.as_millis(), settings.surfaces.wells.ping_timeout.as_millis());
    packet::open(sid, upgrades, interval, timeout, settings.limits.message_bytes)
}

fn polling_opens(edge: &Edge, server: &Server, request: &Request) -> Result<Response, Problem> {
    let mut session = Box::new(session(edge, server, request)?);
    let sid = secret();
    let (orders, receiver) = mpsc::channel(ORDERS);
    let (carrier, signed_in) = (AtomicU8::new(Carrier::Polling as u8), AtomicBool::new(false));
    let entry = Arc::new(Entry { orders, carrier, signed_in });
    server.0.polled.insert(sid.clone(), Arc::clone(&entry));
    session.list(Listed { server: server.clone(), sid: sid.clone(), entry });
    tokio::spawn(polling::run(session, receiver));
    Ok(text(opening(edge, &sid, &["websocket"])))
}

async fn websocket_opens(edge: Edge, server: Server, request: Request) -> Result<Response, Refusal> {
    let session = Box::new(session(&edge, &server, &request)?);
    let upgrade = upgrade(&edge, request)?;
    let first = opening(&edge, &secret(), &[]);
    Ok(upgrade.on_upgrade(move |socket| websocket::serve(session, socket, Some(first.into()))))
}

async fn websocket_probes(edge: &Edge, entry: Arc<Entry>, request: Request) -> Result<Response, Refusal> {
    let upgrade = upgrade(edge, request)?;
    // One at a time, and none after it.
    let patience = edge.settings().surfaces.wells.upgrade_timeout;
    let probe = websocket::Probe::begin(entry, patience).ok_or(Refusal::BadRequest)?;
    Ok(upgrade.on_upgrade(move |socket| probe.run(socket)))
}

fn upgrade(edge: &Edge, request: Request) -> Result<Upgrade, Problem> {
    Ok(websocket::bounded(Upgrade::take(request)?, &edge.settings().limits))
}

/// An answer in text that no cache may keep.
pub(super) fn text(body: impl Into<Bytes>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=UTF-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, body.into()).into_response()
}
