//! Clients to begin with: the pages and the script of the folder `examples`, and the Socket.IO client for browsers, so that a page needs nothing from elsewhere. Open to all: they hold no secret and
//! ask for a credential.

use axum::extract::Path;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

use crate::edge::problem::Problem;

/// Name, content type, text.
type File = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const CLIENT: &str = include_str!("client/socket.io.min.js");

const EXAMPLES: [File; 3] = [
    ("websocket_client.html", HTML, include_str!("../../../../examples/websocket_client.html")),
    ("sse_client.html", HTML, include_str!("../../../../examples/sse_client.html")),
    ("websocket_client.py", "text/x-python; charset=utf-8", include_str!("../../../../examples/websocket_client.py")),
];
/// Under the names that Socket.IO's own server has for them; what it is and whose, is in the folder `client`.
const SCRIPTS: [File; 3] = [
    ("socket.io.js", SCRIPT, CLIENT),
    ("socket.io.min.js", SCRIPT, CLIENT),
    ("socket.io.LICENSE", "text/plain; charset=utf-8", include_str!("client/LICENSE-socket.io")),
];
/// Only what stands in the page and the daemon's own client script runs. It may connect elsewhere, because its user says where.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; \
                      connect-src http: https: ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One of the examples.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    of(&EXAMPLES, &name, "there is no such example")
}

/// The script that pages use.
pub(super) async fn script(Path(name): Path<String>) -> Response {
    of(&SCRIPTS, &name, "there is no such file; the client is /socket.io/socket.io.js")
}

fn of(files: &[File], name: &str, otherwise: &'static str) -> Response {
    let Some((_, content_type, text)) = files.iter().find(|(file, ..)| *file == name) else {
        return Problem::not_found(otherwise).into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, *content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, *text).into_response()
}
