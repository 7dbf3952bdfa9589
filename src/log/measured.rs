//! For those who measure: how events come into chunks and out of them, without the writer's thread and the disk.

use std::sync::Arc;

use smallvec::smallvec;

use super::chunk::{self, Section};
use super::index::{Place, RoomIndex};
use super::writer::{self, Append};
use crate::event::{Ack, Event, RoomKey};

/// A group of publishes of one event each, as the writer takes it.
pub struct Appends(Vec<Append>);

impl std::fmt::Debug for Appends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Appends").field(&self.0.len()).finish()
    }
}

impl Appends {
    /// Events of a room, in the order of their seqs.
    #[must_use]
    pub fn new(room: &Arc<RoomIndex>, events: &[Arc<Event>]) -> Self {
        let append = |event: &Arc<Event>| {
            let (room, events) = (Arc::clone(room), smallvec![Arc::clone(event)]);
            Append { room, events, ack: Ack::Memory, done: None, permits: 1 }
        };
        Self(events.iter().map(append).collect())
    }

    /// Packs them into chunks: each as it is stored, and where in it the runs of the room's events begin.
    #[must_use]
    pub fn pack(&self) -> Vec<(Vec<u8>, Vec<u32>)> {
        let offsets = |places: Vec<(_, Place)>| places.into_iter().map(|(_, place)| place.offset).collect();
        let packed = writer::pack(&self.0, 1, writer::RUN_BYTES_MAX);
        packed.into_iter().map(|(builder, places)| (builder.finish(), offsets(places))).collect()
    }
}

/// The run of a room's events that begins there in a stored chunk, as a reader of the log has it; `None` if it is damaged.
#[must_use]
pub fn unpack(room: &RoomKey, stored: &[u8], offset: u32) -> Option<Vec<Arc<Event>>> {
    let chunk = chunk::open(stored).ok()?;
    let mut section = Section::at(&chunk, offset as usize).ok()?;
    let mut events = Vec::new();
    while let Some(parts) = section.next().ok()? {
        events.push(Arc::new(Event::new(room, &parts)));
    }
    Some(events)
}
