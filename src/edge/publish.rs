//! `POST /v1/rooms/{room}/events`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::body::{Encoding, decline, receive};
use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use super::{Edge, answer};
use crate::engine::rooms::Receipt;
use crate::event::incoming::{BodyLimits, Format, parse};
use crate::event::{Ack, NewEvent, RoomName};
use crate::metrics::record;
use crate::traces;

/// Publishes a body.
#[utoipa::path(
    post,
    path = "/v1/rooms/{room}/events",
    tag = "events",
    params(
        ("room" = String, Path, description = "A room's name: letters, digits and _ - . : / @", min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.:/@-]+$"),
        ("ack" = Option<String>, Query, description = "What the answer means; log.ack if it is not given", pattern = "^(memory|logged|synced)$"),
    ),
    request_body(description = "One event, an array of them, one a line, or CloudEvents", content(
        (ref("#/components/schemas/Publish") = "application/json", example = json!({"kind": "sample", "data": {"pressure": 12.5}})),
        (String = "application/x-ndjson", example = json!("{\"kind\":\"sample\",\"data\":1}\n{\"kind\":\"sample\",\"data\":2}\n")),
        (ref("#/components/schemas/CloudEvent") = "application/cloudevents+json", example = json!({"specversion": "1.0", "id": "1", "source": "pump", "type": "sample", "data": 1})),
        (ref("#/components/schemas/CloudEvents") = "application/cloudevents-batch+json", example = json!([{"specversion": "1.0", "id": "2", "source": "pump", "type": "sample", "data": 2}])),
    )),
    responses(
        (status = 202, description = "All of them are published", body = ref("#/components/schemas/Receipt"), content_type = "application/json"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 413, description = "The body or an event is too large", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 415, description = "A content type or encoding that is not taken", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 422, description = "An event or a field is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 429, description = "Too much at once; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn publish(
    edge: &Edge,
    caller: &Caller,
    room: RoomName,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let checked = may(edge, caller, &room).and_then(|()| check(edge, &head));
    match checked {
        Ok((ack, format, encoding)) => take(edge, room, (ack, format, encoding), &head, body).await,
        Err(problem) => {
            decline(Request::from_parts(head, body)).await;
            Err(problem)
        }
    }
}

/// Whether the caller may publish to the room, and now.
pub(super) fn may(edge: &Edge, caller: &Caller, room: &RoomName) -> Result<(), Problem> {
    caller.may_publish(room)?;
    let subject = &caller.identity.subject;
    edge.guards.publish(subject).map_err(Problem::too_much)?;
    // A room that cannot be looked up is refused where it is to be made.
    let exists = |room: &RoomName| edge.rooms.find(room).is_ok_and(|room| room.is_some());
    edge.guards.new_room(subject, room, exists).map_err(Problem::too_much)
}

/// What a request's head says, before its body is read.
fn check(edge: &Edge, head: &Parts) -> Result<(Ack, Format, Encoding), Problem> {
    let params = Params::parse(head.uri.query(), &["ack"])?;
    let ack = match params.get("ack") {
        None => edge.settings().log.ack,
        Some(text) => Ack::parse(text).ok_or_else(|| Problem::parameter("ack", "expected memory, logged or synced"))?,
    };
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let format = Format::of(content_type).ok_or_else(|| {
        let detail = "expected application/json, application/x-ndjson, application/cloudevents+json or application/cloudevents-batch+json";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    })?;
    Ok((ack, format, Encoding::of(&head.headers)?))
}

async fn take(
    edge: &Edge,
    room: RoomName,
    (ack, format, encoding): (Ack, Format, Encoding),
    head: &Parts,
    body: Body,
) -> Result<Response, Problem> {
    let settings = edge.settings();
    let limits = &settings.limits;
    let received = receive(edge, &head.headers, encoding, body).await?;
    let bounds = BodyLimits { event_bytes: limits.event_bytes, events: limits.body_events, depth: limits.json_depth };
    let events = parse(format, &received.bytes, bounds)?;
    let receipt = hand_in(edge, room, events, ack, head).await?;
    record::published(ack, received.at.elapsed());
    let mut answer = json!({
        "count": receipt.count,
        "first_seq": receipt.first_seq,
        "last_seq": receipt.last_seq,
        "ack": ack.name(),
    });
    if receipt.duplicates > 0 {
        answer["duplicates"] = receipt.duplicates.into();
    }
    Ok((StatusCode::ACCEPTED, answer::json(answer.to_string())).into_response())
}

/// Hands events to their room and waits for its receipt, and for the log as far as `ack` asks; where traces are followed, as a part of the trace that the request's head names.
pub(super) async fn hand_in(
    edge: &Edge,
    room: RoomName,
    mut events: Vec<NewEvent>,
    ack: Ack,
    head: &Parts,
) -> Result<Receipt, Problem> {
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
    Ok(outcome?)
}
