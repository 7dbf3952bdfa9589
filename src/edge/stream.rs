//! `GET /v1/stream`: one URL, three transports. Reads what the client wants, starts its connection's actor, and hands it to the transport.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use tokio::time::Sleep;

use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use super::websocket::Upgrade;
use super::{Edge, contract, poll, sse, wellformed, ws};
use crate::auth::Rights;
use crate::engine::connections::profile::Who;
use crate::engine::connections::supervisor::{Connection, Member};
use crate::engine::connections::{Closing, Contract, Dialect, Notice};
use crate::engine::rooms::StartAt;
use crate::event::{Cursor, Pattern};
use crate::limits::{Own, StreamPlaces};
use crate::metrics::record::{self, TransportMeter};

/// What a stream's client asks for.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) patterns: Vec<Pattern>,
    pub(super) start: StartAt,
    /// How it wants to be served, if it says.
    pub(super) contract: Option<Arc<Contract>>,
    /// What its surface allows of its own streams.
    pub(super) own: Option<Own>,
}

/// Opens a stream.
#[utoipa::path(
    get,
    path = "/v1/stream",
    tag = "events",
    params(
        ("rooms" = String, Query, description = "Names and patterns, separated by commas", pattern = r"^([A-Za-z0-9_.:/@-]{1,200}[*]?|[*])(,([A-Za-z0-9_.:/@-]{1,200}[*]?|[*]))*$"),
        ("after" = Option<String>, Query, description = "Begin after this seq or cursor", pattern = r"^([0-9]*|[A-Za-z0-9_.:/@-]{1,200}=[0-9]{1,20}(,[A-Za-z0-9_.:/@-]{1,200}=[0-9]{1,20})*)$"),
        ("since" = Option<String>, Query, description = "Begin with this time (RFC 3339) or age (-5m)", pattern = r"^(-[0-9]{1,6}(ms|s|m|h|d)|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?Z)$"),
        ("tail" = Option<u64>, Query, description = "Begin with the newest so many events", minimum = 0, maximum = 1000000),
        ("last_event_id" = Option<String>, Query, description = "As after, for clients that know it by this name", pattern = r"^([0-9]*|[A-Za-z0-9_.:/@-]{1,200}=[0-9]{1,20}(,[A-Za-z0-9_.:/@-]{1,200}=[0-9]{1,20})*)$"),
        ("mode" = Option<String>, Query, description = "Which of the events: every, latest, or one made of a period's: mean, min, max, last", pattern = "^(every|latest|mean|min|max|last)$"),
        ("fn" = Option<String>, Query, description = "As mode", pattern = "^(every|latest|mean|min|max|last)$"),
        ("period" = Option<String>, Query, description = "At most one event for each key in this time, such as 2s", pattern = r"^([1-9][0-9]{1,6}ms|[1-9][0-9]{0,3}s)$"),
        ("every" = Option<String>, Query, description = "As period", pattern = r"^([1-9][0-9]{1,6}ms|[1-9][0-9]{0,3}s)$"),
        ("field" = Option<String>, Query, description = "The field that mean, min, max or last is made of; all numbers if it is not given", pattern = r"^data[.][a-z_]{1,20}$"),
        ("filter" = Option<String>, Query, description = "Only events of which this expression is true, such as data.usage > 90.0", pattern = r"^data[.][a-z]{1,8} [<>] [0-9]{1,3}$"),
        ("kinds" = Option<String>, Query, description = "Only these kinds, separated by commas", pattern = "^[^,]+(,[^,]+)*$"),
        ("priority" = Option<String>, Query, description = "Only this priority and above", pattern = "^(critical|high|normal|low)$"),
        ("on_slow" = Option<String>, Query, description = "When the client cannot keep up", pattern = "^(displace|catch_up|latest|disconnect)$"),
        ("wait" = Option<String>, Query, description = "Of a long-poll: how long it waits for something to say, such as 25s", pattern = r"^([0-9]{1,4}ms|[1-5]?[0-9]s|60s|1m)$"),
    ),
    responses(
        (status = 200, description = "Long-poll: events and notices. With Accept: text/event-stream a stream of them; with Upgrade: websocket a WebSocket (see asyncapi.yaml)", content(
            (ref("#/components/schemas/Poll") = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 101, description = "WebSocket"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 426, description = "Another version of WebSocket", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 429, description = "Too much at once; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn open(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let upgrade = wellformed::wants_websocket(request.headers());
    let events = names(request.headers(), header::ACCEPT, "text/event-stream");
    let mut allowed = vec!["rooms", "after", "last_event_id", "since", "tail"];
    allowed.extend(contract::FIELDS);
    if !upgrade && !events {
        allowed.push("wait");
    }
    let query = request.uri().query().map(str::to_owned);
    let params = Params::parse(query.as_deref(), &allowed)?;
    let wish = wish(&params, request.headers(), edge.settings().limits.rooms_per_connection)?;
    check_rights(&caller.identity.rights, &wish.patterns)?;
    if upgrade {
        let upgrade = Upgrade::take(request)?;
        return ws::open(edge, caller, wish, upgrade).await;
    }
    if wish.patterns.is_empty() {
        return Err(Problem::parameter("rooms", "expected rooms or patterns, separated by commas"));
    }
    if events {
        return sse::open(edge, caller, wish).await;
    }
    let max = edge.settings().limits.poll_wait_max;
    let wait = params.duration("wait", max)?.unwrap_or(poll::WAIT_DEFAULT.min(max));
    poll::open(edge, caller, wish, wait).await
}

fn names(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains(word))
}

fn wish(params: &Params<'_>, headers: &HeaderMap, rooms_max: usize) -> Result<Wish, Problem> {
    let patterns = parse_patterns(params.get("rooms").unwrap_or_default().split(','), rooms_max)?;
    let start = params.start_of(headers)?.unwrap_or(StartAt::Live);
    check_cursor(&patterns, &start)?;
    let contract = contract::Asked::of_query(params).contract()?;
    let start = contract::aligned(start, contract.as_deref());
    Ok(Wish { patterns, start, contract, own: None })
}

/// Reads names and patterns; empty ones are passed over.
pub(super) fn parse_patterns<'a>(names: impl Iterator<Item = &'a str>, max: usize) -> Result<Vec<Pattern>, Problem> {
    let mut patterns = Vec::new();
    for name in names.map(str::trim).filter(|name| !name.is_empty()) {
        let pattern = Pattern::parse(name).map_err(|error| Problem::parameter("rooms", error))?;
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
        if patterns.len() > max {
            return Err(Problem::parameter("rooms", format!("more than {max} (limits.rooms_per_connection)")));
        }
    }
    Ok(patterns)
}

/// Whether something of each that is wished may be read; what a pattern matches beside that is passed over later.
pub(super) fn check_rights(rights: &Rights, patterns: &[Pattern]) -> Result<(), Problem> {
    match patterns.iter().find(|pattern| !rights.may_read_some(pattern)) {
        None => Ok(()),
        Some(pattern) => Err(Problem::may_not_read(pattern)),
    }
}

/// A bare seq is a cursor of one named room; of several, only 0, the beginning of all.
pub(super) fn check_cursor(patterns: &[Pattern], start: &StartAt) -> Result<(), Problem> {
    match start {
        StartAt::After(Cursor::Seq(seq)) if *seq != 0 && !matches!(patterns, [Pattern::Room(_)]) => {
            Err(Problem::parameter("after", "a cursor over several rooms names each: room=seq,room=seq"))
        }
        _ => Ok(()),
    }
}

/// Starts a connection's actor and has it follow what is wished. The welcome comes first, then gaps.
pub(super) async fn start<D: Dialect>(
    edge: &Edge,
    caller: &Caller,
    wish: &Wish,
    dialect: D,
    meter: &'static TransportMeter,
) -> Result<Started<D>, Problem> {
    check_full(edge)?;
    let brief = meter.name == record::POLL.name;
    let places = edge.guards.open_stream(caller.ip, &caller.identity.subject, brief, wish.own.as_ref());
    let places = places.map_err(|too_much| {
        record::connection_refused("per_client");
        Problem::too_much(too_much)
    })?;
    start_in(edge, caller, places, wish, dialect, meter).await
}

fn check_full(edge: &Edge) -> Result<(), Problem> {
    let max = edge.settings().limits.connections;
    if max > 0 && edge.connections.count() >= max {
        record::connection_refused("full");
        return Err(Problem::unavailable("too-many-connections", "there are as many connections as there may be"));
    }
    Ok(())
}

/// The same, for a client that has its places already.
pub(super) async fn start_in<D: Dialect>(
    edge: &Edge,
    caller: &Caller,
    places: StreamPlaces,
    wish: &Wish,
    dialect: D,
    meter: &'static TransportMeter,
) -> Result<Started<D>, Problem> {
    check_full(edge)?;
    let kill = caller.kill.clone();
    let who =
        Who { identity: Arc::clone(&caller.identity), peer: caller.peer.to_string(), ip: caller.ip, places, kill };
    let waiting = wish.contract.as_ref().and_then(|contract| contract.mailbox_messages);
    let started = edge.connections.start(&edge.rooms, dialect, meter, who, waiting).await;
    let Some((mut connection, member)) = started else {
        record::connection_refused("stopping");
        return Err(Problem::unavailable("stopping", "the daemon is stopping"));
    };
    let session = connection.handler();
    let begun = session.begin(&wish.patterns, &wish.start, wish.contract.clone()).await?;
    if begun.too_many {
        let max = edge.settings().limits.rooms_per_connection;
        let message = format!("more than {max} rooms match; the others are not followed (limits.rooms_per_connection)");
        session.tell(&Notice::error("too_many_rooms", &message));
    }
    Ok(Started { connection, member, something: begun.something })
}

/// A stream that has begun.
pub(super) struct Started<D: Dialect> {
    pub(super) connection: Connection<D>,
    /// Keeps it in the table of connections.
    pub(super) member: Member,
    /// Whether there is something to say at its beginning: what is missing, or a state.
    pub(super) something: bool,
}

/// Refuses a stream whose client could not hand its cursor back.
pub(super) fn check_cursor_length(cursor: &str, max: usize) -> Result<(), Problem> {
    // As it stands in a query, where it is longest.
    let length =
        percent_encoding::utf8_percent_encode(cursor, percent_encoding::NON_ALPHANUMERIC).map(str::len).sum::<usize>();
    if length <= max {
        return Ok(());
    }
    let detail = format!(
        "so many rooms make a cursor of {length} bytes, more than a request's head should carry ({max}, limits.cursor_bytes); \
         use several streams, or WebSocket with a cursor for each subscribe"
    );
    Err(Problem::parameter("rooms", detail))
}

/// When a connection that is paced may be handed something again; in a box, because most are not.
pub(super) type Turn = Option<Pin<Box<Sleep>>>;

/// Something was handed out: when the next may be.
pub(super) fn next_turn<D: Dialect>(connection: &mut Connection<D>) -> Turn {
    let pace = connection.handler().dialect().pace()?;
    Some(Box::pin(tokio::time::sleep(pace)))
}

/// Waits for the turn.
pub(super) async fn turn(turn: &mut Turn) {
    if let Some(sleep) = turn {
        sleep.await;
    }
    *turn = None;
}

/// What a client is told when the daemon ends its connection, which is counted.
pub(super) fn ending(closing: Closing, over: Duration) -> Notice<'static> {
    let (code, message) = closing.text();
    record::connection_cut(code);
    let retry = (closing == Closing::Stopping).then(|| spread(over));
    Notice::Error { code, message, retry }
}

/// A time of its own for each client that is sent away, so that they do not all come back at once.
fn spread(over: Duration) -> Duration {
    let most = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rand::random_range(0..=most))
}
