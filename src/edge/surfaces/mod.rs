//! Surfaces: sets of endpoints that speak an existing dashboard's language, so that it works unchanged. Each is routes, a dialect, and pipelines that compute what it shows; what it shows is in rooms.
//!
//! A folder each: [`overview`], [`metrics`], [`wells`], [`analytics`], [`buffer`]. What they share: [`voice`] (their dialects), [`encoded`] (a message is made once for all readers), [`packing`] (and
//! packed once), [`open`] (streams over WebSocket or SSE), [`reads`] (answers that a client may keep), [`refusals`] (how errors look on each).

pub(super) mod encoded;
pub(super) mod open;
pub(super) mod packing;
pub(super) mod reads;
pub(super) mod refusals;
pub(super) mod voice;

pub(super) mod analytics;
pub(super) mod buffer;
pub(super) mod metrics;
pub(super) mod overview;
pub(super) mod wells;

use axum::Router;

use super::Edge;
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
