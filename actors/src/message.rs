//! What a message says about itself: its lane, its stream and position, its weight, and what may be done when there is no room.

use std::hash::Hash;

/// The four lanes, highest first. A mailbox serves a higher lane before a lower one, except that inside one stream the order of
/// positions always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Lane {
    /// Must arrive now.
    Critical = 0,
    /// Before the ordinary.
    High = 1,
    /// The ordinary.
    #[default]
    Normal = 2,
    /// The first to wait and the first to be given up.
    Low = 3,
}

impl Lane {
    /// All lanes, highest first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The lane's index, 0 for the highest.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The lane's name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// What happens to a message when there is no room for it and nothing of a lower lane can make way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnFull {
    /// The fullest stream's waiting messages are given up and the reader reads that stream on from its history, at its own pace.
    #[default]
    CatchUp,
    /// The oldest message of the same lane goes.
    Displace,
    /// The message itself is refused.
    Reject,
    /// The sender waits for room.
    Wait,
}

/// How a message wants to be treated when the mailbox is full or already holds an older value of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Policy {
    /// What to do when there is no room.
    pub on_full: OnFull,
    /// Whether a newer message of the same stream and key makes a waiting older one superfluous.
    pub conflate: bool,
}

impl Policy {
    /// A policy without conflation.
    #[must_use]
    pub const fn on_full(on_full: OnFull) -> Self {
        Self { on_full, conflate: false }
    }
}

/// Something that can wait in a [`Mailbox`](crate::Mailbox).
pub trait Message: Send + 'static {
    /// What names a stream: an ordered sequence of messages, inside which the order of positions is kept. Equality and hash should be
    /// cheap (an id or a pointer), cloning too.
    type Stream: Clone + Eq + Hash + Send + 'static;

    /// The lane it waits in.
    fn lane(&self) -> Lane {
        Lane::Normal
    }

    /// The stream it belongs to; `None` for a message that stands alone.
    fn stream(&self) -> Option<&Self::Stream> {
        None
    }

    /// Its number in its stream: strictly increasing from one push to the next. Unused without a stream.
    fn position(&self) -> u64 {
        0
    }

    /// What it weighs against the mailbox's bound in bytes.
    fn bytes(&self) -> usize {
        0
    }

    /// What to do when there is no room.
    fn policy(&self) -> Policy {
        Policy::on_full(OnFull::Reject)
    }

    /// The key by which newer messages make older ones of the same stream superfluous, where the policy says so.
    fn key(&self) -> Option<&[u8]> {
        None
    }
}
