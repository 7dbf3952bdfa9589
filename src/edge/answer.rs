//! Answers in JSON, and how a client that polls is spared what it has: `ETag`, `If-None-Match` and `304` (RFC 9110, sections 8.8.3 and 13.1.2), and gzip.

use std::fmt::{Display, Write as _};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::surfaces::packing;

/// Kept by a browser, but asked for each time: then it is `304` where nothing has changed. Never by a cache that others share.
const ASK_EACH_TIME: HeaderValue = HeaderValue::from_static("private, no-cache");
/// What an answer with a tag depends on beside its address: it goes out packed and not.
const VARY: HeaderValue = HeaderValue::from_static("accept-encoding");
/// What is larger is packed by a thread that may take its time.
const PACK_AT_ONCE_BYTES: u64 = 64 << 10;

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
        // Writing to memory does not fail.
        let _ = write!(tag, "{byte:02x}");
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
        let tag = opaque(self.0.to_str().unwrap_or_default());
        // No tag of ours has a comma in it, so one of another server that has is only taken for two others.
        let mut tags = shown.flat_map(|value| value.split(',')).map(str::trim);
        let has = tags.any(|shown| shown == "*" || opaque(shown) == tag);
        has.then(|| {
            let headers =
                [(header::ETAG, self.0.clone()), (header::CACHE_CONTROL, ASK_EACH_TIME), (header::VARY, VARY)];
            (StatusCode::NOT_MODIFIED, headers).into_response()
        })
    }

    /// The body with this tag.
    pub(super) fn fresh(self, body: impl Into<axum::body::Body>) -> Response {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CACHE_CONTROL, ASK_EACH_TIME),
            (header::VARY, VARY),
            (header::ETAG, self.0),
        ];
        (headers, body.into()).into_response()
    }
}

/// A tag without the mark that it is weak: the weak comparison looks at nothing else.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Whether the answer of a request may be packed.
pub(super) fn may_be_packed(request: &Request) -> bool {
    request.method() == Method::GET && packing::wanted(request.headers())
}

/// Packs with gzip what has a tag, where it is worth it.
pub(super) async fn pack(response: Response) -> Response {
    let headers = response.headers();
    let is_tagged = headers.contains_key(header::ETAG) && !headers.contains_key(header::CONTENT_ENCODING);
    // It is in memory as a whole, so its length is known.
    let length = response.body().size_hint().exact().unwrap_or(0);
    if !is_tagged || length == 0 {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let packed = if length <= PACK_AT_ONCE_BYTES {
        packing::gzip(&body)
    } else {
        let body = body.clone();
        tokio::task::spawn_blocking(move || packing::gzip(&body)).await.unwrap_or_default()
    };
    let Some(packed) = packed else { return Response::from_parts(parts, Body::from(body)) };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    // Weak now, because other bytes say the same (RFC 9110, section 8.8.1).
    let strong = parts.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    if let Some(weak) = strong.and_then(|tag| HeaderValue::try_from(format!("W/{}", opaque(tag))).ok()) {
        parts.headers.insert(header::ETAG, weak);
    }
    Response::from_parts(parts, Body::from(packed))
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
        for known in ["\"a-1\"", "W/\"a-1\"", "\"x\", \"a-1\"", "W/\"x\",W/\"a-1\"", "*"] {
            assert_eq!(status(&asked(known)), StatusCode::NOT_MODIFIED, "{known}");
        }
        for other in ["\"a-2\"", "a-1", "W/a-1", "w/\"a-1\"", ""] {
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
