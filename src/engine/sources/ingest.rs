//! The source behind every publish call: takes checked events from any transport and hands them to their rooms.
//!
//! Messages: publishes, in the lane of their most urgent event, in order for each room. Bound: `limits.source_messages`, `limits.source_bytes`; what finds no place is refused, and a less urgent publish
//! makes way for a more urgent one, which its publisher is told. Nothing is kept over a restart: whoever waits is told that it failed.

use std::time::Duration;

use smallvec::SmallVec;
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox, Lane, Mailbox, Message, Window};
use tokio::sync::oneshot;

use crate::engine::rooms::{Publish, PublishError, Receipt, Rooms};
use crate::event::{Ack, NewEvent, RoomName};
use crate::log::LogError;
use crate::metrics::record;

/// How much is taken at once.
pub const WINDOW: Window = Window { messages: 1024, bytes: 32 << 20 };

/// A publish on its way to its room.
#[derive(Debug)]
pub struct Order {
    room: RoomName,
    publish: Publish,
    lane: Lane,
}

impl Message for Order {
    type Stream = RoomName;

    fn lane(&self) -> Lane {
        self.lane
    }

    fn stream(&self) -> Option<&RoomName> {
        Some(&self.room)
    }

    fn bytes(&self) -> usize {
        self.publish.bytes()
    }
}

/// The sending side: what the edge holds.
#[derive(Debug, Clone)]
pub struct Ingest {
    mailbox: Mailbox<Order>,
}

impl Ingest {
    /// Publishes through this mailbox.
    #[must_use]
    pub fn new(mailbox: Mailbox<Order>) -> Self {
        Self { mailbox }
    }

    /// Publishes events to a room and waits for its receipt and, where asked, for the log, no longer than `limit`.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub async fn publish(
        &self,
        room: RoomName,
        events: SmallVec<[NewEvent; 1]>,
        ack: Ack,
        limit: Duration,
    ) -> Result<Receipt, PublishError> {
        self.submit(room, events, ack).wait(limit).await
    }

    /// Puts events on their way; what is submitted first comes first in its room.
    #[must_use]
    pub fn submit(&self, room: RoomName, events: SmallVec<[NewEvent; 1]>, ack: Ack) -> Pending {
        let lane = events.iter().map(|event| event.priority).min().unwrap_or_default();
        let (publish, receipt) = Publish::new(events, ack);
        let taken = self.mailbox.push(Order { room, publish, lane }).is_ok();
        Pending(taken.then_some(receipt))
    }
}

/// A publish under way.
#[derive(Debug)]
pub struct Pending(Option<oneshot::Receiver<Result<Receipt, PublishError>>>);

impl Pending {
    /// Waits for the room's receipt and, where asked, for the log, no longer than `limit`.
    ///
    /// # Errors
    /// Why it was refused; nothing is published then, but for [`PublishError::Unacknowledged`] and [`PublishError::Failed`].
    pub async fn wait(self, limit: Duration) -> Result<Receipt, PublishError> {
        let outcome = self.settle(limit).await;
        if let Err(error) = &outcome {
            record::refused(match error {
                PublishError::RoomFull => "room_full",
                PublishError::SourceFull => "source_full",
                PublishError::TooManyRooms => "too_many_rooms",
                PublishError::Log(_) => "log",
                PublishError::Unacknowledged => "unacknowledged",
                PublishError::Failed | PublishError::Unavailable(_) => "failed",
            });
        }
        outcome
    }

    async fn settle(self, limit: Duration) -> Result<Receipt, PublishError> {
        let receipt = self.0.ok_or(PublishError::SourceFull)?;
        let mut receipt = receipt.await.unwrap_or(Err(PublishError::Failed))?;
        if let Some(logged) = receipt.logged.take() {
            match tokio::time::timeout(limit, logged).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(PublishError::Log(LogError::Closed)),
                Err(_) => return Err(PublishError::Unacknowledged),
            }
        }
        Ok(receipt)
    }
}

/// The source at work.
#[derive(Debug)]
pub struct IngestSource(Rooms);

impl IngestSource {
    /// A source that publishes to these rooms.
    #[must_use]
    pub fn new(rooms: Rooms) -> Self {
        Self(rooms)
    }
}

impl Handler for IngestSource {
    type Message = Order;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Order>, _: &mut Inbox<Order>) -> Result<Flow<()>, Fault> {
        for Order { room, publish, .. } in batch.messages.drain(..) {
            self.0.publish(&room, publish);
        }
        Ok(Flow::Continue)
    }
}
