//! Where a room's numbers come from. Alone, that is the room itself; where several nodes share a room, its numbers will come from what joins them, and this is the place for it.
//!
//! A room's first number is its creation time in microseconds since 1970 and each next one is one more. So numbers never come back, not even when the log was deleted or its last unsynced part was lost.

use crate::clock;

/// Numbers a room's events.
#[derive(Debug)]
pub struct Sequencer {
    next: u64,
}

impl Sequencer {
    /// Goes on after `last`, the highest number known to be given out (0 for a new room). After a stop that was not clean there may have been higher ones, and the clock is above them all.
    #[must_use]
    pub fn after(last: u64, floor: u64, clean: bool) -> Self {
        let now = clock::now_us();
        let next = match (last, clean) {
            (0, _) => now.max(floor + 1),
            (last, true) => last + 1,
            (last, false) => now.max(last + 1),
        };
        Self { next }
    }

    /// The number that is given out next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes so many numbers and returns the first.
    pub fn take(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_room_begins_at_the_clock_and_counts_by_one() {
        let before = clock::now_us();
        let mut sequencer = Sequencer::after(0, 0, true);
        let first = sequencer.take(2);
        assert!(first >= before && first <= clock::now_us());
        assert_eq!(sequencer.take(1), first + 2);
    }

    #[test]
    fn numbers_never_come_back() {
        assert_eq!(Sequencer::after(7, 0, true).take(1), 8);
        assert!(Sequencer::after(7, 0, false).take(1) > 1_000_000, "what was given out and lost lies below the clock");
        let future = u64::MAX / 2;
        assert_eq!(
            Sequencer::after(future, 0, false).take(1),
            future + 1,
            "a clock that went back does not take numbers back"
        );
        assert_eq!(Sequencer::after(0, future, true).take(1), future + 1);
    }
}
