//! Which rooms each publisher has brought to be, as far as that is limited.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use smol_str::SmolStr;

use crate::event::RoomName;

/// Rooms by the subject that brought them to be, since the daemon's start.
#[derive(Debug, Default)]
pub(super) struct Publishers(Mutex<HashMap<SmolStr, HashSet<RoomName>>>);

impl Publishers {
    /// Notes that a subject publishes to a room; refuses if it would be one more new room than `allowed`.
    pub(super) fn may_bring(
        &self,
        subject: &SmolStr,
        room: &RoomName,
        allowed: usize,
        exists: impl Fn(&RoomName) -> bool,
    ) -> Result<(), ()> {
        if allowed == 0 || exists(room) {
            return Ok(());
        }
        let mut all = self.0.lock();
        let brought = all.entry(subject.clone()).or_default();
        if brought.len() >= allowed {
            // Rooms of which nothing is left do not count any more.
            brought.retain(|room| exists(room));
        }
        if brought.len() >= allowed && !brought.contains(room) {
            return Err(());
        }
        brought.insert(room.clone());
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn one_room_too_many_is_refused_until_another_has_gone() {
        let publishers = Publishers::default();
        let room = |name: &str| RoomName::parse(name).unwrap();
        let none = |_: &RoomName| false;
        let ann = SmolStr::new("ann");
        assert!(publishers.may_bring(&ann, &room("a"), 2, none).is_ok());
        assert!(publishers.may_bring(&ann, &room("b"), 2, |_| false).is_ok());
        let there = |there: &RoomName| *there == room("a") || *there == room("b");
        assert!(publishers.may_bring(&ann, &room("c"), 2, there).is_err());
        assert!(publishers.may_bring(&ann, &room("a"), 2, there).is_ok(), "what is there may be published to");
        let gone = |there: &RoomName| *there == room("a");
        assert!(publishers.may_bring(&ann, &room("c"), 2, gone).is_ok());
    }
}
