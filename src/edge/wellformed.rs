//! What HTTP demands of a request that hyper lets pass: one host, a transfer coding that is known, and a WebSocket handshake by RFC 6455.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Version, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::problem::Problem;

/// The one version there is (RFC 6455, section 4.1).
const WEBSOCKET_VERSION: &str = "13";
/// Bytes of a handshake's nonce.
const NONCE_BYTES: usize = 16;

/// Whether a request may be taken at all.
pub(super) fn check(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "bad-request", detail).closing();
    if request.version() == Version::HTTP_11 {
        // RFC 9112, section 3.2.
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(bad("Host: expected exactly one"));
        };
        let known = host.is_empty()
            || host.to_str().is_ok_and(|host| host.parse::<Authority>().is_ok_and(|host| !host.as_str().contains('@')));
        if !known {
            return Err(bad("Host: expected a name or an address, with a port or without"));
        }
    }
    // RFC 9112, section 6.1: a coding that is not understood cannot be taken for no coding.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => {
            let detail = "Transfer-Encoding: expected chunked and nothing else";
            Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "transfer-encoding", detail).closing())
        }
    }
}

/// Whether a header's list, on however many lines, names a word.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// Whether a request asks for a WebSocket.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    lists(headers, &header::UPGRADE, "websocket")
}

/// Checks a WebSocket handshake (RFC 6455, section 4.2.1).
pub(super) fn check_handshake(headers: &HeaderMap) -> Result<(), Problem> {
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "bad-upgrade", detail);
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return Err(bad("Connection: expected Upgrade, as for every WebSocket"));
    }
    let one = |name: HeaderName| {
        let mut lines = headers.get_all(name).iter();
        lines.next().filter(|_| lines.next().is_none()).and_then(|value| value.to_str().ok()).map(str::trim)
    };
    if one(header::SEC_WEBSOCKET_VERSION) != Some(WEBSOCKET_VERSION) {
        let detail = "Sec-WebSocket-Version: expected 13";
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "websocket-version", detail)
            .with(header::SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION));
    }
    let nonce = one(header::SEC_WEBSOCKET_KEY).and_then(|key| STANDARD.decode(key).ok());
    if nonce.is_none_or(|nonce| nonce.len() != NONCE_BYTES) {
        return Err(bad("Sec-WebSocket-Key: expected 16 bytes in base64, once"));
    }
    Ok(())
}

/// Whether a client waits to be told before it sends its body (RFC 9110, section 10.1.1): then the answer is told at once, and the body never comes.
pub(super) fn waits_to_send(headers: &HeaderMap) -> bool {
    headers.contains_key(header::EXPECT)
}
