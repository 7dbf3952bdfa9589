//! Where each room's events lie: in memory, one entry for each section of a chunk, built from the generations at the start. Here retention is decided.
//!
//! Cost: 48 bytes a section, that is 3 bytes an event where a room fills its chunks, 48 where it publishes less than one event a commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::event::RoomName;
use crate::settings::{Retention, Rooms};

/// Where one run of a room's events lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first: u64,
    pub(super) count: u32,
    /// What it takes in its chunk.
    pub(super) bytes: u32,
    pub(super) generation: u32,
    pub(super) offset: u32,
    pub(super) position: u64,
    /// When its last event arrived.
    pub(super) arrived_ms: u64,
}

impl Place {
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }
}

/// One room's part of the index.
#[derive(Debug)]
pub struct RoomIndex {
    pub(super) name: RoomName,
    retention: Retention,
    /// The last seq in the log; what is above it lives in the room's tail only.
    logged: AtomicU64,
    /// The last seq given out, kept here while the room itself is not in memory.
    numbered: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    created: u64,
    /// The last seq that was let go since the start, 0 if none.
    gone: u64,
    /// How many were let go since the start.
    gone_count: u64,
    /// Who wants them kept beyond retention, and after which seq.
    holds: Vec<(Arc<str>, u64)>,
    places: VecDeque<Place>,
    /// The first seqs of those places that do not go on where the one before ends: as many as the daemon was killed, so that counting needs no look at every place.
    seams: VecDeque<u64>,
    count: u64,
    bytes: u64,
}

/// What the log holds of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The room's very first seq.
    pub created: u64,
    /// The first seq still held.
    pub first: u64,
    /// The last seq held.
    pub last: u64,
    /// How many events are held.
    pub count: u64,
    /// When the last one arrived, in milliseconds since 1970.
    pub last_arrived_ms: u64,
}

impl RoomIndex {
    fn new(name: RoomName, created: u64, retention: Retention, holders: Vec<Arc<str>>) -> Self {
        let holds = holders.into_iter().map(|holder| (holder, 0)).collect();
        let state = State { created, holds, ..State::default() };
        Self { name, retention, logged: AtomicU64::new(0), numbered: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// The last seq in the log, 0 if none.
    #[must_use]
    pub fn logged(&self) -> u64 {
        self.logged.load(Ordering::Acquire)
    }

    /// The last seq given out, 0 if none.
    #[must_use]
    pub fn numbered(&self) -> u64 {
        self.numbered.load(Ordering::Acquire).max(self.logged())
    }

    /// Whether this process has given out seqs of this room.
    #[must_use]
    pub fn numbered_here(&self) -> bool {
        self.numbered.load(Ordering::Acquire) > 0
    }

    /// Notes the room's very first seq, if it has none yet.
    pub fn begin(&self, first: u64) {
        let mut state = self.state.lock();
        if state.created == 0 {
            state.created = first;
        }
    }

    /// Notes that seqs up to this one were given out.
    pub fn note_numbered(&self, seq: u64) {
        self.numbered.fetch_max(seq, Ordering::AcqRel);
    }

    /// The room's very first seq; what it was made with until its first event is logged.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.state.lock().created
    }

    /// What the log holds of the room; `None` if nothing.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        let state = self.state.lock();
        let last = state.places.back()?;
        let first = state.first_held(self.retention)?;
        let count = state.count - state.cut(self.retention);
        Some(Held { created: state.created, first, last: last.last(), count, last_arrived_ms: last.arrived_ms })
    }

    /// The first seq after `after` that the log holds.
    #[must_use]
    pub fn first_after(&self, after: u64) -> Option<u64> {
        let state = self.state.lock();
        let from = state.first_held(self.retention)?;
        let place = state.places.get(state.index_after(after))?;
        Some(place.first.max(after.saturating_add(1)).max(from))
    }

    /// Whether a reader that has everything up to `after` can go on without missing anything: the log holds that very event, or it is the one before the first held.
    #[must_use]
    pub fn continues(&self, after: u64) -> bool {
        let state = self.state.lock();
        let Some(first) = state.first_held(self.retention) else { return after >= state.gone };
        if after == 0 {
            return first == state.created;
        }
        let at = state.places.partition_point(|place| place.last() < after);
        after + 1 == first
            || after == state.gone
            || (after >= first && state.places.get(at).is_some_and(|place| place.first <= after + 1))
    }

    /// The seq before the first event that arrived at `ms` or later, by section: events of one section count as arrived with its last.
    #[must_use]
    pub fn before_time(&self, ms: u64) -> Option<u64> {
        let state = self.state.lock();
        let at = state.places.partition_point(|place| place.arrived_ms < ms);
        let from = state.first_held(self.retention)?;
        state.places.get(at).map(|place| place.first.max(from) - 1)
    }

    /// The seq before the newest `count` events.
    #[must_use]
    pub fn before_newest(&self, count: u64) -> Option<u64> {
        let state = self.state.lock();
        let from = state.first_held(self.retention)?;
        let mut left = count;
        for (first, last) in state.stretches() {
            let here = last + 1 - first;
            if here >= left {
                return Some((last - left).max(from - 1));
            }
            left -= here;
        }
        Some(from - 1)
    }

    /// How many events the log holds after `after`, and the last seq that it holds, 0 if none.
    #[must_use]
    pub fn count_after(&self, after: u64) -> (u64, u64) {
        let state = self.state.lock();
        let Some(from) = state.first_held(self.retention) else { return (0, 0) };
        let after = after.max(from - 1);
        let stretches = state.stretches().take_while(|(_, last)| *last > after);
        let count = stretches.map(|(first, last)| last - first.max(after.saturating_add(1)) + 1).sum();
        (count, state.places.back().map_or(0, Place::last))
    }

    /// How many events retention and the log's budget have let go since the start.
    #[must_use]
    pub fn gone_count(&self) -> u64 {
        let state = self.state.lock();
        state.gone_count + state.cut(self.retention)
    }

    /// The places of the events after `after`, up to so many events.
    pub(super) fn places_after(&self, after: u64, events_max: usize) -> Vec<Place> {
        let state = self.state.lock();
        let mut found = Vec::new();
        let mut events = 0;
        for place in state.places.range(state.index_after(after)..) {
            found.push(*place);
            // Of the first section only what lies after it counts.
            let from = place.first.max(after.saturating_add(1));
            events += usize::try_from(place.last() + 1 - from).unwrap_or(usize::MAX);
            if events >= events_max {
                break;
            }
        }
        found
    }

    /// Takes in newly written events; how many older ones retention lets go for them.
    pub(super) fn append(&self, place: Place) -> u64 {
        let mut state = self.state.lock();
        state.count += u64::from(place.count);
        state.bytes += u64::from(place.bytes);
        state.places.push_back(place);
        let at = state.places.len() - 1;
        state.note_seam(at);
        let gone = state.let_go(self.retention, place.arrived_ms);
        drop(state);
        self.logged.store(place.last(), Ordering::Release);
        gone
    }

    /// Takes in a place found at the start. Of two that hold the same events (a copy was made and its original not yet deleted) the newer one stays.
    fn restore(&self, place: Place) {
        let mut state = self.state.lock();
        let at = state.places.partition_point(|other| other.first < place.first);
        if let Some(same) = state.places.get_mut(at).filter(|other| other.first == place.first) {
            *same = place;
            return;
        }
        state.count += u64::from(place.count);
        state.bytes += u64::from(place.bytes);
        state.places.insert(at, place);
        state.note_seam(at);
        state.note_seam(at + 1);
        drop(state);
        self.logged.fetch_max(place.last(), Ordering::AcqRel);
    }

    /// Puts a copy in the place of its original; `false` if that is not kept any more.
    pub(super) fn moved(&self, from: &Place, to: Place) -> bool {
        let mut state = self.state.lock();
        let at = state.places.partition_point(|place| place.first < from.first);
        let Some(place) = state.places.get_mut(at).filter(|place| *place == from) else { return false };
        *place = to;
        true
    }

    /// The places in a generation.
    pub(super) fn places_in(&self, generation: u32) -> Vec<Place> {
        self.state.lock().places.iter().filter(|place| place.generation == generation).copied().collect()
    }

    /// How many bytes of it each generation keeps.
    pub(super) fn bytes_by_generation(&self) -> Vec<(u32, u64)> {
        let state = self.state.lock();
        let mut found: Vec<(u32, u64)> = Vec::new();
        for place in &state.places {
            // Places lie nearly in the order of their generations, so the last entry is nearly always the one.
            match found.iter_mut().rev().find(|(generation, _)| *generation == place.generation) {
                Some((_, bytes)) => *bytes += u64::from(place.bytes),
                None => found.push((place.generation, place.bytes.into())),
            }
        }
        found
    }

    /// One for whom events are kept beyond retention (see [`Rooms`]) does not need those up to this seq any more. Nobody else has a say in it.
    pub fn needs_after(&self, holder: &str, after: u64) {
        let mut state = self.state.lock();
        if let Some((_, held)) = state.holds.iter_mut().find(|(name, _)| &**name == holder) {
            *held = after;
        }
    }

    /// Lets go everything before a seq; what shares a section with it stays.
    pub fn release(&self, before: u64) {
        let mut state = self.state.lock();
        while state.places.front().is_some_and(|front| front.last() < before) {
            state.pop_front();
        }
    }

    /// Lets go what retention does not keep; how many events that are.
    pub(super) fn expire(&self, now_ms: u64) -> u64 {
        self.state.lock().let_go(self.retention, now_ms)
    }

    /// Lets go everything in a generation, whatever retention says; how many events that were.
    pub(super) fn expel(&self, generation: u32) -> u64 {
        let mut state = self.state.lock();
        let mut events = 0;
        // A copy of old events may stand before what goes; it goes too, or what is left would have a hole.
        let last = state.places.iter().rposition(|place| place.generation <= generation);
        for _ in 0..last.map_or(0, |last| last + 1) {
            events += state.places.front().map_or(0, |front| u64::from(front.count));
            state.pop_front();
        }
        events
    }
}

impl State {
    fn let_go(&mut self, retention: Retention, now_ms: u64) -> u64 {
        let (mut gone, held_after) = (0, self.held_after());
        while let Some(front) = self.places.front().filter(|front| front.last() <= held_after) {
            let over_count = retention.count.is_some_and(|max| self.count - u64::from(front.count) >= max);
            let over_bytes = retention.bytes.is_some_and(|max| self.bytes > max && self.places.len() > 1);
            let age_ms = u128::from(now_ms.saturating_sub(front.arrived_ms));
            let over_age = retention.age.is_some_and(|age| age_ms > age.as_millis());
            if !(over_count || over_bytes || over_age) {
                break;
            }
            gone += u64::from(front.count);
            self.pop_front();
        }
        gone
    }

    fn pop_front(&mut self) {
        if let Some(front) = self.places.pop_front() {
            self.gone = front.last();
            self.gone_count += u64::from(front.count);
            self.count -= u64::from(front.count);
            self.bytes -= u64::from(front.bytes);
            // What is first has nothing before it to go on from.
            let first = self.places.front().map_or(u64::MAX, |front| front.first);
            while self.seams.front().is_some_and(|seam| *seam <= first) {
                self.seams.pop_front();
            }
        }
    }

    /// Notes whether the place at an index goes on where the one before it ends.
    fn note_seam(&mut self, index: usize) {
        let Some(place) = self.places.get(index) else { return };
        let first = place.first;
        let before = index.checked_sub(1).and_then(|before| self.places.get(before));
        let apart = before.is_some_and(|before| before.last() + 1 != first);
        match self.seams.binary_search(&first) {
            Err(at) if apart => self.seams.insert(at, first),
            Ok(at) if !apart => {
                self.seams.remove(at);
            }
            _ => {}
        }
    }

    /// Runs of consecutive seqs, first and last of each, newest first.
    fn stretches(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut end = self.places.len();
        let firsts = self.seams.iter().rev().copied().chain(self.places.front().map(|front| front.first));
        firsts.filter_map(move |first| {
            let last = self.places.get(end.checked_sub(1)?)?.last();
            end = self.places.partition_point(|place| place.first < first);
            Some((first, last))
        })
    }

    /// The first seq that retention by count still keeps; inside a section seqs are consecutive.
    fn first_held(&self, retention: Retention) -> Option<u64> {
        Some(self.places.front()?.first + self.cut(retention))
    }

    /// How many events of the first section retention by count does not keep.
    fn cut(&self, retention: Retention) -> u64 {
        let Some(front) = self.places.front() else { return 0 };
        let over = retention.count.map_or(0, |max| self.count.saturating_sub(max));
        let not_held = self.held_after().saturating_add(1).saturating_sub(front.first);
        over.min(u64::from(front.count) - 1).min(not_held)
    }

    /// What comes after this is kept whatever retention says.
    fn held_after(&self) -> u64 {
        self.holds.iter().map(|(_, after)| *after).min().unwrap_or(u64::MAX)
    }

    fn index_after(&self, after: u64) -> usize {
        self.places.partition_point(|place| place.last() <= after)
    }
}

/// The index of all rooms.
#[derive(Debug)]
pub(super) struct Index {
    rooms: DashMap<RoomName, Arc<RoomIndex>, ahash::RandomState>,
    settings: Rooms,
    /// The highest seq of rooms of which nothing is left.
    floor: AtomicU64,
}

impl Index {
    pub(super) fn new(settings: Rooms) -> Self {
        Self { rooms: DashMap::default(), settings, floor: AtomicU64::new(0) }
    }

    pub(super) fn get(&self, name: &RoomName) -> Option<Arc<RoomIndex>> {
        self.rooms.get(name).map(|room| Arc::clone(&room))
    }

    /// A room's index, made if there is none; `created` is the first seq it will have then.
    pub(super) fn get_or_create(&self, name: &RoomName, created: u64) -> Arc<RoomIndex> {
        let room = self.rooms.entry(name.clone()).or_insert_with(|| {
            // What the daemon keeps for itself it lets go itself.
            let own = name.is_internal();
            let retention = if own { Retention::default() } else { self.settings.of(name.namespace()).retention };
            Arc::new(RoomIndex::new(name.clone(), created, retention, self.settings.holders_of(name)))
        });
        Arc::clone(&room)
    }

    pub(super) fn restore(&self, name: &RoomName, created: u64, place: Place) {
        let room = self.get_or_create(name, created);
        room.state.lock().created = created;
        room.restore(place);
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    pub(super) fn raise_floor(&self, seq: u64) {
        self.floor.fetch_max(seq, Ordering::AcqRel);
    }

    pub(super) fn rooms(&self) -> Vec<Arc<RoomIndex>> {
        self.rooms.iter().map(|room| Arc::clone(&room)).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.rooms.len()
    }

    /// Forgets rooms of which nothing is left and that nobody holds; their numbers stay spent.
    pub(super) fn forget_empty(&self) {
        self.rooms.retain(|_, room| {
            // A room in memory holds a second reference.
            let forgotten = Arc::strong_count(room) == 1 && room.state.lock().places.is_empty();
            if forgotten {
                self.raise_floor(room.numbered());
            }
            !forgotten
        });
    }
}
