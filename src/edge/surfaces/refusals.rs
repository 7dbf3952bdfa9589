//! How errors look on the paths of a surface: a refusal of the door, of the limits or of a route is the same `Problem` everywhere, and is written here in the surface's own words.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;

use super::{analytics, buffer, overview, wells};
use crate::edge::Edge;
use crate::edge::problem::{Problem, Shown};
use crate::settings::Surface;

type Words = fn(&Problem, &Asked<'_>) -> Worded;

/// The surfaces with words of their own, and where they use them. Those of `metrics` are the native ones.
const WORDS: [(Surface, &[&str], Words); 4] = [
    (Surface::Overview, &overview::PATHS, overview::refusal),
    (Surface::Wells, &wells::PATHS, wells::refusal),
    (Surface::Analytics, &analytics::PATHS, analytics::refusal),
    (Surface::Buffer, &buffer::PATHS, buffer::refusal),
];

/// Which surface a path belongs to, and its words.
fn words_of(path: &str) -> Option<(Surface, Words)> {
    let under = |prefix: &&str| path.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let found = WORDS.iter().find(|(_, prefixes, _)| prefixes.iter().any(under))?;
    Some((found.0, found.2))
}

/// In which words a refusal of a request is to be written, and what it asked for; `None` where they are the native ones.
pub(in crate::edge) struct Dress {
    words: Words,
    path: String,
}

impl Dress {
    /// Those of the surface whose path it is.
    pub(in crate::edge) fn of(edge: &Edge, request: &Request) -> Option<Self> {
        let (surface, words) = words_of(request.uri().path())?;
        let enabled = edge.settings().surfaces.enabled.contains(&surface);
        enabled.then(|| Self { words, path: request.uri().path().to_owned() })
    }

    /// Writes a refusal anew; any other answer stays as it is.
    pub(in crate::edge) fn put_on(&self, mut response: Response) -> Response {
        let Some(Shown(problem)) = response.extensions_mut().remove::<Shown>() else { return response };
        let body = (self.words)(&problem, &Asked { path: &self.path });
        // Its status and headers (Retry-After, Allow, Connection) stay.
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(axum::http::header::CONTENT_LENGTH);
        parts.headers.insert(axum::http::header::CONTENT_TYPE, body.content_type);
        Response::from_parts(parts, Body::from(body.text))
    }
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
