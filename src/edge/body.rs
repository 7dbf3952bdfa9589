//! Bodies of requests: read within their limits, or read a little and thrown away.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use super::Edge;
use super::problem::Problem;

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

/// Reads a body, bounded by `limits.body_bytes`; all bodies under way are bounded by `limits.bodies_bytes`.
pub(super) async fn read(edge: &Edge, mut body: Body) -> Result<(BytesMut, Vec<OwnedSemaphorePermit>), Problem> {
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
