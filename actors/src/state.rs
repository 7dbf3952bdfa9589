//! What happens under the mailbox's one lock: admission, displacement, conflation, catch-up, taking.
//!
//! Everything here is plain data and no waiting, so that the rules can be read, and checked against a model, in one place. Two rules
//! carry the rest:
//!
//! * A stream's messages are served in the order of their positions. Where a message of a higher lane arrives while earlier ones of its
//!   stream wait in lower lanes, those are lifted into its lane in front of it. They are not worth more for it: when there is no room, what was
//!   lifted gives way as what it is.
//! * A stream that is *behind* has no message here at all: its reader reads its history, and is level again when it has reached the latest
//!   position pushed meanwhile. Both sides of that comparison are under this lock, so nothing falls between the two.

use std::collections::VecDeque;
use std::task::Waker;

use crate::Budget;
use crate::mailbox::{Bounds, Counts};
use crate::shed::Ledger;
use crate::{Batch, Lane, Message, OnFull, Reason, Window};

type Map<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;

/// A stream whose messages the reader takes from its history for now.
#[derive(Debug, Clone, Copy)]
struct Behind {
    /// The reader has everything up to here.
    after: u64,
    /// The latest position pushed.
    latest: u64,
    /// Whether the reader knows.
    announced: bool,
}

/// What became of an arriving message.
pub(crate) enum Verdict {
    Queued,
    Conflated,
    Behind,
    Full,
    Closed,
}

pub(crate) struct State<M: Message> {
    lanes: [VecDeque<M>; 4],
    bounds: Bounds,
    messages: usize,
    bytes: usize,
    /// Messages that wait in a higher lane than their own.
    lifted: usize,
    // Boxed: most mailboxes never have a stream that is behind, and an idle one should stay small.
    behind: Option<Box<Map<M::Stream, Behind>>>,
    unannounced: usize,
    shed: Ledger<M::Stream>,
    pub(crate) counts: Counts,
    pub(crate) consumer: Option<Waker>,
    pub(crate) waiting_senders: Vec<Waker>,
    pub(crate) attached: bool,
    pub(crate) closed: bool,
    pub(crate) tick_due: bool,
    /// What many mailboxes together may hold, and what of it is counted for this one.
    budget: Option<(Budget, usize)>,
}

impl<M: Message> State<M> {
    pub(crate) fn new(bounds: Bounds, budget: Option<Budget>) -> Self {
        Self {
            lanes: Default::default(),
            bounds,
            messages: 0,
            bytes: 0,
            lifted: 0,
            behind: None,
            unannounced: 0,
            shed: Ledger::default(),
            counts: Counts::default(),
            consumer: None,
            waiting_senders: Vec::new(),
            attached: true,
            closed: false,
            tick_due: false,
            budget: budget.map(|budget| (budget, 0)),
        }
    }

    /// Brings the common budget up to what is held now.
    fn recount(&mut self) {
        if let Some((budget, counted)) = &mut self.budget {
            *counted = budget.recount(*counted, self.bytes);
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn lane_depth(&self, lane: Lane) -> usize {
        self.lanes[lane.index()].len()
    }

    pub(crate) fn behind_streams(&self) -> usize {
        self.behind.as_ref().map_or(0, |map| map.len())
    }

    /// Whether the reader would find something.
    pub(crate) fn has_news(&self) -> bool {
        self.messages > 0 || self.unannounced > 0 || self.tick_due || self.closed || !self.shed.is_empty()
    }

    /// Takes in a message, or says why not and leaves it in `slot`. What had to make way is put into `given_up`, to be dropped
    /// outside the lock.
    pub(crate) fn admit(&mut self, slot: &mut Option<M>, given_up: &mut Vec<M>) -> Verdict {
        let Some(message) = slot.take() else { return Verdict::Closed };
        if self.closed {
            *slot = Some(message);
            return Verdict::Closed;
        }
        let conflated = self.conflate(&message, given_up);
        loop {
            // Looked at each time round: what makes way may be the message's own stream.
            if let Some(behind) = self.behind_mut(&message) {
                behind.latest = message.position();
                self.counts.behind += 1;
                given_up.push(message);
                return Verdict::Behind;
            }
            if self.fits(&message) {
                break;
            }
            if !self.make_way(&message, given_up) {
                *slot = Some(message);
                return Verdict::Full;
            }
        }
        self.lift_earlier(&message);
        self.enqueue(message);
        self.recount();
        if conflated { Verdict::Conflated } else { Verdict::Queued }
    }

    /// Takes in an answer that the mailbox's own reader asked for; how many there can be is bounded by who asks.
    pub(crate) fn admit_answer(&mut self, message: M) {
        self.enqueue(message);
    }

    fn enqueue(&mut self, message: M) {
        self.messages += 1;
        self.bytes += message.bytes();
        self.counts.queued += 1;
        let lane = &mut self.lanes[message.lane().index()];
        if lane.capacity() == 0 {
            // Most mailboxes hold one message at a time for all their life; the usual first step would be four.
            lane.reserve_exact(1);
        }
        lane.push_back(message);
    }

    fn fits(&self, message: &M) -> bool {
        // A message heavier than the whole bound still passes through an empty mailbox: it would never fit otherwise.
        self.messages == 0
            || (self.messages < self.bounds.messages
                && self.bytes + message.bytes() <= self.bounds.bytes
                && !self.budget.as_ref().is_some_and(|(budget, _)| budget.is_too_much(self.bytes)))
    }

    fn behind_mut(&mut self, message: &M) -> Option<&mut Behind> {
        self.behind.as_mut()?.get_mut(message.stream()?)
    }

    /// Removes the waiting older message of the same stream and key, if the policy says that a newer one makes it superfluous.
    ///
    /// The newer message goes to the end and not into the older one's place: there it would overtake the messages between.
    fn conflate(&mut self, message: &M, given_up: &mut Vec<M>) -> bool {
        let (true, Some(stream), Some(key)) = (message.policy().conflate, message.stream(), message.key()) else {
            return false;
        };
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            // From the back: what conflates is nearly always recent.
            let older = lane.iter().rposition(|old| old.stream() == Some(stream) && old.key() == Some(key));
            if let Some(older) = older.and_then(|index| lane.remove(index)) {
                self.messages -= 1;
                self.bytes -= older.bytes();
                self.lifted -= usize::from(older.lane().index() != at);
                self.counts.conflated += 1;
                given_up.push(older);
                return true;
            }
        }
        false
    }

    /// One step towards room for `message`; `false` if nothing may make way.
    fn make_way(&mut self, message: &M, given_up: &mut Vec<M>) -> bool {
        let own = message.lane().index();
        if (own + 1..4).rev().any(|lane| self.displace_oldest(lane, given_up)) {
            return true;
        }
        match message.policy().on_full {
            OnFull::CatchUp => self.fall_behind(message, given_up),
            OnFull::Displace => self.displace_oldest(own, given_up),
            OnFull::Reject | OnFull::Wait => false,
        }
    }

    /// The oldest message of a lane that belongs to a stream goes; `false` if there is none. If its stream can be read later, the whole stream goes behind and nothing is lost.
    /// What belongs to no stream stays: nobody could be told of it.
    fn displace_oldest(&mut self, lane: usize, given_up: &mut Vec<M>) -> bool {
        if self.lifted > 0 && self.displace_lifted(lane, given_up) {
            return true;
        }
        let Some(at) = self.lanes[lane].iter().position(|message| message.stream().is_some()) else { return false };
        if self.lanes[lane][at].policy().on_full == OnFull::CatchUp {
            if let Some(stream) = self.fullest_stream(lane, None) {
                self.evict(&stream, given_up);
            }
            return true;
        }
        self.displace(lane, at, given_up)
    }

    /// The oldest message of a lane that was lifted out of it goes: in its stream it comes before all that still wait in it. What can be read later stays.
    fn displace_lifted(&mut self, own: usize, given_up: &mut Vec<M>) -> bool {
        let gives_way = |message: &M| {
            message.lane().index() == own && message.stream().is_some() && message.policy().on_full != OnFull::CatchUp
        };
        let found = (0..own).find_map(|lane| Some((lane, self.lanes[lane].iter().position(gives_way)?)));
        found.is_some_and(|(lane, at)| self.displace(lane, at, given_up))
    }

    fn displace(&mut self, lane: usize, at: usize, given_up: &mut Vec<M>) -> bool {
        let Some(victim) = self.lanes[lane].remove(at) else { return false };
        self.messages -= 1;
        self.bytes -= victim.bytes();
        self.lifted -= usize::from(victim.lane().index() != lane);
        self.note_shed(&victim, Reason::Displaced);
        given_up.push(victim);
        true
    }

    /// The stream that most fills the lowest lane in use goes behind; it may be the arriving message's own.
    fn fall_behind(&mut self, message: &M, given_up: &mut Vec<M>) -> bool {
        let own = message.lane().index();
        let Some(stream) = message.stream() else { return false };
        let fullest = if self.lanes[own].is_empty() { None } else { self.fullest_stream(own, Some(stream)) };
        let victim = fullest.unwrap_or_else(|| stream.clone());
        self.evict(&victim, given_up);
        if victim == *stream {
            // What waited of it, if anything, starts before the arriving message.
            self.begin_behind(victim, message.position().saturating_sub(1), message.position());
        }
        true
    }

    /// The stream with the most messages in a lane, among those that can be read later; `arriving` counts as one more.
    fn fullest_stream(&self, lane: usize, arriving: Option<&M::Stream>) -> Option<M::Stream> {
        let mut counts: Map<&M::Stream, usize> = Map::default();
        for waiting in &self.lanes[lane] {
            if let (OnFull::CatchUp, Some(stream)) = (waiting.policy().on_full, waiting.stream()) {
                *counts.entry(stream).or_default() += 1;
            }
        }
        if let Some(stream) = arriving {
            *counts.entry(stream).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(stream, _)| stream.clone())
    }

    /// Gives up all of a stream's messages; its reader goes on from its history.
    fn evict(&mut self, stream: &M::Stream, given_up: &mut Vec<M>) {
        let mut span: Option<(u64, u64)> = None;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.iter().any(|message| message.stream() == Some(stream)) {
                continue;
            }
            for message in std::mem::take(lane) {
                if message.stream() == Some(stream) {
                    let at = message.position();
                    span = Some(span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
                    self.messages -= 1;
                    self.bytes -= message.bytes();
                    self.lifted -= usize::from(message.lane().index() != index);
                    self.counts.behind += 1;
                    given_up.push(message);
                } else {
                    lane.push_back(message);
                }
            }
        }
        if let Some((first, last)) = span {
            self.begin_behind(stream.clone(), first.saturating_sub(1), last);
        }
    }

    /// Marks a stream as behind; if it is already, the earlier beginning and the later end hold.
    pub(crate) fn begin_behind(&mut self, stream: M::Stream, after: u64, latest: u64) {
        let map = self.behind.get_or_insert_default();
        match map.entry(stream) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let behind = entry.get_mut();
                behind.after = behind.after.min(after);
                behind.latest = behind.latest.max(latest);
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Behind { after, latest, announced: false });
                self.unannounced += 1;
            }
        }
    }

    /// Says that the reader has read `stream` up to `reached`: `None` if it is level and live again, else the latest position.
    pub(crate) fn level(&mut self, stream: &M::Stream, reached: u64) -> Option<u64> {
        let map = self.behind.as_mut()?;
        let behind = map.get(stream)?;
        if behind.latest > reached {
            return Some(behind.latest);
        }
        if !behind.announced {
            self.unannounced -= 1;
        }
        map.remove(stream);
        if map.is_empty() {
            self.behind = None;
        }
        None
    }

    /// Forgets a stream: its messages, its notices, and that it was behind.
    pub(crate) fn forget(&mut self, stream: &M::Stream, given_up: &mut Vec<M>) {
        self.evict(stream, given_up);
        self.shed.forget(stream);
        // A stream that is behind is level when asked about the end of time.
        self.level(stream, u64::MAX);
        self.recount();
    }

    pub(crate) fn note_shed(&mut self, message: &M, reason: Reason) {
        self.counts.shed += 1;
        if let Some(stream) = message.stream() {
            self.shed.note(stream, message.position(), message.lane(), reason);
        }
    }

    /// Lifts earlier messages of the same stream that wait in lower lanes into this message's lane.
    fn lift_earlier(&mut self, message: &M) {
        let own = message.lane().index();
        let Some(stream) = message.stream() else { return };
        if self.lanes[own + 1..].iter().all(VecDeque::is_empty) {
            return;
        }
        let mut lifted: Vec<M> = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate().skip(own + 1) {
            if lane.iter().any(|earlier| earlier.stream() == Some(stream)) {
                for earlier in std::mem::take(lane) {
                    if earlier.stream() == Some(stream) {
                        self.lifted += usize::from(earlier.lane().index() == index);
                        lifted.push(earlier);
                    } else {
                        lane.push_back(earlier);
                    }
                }
            }
        }
        lifted.sort_by_key(Message::position);
        self.lanes[own].extend(lifted);
    }

    /// Moves what waits into `batch`, higher lanes first, within the window; at least one message if there is any.
    pub(crate) fn take(&mut self, batch: &mut Batch<M>, window: Window) {
        if !self.shed.is_empty() {
            self.shed.drain_into(&mut batch.shed);
        }
        if self.unannounced > 0
            && let Some(map) = self.behind.as_mut()
        {
            for (stream, behind) in map.iter_mut().filter(|(_, behind)| !behind.announced) {
                behind.announced = true;
                batch.behind.push((stream.clone(), behind.after));
            }
            self.unannounced = 0;
        }
        batch.tick |= std::mem::take(&mut self.tick_due);
        if batch.messages.capacity() == 0 && self.messages == 1 {
            batch.messages.reserve_exact(1);
        }
        let (mut messages, mut bytes) = (0, 0);
        'lanes: for (index, lane) in self.lanes.iter_mut().enumerate() {
            while let Some(front) = lane.front() {
                let weight = front.bytes();
                if messages > 0 && (messages >= window.messages || bytes + weight > window.bytes) {
                    break 'lanes;
                }
                messages += 1;
                if self.lifted > 0 {
                    self.lifted -= usize::from(front.lane().index() != index);
                }
                bytes += weight;
                batch.messages.extend(lane.pop_front());
            }
            if lane.capacity() > Self::KEPT_CAPACITY {
                lane.shrink_to(Self::KEPT_CAPACITY);
            }
        }
        self.messages -= messages;
        self.bytes -= bytes;
        self.counts.taken += messages as u64;
        self.recount();
        batch.closed = self.closed && self.messages == 0;
    }

    /// Lane capacity, in messages, that is kept over a burst; more is given back.
    const KEPT_CAPACITY: usize = 32;

    /// Empties the mailbox, for one that will never be read again.
    pub(crate) fn clear(&mut self, given_up: &mut Vec<M>) {
        for lane in &mut self.lanes {
            given_up.extend(lane.drain(..));
        }
        self.messages = 0;
        self.bytes = 0;
        self.lifted = 0;
        self.behind = None;
        self.unannounced = 0;
        self.shed = Ledger::default();
        self.recount();
    }

    /// Gives up everything that can be read later, and of the rest what its policy allows to be displaced.
    pub(crate) fn give_up_all(&mut self, given_up: &mut Vec<M>) {
        for lane in (0..4).rev() {
            while self.displace_oldest(lane, given_up) {}
        }
        self.recount();
    }
}

impl<M: Message> Drop for State<M> {
    fn drop(&mut self) {
        self.bytes = 0;
        self.recount();
    }
}
