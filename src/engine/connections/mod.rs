//! Connections: one actor for each client, with one bounded mailbox. In come deliveries from rooms, out goes whatever the client's dialect makes of them. Knows no socket and no wire shape.
//!
//! [`session`] is the actor, run on the light runner by the task that owns the socket; [`Delivery`] what reaches its mailbox; [`dialect`] the seam to the wire; [`contract`] how a client wants to be served, [`thin`] what gives it fewer events; [`supervisor`] lists, kicks and drains all of them.

pub mod contract;
pub mod dialect;
pub mod profile;
pub mod session;
pub mod supervisor;
pub mod thin;

use std::any::Any;
use std::sync::Arc;

use tidegate_actors::{Lane, Mailbox, Message, Policy};
use tokio::sync::oneshot;

use super::rooms::{Joined, Snapshot, Terms};
use crate::event::{Event, RoomKey, RoomName};
use crate::log::LogError;

pub use contract::Contract;
pub use dialect::{Dialect, Notice};
pub use session::Session;

/// What reaches a connection's mailbox. Small, because there are many: what is rare is boxed.
#[derive(Debug)]
pub enum Delivery {
    /// An event of a room it follows.
    Event(Arc<Event>),
    /// The same, for a reader that wants it treated otherwise than its room's namespace and its publisher say.
    EventFor(Arc<Event>, Policy, Lane),
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
    /// The state of a room it follows, where that was not there when it joined.
    Snapshot(RoomKey, Arc<Snapshot>),
    /// Too many waited for the disk, or others had their turn: read on now.
    ReadAgain,
    /// What it has shown ends soon.
    Expiring {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// What it may do has changed: its profile says to what.
    Rights,
    /// Somebody who may has it follow these rooms too.
    Follow(Change, Option<Arc<Contract>>),
    /// Somebody who may has it leave these rooms, also where a pattern of its own names them.
    Unfollow(Change),
    /// A room that it was to follow takes no readers now.
    NotFollowed(RoomName),
    /// Something that its dialect understands is to be said to its client.
    Say(Arc<dyn Any + Send + Sync>),
    /// Its client goes on with another socket; the one that this ends is to be left, if it has not been yet.
    TakenOver(profile::Kill),
    /// An operator wants to know.
    Inspect(oneshot::Sender<session::Seen>),
    /// The daemon ends the connection.
    Close(Closing),
}

/// A change of what a connection follows that does not come from its own client.
#[derive(Debug)]
pub struct Change {
    /// The rooms.
    pub rooms: Vec<RoomName>,
    /// What its dialect says of it, when it holds.
    pub say: Arc<dyn Any + Send + Sync>,
    /// Told when it holds.
    pub done: oneshot::Sender<()>,
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
    /// It could not keep up, and asked to be sent away then.
    TooSlow,
    /// What it had shown has ended.
    TokenExpired,
    /// What it had shown was taken back.
    TokenRevoked,
    /// Its client goes on with another socket.
    TakenOver,
}

impl Closing {
    /// A code for programs, and words for people.
    #[must_use]
    pub const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Stopping => ("stream_unavailable", "the daemon is stopping; come back with your cursor"),
            Self::Kicked => ("kicked", "the connection was ended by an operator"),
            Self::RoomFailed => ("room_failed", "a room failed; come back with your cursor"),
            Self::TooSlow => {
                ("too_slow", "the client did not keep up, and asked for on_slow=disconnect; come back with your cursor")
            }
            Self::TokenExpired => ("token_expired", "the token has ended; come back with a new one and your cursor"),
            Self::TokenRevoked => ("token_revoked", "the credential does not hold any more"),
            Self::TakenOver => ("taken_over", "the client goes on with another connection"),
        }
    }
}

impl Delivery {
    /// Tells a reader that follows by pattern of a room it has joined.
    pub(super) fn joined(mailbox: &Mailbox<Self>, joined: Joined) {
        Self::control(mailbox, Control::Joined(joined));
    }

    /// An event for a reader with terms of its own, or with the room's.
    pub(super) fn of(event: &Arc<Event>, terms: &Terms) -> Self {
        let urgent = terms.urgent.is_some_and(|urgent| urgent.is(event));
        match terms.policy {
            None if !urgent => Self::Event(Arc::clone(event)),
            policy => {
                let lane = if urgent { Lane::Critical } else { event.priority };
                Self::EventFor(Arc::clone(event), policy.unwrap_or_else(|| event.room.policy()), lane)
            }
        }
    }

    /// Gives a reader a room's state that was not there when it joined.
    pub(super) fn snapshot(mailbox: &Mailbox<Self>, room: RoomKey, snapshot: Arc<Snapshot>) {
        Self::control(mailbox, Control::Snapshot(room, snapshot));
    }

    /// The event, if it is one.
    fn event(&self) -> Option<&Arc<Event>> {
        match self {
            Self::Event(event) | Self::EventFor(event, ..) => Some(event),
            Self::Control(_) => None,
        }
    }

    /// Sends a connection what is no event.
    pub fn control(mailbox: &Mailbox<Self>, control: Control) {
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
            Self::EventFor(_, _, lane) => *lane,
            Self::Control(_) => Lane::Critical,
        }
    }

    fn stream(&self) -> Option<&RoomKey> {
        self.event().map(|event| &event.room)
    }

    fn position(&self) -> u64 {
        self.event().map_or(0, |event| event.seq)
    }

    fn bytes(&self) -> usize {
        self.event().map_or(0, |event| event.bytes())
    }

    fn policy(&self) -> Policy {
        match self {
            Self::Event(event) => event.room.policy(),
            // A change is applied to those before it, so none may be left out in its favour.
            Self::EventFor(event, policy, _) if event.change => Policy { conflate: false, ..*policy },
            Self::EventFor(_, policy, _) => *policy,
            Self::Control(_) => Policy::default(),
        }
    }

    fn key(&self) -> Option<&[u8]> {
        // A change is applied to those before it, so it does not take their place.
        self.event().filter(|event| !event.change).and_then(|event| Some(event.key.as_ref()?.as_bytes()))
    }
}
