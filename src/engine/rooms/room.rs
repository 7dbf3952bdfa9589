//! What everybody may ask a room directly, without its actor: its head, its history, who follows it. And what its actor is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use indexmap::IndexMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_actors::{Mailbox, Message, Policy};
use tokio::sync::oneshot;

use super::order_policy;
use super::tail::Tail;
use crate::clock;
use crate::engine::connections::Delivery;
use crate::event::{Ack, Event, NewEvent, RoomKey, RoomName};
use crate::log::{Log, LogError, RoomIndex};
use crate::metrics::record::RoomMeter;
use crate::settings::Namespace;

/// Over how long the rate of a room is taken, in seconds.
const RATE_SECONDS: f64 = 10.0;

/// A room.
pub struct Room {
    key: RoomKey,
    settings: Arc<Namespace>,
    /// Where its events lie in the log; none where the namespace keeps its history in memory only.
    index: Option<Arc<RoomIndex>>,
    log: Log,
    mailbox: Mailbox<Order>,
    pub(super) tail: Mutex<Tail>,
    pub(super) tails_bytes: Arc<AtomicUsize>,
    /// Its readers by id. The room's actor walks them under this lock, which is never held across an await.
    pub(super) members: Mutex<IndexMap<u64, Mailbox<Delivery>, ahash::RandomState>>,
    /// The last seq given out, 0 if none.
    pub(super) head: AtomicU64,
    /// The first seq ever, 0 if none.
    pub(super) created: AtomicU64,
    pub(super) used_ms: AtomicU64,
    pub(super) arrived_ms: AtomicU64,
    rate: Mutex<Rate>,
    pub(super) meter: RoomMeter,
    pub(super) floor: u64,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Room").field(self.name()).finish()
    }
}

/// A reader, as rooms know it.
#[derive(Debug)]
pub struct Subscriber {
    /// Its number, for as long as the process lives.
    pub id: u64,
    /// Where its events go.
    pub mailbox: Mailbox<Delivery>,
}

/// Where a reader wants to begin in one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what comes next.
    Live,
    /// After this seq.
    After(u64),
    /// With what arrived at or after this time, in milliseconds since 1970.
    Since(u64),
    /// With the newest so many.
    Tail(u64),
}

/// Something is missing between two seqs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Where the reader stood.
    pub after: u64,
    /// The first seq it can have.
    pub first_seq: u64,
}

/// A room that a reader has joined.
#[derive(Debug)]
pub struct Joined {
    /// The room.
    pub room: Arc<Room>,
    /// Where its stream begins.
    pub after: u64,
    /// Events that arrived before this (milliseconds since 1970) are not wanted, though some may follow `after`.
    pub since_ms: u64,
    /// What is missing before that, if something is.
    pub gap: Option<Gap>,
    /// Whether the reader followed it before: then nothing has changed.
    pub already: bool,
}

/// The room's answer to a publish.
#[derive(Debug)]
pub struct Receipt {
    /// Events published.
    pub count: usize,
    /// The first one's seq; that of the first repetition where all were.
    pub first_seq: u64,
    /// The last one's.
    pub last_seq: u64,
    /// Repetitions among what came in.
    pub duplicates: usize,
    /// Resolves when the log keeps them as asked; none for [`Ack::Memory`].
    pub logged: Option<oneshot::Receiver<()>>,
}

/// Why a publish was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The room has as much waiting as it may.
    #[error("the room cannot take more now")]
    RoomFull,
    /// The source has as much waiting as it may.
    #[error("too much is waiting to be published")]
    SourceFull,
    /// There may be no more rooms in memory.
    #[error("there are as many rooms as there may be (limits.rooms)")]
    TooManyRooms,
    /// The log cannot keep events.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The log did not answer in time; the events may or may not be kept.
    #[error(
        "the log did not acknowledge in time; the events may still be kept, so publish them again with the same ids"
    )]
    Unacknowledged,
    /// The room's actor failed while it had the publish.
    #[error("the room failed; the events may or may not be published")]
    Failed,
    /// Something else, in words.
    #[error("{0}")]
    Unavailable(String),
}

/// Events to be published together.
#[derive(Debug)]
pub struct Publish {
    /// The events.
    pub events: SmallVec<[NewEvent; 1]>,
    /// What the answer should mean.
    pub ack: Ack,
    reply: Option<oneshot::Sender<Result<Receipt, PublishError>>>,
    bytes: usize,
}

impl Publish {
    /// A publish and where its receipt arrives.
    #[must_use]
    pub fn new(events: SmallVec<[NewEvent; 1]>, ack: Ack) -> (Self, oneshot::Receiver<Result<Receipt, PublishError>>) {
        let (reply, receipt) = oneshot::channel();
        let bytes = events.iter().map(NewEvent::bytes).sum();
        (Self { events, ack, reply: Some(reply), bytes }, receipt)
    }

    /// A publish that nobody waits for.
    #[must_use]
    pub fn unanswered(events: SmallVec<[NewEvent; 1]>) -> Self {
        let bytes = events.iter().map(NewEvent::bytes).sum();
        Self { events, ack: Ack::Memory, reply: None, bytes }
    }

    /// What it weighs, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Says why it is refused.
    pub fn refuse(mut self, error: PublishError) {
        if let Some(reply) = self.reply.take() {
            // A publisher that has gone needs no answer.
            let _ = reply.send(Err(error));
        }
    }

    pub(super) fn answer(mut self, receipt: Receipt) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Ok(receipt));
        }
    }
}

impl Drop for Publish {
    /// Dropped unanswered: it had to make way for something more urgent, or its actor failed while it had it.
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ =
                reply.send(Err(if std::thread::panicking() { PublishError::Failed } else { PublishError::RoomFull }));
        }
    }
}

/// What a room's actor is sent.
#[derive(Debug)]
pub enum Order {
    /// Number these, keep them, deliver them.
    Publish(Publish),
    /// Take in a reader. Without a reply the reader follows by pattern and is told through its mailbox.
    Join {
        /// The reader.
        subscriber: Arc<Subscriber>,
        /// Where it wants to begin.
        start: Start,
        /// Where the answer goes.
        reply: Option<oneshot::Sender<Joined>>,
    },
    /// Retire if nobody needs the room.
    Retire,
}

impl Message for Order {
    type Stream = ();

    fn bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.bytes,
            Self::Join { .. } | Self::Retire => 0,
        }
    }

    fn policy(&self) -> Policy {
        order_policy(matches!(self, Self::Join { .. }))
    }
}

/// One step of reading a room's history.
#[derive(Debug)]
pub enum Step {
    /// These come next; empty if there is nothing after.
    Events(Vec<Arc<Event>>),
    /// What comes next lies on the disk: ask the log with this index.
    Disk(Arc<RoomIndex>),
}

#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    /// Decaying count of events.
    weight: f64,
    at_us: u64,
    began_us: u64,
}

impl Rate {
    /// The weight decayed until `now_us`.
    fn decayed(self, now_us: u64) -> f64 {
        self.weight * (-seconds(self.at_us, now_us) / RATE_SECONDS).exp()
    }

    /// Events a second, exponentially weighted over [`RATE_SECONDS`]; a room that is younger is not taken for a slow one.
    fn per_second(self, now_us: u64) -> f64 {
        let seen = 1.0 - (-seconds(self.began_us, now_us).max(1.0) / RATE_SECONDS).exp();
        self.decayed(now_us) / (RATE_SECONDS * seen)
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn add(&mut self, events: usize, now_us: u64) {
        if self.began_us == 0 {
            self.began_us = now_us;
        }
        self.weight = self.decayed(now_us) + events as f64;
        self.at_us = now_us;
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn seconds(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1e6
}

impl Room {
    pub(super) fn new(
        name: &RoomName,
        settings: Arc<Namespace>,
        log: &Log,
        mailbox: Mailbox<Order>,
        tails_bytes: Arc<AtomicUsize>,
        floor: u64,
    ) -> Self {
        let key = RoomKey::new(name.clone(), settings.policy);
        // A room that the log does not know yet is entered with its first event, so that names without events cost nothing.
        let index = settings.durable.then(|| log.room_or_create(name, 0));
        let head = index.as_ref().map_or(0, |index| index.numbered());
        let held = index.as_ref().and_then(|index| index.held());
        let now_ms = clock::now_ms();
        Self {
            key,
            index,
            log: log.clone(),
            mailbox,
            tail: Mutex::default(),
            tails_bytes,
            members: Mutex::default(),
            head: AtomicU64::new(head),
            created: AtomicU64::new(held.map_or(0, |held| held.created)),
            used_ms: AtomicU64::new(now_ms),
            arrived_ms: AtomicU64::new(held.map_or(0, |held| held.last_arrived_ms)),
            rate: Mutex::default(),
            meter: RoomMeter::new(name.namespace()),
            settings,
            floor,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &RoomName {
        self.key.name()
    }

    /// Its identity.
    #[must_use]
    pub fn key(&self) -> &RoomKey {
        &self.key
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &Namespace {
        &self.settings
    }

    /// Where its actor is reached.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox<Order> {
        &self.mailbox
    }

    /// The last seq given out, 0 if none.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// How many readers follow it.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.members.lock().len()
    }

    /// Where its events lie in the log.
    #[must_use]
    pub fn index(&self) -> Option<&Arc<RoomIndex>> {
        self.index.as_ref()
    }

    /// When its last event arrived, in milliseconds since 1970; 0 if none did.
    #[must_use]
    pub fn last_arrived_ms(&self) -> u64 {
        self.arrived_ms.load(Ordering::Relaxed)
    }

    /// Events a second, over about the last ten seconds.
    #[must_use]
    pub fn events_per_second(&self) -> f64 {
        let rate = *self.rate.lock();
        rate.per_second(clock::now_us())
    }

    pub(super) fn note_published(&self, events: usize, now_us: u64) {
        self.rate.lock().add(events, now_us);
    }

    /// The first seq still held and how many events are, tail and log together.
    #[must_use]
    pub fn held(&self) -> Option<(u64, u64)> {
        let tail = self.tail.lock();
        let in_tail = tail.front().map(|front| front.seq);
        let Some(held) = self.index.as_ref().and_then(|index| index.held()) else {
            return in_tail.map(|first| (first, tail.len() as u64));
        };
        // What the log does not have yet is at the end of the tail.
        let unlogged = tail.after(held.last, usize::MAX, usize::MAX).len() as u64;
        let count = held.count + unlogged;
        Some((held.first, self.settings.retention.count.map_or(count, |max| count.min(max))))
    }

    /// The first seq after `after` that can be read, if any.
    fn first_after(&self, after: u64) -> Option<u64> {
        let in_log = self.index.as_ref().and_then(|index| index.first_after(after));
        in_log.or_else(|| self.tail.lock().after(after, 1, usize::MAX).first().map(|event| event.seq))
    }

    /// What a reader that stands at `after` misses, if it misses something: what retention let go, or a seq that was never given out.
    #[must_use]
    pub fn gap(&self, after: u64) -> Option<Gap> {
        let head = self.head();
        if after == head {
            return None;
        }
        if after > head {
            return Some(Gap { after, first_seq: head + 1 });
        }
        let tail = self.tail.lock();
        // Whoever stands right before something that is here misses nothing.
        let in_tail = tail.holds(after) || tail.holds(after + 1);
        let tail_begins = tail.front().map_or(head + 1, |front| front.seq);
        let tail_gone = tail.gone();
        drop(tail);
        if in_tail {
            return None;
        }
        let continues = match &self.index {
            // The log may not have written what the tail begins with; a room's very first events are continued from 0.
            Some(index) => index.continues(after) || (index.held().is_none() && self.begins_after(after, tail_begins)),
            None => after + 1 == tail_begins && tail_gone == after || self.begins_after(after, tail_begins),
        };
        let first_seq = self.first_after(after).unwrap_or(head + 1);
        (!continues).then_some(Gap { after, first_seq })
    }

    /// Whether `after` stands right before everything the room ever had, and all of it is still here.
    fn begins_after(&self, after: u64, first_here: u64) -> bool {
        let created = self.created.load(Ordering::Acquire);
        created == first_here && (after == 0 || after + 1 == created)
    }

    /// The seq after which a reader that wants to begin so has to read, and what it misses.
    #[must_use]
    pub fn begin(&self, start: Start) -> (u64, Option<Gap>) {
        let head = self.head();
        match start {
            Start::Live => (head, None),
            Start::After(after) => {
                let gap = self.gap(after);
                (gap.map_or(after, |gap| gap.first_seq - 1), gap)
            }
            Start::Since(ms) => {
                let in_tail = self.tail.lock().before_time(ms);
                let in_log = || self.index.as_ref().and_then(|index| index.before_time(ms));
                let in_memory = || {
                    self.tail
                        .lock()
                        .after(0, usize::MAX, usize::MAX)
                        .iter()
                        .find(|event| event.arrived_ms >= ms)
                        .map(|event| event.seq - 1)
                };
                (in_tail.or_else(in_log).or_else(in_memory).unwrap_or(head), None)
            }
            Start::Tail(0) => (head, None),
            Start::Tail(count) => {
                let in_tail = self.tail.lock().before_newest(count);
                // Of what is in the tail only, the log knows nothing.
                let in_log = || {
                    let index = self.index.as_ref()?;
                    let unlogged = self.tail.lock().after(index.logged(), usize::MAX, usize::MAX).len() as u64;
                    index.before_newest(count.saturating_sub(unlogged))
                };
                let in_memory = || self.tail.lock().front().map(|front| front.seq - 1);
                (in_tail.or_else(in_log).or_else(in_memory).unwrap_or(head), None)
            }
        }
    }

    /// The next events after `after`, from memory if they are there.
    #[must_use]
    pub fn read(&self, after: u64, events_max: usize, bytes_max: usize) -> Step {
        let tail = self.tail.lock();
        let first_in_tail = tail.front().map(|front| front.seq);
        if first_in_tail.is_none_or(|first| first > after + 1)
            && let Some(index) = &self.index
            && let Some(first_in_log) = index.first_after(after)
            && first_in_tail.is_none_or(|first| first_in_log < first)
        {
            return Step::Disk(Arc::clone(index));
        }
        Step::Events(tail.after(after, events_max, bytes_max))
    }

    /// Reads on, from memory or from the disk, waiting for it.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub async fn read_wait(&self, after: u64, events_max: usize) -> Result<Vec<Arc<Event>>, LogError> {
        match self.read(after, events_max, usize::MAX) {
            Step::Events(events) => Ok(events),
            Step::Disk(index) => self.log.read_wait(&self.key, &index, after, events_max).await,
        }
    }

    /// The first seq in memory; one above the head if there is none.
    #[must_use]
    pub fn memory_begins(&self) -> u64 {
        self.tail.lock().front().map_or_else(|| self.head() + 1, |front| front.seq)
    }

    /// The log its history is in.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether nobody follows it and nothing has come for so long that it may go; its actor decides.
    pub(super) fn may_retire(&self, now_ms: u64) -> bool {
        let idle_ms = now_ms.saturating_sub(self.used_ms.load(Ordering::Relaxed));
        // Readers that have gone may still be entered, so they are no reason not to ask.
        u128::from(idle_ms) >= self.settings.idle_after.as_millis()
    }

    /// Lets a reader go.
    pub fn leave(&self, subscriber: u64) {
        self.members.lock().swap_remove(&subscriber);
        self.used_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// Applies the tail's bounds: the namespace's, and `log.tails_bytes` over all rooms, to which the largest contribute by halves, and retention.
    pub(super) fn trim_tail(&self, now_ms: u64, tails_bytes_max: usize) {
        let mut tail = self.tail.lock();
        let settings = &self.settings;
        let up_to = self.index.as_ref().map_or(u64::MAX, |index| index.logged());
        let retention = settings.retention;
        let over_all = self.tails_bytes.load(Ordering::Relaxed) > tails_bytes_max;
        let bytes_max = if over_all { (tail.bytes() / 2).min(settings.tail_bytes) } else { settings.tail_bytes };
        let freed = tail.trim(up_to, |tail| {
            let old = retention.age.is_some_and(|age| {
                tail.front().is_some_and(|front| u128::from(now_ms.saturating_sub(front.arrived_ms)) > age.as_millis())
            });
            tail.len() > settings.tail_events
                || tail.bytes() > bytes_max
                || retention.count.is_some_and(|max| tail.len() as u64 > max)
                || retention.bytes.is_some_and(|max| tail.bytes() as u64 > max)
                || old
        });
        self.tails_bytes.fetch_sub(freed, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.tails_bytes.fetch_sub(self.tail.get_mut().bytes(), Ordering::Relaxed);
    }
}
