//! Lines that are published as they come: a body of NDJSON of which nobody said how long it is, and which may have no end.
//!
//! It is taken in steps. A step is what is there at once, complete lines only, up to what a body may have; it is published whole or not at all, and only when the room has answered
//! for it (as far as `ack` asks) is more read. That is the backpressure: no more than one step is held, and TCP tells the sender. Where there is no place for a step now it waits, up
//! to `limits.body_timeout`, and so does its sender. For the same time the body may rest.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Version, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::body::{self, Permits, decline};
use super::super::caller::Caller;
use super::super::params::Params;
use super::super::problem::Problem;
use super::super::{Edge, publish};
use crate::clock;
use crate::engine::rooms::{PublishError, Receipt};
use crate::event::incoming::{BodyError, BodyLimits, Format, parse_lines};
use crate::event::lines::{LineBounds, LineTooLong, Lines};
use crate::event::{Ack, RoomName};
use crate::log::LogError;
use crate::metrics::record;

/// How often it is looked whether a credential still holds while nothing is published with it.
const LOOK: Duration = Duration::from_secs(1);
/// How long a step waits before it is tried again, at first and at most: nobody tells when a room has a place.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// What a body's next frame is; nothing at its end.
type Read = Option<Result<Frame<Bytes>, axum::Error>>;

/// Whether a request's body is taken so: lines, not packed, of unknown length.
pub(super) fn is_one(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::CONTENT_ENCODING)
        && Format::of(content_type) == Some(Format::Ndjson)
}

/// Publishes lines as they come, and answers when no more come.
pub(super) async fn publish(
    edge: &Edge,
    caller: &Caller,
    room: RoomName,
    request: Request,
) -> Result<Response, Problem> {
    let checked = check(edge, caller, &room, request.uri().query());
    let ack = match checked {
        Ok(ack) => ack,
        Err(problem) => {
            decline(request).await;
            return Err(problem);
        }
    };
    let (head, body) = request.into_parts();
    let limits = edge.settings().limits.clone();
    let sender = Sender {
        edge: edge.clone(),
        caller: caller.clone(),
        room,
        ack,
        parent: publish::traceparent(&head.headers).map(Into::into),
        bounds: publish::bounds(edge),
        patience: limits.body_timeout,
    };
    let lines = Lines::new(LineBounds {
        line_bytes: limits.event_bytes.min(limits.body_bytes),
        step_lines: limits.body_events,
        step_bytes: limits.body_bytes,
    });
    let upload = Upload {
        sender,
        body,
        version: head.version,
        at_end: false,
        lines,
        permits: Permits::new(edge),
        body_bytes: limits.body_bytes,
        taken: 0,
        total: Total::default(),
        seen: None,
        look_at: Instant::now() + LOOK,
    };
    // In a box: it is large, and the other publishes should not carry it.
    Box::pin(upload.run()).await
}

/// What a request's head has to be; how often its sender publishes is not asked here.
fn check(edge: &Edge, caller: &Caller, room: &RoomName, query: Option<&str>) -> Result<Ack, Problem> {
    caller.may_publish(room)?;
    publish::may_make(edge, caller, room)?;
    publish::ack(edge, &Params::parse(query, &["ack"])?)
}

/// Who publishes what, which is the same for each step.
#[derive(Clone)]
struct Sender {
    edge: Edge,
    caller: Caller,
    room: RoomName,
    ack: Ack,
    parent: Option<std::sync::Arc<str>>,
    bounds: BodyLimits,
    /// How long a body may rest, and a step wait for its place.
    patience: Duration,
}

/// A body on its way in.
struct Upload {
    sender: Sender,
    body: Body,
    version: Version,
    /// All of it has come.
    at_end: bool,
    lines: Lines,
    permits: Permits,
    body_bytes: usize,
    /// Lines of the steps that are published.
    taken: usize,
    total: Total,
    /// What was granted was looked through until then.
    seen: Option<u64>,
    look_at: Instant,
}

impl Upload {
    async fn run(mut self) -> Result<Response, Problem> {
        match self.flow().await {
            Ok(()) => {
                let mut said = self.total.told();
                said.insert("ack".to_owned(), self.sender.ack.name().into());
                Ok(publish::accepted(&Value::Object(said)))
            }
            Err(problem) => Err(self.refused(problem).await),
        }
    }

    /// Takes step after step until the body ends, or something is wrong with it.
    async fn flow(&mut self) -> Result<(), Problem> {
        // The request is the first publish. How often its sender may do that is no reason to refuse it here, but to let it wait.
        self.sender.pace(self.sender.deadline()).await?;
        loop {
            let broken = self.gather().await?;
            if self.lines.any() {
                self.publish().await?;
            } else if self.at_end {
                return if self.taken > 0 { Ok(()) } else { Err(BodyError::Empty.into()) };
            }
            // What was complete before it broke off is published.
            if let Some(problem) = broken {
                return Err(problem);
            }
        }
    }

    /// Reads on to the end of what is there at once, or of what one step may have. Nothing that is complete is waited with.
    async fn gather(&mut self) -> Result<Option<Problem>, Problem> {
        loop {
            self.lines.look().map_err(|line| self.too_long(line))?;
            if self.permits.grow_to(self.lines.held()).is_err() {
                if self.lines.any() && !self.permits.is_empty() {
                    // All the place that there is for bodies is taken: what is published gives some back, where all would wait for each other.
                    return Ok(None);
                }
                self.find_place().await?;
            }
            if self.lines.is_full() || self.at_end {
                return Ok(None);
            }
            let read = if self.lines.any() {
                match at_once(&mut self.body).await {
                    Some(read) => read,
                    None => return Ok(None),
                }
            } else {
                self.rest().await?
            };
            match read {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                    }
                }
                Some(Err(error)) => return Ok(Some(broke_off(&error))),
                None if self.is_cancelled() => return Ok(Some(broke_off("its stream was cancelled"))),
                None => {
                    self.at_end = true;
                    self.lines.end();
                }
            }
        }
    }

    /// HTTP/2 reads a stream that its client takes back as one that has ended, but for this.
    fn is_cancelled(&self) -> bool {
        self.version == Version::HTTP_2 && !self.body.is_end_stream()
    }

    /// Takes what is held of the place for all bodies.
    async fn find_place(&mut self) -> Result<(), Problem> {
        let (until, mut pause) = (self.sender.deadline(), PAUSES.0);
        while let Err(busy) = self.permits.grow_to(self.lines.held()) {
            self.sender.pause(pause, until, || busy).await?;
            pause = (pause * 2).min(PAUSES.1);
        }
        Ok(())
    }

    /// Waits for the next bytes as long as the body may rest.
    async fn rest(&mut self) -> Result<Read, Problem> {
        let until = self.sender.deadline();
        loop {
            let now = Instant::now();
            if now >= until {
                let detail = format!("no byte came for {:?} (limits.body_timeout)", self.sender.patience);
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail));
            }
            if now >= self.look_at {
                self.still_may()?;
            }
            tokio::select! {
                biased;
                read = self.body.frame() => return Ok(read),
                () = self.sender.edge.drained() => return Err(stopping()),
                () = sleep_until(until.min(self.look_at)) => {}
            }
        }
    }

    /// Publishes the lines that are complete.
    async fn publish(&mut self) -> Result<(), Problem> {
        let until = self.sender.deadline();
        if self.taken > 0 {
            if self.sender.edge.is_draining() {
                return Err(stopping());
            }
            self.still_may()?;
        }
        let (bytes, count) = self.lines.take();
        let held = self.permits.keep(self.lines.held());
        let step = Step { bytes, first: self.taken, until, _held: held };
        // By a task of its own: what is complete is published, whether its sender is still there or not.
        let publishing = tokio::spawn(step.publish(self.sender.clone(), self.taken > 0));
        let receipt = publishing
            .await
            .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the daemon made a mistake"))??;
        self.total.add(&receipt);
        self.taken += count;
        Ok(())
    }

    /// Whether the credential still holds, and allows this.
    fn still_may(&mut self) -> Result<(), Problem> {
        self.look_at = Instant::now() + LOOK;
        let Sender { edge, caller, room, .. } = &mut self.sender;
        let ended = |kind, detail| Err(Problem::new(StatusCode::UNAUTHORIZED, kind, detail));
        if caller.identity.expires_ms.is_some_and(|end| end <= clock::now_ms()) {
            return ended("token-expired", "the token has ended; go on with a new one");
        }
        let generation = edge.auth.generation();
        if self.seen == Some(generation) {
            return Ok(());
        }
        let Some(identity) = edge.auth.renew(&caller.identity) else {
            return ended("token-revoked", "the credential does not hold any more");
        };
        caller.identity = identity;
        self.seen = Some(generation);
        caller.may_publish(room)
    }

    fn too_long(&self, line: LineTooLong) -> Problem {
        let max = self.sender.bounds.event_bytes;
        if max > self.body_bytes {
            return body::too_large(self.body_bytes);
        }
        BodyError::EventTooLarge { item: self.taken + line.item, bytes: line.bytes, max }.into()
    }

    /// Says beside what is wrong how far its sender has come.
    async fn refused(self, problem: Problem) -> Problem {
        let mut said = self.total.told();
        let mut members = vec![("published", self.total.count.into())];
        members.extend(["duplicates", "last_seq"].into_iter().filter_map(|name| Some((name, said.remove(name)?))));
        let (taken, kind) = (self.taken, problem.kind());
        let problem = match taken {
            0 => problem,
            _ => problem.saying(|why| {
                let why = if kind == "invalid-event" { "see errors" } else { why };
                format!("the first {taken} of the body's events are published, then: {why}")
            }),
        };
        let problem = problem.and(members);
        if self.at_end {
            return problem;
        }
        body::leave(&self.sender.edge, self.body).await;
        problem.closing()
    }
}

impl Sender {
    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Waits until its subject may publish once more.
    async fn pace(&self, until: Instant) -> Result<(), Problem> {
        while let Err(too_much) = self.edge.guards.publish(&self.caller.identity.subject) {
            self.pause(too_much.retry, until, || Problem::too_much(too_much)).await?;
        }
        Ok(())
    }

    /// Waits for so long, unless it would be too long, or the daemon stops.
    async fn pause(&self, time: Duration, until: Instant, refusal: impl FnOnce() -> Problem) -> Result<(), Problem> {
        if Instant::now() + time > until {
            return Err(refusal());
        }
        tokio::select! {
            () = sleep(time) => Ok(()),
            () = self.edge.drained() => Err(stopping()),
        }
    }
}

/// Lines that are published together.
struct Step {
    bytes: BytesMut,
    /// The place of the first in its body.
    first: usize,
    /// How long it may wait for its place.
    until: Instant,
    /// Its place among all bodies.
    _held: Permits,
}

impl Step {
    /// Publishes it, as soon as its sender may (if that is still to be asked) and the room can.
    async fn publish(self, sender: Sender, paced: bool) -> Result<Receipt, Problem> {
        if paced {
            sender.pace(self.until).await?;
        }
        let mut pause = PAUSES.0;
        loop {
            let at = Instant::now();
            // Read again at each try: a room that has a place at once is what counts.
            let events = parse_lines(&self.bytes, self.first, sender.bounds)?;
            let (parent, room) = (sender.parent.as_deref(), sender.room.clone());
            match publish::submit(&sender.edge, parent, room, events.into(), sender.ack).await {
                Ok(receipt) => {
                    record::published(sender.ack, at.elapsed());
                    return Ok(receipt);
                }
                Err(error) if passes(&error) => sender.pause(pause, self.until, || error.into()).await?,
                Err(error) => return Err(error.into()),
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Whether nothing is published and it may be otherwise in a moment.
fn passes(error: &PublishError) -> bool {
    match error {
        PublishError::RoomFull | PublishError::SourceFull | PublishError::TooManyRooms => true,
        PublishError::Log(error) => matches!(error, LogError::Busy(_) | LogError::Io { .. }),
        PublishError::Unacknowledged | PublishError::Failed | PublishError::Unavailable(_) => false,
    }
}

/// What the steps come to together.
#[derive(Default)]
struct Total {
    count: usize,
    duplicates: usize,
    /// Of what is published the first and the last seq; of the first repetition while all are.
    seqs: Option<(u64, u64)>,
}

impl Total {
    fn add(&mut self, receipt: &Receipt) {
        let (first, last) = (receipt.first_seq, receipt.last_seq);
        self.seqs = match self.seqs {
            Some(known) if receipt.count == 0 => Some(known),
            Some((known, _)) if self.count > 0 => Some((known, last)),
            _ => Some((first, last)),
        };
        self.count += receipt.count;
        self.duplicates += receipt.duplicates;
    }

    fn told(&self) -> serde_json::Map<String, Value> {
        let mut told = serde_json::Map::new();
        told.insert("count".to_owned(), self.count.into());
        if let Some((first, last)) = self.seqs {
            told.insert("first_seq".to_owned(), first.into());
            told.insert("last_seq".to_owned(), last.into());
        }
        if self.duplicates > 0 {
            told.insert("duplicates".to_owned(), self.duplicates.into());
        }
        told
    }
}

/// The next of a body that is there without waiting for its sender.
async fn at_once(body: &mut Body) -> Option<Read> {
    if let Some(read) = body.frame().now_or_never() {
        return Some(read);
    }
    // Whoever reads the socket gets a turn: it hands over one piece at a time, and only when it is asked.
    tokio::task::yield_now().await;
    body.frame().now_or_never()
}

fn broke_off(why: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "broken-body", format!("the body broke off: {why}"))
}

fn stopping() -> Problem {
    Problem::unavailable("stopping", "the daemon is stopping; go on when it is back")
}
