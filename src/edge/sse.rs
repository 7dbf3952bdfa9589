//! Server-Sent Events: a connection whose actor is run by the task that writes the response.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Edge;
use super::caller::Caller;
use super::dialects::sse::Sse;
use super::problem::Problem;
use super::stream::{self, Started, Wish};
use crate::engine::connections::supervisor::{Connection, Member};
use crate::engine::connections::{Closing, Notice};
use crate::metrics::record;
use crate::settings::Heartbeat;

/// What keeps proxies awake: a line that means nothing.
const COMMENT: &[u8] = b":\n\n";

/// Opens a stream.
pub(super) async fn open(edge: Edge, caller: Caller, wish: Wish) -> Result<Response, Problem> {
    let settings = edge.settings();
    let (heartbeat, cursor_max) = (&settings.heartbeat, settings.limits.cursor_bytes);
    let dialect = Sse::new(heartbeat.interval, cursor_max);
    let Started { mut connection, member, .. } = stream::start(&edge, &caller, &wish, dialect, &record::SSE).await?;
    stream::check_cursor_length(&connection.handler().cursor(), cursor_max)?;
    // In a box: between two writes it is held twice, as state and in the future, and only a pointer of it should be.
    let stream = Box::new(Stream::new(&edge, connection, member));
    let body = Body::from_stream(unfold(stream, |mut stream| async {
        let bytes = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), stream))
    }));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // Proxies must neither keep, nor change, nor gather it.
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body).into_response())
}

struct Stream {
    connection: Connection<Sse>,
    _member: Member,
    /// Woken every [`Stream::period`]; never touched by a delivery, so that one costs no timer.
    timer: Pin<Box<Sleep>>,
    next_heartbeat: Instant,
    /// Whether anything was written since the timer was last woken.
    written: bool,
    first: bool,
    ended: bool,
    reconnect_spread: Duration,
}

impl Stream {
    fn new(edge: &Edge, connection: Connection<Sse>, member: Member) -> Self {
        let now = Instant::now();
        let heartbeat = &edge.rooms.heartbeat();
        let timer = Box::pin(sleep_until(now + heartbeat.interval.min(heartbeat.comment)));
        let next_heartbeat = now + heartbeat.interval;
        let reconnect_spread = edge.settings().server.reconnect_spread;
        let (written, first, ended) = (false, true, false);
        Self { connection, _member: member, timer, next_heartbeat, written, first, ended, reconnect_spread }
    }

    fn heartbeat(&mut self) -> &Heartbeat {
        self.connection.handler().rooms().heartbeat()
    }

    /// What is written next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.first) {
            let welcome = self.connection.handler().take().unwrap_or_default();
            let retry = format!("retry: {}\n", self.heartbeat().retry.as_millis());
            return Some([retry.as_bytes(), &welcome].concat().into());
        }
        if self.ended {
            return None;
        }
        loop {
            tokio::select! {
                biased;
                output = self.connection.next() => match output {
                    Ok(Some(bytes)) => {
                        self.written = true;
                        return Some(bytes);
                    }
                    Ok(None) | Err(_) => return self.end(),
                },
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
        self.written = false;
        self.timer.as_mut().reset(self.next_heartbeat.min(now + comment));
        session.take()
    }

    /// Says why the stream ends.
    fn end(&mut self) -> Option<Bytes> {
        self.ended = true;
        let session = self.connection.handler();
        let closing = session.closing()?;
        let (code, message) = closing.text();
        record::connection_cut(code);
        let retry = (closing == Closing::Stopping).then(|| stream::spread(self.reconnect_spread));
        if let Some(retry) = retry {
            session.dialect().raw(format!("retry: {}\n", retry.as_millis()).as_bytes());
        }
        session.tell(&Notice::Error { code, message, retry });
        session.take()
    }
}
