//! A room's history: what is in memory and what lies in the log as one, where a reader begins in it, and what it misses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::room::Room;
use crate::event::Event;
use crate::log::{LogError, RoomIndex};

/// What one reading for somebody who waits may bring into memory, whatever number of events was asked for.
const WAIT_BYTES: usize = 8 << 20;

/// Where a reader wants to begin in one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what comes next.
    Live,
    /// After this seq.
    After(u64),
    /// With what arrived at or after this time, in milliseconds since 1970.
    Since(u64),
    /// With the newest so many.
    Tail(u64),
}

/// Something is missing between two seqs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Where the reader stood.
    pub after: u64,
    /// The first seq it can have.
    pub first_seq: u64,
}

/// One step of reading a room's history.
#[derive(Debug)]
pub enum Step {
    /// These come next; empty if there is nothing after.
    Events(Vec<Arc<Event>>),
    /// What comes next lies on the disk: ask the log with this index.
    Disk(Arc<RoomIndex>),
}

impl Room {
    /// The first seq after `after` that can be read, if any.
    fn first_after(&self, after: u64) -> Option<u64> {
        let in_log = self.index().and_then(|index| index.first_after(after));
        in_log.or_else(|| self.tail.lock().after(after, 1, usize::MAX).first().map(|event| event.seq))
    }

    /// What a reader that stands at `after` misses, if it misses something: what retention let go, or a seq that was never given out.
    #[must_use]
    pub fn gap(&self, after: u64) -> Option<Gap> {
        let head = self.head();
        if after == head {
            return None;
        }
        if after > head {
            return Some(Gap { after, first_seq: head + 1 });
        }
        let tail = self.tail.lock();
        // Whoever stands right before something that is here misses nothing.
        let in_tail = tail.holds(after) || tail.holds(after + 1);
        let tail_begins = tail.front().map_or(head + 1, |front| front.seq);
        let tail_gone = tail.gone();
        drop(tail);
        if in_tail {
            return None;
        }
        let continues = match self.index() {
            // The log may not have written what the tail begins with; a room's very first events are continued from 0.
            Some(index) => index.continues(after) || (index.held().is_none() && self.begins_after(after, tail_begins)),
            None => after + 1 == tail_begins && tail_gone == after || self.begins_after(after, tail_begins),
        };
        let first_seq = self.first_after(after).unwrap_or(head + 1);
        (!continues).then_some(Gap { after, first_seq })
    }

    /// Whether `after` stands right before everything the room ever had, and all of it is still here.
    fn begins_after(&self, after: u64, first_here: u64) -> bool {
        let created = self.created.load(Ordering::Acquire);
        created == first_here && (after == 0 || after + 1 == created)
    }

    /// The seq after which a reader that wants to begin so has to read, and what it misses.
    #[must_use]
    pub fn begin(&self, start: Start) -> (u64, Option<Gap>) {
        let head = self.head();
        match start {
            Start::Live => (head, None),
            Start::After(after) => {
                let gap = self.gap(after);
                (gap.map_or(after, |gap| gap.first_seq - 1), gap)
            }
            Start::Since(ms) => {
                let in_tail = self.tail.lock().before_time(ms);
                let in_log = || self.index().and_then(|index| index.before_time(ms));
                let in_memory = || self.tail.lock().before_first_since(ms);
                (in_tail.or_else(in_log).or_else(in_memory).unwrap_or(head), None)
            }
            Start::Tail(0) => (head, None),
            Start::Tail(count) => {
                let in_tail = self.tail.lock().before_newest(count);
                // Of what is in the tail only, the log knows nothing.
                let in_log = || {
                    let index = self.index()?;
                    let unlogged = self.tail.lock().count_after(index.logged()) as u64;
                    index.before_newest(count.saturating_sub(unlogged))
                };
                let in_memory = || self.tail.lock().front().map(|front| front.seq - 1);
                (in_tail.or_else(in_log).or_else(in_memory).unwrap_or(head), None)
            }
        }
    }

    /// The next events after `after`, from memory if they are there.
    #[must_use]
    pub fn read(&self, after: u64, events_max: usize, bytes_max: usize) -> Step {
        let tail = self.tail.lock();
        let first_in_tail = tail.front().map(|front| front.seq);
        if first_in_tail.is_none_or(|first| first > after + 1)
            && let Some(index) = self.index()
            && let Some(first_in_log) = index.first_after(after)
            && first_in_tail.is_none_or(|first| first_in_log < first)
        {
            return Step::Disk(Arc::clone(index));
        }
        Step::Events(tail.after(after, events_max, bytes_max))
    }

    /// Reads on, from memory or from the disk, waiting for it; where events are large, fewer than asked for.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub async fn read_wait(&self, after: u64, events_max: usize) -> Result<Vec<Arc<Event>>, LogError> {
        match self.read(after, events_max, WAIT_BYTES) {
            Step::Events(events) => Ok(events),
            Step::Disk(index) => self.log().read_within(self.key(), &index, after, events_max, WAIT_BYTES).await,
        }
    }

    /// The newest events, oldest first, from memory and from the disk.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub async fn newest(&self, count: usize) -> Result<Vec<Arc<Event>>, LogError> {
        let (mut after, _) = self.begin(Start::Tail(count as u64));
        let (head, mut events) = (self.head(), Vec::new());
        while after < head {
            let some = self.read_wait(after, count).await?;
            let Some(last) = some.last() else { break };
            after = last.seq;
            events.extend(some);
        }
        // What has come meanwhile is newer than what was counted.
        events.drain(..events.len().saturating_sub(count));
        Ok(events)
    }

    /// How many events there are after `after`, in memory and in the log.
    #[must_use]
    pub fn count_after(&self, after: u64) -> u64 {
        if self.head() <= after {
            return 0;
        }
        let Some(index) = self.index() else { return self.tail.lock().count_after(after) as u64 };
        let (in_log, last) = index.count_after(after);
        in_log + self.tail.lock().count_after(after.max(last)) as u64
    }

    /// The first seq in memory; one above the head if there is none.
    #[must_use]
    pub fn memory_begins(&self) -> u64 {
        self.tail.lock().front().map_or_else(|| self.head() + 1, |front| front.seq)
    }
}
