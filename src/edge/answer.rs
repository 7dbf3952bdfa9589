//! Answers in JSON.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// An answer in JSON that no cache may keep.
pub(super) fn json(body: impl Into<axum::body::Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, body.into()).into_response()
}
