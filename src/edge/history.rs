//! `GET /v1/rooms/{room}/events`: history as JSON, with the cursor to go on from.

use axum::response::Response;
use bytes::{BufMut, BytesMut};

use super::caller::Caller;
use super::dialects::json;
use super::params::Params;
use super::problem::Problem;
use super::{Edge, answer};
use crate::engine::rooms::{Start, StartAt};
use crate::event::RoomName;

const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 100;
/// An answer ends when it has so many bytes, whatever the limit says; its cursor leads on.
const ANSWER_BYTES: usize = 4 << 20;

/// Reads a room's history.
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/events",
    tag = "events",
    params(
        ("room" = String, Path, description = "A room's name: letters, digits and _ - . : / @", min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.:/@-]+$"),
        ("after" = Option<String>, Query, description = "Begin after this seq or cursor", pattern = r"^([0-9]*|[A-Za-z0-9_.:/@-]{1,200}=[0-9]{1,20}(,[A-Za-z0-9_.:/@-]{1,200}=[0-9]{1,20})*)$"),
        ("since" = Option<String>, Query, description = "Begin with this time (RFC 3339) or age (-5m)", pattern = r"^(-[0-9]{1,6}(ms|s|m|h|d)|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?Z)$"),
        ("tail" = Option<u64>, Query, description = "Begin with the newest so many events", minimum = 0, maximum = 1000),
        ("limit" = Option<u64>, Query, description = "At most so many", minimum = 1, maximum = 1000),
    ),
    responses(
        (status = 200, description = "Events, oldest first, and the cursor to go on from", body = ref("#/components/schemas/History"), content_type = "application/json"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 404, description = "There is no such thing", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn read(
    edge: &Edge,
    caller: &Caller,
    name: &RoomName,
    query: Option<&str>,
) -> Result<Response, Problem> {
    caller.may_read(name)?;
    let params = Params::parse(query, &["after", "since", "tail", "limit"])?;
    let tail = params.number("tail", 0, LIMIT_MAX)?;
    let limit = params.number("limit", 1, LIMIT_MAX)?;
    let room = edge.rooms.find(name)?.ok_or_else(|| Problem::not_found(format!("there is no room {name}")))?;
    let start = match params.start(None)? {
        None => Start::Tail(limit.unwrap_or(LIMIT_DEFAULT)),
        Some(StartAt::After(cursor)) => {
            let wrong = || Problem::parameter("after", format!("the cursor does not name the room {name}"));
            Start::After(cursor.of(name, true).ok_or_else(wrong)?)
        }
        Some(StartAt::Since(ms)) => Start::Since(ms),
        Some(StartAt::Tail(count)) => Start::Tail(count),
        Some(StartAt::Live) => Start::Live,
    };
    let limit = limit.or(tail).unwrap_or(LIMIT_DEFAULT);
    let since_ms = if let Start::Since(ms) = start { ms } else { 0 };
    let (mut after, gap) = room.begin(start);
    let mut notices = BytesMut::new();
    if let Some(gap) = gap {
        notices.put_slice(json::gap(name, gap).as_bytes());
    }
    let mut events = BytesMut::new();
    let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
    while left > 0 && events.len() < ANSWER_BYTES {
        let read = room.read_wait(after, left).await?;
        let Some(last) = read.last() else { break };
        after = last.seq;
        for event in read.iter().filter(|event| event.arrived_ms >= since_ms) {
            if !events.is_empty() {
                events.put_u8(b',');
            }
            events.put_slice(&event.json());
            left -= 1;
            if events.len() >= ANSWER_BYTES {
                after = event.seq;
                break;
            }
        }
    }
    let more = after < room.head();
    let mut body = BytesMut::with_capacity(events.len() + notices.len() + 300);
    body.put_slice(format!("{{\"room\":\"{name}\",\"events\":[").as_bytes());
    body.put_slice(&events);
    body.put_slice(b"],\"notices\":[");
    body.put_slice(&notices);
    body.put_slice(format!("],\"cursor\":\"{after}\",\"more\":{more}}}").as_bytes());
    Ok(answer::json(body.freeze()))
}
