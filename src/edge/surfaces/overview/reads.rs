//! What those get who poll: the overview, events, one project, anomalies, patterns.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::Value;

use super::{ANOMALIES, EVENTS, OPEN_ANOMALIES, OVERVIEW, PATTERNS, PROJECTS, room, whole};
use crate::clock;
use crate::edge::Edge;
use crate::edge::answer::tagged;
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
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
    let whole = whole::overview(&whole::projects(&edge), &whole::metrics(&edge), &events);
    Ok(tagged(&headers, whole))
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
    Ok(tagged(&headers, Value::Array(whole::shown(&events)).to_string()))
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
    body["anomalies"] = one_of_each(&anomalies, Vec::new(), whole::NEWEST).into();
    Ok(tagged(&headers, body.to_string()))
}

/// An anomaly as it was when it started, or when it was over.
fn anomaly(event: &Event) -> Value {
    let mut data: Value = serde_json::from_slice(event.data()).unwrap_or_default();
    if let Some(fields) = data.as_object_mut() {
        fields.insert("timestamp".to_owned(), clock::rfc3339(event.timestamp_ms).into());
    }
    data
}

/// Of each anomaly what was told of it last, the newest first; and those of `open` that are older than all of these.
fn one_of_each(told: &[Arc<Event>], open: Vec<Value>, count: usize) -> Vec<Value> {
    let mut seen = HashSet::new();
    let mut is_new = |anomaly: &Value| seen.insert(anomaly["id"].as_str().unwrap_or_default().to_owned());
    let recent = told.iter().rev().map(|event| anomaly(event)).filter(&mut is_new).take(count);
    let mut found: Vec<Value> = recent.collect();
    found.extend(open.into_iter().filter(is_new).map(|mut row| {
        row["timestamp"] = row["since"].clone();
        row
    }));
    found
}

/// `GET /api/anomalies`: those that started or ended of late, newest first, and all that are not over.
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
    // Each was told at most twice.
    let told = whole::newest(&edge, ANOMALIES, 2 * count, 2 * count, |_| true).await?;
    let found = one_of_each(&told, table(&edge, OPEN_ANOMALIES), count);
    Ok(tagged(&headers, Value::Array(found).to_string()))
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
    Ok(tagged(&headers, Value::Array(patterns).to_string()))
}

/// The rows of a room's state.
fn table(edge: &Edge, name: &'static str) -> Vec<Value> {
    let rows = whole::state(edge, name).map(|snapshot| whole::rows(&snapshot));
    rows.and_then(|rows| serde_json::from_slice(&rows).ok()).unwrap_or_default()
}
