//! The books of a reader: what was due to it and what became of it.
//!
//! While a reader follows a room, the room's numbers go up by one. So what lies between two events that it got was shed, which it was told, or conflated, or not held any more.

use super::{Follow, Session};
use crate::clock;
use crate::engine::connections::Dialect;
use crate::engine::connections::profile::{Books, Totals};
use crate::event::Event;
use crate::metrics::record::TransportMeter;

/// Of so many deliveries one is measured, another for each reader, so that each event is measured at some of many and some of few events at each.
const MEASURED: u64 = 16;

/// What a reader says of itself.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Where it stands.
    pub cursor: String,
    /// Rooms it follows.
    pub following: usize,
    /// All that was due to it so far.
    pub due: u64,
    /// What its rooms have and it has not got.
    pub waiting: u64,
    /// What became of the rest.
    pub totals: Totals,
}

/// Puts an event into the books, and what was skipped before it. Events from before the reader joined are due as they are read.
pub(super) fn settle(follow: &mut Follow, seq: u64, books: &Books, meter: &TransportMeter) {
    begin(follow);
    if seq <= follow.joined_at {
        books.replayed.add(1);
        meter.replayed(1);
        return;
    }
    if seq != follow.settled + 1 {
        let skipped = seq - follow.settled - 1;
        let told = follow.told_ahead.min(skipped);
        follow.told_ahead -= told;
        let rest = skipped - told;
        if rest > 0 && follow.conflates() {
            books.conflated.add(rest);
            meter.conflated(rest);
        } else if rest > 0 {
            books.missed.add(rest);
            meter.missed(rest);
        }
    }
    follow.settled = seq;
}

/// Puts a gap into the books: what is not held any more up to `reached`.
pub(super) fn settle_gap(follow: &mut Follow, reached: u64, books: &Books, meter: &TransportMeter) {
    begin(follow);
    if reached <= follow.settled {
        return;
    }
    let skipped = reached - follow.settled;
    let told = follow.told_ahead.min(skipped);
    follow.told_ahead -= told;
    books.missed.add(skipped - told);
    meter.missed(skipped - told);
    follow.settled = reached;
}

/// A reader that joined before a room's first event: its numbers do not begin with 1.
fn begin(follow: &mut Follow) {
    if follow.joined_at == 0 {
        let before_first = follow.room.created().saturating_sub(1);
        (follow.joined_at, follow.settled) = (before_first, before_first);
    }
}

/// Leaves a room, and puts into the books what the room had for the reader at that moment and it did not get; what was due to it in all comes back.
pub(super) fn leave(mut follow: Follow, subscriber: u64, books: &Books, meter: &TransportMeter) -> u64 {
    let offered = follow.room.leave(subscriber);
    begin(&mut follow);
    let reached = follow.settled + follow.told_ahead;
    // What is held for its time comes to nobody.
    let held = follow.held();
    meter.abandoned(offered.saturating_sub(reached) + held);
    // Read from the history before the room had offered it, which it now will not.
    let early = reached.saturating_sub(offered.max(follow.joined_at));
    books.replayed.add(early);
    meter.replayed(early);
    // What is held may have been replayed, and is taken away again here from all that was due.
    (reached - follow.joined_at - early).wrapping_sub(held)
}

impl<D: Dialect> Session<D> {
    /// What it says of itself when an operator asks.
    pub(super) fn seen(&self) -> Seen {
        let (mut due, mut waiting) = (self.profile.books.replayed.get().wrapping_add(self.left_due), 0);
        for follow in self.follows.values() {
            let (offered, mut joined_at) = (follow.room.offered(), follow.joined_at);
            if joined_at == 0 && offered > 0 {
                joined_at = follow.room.created().saturating_sub(1);
            }
            // What is read from the history may be ahead of what was offered.
            let reached = (follow.settled + follow.told_ahead).max(joined_at);
            due += offered.max(reached).saturating_sub(joined_at);
            waiting += offered.saturating_sub(reached) + follow.held();
        }
        let totals = self.profile.books.totals();
        Seen { cursor: self.cursor(), following: self.follows.len(), due, waiting, totals }
    }

    /// Measures the time from an event's number to its writing, for some of them.
    pub(super) fn note_latency(&self, event: &Event) {
        if !(event.seq.wrapping_add(self.subscriber.id)).is_multiple_of(MEASURED) || event.numbered_us == 0 {
            return;
        }
        let now_us = clock::now_us();
        let took_us = now_us.saturating_sub(event.numbered_us);
        let books = &self.profile.books;
        books.latency_us.set(took_us);
        books.latency_max_us.set(books.latency_max_us.get().max(took_us));
        self.meter.latency(took_us);
    }
}
