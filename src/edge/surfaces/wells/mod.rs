//! The surface `wells`: telemetry, alerts and diagnostics of wells, in rooms `well:{well_id}`. [`shape`] is how an event looks on each of its streams, [`socketio`] the Socket.IO server.

pub(in crate::edge) mod shape;
pub(in crate::edge) mod socketio;

use axum::Router;

use super::refusals::{Asked, Worded};
use crate::edge::Edge;
use crate::edge::problem::Problem;

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 3] = ["/api/v1/sse", "/api/v1/telemetry", "/socket.io"];

/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    Router::new().merge(socketio::routes())
}

/// A refusal in its words.
pub(super) fn refusal(_: &Problem, _: &Asked<'_>) -> Option<Worded> {
    None
}
