//! A room's newest events in memory, encoded, so that a reconnect storm is served without touching the disk.
//!
//! Bound: the namespace's `tail_events` and `tail_bytes`, and over all rooms `log.tails_bytes`. What the log does not hold yet stays whatever the bounds say: it is nowhere else, and the log's own queue bounds how much that can be.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::Event;

/// The newest events, oldest first.
#[derive(Debug, Default)]
pub struct Tail {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The last seq that was let go, 0 if none.
    gone: u64,
}

impl Tail {
    /// Appends the newest event.
    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.bytes();
        self.events.push_back(event);
    }

    /// Puts older events in front, where the tail is empty.
    pub fn restore(&mut self, events: Vec<Arc<Event>>) {
        if self.events.is_empty() {
            events.into_iter().for_each(|event| self.push(event));
        }
    }

    /// Lets the oldest events go while `over` says so and their seq is at most `up_to`; how many bytes that freed.
    pub fn trim(&mut self, up_to: u64, over: impl Fn(&Self) -> bool) -> usize {
        let before = self.bytes;
        while over(self) {
            let Some(front) = self.events.front().filter(|front| front.seq <= up_to) else { break };
            self.bytes -= front.bytes();
            self.gone = front.seq;
            self.events.pop_front();
        }
        if self.events.capacity() > 64 && self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
        before - self.bytes
    }

    /// How many events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last seq let go, 0 if none.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// The oldest event.
    #[must_use]
    pub fn front(&self) -> Option<&Arc<Event>> {
        self.events.front()
    }

    /// The newest event.
    #[must_use]
    pub fn back(&self) -> Option<&Arc<Event>> {
        self.events.back()
    }

    /// The events after `after`, at most so many and so heavy, at least one if there is any.
    #[must_use]
    pub fn after(&self, after: u64, events_max: usize, bytes_max: usize) -> Vec<Arc<Event>> {
        let from = self.events.partition_point(|event| event.seq <= after);
        let mut bytes = 0;
        let fitting = self.events.range(from..).take(events_max).take_while(|event| {
            let first = bytes == 0;
            bytes += event.bytes();
            first || bytes <= bytes_max
        });
        fitting.cloned().collect()
    }

    /// How many events after `after` are here.
    #[must_use]
    pub fn count_after(&self, after: u64) -> usize {
        self.events.len() - self.events.partition_point(|event| event.seq <= after)
    }

    /// Whether this very seq is here.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.events.binary_search_by_key(&seq, |event| event.seq).is_ok()
    }

    /// The seq before the newest `count` events, if the tail has so many.
    #[must_use]
    pub fn before_newest(&self, count: u64) -> Option<u64> {
        let count = usize::try_from(count).ok()?;
        let at = self.events.len().checked_sub(count)?;
        self.events.get(at).map(|event| event.seq - 1)
    }

    /// The seq before the first event here that arrived at `ms` or later.
    #[must_use]
    pub fn before_first_since(&self, ms: u64) -> Option<u64> {
        let at = self.events.partition_point(|event| event.arrived_ms < ms);
        self.events.get(at).map(|event| event.seq - 1)
    }

    /// The seq before the first event that arrived at `ms` or later, if the tail reaches back before that time.
    #[must_use]
    pub fn before_time(&self, ms: u64) -> Option<u64> {
        self.events.front().filter(|front| front.arrived_ms < ms)?;
        let at = self.events.partition_point(|event| event.arrived_ms < ms);
        // Not the first, so there is one before it.
        self.events.get(at.checked_sub(1)?).map(|event| event.seq)
    }
}
