//! Keeps rooms in order: asks idle ones to retire, applies retention to the tails of quiet ones. One actor, woken by its period.

use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox, Message};

use super::Rooms;
use super::room::Order;
use crate::clock;

/// The keeper gets no messages, only ticks.
#[derive(Debug)]
pub enum Nothing {}

impl Message for Nothing {
    type Stream = ();
}

/// The actor.
#[derive(Debug)]
pub struct RoomsKeeper(Rooms);

impl RoomsKeeper {
    /// A keeper of these rooms.
    #[must_use]
    pub fn new(rooms: Rooms) -> Self {
        Self(rooms)
    }
}

impl Handler for RoomsKeeper {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        if batch.tick {
            let now_ms = clock::now_ms();
            for (number, room) in self.0.all().into_iter().enumerate() {
                room.trim_tail(now_ms, self.0.tails_bytes_max());
                if room.may_retire(now_ms) {
                    // A room too busy to take this is not idle.
                    let _ = room.mailbox().push(Order::Retire);
                }
                if number % 1024 == 1023 {
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(Flow::Continue)
    }
}
