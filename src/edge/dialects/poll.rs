//! Long-poll: events and notices as two JSON arrays, and the cursor to go on from.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::json;
use crate::engine::connections::dialect::Position;
use crate::engine::connections::{Dialect, Notice};
use crate::event::Event;

/// Gathers one answer.
#[derive(Debug, Default)]
pub(in crate::edge) struct Poll {
    events: BytesMut,
    notices: BytesMut,
    /// There is no answer before the reader stands somewhere else: it would be asked for the same again.
    not_at: Option<String>,
}

fn append(list: &mut BytesMut, item: &[u8]) {
    if !list.is_empty() {
        list.put_u8(b',');
    }
    list.put_slice(item);
}

impl Poll {
    /// Has it wait until the reader stands somewhere else.
    pub(in crate::edge) fn not_at(&mut self, cursor: String) {
        self.not_at = Some(cursor);
    }

    /// The answer, also if nothing was gathered.
    pub(in crate::edge) fn answer(&mut self, cursor: &str) -> Bytes {
        let mut body = BytesMut::with_capacity(self.events.len() + self.notices.len() + cursor.len() + 50);
        body.put_slice(b"{\"events\":[");
        body.put_slice(&self.events);
        body.put_slice(b"],\"notices\":[");
        body.put_slice(&self.notices);
        body.put_slice(b"],\"cursor\":\"");
        body.put_slice(cursor.as_bytes());
        body.put_slice(b"\"}");
        (self.events, self.notices) = (BytesMut::new(), BytesMut::new());
        body.freeze()
    }
}

impl Dialect for Poll {
    type Output = Bytes;

    fn event(&mut self, event: &Arc<Event>, _: &dyn Position) {
        // A change of a room's state is a notice, as everywhere.
        let list = if event.change { &mut self.notices } else { &mut self.events };
        append(list, &event.json());
    }

    fn notice(&mut self, notice: &Notice<'_>, position: &dyn Position) {
        // An answer has its cursor beside it, and ends too soon for a heartbeat.
        if !matches!(notice, Notice::Welcome { .. } | Notice::Heartbeat) {
            append(&mut self.notices, json::notice(notice, position, Duration::ZERO).as_bytes());
        }
    }

    fn gathered(&self) -> usize {
        self.events.len() + self.notices.len()
    }

    fn take(&mut self, position: &dyn Position) -> Option<Bytes> {
        if self.gathered() == 0 {
            return None;
        }
        let mut cursor = String::new();
        position.write(&mut cursor);
        if self.not_at.as_ref() == Some(&cursor) {
            return None;
        }
        Some(self.answer(&cursor))
    }
}
