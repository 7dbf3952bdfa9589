//! How errors look on the paths of a surface: a refusal of the door, of the limits or of a route is the same `Problem` everywhere, and is written here in the surface's own words.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::{analytics, buffer, metrics, overview, wells};
use crate::edge::Edge;
use crate::edge::problem::Shown;
use crate::settings::Surface;

/// Which surface a path belongs to.
fn surface_of(path: &str) -> Option<Surface> {
    let under = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if overview::PATHS.iter().any(|prefix| under(prefix)) {
        Some(Surface::Overview)
    } else if metrics::PATHS.iter().any(|prefix| under(prefix)) {
        Some(Surface::Metrics)
    } else if wells::PATHS.iter().any(|prefix| under(prefix)) {
        Some(Surface::Wells)
    } else if analytics::PATHS.iter().any(|prefix| under(prefix)) {
        Some(Surface::Analytics)
    } else if buffer::PATHS.iter().any(|prefix| under(prefix)) {
        Some(Surface::Buffer)
    } else {
        None
    }
}

/// Writes refusals on a surface's paths in its words.
pub(in crate::edge) async fn dress(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let surface = surface_of(request.uri().path()).filter(|surface| edge.settings().surfaces.enabled.contains(surface));
    let Some(surface) = surface else { return next.run(request).await };
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let Some(Shown(problem)) = response.extensions_mut().remove::<Shown>() else { return response };
    let asked = Asked { path: &path };
    let dressed = match surface {
        Surface::Overview => overview::refusal(&problem, &asked),
        Surface::Metrics => metrics::refusal(&problem, &asked),
        Surface::Wells => wells::refusal(&problem, &asked),
        Surface::Analytics => analytics::refusal(&problem, &asked),
        Surface::Buffer => buffer::refusal(&problem, &asked),
    };
    let Some(body) = dressed else { return response };
    // Its status and headers (Retry-After, Allow, Connection) stay.
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    parts.headers.insert(axum::http::header::CONTENT_TYPE, body.content_type);
    Response::from_parts(parts, Body::from(body.text))
}

/// What was asked for where it was refused.
pub(in crate::edge) struct Asked<'r> {
    pub(in crate::edge) path: &'r str,
}

/// A refusal in a surface's words.
pub(in crate::edge) struct Worded {
    pub(in crate::edge) content_type: axum::http::HeaderValue,
    pub(in crate::edge) text: String,
}

impl Worded {
    /// As JSON.
    pub(in crate::edge) fn json(value: &serde_json::Value) -> Self {
        Self { content_type: axum::http::HeaderValue::from_static("application/json"), text: value.to_string() }
    }
}
