//! What is known of a connection from outside while it is at work: who it is, what it follows, and its books. The session writes, the table of connections reads.
//!
//! The books always balance: due = delivered + filtered + conflated + shed + missed + waiting. What is due is what its rooms had for it, what waits is what they have numbered and it has not got.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::task::AtomicWaker;

use parking_lot::Mutex;
use tidegate_actors::Reason;

use crate::auth::Identity;
use crate::event::Pattern;
use crate::limits::StreamPlaces;

/// A count that only the connection's own task writes, so that counting needs no locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it. Only ever called by one thread at a time.
    pub fn add(&self, more: u64) {
        self.0.store(self.get() + more, Ordering::Relaxed);
    }

    /// Replaces it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends a socket that takes nothing: one that waits to be written to would not hear of anything else. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Kill(Arc<(AtomicBool, AtomicWaker)>);

impl Kill {
    /// From now on the socket fails where it would wait to be written to.
    pub fn now(&self) {
        self.0.0.store(true, Ordering::Release);
        self.0.1.wake();
    }

    /// Whether it was told to.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    /// Whether both end the same socket.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it is to end; if not, the task is woken when it is.
    pub fn poll(&self, cx: &std::task::Context<'_>) -> bool {
        self.0.1.register(cx.waker());
        self.0.0.load(Ordering::Acquire)
    }
}

/// What became of the events that were due to a connection.
#[derive(Debug, Default)]
pub struct Books {
    /// Of the history before it joined: read for it so far.
    pub replayed: Count,
    /// Written to its socket.
    pub delivered: Count,
    /// Not wanted by it.
    pub filtered: Count,
    /// Given way to a newer one of the same key.
    pub conflated: Count,
    /// Given up by its mailbox and told, by reason.
    pub shed: [Count; 3],
    /// Not held any more when it came to them, and told.
    pub missed: Count,
    /// Times it fell behind and read on from the history.
    pub catch_ups: Count,
    /// When it last got an event, in milliseconds since 1970.
    pub delivered_at_ms: Count,
    /// From number to socket, in microseconds: the last one measured and the longest.
    pub latency_us: Count,
    /// The longest.
    pub latency_max_us: Count,
}

/// The place of a reason among the counts of what was shed.
const fn place(reason: Reason) -> usize {
    match reason {
        Reason::Displaced => 0,
        Reason::Rejected => 1,
        Reason::TimedOut => 2,
    }
}

/// Reasons in the order of their counts.
pub const REASONS: [Reason; 3] = [Reason::Displaced, Reason::Rejected, Reason::TimedOut];

impl Books {
    /// Counts what was shed.
    pub fn shed(&self, reason: Reason, events: u64) {
        self.shed[place(reason)].add(events);
    }

    /// All that was shed.
    #[must_use]
    pub fn shed_total(&self) -> u64 {
        self.shed.iter().map(Count::get).sum()
    }

    /// What was settled, one way or the other.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            delivered: self.delivered.get(),
            filtered: self.filtered.get(),
            conflated: self.conflated.get(),
            shed: self.shed_total(),
            missed: self.missed.get(),
        }
    }
}

/// What became of events that were due, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in Books")]
pub struct Totals {
    pub delivered: u64,
    pub filtered: u64,
    pub conflated: u64,
    pub shed: u64,
    pub missed: u64,
}

impl Totals {
    /// All of it.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.delivered + self.filtered + self.conflated + self.shed + self.missed
    }
}

/// Who wants to open a connection.
#[derive(Debug)]
pub struct Who {
    /// What it has shown.
    pub identity: Arc<Identity>,
    /// Who the socket leads to, in words.
    pub peer: String,
    /// The address that counts for limits.
    pub ip: Option<IpAddr>,
    /// The places it takes.
    pub places: StreamPlaces,
    /// Ends its socket.
    pub kill: Kill,
}

/// A connection as it is seen from outside.
#[derive(Debug)]
pub struct Profile {
    /// Its number.
    pub id: u64,
    /// How it is connected.
    pub transport: &'static str,
    /// Who the socket leads to.
    pub peer: Box<str>,
    /// The address that counts for limits.
    pub ip: Option<IpAddr>,
    /// Since when, in milliseconds since 1970.
    pub opened_ms: u64,
    /// What became of what was due to it; its own over all the sockets that it has one after the other.
    pub books: Arc<Books>,
    identity: Mutex<Arc<Identity>>,
    patterns: Mutex<Vec<Pattern>>,
    /// The end of a token of which it was warned.
    warned_of_ms: Count,
    /// Ends its socket, if that takes nothing.
    pub kill: Kill,
    places: Mutex<StreamPlaces>,
}

impl Profile {
    /// A connection that follows nothing yet.
    #[must_use]
    pub fn new(id: u64, transport: &'static str, opened_ms: u64, who: Who) -> Self {
        let Who { identity, peer, ip, places, kill } = who;
        let (peer, books, patterns) = (peer.into_boxed_str(), Arc::default(), Mutex::default());
        let (identity, warned_of_ms, places) = (Mutex::new(identity), Count::default(), Mutex::new(places));
        Self { id, transport, peer, ip, opened_ms, books, identity, patterns, warned_of_ms, kill, places }
    }

    /// The same connection on another socket, or on none. The places of the old one are given back.
    pub(super) fn moved(old: &Self, transport: &'static str, who: Who) -> Self {
        drop(std::mem::take(&mut *old.places.lock()));
        let new = Self::new(old.id, transport, old.opened_ms, who);
        *new.patterns.lock() = old.patterns();
        new.warned_of_ms.set(old.warned_of_ms.get());
        Self { books: Arc::clone(&old.books), ..new }
    }

    /// Who it is now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.lock())
    }

    /// It has shown something else, or what it may do has changed.
    pub fn set_identity(&self, identity: Arc<Identity>) {
        *self.identity.lock() = identity;
    }

    /// Notes that it is warned of this end; whether it was not yet.
    pub(super) fn warn_of(&self, at_ms: u64) -> bool {
        let new = self.warned_of_ms.get() != at_ms;
        self.warned_of_ms.set(at_ms);
        new
    }

    /// What it follows, as it asked.
    #[must_use]
    pub fn patterns(&self) -> Vec<Pattern> {
        self.patterns.lock().clone()
    }

    /// Follows something else from now on; whether that is one room by its name.
    pub(super) fn set_patterns(&self, change: impl FnOnce(&mut Vec<Pattern>)) -> bool {
        let mut patterns = self.patterns.lock();
        change(&mut patterns);
        patterns.shrink_to_fit();
        matches!(patterns[..], [Pattern::Room(_)])
    }

    /// Whether it follows this, and by nothing else than what it asked for.
    pub(super) fn wants(&self, wanted: impl Fn(&Pattern) -> bool) -> bool {
        self.patterns.lock().iter().any(wanted)
    }
}
