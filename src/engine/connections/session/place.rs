//! Where a reader stands, as its dialect may write it down.

use super::super::dialect::Position;
use super::{Follow, Follows};
use crate::event::{RoomKey, cursor};

/// Where a reader stands, borrowed from its session.
pub(super) struct Place<'s> {
    pub(super) follows: &'s Follows,
    pub(super) alone: bool,
    /// Of one room another seq than it has reached: where it stands behind one of several events that go out together.
    pub(super) instead: Option<(&'s RoomKey, u64)>,
}

impl Place<'_> {
    fn cursor_in(&self, follow: &Follow) -> u64 {
        match self.instead {
            Some((room, cursor)) if room == follow.room.key() => cursor,
            _ => follow.cursor(),
        }
    }
}

impl Position for Place<'_> {
    fn write(&self, out: &mut String) {
        match self.follows.values().next() {
            Some(only) if self.alone => out.push_str(itoa::Buffer::new().format(self.cursor_in(only))),
            // No room yet: whatever comes to be later is wanted from its beginning.
            None => out.push('0'),
            _ => cursor::write(self.follows.values().map(|follow| (follow.room.name(), self.cursor_in(follow))), out),
        }
    }

    fn seq_is_cursor(&self) -> bool {
        self.alone && self.instead.is_none()
    }

    fn rooms(&self) -> usize {
        self.follows.len()
    }
}
