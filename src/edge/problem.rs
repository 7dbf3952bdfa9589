//! How errors look: `application/problem+json` by RFC 9457.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::rooms::PublishError;
use crate::event::incoming::BodyError;
use crate::limits::TooMuch;
use crate::log::LogError;
use crate::metrics::record;

/// When a client that was refused for want of room should come back, in seconds.
const RETRY_SECONDS: u64 = 1;

/// A time to wait in whole seconds, at least one.
pub(super) fn whole_seconds(time: std::time::Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// Members of a problem's JSON, by name.
type Members = Vec<(&'static str, Value)>;

/// An error as a client sees it.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    errors: Vec<Value>,
    retry_after: Option<u64>,
    allow: Option<&'static str>,
    /// A header of its own.
    header: Option<Box<(HeaderName, &'static str)>>,
    /// What it says beside; in a box, because it is seldom anything and problems come back from many calls.
    members: Option<Box<Members>>,
    /// Whether nothing more is taken from this connection.
    closing: bool,
}

impl Problem {
    /// A problem of this status; `kind` names it for programs.
    #[must_use]
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            allow: None,
            header: None,
            members: None,
            closing: false,
        }
    }

    /// Parameters that are not right.
    #[must_use]
    pub fn parameter(name: &str, detail: impl std::fmt::Display) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", format!("{name}: {detail}"));
        problem.errors.push(json!({ "field": name, "message": detail.to_string() }));
        problem
    }

    /// Fields or parameters that are not right: objects with `field` and `message`, and whatever a surface says beside.
    #[must_use]
    pub(super) fn fields(errors: Vec<Value>) -> Self {
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-fields", "nothing was done: see errors");
        Self { errors, ..problem }
    }

    /// Something that is not there.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// A method that a route does not have.
    #[must_use]
    pub fn method(allow: &'static str) -> Self {
        let detail = format!("this resource answers {allow}");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
        Self { allow: Some(allow), ..problem }
    }

    /// Come back later.
    #[must_use]
    pub fn unavailable(kind: &'static str, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail);
        Self { retry_after: Some(RETRY_SECONDS), ..problem }
    }

    /// Too much at once.
    #[must_use]
    pub fn busy(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-much-at-once", detail);
        Self { retry_after: Some(RETRY_SECONDS), ..problem }
    }

    /// No credential, or a wrong one: the same words for every one.
    #[must_use]
    pub fn unauthorized() -> Self {
        let detail = "a key or token is needed: Authorization: Bearer KEY, or ?access_token=KEY";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// A room that the caller may not read, whether there is one or not.
    #[must_use]
    pub fn may_not_read(room: impl std::fmt::Display) -> Self {
        let detail = format!("the credential does not allow to read {room}");
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// A room that the caller may not publish to.
    #[must_use]
    pub fn may_not_publish(room: impl std::fmt::Display) -> Self {
        let detail = format!("the credential does not allow to publish to {room}");
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// More than one client may have.
    #[must_use]
    pub fn too_much(too_much: TooMuch) -> Self {
        let kind = match too_much.limit {
            limit if limit.contains("_connections") => "too-many-connections",
            "limits.rooms_per_publisher" => "too-many-rooms",
            _ => "rate-limited",
        };
        record::request_refused(kind);
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, kind, too_much.to_string());
        Self { retry_after: Some(whole_seconds(too_much.retry)), ..problem }
    }

    /// With a header of its own.
    #[must_use]
    pub fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// With members of its own.
    #[must_use]
    pub(super) fn and(self, members: Members) -> Self {
        Self { members: Some(Box::new(members)), ..self }
    }

    /// With other words for people.
    #[must_use]
    pub fn saying(self, words: impl FnOnce(&str) -> String) -> Self {
        Self { detail: words(&self.detail), ..self }
    }

    /// After it nothing more is taken from the connection.
    #[must_use]
    pub fn closing(self) -> Self {
        Self { closing: true, ..self }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// When to come back, in seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// The name for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What is wrong with each item or field: objects with `item`, `field` (each where it is known) and `message`.
    pub(super) fn errors(&self) -> &[Value] {
        &self.errors
    }

    /// The words for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// The problem that a response says, for whoever says it in other words.
#[derive(Debug, Clone)]
pub(super) struct Shown(pub(super) Box<Problem>);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let shown = Shown(Box::new(self.clone()));
        let mut body = json!({
            "type": format!("urn:tidegate:problem:{}", self.kind),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.errors.is_empty() {
            body["errors"] = Value::Array(self.errors);
        }
        if let Some(seconds) = self.retry_after {
            body["retryAfter"] = seconds.into();
        }
        for (name, value) in self.members.into_iter().flat_map(|members| *members) {
            body[name] = value;
        }
        let headers = [(header::CONTENT_TYPE, "application/problem+json"), (header::CACHE_CONTROL, "no-store")];
        let mut response = (self.status, headers, body.to_string()).into_response();
        let out = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            out.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            out.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(header) = self.header {
            let (name, value) = *header;
            out.insert(name, HeaderValue::from_static(value));
        }
        if self.closing {
            out.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            out.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(shown);
        response
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let detail = error.to_string();
        match error {
            BodyError::Broken(_) => Self::new(StatusCode::BAD_REQUEST, "broken-json", detail),
            BodyError::Empty => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no-event", detail),
            BodyError::TooMany(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many-events", detail),
            BodyError::EventTooLarge { item, .. } => {
                let errors = vec![json!({ "item": item, "message": detail })];
                Self { errors, ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, "event-too-large", detail) }
            }
            BodyError::Invalid(faults) => {
                let errors = faults.into_iter().map(|fault| {
                    let mut error = json!({ "message": fault.message });
                    if let Some(item) = fault.item {
                        error["item"] = item.into();
                    }
                    if let Some(field) = fault.field {
                        error["field"] = field.into();
                    }
                    error
                });
                let detail = "nothing was published: see errors";
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-event", detail);
                Self { errors: errors.collect(), ..problem }
            }
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::RoomFull | PublishError::SourceFull => Self::busy(detail),
            PublishError::TooManyRooms => Self::unavailable("too-many-rooms", detail),
            PublishError::Log(_) => Self::unavailable("log-unavailable", detail),
            PublishError::Unacknowledged => Self::unavailable("log-silent", detail),
            PublishError::Failed | PublishError::Unavailable(_) => Self::unavailable("room-failed", detail),
        }
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        Self::unavailable("log-unavailable", error.to_string())
    }
}
