//! What everybody may ask a room directly, without its actor: its head, its history, who follows it. And what its actor is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use indexmap::IndexMap;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tidegate_actors::{Mailbox, Message, Policy};
use tokio::sync::oneshot;

use super::history::{Gap, Start};
use super::order_policy;
use super::publish::Publish;
use super::rate::Rate;
use super::state::{RoomState, Snapshot};
use super::tail::Tail;
use crate::clock;
use crate::engine::connections::Delivery;
use crate::engine::connections::contract::Urgent;
use crate::event::{RoomKey, RoomName};
use crate::log::{Log, RoomIndex};
use crate::metrics::record::RoomMeter;
use crate::settings::Namespace;

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
    pub(super) members: Mutex<IndexMap<u64, Member, ahash::RandomState>>,
    /// The table that a pipeline keeps of it, if one does.
    pub(super) state: Mutex<Option<RoomState>>,
    /// The last seq given out, 0 if none.
    pub(super) head: AtomicU64,
    /// The last seq that was offered to the readers. Written under their lock.
    pub(super) offered: AtomicU64,
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

/// How a reader wants to be treated when its mailbox is full, where that is not as the room's namespace says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// What happens to the room's events.
    pub policy: Option<Policy>,
    /// Whether it is sent away instead.
    pub disconnect: bool,
    /// Whether it is a part of the daemon, and no subscriber.
    pub internal: bool,
    /// What is critical to it, whatever its publisher said.
    pub urgent: Option<&'static Urgent>,
}

/// A reader of a room.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) mailbox: Mailbox<Delivery>,
    pub(super) terms: Terms,
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
    /// The room's head at that moment: what comes later is offered to the reader.
    pub head: u64,
    /// Whether the reader followed it before: then nothing has changed.
    pub already: bool,
    /// The room's state at that moment, unless the reader goes on from where it has it.
    pub snapshot: Option<Arc<Snapshot>>,
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
        /// How it wants to be treated.
        terms: Terms,
        /// Where the answer goes.
        reply: Option<oneshot::Sender<Joined>>,
    },
    /// The table that a pipeline has kept of the room so far.
    State(Vec<(SmolStr, Bytes)>),
    /// Retire if nobody needs the room.
    Retire,
}

impl Message for Order {
    type Stream = ();

    fn bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.bytes(),
            Self::State(table) => table.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Self::Join { .. } | Self::Retire => 0,
        }
    }

    fn policy(&self) -> Policy {
        order_policy(matches!(self, Self::Join { .. } | Self::State(_)))
    }
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
            state: Mutex::default(),
            head: AtomicU64::new(head),
            offered: AtomicU64::new(head),
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

    /// Its state, if a pipeline keeps one: every change up to the snapshot's seq is in it.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        // Asked before the table is looked at: what comes in between is in it too, and changes may be applied twice.
        let head = self.head();
        self.state.lock().as_mut().map(|state| state.snapshot(head))
    }

    /// What its state is known by for as long as the process lives: the table's number and the room's head. Of two that are the same, so are the states.
    #[must_use]
    pub fn state_version(&self) -> Option<(u64, u64)> {
        // As in a snapshot: what came in between is in it already, and the next one asked will say so.
        let head = self.head();
        self.state.lock().as_ref().map(|state| (state.number(), head))
    }

    /// The state of one key as JSON: the first `None` if the room has no state, the second if there is no such key.
    #[must_use]
    pub fn state_of(&self, key: &str) -> Option<Option<Bytes>> {
        self.state.lock().as_ref().map(|state| state.get(key))
    }

    /// How many keys its state has, and their bytes.
    #[must_use]
    pub fn state_size(&self) -> Option<(usize, usize)> {
        self.state.lock().as_ref().map(RoomState::size)
    }

    /// How many clients follow it.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.members.lock().values().filter(|member| !member.terms.internal).count()
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
        // More than that the log keeps only for somebody who still needs it.
        let bound = self.settings.retention.count.filter(|max| held.count <= *max);
        Some((held.first, bound.map_or(count, |max| count.min(max))))
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

    /// The first seq ever; 0 before that.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Acquire)
    }

    /// The last seq that was offered to the readers.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered.load(Ordering::Acquire)
    }

    /// Lets a reader go; the last seq that it was offered.
    pub fn leave(&self, subscriber: u64) -> u64 {
        self.used_ms.store(clock::now_ms(), Ordering::Relaxed);
        let mut members = self.members.lock();
        members.swap_remove(&subscriber);
        self.offered()
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
