//! Answers in JSON, and how a client that polls is spared what it has: `ETag`, `If-None-Match` and `304` (RFC 9110, sections 8.8.3 and 13.1.2).

use std::fmt::Display;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Kept by a browser, but asked for each time: then it is `304` where nothing has changed. Never by a cache that others share.
const ASK_EACH_TIME: &str = "private, no-cache";

/// An answer in JSON that no cache may keep.
pub(super) fn json(body: impl Into<axum::body::Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, body.into()).into_response()
}

/// What an answer is known by, made of its bytes. For what has nothing shorter that changes whenever it does.
pub(super) fn tagged(headers: &HeaderMap, body: impl Into<Bytes>) -> Response {
    let body = body.into();
    let digest = Sha256::digest(&body);
    let mut tag = String::with_capacity(32);
    for byte in &digest[..16] {
        tag.push_str(&format!("{byte:02x}"));
    }
    Tag::of(tag).answer(headers, || body)
}

/// What an answer is known by: another one whenever the answer is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag(HeaderValue);

impl Tag {
    /// Made of this, which must be letters, digits and marks without quotes.
    pub(super) fn of(tag: impl Display) -> Self {
        // What cannot stand in a header is no tag that a client could show.
        Self(HeaderValue::try_from(format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("\"\"")))
    }

    /// The answer: `304` if the client has it, else the body, which is made only then.
    pub(super) fn answer<B: Into<axum::body::Body>>(self, headers: &HeaderMap, body: impl FnOnce() -> B) -> Response {
        self.unchanged(headers).unwrap_or_else(|| self.fresh(body()))
    }

    /// `304`, if the client has what this names.
    pub(super) fn unchanged(&self, headers: &HeaderMap) -> Option<Response> {
        let shown = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let tag = self.0.to_str().unwrap_or_default();
        // Weak ones are the same here: a proxy that packs answers makes strong ones weak.
        let mut tags = shown.flat_map(|value| value.split(',')).map(str::trim);
        let has = tags.any(|shown| shown == "*" || shown.strip_prefix("W/").unwrap_or(shown) == tag);
        has.then(|| {
            let headers = [(header::ETAG, self.0.clone()), (header::CACHE_CONTROL, ask_each_time())];
            (StatusCode::NOT_MODIFIED, headers).into_response()
        })
    }

    /// The body with this tag.
    pub(super) fn fresh(self, body: impl Into<axum::body::Body>) -> Response {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CACHE_CONTROL, ask_each_time()),
            (header::ETAG, self.0),
        ];
        (headers, body.into()).into_response()
    }
}

fn ask_each_time() -> HeaderValue {
    HeaderValue::from_static(ASK_EACH_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn who_shows_the_tag_is_not_sent_it_again() {
        let status = |headers: &HeaderMap| Tag::of("a-1").answer(headers, || "body").status();
        assert_eq!(status(&HeaderMap::new()), StatusCode::OK);
        for known in ["\"a-1\"", "W/\"a-1\"", "\"x\", \"a-1\"", "*"] {
            assert_eq!(status(&asked(known)), StatusCode::NOT_MODIFIED, "{known}");
        }
        for other in ["\"a-2\"", "a-1", ""] {
            assert_eq!(status(&asked(other)), StatusCode::OK, "{other}");
        }
    }

    #[test]
    fn other_bytes_have_another_tag() {
        let tag = |body: &'static str| tagged(&HeaderMap::new(), body).headers().get(header::ETAG).cloned();
        assert_eq!(tag("{}"), tag("{}"));
        assert_ne!(tag("{}"), tag("{ }"));
        assert!(tag("{}").is_some_and(|tag| tag.len() == 34));
    }
}
