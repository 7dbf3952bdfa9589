//! The page at `/`: one document without anything from elsewhere, put together from the files in `page/`.

use std::sync::LazyLock;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/index.html").replacen("/*STYLE*/", include_str!("page/style.css"), 1).replacen(
        "/*SCRIPT*/",
        include_str!("page/page.js"),
        1,
    )
});

/// Only what the document itself holds runs, and it may speak to this daemon only.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The page.
pub(super) async fn show() -> Response {
    html(StatusCode::OK, PAGE.as_str())
}

/// Asks a browser that has no credential for one.
pub(super) fn sign_in() -> Response {
    let mut response = html(StatusCode::UNAUTHORIZED, include_str!("page/signin.html"));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

fn html(status: StatusCode, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // The address holds the token.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}
