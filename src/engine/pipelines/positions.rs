//! Where a pipeline stands, and what may keep it there: what its actor and its recovery share.

use tidegate_actors::Fault;

use crate::engine::journal::JournalError;
use crate::engine::tap::TapError;
use crate::event::{Pattern, RoomName};

/// Why a pipeline cannot go on now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hindrance {
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("{0}")]
    Tap(#[from] TapError),
    #[error("{0}")]
    Reader(Fault),
    #[error("{0}")]
    Definition(String),
}

/// Enters a position.
pub(super) fn advance_to(positions: &mut Vec<(RoomName, u64)>, room: &str, seq: u64) {
    match positions.iter_mut().find(|(name, _)| name.as_str() == room) {
        Some((_, position)) => *position = seq,
        None => positions.extend(RoomName::parse(room).ok().map(|room| (room, seq))),
    }
}

/// Whether one of these patterns means a room.
pub(super) fn wants(patterns: &[Pattern], room: &RoomName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(room))
}
