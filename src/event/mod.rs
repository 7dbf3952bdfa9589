//! Events and their names. In come bytes from anywhere; out go checked, numbered, encoded events that everything else shares. Knows no room, no log, no HTTP.
//!
//! [`name`]: rooms' names and patterns. [`cursor`]: where a reader stands. [`incoming`]: publish bodies; [`lines`]: those that come in steps. [`encode`]: the bytes that all readers of an event share.

pub mod cursor;
pub mod depth;
pub mod encode;
pub mod incoming;
pub mod lines;
pub mod name;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
pub use cursor::Cursor;
pub use name::{NameError, Pattern, RoomName};
use smol_str::SmolStr;
pub use tidegate_actors::Lane;
use tidegate_actors::{OnFull, Policy};

use crate::traces::Trace;

/// What a publisher's acknowledgement means; each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Ack {
    /// The room has numbered it and is delivering it.
    Memory,
    /// The operating system has it: it survives the daemon being killed.
    #[default]
    Logged,
    /// The disk has it: it survives a loss of power.
    Synced,
}

impl Ack {
    /// Reads `memory`, `logged` or `synced`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Memory, Self::Logged, Self::Synced].into_iter().find(|ack| ack.name() == text)
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Logged => "logged",
            Self::Synced => "synced",
        }
    }
}

/// Reads a priority's name.
#[must_use]
pub fn parse_priority(text: &str) -> Option<Lane> {
    Lane::ALL.into_iter().find(|lane| lane.name() == text)
}

/// A checked event that has no number yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What kind of thing happened; 1 to 100 characters.
    pub kind: SmolStr,
    /// What it is about, where newer values replace older ones; 1 to 200 characters.
    pub key: Option<SmolStr>,
    /// By which a repetition is known; 1 to 400 characters.
    pub id: Option<SmolStr>,
    /// How urgent it is.
    pub priority: Lane,
    /// When it happened, in milliseconds since 1970; the time of arrival if the producer does not say.
    pub timestamp_ms: Option<u64>,
    /// JSON as it came in.
    pub data: Bytes,
    /// The trace it belongs to, where one is followed.
    pub trace: Option<Arc<Trace>>,
    /// Where it is a change of the room's state: what the key has from now on.
    pub change: Option<Box<Change>>,
}

/// A change of a room's state. The event's data is the merge patch (RFC 7396) that readers apply to the whole table; this is what it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: SmolStr,
    /// Its whole value as JSON; `None` if it is gone.
    pub value: Option<Bytes>,
}

impl NewEvent {
    /// An ordinary event.
    #[must_use]
    pub fn new(kind: &str, data: Bytes) -> Self {
        Self {
            kind: kind.into(),
            key: None,
            id: None,
            priority: Lane::Normal,
            timestamp_ms: None,
            data,
            trace: None,
            change: None,
        }
    }

    /// Its texts and data, in bytes: what `limits.event_bytes` bounds.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        let text = |text: &Option<SmolStr>| text.as_ref().map_or(0, SmolStr::len);
        self.kind.len() + text(&self.key) + text(&self.id) + self.data.len()
    }

    /// What it weighs while it waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.content_bytes()
    }
}

/// Who a room is, for as long as it is in memory: what its events and its readers' mailboxes hold of it. Cloning is cheap, and equality is identity.
#[derive(Debug, Clone)]
pub struct RoomKey(Arc<Identity>);

#[derive(Debug)]
struct Identity {
    name: RoomName,
    policy: Policy,
    // The beginning of each of the room's events as JSON, up to its seq.
    prefix: Box<str>,
}

impl RoomKey {
    /// A new identity; two of the same name are different rooms.
    #[must_use]
    pub fn new(name: RoomName, policy: Policy) -> Self {
        // Letters of a name need no escape in JSON.
        let prefix = format!("{{\"type\":\"event\",\"room\":\"{name}\",\"seq\":").into_boxed_str();
        Self(Arc::new(Identity { name, policy, prefix }))
    }

    /// The room's name.
    #[must_use]
    pub fn name(&self) -> &RoomName {
        &self.0.name
    }

    /// What happens to its events when a reader has no room for them.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.0.policy
    }

    /// Whether readers that fall behind read on from its history.
    #[must_use]
    pub fn catches_up(&self) -> bool {
        self.0.policy.on_full == OnFull::CatchUp
    }

    fn prefix(&self) -> &str {
        &self.0.prefix
    }
}

impl PartialEq for RoomKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RoomKey {}

impl Hash for RoomKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).addr().hash(state);
    }
}

/// A numbered event, encoded. Shared by the room's tail, the log's queue and all readers' mailboxes.
#[derive(Debug)]
pub struct Event {
    /// Its room.
    pub room: RoomKey,
    /// Its number in the room.
    pub seq: u64,
    /// When it arrived, in milliseconds since 1970; never before the room's previous one.
    pub arrived_ms: u64,
    /// When it was numbered, in microseconds since 1970; 0 if that was before it came from the log.
    pub numbered_us: u64,
    /// When it happened, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// How urgent it is.
    pub priority: Lane,
    /// What kind of thing happened.
    pub kind: SmolStr,
    /// What it is about.
    pub key: Option<SmolStr>,
    /// By which a repetition is known.
    pub id: Option<SmolStr>,
    /// The trace it belongs to, where one is followed.
    pub trace: Option<Arc<Trace>>,
    /// Whether it is a change of the room's state.
    pub change: bool,
    frame: encode::Frame,
}

/// An event's parts as the log or a producer gives them.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "as in Event")]
pub struct Parts<'a> {
    pub seq: u64,
    pub arrived_ms: u64,
    pub timestamp_ms: u64,
    pub priority: Lane,
    pub kind: &'a str,
    pub key: Option<&'a str>,
    pub id: Option<&'a str>,
    pub change: bool,
    pub data: &'a [u8],
}

impl Event {
    /// Encodes an event from its parts.
    #[must_use]
    pub fn new(room: &RoomKey, parts: &Parts<'_>) -> Self {
        Self {
            room: room.clone(),
            seq: parts.seq,
            arrived_ms: parts.arrived_ms,
            numbered_us: 0,
            timestamp_ms: parts.timestamp_ms,
            priority: parts.priority,
            kind: parts.kind.into(),
            key: parts.key.map(SmolStr::from),
            id: parts.id.map(SmolStr::from),
            trace: None,
            change: parts.change,
            frame: encode::Frame::of(room, parts),
        }
    }

    /// Numbers and encodes a new event.
    #[must_use]
    pub fn number(room: &RoomKey, seq: u64, arrived_ms: u64, numbered_us: u64, new: NewEvent) -> Self {
        let parts = Parts {
            seq,
            arrived_ms,
            timestamp_ms: new.timestamp_ms.unwrap_or(arrived_ms),
            priority: new.priority,
            kind: &new.kind,
            key: new.key.as_deref(),
            id: new.id.as_deref(),
            change: new.change.is_some(),
            data: &new.data,
        };
        let frame = encode::Frame::of(room, &parts);
        let (room, timestamp_ms, change) = (room.clone(), parts.timestamp_ms, parts.change);
        let NewEvent { kind, key, id, priority, trace, .. } = new;
        Self { room, seq, arrived_ms, numbered_us, timestamp_ms, priority, kind, key, id, trace, change, frame }
    }

    /// The event as JSON, as it goes over WebSocket and into answers.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.frame.json()
    }

    /// The event as an SSE message whose id is its seq.
    #[must_use]
    pub fn sse(&self) -> &Bytes {
        self.frame.sse()
    }

    /// The event as an SSE message without an id, to be put behind one.
    #[must_use]
    pub fn sse_without_id(&self) -> Bytes {
        self.frame.sse_without_id()
    }

    /// The data alone.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.frame.data()
    }

    /// The data alone, sharing the event's bytes.
    #[must_use]
    pub fn data_bytes(&self) -> Bytes {
        self.frame.data_bytes()
    }

    /// What it weighs in a mailbox and in the tail, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.frame.sse().len()
    }
}
