//! Server-Sent Events by the WHATWG standard: an event is an unnamed message, a notice a named one, the `id` is the cursor.
//!
//! On a stream of one named room an event's bytes are the ones made when it was numbered. On a stream of several rooms each reader's cursor is its own, so the id
//! is written behind the shared `data:` line; with more than [`IDS_ROOMS`] rooms only the last event of a write has one, because a client keeps the last id it saw.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::json;
use crate::engine::connections::dialect::Position;
use crate::engine::connections::{Dialect, Notice};
use crate::event::Event;

/// Up to so many rooms every event has its own id.
const IDS_ROOMS: usize = 8;

/// Gathers what goes into one write.
#[derive(Debug)]
pub(in crate::edge) struct Sse {
    /// A single event that needs nothing of its own: its shared bytes, not copied.
    single: Option<Bytes>,
    gathered: BytesMut,
    /// Whether the last event gathered still has no id and no end.
    open: bool,
    heartbeat_ms: u32,
    cursor_max: u32,
    /// Whether its cursor has become too long, and whether the client was told.
    too_long: bool,
    told_too_long: bool,
}

impl Sse {
    /// A dialect that says how often it beats and gives out cursors up to this length.
    pub(in crate::edge) fn new(heartbeat: Duration, cursor_max: usize) -> Self {
        // Small, because there are many; both are bounded by their settings.
        let heartbeat_ms = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX);
        let cursor_max = u32::try_from(cursor_max).unwrap_or(u32::MAX);
        Self {
            single: None,
            gathered: BytesMut::new(),
            open: false,
            heartbeat_ms,
            cursor_max,
            too_long: false,
            told_too_long: false,
        }
    }

    /// Gathers raw bytes.
    pub(in crate::edge) fn raw(&mut self, bytes: &[u8]) {
        self.spill();
        self.gathered.put_slice(bytes);
    }

    /// Puts bytes before everything that is gathered.
    pub(in crate::edge) fn preface(&mut self, bytes: &[u8]) {
        self.spill();
        let rest = std::mem::replace(&mut self.gathered, BytesMut::from(bytes));
        self.gathered.put_slice(&rest);
    }

    fn spill(&mut self) {
        if let Some(single) = self.single.take() {
            self.gathered.put_slice(&single);
        }
    }

    /// Ends the last event, with an id if the cursor is not too long to come back in a header.
    fn close(&mut self, position: &dyn Position) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        self.write_id(position);
        self.gathered.put_u8(b'\n');
    }

    fn write_id(&mut self, position: &dyn Position) {
        let mut cursor = String::new();
        position.write(&mut cursor);
        if cursor.len() <= self.cursor_max as usize {
            self.gathered.put_slice(b"id: ");
            self.gathered.put_slice(cursor.as_bytes());
            self.gathered.put_u8(b'\n');
        } else {
            self.too_long = true;
        }
    }
}

impl Dialect for Sse {
    type Output = Bytes;

    fn event(&mut self, event: &Arc<Event>, position: &dyn Position) {
        if position.seq_is_cursor() {
            if self.gathered.is_empty() && self.single.is_none() {
                self.single = Some(event.sse().clone());
                return;
            }
            self.spill();
            self.gathered.put_slice(event.sse());
            return;
        }
        self.spill();
        if self.open {
            self.open = false;
            self.gathered.put_u8(b'\n');
        }
        let message = event.sse_without_id();
        // Without its empty line, so that the id can follow.
        self.gathered.put_slice(&message[..message.len() - 1]);
        self.open = true;
        if position.rooms() <= IDS_ROOMS {
            self.close(position);
        }
    }

    fn notice(&mut self, notice: &Notice<'_>, position: &dyn Position) {
        self.close(position);
        self.spill();
        self.gathered.put_slice(b"event: ");
        self.gathered.put_slice(json::name(notice).as_bytes());
        self.gathered.put_u8(b'\n');
        // The notices that say where the reader stands also have it as their id, so that a client that breaks off at once resumes there.
        if matches!(notice, Notice::Welcome { .. } | Notice::Heartbeat) {
            self.write_id(position);
        }
        self.gathered.put_slice(b"data: ");
        self.gathered
            .put_slice(json::notice(notice, position, Duration::from_millis(self.heartbeat_ms.into())).as_bytes());
        self.gathered.put_slice(b"\n\n");
    }

    fn gathered(&self) -> usize {
        self.gathered.len() + self.single.as_ref().map_or(0, Bytes::len)
    }

    fn take(&mut self, position: &dyn Position) -> Option<Bytes> {
        self.close(position);
        if self.too_long && !std::mem::replace(&mut self.told_too_long, self.too_long) {
            let message = "the stream follows so many rooms that its cursor is too long for a header (limits.cursor_bytes); after a break it goes on from the last id given";
            self.notice(&Notice::error("cursor_too_long", message), position);
        }
        if let Some(single) = self.single.take() {
            return Some(single);
        }
        if self.gathered.is_empty() {
            return None;
        }
        // Nothing is kept for a next time: an idle connection should cost nothing.
        Some(std::mem::take(&mut self.gathered).freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::event::RoomName;
    use crate::event::{Lane, Parts, RoomKey};
    use tidegate_actors::Policy;

    /// A place in one room, before the event where something earlier is still held.
    struct At {
        seq: u64,
        own: bool,
    }

    impl Position for At {
        fn write(&self, out: &mut String) {
            write!(out, "{}", self.seq).expect("a String takes everything");
        }

        fn seq_is_cursor(&self) -> bool {
            self.own
        }

        fn rooms(&self) -> usize {
            1
        }
    }

    proptest::proptest! {
        #[test]
        fn what_was_written_first_comes_first_whether_or_not_its_id_is_its_own(owns in proptest::collection::vec(proptest::bool::ANY, 1..8)) {
            let mut sse = Sse::new(Duration::from_secs(1), 100);
            for (seq, own) in (1u64..).zip(&owns) {
                let room = RoomKey::new(RoomName::parse("r").unwrap(), Policy::default());
                let parts = Parts { seq, arrived_ms: 0, timestamp_ms: 0, priority: Lane::Normal, kind: "k", key: None, id: None, change: false, data: b"{}" };
                sse.event(&Arc::new(Event::new(&room, &parts)), &At { seq: if *own { seq } else { 0 }, own: *own });
            }
            let written = sse.take(&At { seq: 0, own: false }).unwrap();
            let written = std::str::from_utf8(&written).unwrap();
            let ids: Vec<u64> = written.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect();
            let expected: Vec<u64> = (1u64..).zip(&owns).map(|(seq, own)| if *own { seq } else { 0 }).collect();
            proptest::prop_assert_eq!(ids, expected);
            let rest = sse.take(&At { seq: 0, own: false });
            proptest::prop_assert!(rest.is_none());
        }
    }
}
