//! What a mailbox gave up, exactly: the ledger from which the reader is told.

use std::collections::VecDeque;

use crate::Lane;

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A newer message, or one of a higher lane, took its place.
    Displaced,
    /// There was no room and its policy was to be refused.
    Rejected,
    /// There was no room, the sender waited for it as long as it may, and gave up.
    TimedOut,
}

impl Reason {
    /// The reason in one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Displaced => "displaced",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
        }
    }
}

/// A run of messages of one stream that were given up for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shed<S> {
    /// The stream.
    pub stream: S,
    /// The position of the first.
    pub from: u64,
    /// The position of the last.
    pub to: u64,
    /// How many; less than `to - from + 1` where the ledger was full and runs had to be put together.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// The lane of the last of them.
    pub lane: Lane,
}

/// Runs of given-up messages that the reader has not been told of yet.
///
/// Bound: [`Ledger::RUNS_MAX`] runs. When it is full, a further run is put together with the latest one of the same stream and
/// reason (its range then spans messages that were delivered, its count stays exact); only a stream that has no run yet may exceed the bound.
#[derive(Debug)]
pub(crate) struct Ledger<S> {
    runs: VecDeque<Shed<S>>,
}

impl<S> Default for Ledger<S> {
    fn default() -> Self {
        Self { runs: VecDeque::new() }
    }
}

impl<S: Clone + Eq> Ledger<S> {
    pub(crate) const RUNS_MAX: usize = 64;

    pub(crate) fn note(&mut self, stream: &S, position: u64, lane: Lane, reason: Reason) {
        let full = self.runs.len() >= Self::RUNS_MAX;
        let latest = self.runs.iter_mut().rev().find(|run| run.stream == *stream && run.reason == reason);
        if let Some(run) = latest
            && (run.to + 1 == position || full)
        {
            run.from = run.from.min(position);
            run.to = run.to.max(position);
            run.count += 1;
            run.lane = lane;
            return;
        }
        self.runs.push_back(Shed { stream: stream.clone(), from: position, to: position, count: 1, reason, lane });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn drain_into(&mut self, out: &mut Vec<Shed<S>>) {
        out.extend(self.runs.drain(..));
        self.runs.shrink_to_fit();
    }

    pub(crate) fn forget(&mut self, stream: &S) {
        self.runs.retain(|run| run.stream != *stream);
    }
}
