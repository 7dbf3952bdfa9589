//! One reader at work: takes deliveries from its mailbox, keeps its place in each room, reads on from the history where it is behind, and has its dialect write it all down.
//!
//! Runs on the light runner, in the task that owns the socket, and never waits itself: what it needs from the disk it asks for and gets through its mailbox. Mailbox: `limits.mailbox_messages` and
//! `limits.mailbox_bytes`; what is shed is told to the client. Beginning to follow and falling behind are one thing: the room puts the stream *behind*, the session reads
//! the history up to where the mailbox says that it is level, and from there the room's events come through the mailbox; so replay joins live without gap, duplicate or reordering.
//!
//! `follow` is what joins and leaves rooms, `catch_up` what reads the history, `moving` what takes it to another socket, `serve` what keeps to the reader's contract, `books` what counts. Bytes, idle: the session about 0.6 KB, its mailbox 0.4 KB; per delivery: one map look-up and the dialect's part.

mod books;
mod catch_up;
mod follow;
mod moving;
mod place;
mod serve;

use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use indexmap::IndexMap;
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox, Mailbox, Shed};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::dialect::Position;
use super::profile::Profile;
use super::thin::Thin;
use super::{Closing, Contract, Control, Delivery, Dialect, Notice};
use crate::clock;
use crate::engine::rooms::{Gap, Room, Rooms, Subscriber};
use crate::event::{Event, Pattern, RoomKey, RoomName};
use crate::log::LogError;
use crate::metrics::record::{self, TransportMeter};

pub use books::Seen;
pub use follow::{Begun, Missed};
use place::Place;

/// What is gathered for one write, in bytes; what is left waits for the next.
const WRITE_BYTES: usize = 128 << 10;

/// A room that the reader follows.
#[derive(Debug)]
struct Follow {
    room: Arc<Room>,
    /// The last seq written, or where the stream began.
    reached: u64,
    /// Events that arrived earlier are not wanted.
    since_ms: u64,
    /// The room's head when the reader joined: what is later came while it was here.
    joined_at: u64,
    /// Up to here everything later than that is in the books.
    settled: u64,
    /// Told as shed, and still ahead of `settled`.
    told_ahead: u64,
    /// How it is served, where that is not simply with every event.
    served: Option<Box<Served>>,
}

/// How a room is served to a reader that asked for something, or that has its state.
#[derive(Debug)]
struct Served {
    contract: Option<Arc<Contract>>,
    /// What gives it fewer events.
    thin: Option<Thin>,
    /// Changes of the state up to here are in the snapshot that it got.
    state_seq: u64,
}

impl Follow {
    /// Whether waiting events of it give way to newer ones of their key.
    fn conflates(&self) -> bool {
        let asked = self.served.as_ref().and_then(|served| served.contract.as_ref()?.terms().policy);
        asked.unwrap_or(self.room.key().policy()).conflate
    }

    /// How many of its events are held for their time.
    fn held(&self) -> u64 {
        self.served.as_ref().and_then(|served| served.thin.as_ref()).map_or(0, Thin::held)
    }

    /// Where a reader that broke off now would have to go on: before what is held.
    fn cursor(&self) -> u64 {
        let held = self.served.as_ref().and_then(|served| served.thin.as_ref()?.first_held());
        held.map_or(self.reached, |first| first - 1)
    }
}

/// The keys are addresses, which no client chooses, so the hasher needs no secret of its own (and takes no place for one).
type Follows = IndexMap<RoomKey, Follow, BuildHasherDefault<ahash::AHasher>>;

/// What wakes a reader to let go what it holds: one sleeping task at a time, which ends with it.
#[derive(Debug)]
struct Alarm {
    at: Instant,
    task: AbortHandle,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was asked for by patterns, and how it is to be served.
type Contracts = Vec<(Pattern, Option<Arc<Contract>>)>;

/// Rooms by name.
type LeftOut = Vec<RoomName>;

/// A reader.
pub struct Session<D: Dialect> {
    rooms: Rooms,
    subscriber: Arc<Subscriber>,
    profile: Arc<Profile>,
    dialect: D,
    meter: &'static TransportMeter,
    follows: Follows,
    /// Rooms whose history is being read, next one first.
    behind: VecDeque<RoomKey>,
    /// What was given up and is not told yet: each run is told in its place in the order of its room.
    shed: Vec<Shed<RoomKey>>,
    // Small, because there are many of these.
    rooms_max: u32,
    /// Whether it follows one room by its name, whose seq is its cursor.
    alone: bool,
    /// Whether an answer from the disk is awaited, or a turn.
    reading: bool,
    /// Whether it may take a step in history now.
    turn: bool,
    closing: Option<Closing>,
    /// How what it asked for by these patterns is served, where it said.
    contracts: Option<Box<Contracts>>,
    /// When it is woken to let go what it holds.
    alarm: Option<Box<Alarm>>,
    /// Rooms that it has left though a pattern of its own names them.
    left_out: Option<Box<LeftOut>>,
    /// Whether all of it went on to another session.
    moved: bool,
    /// Due to it in rooms that it has left.
    left_due: u64,
    /// Who wants to know how it stands: told at the end of a step, when the books are in order.
    asked: Vec<oneshot::Sender<Seen>>,
}

impl<D: Dialect> std::fmt::Debug for Session<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.subscriber.id).finish_non_exhaustive()
    }
}

impl<D: Dialect> Session<D> {
    /// A reader that follows nothing yet.
    #[must_use]
    pub fn new(
        rooms: Rooms,
        subscriber: Arc<Subscriber>,
        profile: Arc<Profile>,
        dialect: D,
        meter: &'static TransportMeter,
        rooms_max: usize,
    ) -> Self {
        meter.opened();
        Self {
            rooms,
            subscriber,
            profile,
            dialect,
            meter,
            follows: Follows::default(),
            behind: VecDeque::new(),
            reading: false,
            turn: false,
            alone: false,
            shed: Vec::new(),
            rooms_max: u32::try_from(rooms_max).unwrap_or(u32::MAX),
            closing: None,
            contracts: None,
            alarm: None,
            left_out: None,
            moved: false,
            left_due: 0,
            asked: Vec::new(),
        }
    }

    /// The rooms it follows from.
    #[must_use]
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// The reader's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.subscriber.id
    }

    /// How rooms know it.
    #[must_use]
    pub fn subscriber(&self) -> &Arc<Subscriber> {
        &self.subscriber
    }

    /// How it is seen from outside.
    #[must_use]
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// Where it stands.
    #[must_use]
    pub fn cursor(&self) -> String {
        let mut text = String::new();
        self.place().write(&mut text);
        text
    }

    /// Where it stands in each room that it follows.
    #[must_use]
    pub fn positions(&self) -> Vec<(RoomName, u64)> {
        self.follows.values().map(|follow| (follow.room.name().clone(), follow.cursor())).collect()
    }

    /// How many events wait for it: in its mailbox, and in the rooms whose history it reads.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        let behind = self.behind.iter().filter_map(|key| self.follows.get(key));
        let unread: u64 = behind.map(|follow| follow.room.head().saturating_sub(follow.reached)).sum();
        self.mailbox().depth().messages as u64 + unread
    }

    /// Whether it has everything that there is for it.
    #[must_use]
    pub fn is_level(&self) -> bool {
        self.behind.is_empty() && !self.reading && self.mailbox().depth().messages == 0
    }

    /// How many rooms it follows now.
    #[must_use]
    pub fn following(&self) -> usize {
        self.follows.len()
    }

    /// Its mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox<Delivery> {
        &self.subscriber.mailbox
    }

    /// Why it ended, if the daemon ended it.
    #[must_use]
    pub fn closing(&self) -> Option<Closing> {
        self.closing
    }

    /// The dialect, for what its transport wants to say itself.
    pub fn dialect(&mut self) -> &mut D {
        &mut self.dialect
    }

    /// Has the dialect write a notice.
    pub fn tell(&mut self, notice: &Notice<'_>) {
        let place = Place { follows: &self.follows, alone: self.alone, instead: None };
        self.dialect.notice(notice, &place);
    }

    /// Hands out what was gathered.
    pub fn take(&mut self) -> Option<D::Output> {
        let place = Place { follows: &self.follows, alone: self.alone, instead: None };
        self.dialect.take(&place)
    }

    /// Whether it is a part of the daemon.
    fn is_internal(&self) -> bool {
        let mut contracts = self.contracts.iter().flat_map(|contracts| contracts.iter());
        contracts.any(|(_, contract)| contract.as_ref().is_some_and(|contract| contract.internal))
    }

    fn place(&self) -> Place<'_> {
        Place { follows: &self.follows, alone: self.alone, instead: None }
    }

    fn tell_gap(&mut self, room: &RoomName, gap: Gap) {
        self.meter.gap();
        self.tell(&Notice::Gap { room, gap });
    }

    /// Writes an event, if it is one that the reader wants and did not have; how many were written.
    fn write(&mut self, event: &Arc<Event>) -> u64 {
        // Most follow one room, which needs no look into the map.
        let only = if self.follows.len() == 1 {
            self.follows.get_index_mut(0).filter(|(key, _)| **key == event.room)
        } else {
            None
        };
        let follow = match only {
            Some((_, follow)) => follow,
            None => match self.follows.get_mut(&event.room) {
                Some(follow) => follow,
                None => return 0,
            },
        };
        if event.seq <= follow.reached {
            return 0;
        }
        follow.reached = event.seq;
        books::settle(follow, event.seq, &self.profile.books, self.meter);
        if event.arrived_ms < follow.since_ms {
            self.profile.books.filtered.add(1);
            self.meter.filtered(1);
            return 0;
        }
        if follow.served.is_some() {
            return self.serve(event);
        }
        let place = Place { follows: &self.follows, alone: self.alone, instead: None };
        self.dialect.event(event, &place);
        1
    }

    fn control(&mut self, control: Control, inbox: &mut Inbox<Delivery>) {
        match control {
            Control::Joined(joined) => self.joined(joined, inbox),
            Control::Read { room, head, outcome } => {
                self.reading = false;
                match outcome {
                    Ok(events) => self.read_on(&room, head, &events, inbox),
                    // A pipeline or a sink passes over nothing that may be read in a moment.
                    Err(error) if self.is_internal() && !matches!(error, LogError::Damaged { .. }) => {
                        tracing::warn!(room = %room.name(), %error, "the history cannot be read now; it is tried again");
                        self.ask_later(inbox);
                    }
                    Err(error) => self.skip_unreadable(&room, &error),
                }
            }
            Control::Snapshot(room, snapshot) => self.take_state(&room, &snapshot),
            Control::ReadAgain => (self.reading, self.turn) = (false, true),
            Control::Expiring { at_ms } => self.tell(&Notice::Expiring { at_ms }),
            Control::Rights => self.leave_what_is_not_allowed(),
            Control::Follow(change, contract) => self.follow_too(change, contract),
            Control::Unfollow(change) => {
                self.leave_out(&change.rooms);
                self.dialect.relay(&*change.say);
                let _ = change.done.send(());
            }
            Control::NotFollowed(room) => {
                self.unfollow(&[Pattern::Room(room.clone())]);
                let message = format!("the room {room} takes no readers now; subscribe again");
                self.tell(&Notice::error("room_full", &message));
            }
            Control::Say(what) => self.dialect.relay(&*what),
            // Of a socket that it has left already it need not hear.
            Control::TakenOver(kill) if kill.is_same(&self.profile.kill) => self.closing = Some(Closing::TakenOver),
            Control::TakenOver(_) => {}
            Control::Inspect(reply) => self.asked.push(reply),
            Control::Close(closing) => self.closing = Some(closing),
        }
    }

    /// Tells what was given up: of one room before one of its events, or all that is left.
    fn tell_shed(&mut self, before: Option<(&RoomKey, u64)>) {
        let mut index = 0;
        while let Some(run) = self.shed.get(index) {
            let due = before.is_none_or(|(room, seq)| run.stream == *room && run.from < seq);
            if !due {
                index += 1;
                continue;
            }
            let run = self.shed.remove(index);
            let Some(follow) = self.follows.get_mut(&run.stream) else { continue };
            follow.told_ahead += run.count;
            let (room, reason) = (run.stream.name(), run.reason.name());
            record::shed(room.namespace(), run.lane.name(), reason, run.count);
            self.profile.books.shed(run.reason, run.count);
            let (from_seq, to_seq, count) = (run.from, run.to, run.count);
            self.tell(&Notice::Dropped { room, from_seq, to_seq, count, reason });
            let covered = self.follows.get(&run.stream).and_then(|follow| follow.served.as_ref());
            if covered.is_none_or(|served| served.state_seq < run.to) {
                self.renew_state(&run.stream);
            }
        }
    }
}

impl<D: Dialect> Handler for Session<D> {
    type Message = Delivery;
    type Output = D::Output;

    async fn handle(
        &mut self,
        batch: &mut Batch<Delivery>,
        inbox: &mut Inbox<Delivery>,
    ) -> Result<Flow<D::Output>, Fault> {
        let before = self.profile.books.delivered.get();
        let mut delivered = 0;
        self.shed.append(&mut batch.shed);
        for delivery in batch.messages.drain(..) {
            match delivery {
                Delivery::Event(event) | Delivery::EventFor(event, ..) => {
                    if !self.shed.is_empty() {
                        self.tell_shed(Some((&event.room, event.seq)));
                    }
                    let written = self.write(&event);
                    if written > 0 {
                        delivered += written;
                        self.note_latency(&event);
                        if let Some(trace) = &event.trace {
                            trace.delivered(event.seq, event.numbered_us, self.subscriber.id, self.meter.name);
                        }
                    }
                }
                Delivery::Control(control) => self.control(*control, inbox),
            }
        }
        self.profile.books.delivered.add(delivered);
        if !self.shed.is_empty() && inbox.mailbox().depth().messages == 0 {
            // Nothing waits that would come before them.
            self.tell_shed(None);
        }
        for (key, _) in batch.behind.drain(..) {
            // A reader that has just joined reads the history too, and has not fallen behind.
            if self.follows.get(&key).is_none_or(|follow| follow.reached >= follow.joined_at) {
                self.meter.caught_up();
                self.profile.books.catch_ups.add(1);
            }
            self.behind.push_back(key);
        }
        if self.closing.is_none() {
            self.catch_up(inbox);
        }
        if self.contracts.is_some() {
            self.let_go_what_is_due(inbox);
        }
        let delivered = self.profile.books.delivered.get() - before;
        if delivered > 0 {
            self.meter.delivered(delivered);
            self.profile.books.delivered_at_ms.set(clock::coarse_ms());
        }
        if !self.asked.is_empty() {
            let seen = self.seen();
            for reply in std::mem::take(&mut self.asked) {
                // Whoever asked may have gone.
                let _ = reply.send(seen.clone());
            }
        }
        Ok(match self.take() {
            Some(output) => {
                if self.closing.is_some() {
                    // So that it comes to its end, also if nothing more waits for it.
                    inbox.mailbox().tick();
                }
                Flow::Yield(output)
            }
            None if self.closing.is_some() => Flow::Stop,
            None => Flow::Continue,
        })
    }
}

impl<D: Dialect> Drop for Session<D> {
    fn drop(&mut self) {
        self.meter.closed();
        if self.moved {
            return;
        }
        // First it leaves those it knows, and what they had for it until then is in the books; then it is closed, so that no other takes it in.
        for follow in std::mem::take(&mut self.follows).into_values() {
            books::leave(follow, self.subscriber.id, &self.profile.books, self.meter);
        }
        self.rooms.unwatch(self.subscriber.id, None);
        for delivery in self.subscriber.mailbox.close_and_take() {
            // A room that it had joined by a pattern and not heard of yet.
            if let Delivery::Control(control) = delivery
                && let Control::Joined(joined) = *control
            {
                self.pass_over(&joined);
            }
        }
    }
}
