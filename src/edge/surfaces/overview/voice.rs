//! How its streams speak: `{type, timestamp, id, data}`, where `id` is the cursor to come back with; and what they make of what a client says.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{EVENTS, OVERVIEW, TELEMETRY, code, in_envelope, whole};
use crate::clock;
use crate::edge::Edge;
use crate::edge::problem::whole_seconds;
use crate::edge::surfaces::encoded::{Encoded, Message, Messages};
use crate::edge::surfaces::voice::{OverWebSocket, Voice};
use crate::edge::ws::Serving;
use crate::engine::connections::Notice;
use crate::event::Event;
use crate::settings::Settings;

static ENCODED: Encoded = Encoded::new();
/// After so long what was on its way when a reader came has arrived, in milliseconds.
const SETTLED_MS: u64 = 1000;

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// What changes, gathered; everything first.
    Overview,
    /// Each event.
    Events,
    /// Figures and recent events, now and then.
    Telemetry,
}

impl Stream {
    /// The room that it follows: one, so that its events are made into messages once for all readers, and a number is a cursor.
    pub(super) const fn room(self) -> &'static str {
        match self {
            Self::Overview => OVERVIEW,
            Self::Events => EVENTS,
            Self::Telemetry => TELEMETRY,
        }
    }

    /// The type of its messages, which is their name on SSE too.
    const fn name(self) -> &'static str {
        match self {
            Self::Overview => "update",
            Self::Events => "event",
            Self::Telemetry => "telemetry",
        }
    }
}

/// What was in the whole that a reader got, and may be on its way as a change.
#[derive(Debug)]
struct Has {
    at_ms: u64,
    projects: Bytes,
    metrics: Value,
}

impl Has {
    /// Takes out of an update what is as it was in the whole.
    fn take_out(&self, data: &mut Map<String, Value>) {
        if data.get("metrics") == Some(&self.metrics) {
            data.remove("metrics");
        }
        let Some(Value::Array(rows)) = data.get_mut("projects") else { return };
        let known: Vec<Value> = serde_json::from_slice(&self.projects).unwrap_or_default();
        let known: HashMap<&str, &Value> = known.iter().filter_map(|row| Some((row["id"].as_str()?, row))).collect();
        rows.retain(|row| row["id"].as_str().and_then(|id| known.get(id)) != Some(&row));
        if rows.is_empty() {
            data.remove("projects");
        }
    }
}

/// A reader of one of the streams.
#[derive(Debug)]
pub(super) struct Speaks {
    edge: Edge,
    stream: Stream,
    /// Something that the client cannot have was told before it was greeted.
    missed: bool,
    greeted: bool,
    /// Events up to here were in the whole that it got, and an update may bring them once more; `None` when that is past.
    has_events_to: Option<u64>,
    /// Which rows and figures were; boxed, because that is past soon.
    has: Option<Box<Has>>,
}

impl Speaks {
    pub(super) fn new(edge: Edge, stream: Stream) -> Self {
        Self { edge, stream, missed: false, greeted: false, has_events_to: None, has: None }
    }

    /// A message of its type around data.
    fn envelope(&self, timestamp_ms: u64, id: &str, data: &str) -> String {
        let (name, time) = (self.stream.name(), clock::rfc3339(timestamp_ms));
        format!("{{\"type\":\"{name}\",\"timestamp\":\"{time}\",\"id\":\"{id}\",\"data\":{data}}}")
    }

    fn message(&self, json: &str) -> Messages {
        one(Message::new(Some(self.stream.name()), json.as_bytes()))
    }

    /// Everything there is now.
    fn whole(&mut self, events: &[Arc<Event>], up_to: u64, cursor: &str) -> Messages {
        let data = match self.stream {
            Stream::Overview => {
                self.has_events_to = Some(up_to);
                // Before the whole is made, so that it has no less than that.
                let (projects, metrics) = (whole::projects(&self.edge), whole::metrics(&self.edge));
                let whole = whole::overview(&projects, &metrics, events);
                self.has = Some(Box::new(Has { at_ms: clock::now_ms(), projects, metrics }));
                whole
            }
            Stream::Telemetry => whole::telemetry(&self.edge, events),
            Stream::Events => return Messages::new(),
        };
        self.message(&self.envelope(clock::now_ms(), cursor, &data))
    }

    /// An update without what was in the whole; `None` if nothing is left of it.
    fn rest_of(&mut self, event: &Event) -> Option<Message> {
        let mut data: Map<String, Value> = serde_json::from_slice(event.data()).ok()?;
        if let Some(has) = &self.has {
            has.take_out(&mut data);
        }
        if let Some(up_to) = self.has_events_to
            && let Some(Value::Array(events)) = data.get_mut("events")
        {
            events.retain(|event| event["seq"].as_u64().is_none_or(|seq| seq > up_to));
            if events.is_empty() {
                data.remove("events");
            } else {
                // They come in their order: all that follow are new.
                self.has_events_to = None;
            }
        }
        (!data.is_empty()).then(|| self.made(event, &shown(Value::Object(data))))
    }

    /// A message of an event.
    fn made(&self, event: &Event, data: &str) -> Message {
        let json = self.envelope(event.arrived_ms, &event.seq.to_string(), data);
        Message::of(event, Some(self.stream.name()), json.as_bytes())
    }
}

fn one(message: Message) -> Messages {
    let mut messages = Messages::new();
    messages.push(Arc::new(message));
    messages
}

/// What the pipelines gather, without what only matters on the way; events as everywhere here, newest first.
fn shown(mut data: Value) -> String {
    for name in ["events", "recentEvents"] {
        let Some(events) = data.get_mut(name).and_then(Value::as_array_mut) else { continue };
        events.reverse();
        for event in events {
            event.as_object_mut().map(|event| event.remove("seq"));
        }
    }
    data.to_string()
}

fn error(code: &str, message: &str, retry: Option<Duration>) -> Message {
    let mut error = json!({ "code": code, "message": message });
    if let Some(wait) = retry {
        error["retryAfter"] = whole_seconds(wait).into();
    }
    Message::new(Some("error"), in_envelope(&error).to_string().as_bytes())
}

impl Voice for Speaks {
    fn event(&mut self, event: &Arc<Event>) -> Messages {
        // Changes of a state, and what others publish into the rooms of updates, are nothing to show.
        if event.change || (self.stream != Stream::Events && event.kind != self.stream.name()) {
            return Messages::new();
        }
        if self.has.as_ref().is_some_and(|has| event.arrived_ms > has.at_ms + SETTLED_MS) {
            self.has = None;
        }
        if self.has.is_some() || self.has_events_to.is_some() {
            return self.rest_of(event).map(one).unwrap_or_default();
        }
        ENCODED.of(event, self.stream.name(), || {
            let data = match self.stream {
                Stream::Events => whole::event(event).to_string(),
                _ => shown(serde_json::from_slice(event.data()).unwrap_or_default()),
            };
            one(self.made(event, &data))
        })
    }

    fn notice(&mut self, notice: &Notice<'_>, cursor: &str) -> Messages {
        let now = || clock::rfc3339(clock::now_ms());
        let said = |name: &str, data: Value| {
            let json = json!({ "type": name, "timestamp": now(), "id": cursor, "data": data });
            one(Message::new(Some(name), json.to_string().as_bytes()))
        };
        match notice {
            Notice::Welcome { .. } | Notice::Snapshot { .. } => Messages::new(),
            Notice::Heartbeat => {
                let json = json!({ "type": "ping", "timestamp": now(), "id": cursor });
                one(Message::new(Some("heartbeat"), json.to_string().as_bytes()))
            }
            Notice::Gap { .. } | Notice::Dropped { .. } if self.stream != Stream::Events => {
                if !self.greeted {
                    self.missed = true;
                    return Messages::new();
                }
                // The whole makes up for what is missing.
                let events = whole::newest_in_memory(&self.edge, EVENTS);
                let up_to = events.last().map_or(0, |event| event.seq);
                self.whole(&events, up_to, cursor)
            }
            Notice::Gap { gap, .. } => said("gap", json!({ "after": gap.after, "first_seq": gap.first_seq })),
            Notice::Dropped { from_seq, to_seq, count, reason, .. } => {
                let data = json!({ "from_seq": from_seq, "to_seq": to_seq, "count": count, "reason": reason });
                said("dropped", data)
            }
            Notice::Error { code: word, message, retry } => {
                let word = match *word {
                    "rate_limited" => "RATE_LIMIT_EXCEEDED".to_owned(),
                    "stopping" | "room_failed" => "STREAM_UNAVAILABLE".to_owned(),
                    "token_expired" | "token_revoked" => "AUTH_REQUIRED".to_owned(),
                    other => code(other),
                };
                one(error(&word, message, *retry))
            }
            Notice::Expiring { at_ms } => said("expiring", json!({ "at": clock::rfc3339(*at_ms) })),
        }
    }

    async fn greet(&mut self, resumed: bool, cursor: &str) -> Messages {
        self.greeted = true;
        if (resumed && !self.missed) || self.stream == Stream::Events {
            return Messages::new();
        }
        match whole::newest_events(&self.edge).await {
            Ok((events, up_to)) => self.whole(&events, up_to, cursor),
            Err(problem) => one(error("STREAM_UNAVAILABLE", problem.detail(), None)),
        }
    }

    fn refuse(&mut self, word: &'static str, message: &str, retry: Option<Duration>) -> Message {
        let word = if word == "rate_limited" { "RATE_LIMIT_EXCEEDED".to_owned() } else { code(word) };
        error(&word, message, retry)
    }

    async fn command(serving: &mut Serving<OverWebSocket<Self>>, text: &str) {
        let said = serde_json::from_str::<Said<'_>>(text);
        let answer = match said.as_ref().map(|said| &*said.kind) {
            Ok("ping") => {
                let mut pong = json!({ "type": "pong", "timestamp": clock::rfc3339(clock::now_ms()) });
                let data = said.as_ref().ok().and_then(|said| said.data);
                if let Some(data) = data.and_then(|data| serde_json::from_str(data.get()).ok()) {
                    pong["data"] = data;
                }
                Message::new(None, pong.to_string().as_bytes())
            }
            // The answer to a heartbeat.
            Ok("pong") => return serving.only_a_pong(),
            Ok(kind) => {
                let shown: String = kind.chars().take(60).collect();
                let message = format!("there is no message of the type {shown:?}; there are: ping, pong");
                error("UNKNOWN_TYPE", &message, None)
            }
            Err(fault) if fault.is_data() => {
                error("INVALID_FIELD", "type: expected text, in a JSON object such as {\"type\":\"ping\"}", None)
            }
            Err(fault) => error("INVALID_JSON", &format!("the message is not JSON: {fault}"), None),
        };
        serving.connection.handler().dialect().say(&answer);
    }

    fn pace(&self) -> Option<Duration> {
        let per_second = self.edge.settings().surfaces.overview.updates_per_second;
        (self.stream != Stream::Events && per_second > 0).then(|| Duration::from_secs(1) / per_second)
    }

    fn rates(settings: &Settings) -> (u32, u32) {
        (settings.limits.per_connection_messages_per_second, settings.surfaces.overview.messages_per_minute)
    }

    fn idle(settings: &Settings) -> Option<Duration> {
        settings.surfaces.overview.idle_timeout
    }
}

/// What a client says.
#[derive(Deserialize)]
struct Said<'t> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'t, str>,
    #[serde(borrow, default)]
    data: Option<&'t RawValue>,
}
