//! Surfaces: sets of endpoints that speak an existing dashboard's language, so that it works unchanged. Each is routes, a dialect, and pipelines that compute what it shows; what it shows is in rooms.
//!
//! A folder each: [`overview`], [`metrics`], [`wells`], [`analytics`], [`buffer`]. What they share: [`voice`] (their dialects), [`encoded`] (a message is made once for all readers), [`packing`] (and
//! packed once), [`open`] (streams over WebSocket or SSE), [`refusals`] (how errors look on each).

pub(super) mod encoded;
pub(super) mod open;
pub(super) mod packing;
pub(super) mod refusals;
pub(super) mod voice;

pub(super) mod analytics;
pub(super) mod buffer;
pub(super) mod metrics;
pub(super) mod overview;
pub(super) mod wells;

use axum::Router;

use super::Edge;
use super::problem::Problem;
use crate::event::RoomName;
use crate::settings::Surface;

/// The routes of the surfaces that are switched on.
pub(super) fn routes(edge: &Edge) -> Router<Edge> {
    let on = edge.settings().surfaces.enabled.clone();
    let mut router = Router::new();
    for surface in on {
        router = router.merge(match surface {
            Surface::Overview => overview::routes(),
            Surface::Metrics => metrics::routes(),
            Surface::Wells => wells::routes(),
            Surface::Analytics => analytics::routes(edge),
            Surface::Buffer => buffer::routes(),
        });
    }
    router
}

/// A room of a surface. Names that are written in the program are good ones; the answer is for the compiler.
fn room(name: &'static str) -> Result<RoomName, Problem> {
    RoomName::parse(name).map_err(|error| Problem::unavailable("internal", error.to_string()))
}
