//! How its stream speaks: `{type, timestamp, sequence, data, metadata}`, timestamps in milliseconds since 1970. `sequence` is the event's number in the stream's room; only what is said of the stream itself
//! (heartbeats, pongs, errors) has none. On SSE all messages are unnamed, so that `onmessage` sees each as it is on WebSocket.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{known, oldest, snapshot};
use crate::clock;
use crate::edge::Edge;
use crate::edge::problem::whole_seconds;
use crate::edge::surfaces::encoded::{Encoded, Message, Messages};
use crate::edge::surfaces::voice::{OverWebSocket, Voice};
use crate::edge::ws::Serving;
use crate::engine::connections::Notice;
use crate::engine::rooms::Snapshot;
use crate::event::Event;
use crate::event::depth::is_deeper_than;
use crate::event::encode::write_json_text;

static ENCODED: Encoded = Encoded::new();

/// All types of messages.
const TYPES: [&str; 11] = [
    "metrics_update",
    "model_update",
    "request_update",
    "error_update",
    "system_update",
    "heartbeat",
    "pong",
    "init",
    "rate_limit_update",
    "cost_update",
    "kv_cache_update",
];

/// The types that a reader wants: a bit for each, or all there are and will be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Types(Option<u16>);

impl Types {
    /// Those of these names; all if none is named. A name that is none comes back with those there are.
    pub(super) fn of<'n>(names: impl Iterator<Item = &'n str>) -> Result<Self, String> {
        let mut bits = None;
        for name in names {
            let at = TYPES.iter().position(|known| *known == name).ok_or_else(|| {
                let shown: String = name.chars().take(60).collect();
                format!("there is no type {shown:?}; there are: {}", TYPES.join(", "))
            })?;
            bits = Some(bits.unwrap_or(0) | 1 << at);
        }
        Ok(Self(bits))
    }

    fn want(self, name: &str) -> bool {
        self.0.is_none_or(|bits| TYPES.iter().position(|known| *known == name).is_some_and(|at| bits & 1 << at != 0))
    }
}

/// A reader of the stream.
#[derive(Debug)]
pub(super) struct Speaks {
    edge: Edge,
    types: Types,
    /// What is known, until it was said.
    begins_with: Option<Arc<Snapshot>>,
}

impl Speaks {
    pub(super) fn new(edge: Edge, types: Types, begins_with: Option<Arc<Snapshot>>) -> Self {
        Self { edge, types, begins_with }
    }

    /// Everything that is known, because something is missing; the stream goes on behind `sequence`.
    fn anew(&self, sequence: u64, missed: &serde_json::Value) -> Messages {
        init(snapshot(&self.edge).as_deref(), sequence, &json!({ "missed": missed }))
    }

    /// The first message of all.
    fn begin(&mut self, connection: u64, cursor: &str) -> Messages {
        // Where it stands: behind what is known, or where the client has said; from 0 on that is before the oldest message.
        let stands = cursor.parse().unwrap_or(0);
        let oldest = oldest(&self.edge).unwrap_or(0);
        init(
            self.begins_with.take().as_deref(),
            oldest.saturating_sub(1).max(stands),
            &json!({ "connection": connection }),
        )
    }
}

/// Everything that is known, as the message after which the one `sequence` + 1 comes.
fn init(snapshot: Option<&Snapshot>, sequence: u64, metadata: &serde_json::Value) -> Messages {
    let data = known::data(snapshot.map(|snapshot| &*snapshot.json), sequence);
    let now = clock::now_ms();
    one(&format!(
        "{{\"type\":\"init\",\"timestamp\":{now},\"sequence\":{sequence},\"data\":{data},\"metadata\":{metadata}}}"
    ))
}

fn one(json: &str) -> Messages {
    let mut messages = Messages::new();
    messages.push(Arc::new(Message::new(None, json.as_bytes())));
    messages
}

/// An event as a message.
fn message(event: &Event) -> Message {
    let data = event.data();
    let mut head = String::from("{\"type\":");
    write_json_text(&event.kind, &mut head);
    // Writing into a String does not fail.
    let _ = write!(head, ",\"timestamp\":{},\"sequence\":{},\"data\":", event.arrived_ms, event.seq);
    let mut json = Vec::with_capacity(head.len() + data.len() + 1);
    json.extend_from_slice(head.as_bytes());
    json.extend_from_slice(data);
    json.push(b'}');
    Message::of(event, None, &json)
}

fn error(code: &str, message: &str, retry: Option<Duration>) -> Message {
    let mut data = json!({ "code": code, "message": message });
    if let Some(wait) = retry {
        data["retry_after"] = whole_seconds(wait).into();
    }
    let json = json!({ "type": "error", "timestamp": clock::now_ms(), "data": data });
    Message::new(None, json.to_string().as_bytes())
}

impl Voice for Speaks {
    fn event(&mut self, event: &Arc<Event>) -> Messages {
        if event.change || !self.types.want(&event.kind) {
            return Messages::new();
        }
        ENCODED.of(event, "metrics", || {
            let mut messages = Messages::new();
            messages.push(Arc::new(message(event)));
            messages
        })
    }

    fn notice(&mut self, notice: &Notice<'_>, cursor: &str) -> Messages {
        match notice {
            Notice::Welcome { connection, .. } => self.begin(*connection, cursor),
            Notice::Heartbeat if self.types.want("heartbeat") => {
                let now = clock::now_ms();
                one(&format!("{{\"type\":\"heartbeat\",\"timestamp\":{now},\"data\":{{\"server_time\":{now}}}}}"))
            }
            Notice::Heartbeat | Notice::Snapshot { .. } => Messages::new(),
            Notice::Gap { gap, .. } => {
                let missed = json!({ "after": gap.after, "first": gap.first_seq });
                self.anew(gap.first_seq.saturating_sub(1), &missed)
            }
            Notice::Dropped { from_seq, to_seq, count, reason, .. } => {
                let missed = json!({ "from": from_seq, "to": to_seq, "count": count, "reason": reason });
                self.anew(*to_seq, &missed)
            }
            Notice::Error { code, message, retry } => said(error(code, message, *retry)),
            Notice::Expiring { at_ms } => {
                let message = format!("the credential ends at {}", clock::rfc3339(*at_ms));
                said(error("token_expiring", &message, None))
            }
        }
    }

    fn refuse(&mut self, code: &'static str, message: &str, retry: Option<Duration>) -> Message {
        error(code, message, retry)
    }

    async fn command(serving: &mut Serving<OverWebSocket<Self>>, text: &str) {
        let depth = serving.edge.settings().limits.json_depth;
        let dialect = serving.connection.handler().dialect();
        let answer = match obey(text, depth) {
            Ok(Does::Nothing) => return,
            Ok(Does::Narrow(types)) => {
                dialect.voice.types = types;
                return;
            }
            Ok(Does::Answer(message)) => message,
            Err((code, message)) => error(code, &message, None),
        };
        dialect.say(&answer);
    }
}

fn said(message: Message) -> Messages {
    let mut messages = Messages::new();
    messages.push(Arc::new(message));
    messages
}

/// What a client says.
#[derive(Deserialize)]
struct Said<'t> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'t, str>,
    #[serde(borrow, default)]
    data: Option<&'t RawValue>,
}

#[derive(Deserialize)]
struct Subscribe<'t> {
    #[serde(borrow)]
    types: Vec<Cow<'t, str>>,
}

/// What is done about it.
#[derive(Debug)]
enum Does {
    Nothing,
    Narrow(Types),
    Answer(Message),
}

/// Reads what a client says; a code and words where it is not understood.
fn obey(text: &str, depth: usize) -> Result<Does, (&'static str, String)> {
    // What stands around the client's own data is one more.
    if is_deeper_than(text.as_bytes(), depth + 1) {
        return Err(("invalid_json", format!("nested deeper than {depth} (limits.json_depth)")));
    }
    let said: Said<'_> = serde_json::from_str(text).map_err(|fault| {
        if fault.is_data() {
            ("invalid_field", "type: expected text, in an object such as {\"type\":\"ping\"}".to_owned())
        } else {
            ("invalid_json", format!("the message is not JSON: {fault}"))
        }
    })?;
    match &*said.kind {
        "ping" => {
            let (now, data) = (clock::now_ms(), said.data.map_or("{}", RawValue::get));
            let pong = format!("{{\"type\":\"pong\",\"timestamp\":{now},\"data\":{data}}}");
            Ok(Does::Answer(Message::new(None, pong.as_bytes())))
        }
        "subscribe" => {
            let wrong = |why: &str| ("invalid_field", format!("data.types: {why}"));
            let asked: Option<Subscribe<'_>> = said.data.and_then(|data| serde_json::from_str(data.get()).ok());
            let asked = asked.filter(|asked| !asked.types.is_empty());
            let asked = asked.ok_or_else(|| wrong("expected a list of the types that are wanted"))?;
            let types = Types::of(asked.types.iter().map(|name| &**name)).map_err(|why| wrong(&why))?;
            Ok(Does::Narrow(types))
        }
        // The answer to a heartbeat.
        "pong" => Ok(Does::Nothing),
        other => {
            let shown: String = other.chars().take(60).collect();
            let message = format!("there is no message of the type {shown:?}; there are: ping, subscribe");
            Err(("unknown_type", message))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::Value;

    fn answer(text: &str) -> Value {
        match obey(text, 8).unwrap() {
            Does::Answer(message) => serde_json::from_slice(&message.json()).unwrap(),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn a_ping_is_answered_with_its_data() {
        for data in ["{\"sent\": 12.5, \"list\": [1, null]}", "\"x\"", "null", "7"] {
            let pong = answer(&format!("{{\"type\":\"ping\",\"data\":{data},\"more\":1}}"));
            let expected: Value = serde_json::from_str(data).unwrap();
            // As null is the same as nothing, it is answered like nothing.
            let expected = if expected.is_null() { json!({}) } else { expected };
            assert_eq!((&pong["type"], &pong["data"]), (&json!("pong"), &expected));
            assert!(pong["timestamp"].is_u64());
        }
        assert_eq!(answer("{\"type\":\"ping\"}")["data"], json!({}));
    }

    #[test]
    fn a_reader_narrows_to_types_that_there_are() {
        let narrowed = |types: &str| match obey(&format!("{{\"type\":\"subscribe\",\"data\":{types}}}"), 8) {
            Ok(Does::Narrow(types)) => types,
            other => unreachable!("{other:?}"),
        };
        let two = narrowed("{\"types\":[\"metrics_update\",\"kv_cache_update\"]}");
        assert!(two.want("metrics_update") && two.want("kv_cache_update"));
        assert!(!two.want("request_update") && !two.want("heartbeat") && !two.want("something"));
        assert!(TYPES.iter().all(|name| Types::default().want(name)) && Types::default().want("something"));
        for data in ["{}", "{\"types\":[]}", "{\"types\":[\"metrics\"]}", "{\"types\":\"metrics_update\"}", "7"] {
            let (code, message) = obey(&format!("{{\"type\":\"subscribe\",\"data\":{data}}}"), 8).unwrap_err();
            assert!(code == "invalid_field" && message.starts_with("data.types: "), "{data}: {code} {message}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        for (text, expected) in [
            ("{", "invalid_json"),
            ("[[[[[[[[[[[[]]]]]]]]]]]]", "invalid_json"),
            ("7", "invalid_field"),
            ("{\"type\":7}", "invalid_field"),
            ("{}", "invalid_field"),
            ("{\"type\":\"custom\",\"data\":{\"foo\":\"bar\"}}", "unknown_type"),
        ] {
            assert_eq!(obey(text, 8).unwrap_err().0, expected, "{text}");
        }
        assert!(matches!(obey("{\"type\":\"pong\"}", 8), Ok(Does::Nothing)));
    }
}
