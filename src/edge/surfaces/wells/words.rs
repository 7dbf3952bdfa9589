//! Errors in the words of the dashboard: a name such as `ValidationError` and a message; on the path of the stream as its one event `error`.

use std::fmt::Write as _;

use axum::http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::edge::problem::Problem;
use crate::edge::surfaces::refusals::{Asked, Worded};

/// Where errors are events of a stream.
const STREAMS: &str = "/api/v1/sse";

/// The name of an error by what HTTP calls it.
fn name_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "AuthenticationError",
        StatusCode::FORBIDDEN => "AuthorizationError",
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "ValidationError",
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowedError",
        StatusCode::REQUEST_TIMEOUT => "TimeoutError",
        StatusCode::PAYLOAD_TOO_LARGE => "PayloadTooLargeError",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaTypeError",
        StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
        StatusCode::SERVICE_UNAVAILABLE => "UnavailableError",
        _ => "ServerError",
    }
}

/// The name of an error that a stream is told about.
pub(super) fn name_of_code(code: &str) -> &'static str {
    match code {
        "forbidden" => "AuthorizationError",
        "token_expired" | "token_revoked" => "AuthenticationError",
        "too_many_rooms" => "TooManySubscriptions",
        _ => "ConnectionError",
    }
}

fn body(problem: &Problem) -> Value {
    let status = problem.status();
    let message = match problem.errors() {
        // The same words for every wrong credential.
        _ if status == StatusCode::UNAUTHORIZED => "Invalid or expired authentication token".to_owned(),
        [] => problem.detail().to_owned(),
        faults => said(faults),
    };
    let mut body = json!({ "error": name_of(status), "message": message });
    if !problem.errors().is_empty() {
        body["errors"] = problem.errors().into();
    }
    if let Some(seconds) = problem.retry_after() {
        body["retryAfter"] = seconds.into();
    }
    body
}

/// What is wrong, in one line: the first fault with its place, and how many there are besides.
fn said(faults: &[Value]) -> String {
    let mut line = String::new();
    let Some(first) = faults.first() else { return line };
    let message = first["message"].as_str().unwrap_or_default();
    if let Some(item) = first["item"].as_u64() {
        let _ = write!(line, "item {item}: ");
    }
    if let Some(field) = first["field"].as_str().filter(|field| !message.starts_with(field)) {
        let _ = write!(line, "{field}: ");
    }
    line.push_str(message);
    if faults.len() > 1 {
        let _ = write!(line, " (and {} more)", faults.len() - 1);
    }
    line
}

/// A refusal in its words.
pub(in crate::edge::surfaces) fn refusal(problem: &Problem, asked: &Asked<'_>) -> Worded {
    let body = body(problem);
    if !asked.path.starts_with(STREAMS) {
        return Worded::json(&body);
    }
    let content_type = HeaderValue::from_static("text/event-stream");
    Worded { content_type, text: format!("event: error\ndata: {body}\n\n") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {

    use super::*;

    fn said(problem: &Problem, path: &str) -> String {
        refusal(problem, &Asked { path }).text
    }

    #[test]
    fn a_wrong_token_is_one_event_on_the_stream_and_json_elsewhere() {
        let json = r#"{"error":"AuthenticationError","message":"Invalid or expired authentication token"}"#;
        let problem = Problem::unauthorized();
        assert_eq!(said(&problem, "/api/v1/sse/stream/W"), format!("event: error\ndata: {json}\n\n"));
        assert_eq!(said(&problem, "/api/v1/telemetry/ingest"), json);
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let said: Value =
            serde_json::from_str(&said(&Problem::parameter("ack", "what?"), "/api/v1/telemetry")).unwrap();
        assert_eq!((&said["error"], &said["errors"][0]["field"]), (&"ValidationError".into(), &"ack".into()));
        assert_eq!(said["message"], "ack: what?");
    }
}
