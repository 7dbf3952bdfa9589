//! The journal of a pipeline or a sink: a room of the log that nobody else sees. A pipeline's step is written down before its outputs are published: which events were taken in which order, and how far the clock
//! went. With the state as it was at some step, and the steps since, the same events give the very same state and the very same outputs again; so the outputs themselves are not written twice. A step of a sink
//! without a database is a batch.
//!
//! ```text
//! snapshot 0 … snapshot n-1   the definition, the positions, the state: as it was after all before it; everything published
//! step                        events by room, the clock; its outputs are published after it
//! step                        … everything of the step before is published
//! settled                     as a snapshot without one: everything before is published
//! ```
//! What holds this together: the log keeps its order. Of what a journal entry follows from (its events, the outputs of the steps before), nothing comes into the log after it (`log/writer.rs`
//! keeps entries of a journal in their place among all others). A kill cuts the log off somewhere; wherever that is, the last step alone may lack outputs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tidegate_actors::Policy;

use crate::clock;
use crate::engine::rooms::{Rooms, Sequencer};
use crate::event::{Ack, Event, Lane, NameError, Parts, RoomKey, RoomName};
use crate::log::{LogError, RoomIndex};
use crate::pipelines::Written;

/// How much of a snapshot goes into one entry: what makes a chunk of the log.
const PIECE_BYTES: usize = 3500;
/// Entries read at once.
const READ_ENTRIES: usize = 1000;

/// Events of one room, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The room.
    pub(super) room: String,
    /// The first event's seq.
    pub(super) first: u64,
    /// The last one's.
    pub(super) last: u64,
    /// How many events there are between the two, both counted.
    pub(super) count: u32,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub(super) struct Step {
    /// The events, in the order in which they were taken.
    pub(super) runs: Vec<Run>,
    /// How far the clock went after them, in milliseconds since 1970; 0 if it went with them only.
    pub(super) clock_ms: u64,
    /// Whether the pipeline began again after a pause at that time.
    pub(super) resumed: bool,
    /// When it was written, in milliseconds since 1970.
    pub(super) written_ms: u64,
}

/// A pipeline or a sink as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub(super) struct Kept {
    /// A pipeline's definition.
    pub(super) written: Written,
    /// Its last seq in each room that it follows.
    pub(super) positions: Vec<(String, u64)>,
    /// Its machine's state, or a sink's totals.
    pub(super) state: Vec<u8>,
}

/// What stands in the journal. `base` is where the last whole snapshot begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Snapshot { base: u64, before: u64, piece: u32, pieces: u32, bytes: Vec<u8> },
    Step { base: u64, step: Step },
    Settled { base: u64 },
}

/// What the journal knows.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The pipeline as it was last kept.
    pub(super) kept: Kept,
    /// The steps since, each with its seq in the journal.
    pub(super) steps: Vec<(u64, Step)>,
    /// Whether the last step's outputs are all published.
    pub(super) settled: bool,
}

/// A journal.
#[derive(Debug)]
pub(super) struct Journal {
    key: RoomKey,
    index: Arc<RoomIndex>,
    sequencer: Sequencer,
    arrived_ms: u64,
    /// Where the last snapshot begins, and the one before.
    base: u64,
    before: u64,
}

impl Journal {
    /// The journal of this name.
    pub(super) fn open(rooms: &Rooms, name: &str) -> Result<Self, NameError> {
        let name = RoomName::internal(name)?;
        let index = rooms.log().room_or_create(&name, 0);
        let exact = index.numbered_here() || rooms.log().was_clean();
        let sequencer = Sequencer::after(index.numbered(), rooms.log().floor(), exact);
        let arrived_ms = index.held().map_or(0, |held| held.last_arrived_ms);
        Ok(Self { key: RoomKey::new(name, Policy::default()), index, sequencer, arrived_ms, base: 0, before: 0 })
    }

    /// What stands in it; `None` if there is nothing.
    pub(super) async fn read(&mut self, rooms: &Rooms) -> Result<Option<Found>, JournalError> {
        if self.index.logged() < self.index.numbered() {
            // What was written last is still on its way, and without it this would be the journal of some time ago.
            return Err(LogError::Busy("its journal is on its way to the disk").into());
        }
        let Some(held) = self.index.held() else { return Ok(None) };
        let last = rooms.log().read_wait(&self.key, &self.index, held.last - 1, 1).await?;
        let last = last.first().ok_or(JournalError::Broken("its last entry cannot be found"))?;
        let base = match decode(last)? {
            Entry::Snapshot { base, piece, pieces, .. } if piece + 1 == pieces => base,
            // Cut off while it was written: what came before it holds.
            Entry::Snapshot { before: 0, .. } => return Ok(None),
            Entry::Snapshot { before, .. } => before,
            Entry::Step { base, .. } | Entry::Settled { base } => base,
        };
        let (mut found, mut bytes, mut after) = (Found { settled: true, ..Found::default() }, Vec::new(), base - 1);
        let mut missing = u32::MAX;
        loop {
            let entries = rooms.log().read_wait(&self.key, &self.index, after, READ_ENTRIES).await?;
            let Some(end) = entries.last() else { break };
            after = end.seq;
            for event in &entries {
                match decode(event)? {
                    Entry::Snapshot { base: own, piece, pieces, bytes: more, .. } if own == base => {
                        if (piece == 0) != bytes.is_empty() && piece == 0 {
                            return Err(JournalError::Broken("a snapshot begins twice"));
                        }
                        bytes.extend_from_slice(&more);
                        missing = pieces - piece - 1;
                    }
                    // One that was cut off.
                    Entry::Snapshot { .. } => {}
                    Entry::Step { step, .. } => {
                        found.steps.push((event.seq, step));
                        found.settled = false;
                    }
                    Entry::Settled { .. } => found.settled = true,
                }
            }
        }
        if missing != 0 {
            return Err(JournalError::Broken("a part of its last snapshot is missing"));
        }
        found.kept =
            postcard::from_bytes(&bytes).map_err(|_| JournalError::Broken("its last snapshot cannot be read"))?;
        (self.base, self.before) = (base, base);
        Ok(Some(found))
    }

    /// Writes a step down; its seq.
    pub(super) async fn step(&mut self, rooms: &Rooms, step: Step) -> Result<u64, JournalError> {
        let entry = Entry::Step { base: self.base, step };
        self.append(rooms, &[entry]).await
    }

    /// Writes down that everything is published.
    pub(super) async fn settled(&mut self, rooms: &Rooms) -> Result<(), JournalError> {
        let entry = Entry::Settled { base: self.base };
        self.append(rooms, &[entry]).await.map(drop)
    }

    /// Writes the pipeline down as it is; how many bytes that are. What came before the snapshot before this one is not needed any more.
    pub(super) async fn snapshot(&mut self, rooms: &Rooms, kept: &Kept) -> Result<usize, JournalError> {
        let bytes = postcard::to_allocvec(kept).map_err(|_| JournalError::Broken("the state cannot be written"))?;
        let base = self.sequencer.next();
        let pieces = u32::try_from(bytes.len().div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX).max(1);
        let before = self.base;
        let pieces_of = bytes.chunks(PIECE_BYTES).zip(0..);
        let entries: Vec<Entry> = pieces_of
            .map(|(bytes, piece)| Entry::Snapshot { base, before, piece, pieces, bytes: bytes.to_vec() })
            .collect();
        self.append(rooms, &entries).await?;
        (self.base, self.before) = (base, before);
        // This one may not be on the disk yet; the one before is, or what it stood on.
        self.index.release(before);
        Ok(bytes.len())
    }

    async fn append(&mut self, rooms: &Rooms, entries: &[Entry]) -> Result<u64, JournalError> {
        let log = rooms.log();
        if let Some(fault) = log.fault() {
            return Err(fault.into());
        }
        let permits = log.permits(entries.len());
        log.reserve(permits).await?;
        self.arrived_ms = clock::now_ms().max(self.arrived_ms);
        let mut last = 0;
        let mut events: SmallVec<[Arc<Event>; 1]> = SmallVec::new();
        for entry in entries {
            let data = postcard::to_allocvec(entry).unwrap_or_default();
            last = self.sequencer.take(1);
            let parts = Parts {
                seq: last,
                arrived_ms: self.arrived_ms,
                timestamp_ms: self.arrived_ms,
                priority: Lane::Normal,
                kind: "journal",
                key: None,
                id: None,
                change: false,
                data: &data,
            };
            events.push(Arc::new(Event::new(&self.key, &parts)));
        }
        self.index.begin(events.first().map_or(last, |event| event.seq));
        self.index.note_numbered(last);
        let _ = log.append_reserved(&self.index, events, Ack::Memory, permits);
        Ok(last)
    }
}

/// Enters an event into the runs of a step.
pub(super) fn note(runs: &mut Vec<Run>, event: &Event, whole: bool) {
    let room = event.room.name().as_str();
    match runs.last_mut() {
        Some(run) if run.room == room && whole => {
            run.last = event.seq;
            run.count += 1;
        }
        _ => runs.push(Run { room: room.to_owned(), first: event.seq, last: event.seq, count: 1 }),
    }
}

fn decode(event: &Event) -> Result<Entry, JournalError> {
    postcard::from_bytes(event.data()).map_err(|_| JournalError::Broken("an entry cannot be read"))
}

/// What is wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("its journal is broken: {0}")]
    Broken(&'static str),
}
