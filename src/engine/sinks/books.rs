//! What a sink writes down of itself: a journal in the log. Without a database it is the truth: each batch is an entry, and totals and positions are exact whenever the daemon is killed
//! (see [`journal`](crate::engine::journal)). With one the database is, and this says what was last known, while the database is away, and as which log the events come.

use std::time::Duration;

use tokio::time::Instant;

use super::batch::Batch;
use super::status::Shared;
use crate::clock;
use crate::engine::journal::{Journal, JournalError, Kept, Run, Step, note};
use crate::engine::rooms::Rooms;
use crate::event::{NameError, RoomName};
use crate::store::Totals;

/// Steps after which the whole is written down again.
const STEPS: usize = 1000;
/// Or so much time, where there was a step.
const SOON: Duration = Duration::from_secs(30);
/// And in any case, so that it never lies in a generation that is about to go.
const IDLE: Duration = Duration::from_secs(600);
/// What begins a state that this program understands.
const VERSION: u8 = 1;
/// Bytes of a log's id.
const ID_BYTES: usize = 16;

/// Why the books cannot be kept now.
#[derive(Debug, thiserror::Error)]
pub(super) enum BooksError {
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("{0}")]
    Name(#[from] NameError),
}

/// The books of one sink.
#[derive(Debug)]
pub(super) struct Books {
    journal: Journal,
    log_id: [u8; ID_BYTES],
    kept_at: Instant,
    steps: usize,
}

/// What stood in them.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) totals: Totals,
    pub(super) positions: Vec<(RoomName, u64)>,
}

impl Books {
    /// Opens them and reads what stands in them.
    pub(super) async fn open(rooms: &Rooms, sink: &str) -> Result<(Self, Found), BooksError> {
        if let Some(fault) = rooms.log().fault() {
            return Err(JournalError::Log(fault).into());
        }
        let mut journal = Journal::open(rooms, &format!("sink:{sink}"))?;
        let read = match journal.read(rooms).await {
            Err(JournalError::Broken(why)) => {
                tracing::error!(sink, error = why, "sink: its journal is broken; it counts anew what the log holds");
                None
            }
            other => other?,
        };
        let (mut found, mut log_id) = (Found::default(), rand::random());
        if let Some(read) = read {
            if let Some((id, totals)) = decode(&read.kept.state) {
                (log_id, found.totals) = (id, totals);
            }
            let mut positions: indexmap::IndexMap<String, u64> = read.kept.positions.into_iter().collect();
            for run in read.steps.iter().flat_map(|(_, step)| &step.runs) {
                found.totals.messages += u64::from(run.count);
                positions.insert(run.room.clone(), run.last);
            }
            let full = |step: &Step| step.runs.iter().any(|run| run.count > 0);
            found.totals.batches += read.steps.iter().filter(|(_, step)| full(step)).count() as u64;
            found.positions =
                positions.into_iter().filter_map(|(room, seq)| Some((RoomName::parse(&room).ok()?, seq))).collect();
        }
        Ok((Self { journal, log_id, kept_at: Instant::now(), steps: 0 }, found))
    }

    /// As which log this one's events are known to a database: made once by chance, because numbers of two logs say nothing about each other.
    pub(super) fn log_id(&self) -> String {
        self.log_id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Enters a batch.
    pub(super) async fn enter(&mut self, rooms: &Rooms, batch: &Batch) -> Result<(), JournalError> {
        let mut runs = Vec::new();
        for event in &batch.events {
            note(&mut runs, event, true);
        }
        for (room, seq) in &batch.positions {
            let reached = runs.iter().rev().find(|run: &&Run| run.room == room.as_str()).map(|run| run.last);
            if reached != Some(*seq) {
                runs.push(Run { room: room.as_str().to_owned(), first: *seq, last: *seq, count: 0 });
            }
        }
        let step = Step { runs, written_ms: clock::now_ms(), ..Step::default() };
        self.journal.step(rooms, step).await?;
        self.steps += 1;
        Ok(())
    }

    /// Something has changed that is worth being known after a restart.
    pub(super) fn changed(&mut self) {
        self.steps += 1;
    }

    /// Writes everything down.
    pub(super) async fn keep(&mut self, rooms: &Rooms, shared: &Shared) -> Result<(), BooksError> {
        let positions = shared.positions().into_iter().map(|(room, seq)| (room.as_str().to_owned(), seq)).collect();
        let state = encode(self.log_id, shared.totals());
        self.journal.snapshot(rooms, &Kept { positions, state, ..Kept::default() }).await?;
        (self.kept_at, self.steps) = (Instant::now(), 0);
        Ok(())
    }

    /// Writes everything down if it is time.
    pub(super) async fn keep_if_due(&mut self, rooms: &Rooms, shared: &Shared) -> Result<(), BooksError> {
        let since = self.kept_at.elapsed();
        if self.steps >= STEPS || (self.steps > 0 && since >= SOON) || since >= IDLE {
            return self.keep(rooms, shared).await;
        }
        Ok(())
    }
}

fn encode(log_id: [u8; ID_BYTES], totals: Totals) -> Vec<u8> {
    let mut state = vec![VERSION];
    state.extend(log_id);
    for figure in [totals.messages, totals.batches, totals.refused] {
        state.extend(figure.to_le_bytes());
    }
    state
}

fn decode(state: &[u8]) -> Option<([u8; ID_BYTES], Totals)> {
    let (version, rest) = state.split_first()?;
    let (id, rest) = rest.split_first_chunk::<ID_BYTES>()?;
    let (messages, rest) = rest.split_first_chunk::<8>()?;
    let (batches, rest) = rest.split_first_chunk::<8>()?;
    let (refused, _) = rest.split_first_chunk::<8>()?;
    let [messages, batches, refused] = [messages, batches, refused].map(|bytes| u64::from_le_bytes(*bytes));
    (*version == VERSION).then_some((*id, Totals { messages, batches, refused }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_again_and_nothing_else_is() {
        let totals = Totals { messages: 7, batches: u64::MAX, refused: 3 };
        let state = encode([9; ID_BYTES], totals);
        assert_eq!(decode(&state), Some(([9; ID_BYTES], totals)));
        for wrong in [&state[..state.len() - 1], &[], &[VERSION + 1][..]] {
            assert_eq!(decode(wrong), None);
        }
    }
}
