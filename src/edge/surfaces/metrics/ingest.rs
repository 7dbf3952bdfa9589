//! `POST /metrics/requests` and `POST /metrics/report`: taken whole or not at all, and published into the rooms that the pipelines read.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{REPORTS, REQUESTS, record, room};
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::publish::may;
use crate::edge::{Edge, answer, body};
use crate::event::incoming::{BodyError, BodyLimits};
use crate::event::{Ack, NewEvent};
use crate::metrics::record as meter;

type Read = fn(&[u8], BodyLimits) -> Result<Vec<NewEvent>, BodyError>;

/// Takes records of requests.
pub(super) async fn requests(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    take(&edge, &caller, request, REQUESTS, record::requests).await
}

/// Takes reports.
pub(super) async fn report(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    take(&edge, &caller, request, REPORTS, record::reports).await
}

async fn take(
    edge: &Edge,
    caller: &Caller,
    request: Request,
    into: &'static str,
    read: Read,
) -> Result<Response, Problem> {
    let room = room(into)?;
    let ack = match may(edge, caller, &room).and_then(|()| check(edge, &request)) {
        Ok(ack) => ack,
        Err(problem) => {
            body::decline(request).await;
            return Err(problem);
        }
    };
    // The permits are held until the events are in their room.
    let (bytes, _permits) = body::whole(edge, request).await?;
    let started = std::time::Instant::now();
    let settings = edge.settings();
    let limits = &settings.limits;
    let bounds = BodyLimits { event_bytes: limits.event_bytes, events: limits.body_events, depth: limits.json_depth };
    let events = read(&bytes, bounds)?;
    drop(bytes);
    let receipt = edge.ingest.publish(room, events.into(), ack, edge.rooms.log().sync_timeout()).await?;
    meter::published(ack, started.elapsed());
    let mut told = json!({
        "count": receipt.count,
        "first_seq": receipt.first_seq,
        "last_seq": receipt.last_seq,
        "ack": ack.name(),
    });
    if receipt.duplicates > 0 {
        told["duplicates"] = receipt.duplicates.into();
    }
    Ok((StatusCode::ACCEPTED, answer::json(told.to_string())).into_response())
}

/// What a request's head says, before its body is read.
fn check(edge: &Edge, request: &Request) -> Result<Ack, Problem> {
    is_json(request.headers())?;
    match Params::pick(request.uri().query(), &["ack"]).get("ack") {
        None => Ok(edge.settings().log.ack),
        Some(text) => Ack::parse(text).ok_or_else(|| Problem::parameter("ack", "expected memory, logged or synced")),
    }
}

fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    // curl says the second unless told otherwise. Which form a body has is seen of the body itself.
    const TAKEN: [&str; 6] = [
        "application/json",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "",
    ];
    let named = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let named = named.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if TAKEN.contains(&&*named) {
        return Ok(());
    }
    let detail = "expected application/json or application/x-ndjson";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail))
}
