//! The surface `wells`: telemetry, alerts and diagnostics of wells, in rooms `well:{well_id}`. [`telemetry`] reads what sensors send and [`ingest`] publishes it; [`shape`] is how an event looks
//! on each stream, [`sse`] the stream of Server-Sent Events, [`socketio`] the Socket.IO server; [`words`] are errors, [`examples`] clients to begin with and the script that they use. Alerts and
//! diagnostics are pipelines (`wells_alerts`, `wells_diagnostics`).

mod examples;
mod ingest;
pub(in crate::edge) mod shape;
pub(in crate::edge) mod socketio;
mod sse;
mod telemetry;
mod words;

use axum::Router;
use axum::routing::{get, post};

use crate::edge::Edge;

pub(super) use words::refusal;

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 3] = ["/api/v1/sse", "/api/v1/telemetry", "/socket.io"];

/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    Router::new()
        .route("/api/v1/telemetry/ingest", post(ingest::ingest))
        .route("/api/v1/sse/stream/{*well_id}", get(sse::open))
        .route("/examples/{file}", get(examples::file))
        .route("/socket.io/{file}", get(examples::script))
        .merge(socketio::routes())
}
