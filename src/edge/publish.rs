//! `POST /v1/rooms/{room}/events`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::params::Params;
use super::problem::Problem;
use super::{Edge, native};
use crate::event::incoming::{BodyLimits, Format, parse};
use crate::event::{Ack, RoomName};
use crate::metrics::record;

/// How much of a body that is too large is read and thrown away, as a multiple of what is allowed, so that its sender gets to read the answer.
const DRAIN_FACTOR: usize = 4;

/// What of a body that is not wanted is read, so that its connection can go on.
const UNWANTED_BYTES: usize = 64 << 10;

/// Reads a little of a body that is not wanted: a sender that is still at it would see a reset instead of the answer.
pub(super) async fn drain_unwanted(body: Body) {
    let reading = drain(body, UNWANTED_BYTES);
    // A sender that takes its time is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
}

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
    let read = tokio::time::timeout(limits.body_timeout, read_body(edge, body));
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
    Ok((StatusCode::ACCEPTED, native::json(answer.to_string())).into_response())
}

/// Reads a body, bounded by `limits.body_bytes`; all bodies under way are bounded by `limits.bodies_bytes`.
async fn read_body(edge: &Edge, mut body: Body) -> Result<(BytesMut, Vec<OwnedSemaphorePermit>), Problem> {
    let max = edge.settings.limits.body_bytes;
    let mut bytes = BytesMut::new();
    let mut permits = Vec::new();
    let mut counted = 0_usize;
    while let Some(frame) = body.frame().await {
        let broken = |error: axum::Error| {
            Problem::new(StatusCode::BAD_REQUEST, "broken-body", format!("the body broke off: {error}"))
        };
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + data.len() > max {
            drain(body, max.saturating_mul(DRAIN_FACTOR)).await;
            let detail = format!("the body has more than {max} bytes (limits.body_bytes)");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail));
        }
        bytes.extend_from_slice(&data);
        // Whole KiB, so that a small body takes one permit and a large one few steps.
        let wanted = bytes.len().div_ceil(1024);
        if wanted > counted {
            let more = u32::try_from(wanted - counted).unwrap_or(u32::MAX);
            let permit = Arc::clone(&edge.bodies).try_acquire_many_owned(more);
            permits.push(permit.map_err(|_| Problem::busy("too many bodies are under way (limits.bodies_bytes)"))?);
            counted = wanted;
        }
    }
    Ok((bytes, permits))
}

async fn drain(mut body: Body, mut left: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, bytes::Bytes::len);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
