//! For those who measure: the native dialects without a transport.

use std::time::Duration;

use super::dialects::sse::Sse;
use super::dialects::ws::Ws;
use crate::engine::connections::Dialect;

/// A WebSocket's.
#[must_use]
pub fn websocket() -> impl Dialect {
    Ws::new(Duration::from_secs(20))
}

/// An SSE stream's.
#[must_use]
pub fn sse() -> impl Dialect {
    Sse::new(Duration::from_secs(20), 4096)
}
