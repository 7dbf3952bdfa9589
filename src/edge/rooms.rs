//! `GET /v1/rooms`, `GET /v1/rooms/{room}` and `GET /v1/rooms/{room}/state`.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use tidegate_actors::OnFull;

use super::Edge;
use super::answer::{self, Tag};
use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use crate::clock;
use crate::engine::rooms::Room;
use crate::event::encode::write_json_text;
use crate::event::{Pattern, RoomName};
use crate::settings::Namespace;

const LIMIT_MAX: u64 = 10_000;
const LIMIT_DEFAULT: u64 = 1000;

/// What of a request says how it is answered.
pub(super) struct Asked<'r> {
    pub(super) query: Option<&'r str>,
    pub(super) headers: &'r HeaderMap,
}

/// The rooms there are and that the caller may read, by name.
#[utoipa::path(
    get,
    path = "/v1/rooms",
    operation_id = "list_rooms",
    tag = "rooms",
    params(
        ("pattern" = Option<String>, Query, description = "Names or a pattern such as well:*", pattern = r"^([A-Za-z0-9_.:/@-]{1,200}[*]?|[*])$"),
        ("limit" = Option<u64>, Query, description = "At most so many", minimum = 1, maximum = 10000),
    ),
    responses(
        (status = 200, description = "The rooms that the caller may read, by name", body = ref("#/components/schemas/Rooms"), content_type = "application/json"),
        (status = 304, description = "The client has it: If-None-Match names its ETag"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(edge): State<Edge>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::parse(query.as_deref(), &["pattern", "limit"])?;
    let pattern =
        Pattern::parse(params.get("pattern").unwrap_or("*")).map_err(|error| Problem::parameter("pattern", error))?;
    let limit = params.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    // With many rooms this takes a while, and others should not wait for it.
    let listed = tokio::task::spawn_blocking(move || {
        let mut names = edge.rooms.names(&pattern);
        let rights = &caller.identity.rights;
        if !rights.may_read_all() {
            names.retain(|name| rights.may_read(name));
        }
        let shown = names.iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).map(|name| describe(&edge, name));
        json!({ "rooms": shown.collect::<Vec<_>>(), "total": names.len() })
    });
    let listed = listed.await.map_err(|_| Problem::unavailable("internal", "the list could not be made"))?;
    Ok(answer::tagged(&headers, listed.to_string()))
}

/// One room.
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}",
    operation_id = "one_room",
    tag = "rooms",
    params(
        ("room" = String, Path, description = "A room's name: letters, digits and _ - . : / @", min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.:/@-]+$"),
    ),
    responses(
        (status = 200, description = "One room", body = ref("#/components/schemas/RoomDetail"), content_type = "application/json"),
        (status = 304, description = "The client has it: If-None-Match names its ETag"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 404, description = "There is no such thing", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) fn one(edge: &Edge, caller: &Caller, name: &RoomName, asked: &Asked<'_>) -> Result<Response, Problem> {
    caller.may_read(name)?;
    Params::parse(asked.query, &[])?;
    let room = edge.rooms.find(name)?.ok_or_else(|| Problem::not_found(format!("there is no room {name}")))?;
    let mut body = of_room(&room);
    body["settings"] = settings(room.settings());
    body["state"] = room.state_size().map_or(Value::Null, |(keys, bytes)| json!({ "keys": keys, "bytes": bytes }));
    Ok(answer::tagged(asked.headers, body.to_string()))
}

/// A room's state: the table that a pipeline keeps of it, or one key of it.
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/state",
    operation_id = "room_state",
    tag = "rooms",
    params(
        ("room" = String, Path, description = "A room's name: letters, digits and _ - . : / @", min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.:/@-]+$"),
        ("key" = Option<String>, Query, description = "Only this key"),
    ),
    responses(
        (status = 200, description = "The state, and the seq up to which every change is in it: a stream after it gets the changes that follow", body = ref("#/components/schemas/RoomState"), content_type = "application/json"),
        (status = 304, description = "The client has it: If-None-Match names its ETag"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 404, description = "There is no such thing", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) fn state(edge: &Edge, caller: &Caller, name: &RoomName, asked: &Asked<'_>) -> Result<Response, Problem> {
    caller.may_read(name)?;
    let params = Params::parse(asked.query, &["key"])?;
    let room = edge.rooms.find(name)?.ok_or_else(|| Problem::not_found(format!("there is no room {name}")))?;
    let none = || Problem::not_found(format!("no pipeline keeps a state of the room {name}"));
    let (table, head) = room.state_version().ok_or_else(none)?;
    let tag = Tag::of(format_args!("{:x}-{table}-{head}", edge.started_ms));
    if let Some(unchanged) = tag.unchanged(asked.headers) {
        return Ok(unchanged);
    }
    let mut body = BytesMut::new();
    // Texts of names and numbers need no escape, and the values are JSON.
    if let Some(key) = params.get("key") {
        let cursor = room.head();
        let value = room.state_of(key).ok_or_else(none)?;
        let value = value.ok_or_else(|| Problem::not_found(format!("the state of {name} has no key {key:?}")))?;
        let mut head = format!("{{\"room\":\"{name}\",\"cursor\":\"{cursor}\",\"key\":");
        write_json_text(key, &mut head);
        body.put_slice(head.as_bytes());
        body.put_slice(b",\"data\":");
        body.put_slice(&value);
    } else {
        let snapshot = room.snapshot().ok_or_else(none)?;
        let (cursor, keys) = (snapshot.seq, snapshot.keys);
        let head = format!("{{\"room\":\"{name}\",\"cursor\":\"{cursor}\",\"keys\":{keys},\"data\":");
        body.put_slice(head.as_bytes());
        body.put_slice(&snapshot.json);
    }
    body.put_u8(b'}');
    Ok(tag.fresh(body.freeze()))
}

/// A room by its name, without bringing it into memory.
fn describe(edge: &Edge, name: &RoomName) -> Value {
    if let Some(room) = edge.rooms.in_memory(name) {
        return of_room(&room);
    }
    let held = edge.rooms.log().room(name).and_then(|index| index.held());
    json!({
        "room": name.as_str(),
        "namespace": name.namespace(),
        "head": held.map_or(0, |held| held.last),
        "first_seq": held.map(|held| held.first),
        "held": held.map_or(0, |held| held.count),
        "subscribers": 0,
        "events_per_second": 0.0,
        "last_timestamp": held.map(|held| clock::rfc3339(held.last_arrived_ms)),
    })
}

fn of_room(room: &Room) -> Value {
    let held = room.held();
    let arrived_ms = room.last_arrived_ms();
    json!({
        "room": room.name().as_str(),
        "namespace": room.name().namespace(),
        "head": room.head(),
        "first_seq": held.map(|held| held.0),
        "held": held.map_or(0, |held| held.1),
        "subscribers": room.subscribers(),
        "events_per_second": (room.events_per_second() * 100.0).round() / 100.0,
        "last_timestamp": (arrived_ms > 0).then(|| clock::rfc3339(arrived_ms)),
    })
}

fn settings(settings: &Namespace) -> Value {
    let on_full = match settings.policy.on_full {
        OnFull::CatchUp => "catch_up",
        OnFull::Displace => "displace",
        OnFull::Reject => "reject",
        OnFull::Wait => "wait",
    };
    json!({
        "on_full": on_full,
        "conflate": settings.policy.conflate,
        "durable": settings.durable,
        "retention_count": settings.retention.count,
        "retention_age_seconds": settings.retention.age.map(|age| age.as_secs_f64()),
        "retention_bytes": settings.retention.bytes,
        "tail_events": settings.tail_events,
        "tail_bytes": settings.tail_bytes,
    })
}
