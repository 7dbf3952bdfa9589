//! What those get who poll: the overview, events, one project, anomalies, patterns.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::{ANOMALIES, EVENTS, OPEN_ANOMALIES, OVERVIEW, PATTERNS, PROJECTS, room, whole};
use crate::clock;
use crate::edge::Edge;
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::surfaces::reads::answer;
use crate::event::Event;

const LIMIT_DEFAULT: u64 = 20;
const LIMIT_MAX: u64 = 1000;
/// So many events are looked through for those of one project.
const SCANNED: usize = 5000;

/// `GET /api/overview`.
pub(super) async fn overview(
    State(edge): State<Edge>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_read(&room(OVERVIEW)?)?;
    let (events, _) = whole::newest_events(&edge).await?;
    Ok(answer(&headers, whole::overview(&edge, &events).into_bytes()))
}

/// `GET /api/events`: newest first.
pub(super) async fn events(
    State(edge): State<Edge>,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    caller.may_read(&room(EVENTS)?)?;
    let count = limit(query.as_deref())?;
    let events = whole::newest(&edge, EVENTS, count, count, |_| true).await?;
    Ok(answer(&headers, Value::Array(whole::shown(&events)).to_string().into_bytes()))
}

fn limit(query: Option<&str>) -> Result<usize, Problem> {
    let limit = Params::pick(query, &["limit"]).number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// `GET /api/project-details`: a project's row, its recent events, its anomalies.
pub(super) async fn details(
    State(edge): State<Edge>,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    for name in [PROJECTS, EVENTS, ANOMALIES] {
        caller.may_read(&room(name)?)?;
    }
    let params = Params::pick(query.as_deref(), &["id"]);
    let id = params.get("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Problem::parameter("id", "expected a project's id"))?.to_owned();
    let row = whole::find(&edge, PROJECTS)?.and_then(|room| room.state_of(&id)).flatten();
    let row = row.and_then(|row| serde_json::from_slice::<Value>(&row).ok());
    let unknown = || {
        let shown: String = id.chars().take(100).collect();
        Problem::not_found(format!("there is no project {shown:?}"))
    };
    let mut body = row.filter(Value::is_object).ok_or_else(unknown)?;
    let of_it = |event: &Event| event.key.as_deref() == Some(&id);
    let events = whole::newest(&edge, EVENTS, whole::NEWEST, SCANNED, of_it).await?;
    let anomalies = whole::newest(&edge, ANOMALIES, whole::NEWEST, SCANNED, of_it).await?;
    body["events"] = Value::Array(whole::shown(&events));
    body["anomalies"] = anomalies.iter().rev().map(|event| anomaly(event)).collect();
    Ok(answer(&headers, body.to_string().into_bytes()))
}

/// An anomaly that has started or is over.
fn anomaly(event: &Event) -> Value {
    let mut data: Value = serde_json::from_slice(event.data()).unwrap_or_default();
    if let Some(fields) = data.as_object_mut() {
        fields.insert("id".to_owned(), format!("anomaly_{}", event.seq).into());
        fields.insert("timestamp".to_owned(), clock::rfc3339(event.timestamp_ms).into());
    }
    data
}

/// `GET /api/anomalies`: those that are not over, and what has started or ended of late.
pub(super) async fn anomalies(
    State(edge): State<Edge>,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    for name in [ANOMALIES, OPEN_ANOMALIES] {
        caller.may_read(&room(name)?)?;
    }
    let count = limit(query.as_deref())?;
    let recent = whole::newest(&edge, ANOMALIES, count, count, |_| true).await?;
    let recent: Vec<Value> = recent.iter().rev().map(|event| anomaly(event)).collect();
    Ok(answer(&headers, json!({ "open": table(&edge, OPEN_ANOMALIES), "recent": recent }).to_string().into_bytes()))
}

/// `GET /api/patterns`: those seen most often first.
pub(super) async fn patterns(
    State(edge): State<Edge>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_read(&room(PATTERNS)?)?;
    let mut patterns = table(&edge, PATTERNS);
    patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern["count"].as_u64()));
    Ok(answer(&headers, Value::Array(patterns).to_string().into_bytes()))
}

/// The rows of a room's state.
fn table(edge: &Edge, name: &'static str) -> Vec<Value> {
    let rows = whole::state(edge, name).map(|snapshot| whole::rows(&snapshot));
    rows.and_then(|rows| serde_json::from_slice(&rows).ok()).unwrap_or_default()
}
