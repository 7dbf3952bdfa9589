//! Which rooms each publisher has brought to be, as far as that is limited.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::event::RoomName;

/// Rooms by the subject that brought them to be, since the daemon's start.
#[derive(Debug, Default)]
pub(super) struct Publishers(Mutex<HashMap<SmolStr, HashMap<RoomName, Instant>>>);

/// So long after its first publish a room that is not there has gone, and is not just on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

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
            brought.retain(|room, since| exists(room) || since.elapsed() < ON_ITS_WAY);
        }
        if brought.len() >= allowed && !brought.contains_key(room) {
            return Err(());
        }
        brought.entry(room.clone()).or_insert_with(Instant::now);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_room_too_many_is_refused_until_another_has_gone() {
        let publishers = Publishers::default();
        let room = |name: &str| RoomName::parse(name).unwrap();
        let none = |_: &RoomName| false;
        let ann = SmolStr::new("ann");
        assert!(publishers.may_bring(&ann, &room("a"), 2, none).is_ok());
        assert!(publishers.may_bring(&ann, &room("b"), 2, |_| false).is_ok());
        let there = |there: &RoomName| *there == room("a") || *there == room("b");
        assert!(publishers.may_bring(&ann, &room("c"), 2, there).is_err());
        assert!(publishers.may_bring(&ann, &room("a"), 2, there).is_ok(), "what is there may be published to");
        let none_yet = |_: &RoomName| false;
        assert!(publishers.may_bring(&ann, &room("c"), 2, none_yet).is_err(), "they are on their way");
        tokio::time::advance(ON_ITS_WAY).await;
        let gone = |there: &RoomName| *there == room("a");
        assert!(publishers.may_bring(&ann, &room("c"), 2, gone).is_ok());
    }
}
