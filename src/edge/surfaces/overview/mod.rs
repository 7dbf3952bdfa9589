//! The surface `overview`.

use axum::Router;

use super::refusals::{Asked, Worded};
use crate::edge::Edge;
use crate::edge::problem::Problem;

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 6] =
    ["/api/stream", "/api/overview", "/api/events", "/api/project-details", "/api/anomalies", "/api/patterns"];

/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    Router::new()
}

/// A refusal in its words.
pub(super) fn refusal(_: &Problem, _: &Asked<'_>) -> Option<Worded> {
    None
}
