//! How a pipeline's events get to their rooms: in the order in which they came out, room by room, and until each room has numbered them and handed them to the log. Before that the pipeline
//! takes no further step, so that of a step that has a successor in the journal everything is in the log.
//!
//! Bound: the outputs of one step, [`TOGETHER`] of them for one room at a time. Who waits: the pipeline, which then falls behind its rooms; nothing is shed.

use std::time::Duration;

use indexmap::IndexMap;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::engine::rooms::{Publish, PublishError, Receipt, Rooms};
use crate::event::{Ack, NewEvent, RoomName};
use crate::pipelines::Output;

/// How long the rooms are waited for before the actor looks around; it comes back to them.
const WAIT: Duration = Duration::from_millis(500);
/// Events that one room is given at once: less than a room remembers the ids of.
const TOGETHER: usize = 1000;

/// Events on their way to their rooms.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    rooms: IndexMap<RoomName, Going, ahash::RandomState>,
}

/// Events on their way to one room.
#[derive(Debug, Default)]
struct Going {
    events: Vec<NewEvent>,
    /// How many of the first are with the room, and where its answer comes: what waits there is not given to it again.
    asked: Option<(usize, oneshot::Receiver<Result<Receipt, PublishError>>)>,
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
        let mut rooms: IndexMap<RoomName, Going, ahash::RandomState> = IndexMap::default();
        for (at, Output { room, mut event }) in outputs.into_iter().enumerate() {
            event.id = Some(id(at).into());
            rooms.entry(room).or_default().events.push(event);
        }
        Self { rooms }
    }

    /// Whether everything is where it belongs.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// The rooms, and what is to go there.
    pub(super) fn rooms_mut(&mut self) -> impl Iterator<Item = (&RoomName, &mut Vec<NewEvent>)> {
        self.rooms.iter_mut().map(|(room, going)| (room, &mut going.events))
    }

    /// Publishes what is left, and waits for the rooms' answers, not for ever.
    pub(super) async fn send(&mut self, rooms: &Rooms) -> Sent {
        let mut sent = Sent::default();
        let deadline = Instant::now() + WAIT;
        loop {
            for (room, going) in &mut self.rooms {
                going.ask(rooms, room);
            }
            let mut again = None;
            for (room, going) in &mut self.rooms {
                match going.answered(deadline).await {
                    Ok(events) => sent.events += events as u64,
                    // No place for it, and there will be none.
                    Err(error @ PublishError::TooManyRooms) => {
                        let events = std::mem::take(&mut going.events).len() as u64;
                        sent.lost.push((room.clone(), events, error));
                    }
                    Err(error) => again = Some(error),
                }
            }
            self.rooms.retain(|_, going| !going.events.is_empty());
            if self.rooms.is_empty() || again.is_some() {
                sent.again = again;
                return sent;
            }
        }
    }
}

impl Going {
    /// Gives the room the next events, if nothing is with it.
    fn ask(&mut self, rooms: &Rooms, room: &RoomName) {
        if self.asked.is_none() && !self.events.is_empty() {
            let some = &self.events[..self.events.len().min(TOGETHER)];
            let (publish, receipt) = Publish::new(SmallVec::from_vec(some.to_vec()), Ack::Memory);
            self.asked = Some((some.len(), receipt));
            rooms.publish(room, publish);
        }
    }

    /// The room's answer, not waited for longer than this: how many events it has now.
    async fn answered(&mut self, deadline: Instant) -> Result<usize, PublishError> {
        let Some((count, receipt)) = &mut self.asked else { return Ok(0) };
        let count = *count;
        // Still on its way: the same answer is waited for the next time.
        let answer = tokio::time::timeout_at(deadline, receipt).await.map_err(|_| PublishError::Unacknowledged)?;
        self.asked = None;
        match answer {
            Ok(Ok(_)) => {
                self.events.drain(..count);
                Ok(count)
            }
            Ok(Err(error)) => Err(error),
            // Its actor failed over them; whether they are there it knows by their ids.
            Err(_) => Err(PublishError::Failed),
        }
    }
}
