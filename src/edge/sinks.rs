//! `GET /v1/sinks`: how the sinks are; `GET /v1/sinks/{name}/events`: what one has stored. For admins.

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use super::{Edge, answer};
use crate::clock;
use crate::event::Pattern;
use crate::store::{StoreError, Stored};

const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 50;

/// The sinks, by name.
#[utoipa::path(
    get,
    path = "/v1/sinks",
    operation_id = "list_sinks",
    tag = "sinks",
    responses(
        (status = 200, description = "The sinks, by name", body = ref("#/components/schemas/Sinks"), content_type = "application/json"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(edge): State<Edge>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    caller.is_admin()?;
    Params::parse(query.as_deref(), &[])?;
    let sinks = edge.sinks.names();
    let shown: Vec<Value> = sinks.iter().filter_map(|name| describe(&edge, name)).collect();
    Ok(answer::json(json!({ "store": edge.sinks.store(), "sinks": shown }).to_string()))
}

fn describe(edge: &Edge, name: &str) -> Option<Value> {
    let status = edge.sinks.status(name)?;
    let rooms: Vec<String> = edge.sinks.rooms(name)?.iter().map(ToString::to_string).collect();
    Some(json!({
        "name": name,
        "rooms": rooms,
        "messages": status.messages,
        "batches": status.batches,
        "waiting": status.waiting,
        "per_second": status.per_second,
        "rows_refused": status.rows_refused,
        "lost": status.lost,
        "failing": status.failing,
    }))
}

/// What a sink has stored, newest first.
#[utoipa::path(
    get,
    path = "/v1/sinks/{name}/events",
    operation_id = "read_sink",
    tag = "sinks",
    params(
        ("name" = String, Path, description = "The sink's name", pattern = "^[A-Za-z0-9_-]{1,60}$"),
        ("rooms" = Option<String>, Query, description = "A room, or a pattern such as well:*; as the sink's own where that has one", pattern = r"^([A-Za-z0-9_.:/@-]{1,200}[*]?|[*])$"),
        ("limit" = Option<u64>, Query, description = "At most so many", minimum = 1, maximum = 1000),
    ),
    responses(
        (status = 200, description = "What it has stored, newest first", body = ref("#/components/schemas/StoredEvents"), content_type = "application/json"),
        (status = 304, description = "The client has it: If-None-Match names its ETag"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 404, description = "There is no such thing", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn events(
    State(edge): State<Edge>,
    caller: Caller,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.is_admin()?;
    let params = Params::parse(query.as_deref(), &["rooms", "limit"])?;
    let limit = params.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let own = edge.sinks.rooms(&name).ok_or_else(|| Problem::not_found("there is no such sink"))?;
    let rooms = match (params.get("rooms"), &own[..]) {
        (Some(text), _) => Pattern::parse(text).map_err(|error| Problem::parameter("rooms", error))?,
        (None, [only]) => only.clone(),
        (None, _) => return Err(Problem::parameter("rooms", "this sink follows several; which of them?")),
    };
    let found = edge.sinks.newest(&name, &rooms, usize::try_from(limit).unwrap_or(usize::MAX)).await;
    let found = found.map_err(|error| unavailable(&error))?;
    let events: Vec<String> = found.iter().map(event).collect();
    Ok(answer::tagged(&headers, format!("{{\"events\":[{}]}}", events.join(","))))
}

/// An event as JSON, with its data as it was stored.
fn event(stored: &Stored) -> String {
    let data = serde_json::from_slice::<&RawValue>(&stored.data).map_or("null", RawValue::get);
    let head = json!({
        "room": stored.room.as_str(),
        "seq": stored.seq,
        "kind": stored.kind.as_str(),
        "key": stored.key.as_deref(),
        "timestamp": clock::rfc3339(stored.timestamp_ms),
    });
    let head = head.to_string();
    format!("{},\"data\":{data}}}", head.strip_suffix('}').unwrap_or_default())
}

/// What a store that cannot be read now is to a client.
fn unavailable(error: &StoreError) -> Problem {
    Problem::unavailable("store-unavailable", error.to_string())
}
