//! The dialect: events and notices as packets. A packet is the same for all who read the same event; only the offset of a client that follows several wells is its own.
//!
//! An offset says where its reader stands in each of its rooms, so that it can come back to it (`recovery`); it is the last argument of every event after which the reader
//! stands somewhere else.

use std::sync::Arc;

use serde_json::{Value, json};
use smallvec::{SmallVec, smallvec};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::super::super::encoded::{Encoded, Message};
use super::super::shape::{shape, well_id};
use super::packet;
use crate::clock;
use crate::edge::problem::whole_seconds;
use crate::engine::connections::dialect::Position;
use crate::engine::connections::{Dialect, Notice};
use crate::event::{Event, cursor};
use crate::metrics::record;

/// What goes out at once; most often one packet, which needs no allocation.
pub(super) type Packets = SmallVec<[Utf8Bytes; 1]>;

/// With more rooms only the last event of a write has an offset: a client keeps the last one it saw.
const OFFSETS_ROOMS: usize = 8;

/// Gathers packets.
#[derive(Debug)]
pub(super) struct Sio {
    packets: Packets,
    bytes: usize,
    /// Whether the client can come back to where it stood.
    offsets: bool,
    /// The packet that still needs an offset.
    open: Option<usize>,
    /// The longest offset, in bytes, and whether one was longer: then the client cannot come back.
    offset_max: usize,
    too_long: bool,
    /// Who is welcomed.
    subject: Box<str>,
}

impl Sio {
    /// A dialect whose first packet is `first`.
    pub(super) fn new(first: Utf8Bytes, offsets: bool, offset_max: usize, subject: &str) -> Self {
        let (bytes, packets) = (first.len(), SmallVec::from_buf([first]));
        Self { packets, bytes, offsets, open: None, offset_max, too_long: false, subject: subject.into() }
    }

    /// Gathers a packet of the transport's own.
    pub(super) fn say(&mut self, packet: impl Into<Utf8Bytes>) {
        let packet = packet.into();
        self.bytes += packet.len();
        self.packets.push(packet);
    }

    /// Gathers an event of the transport's own.
    pub(super) fn tell(&mut self, name: &str, body: &Value) {
        self.say(packet::event(name, &body.to_string(), None));
    }

    /// The same, after which the reader stands at this offset.
    pub(super) fn tell_at(&mut self, name: &str, body: &Value, offset: &str) {
        let offset = self.offset_allowed(offset).then_some(offset);
        self.say(packet::event(name, &body.to_string(), offset));
    }

    /// Gathers an error.
    pub(super) fn error(&mut self, error: &str, message: &str) {
        self.tell("error", &fault(error, message));
    }

    /// Whether a client that comes back would get what it has not got, and nothing else.
    pub(super) fn can_come_back(&self) -> bool {
        self.offsets && !self.too_long
    }

    fn offset_allowed(&mut self, offset: &str) -> bool {
        self.too_long |= self.offsets && offset.len() > self.offset_max;
        self.can_come_back()
    }

    fn tell_where(&mut self, name: &str, body: &Value, position: &dyn Position) {
        // The packet before it goes without: its reader would come back behind what is said here.
        self.open = None;
        let mut offset = String::new();
        if self.offsets && position.rooms() > 0 {
            position.write(&mut offset);
        }
        self.tell_at(name, body, &offset);
    }
}

/// An error's body.
pub(super) fn fault(error: &str, message: &str) -> Value {
    record::websocket_error();
    json!({ "error": error, "message": message })
}

/// The name of an error on this surface.
fn error_name(code: &str) -> &'static str {
    match code {
        "forbidden" => "AuthorizationError",
        "token_expired" | "token_revoked" => "AuthenticationError",
        "too_many_rooms" => "TooManySubscriptions",
        _ => "ConnectionError",
    }
}

impl Dialect for Sio {
    type Output = Packets;

    fn event(&mut self, event: &Arc<Event>, position: &dyn Position) {
        self.open = None;
        if !self.offsets {
            return self.say(remembered(event, false));
        }
        if position.seq_is_cursor() {
            return self.say(remembered(event, true));
        }
        let plain = remembered(event, false);
        if position.rooms() > OFFSETS_ROOMS {
            self.open = Some(self.packets.len());
            return self.say(plain);
        }
        let mut offset = String::new();
        position.write(&mut offset);
        let packet = if self.offset_allowed(&offset) { packet::with_offset(&plain, &offset) } else { plain };
        self.say(packet);
    }

    fn notice(&mut self, notice: &Notice<'_>, position: &dyn Position) {
        let now = clock::rfc3339(clock::now_ms());
        match notice {
            Notice::Welcome { .. } => {
                let who = &*self.subject;
                let body =
                    json!({ "message": "connected to tidegate", "user_id": who, "username": who, "timestamp": now });
                self.tell_at("connected", &body, "");
            }
            // Engine.IO has its own.
            Notice::Heartbeat => {}
            Notice::Snapshot { room, snapshot } => {
                let data: Value = serde_json::from_slice(&snapshot.json).unwrap_or_default();
                let body = json!({ "well_id": well_id(room), "cursor": snapshot.seq.to_string(), "keys": snapshot.keys, "data": data });
                self.tell_where("snapshot", &body, position);
            }
            Notice::Gap { room, gap } => {
                let body = json!({ "well_id": well_id(room), "after": gap.after, "first_seq": gap.first_seq });
                self.tell_where("gap", &body, position);
            }
            Notice::Dropped { room, from_seq, to_seq, count, reason } => {
                let body = json!({ "well_id": well_id(room), "from_seq": from_seq, "to_seq": to_seq, "count": count, "reason": reason });
                self.tell_where("dropped", &body, position);
            }
            Notice::Error { code, message, retry } => {
                let mut body = fault(error_name(code), message);
                body["code"] = (*code).into();
                if let Some(retry) = retry {
                    body["retryAfter"] = whole_seconds(*retry).into();
                }
                self.tell("error", &body);
            }
            Notice::Expiring { at_ms } => {
                let seconds = at_ms.saturating_sub(clock::now_ms()).div_ceil(1000);
                self.tell("expiring", &json!({ "expires_at": clock::rfc3339(*at_ms), "seconds": seconds }));
            }
        }
    }

    fn gathered(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, position: &dyn Position) -> Option<Packets> {
        if let Some(open) = self.open.take() {
            let mut offset = String::new();
            position.write(&mut offset);
            if self.offset_allowed(&offset) {
                self.packets[open] = packet::with_offset(&self.packets[open], &offset);
            }
        }
        self.bytes = 0;
        (!self.packets.is_empty()).then(|| std::mem::take(&mut self.packets))
    }
}

/// The packets that were made last: all who follow the same room ask for them within moments.
static ENCODED: Encoded = Encoded::new();

/// An event's packet; with the offset of a reader that follows this room alone, or without.
fn remembered(event: &Event, offset: bool) -> Utf8Bytes {
    let messages = ENCODED.of(event, if offset { "socketio with its offset" } else { "socketio" }, || {
        let (name, body) = shape(event);
        let offset = offset.then(|| {
            let mut text = String::new();
            cursor::write(std::iter::once((event.room.name(), event.seq)), &mut text);
            text
        });
        smallvec![Arc::new(Message::new(None, packet::event(name, &body, offset.as_deref()).as_bytes()))]
    });
    // It was written as text, so there is one and it is text.
    messages.first().and_then(|message| message.json().try_into().ok()).unwrap_or(packet::NOOP)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::super::shape::TAKEN;
    use super::*;
    use crate::engine::rooms::Gap;
    use crate::event::{Lane, Parts, RoomKey, RoomName};
    use tidegate_actors::Policy;

    struct At(usize, &'static str);

    impl Position for At {
        fn write(&self, out: &mut String) {
            out.push_str(self.1);
        }

        fn seq_is_cursor(&self) -> bool {
            self.0 == 1
        }

        fn rooms(&self) -> usize {
            self.0
        }
    }

    fn event(room: &RoomKey, seq: u64) -> Arc<Event> {
        event_of("alert", room, seq)
    }

    fn event_of(kind: &str, room: &RoomKey, seq: u64) -> Arc<Event> {
        let parts = Parts {
            seq,
            arrived_ms: 0,
            timestamp_ms: 0,
            priority: Lane::Normal,
            kind,
            key: None,
            id: None,
            change: false,
            data: b"{}",
        };
        Arc::new(Event::new(room, &parts))
    }

    fn room() -> RoomKey {
        RoomKey::new(RoomName::parse("well:A").unwrap(), Policy::default())
    }

    fn sio(offsets: bool) -> Sio {
        Sio::new("40{}".into(), offsets, 100, "alice")
    }

    /// The last argument of each packet, if it is an offset.
    fn offsets(packets: &Packets) -> Vec<Option<String>> {
        let lists = packets.iter().filter_map(|packet| packet.strip_prefix("42"));
        let lists = lists.map(|list| serde_json::from_str::<Vec<Value>>(list).unwrap());
        lists.map(|list| list.get(2).map(|offset| offset.as_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn all_readers_of_an_event_share_its_bytes() {
        let (room, mut one, mut other) = (room(), sio(true), sio(true));
        let event = event(&room, 5);
        for sio in [&mut one, &mut other] {
            sio.event(&event, &At(1, "5"));
        }
        let (one, other) = (one.take(&At(1, "")).unwrap(), other.take(&At(1, "")).unwrap());
        assert_eq!(one[1].as_ptr(), other[1].as_ptr());
        assert_eq!(offsets(&one), [Some("well:A=5".to_owned())]);
    }

    #[test]
    fn rooms_of_the_same_name_and_seq_are_not_taken_for_each_other() {
        let (one, other) = (room(), RoomKey::new(RoomName::parse("well:B").unwrap(), Policy::default()));
        let mut sio = sio(false);
        (1..2000).for_each(|seq| [&one, &other].iter().for_each(|room| sio.event(&event(room, seq), &At(2, ""))));
        let packets = sio.take(&At(2, "")).unwrap();
        for (at, packet) in packets.iter().skip(1).enumerate() {
            assert!(packet.contains(if at % 2 == 0 { "\"well_id\":\"A\"" } else { "\"well_id\":\"B\"" }));
        }
    }

    #[test]
    fn an_event_of_a_room_is_not_taken_for_a_word_of_the_transport() {
        let (room, mut sio) = (room(), sio(false));
        TAKEN.iter().zip(1..).for_each(|(kind, seq)| sio.event(&event_of(kind, &room, seq), &At(2, "")));
        for (packet, kind) in sio.take(&At(2, "")).unwrap().iter().skip(1).zip(TAKEN) {
            let (name, body): (String, Value) = serde_json::from_str(packet.strip_prefix("42").unwrap()).unwrap();
            assert_eq!((name.as_str(), &body["event"]), ("event", &json!(kind)));
        }
    }

    #[test]
    fn who_cannot_come_back_gets_one_argument() {
        let mut sio = sio(false);
        sio.notice(&Notice::Welcome { connection: 1, rooms: &[], granted: None }, &At(0, ""));
        sio.event(&event(&room(), 1), &At(1, "1"));
        sio.notice(&Notice::Gap { room: room().name(), gap: Gap { after: 1, first_seq: 3 } }, &At(1, "2"));
        assert_eq!(offsets(&sio.take(&At(1, "2")).unwrap()), [None, None, None]);
    }

    #[test]
    fn of_many_rooms_the_last_event_of_a_write_says_where_the_reader_stands() {
        let (room, mut sio) = (room(), sio(true));
        sio.event(&event(&room, 1), &At(9, "x=1"));
        sio.event(&event(&room, 2), &At(9, "x=2"));
        assert_eq!(offsets(&sio.take(&At(9, "x=2")).unwrap()), [None, Some("x=2".into())]);
        sio.event(&event(&room, 3), &At(9, "x=3"));
        sio.notice(&Notice::Gap { room: room.name(), gap: Gap { after: 3, first_seq: 9 } }, &At(9, "x=8"));
        assert_eq!(
            offsets(&sio.take(&At(9, "x=8")).unwrap()),
            [None, Some("x=8".into())],
            "a gap is not stepped over untold"
        );
    }

    #[test]
    fn an_offset_that_is_too_long_ends_the_coming_back() {
        let mut sio = Sio::new("40".into(), true, 4, "alice");
        sio.event(&event(&room(), 1), &At(2, "a=1,b=2"));
        assert!(!sio.can_come_back());
        sio.event(&event(&room(), 2), &At(2, "a=2"));
        assert_eq!(offsets(&sio.take(&At(2, "")).unwrap()), [None, None]);
    }
}
