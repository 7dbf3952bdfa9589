//! The surface `overview`: projects, how they are, and what happens in them. What it shows is computed by the pipelines `overview_…`; here are its routes and its words.
//!
//! `ingest` takes events, [`voice`] is how its three streams speak, `whole` puts together what is so now, `reads` answers the calls for those who poll.

mod ingest;
mod reads;
mod voice;
mod whole;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use super::open::{self, Offer};
use super::refusals::{Asked, Worded};
use super::room;
use crate::clock;
use crate::edge::Edge;
use crate::edge::caller::Caller;
use crate::edge::problem::Problem;
use crate::engine::rooms::StartAt;
use crate::event::Pattern;
use crate::limits::Own;
use crate::settings::Surface;
use voice::{Speaks, Stream};

/// What happened.
const EVENTS: &str = "projects:events";
/// The state of all projects, by their ids.
const PROJECTS: &str = "projects";
/// The figures over all projects, as the state's key `metrics`.
const METRICS: &str = "projects:metrics";
/// What is unusual, as it starts and is over; and as a state what is now.
const ANOMALIES: &str = "projects:anomalies";
const OPEN_ANOMALIES: &str = "projects:open-anomalies";
/// Templates of messages, as a state.
const PATTERNS: &str = "projects:patterns";
/// What has changed, gathered for screens.
const OVERVIEW: &str = "projects:overview";
/// Figures and recent events, every few seconds.
const TELEMETRY: &str = "projects:telemetry";

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 6] =
    ["/api/stream", "/api/overview", "/api/events", "/api/project-details", "/api/anomalies", "/api/patterns"];

/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    let stream = |stream: Stream| {
        get(move |edge: State<Edge>, caller: Caller, request: Request| open_stream(edge.0, caller, request, stream))
    };
    Router::new()
        .route("/api/stream/overview", stream(Stream::Overview))
        .route("/api/stream/events", stream(Stream::Events))
        .route("/api/stream/telemetry", stream(Stream::Telemetry))
        .route("/api/overview", get(reads::overview))
        .route("/api/events", get(reads::events).post(ingest::events))
        .route("/api/project-details", get(reads::details))
        .route("/api/anomalies", get(reads::anomalies))
        .route("/api/patterns", get(reads::patterns))
}

async fn open_stream(edge: Edge, caller: Caller, request: Request, stream: Stream) -> Result<Response, Problem> {
    let settings = edge.settings();
    let limits = &settings.surfaces.overview;
    let own = Own {
        surface: Surface::Overview,
        per_ip: (limits.per_ip_connections, "overview.per_ip_connections"),
        per_ip_per_hour: (limits.per_ip_connections_per_hour, "overview.per_ip_connections_per_hour"),
    };
    let patterns = vec![Pattern::Room(room(stream.room())?)];
    let offer = Offer { patterns, contract: None, start: StartAt::Live, public: false, own: Some(own) };
    let voice = Speaks::new(edge.clone(), stream);
    open::open(edge, caller, request, offer, voice).await
}

/// A refusal in its words.
pub(super) fn refusal(problem: &Problem, asked: &Asked<'_>) -> Worded {
    let streams = asked.path.starts_with("/api/stream");
    let code = match problem.status() {
        StatusCode::UNAUTHORIZED => "AUTH_REQUIRED".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => "RATE_LIMIT_EXCEEDED".to_owned(),
        StatusCode::SERVICE_UNAVAILABLE if streams => "STREAM_UNAVAILABLE".to_owned(),
        StatusCode::NOT_FOUND if asked.path == "/api/project-details" => "PROJECT_NOT_FOUND".to_owned(),
        StatusCode::NOT_FOUND => "INVALID_ENDPOINT".to_owned(),
        _ => code(problem.kind()),
    };
    // What is wrong with the first item stands in the message too, for those who show nothing else.
    let mut message = problem.detail().to_owned();
    if let Some(first) = problem.errors().first().filter(|_| problem.status() == StatusCode::UNPROCESSABLE_ENTITY) {
        let item = first["item"].as_u64().map_or(String::new(), |item| format!("item {item}: "));
        let field = first["field"].as_str().map_or(String::new(), |field| format!("{field}: "));
        message = format!("nothing was published: {item}{field}{}", first["message"].as_str().unwrap_or_default());
    }
    let mut error = json!({ "code": code, "message": message });
    if let Some(seconds) = problem.retry_after() {
        error["retryAfter"] = seconds.into();
    }
    if !problem.errors().is_empty() {
        error["errors"] = Value::from(problem.errors());
    }
    Worded::json(&in_envelope(&error))
}

/// A word of the daemon's as this surface writes them: `rate-limited` is `RATE_LIMITED`.
fn code(word: &str) -> String {
    word.replace('-', "_").to_ascii_uppercase()
}

fn in_envelope(error: &Value) -> Value {
    json!({ "type": "error", "timestamp": clock::rfc3339(clock::now_ms()), "error": error })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn its_rooms_have_names_that_rooms_may_have() {
        for name in [EVENTS, PROJECTS, METRICS, ANOMALIES, OPEN_ANOMALIES, PATTERNS, OVERVIEW, TELEMETRY] {
            assert!(room(name).is_ok(), "{name}");
        }
    }
}
