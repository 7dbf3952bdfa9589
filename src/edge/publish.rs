//! `POST /v1/rooms/{room}/events`.

use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::body::{drain_unwanted, read};
use super::params::Params;
use super::problem::Problem;
use super::{Edge, answer};
use crate::event::incoming::{BodyLimits, Format, parse};
use crate::event::{Ack, RoomName};
use crate::metrics::record;

/// Publishes a body.
pub(super) async fn publish(edge: &Edge, room: RoomName, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    match check(edge, &head) {
        Ok((ack, format)) => take(edge, room, ack, format, body).await,
        Err(problem) => {
            drain_unwanted(body).await;
            Err(problem)
        }
    }
}

/// What a request's head says, before its body is read.
fn check(edge: &Edge, head: &Parts) -> Result<(Ack, Format), Problem> {
    let params = Params::parse(head.uri.query(), &["ack"])?;
    let ack = match params.get("ack") {
        None => edge.settings.log.ack,
        Some(text) => Ack::parse(text).ok_or_else(|| Problem::parameter("ack", "expected memory, logged or synced"))?,
    };
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let format = Format::of(content_type).ok_or_else(|| {
        let detail = "expected application/json, application/x-ndjson, application/cloudevents+json or application/cloudevents-batch+json";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    })?;
    Ok((ack, format))
}

async fn take(edge: &Edge, room: RoomName, ack: Ack, format: Format, body: Body) -> Result<Response, Problem> {
    let limits = &edge.settings.limits;
    let read = tokio::time::timeout(limits.body_timeout, read(edge, body));
    let timed_out = || {
        let detail = format!("the body did not come within {:?} (limits.body_timeout)", limits.body_timeout);
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
    };
    // The permits are held until the events are in their room.
    let (body, _permits) = read.await.map_err(|_| timed_out())??;
    let started = Instant::now();
    let events = parse(format, &body, BodyLimits { event_bytes: limits.event_bytes, events: limits.body_events })?;
    drop(body);
    let receipt = edge.ingest.publish(room, events.into(), ack, edge.rooms.log().sync_timeout()).await?;
    record::published(ack, started.elapsed());
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
