//! Answers of surfaces' reading calls: JSON that a client may keep and ask about again, packed where it takes that.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::packing;
use crate::edge::answer::tagged;

/// An answer in JSON: 304 if the client has it already, else packed with gzip where it takes that and it is worth it. What varies from call to call, such as the time, does not belong into it.
pub(in crate::edge) fn answer(headers: &HeaderMap, json: Vec<u8>) -> Response {
    let json = Bytes::from(json);
    let mut response = tagged(headers, json.clone());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if response.status() != StatusCode::OK || !packing::wanted(headers) {
        return response;
    }
    let Some(packed) = packing::gzip(&json) else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    // Weak now, because other bytes say the same (RFC 9110, section 8.8.1).
    let weak = parts.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(|tag| format!("W/{tag}"));
    if let Some(weak) = weak.and_then(|tag| HeaderValue::try_from(tag).ok()) {
        parts.headers.insert(header::ETAG, weak);
    }
    Response::from_parts(parts, Body::from(packed))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_is_not_sent_again_and_a_change_is() {
        for takes in ["gzip", "identity"] {
            let mut asked = HeaderMap::new();
            asked.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(takes));
            let first = answer(&asked, vec![b' '; 2000]);
            let tag = first.headers()[header::ETAG].to_str().unwrap();
            assert_eq!(
                (tag.starts_with("W/"), first.headers().get_all(header::ETAG).iter().count()),
                (takes == "gzip", 1)
            );
            asked.insert(header::IF_NONE_MATCH, format!("\"x\", {tag}").parse().unwrap());
            assert_eq!(answer(&asked, vec![b' '; 2000]).status(), StatusCode::NOT_MODIFIED);
            assert_eq!(answer(&asked, vec![b' '; 2001]).status(), StatusCode::OK);
        }
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
