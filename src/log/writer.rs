//! The log's one writer: an OS thread that takes everything that waits, packs it into chunks and commits it as one group.
//!
//! Bound: `log.queue_events` events, kept by permits that a publisher's room takes before it sends and the writer gives back after the commit. Who waits: the room, with a limit, so that
//! its publishers are refused when the log does not keep up. Nothing is shed: a group that cannot be written (a full disk) is tried again until it can.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::oneshot;

use super::chunk::{self, Builder, Header};
use super::generation::Generation;
use super::index::{Place, RoomIndex};
use super::{LogError, Shared};
use crate::event::{Ack, Event};
use crate::metrics::record;

/// A chunk is closed when it is about this large: larger values make the database slow, and whoever reads one room's event of it unpacks all of it.
const CHUNK_BYTES: usize = 4000;
/// One room's events alone may make a larger one, as far as it comes to [`CHUNK_BYTES`] when it is compressed: each chunk costs the database some microseconds, and whoever reads one of them
/// mostly reads the others.
pub(super) const RUN_BYTES_MAX: usize = 16_000;
/// Events in one group: bounds how long the first of them waits for the last.
const GROUP_EVENTS: usize = 8192;
/// What may be put and not flushed, in bytes.
const PENDING_BYTES: usize = 8 << 20;
/// How long the writer looks away while it waits for company: about what the system's timers can tell apart.
const GROUP_LOOK: Duration = Duration::from_micros(50);
/// The pause between two tries to write a group that could not be written.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What the writer is sent.
pub(super) enum Order {
    Append(Append),
    /// Live events of an old generation, to be written again so that it can be deleted.
    Copy(Copy),
    /// Everything so far on the disk, then the end.
    Close(oneshot::Sender<()>),
}

/// Events of one room to be written, in the order of their seqs.
pub(super) struct Append {
    pub(super) room: Arc<RoomIndex>,
    pub(super) events: smallvec::SmallVec<[Arc<Event>; 1]>,
    pub(super) ack: Ack,
    pub(super) done: Option<oneshot::Sender<()>>,
    pub(super) permits: u32,
}

/// Sections to be copied: whose, where they lie, and the chunk they lie in.
pub(super) struct Copy {
    pub(super) sections: Vec<(Arc<RoomIndex>, Place, Vec<u8>)>,
    pub(super) done: Sender<()>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    orders: Receiver<Order>,
    current: Arc<Generation>,
    position: u64,
    /// When something was put that is not flushed yet.
    unflushed: Option<Instant>,
    /// What was put and is not flushed yet, to be put again if a fault takes it along.
    pending: Vec<(u64, Vec<u8>)>,
    pending_bytes: usize,
    /// Publishers that the last group answered.
    answered: usize,
    /// How large one room's events may make a chunk now.
    run_bytes: usize,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, orders: Receiver<Order>, current: Arc<Generation>, position: u64) -> Self {
        Self {
            shared,
            orders,
            current,
            position,
            unflushed: None,
            pending: Vec::new(),
            pending_bytes: 0,
            answered: 0,
            run_bytes: CHUNK_BYTES,
        }
    }

    /// Works until it is told to close or nobody is left who could send.
    pub(super) fn run(mut self) {
        loop {
            let idle = self.unflushed.map_or(self.shared.settings.flush_interval, |since| {
                self.shared.settings.flush_interval.saturating_sub(since.elapsed())
            });
            match self.orders.recv_timeout(idle) {
                Ok(first) => {
                    self.wait_for_company();
                    if let Some(closed) = self.group(first) {
                        // Nobody may be waiting for it any more.
                        let _ = closed.send(());
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.flush_if_due(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.finish();
                    return;
                }
            }
        }
    }

    /// Lets those publishers come that the last group answered: they are at it again, and one flush is as good for all of them as for the first. Ends when they are here, when a while has
    /// brought nobody else, or after `log.group_wait`; where one publisher is alone it waits for nobody.
    ///
    /// By sleeping and looking, not by receiving: being woken for each of them costs the core that they need.
    fn wait_for_company(&self) {
        let (began, mut here) = (Instant::now(), self.orders.len());
        while here + 1 < self.answered && began.elapsed() < self.shared.settings.group_wait {
            std::thread::park_timeout(GROUP_LOOK);
            let now = self.orders.len();
            if now == here {
                return;
            }
            here = now;
        }
    }

    /// Takes and commits one group; whom to tell if it was the last.
    fn group(&mut self, first: Order) -> Option<oneshot::Sender<()>> {
        let started = Instant::now();
        let (mut appends, mut copies, mut close) = (Vec::new(), Vec::new(), None);
        let mut events = 0;
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Append(append) => {
                    events += append.events.len();
                    appends.push(append);
                }
                Order::Copy(copy) => copies.push(copy),
                Order::Close(closed) => close = Some(closed),
            }
            next = if events < GROUP_EVENTS && close.is_none() { self.orders.try_recv().ok() } else { None };
        }
        if !appends.is_empty() {
            self.commit(&appends);
        }
        copies.into_iter().for_each(|copy| self.copy(copy));
        let permits: u32 = appends.iter().map(|append| append.permits).sum();
        self.answered = 0;
        for done in appends.into_iter().filter_map(|append| append.done) {
            self.answered += 1;
            // A publisher that has gone needs no answer.
            let _ = done.send(());
        }
        self.shared.permits.add_permits(permits as usize);
        if events > 0 {
            record::log_commit(events, started.elapsed());
        }
        if close.is_some() {
            self.finish();
        }
        self.flush_if_due();
        close
    }

    fn commit(&mut self, appends: &[Append]) {
        let chunks = pack(appends, self.current.number, self.run_bytes);
        let ack = appends.iter().filter(|append| append.done.is_some()).map(|append| append.ack).max();
        let mut places = Vec::with_capacity(chunks.len());
        for (chunk, own) in chunks {
            places.push((self.put(chunk), own));
        }
        if ack >= Some(Ack::Logged) || self.pending_bytes > PENDING_BYTES {
            self.flush();
        }
        if ack >= Some(Ack::Synced) {
            self.retry(|writer| writer.current.sync());
        }
        for (position, own) in places {
            for (room, place) in own {
                let gone = room.append(Place { position, ..place });
                if gone > 0 {
                    record::log_expired(room.name.namespace(), gone);
                }
            }
        }
        self.roll_if_full();
    }

    /// Puts a chunk at the next position, which it returns.
    fn put(&mut self, builder: Builder) -> u64 {
        let plain = builder.len();
        let chunk = builder.finish();
        // Follows what the data is like now.
        let fitting = (CHUNK_BYTES * plain / chunk.len().max(1)).clamp(CHUNK_BYTES, RUN_BYTES_MAX);
        self.run_bytes = (3 * self.run_bytes + fitting) / 4;
        let position = self.position;
        self.retry(|writer| writer.current.put(position, &chunk));
        self.current.count_written(plain);
        self.position += 1;
        self.pending_bytes += chunk.len();
        self.pending.push((position, chunk));
        self.unflushed.get_or_insert_with(Instant::now);
        position
    }

    fn flush(&mut self) {
        self.retry(|writer| writer.current.flush());
        self.pending.clear();
        (self.pending_bytes, self.unflushed) = (0, None);
    }

    /// Writes sections of old generations again, several to a chunk.
    fn copy(&mut self, copy: Copy) {
        let mut builder = Builder::new();
        let mut packed: Vec<(Arc<RoomIndex>, Place, u32, u32)> = Vec::new();
        for (room, place, chunk) in copy.sections {
            if !builder.is_empty() && builder.len() + place.bytes as usize > CHUNK_BYTES {
                self.put_copies(std::mem::replace(&mut builder, Builder::new()), std::mem::take(&mut packed));
            }
            let before = builder.len();
            // What cannot be read was checked before it came here; it stays where it is.
            if let Some(offset) = chunk::copy_section(&chunk, place.offset as usize, &mut builder) {
                packed.push((room, place, offset, u32::try_from(builder.len() - before).unwrap_or(u32::MAX)));
            }
        }
        if !builder.is_empty() {
            self.put_copies(builder, packed);
        }
        let _ = copy.done.send(());
        self.roll_if_full();
    }

    fn put_copies(&mut self, builder: Builder, packed: Vec<(Arc<RoomIndex>, Place, u32, u32)>) {
        let generation = self.current.number;
        let position = self.put(builder);
        for (room, from, offset, bytes) in packed {
            room.moved(&from, Place { generation, position, offset, bytes, ..from });
        }
    }

    fn flush_if_due(&mut self) {
        if self.unflushed.is_some_and(|since| since.elapsed() >= self.shared.settings.flush_interval) {
            self.flush();
        }
        self.shared.flushed(self.current.number, self.position, self.unflushed.is_none());
    }

    fn roll_if_full(&mut self) {
        let (settings, current) = (&self.shared.settings, Arc::clone(&self.current));
        let age = Duration::from_millis(crate::clock::now_ms().saturating_sub(current.made_ms));
        if current.written() < settings.generation_bytes && (age < settings.generation_age || current.written() == 0) {
            return;
        }
        // Before anything else is tried that may fail: a fault takes along what is not flushed.
        self.flush();
        let number = current.number + 1;
        let path = self.shared.directory.generation(number);
        let next = self.retry(|_| Generation::open(number, path.clone()));
        let contents = self.shared.contents_of(current.number);
        self.retry(|_| current.seal(&contents));
        // An open database costs megabytes; the next reader opens it again with a small cache.
        current.close();
        self.current = Arc::new(next);
        self.position = 0;
        self.unflushed = None;
        self.shared.generations.write().push(Arc::clone(&self.current));
        tracing::debug!(generation = number, "log: new generation");
        if let Some(what) = &*self.shared.on_roll.lock() {
            what();
        }
    }

    fn finish(&mut self) {
        self.flush();
        self.retry(|writer| writer.current.sync());
        self.shared.flushed(self.current.number, self.position, true);
    }

    /// Tries until it works. Meanwhile the log says what is wrong, and who waits for it is told when their time is over.
    fn retry<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, LogError>) -> T {
        let mut lost = false;
        loop {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                if lost {
                    // After a fault the database answers nothing but that fault until it is opened anew, and what was not flushed is gone from it.
                    self.current.close();
                    self.pending.iter().try_for_each(|(position, chunk)| self.current.put(*position, chunk))?;
                }
                work(self)
            }));
            lost = true;
            let fault = match outcome {
                Ok(Ok(value)) => {
                    self.shared.working_again();
                    return value;
                }
                Ok(Err(fault)) => fault,
                Err(_) => LogError::Damaged { path: self.current.path().to_owned(), reason: "writing panicked".into() },
            };
            self.shared.failing(fault);
            if self.shared.abandoned.load(Ordering::Acquire) {
                // The daemon is going down and will not wait: what could not be written was never acknowledged.
                std::panic::resume_unwind(Box::new("the log was abandoned"));
            }
            std::thread::park_timeout(RETRY_PAUSE);
        }
    }
}

type Packed = (Builder, Vec<(Arc<RoomIndex>, Place)>);

/// Packs events into chunks, each room's together, so that its replay reads few of them.
///
/// What the daemon writes for itself keeps its place among all others: what was handed over before it is packed before it. So a kill that leaves only a part of a group never leaves an
/// entry without what it stands on.
pub(super) fn pack(appends: &[Append], generation: u32, run_bytes: usize) -> Vec<Packed> {
    let (mut packed, mut rest) = (Vec::new(), appends);
    let mut open = (Builder::new(), Vec::new());
    while !rest.is_empty() {
        let own = rest.iter().position(|append| append.room.name.is_internal());
        let (some, after) = rest.split_at(match own {
            None => rest.len(),
            Some(0) => 1,
            Some(at) => at,
        });
        open = pack_some(some, (generation, run_bytes), open, &mut packed);
        rest = after;
    }
    if !open.0.is_empty() {
        packed.push(open);
    }
    packed
}

/// Packs events that may be brought together by room, into the chunk that is open and others after it; the one that is open then.
fn pack_some(
    appends: &[Append],
    (generation, run_bytes): (u32, usize),
    open: Packed,
    packed: &mut Vec<Packed>,
) -> Packed {
    let mut order: Vec<*const RoomIndex> = Vec::new();
    let mut rooms: HashMap<*const RoomIndex, (&Arc<RoomIndex>, Vec<&Event>), ahash::RandomState> = HashMap::default();
    for append in appends {
        let pointer = Arc::as_ptr(&append.room);
        let entry = rooms.entry(pointer).or_insert_with(|| {
            order.push(pointer);
            (&append.room, Vec::new())
        });
        entry.1.extend(append.events.iter().map(|event| &**event));
    }
    let (mut builder, mut places) = open;
    for (room, events) in order.iter().filter_map(|pointer| rooms.remove(pointer)) {
        let created = room.created();
        let mut rest = &events[..];
        while !rest.is_empty() {
            let limit = if builder.is_empty() { run_bytes } else { CHUNK_BYTES };
            let space = limit.saturating_sub(builder.len() + room.name.as_str().len() + 40);
            let fitting = fitting(rest, space);
            // What is more than half full leaves a long run to a chunk of its own.
            let rather_alone = fitting < rest.len() && builder.len() > CHUNK_BYTES / 2;
            if (fitting == 0 || rather_alone) && !builder.is_empty() {
                packed.push((std::mem::replace(&mut builder, Builder::new()), std::mem::take(&mut places)));
                continue;
            }
            let (run, after) = rest.split_at(fitting.max(1));
            rest = after;
            let (first, last) = (run[0], run[run.len() - 1]);
            let count = u32::try_from(run.len()).unwrap_or(u32::MAX);
            let header =
                Header { name: room.name.clone(), created, first: first.seq, count, arrived_ms: first.arrived_ms };
            let before = builder.len();
            let offset = builder.section(&header, run.iter().map(|event| chunk::parts(event)));
            let bytes = u32::try_from(builder.len() - before).unwrap_or(u32::MAX);
            let (first, arrived_ms) = (first.seq, last.arrived_ms);
            places.push((Arc::clone(room), Place { first, count, bytes, generation, offset, position: 0, arrived_ms }));
        }
    }
    (builder, places)
}

/// How many of a room's next events fit into the space and follow each other without a hole.
fn fitting(events: &[&Event], space: usize) -> usize {
    let mut used = 0;
    let mut count = 0;
    for (index, event) in events.iter().enumerate() {
        used += chunk::weight(event);
        if used > space || (index > 0 && event.seq != events[index - 1].seq + 1) {
            break;
        }
        count += 1;
    }
    count
}
