//! Server-Sent Events: a connection whose actor is run by the task that writes the response. What is written is for a dialect that can be [`Streamed`]: the native one, or a surface's.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Edge;
use super::caller::Caller;
use super::dialects::sse::Sse;
use super::problem::Problem;
use super::stream::{self, Started, Turn, Wish};
use crate::clock;
use crate::engine::connections::supervisor::{Connection, Member};
use crate::engine::connections::{Dialect, Notice, Session};
use crate::metrics::record;
use crate::settings::{Heartbeat, Settings};

/// What keeps proxies awake: a line that means nothing.
const COMMENT: &[u8] = b":\n\n";

/// A dialect whose bytes go out as they are.
pub(in crate::edge) trait Streamed: Dialect<Output = Bytes> {
    /// Gathers lines that are no message: a comment, a field of the stream.
    fn raw(&mut self, bytes: &[u8]);

    /// Puts lines before everything that is gathered.
    fn preface(&mut self, bytes: &[u8]);

    /// Gathers what ends the stream as a whole, where its encoding asks for something.
    fn finish(&mut self) {}

    /// Headers of its own.
    fn headers(&self, _: &mut HeaderMap) {}

    /// What becomes of a connection whose response is over, or whose client has gone; by default it goes too.
    fn over(_: &Edge, connection: Connection<Self>, member: Member)
    where
        Self: Sized,
    {
        drop((connection, member));
    }

    /// After how long without an event the stream ends; `None` for never.
    fn idle(_: &Settings) -> Option<Duration> {
        None
    }
}

impl Streamed for Sse {
    fn raw(&mut self, bytes: &[u8]) {
        Self::raw(self, bytes);
    }

    fn preface(&mut self, bytes: &[u8]) {
        Self::preface(self, bytes);
    }
}

/// Opens a native stream.
pub(super) async fn open(edge: Edge, caller: Caller, wish: Wish) -> Result<Response, Problem> {
    let settings = edge.settings();
    let (heartbeat, cursor_max) = (&settings.heartbeat, settings.limits.cursor_bytes);
    let dialect = Sse::new(heartbeat.interval, cursor_max);
    let mut started = stream::start(&edge, &caller, &wish, dialect, &record::SSE).await?;
    stream::check_cursor_length(&started.connection.handler().cursor(), cursor_max)?;
    Ok(serve(&edge, started))
}

/// Answers with the stream of a connection that has started.
pub(in crate::edge) fn serve<D: Streamed>(edge: &Edge, started: Started<D>) -> Response {
    let Started { mut connection, member, .. } = started;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies must neither keep, nor change, nor gather it.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    connection.handler().dialect().headers(&mut headers);
    // In a box: between two writes it is held twice, as state and in the future, and only a pointer of it should be.
    let running = Running(Some(Box::new(Stream::new(edge, connection, member))));
    let body = Body::from_stream(unfold(running, |mut running| async {
        let bytes = running.0.as_mut()?.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), running))
    }));
    (headers, body).into_response()
}

/// A stream for as long as somebody asks for more of it.
struct Running<D: Streamed>(Option<Box<Stream<D>>>);

impl<D: Streamed> Drop for Running<D> {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            let Stream { edge, connection, member, .. } = *stream;
            D::over(&edge, connection, member);
        }
    }
}

struct Stream<D: Streamed> {
    edge: Edge,
    connection: Connection<D>,
    member: Member,
    /// Woken every [`Stream::period`]; never touched by a delivery, so that one costs no timer.
    timer: Pin<Box<Sleep>>,
    next_heartbeat: Instant,
    /// Whether anything was written since the timer was last woken.
    written: bool,
    first: bool,
    ended: bool,
    reconnect_spread: Duration,
    idle: Option<Duration>,
    opened: Instant,
    turn: Turn,
}

impl<D: Streamed> Stream<D> {
    fn new(edge: &Edge, connection: Connection<D>, member: Member) -> Self {
        let now = Instant::now();
        let heartbeat = &edge.rooms.heartbeat();
        let timer = Box::pin(sleep_until(now + heartbeat.interval.min(heartbeat.comment)));
        let next_heartbeat = now + heartbeat.interval;
        let settings = edge.settings();
        let (reconnect_spread, idle) = (settings.server.reconnect_spread, D::idle(&settings));
        let (written, first, ended) = (false, true, false);
        Self {
            edge: edge.clone(),
            connection,
            member,
            timer,
            next_heartbeat,
            written,
            first,
            ended,
            reconnect_spread,
            idle,
            opened: now,
            turn: None,
        }
    }

    fn heartbeat(&mut self) -> &Heartbeat {
        self.connection.handler().rooms().heartbeat()
    }

    /// What is written next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.first) {
            let retry = format!("retry: {}\n", self.heartbeat().retry.as_millis());
            let session = self.connection.handler();
            session.dialect().preface(retry.as_bytes());
            return session.take();
        }
        if self.ended {
            return None;
        }
        loop {
            tokio::select! {
                biased;
                output = self.connection.next(), if self.turn.is_none() => match output {
                    Ok(Some(bytes)) => {
                        self.written = true;
                        self.turn = stream::next_turn(&mut self.connection);
                        return Some(bytes);
                    }
                    Ok(None) | Err(_) => return self.end(),
                },
                () = stream::turn(&mut self.turn), if self.turn.is_some() => {}
                () = &mut self.timer => if let Some(bytes) = self.beat() {
                    return Some(bytes);
                },
            }
        }
    }

    /// A heartbeat if it is time for one; else a comment, if nothing else was written meanwhile.
    fn beat(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        let (interval, comment) = (self.heartbeat().interval, self.heartbeat().comment);
        let session = self.connection.handler();
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + interval;
            session.tell(&Notice::Heartbeat);
        } else if !self.written {
            session.dialect().raw(COMMENT);
        }
        if self.idle.is_some_and(|idle| quiet_for(session, self.opened) >= idle) {
            // It comes back by its cursor, as after any break.
            record::connection_cut("idle");
            self.ended = true;
            session.dialect().finish();
            return session.take();
        }
        self.written = false;
        self.timer.as_mut().reset(self.next_heartbeat.min(now + comment));
        session.take()
    }

    /// Says why the stream ends.
    fn end(&mut self) -> Option<Bytes> {
        self.ended = true;
        let session = self.connection.handler();
        let closing = session.closing()?;
        let notice = stream::ending(closing, self.reconnect_spread);
        if let Notice::Error { retry: Some(retry), .. } = &notice {
            session.dialect().raw(format!("retry: {}\n", retry.as_millis()).as_bytes());
        }
        session.tell(&notice);
        session.dialect().finish();
        session.take()
    }
}

/// For how long nothing was delivered.
fn quiet_for<D: Streamed>(session: &Session<D>, opened: Instant) -> Duration {
    let delivered_ms = session.profile().books.delivered_at_ms.get();
    Duration::from_millis(clock::coarse_ms().saturating_sub(delivered_ms)).min(opened.elapsed())
}
