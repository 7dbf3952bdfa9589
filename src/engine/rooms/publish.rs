//! What is published to a room, and what a publisher is answered.

use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::event::{Ack, NewEvent};
use crate::log::LogError;

/// The room's answer to a publish.
#[derive(Debug)]
pub struct Receipt {
    /// Events published.
    pub count: usize,
    /// The first one's seq; that of the first repetition where all were.
    pub first_seq: u64,
    /// The last one's.
    pub last_seq: u64,
    /// Repetitions among what came in.
    pub duplicates: usize,
    /// Which these were, by their places from 0, and the seqs of those that they repeat.
    pub repeated: Vec<(usize, u64)>,
    /// Resolves when the log keeps them as asked; none for [`Ack::Memory`].
    pub logged: Option<oneshot::Receiver<()>>,
}

impl Receipt {
    /// The seq of each event that came in, in order; of a repetition that of the first.
    #[must_use]
    pub fn seqs(&self) -> Vec<u64> {
        let mut repeated = self.repeated.iter().peekable();
        let mut fresh = self.first_seq..;
        let seq_at = |at| match repeated.next_if(|(place, _)| *place == at) {
            Some((_, seq)) => *seq,
            None => fresh.next().unwrap_or(u64::MAX),
        };
        (0..self.count + self.duplicates).map(seq_at).collect()
    }
}

/// Why a publish was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The room has as much waiting as it may.
    #[error("the room cannot take more now")]
    RoomFull,
    /// The source has as much waiting as it may.
    #[error("too much is waiting to be published")]
    SourceFull,
    /// There may be no more rooms in memory.
    #[error("there are as many rooms as there may be (limits.rooms)")]
    TooManyRooms,
    /// The log cannot keep events.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The log did not answer in time; the events may or may not be kept.
    #[error(
        "the log did not acknowledge in time; the events may still be kept, so publish them again with the same ids"
    )]
    Unacknowledged,
    /// The room's actor failed while it had the publish.
    #[error("the room failed; the events may or may not be published")]
    Failed,
    /// Something else, in words.
    #[error("{0}")]
    Unavailable(String),
}

/// Events to be published together.
#[derive(Debug)]
pub struct Publish {
    /// The events.
    pub events: SmallVec<[NewEvent; 1]>,
    /// What the answer should mean.
    pub ack: Ack,
    reply: Option<oneshot::Sender<Result<Receipt, PublishError>>>,
    bytes: usize,
}

impl Publish {
    /// A publish and where its receipt arrives.
    #[must_use]
    pub fn new(events: SmallVec<[NewEvent; 1]>, ack: Ack) -> (Self, oneshot::Receiver<Result<Receipt, PublishError>>) {
        let (reply, receipt) = oneshot::channel();
        let bytes = events.iter().map(NewEvent::bytes).sum();
        (Self { events, ack, reply: Some(reply), bytes }, receipt)
    }

    /// A publish that nobody waits for.
    #[must_use]
    pub fn unanswered(events: SmallVec<[NewEvent; 1]>) -> Self {
        let bytes = events.iter().map(NewEvent::bytes).sum();
        Self { events, ack: Ack::Memory, reply: None, bytes }
    }

    /// What it weighs, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Says why it is refused.
    pub fn refuse(mut self, error: PublishError) {
        if let Some(reply) = self.reply.take() {
            // A publisher that has gone needs no answer.
            let _ = reply.send(Err(error));
        }
    }

    pub(super) fn answer(mut self, receipt: Receipt) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Ok(receipt));
        }
    }
}

impl Drop for Publish {
    /// Dropped unanswered: it had to make way for something more urgent, or its actor failed while it had it.
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ =
                reply.send(Err(if std::thread::panicking() { PublishError::Failed } else { PublishError::RoomFull }));
        }
    }
}
