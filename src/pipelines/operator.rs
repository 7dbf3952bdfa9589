//! What an operator is: a step that turns events into events, with state of its own and nothing else.
//!
//! An operator must be a function of its settings, its state, the events it is given and the clock it is told, in that order: no time of day, no randomness, no order that depends on
//! addresses. That is what lets a pipeline come to the very same state again after a crash, by taking the same steps.

use std::sync::Arc;

use super::record::{Got, Record};
use super::target::Target;
use super::why::Why;
use crate::event::Pattern;

/// What becomes of an event after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It goes on to the next step, as it is now.
    Pass,
    /// It goes no further.
    Drop,
}

/// An event that could not be worked on.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// At which step, counted from 0.
    pub step: usize,
    /// What it was about, such as a field's name.
    pub field: String,
    /// Why.
    pub why: Why,
    /// The event.
    pub record: Box<Record>,
}

/// An event that left the pipeline.
#[derive(Debug, Clone)]
pub struct Sent {
    /// By which output.
    pub target: Arc<Target>,
    /// The event.
    pub record: Record,
}

/// What a step works with beside the event.
#[derive(Debug)]
pub struct Context<'a> {
    /// The pipeline's clock, in milliseconds since 1970. It never goes back.
    pub now_ms: u64,
    pub(super) step: usize,
    pub(super) emitted: &'a mut Vec<Record>,
    pub(super) sent: &'a mut Vec<Sent>,
    pub(super) rejected: &'a mut Vec<Rejected>,
}

impl Context<'_> {
    /// Sends another event to the next step, before the one that is worked on.
    pub fn emit(&mut self, record: Record) {
        self.emitted.push(record);
    }

    /// Sends an event out of the pipeline.
    pub fn send(&mut self, target: &Arc<Target>, record: Record) {
        self.sent.push(Sent { target: Arc::clone(target), record });
    }

    /// Says that an event cannot be worked on; it is counted and goes to the dead letters. The step that says so then drops it.
    pub fn reject(&mut self, record: &Record, field: impl std::fmt::Display, why: Why) -> Next {
        let (step, field, record) = (self.step, field.to_string(), Box::new(record.clone()));
        self.rejected.push(Rejected { step, field, why, record });
        Next::Drop
    }

    /// Says that a field is not what it should be.
    pub fn reject_field(&mut self, record: &Record, field: &super::field::Field, expected: &'static str) -> Next {
        let why = match record.get(field) {
            Got::Missing => Why::Missing,
            got => Why::Type { expected, found: got.type_name() },
        };
        self.reject(record, field, why)
    }
}

/// State that does not fit the operator it is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state that was kept is not this operator's")]
pub struct BadState;

/// A step that turns events into events.
pub trait Operator: Send + Sync + std::fmt::Debug {
    /// Works on an event.
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next;

    /// The clock has come to a time that it asked for with [`Operator::due_ms`], or further.
    fn clock(&mut self, _: &mut Context<'_>) {}

    /// When it wants to hear of the clock next, in milliseconds since 1970.
    fn due_ms(&self) -> Option<u64> {
        None
    }

    /// The pipeline begins again after a pause in which it saw nothing, which is nobody's silence.
    fn resumed(&mut self, _now_ms: u64) {}

    /// Where it sends events by itself, past the steps behind it.
    fn targets(&self) -> &[Arc<Target>] {
        &[]
    }

    /// Rooms whose events it takes in beside those that come to it through the steps.
    fn beside(&self) -> Option<&Pattern> {
        None
    }

    /// Takes in an event of such a room.
    fn event_beside(&mut self, _: &Record, _: &mut Context<'_>) {}

    /// How many keys it keeps.
    fn keys(&self) -> usize {
        0
    }

    /// Its state, to be kept; empty if it has none.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes the state that was kept.
    ///
    /// # Errors
    /// [`BadState`].
    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        if state.is_empty() { Ok(()) } else { Err(BadState) }
    }
}

/// Writes an operator's state down.
pub fn save<T: serde::Serialize>(state: &T) -> Vec<u8> {
    // Plain data of our own, which can always be written.
    postcard::to_allocvec(state).unwrap_or_default()
}

/// Reads an operator's state.
///
/// # Errors
/// [`BadState`].
pub fn load<T: serde::de::DeserializeOwned>(state: &[u8]) -> Result<T, BadState> {
    postcard::from_bytes(state).map_err(|_| BadState)
}
