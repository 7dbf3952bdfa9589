//! The room at work: numbers what is published, hands it to the log and to its readers at the same time, takes readers in.
//!
//! Messages: publishes (refused when the mailbox is full), readers' joins (wait for a place), retire. All in one lane, in the order in which they came. Supervisor: the rooms' supervisor. What survives a restart:
//! the head, the tail and the readers, which live in [`Room`]; the readers then read on from the history, so that none misses what was numbered but not delivered.
//!
//! Per delivery: one lock of the reader's mailbox and one reference count, by `benches/fanout.rs`; several waiting publishes go to a reader under one lock and with one wake.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox, OnFull, Reason, Told, Window};
use tokio::sync::oneshot;

use super::history::Start;
use super::publish::{Publish, PublishError, Receipt};
use super::recent::{Origin, Recent};
use super::room::{Joined, Member, Order, Room, Subscriber, Terms};
use super::sequencer::Sequencer;
use super::state::RoomState;
use super::{ROOM_WINDOW, Rooms};
use crate::clock;
use crate::engine::connections::{Closing, Delivery};
use crate::event::{Ack, Event};
use crate::log::LogError;
use crate::metrics::record;

/// How much a room takes at once: enough to commit and deliver together what comes together, not so much that a join waits long.
pub(super) const WINDOW: Window = ROOM_WINDOW;
/// After so many readers others may run.
const READERS_AT_ONCE: usize = 4096;
/// How many of a room's last events are looked through for ids when it comes into memory.
const WARM_EVENTS: usize = 1000;

pub(super) struct RoomActor {
    rooms: Rooms,
    room: Arc<Room>,
    sequencer: Sequencer,
    recent: Recent,
    /// Whether the last events before this start were looked through.
    warm: bool,
    /// Numbered, and not yet offered to the readers.
    fresh: Vec<Arc<Event>>,
    /// Whether the log had no place in this batch.
    log_busy: bool,
}

impl RoomActor {
    pub(super) fn new(rooms: Rooms, room: Arc<Room>) -> Self {
        let floor = room.floor.max(rooms.log().floor());
        // What this process numbered itself it knows exactly, however the log was left the last time.
        let exact = room.index().is_none_or(|index| index.numbered_here());
        let clean = exact || rooms.log().was_clean();
        let sequencer = Sequencer::after(room.head(), floor, clean);
        Self { rooms, room, sequencer, recent: Recent::default(), warm: false, fresh: Vec::new(), log_busy: false }
    }

    /// Brings the room's last events into memory and remembers their ids, so that a repetition is known after a restart too.
    async fn warm_up(&mut self) {
        self.warm = true;
        let room = &self.room;
        let head = room.head();
        if head == 0 {
            return;
        }
        let empty = room.tail.lock().is_empty();
        let events_max = WARM_EVENTS.min(room.settings().tail_events);
        if empty
            && events_max > 0
            && let Some(index) = room.index()
            && let Some(after) = index.before_newest(events_max as u64)
        {
            match self.rooms.log().read_wait(room.key(), index, after, events_max).await {
                // A tail that does not end where the log ends would have a hole in it.
                Ok(events) if events.last().is_none_or(|last| last.seq != index.logged()) => {}
                Ok(events) => {
                    let mut tail = room.tail.lock();
                    tail.restore(events);
                    room.tails_bytes.fetch_add(tail.bytes(), Ordering::Relaxed);
                }
                // Readers read from the disk then, and say so if it cannot be read.
                Err(error) => tracing::error!(room = %room.name(), %error, "a room's last events cannot be read"),
            }
        }
        let events = room.tail.lock().after(0, usize::MAX, usize::MAX);
        self.remember(&events, clock::now_ms());
    }

    /// Numbers a publish, or says why not.
    async fn publish(&mut self, mut publish: Publish) {
        let received = publish.events.len();
        let known = self.drop_known(&mut publish.events);
        let repeated = |first: u64| known.iter().map(|(place, origin)| (*place, origin.seq(first))).collect();
        let duplicates = received - publish.events.len();
        let permits = self.rooms.log().permits(publish.events.len().max(1));
        // A place in the log first: no number is spent on what cannot be kept.
        if let Err(error) = self.reserve(permits).await {
            return publish.refuse(PublishError::Log(error));
        }
        if publish.events.is_empty() {
            let repeated: Vec<(usize, u64)> = repeated(0);
            let seq = repeated.first().map_or(0, |(_, seq)| *seq);
            self.room.meter.published(0, duplicates);
            // The first publish may still be on its way to the disk: this waits behind it, so that its answer is worth as much.
            let logged = self.keep(&SmallVec::new(), publish.ack, permits);
            return publish.answer(Receipt { count: 0, first_seq: seq, last_seq: seq, duplicates, repeated, logged });
        }
        let (events, logged) = self.number(&mut publish.events, publish.ack, permits);
        let (first_seq, last_seq) = (events[0].seq, events[events.len() - 1].seq);
        let count = events.len();
        self.fresh.extend(events);
        self.room.meter.published(count, duplicates);
        let repeated = repeated(first_seq);
        publish.answer(Receipt { count, first_seq, last_seq, duplicates, repeated, logged });
    }

    /// Reserves a place in the log. Readers do not wait for it: what is numbered is delivered first. When the log had no place for one publish of a batch, the others do not wait for it again.
    async fn reserve(&mut self, permits: u32) -> Result<(), LogError> {
        if self.room.index().is_none() {
            return Ok(());
        }
        let log = self.rooms.log();
        if let Some(fault) = log.fault() {
            return Err(fault);
        }
        if log.try_reserve(permits) {
            return Ok(());
        }
        if self.log_busy {
            return Err(LogError::Busy("events wait for the disk"));
        }
        // In a box, as all that is rare here: an idle room keeps a place for whatever its actor may come to wait for.
        Box::pin(async {
            self.deliver().await;
            let rooms = self.rooms.clone();
            let reserved = rooms.log().reserve(permits).await;
            self.log_busy = reserved.is_err();
            reserved
        })
        .await
    }

    /// Takes out events whose id is known, also of those that stand twice in one publish; their places, and what each repeats.
    fn drop_known(&mut self, events: &mut SmallVec<[crate::event::NewEvent; 1]>) -> Vec<(usize, Origin)> {
        if events.iter().all(|event| event.id.is_none()) || self.room.settings().idempotency_window.is_zero() {
            return Vec::new();
        }
        self.forget_old(clock::now_ms());
        let (mut known, mut here) = (Vec::new(), std::collections::HashMap::new());
        let (mut place, mut kept) = (0, 0);
        events.retain(|event| {
            let origin = event.id.as_ref().and_then(|id| {
                if let Some(seq) = self.recent.seq_of(id) {
                    return Some(Origin::Before(seq));
                }
                let first = *here.entry(id.clone()).or_insert(kept);
                (first != kept).then_some(Origin::Here(first))
            });
            place += 1;
            match origin {
                Some(origin) => known.push((place - 1, origin)),
                None => kept += 1,
            }
            origin.is_none()
        });
        known
    }

    /// Numbers events and hands them to the log and to the tail.
    fn number(
        &mut self,
        events: &mut SmallVec<[crate::event::NewEvent; 1]>,
        ack: Ack,
        permits: u32,
    ) -> (SmallVec<[Arc<Event>; 1]>, Option<oneshot::Receiver<()>>) {
        let now_us = clock::now_us();
        // A clock that goes back does not take the order of arrival with it.
        let now_ms = (now_us / 1000).max(self.room.arrived_ms.load(Ordering::Relaxed));
        let first = self.sequencer.take(events.len() as u64);
        self.enter_changes(events);
        let events: SmallVec<[Arc<Event>; 1]> = events
            .drain(..)
            .zip(first..)
            .map(|(event, seq)| Arc::new(Event::number(self.room.key(), seq, now_ms, now_us, event)))
            .collect();
        let last = first + events.len() as u64 - 1;
        self.room.created.compare_exchange(0, first, Ordering::AcqRel, Ordering::Relaxed).ok();
        if let Some(index) = self.room.index() {
            index.begin(first);
            index.note_numbered(last);
        }
        let mut bytes = 0;
        let logged = {
            let mut tail = self.room.tail.lock();
            // First the log's queue, under the tail's lock: whoever reads an event from the tail and writes of it comes after it in the log.
            let logged = self.keep(&events, ack, permits);
            for event in &events {
                bytes += event.bytes();
                tail.push(Arc::clone(event));
            }
            logged
        };
        self.room.tails_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.room.head.store(last, Ordering::Release);
        self.room.arrived_ms.store(now_ms, Ordering::Relaxed);
        self.room.used_ms.store(now_ms, Ordering::Relaxed);
        self.room.note_published(events.len(), now_us);
        self.remember(&events, now_ms);
        (events, logged)
    }

    /// Enters changes of the room's state into its table.
    fn enter_changes(&self, events: &mut SmallVec<[crate::event::NewEvent; 1]>) {
        let mut changes = events.iter().filter_map(|event| event.change.as_deref()).peekable();
        if changes.peek().is_some() {
            let mut state = self.room.state.lock();
            let state = state.get_or_insert_with(|| RoomState::of(Vec::new()));
            changes.for_each(|change| state.apply(change.clone()));
        }
    }

    fn remember(&mut self, events: &[Arc<Event>], now_ms: u64) {
        let settings = self.room.settings();
        if settings.idempotency_window.is_zero() {
            return;
        }
        for event in events {
            if let Some(id) = &event.id {
                self.recent.remember(id.clone(), event.seq, event.arrived_ms);
            }
        }
        self.forget_old(now_ms);
    }

    /// Forgets ids whose time is over.
    fn forget_old(&mut self, now_ms: u64) {
        let settings = self.room.settings();
        let window_ms = u64::try_from(settings.idempotency_window.as_millis()).unwrap_or(u64::MAX);
        self.recent.forget(now_ms.saturating_sub(window_ms), settings.idempotency_ids);
    }

    fn keep(
        &self,
        events: &SmallVec<[Arc<Event>; 1]>,
        ack: Ack,
        permits: u32,
    ) -> Option<tokio::sync::oneshot::Receiver<()>> {
        let index = self.room.index()?;
        self.rooms.log().append_reserved(index, events.clone(), ack, permits)
    }

    /// Offers what was numbered to all readers.
    async fn deliver(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        if self.room.settings().policy.on_full == OnFull::Wait {
            Box::pin(self.deliver_waiting()).await;
        } else {
            self.deliver_to_all().await;
        }
        self.fresh.clear();
        self.room.trim_tail(self.room.last_arrived_ms(), self.rooms.tails_bytes_max());
    }

    /// Offers to all readers, and lets go those whose mailbox is closed.
    async fn deliver_to_all(&self) {
        let mut closed = Vec::new();
        let many = {
            let members = self.room.members.lock();
            self.note_offered(members.len());
            let many = members.len() > READERS_AT_ONCE;
            if !many {
                members.iter().for_each(|(id, member)| self.offer(*id, member, &mut closed));
            }
            many.then(|| members.iter().map(|(id, member)| (*id, member.clone())).collect::<Vec<_>>())
        };
        // A list of its own, because readers come and go while others run in between.
        if let Some(many) = many {
            let closed = &mut closed;
            Box::pin(async move {
                for some in many.chunks(READERS_AT_ONCE) {
                    some.iter().for_each(|(id, member)| self.offer(*id, member, closed));
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        for id in closed {
            // It closed between two looks; what was counted as due to it comes to nobody.
            record::abandoned(self.fresh.len() as u64);
            self.room.leave(id);
        }
    }

    /// Counts what is due to so many readers. Under the lock of the readers, so that one that leaves knows exactly what it was offered.
    fn note_offered(&self, readers: usize) {
        if let Some(last) = self.fresh.last() {
            self.room.offered.store(last.seq, Ordering::Release);
        }
        self.room.meter.due(self.fresh.len() * readers);
    }

    fn offer(&self, id: u64, Member { mailbox, terms }: &Member, closed: &mut Vec<u64>) {
        let mut told = Told::default();
        mailbox.offer_all(self.fresh.iter().map(|event| Delivery::of(event, terms)), &mut told);
        if terms.disconnect && told.shed > 0 {
            Delivery::close(mailbox, Closing::TooSlow);
        }
        if told.closed {
            closed.push(id);
        }
    }

    /// Offers to all readers and waits for those that are full, all of them together no longer than the namespace says.
    async fn deliver_waiting(&self) {
        let members: Vec<_> = {
            let members = self.room.members.lock();
            self.note_offered(members.len());
            members.values().cloned().collect()
        };
        let deadline = tokio::time::Instant::now() + self.room.settings().wait;
        for Member { mailbox, terms } in members {
            if terms != Terms::default() {
                // It does not want to be waited for.
                self.offer(0, &Member { mailbox, terms }, &mut Vec::new());
                continue;
            }
            for event in &self.fresh {
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                let sent = mailbox.push_wait(Delivery::of(event, &Terms::default()), left).await;
                if let Err(refused) = sent {
                    mailbox.shed(&refused.message, Reason::TimedOut);
                }
            }
        }
    }

    /// Takes in a reader. Everything numbered so far has been offered to the others; everything numbered later will be offered to this one too.
    fn join(&self, subscriber: &Subscriber, start: Start, terms: Terms, reply: Option<oneshot::Sender<Joined>>) {
        let (room, head) = (&self.room, self.room.head());
        // A reader that has gone meanwhile would never leave; one that is here already keeps its place.
        let already = room.members.lock().contains_key(&subscriber.id);
        if subscriber.mailbox.is_closed() || (already && reply.is_none()) {
            return;
        }
        room.used_ms.store(clock::now_ms(), Ordering::Relaxed);
        let (after, gap) = if already { (head, None) } else { room.begin(start) };
        let since_ms = if let Start::Since(ms) = start { ms } else { 0 };
        // Who goes on from a cursor has the state as it was there, and every change since comes to it.
        let goes_on = already || matches!(start, Start::After(_)) && gap.is_none() && after > 0;
        // A pipeline takes the changes themselves.
        let snapshot = if goes_on || terms.internal { None } else { room.snapshot() };
        let joined = Joined { room: Arc::clone(room), after, since_ms, gap, head, already, snapshot };
        // Told first: whatever the room sends from here on meets a reader that knows it.
        match reply {
            Some(reply) => drop(reply.send(joined)),
            None => Delivery::joined(&subscriber.mailbox, joined),
        }
        if !already {
            room.members.lock().insert(subscriber.id, Member { mailbox: subscriber.mailbox.clone(), terms });
            subscriber.mailbox.follow(room.key().clone(), after, head);
        }
    }

    /// Takes the table that a pipeline has kept; who came before it was there gets it now.
    fn take_state(&self, table: Vec<(smol_str::SmolStr, bytes::Bytes)>) {
        *self.room.state.lock() = Some(RoomState::of(table));
        let Some(snapshot) = self.room.snapshot() else { return };
        for member in self.room.members.lock().values().filter(|member| !member.terms.internal) {
            Delivery::snapshot(&member.mailbox, self.room.key().clone(), Arc::clone(&snapshot));
        }
    }

    fn retire(&self, inbox: &Inbox<Order>) {
        let room = &self.room;
        room.members.lock().retain(|_, member| !member.mailbox.is_closed());
        let idle_ms = clock::now_ms().saturating_sub(room.used_ms.load(Ordering::Relaxed));
        let idle = u128::from(idle_ms) >= room.settings().idle_after.as_millis();
        // What only this memory holds keeps the room in it.
        let kept_elsewhere = match room.index() {
            Some(index) => index.logged() >= room.head(),
            None => room.tail.lock().is_empty(),
        };
        let stateless = room.state.lock().is_none();
        if idle && stateless && kept_elsewhere && room.members.lock().is_empty() {
            // If it closes, pushes are refused from here on, and come again to the room's successor.
            let _ = inbox.mailbox().close_if_empty();
        }
    }
}

impl Handler for RoomActor {
    type Message = Order;
    type Output = ();

    async fn started(&mut self) -> Result<(), Fault> {
        let head = self.room.head();
        for member in self.room.members.lock().values() {
            // After a failure: what was numbered and not delivered is read from the history.
            member.mailbox.follow(self.room.key().clone(), 0, head);
        }
        Ok(())
    }

    async fn handle(&mut self, batch: &mut Batch<Order>, inbox: &mut Inbox<Order>) -> Result<Flow<()>, Fault> {
        self.log_busy = false;
        if !self.warm {
            Box::pin(self.warm_up()).await;
        }
        let mut retire = false;
        for order in batch.messages.drain(..) {
            match order {
                Order::Publish(publish) => self.publish(publish).await,
                Order::Join { subscriber, start, terms, reply } => {
                    self.deliver().await;
                    self.join(&subscriber, start, terms, reply);
                }
                Order::State(table) => {
                    self.deliver().await;
                    self.take_state(table);
                }
                Order::Retire => retire = true,
            }
        }
        self.deliver().await;
        if retire {
            self.retire(inbox);
        }
        Ok(Flow::Continue)
    }

    async fn stopped(&mut self) {
        self.rooms.remove(&self.room);
    }
}
