//! The seam to the wire: a dialect turns events and notices into what its transport writes. The engine says what happened, the dialect how it looks.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::rooms::{Gap, Snapshot};
use crate::event::{Event, RoomName};

/// Something a reader is told beside events.
#[derive(Debug, Clone)]
pub enum Notice<'a> {
    /// The stream begins.
    Welcome {
        /// The connection's number.
        connection: u64,
        /// What it follows, as it asked.
        rooms: &'a [String],
        /// How it is served, as JSON, where it asked for something.
        granted: Option<&'a str>,
    },
    /// The stream lives.
    Heartbeat,
    /// A room's state: every change up to a seq is in it.
    Snapshot {
        /// Where.
        room: &'a RoomName,
        /// The state.
        snapshot: &'a Snapshot,
    },
    /// Something is missing.
    Gap {
        /// Where.
        room: &'a RoomName,
        /// From where to where.
        gap: Gap,
    },
    /// The mailbox gave something up.
    Dropped {
        /// Where.
        room: &'a RoomName,
        /// The first.
        from_seq: u64,
        /// The last.
        to_seq: u64,
        /// How many.
        count: u64,
        /// Why, in one word.
        reason: &'static str,
    },
    /// Something is wrong.
    Error {
        /// In one word.
        code: &'static str,
        /// In words.
        message: &'a str,
        /// When to come back or try again, if that is known.
        retry: Option<Duration>,
    },
    /// What the client has shown ends soon.
    Expiring {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
}

impl<'a> Notice<'a> {
    /// Something is wrong.
    #[must_use]
    pub const fn error(code: &'static str, message: &'a str) -> Self {
        Self::Error { code, message, retry: None }
    }
}

/// Where the reader stands, to be written where the dialect needs it.
pub trait Position {
    /// Appends the cursor.
    fn write(&self, out: &mut String);
    /// Whether the cursor is the seq of the event that was just written.
    fn seq_is_cursor(&self) -> bool;
    /// How many rooms the cursor names.
    fn rooms(&self) -> usize;
}

/// How one kind of connection writes. It gathers what it is given until it is asked for it, so that all that waits goes into one write.
pub trait Dialect: Send + 'static {
    /// What goes to the transport at once.
    type Output: Send + 'static;

    /// Gathers an event. `position` is where the reader stands after it.
    fn event(&mut self, event: &Arc<Event>, position: &dyn Position);

    /// Gathers a notice.
    fn notice(&mut self, notice: &Notice<'_>, position: &dyn Position);

    /// How far what is handed out must be apart at least; then events are handed out one by one, and wait meanwhile where all wait that cannot be written.
    fn pace(&self) -> Option<Duration> {
        None
    }

    /// Gathers what somebody who knows this dialect wants said; what it does not understand it passes over.
    fn relay(&mut self, _: &(dyn Any + Send + Sync)) {}

    /// Bytes gathered so far.
    fn gathered(&self) -> usize;

    /// Hands out what was gathered; `None` if nothing was. `position` is where the reader stands after it.
    fn take(&mut self, position: &dyn Position) -> Option<Self::Output>;
}
