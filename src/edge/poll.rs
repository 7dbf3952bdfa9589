//! Long-poll: a connection that lives for one answer.

use std::net::SocketAddr;
use std::time::Duration;

use axum::response::Response;

use super::dialects::poll::Poll;
use super::problem::Problem;
use super::stream::{self, Wish};
use super::{Edge, native};
use crate::metrics::record;

/// How long an answer waits for something to say, if the client does not.
pub(super) const WAIT_DEFAULT: Duration = Duration::from_secs(25);

/// Answers as soon as there is anything, or after `wait`.
pub(super) async fn open(edge: Edge, peer: SocketAddr, wish: Wish, wait: Duration) -> Result<Response, Problem> {
    let (mut connection, _member) = stream::start(&edge, peer, &wish, Poll::default(), &record::POLL).await?;
    if let Some(body) = connection.handler().take() {
        // Something is missing: that is an answer, and what follows comes with the next one.
        return Ok(native::json(body));
    }
    let answer = tokio::time::timeout(wait, connection.next()).await;
    if let Ok(Ok(Some(body))) = answer {
        return Ok(native::json(body));
    }
    let session = connection.handler();
    let cursor = session.cursor();
    Ok(native::json(session.dialect().answer(&cursor)))
}
