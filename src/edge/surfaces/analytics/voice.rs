//! How events, notices and answers look: unnamed messages `{type, timestamp, data}`.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use smallvec::smallvec;
use smol_str::SmolStr;

use super::{ALERTS, Desk, URGENT, commands, metric, metrics};
use crate::auth::Identity;
use crate::clock;
use crate::edge::Edge;
use crate::edge::problem::whole_seconds;
use crate::edge::surfaces::encoded::{Encoded, Message, Messages};
use crate::edge::surfaces::voice::{OverWebSocket, Voice};
use crate::edge::ws::Serving;
use crate::engine::connections::supervisor::{Connection, Member};
use crate::engine::connections::{Dialect, Notice};
use crate::engine::rooms::Start;
use crate::event::encode::write_json_text;
use crate::event::{Event, Pattern, RoomName};
use crate::limits::places::Place;

static ENCODED: Encoded = Encoded::new();

/// The newest events of a room among which its last value is looked for: alerts are none.
const NEWEST: u64 = 16;

/// Its words, for one stream.
pub(super) struct Admin {
    edge: Edge,
    identity: Arc<Identity>,
    /// By which its client takes it up again.
    token: SmolStr,
    /// Whose newest values are told first.
    begin: Vec<Pattern>,
    greeted: bool,
    _place: Option<Place<SmolStr>>,
}

impl Admin {
    pub(super) fn new(
        edge: &Edge,
        identity: &Arc<Identity>,
        token: SmolStr,
        begin: Vec<Pattern>,
        place: Option<Place<SmolStr>>,
    ) -> Self {
        let (edge, identity) = (edge.clone(), Arc::clone(identity));
        let greeted = begin.is_empty();
        Self { edge, identity, token, begin, greeted, _place: place }
    }

    fn established(&self, connection: u64, rooms: &[String], cursor: &str) -> Message {
        let patterns: Vec<Pattern> = rooms.iter().filter_map(|room| Pattern::parse(room).ok()).collect();
        let data = json!({
            "connectionId": connection.to_string(),
            "reconnectToken": self.token,
            "metrics": metrics(&patterns),
            "cursor": cursor,
        });
        message("connection_established", data)
    }
}

/// A message of this type.
pub(super) fn message(kind: &str, data: Value) -> Message {
    let json = json!({ "type": kind, "timestamp": clock::rfc3339(clock::now_ms()), "data": data });
    Message::new(None, json.to_string().as_bytes())
}

/// An error as a message.
pub(super) fn error(code: &str, text: &str, retry: Option<Duration>, field: Option<&str>) -> Message {
    let mut data = json!({ "code": code, "message": text });
    if let Some(retry) = retry {
        data["retryAfter"] = whole_seconds(retry).into();
    }
    if let Some(field) = field {
        data["field"] = field.into();
    }
    message("error", data)
}

fn encode(event: &Event) -> Message {
    let kind = if URGENT.is(event) { "system_alert" } else { "metrics_update" };
    let mut json = format!("{{\"type\":\"{kind}\",\"timestamp\":\"");
    clock::write_rfc3339(event.timestamp_ms, &mut json);
    // A room's name needs no escape.
    let (metric, priority) = (metric(event.room.name().as_str()), event.priority.name());
    json.push_str(&format!("\",\"metric\":\"{metric}\",\"priority\":\"{priority}\","));
    if let Some(key) = &event.key {
        json.push_str("\"key\":");
        write_json_text(key, &mut json);
        json.push(',');
    }
    json.push_str("\"data\":");
    let mut json = json.into_bytes();
    json.extend_from_slice(event.data());
    json.push(b'}');
    Message::of(event, None, &json)
}

/// The first data of a stream: the last value of each metric, as far as `limits.mailbox_bytes` holds them; what is left out is named.
pub(super) async fn first_data(edge: &Edge, identity: &Identity, patterns: &[Pattern]) -> Message {
    let mut names: Vec<RoomName> = Vec::new();
    for pattern in patterns {
        match pattern {
            Pattern::Room(name) => names.push(name.clone()),
            Pattern::Prefix(_) => names.extend(edge.rooms.names(pattern)),
        }
    }
    names.retain(|name| name.as_str() != ALERTS && identity.rights.may_read(name));
    let settings = edge.settings();
    names.truncate(settings.limits.rooms_per_connection);
    let (mut left, mut data, mut left_out) = (settings.limits.mailbox_bytes, Map::new(), Vec::new());
    for name in names {
        let Some(value) = newest(edge, &name).await else { continue };
        if value.len() > left {
            left_out.push(Value::from(metric(name.as_str())));
            continue;
        }
        left -= value.len();
        if let Ok(value) = serde_json::from_slice(&value) {
            data.insert(metric(name.as_str()).to_owned(), value);
        }
    }
    let mut json = json!({ "type": "initial_metrics", "timestamp": clock::rfc3339(clock::now_ms()), "data": data });
    if !left_out.is_empty() {
        json["leftOut"] = Value::Array(left_out);
    }
    Message::new(None, json.to_string().as_bytes())
}

/// A room's state, or the data of its newest event that is no alert.
async fn newest(edge: &Edge, name: &RoomName) -> Option<Bytes> {
    let room = edge.rooms.find(name).ok()??;
    if let Some(snapshot) = room.snapshot() {
        return Some(snapshot.json.clone());
    }
    let (after, _) = room.begin(Start::Tail(NEWEST));
    let events = room.read_wait(after, usize::try_from(NEWEST).unwrap_or(usize::MAX)).await.ok()?;
    events.iter().rev().find(|event| !URGENT.is(event)).map(|event| Bytes::copy_from_slice(event.data()))
}

impl Voice for Admin {
    fn event(&mut self, event: &Arc<Event>) -> Messages {
        ENCODED.of(event, "", || smallvec![Arc::new(encode(event))])
    }

    fn notice(&mut self, notice: &Notice<'_>, cursor: &str) -> Messages {
        let message = match notice {
            Notice::Welcome { connection, rooms, .. } => self.established(*connection, rooms, cursor),
            Notice::Heartbeat => message("heartbeat", json!({ "cursor": cursor })),
            // At the beginning it is among the first data.
            Notice::Snapshot { .. } if !self.greeted => return Messages::new(),
            Notice::Snapshot { room, snapshot } => {
                let state = serde_json::from_slice::<&RawValue>(&snapshot.json).ok();
                message("initial_metrics", json!({ metric(room.as_str()): state }))
            }
            Notice::Gap { room, gap } => {
                let (metric, after, first) = (metric(room.as_str()), gap.after, gap.first_seq);
                message("gap", json!({ "metric": metric, "room": room.as_str(), "after": after, "firstSeq": first }))
            }
            Notice::Dropped { room, from_seq, to_seq, count, reason } => {
                let (metric, room) = (metric(room.as_str()), room.as_str());
                let data = json!({
                    "metric": metric,
                    "room": room,
                    "fromSeq": from_seq,
                    "toSeq": to_seq,
                    "count": count,
                    "reason": reason,
                });
                message("messages_dropped", data)
            }
            Notice::Error { code, message, retry } => error(code, message, *retry, None),
            Notice::Expiring { at_ms } => message("token_expiring", json!({ "expiresAt": clock::rfc3339(*at_ms) })),
        };
        smallvec![Arc::new(message)]
    }

    async fn greet(&mut self, _: bool, _: &str) -> Messages {
        self.greeted = true;
        let begin = std::mem::take(&mut self.begin);
        if begin.is_empty() {
            return Messages::new();
        }
        smallvec![Arc::new(first_data(&self.edge, &self.identity, &begin).await)]
    }

    fn refuse(&mut self, code: &'static str, message: &str, retry: Option<Duration>) -> Message {
        error(code, message, retry, None)
    }

    async fn command(serving: &mut Serving<OverWebSocket<Self>>, text: &str) {
        commands::obey(serving, text).await;
    }

    fn headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(token) = HeaderValue::from_str(&self.token) {
            headers.insert(HeaderName::from_static("x-reconnect-token"), token);
        }
    }

    fn over<D: Dialect>(edge: &Edge, connection: Connection<D>, member: Member) {
        Desk::over(edge, connection, member);
    }
}
