//! What is so now, put together from rooms' states and newest events: the first message of streams, and what those get who poll.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{EVENTS, METRICS, PROJECTS, room};
use crate::clock;
use crate::edge::Edge;
use crate::edge::problem::Problem;
use crate::engine::rooms::{Room, Snapshot, Start, Step};
use crate::event::Event;

/// So many of the newest events belong to the whole.
pub(super) const NEWEST: usize = 20;
/// But not more than this, in bytes of their data, so that large ones do not make a message too large for those who read it.
const NEWEST_BYTES: usize = 64 * 1024;
/// The figures over all projects; what is not known yet, because nothing has happened, is 0.
const FIGURES: [&str; 8] = [
    "total_projects",
    "healthy_projects",
    "warning_projects",
    "critical_projects",
    "total_runs_today",
    "avg_success_rate",
    "active_experts",
    "total_reflexions",
];

/// An event as the surface shows it. What an event lacks that was published natively comes of the event itself; the same as the pipelines `overview_updates` and `overview_telemetry` say.
pub(super) fn event(event: &Event) -> Value {
    let data: Value = serde_json::from_slice(event.data()).unwrap_or_default();
    let text = |name: &str| data.get(name).and_then(Value::as_str).map(str::to_owned);
    let metadata = data.get("metadata").filter(|metadata| metadata.is_object()).cloned();
    json!({
        "id": text("id").unwrap_or_else(|| format!("evt_{}", event.seq)),
        "timestamp": clock::rfc3339(event.timestamp_ms),
        "project": text("project").or_else(|| event.key.as_deref().map(str::to_owned)).unwrap_or_default(),
        "event_type": text("event_type").unwrap_or_else(|| event.kind.to_string()),
        "severity": text("severity").unwrap_or_else(|| "info".to_owned()),
        "message": text("message").unwrap_or_default(),
        "metadata": metadata.unwrap_or_else(|| json!({})),
    })
}

/// Events as the surface shows them, newest first.
pub(super) fn shown(events: &[Arc<Event>]) -> Vec<Value> {
    events.iter().rev().map(|found| event(found)).collect()
}

/// The newest events of these, as many as belong to the whole: at least one.
fn newest_shown(events: &[Arc<Event>]) -> Vec<Value> {
    let mut bytes = 0;
    let fits = |event: &&Arc<Event>| {
        let is_first = bytes == 0;
        bytes += event.data().len().max(1);
        is_first || bytes <= NEWEST_BYTES
    };
    events.iter().rev().take_while(fits).map(|found| event(found)).collect()
}

/// A room, if there is one.
pub(super) fn find(edge: &Edge, name: &'static str) -> Result<Option<Arc<Room>>, Problem> {
    Ok(edge.rooms.find(&room(name)?)?)
}

/// A room's newest events, oldest first; `wanted` says which, of at most `scanned` that are looked at.
pub(super) async fn newest(
    edge: &Edge,
    name: &'static str,
    count: usize,
    scanned: usize,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Vec<Arc<Event>>, Problem> {
    let Some(room) = find(edge, name)? else { return Ok(Vec::new()) };
    let (mut after, _) = room.begin(Start::Tail(scanned as u64));
    let mut found = std::collections::VecDeque::new();
    loop {
        let read = room.read_wait(after, scanned).await?;
        let Some(last) = read.last() else { return Ok(found.into()) };
        after = last.seq;
        for event in read.into_iter().filter(|event| !event.change && wanted(event)) {
            found.push_back(event);
            if found.len() > count {
                found.pop_front();
            }
        }
    }
}

/// A room's newest events as far as they are in memory, for where nobody can wait for the disk.
pub(super) fn newest_in_memory(edge: &Edge, name: &'static str) -> Vec<Arc<Event>> {
    let Ok(Some(room)) = find(edge, name) else { return Vec::new() };
    let (after, _) = room.begin(Start::Tail(NEWEST as u64));
    match room.read(after.max(room.memory_begins().saturating_sub(1)), NEWEST, usize::MAX) {
        Step::Events(events) => events,
        Step::Disk(_) => Vec::new(),
    }
}

/// A room's state, if there is one.
pub(super) fn state(edge: &Edge, name: &'static str) -> Option<Arc<Snapshot>> {
    find(edge, name).ok()??.snapshot()
}

/// The values of a state's table as a list, by their keys.
pub(super) fn rows(snapshot: &Snapshot) -> Bytes {
    let Ok(table) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(&snapshot.json) else {
        // A table that its room has made is one.
        return Bytes::from_static(b"[]");
    };
    let rows: Vec<&str> = table.values().map(|row| row.get()).collect();
    format!("[{}]", rows.join(",")).into()
}

/// A state, and its rows as a list.
type Made = (Arc<Snapshot>, Bytes);

/// The rows of all projects: made once for each state, because many ask for the same.
pub(super) fn projects(edge: &Edge) -> Bytes {
    static MADE: Mutex<Option<Made>> = Mutex::new(None);
    let Some(snapshot) = state(edge, PROJECTS) else { return Bytes::from_static(b"[]") };
    let mut made = MADE.lock();
    if let Some((of, rows)) = &*made
        && Arc::ptr_eq(of, &snapshot)
    {
        return rows.clone();
    }
    let rows = rows(&snapshot);
    *made = Some((snapshot, rows.clone()));
    rows
}

/// The figures over all projects.
pub(super) fn metrics(edge: &Edge) -> Value {
    let known = find(edge, METRICS).ok().flatten().and_then(|room| room.state_of("metrics")).flatten();
    let mut figures: Map<String, Value> = known.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    for name in FIGURES {
        figures.entry(name).or_insert_with(|| 0.into());
    }
    Value::Object(figures)
}

/// The whole of the overview, of the rows of projects, the figures, and the newest events.
pub(super) fn overview(projects: &Bytes, metrics: &Value, events: &[Arc<Event>]) -> String {
    // The rows are JSON already.
    let rows = std::str::from_utf8(projects).unwrap_or("[]");
    format!("{{\"metrics\":{metrics},\"projects\":{rows},\"events\":{}}}", Value::Array(newest_shown(events)))
}

/// The whole of the telemetry.
pub(super) fn telemetry(edge: &Edge, events: &[Arc<Event>]) -> String {
    json!({ "metrics": metrics(edge), "recentEvents": newest_shown(events) }).to_string()
}

/// The newest events, and up to which number they are all there is.
pub(super) async fn newest_events(edge: &Edge) -> Result<(Vec<Arc<Event>>, u64), Problem> {
    let head = find(edge, EVENTS)?.map_or(0, |room| room.head());
    let events = newest(edge, EVENTS, NEWEST, NEWEST, |_| true).await?;
    let last = events.last().map_or(head, |event| event.seq);
    Ok((events, last))
}
