//! Connections: one actor for each client, with one bounded mailbox. In come deliveries from rooms, out goes whatever the client's dialect makes of them. Knows no socket and no wire shape.
//!
//! [`session`] is the actor, run on the light runner by the task that owns the socket; [`Delivery`] what reaches its mailbox; [`dialect`] the seam to the wire; [`supervisor`] lists, kicks and drains all of them.

pub mod dialect;
pub mod profile;
pub mod session;
pub mod supervisor;

use std::sync::Arc;

use tidegate_actors::{Lane, Mailbox, Message, Policy};
use tokio::sync::oneshot;

use super::rooms::Joined;
use crate::event::{Event, RoomKey};
use crate::log::LogError;

pub use dialect::{Dialect, Notice};
pub use session::Session;

/// What reaches a connection's mailbox. Small, because there are many: what is rare is boxed.
#[derive(Debug)]
pub enum Delivery {
    /// An event of a room it follows.
    Event(Arc<Event>),
    /// Anything else.
    Control(Box<Control>),
}

/// What reaches a connection beside events.
#[derive(Debug)]
pub enum Control {
    /// A room that came to be and matches one of its patterns.
    Joined(Joined),
    /// What it asked the log for.
    Read {
        /// Whose events.
        room: RoomKey,
        /// The room's head when they were asked for: what is not among them up to here is not in the log any more.
        head: u64,
        /// The events, or what is wrong.
        outcome: Result<Vec<Arc<Event>>, LogError>,
    },
    /// Too many waited for the disk: ask again.
    ReadAgain,
    /// What it has shown ends soon.
    Expiring {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// What it may do has changed: its profile says to what.
    Rights,
    /// An operator wants to know.
    Inspect(oneshot::Sender<session::Seen>),
    /// The daemon ends the connection.
    Close(Closing),
}

/// Why the daemon ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The daemon is stopping.
    Stopping,
    /// Somebody asked for it.
    Kicked,
    /// A room it follows failed for good.
    RoomFailed,
    /// What it had shown has ended.
    TokenExpired,
    /// What it had shown was taken back.
    TokenRevoked,
}

impl Closing {
    /// A code for programs, and words for people.
    #[must_use]
    pub const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Stopping => ("stream_unavailable", "the daemon is stopping; come back with your cursor"),
            Self::Kicked => ("kicked", "the connection was ended by an operator"),
            Self::RoomFailed => ("room_failed", "a room failed; come back with your cursor"),
            Self::TokenExpired => ("token_expired", "the token has ended; come back with a new one and your cursor"),
            Self::TokenRevoked => ("token_revoked", "the credential does not hold any more"),
        }
    }
}

impl Delivery {
    /// Tells a reader that follows by pattern of a room it has joined.
    pub(super) fn joined(mailbox: &Mailbox<Self>, joined: Joined) {
        Self::control(mailbox, Control::Joined(joined));
    }

    /// Sends a connection what is no event.
    pub(super) fn control(mailbox: &Mailbox<Self>, control: Control) {
        // Fails only when the reader has gone.
        let _ = mailbox.answer(Self::Control(Box::new(control)));
    }

    /// Ends a connection.
    pub fn close(mailbox: &Mailbox<Self>, closing: Closing) {
        Self::control(mailbox, Control::Close(closing));
    }
}

impl Message for Delivery {
    type Stream = RoomKey;

    fn lane(&self) -> Lane {
        match self {
            Self::Event(event) => event.priority,
            Self::Control(_) => Lane::Critical,
        }
    }

    fn stream(&self) -> Option<&RoomKey> {
        match self {
            Self::Event(event) => Some(&event.room),
            Self::Control(_) => None,
        }
    }

    fn position(&self) -> u64 {
        match self {
            Self::Event(event) => event.seq,
            Self::Control(_) => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.bytes(),
            Self::Control(_) => 0,
        }
    }

    fn policy(&self) -> Policy {
        match self {
            Self::Event(event) => event.room.policy(),
            Self::Control(_) => Policy::default(),
        }
    }

    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Event(event) => event.key.as_ref().map(|key| key.as_bytes()),
            Self::Control(_) => None,
        }
    }
}
