//! Rooms: named streams of events. In come publishes and readers' wishes, out go numbered events to the log and to readers' mailboxes. Knows no transport.
//!
//! [`Rooms`] is the registry: it finds a room or brings it to be, and tells new rooms to those who follow by pattern. [`room`] is what everybody may ask a room directly, `history` what was before, `actor` is the room at work, [`tail`] its newest events in memory.

mod actor;
mod history;
pub mod keeper;
mod publish;
mod rate;
mod recent;
pub mod room;
mod sequencer;
mod state;
pub mod tail;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tidegate_actors::{Bounds, Child, Mailbox, OnFull, Refused, Supervisor, Window};
use tokio::sync::oneshot;

pub use history::{Gap, Start, Step};
pub use publish::{Publish, PublishError, Receipt};
pub use room::{Joined, Order, Room, Subscriber, Terms};
pub use sequencer::Sequencer;
pub use state::Snapshot;
pub use turns::Turns;

use crate::engine::connections::{Closing, Delivery};
use crate::event::{Cursor, Pattern, RoomName};
use crate::log::Log;
use crate::settings::Settings;

/// How long a reader waits for a place in a room's mailbox.
const JOIN_WAIT: Duration = Duration::from_secs(5);
/// How long to wait for a room that is just retiring before it is made anew.
const RETIRING_PAUSE: Duration = Duration::from_millis(1);
const RETIRING_TRIES: usize = 2000;

/// All rooms in memory. Clones share them.
#[derive(Clone)]
pub struct Rooms(Arc<Registry>);

struct Registry {
    rooms: DashMap<RoomName, Arc<Room>, ahash::RandomState>,
    /// Who follows by pattern; new rooms are matched against these.
    watchers: Mutex<Vec<Watcher>>,
    settings: Arc<Settings>,
    log: Log,
    turns: Turns,
    supervisor: Supervisor,
    /// Bytes of all rooms' tails.
    tails_bytes: Arc<AtomicUsize>,
    /// The highest number of rooms that are gone and were never in the log.
    floor: AtomicU64,
}

/// A reader that follows by pattern.
#[derive(Clone)]
struct Watcher {
    pattern: Pattern,
    subscriber: Arc<Subscriber>,
    terms: Terms,
    /// Whether it is just joining what there is: then it comes itself to rooms that hold something, each with its own start.
    joining: bool,
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rooms").field("rooms", &self.0.rooms.len()).finish_non_exhaustive()
    }
}

/// What came of a wish to follow.
#[derive(Debug, Default)]
pub struct Followed {
    /// The rooms joined.
    pub joined: Vec<Joined>,
    /// Whether there were more than the reader may follow.
    pub too_many: bool,
}

impl Rooms {
    /// A registry without rooms. Rooms run under `supervisor`.
    #[must_use]
    pub fn new(settings: Arc<Settings>, log: Log, supervisor: Supervisor) -> Self {
        Self(Arc::new(Registry {
            rooms: DashMap::default(),
            watchers: Mutex::new(Vec::new()),
            settings,
            log,
            turns: Turns::default(),
            supervisor,
            tails_bytes: Arc::new(AtomicUsize::new(0)),
            floor: AtomicU64::new(0),
        }))
    }

    /// How many rooms are in memory.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.rooms.len()
    }

    /// Bytes of all tails together.
    #[must_use]
    pub fn tails_bytes(&self) -> usize {
        self.0.tails_bytes.load(Ordering::Relaxed)
    }

    /// What all tails together may hold, in bytes.
    pub(super) fn tails_bytes_max(&self) -> usize {
        self.0.settings.log.tails_bytes
    }

    /// How often their readers get a sign of life.
    #[must_use]
    pub fn heartbeat(&self) -> &crate::settings::Heartbeat {
        &self.0.settings.heartbeat
    }

    /// The log behind the rooms.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// Who may take a step in history now.
    #[must_use]
    pub fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// The rooms in memory.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Room>> {
        self.0.rooms.iter().map(|room| Arc::clone(&room)).collect()
    }

    /// The rooms in memory that one of these patterns means.
    #[must_use]
    pub fn in_memory_of(&self, patterns: &[Pattern]) -> Vec<Arc<Room>> {
        if let [Pattern::Room(name)] = patterns {
            return self.in_memory(name).into_iter().collect();
        }
        let wanted = |name: &RoomName| patterns.iter().any(|pattern| pattern.matches(name));
        self.0.rooms.iter().filter(|room| wanted(room.key())).map(|room| Arc::clone(&room)).collect()
    }

    /// A room, if it is in memory.
    #[must_use]
    pub fn in_memory(&self, name: &RoomName) -> Option<Arc<Room>> {
        self.0.rooms.get(name).map(|room| Arc::clone(&room))
    }

    /// A room that is in memory, or of which the log holds something; `None` for a room that never was.
    ///
    /// # Errors
    /// [`PublishError::TooManyRooms`].
    pub fn find(&self, name: &RoomName) -> Result<Option<Arc<Room>>, PublishError> {
        if let Some(room) = self.in_memory(name) {
            // One that somebody follows and that never had an event is there for as long as it is followed.
            return Ok((room.head() > 0 || room.subscribers() > 0).then_some(room));
        }
        if self.0.log.room(name).is_some_and(|index| index.held().is_some()) {
            return self.get_or_create(name).map(Some);
        }
        Ok(None)
    }

    /// Whether a room is in memory, or the log holds something of it.
    fn is_there(&self, name: &RoomName) -> bool {
        self.0.rooms.contains_key(name) || self.0.log.room(name).is_some_and(|index| index.held().is_some())
    }

    /// The names of all rooms that match and that ever had an event or are followed: those in memory and those that only the log knows.
    #[must_use]
    pub fn names(&self, pattern: &Pattern) -> Vec<RoomName> {
        self.matching(pattern, |room| room.head() > 0 || room.subscribers() > 0)
    }

    fn matching(&self, pattern: &Pattern, wanted: impl Fn(&Room) -> bool) -> Vec<RoomName> {
        let in_memory = self.0.rooms.iter().filter(|room| wanted(room)).map(|room| room.key().clone());
        let all = in_memory.chain(self.0.log.rooms());
        let mut names: Vec<RoomName> = all.filter(|name| pattern.matches(name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The room of this name, brought to be if need be. It works as soon as its actor has started; its mailbox takes publishes at once.
    ///
    /// # Errors
    /// [`PublishError::TooManyRooms`].
    pub fn get_or_create(&self, name: &RoomName) -> Result<Arc<Room>, PublishError> {
        if let Some(room) = self.0.rooms.get(name) {
            return Ok(Arc::clone(&room));
        }
        if self.0.rooms.len() >= self.0.settings.limits.rooms {
            return Err(PublishError::TooManyRooms);
        }
        let room = match self.0.rooms.entry(name.clone()) {
            Entry::Occupied(entry) => return Ok(Arc::clone(entry.get())),
            Entry::Vacant(entry) => Arc::clone(&entry.insert(self.make(name))),
        };
        // Its followers come first: their wishes are in its mailbox before anybody else can know the room.
        let known = room.index().is_some_and(|index| index.held().is_some());
        let wanting = |watcher: &&Watcher| watcher.pattern.matches(name) && !(watcher.joining && known);
        // Only those that want it are copied: there may be thousands of others.
        let watchers = self.0.watchers.lock();
        let wanted: Vec<Watcher> = watchers.iter().filter(wanting).cloned().collect();
        drop(watchers);
        for Watcher { subscriber, terms, .. } in wanted {
            let start = Start::After(room.head());
            let order = Order::Join { subscriber, start, terms, reply: None };
            // The mailbox is new and takes orders of this kind whatever it holds.
            let _ = room.mailbox().answer(order);
        }
        let child = {
            let (registry, room) = (self.clone(), Arc::clone(&room));
            Child::new(format!("room {name}"), room.mailbox().clone(), actor::WINDOW, move || {
                actor::RoomActor::new(registry.clone(), Arc::clone(&room))
            })
        };
        let gone = {
            let (registry, room) = (self.clone(), Arc::clone(&room));
            move |_: &str| registry.give_up(&room)
        };
        if !self.0.supervisor.spawn_soon(child.gave_up(gone)) {
            room.mailbox().close_and_clear();
        }
        Ok(room)
    }

    fn make(&self, name: &RoomName) -> Arc<Room> {
        let Registry { settings, log, tails_bytes, .. } = &*self.0;
        let limits = &settings.limits;
        let bounds = Bounds { messages: limits.room_messages, bytes: limits.room_bytes };
        // The actor attaches when it starts.
        let (mailbox, _) = Mailbox::new(bounds);
        let floor = self.0.floor.load(Ordering::Acquire);
        Arc::new(Room::new(name, settings.rooms.of(name.namespace()), log, mailbox, Arc::clone(tails_bytes), floor))
    }

    /// A room whose actor failed too often: its readers are sent away, to come back with their cursors to its successor.
    fn give_up(&self, room: &Arc<Room>) {
        for member in room.members.lock().values() {
            Delivery::close(&member.mailbox, Closing::RoomFailed);
        }
        self.remove(room);
    }

    /// Takes a room out of the registry; its numbers stay spent.
    fn remove(&self, room: &Arc<Room>) {
        self.0.floor.fetch_max(room.head(), Ordering::AcqRel);
        self.0.rooms.remove_if(room.name(), |_, other| Arc::ptr_eq(other, room));
    }

    /// Hands a publish to its room without waiting; a refusal goes to the publish's own reply.
    pub fn publish(&self, name: &RoomName, publish: Publish) {
        let room = match self.get_or_create(name) {
            Ok(room) => room,
            Err(error) => return publish.refuse(error),
        };
        match room.mailbox().push(Order::Publish(publish)) {
            Ok(_) => {}
            Err(Refused { message: Order::Publish(publish), why: tidegate_actors::Full::Closed }) => {
                self.publish_again(name.clone(), publish);
            }
            Err(Refused { message: Order::Publish(publish), .. }) => publish.refuse(PublishError::RoomFull),
            Err(_) => {}
        }
    }

    /// A room that is just retiring takes nothing more; its successor will, in a moment.
    fn publish_again(&self, name: RoomName, publish: Publish) {
        let rooms = self.clone();
        // Bounded by the publishers that wait for their answers, and in time.
        tokio::spawn(async move {
            let mut publish = publish;
            for _ in 0..RETIRING_TRIES {
                tokio::time::sleep(RETIRING_PAUSE).await;
                let room = match rooms.get_or_create(&name) {
                    Ok(room) => room,
                    Err(error) => return publish.refuse(error),
                };
                match room.mailbox().push(Order::Publish(publish)) {
                    Err(Refused { message: Order::Publish(back), why: tidegate_actors::Full::Closed }) => {
                        publish = back
                    }
                    Err(Refused { message: Order::Publish(back), .. }) => return back.refuse(PublishError::RoomFull),
                    _ => return,
                }
            }
            publish.refuse(PublishError::Unavailable("the room does not come back".to_owned()));
        });
    }

    /// Has a reader follow everything it asks for and may read, up to `rooms_max` rooms. Rooms that come to be later and match a pattern are joined then.
    ///
    /// # Errors
    /// [`PublishError::TooManyRooms`], or a room that does not take readers now.
    pub async fn follow(
        &self,
        subscriber: &Arc<Subscriber>,
        patterns: &[Pattern],
        start: &StartAt,
        terms: Terms,
        rooms_max: usize,
        may: &(dyn Fn(&RoomName) -> bool + Sync),
    ) -> Result<Followed, PublishError> {
        let followed = self.follow_all(subscriber, patterns, start, terms, rooms_max, may).await;
        for watcher in self.0.watchers.lock().iter_mut().filter(|watcher| watcher.subscriber.id == subscriber.id) {
            watcher.joining = false;
        }
        followed
    }

    async fn follow_all(
        &self,
        subscriber: &Arc<Subscriber>,
        patterns: &[Pattern],
        start: &StartAt,
        terms: Terms,
        rooms_max: usize,
        may: &(dyn Fn(&RoomName) -> bool + Sync),
    ) -> Result<Followed, PublishError> {
        let alone = matches!(patterns, [Pattern::Room(_)]);
        let mut wanted: Vec<(RoomName, Start)> = Vec::new();
        for pattern in patterns {
            match pattern {
                Pattern::Room(name) => {
                    // A part of the daemon brings no room to be: it comes when there is one.
                    if terms.internal {
                        self.watch(pattern, subscriber, terms);
                    }
                    if !terms.internal || self.is_there(name) {
                        wanted.push((name.clone(), start.named(name, alone)));
                    }
                }
                Pattern::Prefix(_) => {
                    // First watch, then look: a room that comes to be in between is seen by one of the two.
                    self.watch(pattern, subscriber, terms);
                    // Also rooms whose first event is still on its way.
                    wanted.extend(self.matching(pattern, |_| true).into_iter().map(|name| {
                        let start = start.matched(&name);
                        (name, start)
                    }));
                }
            }
        }
        let mut seen = std::collections::HashSet::new();
        wanted.retain(|(name, _)| may(name) && seen.insert(name.clone()));
        let too_many = wanted.len() > rooms_max;
        wanted.truncate(rooms_max);
        let (mut waiting, mut fault) = (Vec::with_capacity(wanted.len()), None);
        for (name, start) in wanted {
            match self.join(subscriber, &name, start, terms).await {
                Ok(answer) => waiting.push(answer),
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        let mut joined = Vec::with_capacity(waiting.len());
        for answer in waiting {
            match tokio::time::timeout(JOIN_WAIT, answer).await {
                Ok(Ok(answer)) => joined.push(answer),
                Ok(Err(_)) | Err(_) => fault = Some(PublishError::Failed),
            }
        }
        let Some(fault) = fault else { return Ok(Followed { joined, too_many }) };
        // All or nothing: what was joined until then is left again.
        for new in joined.iter().filter(|joined| !joined.already) {
            new.room.leave(subscriber.id);
            subscriber.mailbox.forget(new.room.key());
        }
        Err(fault)
    }

    async fn join(
        &self,
        subscriber: &Arc<Subscriber>,
        name: &RoomName,
        start: Start,
        terms: Terms,
    ) -> Result<oneshot::Receiver<Joined>, PublishError> {
        let (reply, answer) = oneshot::channel();
        self.send_join(subscriber, name, start, terms, Some(reply)).await?;
        Ok(answer)
    }

    /// Has a reader join a room with what comes next, on somebody else's word: it is told through its mailbox.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub async fn invite(
        &self,
        subscriber: &Arc<Subscriber>,
        name: &RoomName,
        terms: Terms,
    ) -> Result<(), PublishError> {
        self.send_join(subscriber, name, Start::Live, terms, None).await
    }

    async fn send_join(
        &self,
        subscriber: &Arc<Subscriber>,
        name: &RoomName,
        start: Start,
        terms: Terms,
        reply: Option<oneshot::Sender<Joined>>,
    ) -> Result<(), PublishError> {
        let mut order = Order::Join { subscriber: Arc::clone(subscriber), start, terms, reply };
        for _ in 0..RETIRING_TRIES {
            let room = self.get_or_create(name)?;
            match room.mailbox().push_wait(order, JOIN_WAIT).await {
                Ok(_) => return Ok(()),
                Err(Refused { message, why: tidegate_actors::Full::Closed }) => order = message,
                Err(_) => return Err(PublishError::RoomFull),
            }
            tokio::time::sleep(RETIRING_PAUSE).await;
        }
        Err(PublishError::Failed)
    }

    /// Gives a room the table that a pipeline has kept of it: what it held before a restart.
    ///
    /// # Errors
    /// A room that does not take it now.
    pub async fn restore_state(&self, name: &RoomName, table: Vec<(SmolStr, Bytes)>) -> Result<(), PublishError> {
        let mut order = Order::State(table);
        for _ in 0..RETIRING_TRIES {
            let room = self.get_or_create(name)?;
            match room.mailbox().push_wait(order, JOIN_WAIT).await {
                Ok(_) => return Ok(()),
                Err(Refused { message, why: tidegate_actors::Full::Closed }) => order = message,
                Err(_) => return Err(PublishError::RoomFull),
            }
            tokio::time::sleep(RETIRING_PAUSE).await;
        }
        Err(PublishError::Failed)
    }

    fn watch(&self, pattern: &Pattern, subscriber: &Arc<Subscriber>, terms: Terms) {
        let mut watchers = self.0.watchers.lock();
        let same = |watcher: &Watcher| watcher.subscriber.id == subscriber.id && watcher.pattern == *pattern;
        if !watchers.iter().any(same) {
            let (pattern, subscriber) = (pattern.clone(), Arc::clone(subscriber));
            watchers.push(Watcher { pattern, subscriber, terms, joining: true });
        }
    }

    /// Takes back a reader's patterns; all of them with `None`.
    pub fn unwatch(&self, subscriber: u64, patterns: Option<&[Pattern]>) {
        self.0.watchers.lock().retain(|watcher| {
            let named = patterns.is_none_or(|patterns| patterns.contains(&watcher.pattern));
            watcher.subscriber.id != subscriber || !named
        });
    }
}

/// Where a reader wants to begin, over all its rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartAt {
    /// With what comes next.
    Live,
    /// After a cursor.
    After(Cursor),
    /// With what arrived at or after this time, in milliseconds since 1970.
    Since(u64),
    /// With the newest so many events of each room.
    Tail(u64),
}

impl StartAt {
    /// Where to begin in a room that was asked for by name.
    fn named(&self, name: &RoomName, alone: bool) -> Start {
        match self {
            // A cursor that does not name the room was given out before it was asked for.
            Self::After(cursor) => cursor.of(name, alone).map_or(Start::Live, Start::After),
            other => other.matched(name),
        }
    }

    /// Where to begin in a room that a pattern matched.
    fn matched(&self, name: &RoomName) -> Start {
        match self {
            Self::Live => Start::Live,
            // A cursor names every room that there was; what it does not name has come to be since.
            Self::After(cursor) => Start::After(cursor.of(name, false).unwrap_or(0)),
            Self::Since(ms) => Start::Since(*ms),
            Self::Tail(count) => Start::Tail(*count),
        }
    }
}

/// Publishes are refused when full; readers' wishes wait.
pub(super) const fn order_policy(wait: bool) -> tidegate_actors::Policy {
    tidegate_actors::Policy::on_full(if wait { OnFull::Wait } else { OnFull::Reject })
}

/// How much a room takes at once; see `actor`.
pub(super) const ROOM_WINDOW: Window = Window { messages: 256, bytes: 4 << 20 };
