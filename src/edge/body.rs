//! Bodies of requests: read within their limits, or read a little and thrown away.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use super::Edge;
use super::problem::Problem;

/// How much of a body that is too large is read and thrown away, as a multiple of what is allowed, so that its sender gets to read the answer.
const DRAIN_FACTOR: usize = 4;

/// How long a small body may take.
const SMALL_TIME: Duration = Duration::from_secs(10);

/// What of a body that is not wanted is read, so that its connection can go on.
const UNWANTED_BYTES: usize = 64 << 10;

/// Reads a little of a body that is not wanted: a sender that is still at it would see a reset instead of the answer.
pub(super) async fn drain_unwanted(body: Body) {
    let reading = drain(body, UNWANTED_BYTES);
    // A sender that takes its time is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
}

/// Reads a body, bounded by `limits.body_bytes`; all bodies under way are bounded by `limits.bodies_bytes`.
pub(super) async fn read(
    edge: &Edge,
    declared: Option<u64>,
    mut body: Body,
) -> Result<(BytesMut, Vec<OwnedSemaphorePermit>), Problem> {
    let max = edge.settings().limits.body_bytes;
    if declared.is_some_and(|length| length > max as u64) {
        // Its sender said so: nothing of it needs a place, and little of it is read.
        drain_unwanted(body).await;
        return Err(too_large(max));
    }
    let mut bytes = BytesMut::new();
    let mut permits = Vec::new();
    let mut counted = 0_usize;
    while let Some(frame) = body.frame().await {
        let broken = |error: axum::Error| {
            Problem::new(StatusCode::BAD_REQUEST, "broken-body", format!("the body broke off: {error}"))
        };
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + data.len() > max {
            // What was taken for it is given back first.
            drop(permits);
            drain(body, max.saturating_mul(DRAIN_FACTOR)).await;
            return Err(too_large(max));
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

fn too_large(max: usize) -> Problem {
    let detail = format!("the body has more than {max} bytes (limits.body_bytes)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

/// What a request says of its body's length.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a small body of a call that is no publish.
pub(super) async fn read_small(mut body: Body, max: usize) -> Result<BytesMut, Problem> {
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |error: axum::Error| {
                Problem::new(StatusCode::BAD_REQUEST, "broken-body", format!("the body broke off: {error}"))
            };
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if bytes.len() + data.len() > max {
                let detail = format!("the body has more than {max} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    let timed_out = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "the body did not come in time");
    tokio::time::timeout(SMALL_TIME, reading).await.map_err(timed_out)?
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
}

impl Encoding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        match headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim()) {
            None | Some("" | "identity") => Ok(Self::Plain),
            Some(name) if name.eq_ignore_ascii_case("gzip") => Ok(Self::Gzip),
            Some(_) => {
                let detail = "Content-Encoding: expected gzip, or none";
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", detail))
            }
        }
    }

    /// Unpacks a body, to no more than `max` bytes whatever it claims to hold.
    pub(super) async fn unpack(self, body: BytesMut, max: usize) -> Result<BytesMut, Problem> {
        if self == Self::Plain {
            return Ok(body);
        }
        // A large one takes a while.
        let unpacking = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let limit = max as u64 + 1;
            let read = flate2::read::MultiGzDecoder::new(&body[..]).take(limit).read_to_end(&mut out);
            read.map(|_| out)
        });
        let broken =
            |why: &str| Problem::new(StatusCode::BAD_REQUEST, "broken-body", format!("the body is not gzip: {why}"));
        match unpacking.await {
            Ok(Ok(out)) if out.len() > max => Err(too_large(max)),
            Ok(Ok(out)) => Ok(BytesMut::from(&out[..])),
            Ok(Err(error)) => Err(broken(&error.to_string())),
            Err(_) => Err(broken("unpacking failed")),
        }
    }
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
