//! `POST /v1/rooms/{room}/events`, and what taking a body to be published has to do on whatever route.

use std::fmt::Write as _;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use smallvec::SmallVec;

use super::body::{self, Encoding, Received, decline};
use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use super::{Edge, answer};
use crate::engine::rooms::{PublishError, Receipt};
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
    let checks = |head: &Parts| {
        may(edge, caller, &room)?;
        let params = Params::parse(head.uri.query(), &["ack"])?;
        Ok((ack(edge, &params)?, format(&head.headers, &Format::ALL)?))
    };
    let incoming = receive(edge, request, checks).await?;
    let (ack, format) = incoming.checked;
    let receipt = incoming.publish(edge, room, parse(format, incoming.bytes(), bounds(edge))?, ack).await?;
    Ok((StatusCode::ACCEPTED, answer::json(said(&receipt, ack))).into_response())
}

/// Whether the caller may publish to the room, and now.
pub(super) fn may(edge: &Edge, caller: &Caller, room: &RoomName) -> Result<(), Problem> {
    caller.may_publish(room)?;
    edge.guards.publish(&caller.identity.subject).map_err(Problem::too_much)?;
    may_make(edge, caller, room)
}

/// Whether the room is there, or the caller may bring one more to be.
pub(super) fn may_make(edge: &Edge, caller: &Caller, room: &RoomName) -> Result<(), Problem> {
    // A room that cannot be looked up is refused where it is to be made.
    let exists = |room: &RoomName| edge.rooms.find(room).is_ok_and(|room| room.is_some());
    edge.guards.new_room(&caller.identity.subject, room, exists).map_err(Problem::too_much)
}

/// What the answer is to mean: `?ack=`, or `log.ack`.
pub(super) fn ack(edge: &Edge, params: &Params<'_>) -> Result<Ack, Problem> {
    match params.get("ack") {
        None => Ok(edge.settings().log.ack),
        Some(text) => Ack::parse(text).ok_or_else(|| Problem::parameter("ack", "expected memory, logged or synced")),
    }
}

/// The format that a body is said to have; one of those that are taken.
pub(super) fn format(headers: &HeaderMap, taken: &[Format]) -> Result<Format, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    Format::of(content_type).filter(|format| taken.contains(format)).ok_or_else(|| {
        let names: Vec<&str> = taken.iter().map(|format| format.name()).collect();
        let (last, first) = names.split_last().map_or(("", &[][..]), |(last, first)| (*last, first));
        let or = if first.is_empty() { "" } else { " or " };
        let detail = format!("expected {}{or}{last}", first.join(", "));
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    })
}

/// What a body may hold.
pub(super) fn bounds(edge: &Edge) -> BodyLimits {
    let limits = &edge.settings().limits;
    BodyLimits { event_bytes: limits.event_bytes, events: limits.body_events, depth: limits.json_depth }
}

/// What came in to be published.
pub(super) struct Incoming<T> {
    /// What its head was found to say.
    pub(super) checked: T,
    head: Parts,
    body: Received,
}

/// Reads a request's body, if `check` finds its head right; what is refused before is declined.
pub(super) async fn receive<T>(
    edge: &Edge,
    request: Request,
    check: impl FnOnce(&Parts) -> Result<T, Problem>,
) -> Result<Incoming<T>, Problem> {
    let (head, body) = request.into_parts();
    match check(&head).and_then(|checked| Ok((checked, Encoding::of(&head.headers)?))) {
        Ok((checked, encoding)) => {
            let body = body::receive(edge, &head.headers, encoding, body).await?;
            Ok(Incoming { checked, head, body })
        }
        Err(problem) => {
            decline(Request::from_parts(head, body)).await;
            Err(problem)
        }
    }
}

impl<T> Incoming<T> {
    /// The body, unpacked.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.body.bytes
    }

    /// Hands events to their room and waits for its receipt, and for the log as far as `ack` asks.
    pub(super) async fn publish(
        &self,
        edge: &Edge,
        room: RoomName,
        events: Vec<NewEvent>,
        ack: Ack,
    ) -> Result<Receipt, Problem> {
        let receipt = self.submit(edge, room, events.into(), ack).await?;
        self.published(ack);
        Ok(receipt)
    }

    /// Puts events on their way; what comes back waits for what becomes of them. Where traces are followed, they are a part of the trace that the request names.
    pub(super) fn submit(
        &self,
        edge: &Edge,
        room: RoomName,
        mut events: SmallVec<[NewEvent; 1]>,
        ack: Ack,
    ) -> impl Future<Output = Result<Receipt, PublishError>> + Send + use<T> {
        let parent = self.head.headers.get("traceparent").and_then(|value| value.to_str().ok());
        let tracing = traces::publishing(room.as_str(), parent);
        if let Some(tracing) = &tracing {
            events.iter_mut().for_each(|event| event.trace = Some(tracing.trace()));
        }
        let (pending, limit) = (edge.ingest.submit(room, events, ack), edge.rooms.log().sync_timeout());
        async move {
            let outcome = pending.wait(limit).await;
            if let Some(tracing) = tracing {
                let outcome = outcome.as_ref().map(|receipt| (receipt.first_seq, receipt.last_seq));
                tracing.end(outcome.map_err(ToString::to_string));
            }
            outcome
        }
    }

    /// All of it is published: how long that took is counted.
    pub(super) fn published(&self, ack: Ack) {
        record::published(ack, self.body.at.elapsed());
    }
}

/// The answer to a publish. Written out, because it is the most frequent answer of all, and a tree of it cost as much as its event's parsing.
fn said(receipt: &Receipt, ack: Ack) -> String {
    let Receipt { count, first_seq, last_seq, duplicates, .. } = receipt;
    let mut said = String::with_capacity(128);
    let ack = ack.name();
    // Writing to memory does not fail.
    let _ = write!(said, "{{\"count\":{count},\"first_seq\":{first_seq},\"last_seq\":{last_seq},\"ack\":\"{ack}\"");
    if *duplicates > 0 {
        let _ = write!(said, ",\"duplicates\":{duplicates}");
    }
    said.push('}');
    said
}

/// What is said of a receipt.
pub(super) fn told(receipt: &Receipt) -> Value {
    let (count, first_seq, last_seq) = (receipt.count, receipt.first_seq, receipt.last_seq);
    let mut told = json!({ "count": count, "first_seq": first_seq, "last_seq": last_seq });
    if receipt.duplicates > 0 {
        told["duplicates"] = receipt.duplicates.into();
    }
    told
}

/// The answer that it is published.
pub(super) fn accepted(told: &Value) -> Response {
    (StatusCode::ACCEPTED, answer::json(told.to_string())).into_response()
}
