//! Clients to begin with: the pages and the script of the folder `examples`, open to all; they hold no secret and ask for a credential.

use axum::extract::Path;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

use crate::edge::problem::Problem;

/// Name, content type, text.
const FILES: [(&str, &str, &str); 3] = [
    ("websocket_client.html", "text/html; charset=utf-8", include_str!("../../../../examples/websocket_client.html")),
    ("sse_client.html", "text/html; charset=utf-8", include_str!("../../../../examples/sse_client.html")),
    ("websocket_client.py", "text/x-python; charset=utf-8", include_str!("../../../../examples/websocket_client.py")),
];
/// Only what stands in the page and the daemon's own client script runs. It may connect elsewhere, because its user says where.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; \
                      connect-src http: https: ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One of them.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    let Some((_, content_type, text)) = FILES.iter().find(|(file, ..)| *file == name) else {
        return Problem::not_found("there is no such example").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, *content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, *text).into_response()
}
