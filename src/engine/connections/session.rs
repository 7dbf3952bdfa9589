//! One reader at work: takes deliveries from its mailbox, keeps its place in each room, reads on from the history where it is behind, and has its dialect write it all down.
//!
//! Runs on the light runner, in the task that owns the socket, and never waits itself: what it needs from the disk it asks for and gets through its mailbox. Mailbox: `limits.mailbox_messages` and
//! `limits.mailbox_bytes`; what is shed is told to the client. Beginning to follow and falling behind are one thing: the room puts the stream *behind*, the session reads
//! the history up to where the mailbox says that it is level, and from there the room's events come through the mailbox; so replay joins live without gap, duplicate or reordering.
//!
//! Bytes, idle: the session about 0.6 KB, its mailbox 0.4 KB; per delivery: one map look-up and the dialect's part.

mod catch_up;

use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use indexmap::IndexMap;
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox, Level, Mailbox, Shed};

use super::dialect::Position;
use super::{Closing, Control, Delivery, Dialect, Notice};
use crate::engine::rooms::{Gap, Joined, PublishError, Room, Rooms, StartAt, Subscriber};
use crate::event::{Event, Pattern, RoomKey, RoomName, cursor};
use crate::metrics::record::{self, TransportMeter};

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
}

/// The keys are addresses, which no client chooses, so the hasher needs no secret of its own (and takes no place for one).
type Follows = IndexMap<RoomKey, Follow, BuildHasherDefault<ahash::AHasher>>;

/// What a reader has got so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Events written.
    pub delivered: u64,
    /// Events given up and told.
    pub dropped: u64,
}

/// What a reader that joins cannot have.
#[derive(Debug)]
pub struct Missed {
    gaps: Vec<(RoomName, Gap)>,
    /// Rooms that it followed before: there nothing has changed.
    pub already: Vec<RoomName>,
    /// Whether there were more rooms than it may follow.
    pub too_many: bool,
}

/// How a stream began.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Whether something is missing.
    pub gaps: bool,
    /// Whether there were more rooms than it may follow.
    pub too_many: bool,
}

/// A reader.
pub struct Session<D: Dialect> {
    rooms: Rooms,
    subscriber: Arc<Subscriber>,
    dialect: D,
    meter: &'static TransportMeter,
    patterns: Vec<Pattern>,
    follows: Follows,
    /// Rooms whose history is being read, next one first.
    behind: VecDeque<RoomKey>,
    /// Whether an answer from the disk is awaited.
    reading: bool,
    /// What was given up and is not told yet: each run is told in its place in the order of its room.
    shed: Vec<Shed<RoomKey>>,
    // Small, because there are many of these.
    rooms_max: u32,
    /// Conflated events counted so far; it may begin again.
    conflated: u32,
    stats: Stats,
    closing: Option<Closing>,
}

impl<D: Dialect> std::fmt::Debug for Session<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.subscriber.id).finish_non_exhaustive()
    }
}

/// Where a reader stands, borrowed from its session.
struct Place<'s> {
    follows: &'s Follows,
    alone: bool,
}

impl Position for Place<'_> {
    fn write(&self, out: &mut String) {
        match self.follows.values().next() {
            Some(only) if self.alone => out.push_str(itoa::Buffer::new().format(only.reached)),
            // No room yet: whatever comes to be later is wanted from its beginning.
            None => out.push('0'),
            _ => cursor::write(self.follows.values().map(|follow| (follow.room.name(), follow.reached)), out),
        }
    }

    fn alone(&self) -> bool {
        self.alone
    }

    fn rooms(&self) -> usize {
        self.follows.len()
    }
}

impl<D: Dialect> Session<D> {
    /// A reader that follows nothing yet.
    #[must_use]
    pub fn new(
        rooms: Rooms,
        subscriber: Arc<Subscriber>,
        dialect: D,
        meter: &'static TransportMeter,
        rooms_max: usize,
    ) -> Self {
        meter.opened();
        Self {
            rooms,
            subscriber,
            dialect,
            meter,
            patterns: Vec::new(),
            follows: Follows::default(),
            behind: VecDeque::new(),
            reading: false,
            shed: Vec::new(),
            rooms_max: u32::try_from(rooms_max).unwrap_or(u32::MAX),
            stats: Stats::default(),
            conflated: 0,
            closing: None,
        }
    }

    /// Follows the first rooms; the dialect is told the welcome, then gaps.
    ///
    /// # Errors
    /// Where a room does not take readers now.
    pub async fn begin(&mut self, patterns: &[Pattern], start: &StartAt) -> Result<Begun, PublishError> {
        let missed = self.join(patterns, start).await?;
        let rooms = self.patterns();
        self.tell(&Notice::Welcome { connection: self.subscriber.id, rooms: &rooms });
        let begun = Begun { gaps: !missed.gaps.is_empty(), too_many: missed.too_many };
        self.tell_gaps(missed);
        Ok(begun)
    }

    /// Follows more rooms, or none of them.
    ///
    /// # Errors
    /// Where a room does not take readers now; everything is as it was then.
    pub async fn join(&mut self, patterns: &[Pattern], start: &StartAt) -> Result<Missed, PublishError> {
        let left = (self.rooms_max as usize).saturating_sub(self.follows.len());
        let new: Vec<Pattern> = patterns.iter().filter(|pattern| !self.patterns.contains(pattern)).cloned().collect();
        self.patterns.extend(new.iter().cloned());
        let followed = match self.rooms.follow(&self.subscriber, patterns, start, left).await {
            Ok(followed) => followed,
            Err(error) => {
                self.patterns.retain(|pattern| !new.contains(pattern));
                self.rooms.unwatch(self.subscriber.id, Some(&new));
                return Err(error);
            }
        };
        let mut missed = Missed { gaps: Vec::new(), already: Vec::new(), too_many: followed.too_many };
        for joined in followed.joined {
            if joined.already {
                // Where it stands does not change. If it came by a pattern just now, its own word is still in the mailbox.
                missed.already.push(joined.room.name().clone());
                continue;
            }
            missed.gaps.extend(joined.gap.map(|gap| (joined.room.name().clone(), gap)));
            self.enter(joined);
        }
        // Most readers follow one room for ever, and there are many of them.
        self.follows.shrink_to_fit();
        self.patterns.shrink_to_fit();
        Ok(missed)
    }

    /// Tells what is missing at the beginning.
    pub fn tell_gaps(&mut self, missed: Missed) {
        for (room, gap) in missed.gaps {
            self.tell_gap(&room, gap);
        }
    }

    /// Stops following; what was gathered stays.
    pub fn unfollow(&mut self, patterns: &[Pattern]) {
        self.rooms.unwatch(self.subscriber.id, Some(patterns));
        self.patterns.retain(|pattern| !patterns.contains(pattern));
        let still = |key: &RoomKey| self.patterns.iter().any(|pattern| pattern.matches(key.name()));
        let gone: Vec<RoomKey> = self.follows.keys().filter(|key| !still(key)).cloned().collect();
        for key in gone {
            if let Some(follow) = self.follows.shift_remove(&key) {
                follow.room.leave(self.subscriber.id);
            }
            self.subscriber.mailbox.forget(&key);
            self.behind.retain(|other| *other != key);
        }
    }

    fn enter(&mut self, joined: Joined) {
        let key = joined.room.key().clone();
        // Joined twice, by name and by pattern: the first place holds.
        self.follows.entry(key).or_insert(Follow {
            room: joined.room,
            reached: joined.after,
            since_ms: joined.since_ms,
        });
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

    /// What it follows, as it asked.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        self.patterns.iter().map(ToString::to_string).collect()
    }

    /// What it has got so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Where it stands.
    #[must_use]
    pub fn cursor(&self) -> String {
        let mut text = String::new();
        self.place().write(&mut text);
        text
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
        if matches!(notice, Notice::Heartbeat) {
            self.count_conflated();
        }
        let place = Place { follows: &self.follows, alone: matches!(self.patterns[..], [Pattern::Room(_)]) };
        self.dialect.notice(notice, &place);
    }

    /// Counted now and then and not at each delivery: it takes the mailbox's lock.
    fn count_conflated(&mut self) {
        // The lower half is enough for a difference.
        let conflated = u32::try_from(self.subscriber.mailbox.counts().conflated & u64::from(u32::MAX)).unwrap_or(0);
        self.meter.conflated(u64::from(conflated.wrapping_sub(self.conflated)));
        self.conflated = conflated;
    }

    /// Hands out what was gathered.
    pub fn take(&mut self) -> Option<D::Output> {
        let place = Place { follows: &self.follows, alone: matches!(self.patterns[..], [Pattern::Room(_)]) };
        self.dialect.take(&place)
    }

    fn place(&self) -> Place<'_> {
        Place { follows: &self.follows, alone: matches!(self.patterns[..], [Pattern::Room(_)]) }
    }

    fn tell_gap(&mut self, room: &RoomName, gap: Gap) {
        self.meter.gap();
        self.tell(&Notice::Gap { room, gap });
    }

    fn write(&mut self, event: &Arc<Event>) {
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
                None => return,
            },
        };
        if event.seq <= follow.reached {
            return;
        }
        follow.reached = event.seq;
        if event.arrived_ms < follow.since_ms {
            return;
        }
        self.stats.delivered += 1;
        let place = Place { follows: &self.follows, alone: matches!(self.patterns[..], [Pattern::Room(_)]) };
        self.dialect.event(event, &place);
    }

    fn control(&mut self, control: Control, inbox: &mut Inbox<Delivery>) {
        match control {
            Control::Joined(joined) => self.joined(joined, inbox),
            Control::Read { room, head, outcome } => {
                self.reading = false;
                match outcome {
                    Ok(events) => self.read_on(&room, head, &events, inbox),
                    Err(error) => self.skip_unreadable(&room, &error),
                }
            }
            Control::ReadAgain => self.reading = false,
            Control::Close(closing) => self.closing = Some(closing),
        }
    }

    /// A room that came to be and matches a pattern.
    fn joined(&mut self, joined: Joined, inbox: &mut Inbox<Delivery>) {
        let (room, key) = (Arc::clone(&joined.room), joined.room.key().clone());
        let wanted = self.patterns.iter().any(|pattern| pattern.matches(room.name()));
        let full = self.follows.len() >= self.rooms_max as usize;
        if !wanted || full {
            room.leave(self.subscriber.id);
            inbox.mailbox().forget(&key);
            if wanted {
                let (name, max) = (room.name(), self.rooms_max);
                let message =
                    format!("the room {name} is not followed: there are {max} already (limits.rooms_per_connection)");
                self.tell(&Notice::Error { code: "too_many_rooms", message: &message });
            }
            return;
        }
        let (gap, after) = (joined.gap, joined.after);
        self.enter(joined);
        if let Some(gap) = gap {
            self.tell_gap(room.name(), gap);
        }
        // Whether it begins behind may have been told before the room was known.
        if !self.behind.contains(&key) && inbox.level(&key, after) != Level::Live {
            self.behind.push_back(key);
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
            if !self.follows.contains_key(&run.stream) {
                continue;
            }
            let (room, reason) = (run.stream.name(), run.reason.name());
            record::shed(room.namespace(), run.lane.name(), reason, run.count);
            self.stats.dropped += run.count;
            let (from_seq, to_seq, count) = (run.from, run.to, run.count);
            self.tell(&Notice::Dropped { room, from_seq, to_seq, count, reason });
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
        let before = self.stats.delivered;
        self.shed.append(&mut batch.shed);
        for delivery in batch.messages.drain(..) {
            match delivery {
                Delivery::Event(event) => {
                    if !self.shed.is_empty() {
                        self.tell_shed(Some((&event.room, event.seq)));
                    }
                    self.write(&event);
                }
                Delivery::Control(control) => self.control(*control, inbox),
            }
        }
        if !self.shed.is_empty() && inbox.mailbox().depth().messages == 0 {
            // Nothing waits that would come before them.
            self.tell_shed(None);
        }
        for (key, _) in batch.behind.drain(..) {
            self.meter.caught_up();
            self.behind.push_back(key);
        }
        if self.closing.is_none() {
            while !self.behind.is_empty() && !self.reading && self.dialect.gathered() < WRITE_BYTES {
                self.catch_up(inbox);
            }
            if !self.behind.is_empty() && !self.reading {
                // More of the history is there; first what was gathered goes out, then this comes again.
                inbox.mailbox().tick();
            }
        }
        self.meter.delivered(usize::try_from(self.stats.delivered - before).unwrap_or(0));
        Ok(match self.take() {
            Some(output) => Flow::Yield(output),
            None if self.closing.is_some() => Flow::Stop,
            None => Flow::Continue,
        })
    }
}

impl<D: Dialect> Drop for Session<D> {
    fn drop(&mut self) {
        self.meter.closed();
        self.count_conflated();
        // Closed first, so that no room takes it in any more; then it leaves those it knows.
        self.subscriber.mailbox.close_and_clear();
        self.rooms.unwatch(self.subscriber.id, None);
        for follow in self.follows.values() {
            follow.room.leave(self.subscriber.id);
        }
    }
}
