//! The log's readers: a few OS threads that read replays from the disk, in steps, so that none holds up another.
//!
//! Bound: [`QUEUE`] requests wait; who asks beyond that is refused and asks again. Each request is answered by a callback, which for a connection puts the answer into its mailbox.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::chunk::Section;
use super::index::RoomIndex;
use super::{LogError, Shared};
use crate::event::{Event, RoomKey};
use crate::metrics::record;

/// Requests that may wait. One connection has at most one out.
const QUEUE: usize = 8192;

/// What is done with the events that were read.
pub(super) type Answer = Box<dyn FnOnce(Result<Vec<Arc<Event>>, LogError>) + Send>;

/// A request to read on in a room.
pub struct Read {
    /// Whose events.
    pub key: RoomKey,
    /// Where they lie.
    pub index: Arc<RoomIndex>,
    /// The reader has everything up to here.
    pub after: u64,
    /// How many events to read at most.
    pub events_max: usize,
    /// How many bytes of events to read at most; at least one event is read.
    pub bytes_max: usize,
    /// What to do with the answer; runs on the reader's thread and must not block.
    pub answer: Answer,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read").field("room", self.key.name()).field("after", &self.after).finish_non_exhaustive()
    }
}

/// The sending side of the readers' queue.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    requests: Sender<Read>,
}

impl Readers {
    pub(super) fn start(shared: &Arc<Shared>, threads: usize) -> Result<Self, LogError> {
        let (requests, waiting) = bounded(QUEUE);
        for number in 0..threads.max(1) {
            let (shared, waiting) = (Arc::clone(shared), waiting.clone());
            let thread = std::thread::Builder::new().name(format!("log-reader-{number}"));
            let spawned = thread.spawn(move || work(&shared, &waiting));
            spawned.map_err(|error| LogError::io(shared_path(&requests), &error))?;
        }
        Ok(Self { requests })
    }

    pub(super) fn request(&self, read: Read) -> Result<(), LogError> {
        self.requests.try_send(read).map_err(|error| match error {
            TrySendError::Full(_) => LogError::Busy("too many replays wait for the disk"),
            TrySendError::Disconnected(_) => LogError::Closed,
        })
    }
}

/// A thread that cannot be started has no file to name.
fn shared_path(_: &Sender<Read>) -> &'static std::path::Path {
    std::path::Path::new("a thread for reading")
}

fn work(shared: &Shared, waiting: &Receiver<Read>) {
    while let Ok(request) = waiting.recv() {
        let Read { key, index, after, events_max, bytes_max, answer } = request;
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            read(shared, &key, &index, after, events_max, bytes_max)
        }));
        record::replay(begun.elapsed());
        answer(outcome.unwrap_or_else(|_| {
            Err(LogError::Damaged { path: shared.directory.path().to_owned(), reason: "reading panicked".to_owned() })
        }));
    }
}

/// Reads the events after `after`, oldest first.
pub(super) fn read(
    shared: &Shared,
    key: &RoomKey,
    index: &RoomIndex,
    after: u64,
    events_max: usize,
    bytes_max: usize,
) -> Result<Vec<Arc<Event>>, LogError> {
    let mut events = Vec::new();
    // Retention by count cuts inside a section.
    let after = index.first_after(after).map_or(after, |first| first - 1);
    let mut bytes = 0;
    for place in index.places_after(after, events_max) {
        let Some(generation) = shared.generation(place.generation) else {
            // Deleted since the index was asked: what is left begins later, and the reader is told by a gap.
            continue;
        };
        let chunk = match generation.get(place.position) {
            Ok(chunk) => chunk,
            // Deleted in this moment.
            Err(_) if shared.generation(place.generation).is_none() => continue,
            Err(error) => return Err(error),
        };
        let damaged = |_| LogError::Damaged {
            path: generation.path().to_owned(),
            reason: format!("chunk {} cannot be read", place.position),
        };
        let mut section = Section::at(&chunk, place.offset as usize).map_err(damaged)?;
        while let Some(parts) = section.next().map_err(damaged)? {
            if parts.seq <= after {
                continue;
            }
            let event = Event::new(key, &parts);
            bytes += event.bytes();
            events.push(Arc::new(event));
            if events.len() >= events_max || bytes >= bytes_max {
                return Ok(events);
            }
        }
    }
    Ok(events)
}
