//! The log: what has happened, on the disk. In come numbered events, out go replays, retention's verdicts and an acknowledgement worth what it says. Knows no reader and no HTTP.
//!
//! One writer thread packs what waits into chunks and commits it as a group (`writer`), by a file ahead of the database (`ahead`); chunks lie in generations, each a database of its own
//! (`generation`), which are deleted whole; where a room's events lie is kept in memory (`index`); a few threads read replays (`reader`), of which what was read lately stays in memory
//! (`cache`); the directory is locked and marked (`directory`). All
//! disk work happens on these threads or in [`Log::housekeep`], which must be called from a thread that may block.
//!
//! Begin reading at [`Log::open`], [`Log::append`], [`Log::read`].

mod ahead;
mod cache;
mod chunk;
mod directory;
mod error;
mod generation;
mod index;
mod keeping;
#[doc(hidden)]
pub mod measured;
mod reader;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use tokio::sync::{Semaphore, oneshot};

use ahead::Ahead;
use cache::ReadCache;
use directory::Directory;
pub use error::LogError;
use generation::{Contents, Generation};
use index::Index;
pub use index::{Held, RoomIndex};
pub use reader::Read;
use reader::Readers;
use writer::{Append, Order, Writer};

use crate::event::{Ack, Event, RoomKey, RoomName};
use crate::metrics::record;
use crate::settings;

/// One step of a long reading, in events and in bytes.
const STEP_EVENTS: usize = 1024;
const STEP_BYTES: usize = 1 << 20;

/// What all parts of the log share.
pub(crate) struct Shared {
    settings: settings::Log,
    index: Index,
    cache: ReadCache,
    generations: RwLock<Vec<Arc<Generation>>>,
    /// After the generations, because what is declared last is dropped last and the directory's lock goes with it.
    directory: Directory,
    permits: Semaphore,
    /// What is wrong now, if something is.
    fault: Mutex<Option<LogError>>,
    failing: AtomicBool,
    abandoned: AtomicBool,
    /// How far everything was flushed.
    flushed: Mutex<(u32, u64)>,
    /// What is done when a generation is full.
    on_roll: Mutex<Option<Box<dyn Fn() + Send>>>,
}

/// The log. Clones share it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    orders: Sender<Order>,
    readers: Readers,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    clean: bool,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

/// How the log is.
#[derive(Debug, Clone)]
pub struct Status {
    /// What is wrong, if something is.
    pub fault: Option<LogError>,
    /// Generations on the disk.
    pub generations: usize,
    /// Bytes of events on the disk, before the database's own overhead.
    pub bytes: u64,
    /// Rooms of which it holds something.
    pub rooms: usize,
    /// Whether it was closed in good order the last time.
    pub clean: bool,
}

impl Log {
    /// Opens the log, or makes a new one in an empty directory. Blocks.
    ///
    /// # Errors
    /// A directory that is in use, foreign, damaged or not writable; nothing in it is changed then.
    pub fn open(settings: &settings::Log, rooms: &settings::Rooms) -> Result<Self, LogError> {
        let directory = Directory::open(&settings.dir)?;
        directory.clear_gone()?;
        let numbers = directory.generations()?;
        let head = directory.read_head();
        let mut generations = Vec::new();
        let index = Index::new(rooms.clone());
        for &number in &numbers {
            let generation = Generation::open(number, directory.generation(number))?;
            if Some(&number) == numbers.last() {
                generation.catch_up()?;
            }
            for (name, created, place) in generation.contents()? {
                index.restore(&name, created, place);
            }
            if Some(&number) != numbers.last() {
                generation.close();
            }
            generations.push(Arc::new(generation));
        }
        let position = match generations.last() {
            Some(last) => last.last_position()?.map_or(0, |last| last + 1),
            None => 0,
        };
        let found = (numbers.last().copied().unwrap_or(0), position);
        if let Some(head) = head
            && (head.generation, head.position) > found
        {
            let path = directory.generation(head.generation);
            let reason = format!("{} chunks were written to it, {position} are there", head.position);
            return Err(LogError::Damaged { path, reason });
        }
        index.raise_floor(head.map_or(0, |head| head.floor));
        // A log that never held anything was stopped as cleanly as can be.
        let clean = directory.take_clean() || numbers.is_empty();
        let current = match generations.last() {
            Some(last) => Arc::clone(last),
            None => {
                let first = Arc::new(Generation::open(1, directory.generation(1))?);
                generations.push(Arc::clone(&first));
                first
            }
        };
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            directory,
            index,
            cache: ReadCache::new(settings.read_cache_bytes),
            generations: RwLock::new(generations),
            permits: Semaphore::new(settings.queue_events),
            fault: Mutex::new(None),
            failing: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            flushed: Mutex::new((current.number, position)),
            on_roll: Mutex::new(None),
        });
        // What retention lets go may still lie in generations that others keep.
        shared.expire();
        // Every order holds permits, so the queue's own bound is never met; it is there because every queue has one.
        let (orders, queue) = bounded(settings.queue_events + 1024);
        let readers = Readers::start(&shared, settings.readers)?;
        // Empty: what an earlier one held has been taken over.
        let ahead = Ahead::begin(current.path())?;
        let writing = Writer::new(Arc::clone(&shared), queue, current, position, ahead);
        let thread = std::thread::Builder::new().name("log-writer".into()).spawn(move || writing.run());
        let thread = thread.map_err(|error| LogError::io(&settings.dir, &error))?;
        Ok(Self { shared, orders, readers, writer: Arc::new(Mutex::new(Some(thread))), clean })
    }

    /// Whether the log was closed in good order the last time. After another end a room's numbering goes on from the clock.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.clean
    }

    /// The highest seq of rooms of which nothing is left; a new room's numbers begin above it.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.shared.index.floor()
    }

    /// What the log knows of a room.
    #[must_use]
    pub fn room(&self, name: &RoomName) -> Option<Arc<RoomIndex>> {
        self.shared.index.get(name)
    }

    /// A room's index, new if there is none; `created` is the room's first seq then.
    #[must_use]
    pub fn room_or_create(&self, name: &RoomName, created: u64) -> Arc<RoomIndex> {
        self.shared.index.get_or_create(name, created)
    }

    /// The names of all rooms of which the log holds something, without the daemon's own.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomName> {
        let rooms = self.shared.index.rooms();
        let shown = rooms.iter().filter(|room| !room.name.is_internal() && room.held().is_some());
        shown.map(|room| room.name.clone()).collect()
    }

    /// Hands events of one room to the writer, in the order of their seqs. Waits no longer than `log.append_timeout` for a place in its queue. With `ack` above
    /// [`Ack::Memory`] the answer comes when they are kept as well as asked.
    ///
    /// # Errors
    /// [`LogError::Busy`] or what is wrong with the log; the events are not taken then.
    pub async fn append(
        &self,
        room: &Arc<RoomIndex>,
        events: SmallVec<[Arc<Event>; 1]>,
        ack: Ack,
    ) -> Result<Option<oneshot::Receiver<()>>, LogError> {
        let permits = self.permits(events.len());
        self.reserve(permits).await?;
        Ok(self.append_reserved(room, events, ack, permits))
    }

    /// How many permits so many events take: a publish larger than the whole queue takes all of it.
    #[must_use]
    pub fn permits(&self, events: usize) -> u32 {
        u32::try_from(events.min(self.shared.settings.queue_events)).unwrap_or(u32::MAX)
    }

    /// Reserves a place for events if there is one now.
    #[must_use]
    pub fn try_reserve(&self, permits: u32) -> bool {
        self.shared.permits.try_acquire_many(permits).map(tokio::sync::SemaphorePermit::forget).is_ok()
    }

    /// Reserves a place for events before they are numbered, so that no number is spent on what cannot be kept.
    ///
    /// # Errors
    /// [`LogError::Busy`] or what is wrong with the log.
    pub async fn reserve(&self, permits: u32) -> Result<(), LogError> {
        if self.try_reserve(permits) {
            return Ok(());
        }
        let waited = self.shared.permits.acquire_many(permits);
        match tokio::time::timeout(self.shared.settings.append_timeout, waited).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            Ok(Err(_)) => Err(LogError::Closed),
            Err(_) => Err(self.fault().unwrap_or(LogError::Busy("events wait for the disk"))),
        }
    }

    /// Hands over events for which [`Log::reserve`] made place.
    #[must_use]
    pub fn append_reserved(
        &self,
        room: &Arc<RoomIndex>,
        events: SmallVec<[Arc<Event>; 1]>,
        ack: Ack,
        permits: u32,
    ) -> Option<oneshot::Receiver<()>> {
        let (done, answer) = if ack == Ack::Memory { (None, None) } else { Some(oneshot::channel()).unzip() };
        let append = Append { room: Arc::clone(room), events, ack, done, permits };
        // Fails only after the log was closed; the answer's channel closes then, which tells the publisher.
        let _ = self.orders.try_send(Order::Append(append));
        answer
    }

    /// Asks for events of a room; the answer comes by the request's callback.
    ///
    /// # Errors
    /// [`LogError::Busy`] when too many requests wait.
    pub fn read(&self, read: Read) -> Result<(), LogError> {
        self.readers.request(read)
    }

    /// The events of a room after a seq, as far as others have read them lately: at once, without a thread. `None` if the next one is not held; then ask for it.
    #[must_use]
    pub fn read_held(
        &self,
        key: &RoomKey,
        index: &RoomIndex,
        after: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Option<Vec<Arc<Event>>> {
        reader::read_held(&self.shared, key, index, after, events_max, bytes_max)
    }

    /// Asks for events of a room and waits for them. Many are asked for in steps, so that others get in between.
    ///
    /// # Errors
    /// [`LogError::Busy`], or what is wrong with the log.
    pub async fn read_wait(
        &self,
        key: &RoomKey,
        index: &Arc<RoomIndex>,
        after: u64,
        events_max: usize,
    ) -> Result<Vec<Arc<Event>>, LogError> {
        self.read_within(key, index, after, events_max, usize::MAX).await
    }

    /// The same, and no further once there are so many bytes of events.
    ///
    /// # Errors
    /// As [`Log::read_wait`].
    pub async fn read_within(
        &self,
        key: &RoomKey,
        index: &Arc<RoomIndex>,
        mut after: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Event>>, LogError> {
        let mut bytes = 0;
        let mut read = Vec::new();
        loop {
            let (answer, events) = oneshot::channel();
            self.read(Read {
                key: key.clone(),
                index: Arc::clone(index),
                after,
                events_max: (events_max - read.len()).min(STEP_EVENTS),
                bytes_max: STEP_BYTES.min(bytes_max - bytes),
                answer: Box::new(move |outcome| drop(answer.send(outcome))),
            })?;
            let events = events.await.map_err(|_| LogError::Closed)??;
            let Some(last) = events.last() else { return Ok(read) };
            after = last.seq;
            bytes += events.iter().map(|event| event.bytes()).sum::<usize>();
            read.extend(events);
            // Where the log ends, another look would find nothing.
            if read.len() >= events_max || bytes >= bytes_max || after >= index.logged() {
                return Ok(read);
            }
        }
    }

    /// Has something done whenever a generation is full, which is when there may be an old one to delete. Runs on the writer's thread and must not block.
    pub fn on_roll(&self, what: impl Fn() + Send + 'static) {
        *self.shared.on_roll.lock() = Some(Box::new(what));
    }

    /// What is wrong now, if something is.
    #[must_use]
    pub fn fault(&self) -> Option<LogError> {
        if self.shared.failing.load(Ordering::Acquire) { self.shared.fault.lock().clone() } else { None }
    }

    /// How long a publisher waits for its acknowledgement.
    #[must_use]
    pub fn sync_timeout(&self) -> Duration {
        self.shared.settings.sync_timeout
    }

    /// How the log is.
    #[must_use]
    pub fn status(&self) -> Status {
        let generations = self.shared.generations.read();
        Status {
            fault: self.fault(),
            generations: generations.len(),
            bytes: generations.iter().map(|generation| generation.written()).sum(),
            rooms: self.shared.index.count(),
            clean: self.clean,
        }
    }

    /// Writes everything, marks the stop as clean and ends the writer. Blocks no longer than `limit`; `false` if it took longer, and then the stop is not clean.
    #[must_use]
    pub fn close(&self, limit: Duration) -> bool {
        let Some(thread) = self.writer.lock().take() else { return true };
        let (closed, end) = oneshot::channel();
        if self.orders.send(Order::Close(closed)).is_err() {
            return false;
        }
        let deadline = std::time::Instant::now() + limit;
        let mut end = end;
        while let Err(oneshot::error::TryRecvError::Empty) = end.try_recv() {
            if std::time::Instant::now() >= deadline {
                self.shared.abandoned.store(true, Ordering::Release);
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        if thread.join().is_err() {
            return false;
        }
        self.shared.permits.close();
        let marked = self.shared.mark_head().and_then(|()| self.shared.directory.mark_clean());
        if let Err(error) = &marked {
            tracing::error!(%error, "log: the stop cannot be marked as clean");
        }
        self.shared.generations.read().iter().for_each(|generation| generation.close());
        self.shared.directory.unlock();
        marked.is_ok()
    }
}

impl Shared {
    fn generation(&self, number: u32) -> Option<Arc<Generation>> {
        let generations = self.generations.read();
        let at = generations.binary_search_by_key(&number, |generation| generation.number).ok()?;
        Some(Arc::clone(&generations[at]))
    }

    fn contents_of(&self, number: u32) -> Contents {
        let mut contents = Vec::new();
        for room in self.index.rooms() {
            let created = room.created();
            contents.extend(room.places_in(number).into_iter().map(|place| (room.name.clone(), created, place)));
        }
        contents
    }

    /// Notes how far everything is flushed.
    fn flushed(&self, generation: u32, position: u64, flushed: bool) {
        if flushed {
            *self.flushed.lock() = (generation, position);
        }
    }

    fn failing(&self, fault: LogError) {
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!(%fault, "log: events cannot be written; publishers are refused until they can");
        }
        *self.fault.lock() = Some(fault);
        record::log_fault();
    }

    fn working_again(&self) {
        if self.failing.swap(false, Ordering::AcqRel) {
            tracing::info!("log: events are written again");
        }
    }
}

#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod tests;
