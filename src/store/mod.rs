//! Stores outside of the log: what sinks write to. In come batches of events, out go verdicts and what was stored, newest first. Knows no actor, no room at work and no HTTP.
//!
//! [`postgres`] is the one there is. Without a database nothing is copied, and the engine reads the same from the log.

pub mod postgres;

use bytes::Bytes;
use smol_str::SmolStr;

use crate::event::{Event, RoomName};
use crate::log::LogError;

/// An event as a store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its room.
    pub room: RoomName,
    /// Its number in the room.
    pub seq: u64,
    /// What kind of thing happened.
    pub kind: SmolStr,
    /// What it is about.
    pub key: Option<SmolStr>,
    /// When it happened, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Its data as JSON. From a database it may be spelled in another way: its fields in another order, without spaces.
    pub data: Bytes,
}

impl Stored {
    /// An event of the log.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            room: event.room.name().clone(),
            seq: event.seq,
            kind: event.kind.clone(),
            key: event.key.clone(),
            timestamp_ms: event.timestamp_ms,
            data: event.data_bytes(),
        }
    }
}

/// What a sink has stored, over all its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Events.
    pub messages: u64,
    /// Batches of which something was stored.
    pub batches: u64,
    /// Events that were refused.
    pub refused: u64,
}

/// An event that a store does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which one of the batch.
    pub at: usize,
    /// The store's code for what is wrong (for a database its SQLSTATE).
    pub code: String,
    /// What is wrong, in its words.
    pub message: String,
}

/// Why something cannot be stored or read now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no sink of this name.
    #[error("there is no sink {0}")]
    NoSink(String),
    /// Its address is not understood.
    #[error("sink.database_url: {0}")]
    Address(String),
    /// The database cannot be reached.
    #[error("the database cannot be reached: {0}")]
    Away(String),
    /// It did not answer in time.
    #[error("the database did not answer within {0:?}")]
    Slow(std::time::Duration),
    /// What it said.
    #[error("the database says: {0}")]
    Database(String),
    /// Its tables are of a later version of the program.
    #[error("the database's tables are of version {0}, which is later than this program knows")]
    Later(i32),
    /// Some events of a batch are not what it takes; nothing was written.
    #[error("{} events are refused", .0.len())]
    Refused(Vec<Refusal>),
    /// The log cannot be read.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The daemon stops.
    #[error("the daemon stops")]
    Stopping,
}
