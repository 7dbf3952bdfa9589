//! `POST /api/events`: one event or a list, taken whole or not at all.

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{EVENTS, room};
use crate::clock;
use crate::edge::caller::Caller;
use crate::edge::problem::Problem;
use crate::edge::{Edge, publish};
use crate::event::NewEvent;
use crate::event::depth::is_deeper_than;
use crate::event::incoming::{BodyError, BodyLimits, FAULTS_MAX, Format, ItemFault, kind_of};

/// The longest name of a project: it is an event's key.
const PROJECT_MAX: usize = 200;
/// The longest type: it is an event's kind.
const TYPE_MAX: usize = 100;
const ID_MAX: usize = 200;
const FIELDS: [&str; 7] = ["project", "event_type", "severity", "message", "metadata", "id", "timestamp"];
/// The last time that can be written as RFC 3339 wherever on earth it is read.
const TIME_MAX_MS: u64 = 253_402_207_200_999;

/// Publishes a body.
pub(super) async fn events(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let room = room(EVENTS)?;
    let checks = |head: &Parts| {
        publish::may(&edge, &caller, &room)?;
        publish::format(&head.headers, &[Format::Json])
    };
    let incoming = publish::receive(&edge, request, checks).await?;
    let (ids, events): (Vec<String>, Vec<NewEvent>) =
        take(incoming.bytes(), publish::bounds(&edge))?.into_iter().unzip();
    let receipt = incoming.publish(&edge, room, events, edge.settings().log.ack).await?;
    let mut told = publish::told(&receipt);
    told["ids"] = ids.into();
    Ok(publish::accepted(&told))
}

/// All events of a body with their ids, or everything that is wrong with it.
fn take(bytes: &[u8], limits: BodyLimits) -> Result<Vec<(String, NewEvent)>, BodyError> {
    let broken = |error: serde_json::Error| BodyError::Broken(error.to_string());
    let many = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let items: Vec<&RawValue> =
        if many { serde_json::from_slice(bytes) } else { serde_json::from_slice(bytes).map(|one| vec![one]) }
            .map_err(broken)?;
    if items.is_empty() {
        return Err(BodyError::Empty);
    }
    if items.len() > limits.events {
        return Err(BodyError::TooMany(limits.events));
    }
    let (mut events, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
    for (at, item) in items.into_iter().enumerate() {
        let (text, max) = (item.get(), limits.event_bytes);
        if text.len() > max {
            return Err(BodyError::EventTooLarge { item: at, bytes: text.len(), max });
        }
        let mut checks = Checks { item: many.then_some(at), faults: &mut faults };
        if is_deeper_than(text.as_bytes(), limits.depth) {
            checks.wrong(None, format!("nested more than {} deep (limits.json_depth)", limits.depth));
            continue;
        }
        events.extend(checks.event(text));
    }
    if faults.is_empty() {
        return Ok(events);
    }
    faults.truncate(FAULTS_MAX);
    Err(BodyError::Invalid(faults))
}

/// An item as it comes, with every field in whatever form.
#[derive(Deserialize)]
struct Item {
    project: Option<Value>,
    event_type: Option<Value>,
    severity: Option<Value>,
    message: Option<Value>,
    metadata: Option<Value>,
    id: Option<Value>,
    timestamp: Option<Value>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

/// Looks at one item and gathers what is wrong with it.
struct Checks<'f> {
    item: Option<usize>,
    faults: &'f mut Vec<ItemFault>,
}

impl Checks<'_> {
    fn wrong(&mut self, field: Option<&str>, message: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            let (field, message) = (field.map(str::to_owned), message.into());
            self.faults.push(ItemFault { item: self.item, field, message });
        }
    }

    /// A text of so many characters; `None` with a fault if it is none.
    fn text(&mut self, field: &str, value: Option<Value>, max: usize) -> Option<String> {
        let message = match value {
            Some(Value::String(text)) if (1..=max).contains(&text.chars().count()) => return Some(text),
            Some(Value::String(text)) => format!("has {} characters; expected 1 to {max}", text.chars().count()),
            None | Some(Value::Null) => "is missing; expected text".to_owned(),
            Some(other) => format!("is {}; expected text", kind_of(&other)),
        };
        self.wrong(Some(field), message);
        None
    }

    fn event(&mut self, text: &str) -> Option<(String, NewEvent)> {
        let before = self.faults.len();
        let Ok(item) = serde_json::from_str::<Item>(text) else {
            self.wrong(None, "expected an object, each field once");
            return None;
        };
        for name in item.others.keys() {
            let shown: String = name.chars().take(60).collect();
            self.wrong(Some(&shown), format!("there is no such field; there are: {}", FIELDS.join(", ")));
        }
        let project = self.text("project", item.project, PROJECT_MAX);
        let event_type = self.text("event_type", item.event_type, TYPE_MAX);
        let severity = self.text("severity", item.severity, TYPE_MAX);
        let message = match item.message {
            Some(Value::String(message)) => Some(message),
            other => self.text("message", other, usize::MAX),
        };
        let metadata = self.metadata(event_type.as_deref(), item.metadata);
        let id = match item.id {
            None | Some(Value::Null) => Some(made_up_id()),
            given => self.text("id", given, ID_MAX),
        };
        let timestamp_ms = self.timestamp(item.timestamp.as_ref());
        if self.faults.len() > before {
            return None;
        }
        let (project, event_type, id) = (project?, event_type?, id?);
        let data = json!({
            "id": id,
            "project": project,
            "event_type": event_type,
            "severity": severity?,
            "message": message?,
            "metadata": metadata,
        });
        let mut event = NewEvent::new(&event_type, data.to_string().into());
        (event.key, event.id, event.timestamp_ms) = (Some(project.into()), Some(id.as_str().into()), timestamp_ms);
        Some((id, event))
    }

    /// What is computed from it must be what it is computed as.
    fn metadata(&mut self, event_type: Option<&str>, given: Option<Value>) -> Value {
        let fields = match given {
            None | Some(Value::Null) => serde_json::Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(other) => {
                self.wrong(Some("metadata"), format!("is {}; expected an object", kind_of(&other)));
                return Value::Null;
            }
        };
        if event_type == Some("run") && !fields.get("success").is_some_and(Value::is_boolean) {
            self.wrong(Some("metadata.success"), "expected true or false, for an event of the type run");
        }
        let numbers: &[&str] = match event_type {
            Some("run") => &["latency_ms", "active_experts"],
            Some("expert_rotation") => &["experts_rotated", "count", "active_experts"],
            Some("reflexion") => &["reflexions", "count", "active_experts"],
            _ => &["active_experts"],
        };
        for name in numbers {
            let value = fields.get(*name).filter(|value| !value.is_null());
            if value.is_some_and(|value| value.as_f64().is_none_or(|number| number < 0.0)) {
                self.wrong(Some(&format!("metadata.{name}")), "expected a number, not below 0");
            }
        }
        let expert = fields.get("expert").filter(|value| !value.is_null());
        if expert.is_some_and(|expert| !expert.is_string()) {
            self.wrong(Some("metadata.expert"), "expected text");
        }
        Value::Object(fields)
    }

    fn timestamp(&mut self, given: Option<&Value>) -> Option<u64> {
        let given = given.filter(|value| !value.is_null())?;
        let time = given.as_str().and_then(clock::parse_rfc3339).filter(|ms| *ms <= TIME_MAX_MS);
        if time.is_none() {
            self.wrong(Some("timestamp"), "expected a time such as 2026-11-20T06:10:00.000Z");
        }
        time
    }
}

fn made_up_id() -> String {
    format!("evt_{:016x}", rand::random::<u64>())
}
