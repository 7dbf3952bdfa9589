//! Opens streams, over Server-Sent Events and WebSocket, and takes lost ones up again.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use smol_str::SmolStr;

use super::desk::{Parked, new_token};
use super::voice::Admin;
use super::{ALERTS, Line, Opened, ROOMS, contract, may_read_all_of, metric, needs_role, rooms};
use crate::audit::Entry;
use crate::auth::Identity;
use crate::clock;
use crate::edge::auth::{self, ClientIp};
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::server::Peer;
use crate::edge::stream::{self, Started, Wish};
use crate::edge::surfaces::open::{self, is_websocket};
use crate::edge::surfaces::voice::{OverSse, OverWebSocket};
use crate::edge::websocket::Upgrade;
use crate::edge::{Edge, sse, ws};
use crate::engine::connections::profile::{Kill, Who};
use crate::engine::connections::supervisor::Connection;
use crate::engine::connections::{Dialect, Notice, Session};
use crate::engine::rooms::StartAt;
use crate::event::{Cursor, Pattern, RoomName};
use crate::metrics::record;

/// `GET …/stream`.
pub(super) async fn events(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    is_enabled(&edge)?;
    let asked = Query::of(&edge, &caller.identity, &request)?;
    let patterns = if asked.rooms.is_empty() { all() } else { with_alerts(asked.rooms) };
    let wish = wish(&edge, &caller.identity, patterns.clone(), asked.start)?;
    open_events(&edge, &caller, request.headers(), &wish, patterns).await
}

/// The WebSocket. Without `metrics` its client subscribes to what it wants, or goes on with what its cursor names.
pub(super) async fn websocket(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    is_websocket_enabled(&edge)?;
    if !is_websocket(&request) {
        let detail = "this is a WebSocket; Server-Sent Events are at /api/admin/analytics/stream";
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", detail));
    }
    let asked = Query::of(&edge, &caller.identity, &request)?;
    let rooms = if asked.rooms.is_empty() { named_in(asked.start.as_ref()) } else { asked.rooms };
    let begin: Vec<Pattern> = rooms.iter().cloned().map(Pattern::Room).collect();
    let wish = wish(&edge, &caller.identity, with_alerts(rooms), asked.start)?;
    let upgrade = Upgrade::take(request)?;
    open_websocket(&edge, &caller, upgrade, &wish, begin).await
}

/// What a request asks for.
struct Query {
    rooms: Vec<RoomName>,
    start: Option<StartAt>,
}

impl Query {
    fn of(edge: &Edge, identity: &Identity, request: &Request) -> Result<Self, Problem> {
        let names = ["metrics", "userId", "after", "last_event_id", "since", "tail"];
        let params = Params::pick(request.uri().query(), &names);
        if params.get("userId").is_some_and(|user| user != identity.subject) {
            let detail = "userId: the credential is somebody else's";
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
        let given = params.get("metrics").unwrap_or_default().split(',').map(str::trim);
        let given = given.filter(|metric| !metric.is_empty());
        let rooms = rooms(given, edge.settings().limits.rooms_per_connection)?;
        Ok(Self { rooms, start: params.start_of(request.headers())? })
    }
}

fn is_enabled(edge: &Edge) -> Result<(), Problem> {
    if edge.settings().surfaces.analytics.enabled {
        return Ok(());
    }
    Err(Problem::unavailable("disabled", "live streams are switched off (analytics.enabled)"))
}

fn is_websocket_enabled(edge: &Edge) -> Result<(), Problem> {
    is_enabled(edge)?;
    if edge.settings().surfaces.analytics.websocket_enabled {
        return Ok(());
    }
    Err(Problem::unavailable("disabled", "WebSocket is switched off (analytics.websocket_enabled)"))
}

/// All metrics there are and will be.
fn all() -> Vec<Pattern> {
    vec![Pattern::Prefix(ROOMS.into())]
}

/// These rooms, and the one of alerts, which are for everybody.
fn with_alerts(rooms: Vec<RoomName>) -> Vec<Pattern> {
    let mut patterns: Vec<Pattern> = rooms.into_iter().map(Pattern::Room).collect();
    if let Ok(alerts) = RoomName::parse(ALERTS) {
        let alerts = Pattern::Room(alerts);
        if !patterns.contains(&alerts) {
            patterns.push(alerts);
        }
    }
    patterns
}

/// The metrics' rooms that a cursor names.
fn named_in(start: Option<&StartAt>) -> Vec<RoomName> {
    let Some(StartAt::After(Cursor::Rooms(rooms))) = start else { return Vec::new() };
    let names = rooms.iter().map(|(name, _)| name).filter(|name| name.as_str() != ALERTS);
    names.filter(|name| metric(name.as_str()) != name.as_str()).cloned().collect()
}

fn wish(edge: &Edge, identity: &Identity, patterns: Vec<Pattern>, start: Option<StartAt>) -> Result<Wish, Problem> {
    let start = start.unwrap_or(StartAt::Live);
    stream::check_cursor(&patterns, &start)?;
    stream::check_rights(&identity.rights, &patterns)?;
    let named: Vec<RoomName> = patterns.iter().filter_map(|pattern| room_of(pattern).cloned()).collect();
    may_read_all_of(identity, &named)?;
    Ok(Wish { patterns, start, contract: Some(contract(&edge.settings())), own: None })
}

fn room_of(pattern: &Pattern) -> Option<&RoomName> {
    match pattern {
        Pattern::Room(name) => Some(name),
        Pattern::Prefix(_) => None,
    }
}

async fn open_events(
    edge: &Edge,
    caller: &Caller,
    headers: &HeaderMap,
    wish: &Wish,
    begin: Vec<Pattern>,
) -> Result<Response, Problem> {
    let (token, place) = (new_token(), edge.analytics.place(edge, &caller.identity.subject)?);
    let voice = Admin::new(edge, &caller.identity, token.clone(), begin, Some(place));
    let resumed = !matches!(wish.start, StartAt::Live);
    let dialect = OverSse::new(voice, headers);
    let mut started = stream::start(edge, caller, wish, dialect, &record::SSE).await?;
    let session = started.connection.handler();
    stream::check_cursor_length(&session.cursor(), edge.settings().limits.cursor_bytes)?;
    edge.analytics.enter(edge, session, token);
    open::greet_events(&mut started, resumed).await;
    Ok(serve_events(edge, started))
}

fn serve_events(edge: &Edge, mut started: Started<OverSse<Admin>>) -> Response {
    let id = started.connection.handler().id();
    let mut response = sse::serve(edge, started);
    response.extensions_mut().insert(Opened(id));
    response
}

async fn open_websocket(
    edge: &Edge,
    caller: &Caller,
    upgrade: Upgrade,
    wish: &Wish,
    begin: Vec<Pattern>,
) -> Result<Response, Problem> {
    let (token, place) = (new_token(), edge.analytics.place(edge, &caller.identity.subject)?);
    let voice = Admin::new(edge, &caller.identity, token.clone(), begin, Some(place));
    let resumed = !matches!(wish.start, StartAt::Live);
    let mut started = stream::start(edge, caller, wish, OverWebSocket::new(voice), &record::WEBSOCKET).await?;
    edge.analytics.enter(edge, started.connection.handler(), token);
    open::greet_socket(&mut started, resumed).await;
    Ok(serve_websocket(edge, started, upgrade))
}

fn serve_websocket(edge: &Edge, mut started: Started<OverWebSocket<Admin>>, upgrade: Upgrade) -> Response {
    let id = started.connection.handler().id();
    let mut response = ws::serve(edge.clone(), started, upgrade);
    response.extensions_mut().insert(Opened(id));
    response
}

/// `GET …/reconnect`: a client that has lost its connection takes it up again by its token, over Server-Sent Events or WebSocket.
pub(super) async fn reconnect(State(edge): State<Edge>, request: Request) -> Response {
    let ClientIp(ip) = request.extensions().get().copied().unwrap_or(ClientIp(None));
    // As long as nobody is known to have come: anybody may try, and must not fill the disk with it.
    let mut line = Line::new(
        &edge,
        Entry {
            event: "refused",
            client_ip: ip.map(|ip| ip.to_string()),
            method: Some(request.method().to_string()),
            path: Some(request.uri().path().to_owned()),
            ..Entry::default()
        },
    );
    let outcome = again(&edge, request, line.entry()).await;
    edge.analytics.count(outcome.is_ok());
    if let Err(problem) = &outcome
        && matches!(problem.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::GONE)
    {
        record::request_refused(problem.kind());
    }
    let response = outcome.unwrap_or_else(IntoResponse::into_response);
    line.answered(&response);
    response
}

fn spent() -> Problem {
    let detail = "this reconnect token is unknown, spent, or its time is over; open a new stream";
    Problem::new(StatusCode::GONE, "reconnect-token-gone", detail)
}

async fn again(edge: &Edge, request: Request, entry: &mut Entry) -> Result<Response, Problem> {
    is_enabled(edge)?;
    let params = Params::pick(request.uri().query(), &["token", "after", "last_event_id", "since", "tail"]);
    let missing = || Problem::parameter("token", "expected the reconnect token of a connection");
    let token = params.get("token").filter(|token| !token.is_empty()).ok_or_else(missing)?.to_owned();
    let start = params.start_of(request.headers())?;
    let caller = whose(edge, &token, &request)?;
    let about = caller.entry("admin");
    (entry.event, entry.subject, entry.credential) = (about.event, about.subject, about.credential);
    for shown in auth::shown_beside_token(edge, &request)? {
        let other = edge.auth.identify(&shown).await.ok_or_else(Problem::unauthorized)?;
        if other.subject != caller.identity.subject {
            let detail = "the credential shown beside the reconnect token is somebody else's";
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
    }
    needs_role(&caller.identity)?;
    let headers = request.headers().clone();
    // The token is spent last: whatever is wrong or full, it is good for another try.
    let upgrade = if is_websocket(&request) {
        is_websocket_enabled(edge)?;
        Some(Upgrade::take(request)?)
    } else {
        None
    };
    let claim = edge.analytics.claim(edge, &token).await.map_err(|problem| problem.unwrap_or_else(spent))?;
    if let Some(start) = start {
        // It knows better than the mailbox what it has: everything since comes from the history.
        let patterns = edge.connections.get(claim.id).ok_or_else(spent)?.profile.patterns();
        let wish = wish(edge, &caller.identity, patterns, Some(start))?;
        let response = match upgrade {
            None => open_events(edge, &caller, &headers, &wish, Vec::new()).await?,
            Some(upgrade) => open_websocket(edge, &caller, upgrade, &wish, Vec::new()).await?,
        };
        drop(claim.take());
        return Ok(response);
    }
    let (place, places) = places(edge, &caller)?;
    let identity = Arc::clone(&caller.identity);
    let (peer, ip, kill) = (caller.peer.to_string(), caller.ip, caller.kill.clone());
    let who = Who { identity, peer, ip, places, kill };
    let token = new_token();
    let voice = Admin::new(edge, &caller.identity, token.clone(), Vec::new(), Some(place));
    let Parked { connection, member, .. } = claim.take().ok_or_else(spent)?;
    Ok(match upgrade {
        None => {
            let dialect = OverSse::new(voice, &headers);
            let connection = edge.connections.moved(connection, dialect, &record::SSE, who);
            let connection = taken_up(edge, connection, token);
            serve_events(edge, Started { connection, member, something: true })
        }
        Some(upgrade) => {
            let dialect = OverWebSocket::new(voice);
            let connection = edge.connections.moved(connection, dialect, &record::WEBSOCKET, who);
            let connection = taken_up(edge, connection, token);
            serve_websocket(edge, Started { connection, member, something: true }, upgrade)
        }
    })
}

/// Whose connection a token stands for, as long as that one's own credential holds.
fn whose(edge: &Edge, token: &str, request: &Request) -> Result<Caller, Problem> {
    let id = edge.analytics.holder(edge, token).ok_or_else(spent)?;
    let listed = edge.connections.get(id).ok_or_else(spent)?;
    let identity = edge.auth.renew(&listed.profile.identity()).ok_or_else(spent)?;
    if identity.expires_ms.is_some_and(|end| end <= clock::now_ms()) {
        return Err(spent());
    }
    let extensions = request.extensions();
    let ClientIp(ip) = extensions.get().copied().unwrap_or(ClientIp(None));
    let peer = extensions.get::<Peer>().copied().unwrap_or(Peer { address: None, tls: false });
    Ok(Caller { identity, ip, peer, kill: extensions.get::<Kill>().cloned().unwrap_or_default() })
}

type Taken = (crate::limits::places::Place<SmolStr>, crate::limits::StreamPlaces);

fn places(edge: &Edge, caller: &Caller) -> Result<Taken, Problem> {
    let subject = &caller.identity.subject;
    let place = edge.analytics.place(edge, subject)?;
    let places = edge.guards.open_stream(caller.ip, subject, false, None).map_err(|too_much| {
        record::connection_refused("per_client");
        Problem::too_much(too_much)
    })?;
    Ok((place, places))
}

/// Tells a client that has its connection again so, before what waited for it.
fn taken_up<D: Dialect>(edge: &Edge, mut connection: Connection<D>, token: SmolStr) -> Connection<D> {
    let session: &mut Session<D> = connection.handler();
    edge.analytics.enter(edge, session, token);
    let rooms: Vec<String> = session.profile().patterns().iter().map(ToString::to_string).collect();
    let id = session.id();
    session.tell(&Notice::Welcome { connection: id, rooms: &rooms, granted: None });
    session.leave_what_is_not_allowed();
    connection
}
