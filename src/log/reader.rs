//! The log's readers: a few OS threads that read replays from the disk, in steps, so that none holds up another.
//!
//! Bound: [`QUEUE`] requests wait; who asks beyond that is refused and asks again. Each request is bounded in events, bytes and chunks, and answered by a callback, which for a connection puts
//! the answer into its mailbox. What was decoded stays for others who come for it ([`super::cache`]); whoever finds its next events there asks no thread.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::cache::Run;
use super::chunk::Section;
use super::generation::Generation;
use super::index::{Place, RoomIndex};
use super::{LogError, Shared};
use crate::event::{Event, RoomKey};
use crate::metrics::record;

/// Requests that may wait. One connection has at most one out.
const QUEUE: usize = 8192;
/// Chunks that one request opens at most, so that a room with an event in each does not hold up the others.
const CHUNKS: usize = 64;
/// How often the index is asked again where what it said has moved meanwhile.
const ASKED_AGAIN: usize = 3;
/// How much these threads give way to those that deliver what happens now: by the scheduler's weights, of a core that both want they get about a quarter.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

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
    give_way();
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

/// Has the calling thread give way to those that deliver what happens now.
fn give_way() {
    // Elsewhere this would be the whole process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "log: a reader's thread keeps its priority");
    }
}

/// What has been gathered for one answer.
struct Gathered {
    events: Vec<Arc<Event>>,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
}

impl Gathered {
    fn new(events_max: usize, bytes_max: usize) -> Self {
        Self { events: Vec::new(), bytes: 0, events_max, bytes_max }
    }

    fn is_full(&self) -> bool {
        self.events.len() >= self.events_max || (self.bytes >= self.bytes_max && !self.events.is_empty())
    }

    /// Takes what lies after `after`, as much as there is place for.
    fn take(&mut self, run: &[Arc<Event>], after: u64) {
        let from = run.partition_point(|event| event.seq <= after);
        for event in &run[from..] {
            if self.is_full() {
                break;
            }
            self.bytes += event.bytes();
            self.events.push(Arc::clone(event));
        }
    }
}

/// Where a reader that has everything up to `after` goes on: retention by count cuts inside a section.
fn begin(index: &RoomIndex, after: u64) -> u64 {
    index.first_after(after).map_or(after, |first| first - 1)
}

/// The events after `after`, oldest first, as far as they were read lately; `None` if the first of them was not.
pub(super) fn read_held(
    shared: &Shared,
    key: &RoomKey,
    index: &RoomIndex,
    after: u64,
    events_max: usize,
    bytes_max: usize,
) -> Option<Vec<Arc<Event>>> {
    if !shared.cache.holds() {
        return None;
    }
    let after = begin(index, after);
    let mut gathered = Gathered::new(events_max, bytes_max);
    for place in index.places_after(after, events_max) {
        if gathered.is_full() || shared.generation(place.generation).is_none() {
            break;
        }
        let Some(run) = shared.cache.get(&place, key) else { break };
        gathered.take(&run.events, after);
    }
    (!gathered.events.is_empty()).then_some(gathered.events)
}

/// Reads the events after `after`, oldest first; at least one if there is any, and not necessarily as many as there are.
pub(super) fn read(
    shared: &Shared,
    key: &RoomKey,
    index: &RoomIndex,
    after: u64,
    events_max: usize,
    bytes_max: usize,
) -> Result<Vec<Arc<Event>>, LogError> {
    for _ in 0..ASKED_AGAIN {
        let mut gathered = Gathered::new(events_max, bytes_max);
        if read_places(shared, key, index, after, &mut gathered, false)? {
            return Ok(gathered.events);
        }
    }
    let mut gathered = Gathered::new(events_max, bytes_max);
    read_places(shared, key, index, after, &mut gathered, true)?;
    Ok(gathered.events)
}

/// Gathers events; `false` if a generation went since the index was asked, before any event was found. What lay there may have been copied, and the index knows where it is now; if
/// it is to be passed over (`anyhow`), what is left begins later, and the reader is told by a gap.
fn read_places(
    shared: &Shared,
    key: &RoomKey,
    index: &RoomIndex,
    after: u64,
    gathered: &mut Gathered,
    anyhow: bool,
) -> Result<bool, LogError> {
    let after = begin(index, after);
    // Several sections of a room may lie in one chunk, where copies were packed or many rooms share it.
    let mut opened = Opened { generation: 0, position: 0, chunk: Vec::new(), count: 0 };
    for place in index.places_after(after, gathered.events_max) {
        if gathered.is_full() || (opened.count >= CHUNKS && !gathered.events.is_empty()) {
            break;
        }
        let run = match shared.generation(place.generation) {
            Some(generation) => match shared.cache.get(&place, key) {
                Some(run) => Some(run),
                None => match opened.run(shared, &generation, &place, key) {
                    Ok(run) => Some(run),
                    // Deleted in this moment.
                    Err(_) if shared.generation(place.generation).is_none() => None,
                    Err(error) => return Err(error),
                },
            },
            None => None,
        };
        match run {
            Some(run) => gathered.take(&run.events, after),
            // What comes behind would be behind a hole.
            None if !gathered.events.is_empty() => break,
            None if anyhow => {}
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// The chunk that was opened last.
struct Opened {
    generation: u32,
    position: u64,
    chunk: Vec<u8>,
    /// How many were opened.
    count: usize,
}

impl Opened {
    /// Decodes the events at a place.
    fn run(&mut self, shared: &Shared, generation: &Generation, place: &Place, key: &RoomKey) -> Result<Run, LogError> {
        if self.chunk.is_empty() || (self.generation, self.position) != (place.generation, place.position) {
            shared.close_for(generation);
            self.chunk = generation.get(place.position)?;
            (self.generation, self.position) = (place.generation, place.position);
            self.count += 1;
        }
        let damaged = |_| LogError::Damaged {
            path: generation.path().to_owned(),
            reason: format!("chunk {} cannot be read", place.position),
        };
        let mut section = Section::at(&self.chunk, place.offset as usize).map_err(damaged)?;
        let mut events = Vec::with_capacity(place.count as usize);
        while let Some(parts) = section.next().map_err(damaged)? {
            events.push(Arc::new(Event::new(key, &parts)));
        }
        let run = Run::new(events);
        shared.cache.put(place, &run);
        // It may have been deleted, and forgotten, meanwhile.
        if shared.generation(place.generation).is_none() {
            shared.cache.forget(place.generation);
        }
        Ok(run)
    }
}
