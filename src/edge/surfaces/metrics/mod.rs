//! The surface `metrics`.

use axum::Router;

use super::refusals::{Asked, Worded};
use crate::edge::Edge;
use crate::edge::problem::Problem;

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 3] = ["/metrics/stream", "/metrics/requests", "/metrics/report"];

/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    Router::new()
}

/// A refusal in its words.
pub(super) fn refusal(_: &Problem, _: &Asked<'_>) -> Option<Worded> {
    None
}
