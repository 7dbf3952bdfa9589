//! The source of connections: says in `metrics:connections` how many streams the daemon has open, when that changes, at most once in its period. It is told how to count them, and knows no connection itself.
//! Over a restart nothing is kept: the first count is always said.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox};

use crate::engine::rooms::keeper::Nothing;
use crate::engine::rooms::{Publish, Rooms};
use crate::event::{NewEvent, RoomName};

/// Where it is said.
const ROOM: &str = "metrics:connections";

/// How many there are now.
pub type Count = Arc<dyn Fn() -> usize + Send + Sync>;

/// The source.
pub struct ConnectionsSource {
    rooms: Rooms,
    count: Count,
    /// What was said last.
    said: Option<usize>,
}

impl fmt::Debug for ConnectionsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionsSource").field("said", &self.said).finish_non_exhaustive()
    }
}

impl ConnectionsSource {
    /// A source that publishes to these rooms what is counted so.
    #[must_use]
    pub fn new(rooms: Rooms, count: Count) -> Self {
        Self { rooms, count, said: None }
    }
}

impl Handler for ConnectionsSource {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        let now = (self.count)();
        if batch.tick && self.said != Some(now) {
            self.said = Some(now);
            let event = NewEvent::new("connections", Bytes::from(format!("{{\"active\":{now}}}")));
            self.rooms.publish(&RoomName::parse(ROOM)?, Publish::unanswered(smallvec![event]));
        }
        Ok(Flow::Continue)
    }
}
