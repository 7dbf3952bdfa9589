//! How an event of a well's room looks to the dashboard, on Socket.IO and on SSE alike: the event's name and its JSON body.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::clock;
use crate::event::encode::write_json_text;
use crate::event::{Event, RoomName};

/// The namespace of wells' rooms, with its colon.
pub(in crate::edge) const NAMESPACE: &str = "well:";

/// What a sensor measured.
const TELEMETRY: &str = "telemetry_update";

/// A well's id: what its room is called after the namespace.
pub(in crate::edge) fn well_id(room: &RoomName) -> &str {
    room.as_str().strip_prefix(NAMESPACE).unwrap_or(room.as_str())
}

/// Names that clients keep for themselves, and those of answers and notices: on one of the streams they would be taken for what they are not. The same on both.
pub(super) const TAKEN: [&str; 19] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
    "__disconnect_final",
    "open",
    "connected",
    "heartbeat",
    "pong",
    "subscribed",
    "unsubscribed",
    "stats",
    "snapshot",
    "gap",
    "dropped",
    "expiring",
    "error",
];

/// An event's name and body. A name that is taken is `event`; what it is called in its room stands in its body.
///
/// The body depends on nothing but the event, so that one encoding serves all readers, now and in a replay: its outer time is when the event arrived, the inner one when it
/// happened. `telemetry_id` is the seq, unless the data has one.
pub(in crate::edge) fn shape(event: &Event) -> (&str, String) {
    let name = if event.change { "delta" } else { event.kind.as_str() };
    let data = event.data();
    let mut out = String::with_capacity(data.len() + name.len() + 200);
    out.push_str("{\"event\":");
    write_json_text(name, &mut out);
    out.push_str(",\"timestamp\":\"");
    clock::write_rfc3339(event.arrived_ms, &mut out);
    out.push_str("\",\"well_id\":");
    write_json_text(well_id(event.room.name()), &mut out);
    // It was JSON when it came in, and so text.
    let data = String::from_utf8_lossy(data);
    match name {
        TELEMETRY => {
            out.push_str(",\"data\":");
            telemetry(event, &data, &mut out);
        }
        "alert" => field("alert", &data, &mut out),
        "diagnostic_update" => field("diagnostic", &data, &mut out),
        _ => field("data", &data, &mut out),
    }
    out.push('}');
    (if TAKEN.contains(&name) { "event" } else { name }, out)
}

fn field(name: &str, json: &str, out: &mut String) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    out.push_str(json);
}

/// The data of a measurement, with its id and its time before it where it does not have them itself.
fn telemetry(event: &Event, data: &str, out: &mut String) {
    let mut json = serde_json::Deserializer::from_str(data);
    let has = json.deserialize_map(Has::default()).ok();
    let (id, time) = has.as_ref().map_or((false, false), |has| (has.id, has.time));
    out.push('{');
    let begin = out.len();
    if !id {
        out.push_str("\"telemetry_id\":");
        out.push_str(itoa::Buffer::new().format(event.seq));
    }
    if !time {
        out.push_str(if out.len() > begin { ",\"timestamp\":\"" } else { "\"timestamp\":\"" });
        clock::write_rfc3339(event.timestamp_ms, out);
        out.push('"');
    }
    // Of an object its inside; anything else is a value.
    let inside = has.as_ref().and_then(|_| data.trim().strip_prefix('{')?.strip_suffix('}')).map(str::trim);
    match inside {
        Some("") => {}
        Some(fields) => {
            out.push_str(if out.len() > begin { "," } else { "" });
            out.push_str(fields);
        }
        None => field("value", data, out),
    }
    out.push('}');
}

/// Which of the fields that would be added an object has.
#[derive(Default)]
struct Has {
    id: bool,
    time: bool,
}

impl<'de> Visitor<'de> for Has {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            map.next_value::<IgnoredAny>()?;
            self.id |= key == "telemetry_id";
            self.time |= key == "timestamp";
        }
        Ok(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tidegate_actors::Policy;

    use super::*;
    use crate::event::{Lane, Parts, RoomKey};

    fn event(kind: &str, data: &str) -> Event {
        let room = RoomKey::new(RoomName::parse("well:WELL-001").unwrap(), Policy::default());
        let (seq, arrived_ms, timestamp_ms) = (7, 1_763_619_000_005, 1_763_619_000_001);
        let (key, id, change) = (None, None, false);
        let data = data.as_bytes();
        Event::new(&room, &Parts { seq, arrived_ms, timestamp_ms, priority: Lane::Normal, kind, key, id, change, data })
    }

    fn shaped(kind: &str, data: &str) -> Value {
        let event = event(kind, data);
        let (name, body) = shape(&event);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((name, &body["event"], &body["well_id"]), (kind, &json!(kind), &json!("WELL-001")));
        assert_eq!(body["timestamp"], "2025-11-20T06:10:00.005Z");
        body
    }

    #[test]
    fn a_measurement_has_the_seq_and_its_time_where_it_does_not_say_them_itself() {
        let time = "2025-11-20T06:10:00.001Z";
        let data = |data: &str| shaped("telemetry_update", data)["data"].clone();
        assert_eq!(data("{\"pip\":1}"), json!({"telemetry_id": 7, "timestamp": time, "pip": 1}));
        assert_eq!(data(" { } "), json!({"telemetry_id": 7, "timestamp": time}));
        assert_eq!(data("{\"telemetry_id\":99,\"pip\":1}"), json!({"telemetry_id": 99, "timestamp": time, "pip": 1}));
        assert_eq!(data("{\"timestamp\":\"t\",\"telemetry_id\":1}"), json!({"telemetry_id": 1, "timestamp": "t"}));
        assert_eq!(data("[1,{}]"), json!({"telemetry_id": 7, "timestamp": time, "value": [1, {}]}));
        assert_eq!(data("5"), json!({"telemetry_id": 7, "timestamp": time, "value": 5}));
    }

    #[test]
    fn other_kinds_carry_their_data_under_their_own_name() {
        let one = json!({"x": [1]});
        assert_eq!(shaped("alert", "{\"x\":[1]}")["alert"], one);
        assert_eq!(shaped("diagnostic_update", "{\"x\":[1]}")["diagnostic"], one);
        assert_eq!(shaped("valve \"moved\"", "{\"x\":[1]}")["data"], one);
    }

    #[test]
    fn an_event_of_a_room_is_not_taken_for_a_word_of_the_stream() {
        for kind in TAKEN {
            let event = event(kind, "{\"x\":1}");
            let (name, body) = shape(&event);
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((name, &body["event"], &body["data"]), ("event", &json!(kind), &json!({"x": 1})));
        }
    }

    proptest! {
        #[test]
        fn whatever_an_object_holds_comes_out_unchanged(
            fields in proptest::collection::btree_map("(telemetry_id|timestamp|[a-z\"\\\\\u{e9}]{1,6})", "[ -~\u{e9}\n]{0,10}", 0..6),
            kind in "(telemetry_update|alert|other)",
        ) {
            let value = json!(fields);
            let body = shaped(&kind, &serde_json::to_string_pretty(&value).unwrap());
            let found = body.get("data").or(body.get("alert")).unwrap();
            for (name, text) in &fields {
                prop_assert_eq!(&found[name.as_str()], &json!(text));
            }
        }
    }
}
