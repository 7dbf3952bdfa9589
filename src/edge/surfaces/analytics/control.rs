//! What a user's live streams follow, and whether a stream would work.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use smallvec::smallvec;
use tidegate_actors::Lane;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::commands::confirmation;
use super::desk::new_token;
use super::info::success;
use super::voice::{Admin, first_data};
use super::{contract, may_read_all_of, metric, rooms};
use crate::clock;
use crate::edge::caller::Caller;
use crate::edge::problem::Problem;
use crate::edge::surfaces::encoded::Message;
use crate::edge::surfaces::voice::{OverSse, OverWebSocket};
use crate::edge::{Edge, body};
use crate::engine::connections::profile::Who;
use crate::engine::connections::{Change, Control, Delivery, Dialect};
use crate::engine::rooms::{StartAt, Subscriber};
use crate::event::{Ack, NewEvent, Pattern, RoomName};
use crate::limits::StreamPlaces;
use crate::metrics::record::{self, TransportMeter};

/// The largest body of these calls, in bytes.
const BODY_BYTES: usize = 64 << 10;
/// The room of round trips.
const PROBES: &str = "probe:analytics";
/// How long a stream is waited for whose socket takes nothing for now: it changes when it goes on.
const CHANGE: Duration = Duration::from_secs(1);
/// How long a round trip may take.
const TRIP: Duration = Duration::from_secs(5);

async fn read(edge: &Edge, request: Request) -> Result<Value, Problem> {
    let bytes = body::read_small(request.into_body(), BODY_BYTES, edge.settings().limits.body_timeout).await?;
    let wrong = |error| Problem::new(StatusCode::BAD_REQUEST, "broken-json", format!("the body: {error}"));
    serde_json::from_slice(&bytes).map_err(wrong)
}

async fn metrics_asked(edge: &Edge, caller: &Caller, request: Request) -> Result<Vec<RoomName>, Problem> {
    let body = read(edge, request).await?;
    let wrong = || Problem::parameter("metrics", "expected a list of metrics' names, not empty");
    let list = body.get("metrics").and_then(Value::as_array).filter(|list| !list.is_empty()).ok_or_else(wrong)?;
    let names: Vec<&str> = list.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?;
    let rooms = rooms(names.into_iter(), edge.settings().limits.rooms_per_connection)?;
    may_read_all_of(&caller.identity, &rooms)?;
    Ok(rooms)
}

fn answer(rooms: &[RoomName], connections: usize) -> Response {
    let metrics: Vec<&str> = rooms.iter().map(|room| metric(room.as_str())).collect();
    success(&json!({ "metrics": metrics, "connections": connections }))
}

/// `POST …/subscribe`: all live streams of the user follow these metrics too.
pub(super) async fn subscribe(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let rooms = metrics_asked(&edge, &caller, request).await?;
    let contract = contract(&edge.settings());
    let streams =
        change(&edge, &caller, &rooms, "subscribed", |change| Control::Follow(change, Some(Arc::clone(&contract))));
    let streams = streams.await;
    begin(&edge, &caller, &rooms, &streams.changed).await;
    Ok(answer(&rooms, streams.count))
}

/// `POST …/unsubscribe`: none of the user's live streams follows these metrics any more.
pub(super) async fn unsubscribe(
    State(edge): State<Edge>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let rooms = metrics_asked(&edge, &caller, request).await?;
    let streams = change(&edge, &caller, &rooms, "unsubscribed", Control::Unfollow).await;
    Ok(answer(&rooms, streams.count))
}

/// A user's live streams.
struct Streams {
    count: usize,
    /// Those that have changed already; the others' sockets take nothing for now.
    changed: Vec<Arc<Subscriber>>,
}

/// Tells streams the first data of rooms that they follow now, as a WebSocket that subscribes is told. What has a state they have been told by following.
/// Only those that take what is sent: for the others it would pile up.
async fn begin(edge: &Edge, caller: &Caller, rooms: &[RoomName], streams: &[Arc<Subscriber>]) {
    let has_state = |name: &RoomName| edge.rooms.in_memory(name).is_some_and(|room| room.snapshot().is_some());
    let plain: Vec<Pattern> = rooms.iter().filter(|name| !has_state(name)).cloned().map(Pattern::Room).collect();
    if plain.is_empty() || streams.is_empty() {
        return;
    }
    let first = Arc::new(first_data(edge, &caller.identity, &plain).await);
    for stream in streams {
        // Another credential of the same user may allow less.
        let identity = edge.connections.get(stream.id).map(|listed| listed.profile.identity());
        if identity.is_some_and(|identity| may_read_all_of(&identity, rooms).is_ok()) {
            Delivery::control(&stream.mailbox, Control::Say(first.clone()));
        }
    }
}

/// Changes what a user's live streams follow, and waits until it holds; which these are.
async fn change(
    edge: &Edge,
    caller: &Caller,
    rooms: &[RoomName],
    kind: &str,
    order: impl Fn(Change) -> Control,
) -> Streams {
    let say: Arc<Message> = Arc::new(confirmation(kind, rooms));
    let streams = edge.analytics.of_user(&caller.identity.subject);
    let mut waiting = Vec::with_capacity(streams.len());
    for stream in &streams {
        let (done, told) = oneshot::channel();
        let change = Change { rooms: rooms.to_vec(), say: say.clone(), done };
        Delivery::control(&stream.mailbox, order(change));
        waiting.push(told);
    }
    let end = Instant::now() + CHANGE;
    let told = waiting.into_iter().map(|told| tokio::time::timeout_at(end, told));
    let told = futures_util::future::join_all(told).await;
    let count = streams.len();
    // One that has ended meanwhile tells nothing either.
    let changed =
        streams.into_iter().zip(told).filter(|(_, told)| matches!(told, Ok(Ok(())))).map(|(stream, _)| stream);
    Streams { count, changed: changed.collect() }
}

/// `POST …/test-connection`: an event goes the way of all events, from ingest by its room and a mailbox of its own to the bytes that the transport would write.
pub(super) async fn test_connection(
    State(edge): State<Edge>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let body = read(&edge, request).await?;
    let mark = new_token();
    let voice = Admin::new(&edge, &caller.identity, mark.clone(), Vec::new(), None);
    let kind = body.get("connectionType").and_then(Value::as_str);
    let took = match kind {
        Some("sse") => {
            let dialect = OverSse::new(voice, &HeaderMap::new());
            let has = |bytes: &Bytes| contains(bytes, &mark);
            round_trip(&edge, &caller, dialect, &record::SSE, &mark, has).await?
        }
        Some("websocket") => {
            let has =
                |frames: &<OverWebSocket<Admin> as Dialect>::Output| frames.iter().any(|frame| contains(frame, &mark));
            round_trip(&edge, &caller, OverWebSocket::new(voice), &record::WEBSOCKET, &mark, has).await?
        }
        _ => return Err(Problem::parameter("connectionType", "expected sse or websocket")),
    };
    Ok(success(&json!({
        "connectionType": kind,
        "healthy": true,
        "roundTripMs": took.as_secs_f64() * 1000.0,
        "timestamp": clock::rfc3339(clock::now_ms()),
    })))
}

fn contains(bytes: &[u8], mark: &str) -> bool {
    memchr::memmem::find(bytes, format!("\"{mark}\"}}").as_bytes()).is_some()
}

async fn round_trip<D: Dialect>(
    edge: &Edge,
    caller: &Caller,
    dialect: D,
    meter: &'static TransportMeter,
    mark: &str,
    has: impl Fn(&D::Output) -> bool,
) -> Result<Duration, Problem> {
    let failed = |what: &str| Problem::unavailable("test-failed", format!("the round trip failed: {what}"));
    let room = RoomName::parse(PROBES).map_err(|error| failed(&error.to_string()))?;
    let (identity, peer) = (Arc::clone(&caller.identity), caller.peer.to_string());
    let (places, kill) = (StreamPlaces::default(), caller.kill.clone());
    let who = Who { identity, peer, ip: caller.ip, places, kill };
    let started = edge.connections.start(&edge.rooms, dialect, meter, who, None).await;
    // Held until it is over: it is in the table of connections as any other.
    let (mut connection, _member) = started.ok_or_else(|| failed("the daemon is stopping"))?;
    connection.handler().begin(&[Pattern::Room(room.clone())], &StartAt::Live, None).await?;
    // The welcome goes first.
    connection.handler().take();
    let data = Bytes::from(json!({ "mark": mark }).to_string());
    let event = NewEvent { priority: Lane::Critical, ..NewEvent::new("probe", data) };
    let began = Instant::now();
    edge.ingest.publish(room, smallvec![event], Ack::Memory, TRIP).await?;
    let arrival = async {
        while let Ok(Some(output)) = connection.next().await {
            if has(&output) {
                return true;
            }
        }
        false
    };
    match tokio::time::timeout(TRIP, arrival).await {
        Ok(true) => Ok(began.elapsed()),
        Ok(false) => Err(failed("the connection was ended")),
        Err(_) => Err(failed("the event did not come")),
    }
}
