//! `GET /v1/rooms/{room}/events`: history as JSON, with the cursor to go on from.

use axum::response::Response;
use bytes::{BufMut, BytesMut};

use super::answer::{self, Tag};
use super::caller::Caller;
use super::dialects::json;
use super::params::Params;
use super::problem::Problem;
use super::rooms::Asked;
use super::{Edge, contract};
use crate::engine::connections::thin::Thin;
use crate::engine::rooms::{Room, Start, StartAt};
use crate::event::{Event, RoomName};

const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 100;
/// An answer ends when it has so many bytes, whatever the limit says; its cursor leads on.
const ANSWER_BYTES: usize = 4 << 20;

/// So many events are looked through for one answer, whatever the filter leaves of them; its cursor leads on.
const SCANNED_MAX: usize = 50_000;
/// The same where one period has more than that, of which something is made.
const MADE_MAX: usize = 1_000_000;
const LIMIT_MAX_EVENTS: usize = 1000;

/// Events for an answer.
struct Gathered {
    events: BytesMut,
    left: usize,
}

impl Gathered {
    fn take(&mut self, event: &Event) {
        if !self.events.is_empty() {
            self.events.put_u8(b',');
        }
        self.events.put_slice(&event.json());
        self.left = self.left.saturating_sub(1);
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn wants_more(&self) -> bool {
        self.left > 0 && self.events.len() < ANSWER_BYTES
    }
}

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
        ("mode" = Option<String>, Query, description = "Which of the events: every, latest, or one made of a period's: mean, min, max, last", pattern = "^(every|latest|mean|min|max|last)$"),
        ("fn" = Option<String>, Query, description = "As mode", pattern = "^(every|latest|mean|min|max|last)$"),
        ("period" = Option<String>, Query, description = "At most one event for each key in this time, such as 2s", pattern = r"^([1-9][0-9]{1,6}ms|[1-9][0-9]{0,3}s)$"),
        ("every" = Option<String>, Query, description = "As period", pattern = r"^([1-9][0-9]{1,6}ms|[1-9][0-9]{0,3}s)$"),
        ("field" = Option<String>, Query, description = "The field that mean, min, max or last is made of; all numbers if it is not given", pattern = r"^data[.][a-z_]{1,20}$"),
        ("filter" = Option<String>, Query, description = "Only events of which this expression is true, such as data.usage > 90.0", pattern = r"^data[.][a-z]{1,8} [<>] [0-9]{1,3}$"),
        ("kinds" = Option<String>, Query, description = "Only these kinds, separated by commas", pattern = "^[^,]+(,[^,]+)*$"),
        ("priority" = Option<String>, Query, description = "Only this priority and above", pattern = "^(critical|high|normal|low)$"),
        ("on_slow" = Option<String>, Query, description = "When the client cannot keep up", pattern = "^(displace|catch_up|latest|disconnect)$"),
    ),
    responses(
        (status = 200, description = "Events, oldest first, and the cursor to go on from", body = ref("#/components/schemas/History"), content_type = "application/json"),
        (status = 304, description = "The client has it: If-None-Match names its ETag"),
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
    asked: &Asked<'_>,
) -> Result<Response, Problem> {
    caller.may_read(name)?;
    let mut allowed = vec!["after", "since", "tail", "limit"];
    allowed.extend(contract::FIELDS);
    let params = Params::parse(asked.query, &allowed)?;
    let contract = contract::Asked::of_query(&params).contract()?;
    let tail = params.number("tail", 0, LIMIT_MAX)?;
    let limit = params.number("limit", 1, LIMIT_MAX)?;
    let room = edge.rooms.find(name)?.ok_or_else(|| Problem::not_found(format!("there is no room {name}")))?;
    let tag = tag(edge, &room);
    // An age is another time with each call.
    if params.get("since").is_none()
        && let Some(unchanged) = tag.unchanged(asked.headers)
    {
        return Ok(unchanged);
    }
    let start = params.start()?.map(|start| contract::aligned(start, contract.as_deref()));
    let start = match start {
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
    let mut gathered = Gathered { events: BytesMut::new(), left: usize::try_from(limit).unwrap_or(usize::MAX) };
    let mut thin = contract.as_deref().and_then(|contract| Thin::of(contract, false));
    let (mut scanned, mut cut) = (0, None);
    // What is made of a whole period is looked for as far as that goes; what a filter leaves, not that far.
    while gathered.wants_more()
        && (scanned < SCANNED_MAX || (thin.is_some() && gathered.is_empty() && scanned < MADE_MAX))
    {
        // Of events that may be left out more are read at once.
        let events_max = if contract.is_some() { LIMIT_MAX_EVENTS } else { gathered.left };
        let read = room.read_wait(after, events_max).await?;
        if read.is_empty() {
            break;
        }
        for event in read.iter().filter(|event| event.arrived_ms >= since_ms) {
            scanned += 1;
            let wanted = contract.as_deref().is_none_or(|contract| contract.wants(event));
            match thin.as_mut().filter(|_| wanted) {
                Some(thin) => {
                    let (mut out, begins) = (Vec::new(), thin.first_held());
                    thin.take(event, &mut out);
                    // A period goes out whole: with the next answer, if this one has no place for it.
                    if let Some(begins) = begins.filter(|_| !gathered.is_empty() && out.len() > gathered.left) {
                        cut = Some(begins - 1);
                        break;
                    }
                    out.iter().for_each(|out| gathered.take(&out.event));
                }
                None if wanted => gathered.take(event),
                None => {}
            }
            after = event.seq;
            if !gathered.wants_more() {
                break;
            }
        }
        if cut.is_some() {
            break;
        }
        if gathered.wants_more() {
            after = read.last().map_or(after, |last| last.seq);
        }
    }
    let more = cut.is_some() || after < room.head();
    if let Some(cut) = cut {
        after = cut;
    } else if let Some(thin) = &mut thin {
        // The next answer begins with what this one could not end: also where it shows what that has come to so far.
        let next = thin.first_held().map_or(after, |first| first - 1);
        if gathered.wants_more() && (!more || gathered.is_empty()) {
            let mut out = Vec::new();
            thin.flush(&mut out);
            out.iter().for_each(|out| gathered.take(&out.event));
        }
        // A period without end is not gone through again and again.
        if !more || scanned < MADE_MAX {
            after = next;
        }
    }
    let events = gathered.events;
    let mut body = BytesMut::with_capacity(events.len() + notices.len() + 300);
    body.put_slice(format!("{{\"room\":\"{name}\",\"events\":[").as_bytes());
    body.put_slice(&events);
    body.put_slice(b"],\"notices\":[");
    body.put_slice(&notices);
    body.put_slice(format!("],\"cursor\":\"{after}\",\"more\":{more}}}").as_bytes());
    if params.get("since").is_some() {
        return Ok(answer::tagged(asked.headers, body.freeze()));
    }
    Ok(tag.fresh(body.freeze()))
}

/// What a room's history is known by: what it holds, from where to where.
fn tag(edge: &Edge, room: &Room) -> Tag {
    // The head first: what comes meanwhile may be in the answer, and is there the next time too.
    let head = room.head();
    let (first, count) = room.held().unwrap_or_default();
    Tag::of(format_args!("{:x}-{first}-{count}-{head}", edge.started_ms))
}
