//! Long-poll: a connection that lives for one answer.

use std::time::Duration;

use axum::response::Response;

use super::caller::Caller;
use super::dialects::poll::Poll;
use super::problem::Problem;
use super::stream::{self, Started, Wish};
use super::{Edge, answer};
use crate::metrics::record;

/// How long an answer waits for something to say, if the client does not.
pub(super) const WAIT_DEFAULT: Duration = Duration::from_secs(25);

/// Answers as soon as there is anything, or after `wait`.
pub(super) async fn open(edge: Edge, caller: Caller, wish: Wish, wait: Duration) -> Result<Response, Problem> {
    let Started { mut connection, member: _member, something } =
        stream::start(&edge, &caller, &wish, Poll::default(), &record::POLL).await?;
    let cursor_max = edge.settings().limits.cursor_bytes;
    stream::check_cursor_length(&connection.handler().cursor(), cursor_max)?;
    // Something is missing, or there is a state: that is an answer, and what follows comes with the next one.
    // Where there is history to read as well, that comes with it.
    let more = connection.mailbox().depth().behind > 0;
    if something
        && !more
        && let Some(body) = connection.handler().take()
    {
        return Ok(answer::json(body));
    }
    if something && more {
        let session = connection.handler();
        let cursor = session.cursor();
        session.dialect().not_at(cursor);
    }
    let answer = tokio::time::timeout(wait, connection.next()).await;
    if let Ok(Ok(Some(body))) = answer {
        return Ok(answer::json(body));
    }
    let session = connection.handler();
    let cursor = session.cursor();
    Ok(answer::json(session.dialect().answer(&cursor)))
}
