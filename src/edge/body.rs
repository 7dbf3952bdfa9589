//! Bodies of requests: read within their limits, or read a little and thrown away.

use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use super::{Edge, wellformed};

/// How much of a body that is too large is read and thrown away, as a multiple of what is allowed, so that its sender gets to read the answer.
const DRAIN_FACTOR: usize = 4;

/// How long a body that is thrown away may rest before it is left alone.
const DRAIN_IDLE: Duration = Duration::from_millis(200);
/// How long a small body may take.
const SMALL_TIME: Duration = Duration::from_secs(10);
/// Of what a body's length is said to be, so much is believed before it has come.
const DECLARED_BYTES: usize = 64 << 10;
/// A packed body is unpacked in pieces of this size.
const PIECE_BYTES: usize = 16 << 10;

/// What of a body that is not wanted is read, so that its connection can go on.
const UNWANTED_BYTES: usize = 64 << 10;

/// What is left of a request that is answered without its body. Whoever waits to be told before it sends is not told to.
pub(super) async fn decline(request: Request) {
    if !wellformed::waits_to_send(request.headers()) {
        drain_unwanted(request.into_body()).await;
    }
}

/// Reads a little of a body that is not wanted: a sender that is still at it would see a reset instead of the answer.
pub(super) async fn drain_unwanted(body: Body) {
    let reading = drain(body, UNWANTED_BYTES);
    // A sender that takes its time is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
}

/// Reads a body, bounded by `limits.body_bytes`; all bodies under way are bounded by `limits.bodies_bytes`.
async fn read(edge: &Edge, declared: Option<u64>, mut body: Body) -> Result<(BytesMut, Permits), Problem> {
    let max = edge.settings().limits.body_bytes;
    if declared.is_some_and(|length| length > max as u64) {
        // Its sender said so: nothing of it needs a place. What is read of it lets a sender that is at it come to its end.
        drain(body, max.saturating_mul(DRAIN_FACTOR)).await;
        return Err(too_large(max));
    }
    // As large as it says, but for what says much and may not come.
    let length = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut bytes = BytesMut::with_capacity(length.min(DECLARED_BYTES));
    let mut permits = Permits::new(edge);
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
        permits.grow_to(bytes.len())?;
    }
    Ok((bytes, permits))
}

fn too_large(max: usize) -> Problem {
    let detail = format!("the body has more than {max} bytes (limits.body_bytes)");
    // What is left of it may still be on its way.
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail).closing()
}

/// A publish's body: what it comes to when it is unpacked, what it holds of the place for all bodies, and when its last byte came.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    /// To be held until the events are in their rooms.
    pub(super) _permits: Permits,
    pub(super) at: Instant,
}

/// Reads and unpacks a publish's body, within `limits.body_timeout`.
pub(super) async fn receive(
    edge: &Edge,
    headers: &HeaderMap,
    encoding: Encoding,
    body: Body,
) -> Result<Received, Problem> {
    let limit = edge.settings().limits.body_timeout;
    let read = tokio::time::timeout(limit, read(edge, declared_length(headers), body));
    let timed_out = || {
        let detail = format!("the body did not come within {limit:?} (limits.body_timeout)");
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
    };
    let (body, permits) = read.await.map_err(|_| timed_out())??;
    let at = Instant::now();
    let (bytes, permits) = encoding.unpack(edge, body, permits).await?;
    Ok(Received { bytes, _permits: permits, at })
}

/// What a request says of its body's length.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a small body of a call that is no publish.
pub(super) async fn read_small(mut body: Body, max: usize, time: Duration) -> Result<BytesMut, Problem> {
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |error: axum::Error| {
                Problem::new(StatusCode::BAD_REQUEST, "broken-body", format!("the body broke off: {error}"))
            };
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if bytes.len() + data.len() > max {
                let detail = format!("the body has more than {max} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail).closing());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    let timed_out = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "the body did not come in time");
    tokio::time::timeout(SMALL_TIME.min(time), reading).await.map_err(timed_out)?
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
}

impl Encoding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut named = headers.get_all(header::CONTENT_ENCODING).iter();
        let first = named.next().map(|value| value.to_str().unwrap_or("?").trim());
        match (first, named.next()) {
            (None, _) => Ok(Self::Plain),
            (Some(name), None) if name.eq_ignore_ascii_case("gzip") => Ok(Self::Gzip),
            _ => {
                let detail = "Content-Encoding: expected gzip, or none";
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", detail))
            }
        }
    }

    /// Unpacks a body, to no more than `limits.body_bytes` whatever it claims to hold; what it unpacks to counts for all bodies under way, as it grows.
    pub(super) async fn unpack(
        self,
        edge: &Edge,
        body: BytesMut,
        mut permits: Permits,
    ) -> Result<(Bytes, Permits), Problem> {
        if self == Self::Plain {
            return Ok((body.freeze(), permits));
        }
        let max = edge.settings().limits.body_bytes;
        // A large one takes a while.
        let unpacking = tokio::task::spawn_blocking(move || {
            let mut packed = flate2::read::MultiGzDecoder::new(&body[..]);
            let (mut out, mut piece) = (Vec::new(), [0; PIECE_BYTES]);
            loop {
                let read = packed.read(&mut piece).map_err(|error| {
                    let detail = format!("the body is not gzip: {error}");
                    Problem::new(StatusCode::BAD_REQUEST, "broken-body", detail)
                })?;
                if read == 0 {
                    return Ok((Bytes::from(out), permits));
                }
                if out.len() + read > max {
                    return Err(too_large(max));
                }
                permits.grow_to(body.len() + out.len() + read)?;
                out.extend_from_slice(&piece[..read]);
            }
        });
        unpacking.await.map_err(|_| Problem::unavailable("internal", "the body could not be unpacked"))?
    }
}

/// What a body takes of the place for all bodies under way together.
pub(super) struct Permits {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    kib: usize,
}

impl Permits {
    fn new(edge: &Edge) -> Self {
        Self { all: Arc::clone(&edge.bodies), held: None, kib: 0 }
    }

    /// Takes more, up to so many bytes. In whole KiB, so that a small body takes one step and a large one few.
    fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let wanted = bytes.div_ceil(1024);
        if wanted <= self.kib {
            return Ok(());
        }
        let more = u32::try_from(wanted - self.kib).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.all).try_acquire_many_owned(more);
        let taken = taken.map_err(|_| Problem::busy("too many bodies are under way (limits.bodies_bytes)"))?;
        match &mut self.held {
            Some(held) => held.merge(taken),
            None => self.held = Some(taken),
        }
        self.kib = wanted;
        Ok(())
    }
}

/// Reads what comes and throws it away, as long as it comes: whoever waits for the answer before it sends more is not waited for.
async fn drain(mut body: Body, mut left: usize) {
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_IDLE, body.frame()).await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
