//! The door: everything but the probes needs a credential. Who is wrong is told 401, the same for every wrong credential.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::{Edge, body, page};

/// What is open to all.
const OPEN: [&str; 3] = ["/livez", "/readyz", "/api/health"];

/// Lets a request through, or not.
pub(super) async fn guard(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = OPEN.contains(&path) || (path == "/metrics" && edge.settings.metrics_public);
    if open || credential_fits(&edge, &request) {
        return next.run(request).await;
    }
    if path == "/" && accepts_html(request.headers()) {
        return page::sign_in();
    }
    body::drain_unwanted(request.into_body()).await;
    let detail = "a key or token is needed: Authorization: Bearer KEY, or ?access_token=KEY";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response()
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/html"))
}

/// The header counts where there is one; a wrong one is not made good by the query.
fn credential_fits(edge: &Edge, request: &Request) -> bool {
    if let Some(header) = request.headers().get(header::AUTHORIZATION) {
        let bearer = header.to_str().ok().and_then(|value| value.split_once(' '));
        return bearer.is_some_and(|(scheme, key)| {
            scheme.eq_ignore_ascii_case("bearer") && edge.keys.check(key.trim()).is_some()
        });
    }
    let query = request.uri().query().unwrap_or_default();
    let mut given =
        form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "access_token" || name == "token");
    given.next().is_some_and(|(_, key)| edge.keys.check(&key).is_some())
}
