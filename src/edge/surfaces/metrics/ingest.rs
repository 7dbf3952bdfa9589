//! `POST /metrics/requests` and `POST /metrics/report`: taken whole or not at all, and published into the rooms that the pipelines read.

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{REPORTS, REQUESTS, record, room};
use crate::edge::body::{Encoding, decline, receive};
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::publish::may;
use crate::edge::{Edge, answer};
use crate::event::incoming::{BodyError, BodyLimits};
use crate::event::{Ack, NewEvent};
use crate::metrics::record as meter;
use crate::traces;

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
    let (head, body) = request.into_parts();
    let (ack, encoding) = match may(edge, caller, &room).and_then(|()| check(edge, &head)) {
        Ok(checked) => checked,
        Err(problem) => {
            decline(Request::from_parts(head, body)).await;
            return Err(problem);
        }
    };
    let received = receive(edge, &head.headers, encoding, body).await?;
    let settings = edge.settings();
    let limits = &settings.limits;
    let bounds = BodyLimits { event_bytes: limits.event_bytes, events: limits.body_events, depth: limits.json_depth };
    let mut events = read(&received.bytes, bounds)?;
    let parent = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
    let tracing = traces::publishing(room.as_str(), parent);
    if let Some(tracing) = &tracing {
        events.iter_mut().for_each(|event| event.trace = Some(tracing.trace()));
    }
    let outcome = edge.ingest.publish(room, events.into(), ack, edge.rooms.log().sync_timeout()).await;
    if let Some(tracing) = tracing {
        let outcome = outcome.as_ref().map(|receipt| (receipt.first_seq, receipt.last_seq));
        tracing.end(outcome.map_err(ToString::to_string));
    }
    let receipt = outcome?;
    meter::published(ack, received.at.elapsed());
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
fn check(edge: &Edge, head: &Parts) -> Result<(Ack, Encoding), Problem> {
    is_json(&head.headers)?;
    let ack = match Params::pick(head.uri.query(), &["ack"]).get("ack") {
        None => edge.settings().log.ack,
        Some(text) => Ack::parse(text).ok_or_else(|| Problem::parameter("ack", "expected memory, logged or synced"))?,
    };
    Ok((ack, Encoding::of(&head.headers)?))
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
