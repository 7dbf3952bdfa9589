//! The bytes of an event, made once and shared by all who read it.
//!
//! One allocation holds the event as an SSE message, `id: <seq>\ndata: <json>\n\n`; its JSON, as WebSocket and the answers carry it, and its data are parts of it. So one
//! encoding serves every native dialect. A change of a room's state is a notice, `delta`, and no event: `id: <seq>\nevent: delta\ndata: <json>\n\n`.

use std::cell::RefCell;

use bytes::Bytes;

use super::{Parts, RoomKey};
use crate::clock;

/// What a thread keeps to encode the next event in, at most.
const PLACE_BYTES: usize = 16 << 10;
/// What follows an event's data.
const END: &[u8] = b"}\n\n";

/// An encoded event. Offsets fit `u32`: an event is bounded by `limits.event_bytes`.
#[derive(Debug, Clone)]
pub struct Frame {
    sse: Bytes,
    // Where `data: ` begins, where the JSON begins, where the data begins.
    line: u32,
    json: u32,
    data: u32,
}

impl Frame {
    /// Encodes an event of a room.
    #[must_use]
    pub(super) fn of(room: &RoomKey, parts: &Parts<'_>) -> Self {
        if room.name().is_internal() { Self::opaque(parts.data) } else { Self::encode(room, parts) }
    }

    /// What only the daemon itself reads: bytes as they are.
    fn opaque(data: &[u8]) -> Self {
        Self { sse: [data, END].concat().into(), line: 0, json: 0, data: 0 }
    }

    /// Written into a place that the thread keeps, and copied out of it once its length is known: one allocation, and not a byte too large for as long as the event is kept.
    fn encode(room: &RoomKey, parts: &Parts<'_>) -> Self {
        thread_local! {
            static PLACE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        PLACE.with_borrow_mut(|place| {
            place.clear();
            place.shrink_to(PLACE_BYTES);
            Self::encode_in(place, room, parts)
        })
    }

    fn encode_in(place: &mut Vec<u8>, room: &RoomKey, parts: &Parts<'_>) -> Self {
        let mut number = itoa::Buffer::new();
        let seq = number.format(parts.seq);
        let prefix = room.prefix();
        // What is there is nothing, and so it is text.
        let mut out = String::from_utf8(std::mem::take(place)).unwrap_or_default();
        out.push_str("id: ");
        out.push_str(seq);
        let line = out.len() + 1;
        out.push_str(if parts.change { "\nevent: delta\ndata: " } else { "\ndata: " });
        let json = out.len();
        if parts.change {
            out.push_str("{\"type\":\"delta\",\"room\":\"");
            out.push_str(room.name().as_str());
            out.push_str("\",\"seq\":");
        } else {
            out.push_str(prefix);
        }
        out.push_str(seq);
        if !parts.change {
            out.push_str(",\"kind\":");
            write_json_text(parts.kind, &mut out);
            out.push_str(",\"priority\":\"");
            out.push_str(parts.priority.name());
            out.push('"');
        }
        out.push_str(",\"timestamp\":\"");
        clock::write_rfc3339(parts.timestamp_ms, &mut out);
        out.push('"');
        if let Some(key) = parts.key.filter(|_| !parts.change) {
            out.push_str(",\"key\":");
            write_json_text(key, &mut out);
        }
        out.push_str(",\"data\":");
        let mut out = out.into_bytes();
        let data = out.len();
        out.extend_from_slice(parts.data);
        // JSON has line breaks only between its tokens, and there they are as good as spaces; in an SSE message they would end the line.
        for byte in &mut out[data..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        out.extend_from_slice(END);
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let frame =
            Self { sse: Bytes::copy_from_slice(&out), line: offset(line), json: offset(json), data: offset(data) };
        *place = out;
        frame
    }

    pub(super) fn sse(&self) -> &Bytes {
        &self.sse
    }

    pub(super) fn sse_without_id(&self) -> Bytes {
        self.sse.slice(self.line as usize..)
    }

    pub(super) fn json(&self) -> Bytes {
        self.sse.slice(self.json as usize..self.sse.len() - 2)
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.sse[self.data as usize..self.sse.len() - 3]
    }

    pub(super) fn data_bytes(&self) -> Bytes {
        self.sse.slice(self.data as usize..self.sse.len() - 3)
    }
}

/// Appends `text` as a JSON string.
pub fn write_json_text(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    // Texts seldom need an escape, so they are copied in runs.
    while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(HEX[usize::from(control >> 4)].into());
                out.push(HEX[usize::from(control & 15)].into());
            }
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use tidegate_actors::{Lane, Policy};

    use super::super::{Event, Parts, RoomKey, RoomName};

    fn event(kind: &str, key: Option<&str>, data: &[u8]) -> Event {
        let room = RoomKey::new(RoomName::parse("well:1").unwrap(), Policy::default());
        let (priority, id) = (Lane::High, None);
        Event::new(
            &room,
            &Parts { seq: 42, arrived_ms: 7, timestamp_ms: 7, priority, kind, key, id, change: false, data },
        )
    }

    #[test]
    fn the_json_has_the_fields_of_the_contract_in_their_order() {
        let event = event("sample", Some("k"), b"{\"a\":1}");
        let expected = r#"{"type":"event","room":"well:1","seq":42,"kind":"sample","priority":"high","timestamp":"1970-01-01T00:00:00.007Z","key":"k","data":{"a":1}}"#;
        assert_eq!(event.json(), expected);
        assert_eq!(event.sse(), &format!("id: 42\ndata: {expected}\n\n"));
        assert_eq!(event.sse_without_id(), format!("data: {expected}\n\n"));
        assert_eq!(event.data(), b"{\"a\":1}");
    }

    #[test]
    fn a_change_of_state_is_a_delta_and_no_event() {
        let room = RoomKey::new(RoomName::parse("w").unwrap(), Policy::default());
        let parts = Parts {
            seq: 5,
            arrived_ms: 7,
            timestamp_ms: 7,
            priority: Lane::Normal,
            kind: "delta",
            key: Some("a"),
            id: None,
            change: true,
            data: b"{\"a\":null}",
        };
        let event = Event::new(&room, &parts);
        let json = r#"{"type":"delta","room":"w","seq":5,"timestamp":"1970-01-01T00:00:00.007Z","data":{"a":null}}"#;
        assert_eq!((event.json(), event.data()), (json.into(), parts.data));
        assert_eq!(event.sse(), &format!("id: 5\nevent: delta\ndata: {json}\n\n"));
        assert_eq!(event.sse_without_id(), format!("event: delta\ndata: {json}\n\n"));
    }

    #[test]
    fn what_only_the_daemon_reads_is_kept_byte_by_byte() {
        let room = RoomKey::new(RoomName::internal("pipeline:x").unwrap(), Policy::default());
        let data = b"\n\r\x00\xff";
        let parts = Parts {
            seq: 1,
            arrived_ms: 7,
            timestamp_ms: 7,
            priority: Lane::Normal,
            kind: "k",
            key: None,
            id: None,
            change: false,
            data,
        };
        assert_eq!(Event::new(&room, &parts).data(), data);
    }

    #[test]
    fn line_breaks_in_data_do_not_end_the_sse_message() {
        let event = event("k", None, b"{\r\n \"a\": [1,\n2]\n}");
        let text = String::from_utf8(event.sse().to_vec()).unwrap();
        assert_eq!(text.matches('\n').count(), 3);
        let json: serde_json::Value = serde_json::from_slice(&event.json()).unwrap();
        assert_eq!(json["data"]["a"], serde_json::json!([1, 2]));
    }

    proptest! {
        #[test]
        fn any_kind_and_key_come_back_from_the_json(kind in ".{1,40}", key in proptest::option::of("\\PC{1,20}|[\\x00-\\x1f\"\\\\]{1,8}")) {
            let event = event(&kind, key.as_deref(), b"null");
            let json: serde_json::Value = serde_json::from_slice(&event.json()).unwrap();
            prop_assert_eq!(json["kind"].as_str(), Some(&*kind));
            prop_assert_eq!(json["key"].as_str(), key.as_deref());
        }
    }
}
