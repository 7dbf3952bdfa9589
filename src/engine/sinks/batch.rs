//! What a sink has taken and not stored yet, in the order in which it came. Bound: the actor takes no more once a batch is full, so it is a batch and what one look brings.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Event, RoomName};

/// Something taken.
#[derive(Debug)]
enum Item {
    /// An event to be stored.
    Event(Arc<Event>),
    /// In this room nothing up to here is to be stored.
    Passed(RoomName, u64),
}

/// What waits, and since when.
#[derive(Debug, Default)]
pub(super) struct Pending {
    items: VecDeque<(Instant, Item)>,
    events: usize,
    bytes: usize,
}

/// How large a batch may be, and how long it may be gathered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) wait: Duration,
}

/// Events to be stored together, and where the sink stands once they are.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Arc<Event>>,
    /// Each room once.
    pub(super) positions: Vec<(RoomName, u64)>,
    /// How many items of what waits it is made of.
    items: usize,
}

impl Pending {
    pub(super) fn event(&mut self, event: Arc<Event>) {
        self.events += 1;
        self.bytes += event.bytes();
        self.items.push_back((Instant::now(), Item::Event(event)));
    }

    pub(super) fn passed(&mut self, room: RoomName, seq: u64) {
        self.items.push_back((Instant::now(), Item::Passed(room, seq)));
    }

    /// Whether a batch is full.
    pub(super) fn is_full(&self, size: Size) -> bool {
        self.events >= size.events || self.bytes >= size.bytes
    }

    /// Whether a batch is to be written now.
    pub(super) fn is_due(&self, size: Size) -> bool {
        self.is_full(size) || self.items.front().is_some_and(|(since, _)| since.elapsed() >= size.wait)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next batch; what it is made of stays until it is [done](Self::done).
    pub(super) fn batch(&self, size: Size) -> Batch {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        let mut positions: indexmap::IndexMap<RoomName, u64, ahash::RandomState> = indexmap::IndexMap::default();
        for (_, item) in &self.items {
            if batch.events.len() >= size.events || bytes >= size.bytes {
                break;
            }
            match item {
                Item::Event(event) => {
                    bytes += event.bytes();
                    positions.insert(event.room.name().clone(), event.seq);
                    batch.events.push(Arc::clone(event));
                }
                Item::Passed(room, seq) => {
                    positions.insert(room.clone(), *seq);
                }
            }
            batch.items += 1;
        }
        batch.positions = positions.into_iter().collect();
        batch
    }

    /// A batch is stored.
    pub(super) fn done(&mut self, batch: &Batch) {
        for (_, item) in self.items.drain(..batch.items.min(self.items.len())) {
            if let Item::Event(event) = item {
                self.events -= 1;
                self.bytes -= event.bytes();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::event::{NewEvent, RoomKey};
    use proptest::prelude::*;

    fn event(room: &str, seq: u64) -> Arc<Event> {
        let key = RoomKey::new(RoomName::parse(room).unwrap(), tidegate_actors::Policy::default());
        Arc::new(Event::number(&key, seq, 1, 1, NewEvent::new("k", bytes::Bytes::from_static(b"1"))))
    }

    proptest! {
        /// Whatever comes in and however it is cut into batches: every event is in one batch, in its order, and no position goes before an event that is not stored.
        #[test]
        fn batches_are_what_came_in_its_order(
            rooms in prop::collection::vec((0..3_usize, any::<bool>()), 0..200),
            size in 1..20_usize,
        ) {
            let size = Size { events: size, bytes: usize::MAX, wait: Duration::ZERO };
            let (mut pending, mut heads, mut all) = (Pending::default(), [0_u64; 3], Vec::new());
            for (room, passed) in rooms {
                heads[room] += 1;
                let name = format!("r{room}");
                if passed {
                    pending.passed(RoomName::parse(&name).unwrap(), heads[room]);
                } else {
                    pending.event(event(&name, heads[room]));
                    all.push((name, heads[room]));
                }
            }
            let mut got: Vec<(String, u64)> = Vec::new();
            while !pending.is_empty() {
                let batch = pending.batch(size);
                prop_assert!(batch.events.len() <= size.events);
                got.extend(batch.events.iter().map(|event| (event.room.name().to_string(), event.seq)));
                for (room, seq) in &batch.positions {
                    let before = all.iter().filter(|(name, at)| *name == room.as_str() && at <= seq).count();
                    prop_assert_eq!(got.iter().filter(|(name, _)| *name == room.as_str()).count(), before);
                }
                pending.done(&batch);
            }
            prop_assert_eq!(got, all);
            prop_assert_eq!((pending.events, pending.bytes), (0, 0));
        }
    }
}
