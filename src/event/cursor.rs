//! Where a reader stands: one seq, or one for each of several rooms.

use std::fmt::Write as _;

use super::name::{NameError, RoomName};

/// A cursor as a client hands it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// The seq in the one room of the stream.
    Seq(u64),
    /// Each room's seq, in the order of their names: `dashboard=12,users=34`. Empty for a stream that has no rooms yet.
    Rooms(Vec<(RoomName, u64)>),
}

/// What is wrong with a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// A part is not `room=seq`.
    #[error("a cursor is a seq or room=seq,room=seq; {0:?} is neither")]
    Part(String),
    /// A room's name is wrong.
    #[error("cursor: {0}")]
    Name(#[from] NameError),
}

impl Cursor {
    /// Reads a cursor. Whether its numbers were ever given out is for the rooms to say.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        // A seq has to fit a JavaScript number; what does not was never given out, and is answered with a gap like any other.
        if let Some(seq) = parse_seq(text) {
            return Ok(Self::Seq(seq));
        }
        if text.is_empty() {
            return Ok(Self::Rooms(Vec::new()));
        }
        let parts = text.split(',').map(|part| {
            let wrong = || CursorError::Part(part.chars().take(80).collect());
            let (name, seq) = part.split_once('=').ok_or_else(wrong)?;
            Ok((RoomName::parse(name)?, parse_seq(seq).ok_or_else(wrong)?))
        });
        let rooms: Result<_, CursorError> = parts.collect();
        rooms.map(Self::of_rooms)
    }

    /// A cursor of these rooms; of a room that is named twice the first holds.
    #[must_use]
    pub fn of_rooms(mut rooms: Vec<(RoomName, u64)>) -> Self {
        // In order, so that a long one is not searched through for each of many rooms.
        rooms.sort_by(|(one, _), (other, _)| one.cmp(other));
        rooms.dedup_by(|later, first| later.0 == first.0);
        Self::Rooms(rooms)
    }

    /// Where this cursor stands in a room, if it says; `alone` if the room is the stream's only one. 0 stands before everything in every room.
    #[must_use]
    pub fn of(&self, room: &RoomName, alone: bool) -> Option<u64> {
        match self {
            Self::Seq(seq) => (alone || *seq == 0).then_some(*seq),
            Self::Rooms(rooms) => {
                let at = rooms.binary_search_by(|(name, _)| name.cmp(room)).ok()?;
                rooms.get(at).map(|(_, seq)| *seq)
            }
        }
    }
}

fn parse_seq(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Writes `room=seq,room=seq`.
pub fn write<'a>(rooms: impl Iterator<Item = (&'a RoomName, u64)>, out: &mut String) {
    let start = out.len();
    for (name, seq) in rooms {
        if out.len() > start {
            out.push(',');
        }
        // Writing into a String does not fail.
        let _ = write!(out, "{name}={seq}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cursor_of_one_room_is_its_seq() {
        assert_eq!(Cursor::parse("17"), Ok(Cursor::Seq(17)));
        assert_eq!(Cursor::parse("99999999999999999999999"), Ok(Cursor::Seq(u64::MAX)));
    }

    #[test]
    fn a_made_up_cursor_is_told_what_a_cursor_looks_like() {
        for wrong in ["abc", "a=", "a=-1", "=5", "a=1;b=2", "a=1,b", "ä=1", "1.5"] {
            assert!(Cursor::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_of_many_rooms_finds_each_and_of_one_named_twice_the_first() {
        let text: Vec<String> = (0..5000).rev().map(|at| format!("r{at}={at}")).collect();
        let cursor = Cursor::parse(&format!("{},r7=1", text.join(","))).unwrap();
        for at in 0..5000_u64 {
            assert_eq!(cursor.of(&RoomName::parse(&format!("r{at}")).unwrap(), false), Some(at));
        }
        assert_eq!(cursor.of(&RoomName::parse("r").unwrap(), false), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(rooms in proptest::collection::btree_map("[a-zA-Z0-9_.:/@-]{1,20}", any::<u64>(), 0..8)) {
            let rooms: Vec<_> = rooms.into_iter().map(|(name, seq)| (RoomName::parse(&name).unwrap(), seq)).collect();
            let mut text = String::new();
            write(rooms.iter().map(|(name, seq)| (name, *seq)), &mut text);
            prop_assert_eq!(Cursor::parse(&text), Ok(Cursor::Rooms(rooms)));
        }

        #[test]
        fn no_text_makes_the_reading_fail_otherwise_than_by_an_error(text in ".{0,60}") {
            let _ = Cursor::parse(&text);
        }
    }
}
