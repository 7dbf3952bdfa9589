//! Answers of surfaces' reading calls: JSON that a client may keep and ask about again (RFC 9110, sections 8.8.3 and 13.1.2), packed where it takes that.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

use super::packing;

/// An answer in JSON: 304 if the client has it already, else packed with gzip where it takes that and it is worth it. What varies from call to call, such as the time, does not belong into it.
pub(in crate::edge) fn answer(headers: &HeaderMap, json: Vec<u8>) -> Response {
    let hash = Sha256::digest(&json);
    // Weak, because the same goes out packed and not.
    let tag = format!("W/\"{}\"", base16(&hash[..12]));
    let mut out = HeaderMap::new();
    // Kept by the client alone, and asked about each time.
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    out.extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
    if is_known(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, out).into_response();
    }
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let packed = if packing::wanted(headers) { packing::gzip(&json) } else { None };
    match packed {
        Some(packed) => {
            out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            (out, packed).into_response()
        }
        None => (out, json).into_response(),
    }
}

/// Whether `If-None-Match` names the tag, by the weak comparison.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let lines = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

fn base16(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_is_not_sent_again_and_a_change_is() {
        let first = answer(&HeaderMap::new(), b"[1]".to_vec());
        let tag = first.headers()[header::ETAG].clone();
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_NONE_MATCH, format!("\"x\", {}", tag.to_str().unwrap()).parse().unwrap());
        let again = answer(&asked, b"[1]".to_vec());
        assert_eq!((again.status(), &again.headers()[header::ETAG]), (StatusCode::NOT_MODIFIED, &tag));
        assert_eq!(answer(&asked, b"[2]".to_vec()).status(), StatusCode::OK);
    }

    #[test]
    fn what_is_large_is_packed_for_those_who_take_it() {
        let mut takes = HeaderMap::new();
        takes.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let is_packed =
            |headers: &HeaderMap, bytes| answer(headers, vec![b' '; bytes]).headers().contains_key("content-encoding");
        assert!(is_packed(&takes, 2000) && !is_packed(&takes, 1000) && !is_packed(&HeaderMap::new(), 2000));
    }
}
