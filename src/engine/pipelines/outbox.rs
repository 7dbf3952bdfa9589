//! How a pipeline's events get to their rooms: in the order in which they came out, room by room, and until each room has numbered them and handed them to the log. Before that the pipeline
//! takes no further step, so that of a step that has a successor in the journal everything is in the log.
//!
//! Bound: the outputs of one step. Who waits: the pipeline, which then falls behind its rooms; nothing is shed.

use std::time::Duration;

use indexmap::IndexMap;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::engine::rooms::{Publish, PublishError, Rooms};
use crate::event::{Ack, NewEvent, RoomName};
use crate::pipelines::Output;

/// How long the rooms are waited for before the actor looks around; it comes back to them.
const WAIT: Duration = Duration::from_millis(500);

/// Events on their way to their rooms.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    rooms: IndexMap<RoomName, Vec<NewEvent>, ahash::RandomState>,
}

/// What came of a try.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Events that are in their rooms now.
    pub(super) events: u64,
    /// Events that no room can take, and why.
    pub(super) lost: Vec<(RoomName, u64, PublishError)>,
    /// Why some have to be tried again.
    pub(super) again: Option<PublishError>,
}

impl Outbox {
    /// The outputs of a step, each with an id by which it is known whether it is there already.
    pub(super) fn of(outputs: Vec<Output>, id: impl Fn(usize) -> String) -> Self {
        let mut rooms: IndexMap<RoomName, Vec<NewEvent>, ahash::RandomState> = IndexMap::default();
        for (at, Output { room, mut event }) in outputs.into_iter().enumerate() {
            event.id = Some(id(at).into());
            rooms.entry(room).or_default().push(event);
        }
        Self { rooms }
    }

    /// Whether everything is where it belongs.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// The rooms, and what is to go there.
    pub(super) fn rooms_mut(&mut self) -> impl Iterator<Item = (&RoomName, &mut Vec<NewEvent>)> {
        self.rooms.iter_mut()
    }

    /// Publishes what is left, and waits for the rooms' answers, not for ever.
    pub(super) async fn send(&mut self, rooms: &Rooms) -> Sent {
        let mut sent = Sent::default();
        let mut waiting = Vec::with_capacity(self.rooms.len());
        for (room, events) in &self.rooms {
            if events.is_empty() {
                continue;
            }
            let (publish, receipt) = Publish::new(SmallVec::from_vec(events.clone()), Ack::Memory);
            rooms.publish(room, publish);
            waiting.push((room.clone(), receipt));
        }
        let deadline = Instant::now() + WAIT;
        let mut done = Vec::with_capacity(waiting.len());
        for (room, receipt) in waiting {
            let answer = tokio::time::timeout_at(deadline, receipt).await;
            match answer {
                Ok(Ok(Ok(_))) => done.push((room, None)),
                // No place for it, and there will be none.
                Ok(Ok(Err(error @ PublishError::TooManyRooms))) => done.push((room, Some(error))),
                Ok(Ok(Err(error))) => sent.again = Some(error),
                // Whether they are published or not: the room knows them by their ids.
                Ok(Err(_)) | Err(_) => sent.again = Some(PublishError::Unacknowledged),
            }
        }
        for (room, lost) in done {
            let events = self.rooms.swap_remove(&room).map_or(0, |events| events.len() as u64);
            match lost {
                None => sent.events += events,
                Some(error) => sent.lost.push((room, events, error)),
            }
        }
        self.rooms.retain(|_, events| !events.is_empty());
        sent
    }
}
