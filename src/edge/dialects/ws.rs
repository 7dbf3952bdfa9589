//! WebSocket: every event and every notice is one text message; an event's bytes are the ones made when it was numbered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::json;
use crate::engine::connections::dialect::Position;
use crate::engine::connections::{Dialect, Notice};
use crate::event::Event;

/// What goes out at once, each UTF-8 text; most often one message, which needs no allocation.
pub(in crate::edge) type Messages = SmallVec<[Bytes; 1]>;

/// Gathers messages.
#[derive(Debug)]
pub(in crate::edge) struct Ws {
    messages: Messages,
    bytes: usize,
    heartbeat: Duration,
}

impl Ws {
    pub(in crate::edge) fn new(heartbeat: Duration) -> Self {
        Self { messages: Messages::new(), bytes: 0, heartbeat }
    }

    /// Gathers a message of the transport's own.
    pub(in crate::edge) fn say(&mut self, text: String) {
        self.bytes += text.len();
        self.messages.push(text.into());
    }
}

impl Dialect for Ws {
    type Output = Messages;

    fn event(&mut self, event: &Arc<Event>, _: &dyn Position) {
        let json = event.json();
        self.bytes += json.len();
        self.messages.push(json);
    }

    fn notice(&mut self, notice: &Notice<'_>, position: &dyn Position) {
        self.say(json::notice(notice, position, self.heartbeat));
    }

    fn gathered(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, _: &dyn Position) -> Option<Messages> {
        self.bytes = 0;
        (!self.messages.is_empty()).then(|| std::mem::take(&mut self.messages))
    }
}
