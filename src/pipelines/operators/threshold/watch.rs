//! What is known of one key, and how it comes into an alarm and out of it: clear → pending → active → clearing → clear.
//!
//! A key has a time of its own: that of its last value, and from there on it goes as the clock does. A value holds until the next one. What waits for `hold` or `hold_clear` goes on when
//! the key's time has come so far, whether by its next value or by the clock; so a key whose values come late, but all by as much, is judged as if they came at once.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use smol_str::SmolStr;

/// What is watched for.
#[derive(Debug)]
pub(super) struct Limits {
    /// For too high and for too low, in this order.
    pub(super) levels: [Option<Level>; 2],
    /// For so many milliseconds a value must be beyond before there is an alarm.
    pub(super) hold_ms: u64,
    /// For so many milliseconds it must be back before the alarm is over.
    pub(super) hold_clear_ms: u64,
    /// After so many milliseconds without an event there is an alarm.
    pub(super) no_data_ms: Option<u64>,
}

/// A value that others are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    /// Whether it is higher values that are beyond.
    pub(super) upward: bool,
    /// What lies further than this is beyond.
    pub(super) limit: f64,
    /// What lies no further than this is back.
    pub(super) clear: f64,
}

impl Level {
    fn beyond(self, value: f64) -> bool {
        if self.upward { value > self.limit } else { value < self.limit }
    }

    fn back(self, value: f64) -> bool {
        if self.upward { value <= self.clear } else { value >= self.clear }
    }
}

/// Why there is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Above,
    Below,
    NoData,
}

impl Reason {
    /// In a word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
            Self::NoData => "no_data",
        }
    }
}

/// The reasons of the two sides.
const SIDES: [Reason; 2] = [Reason::Above, Reason::Below];

/// An alarm that has started or is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) reason: Reason,
    /// Or is over.
    pub(super) started: bool,
    /// When.
    pub(super) at_ms: u64,
    /// When the alarm started.
    pub(super) since_ms: u64,
    /// The value at that time.
    pub(super) value: Option<f64>,
}

/// Rarely any.
pub(super) type Changes = SmallVec<[Change; 2]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Phase {
    #[default]
    Clear,
    /// Beyond, but not for long enough.
    Pending,
    /// An alarm.
    Active,
    /// An alarm still, but the value is back.
    Clearing,
}

/// One of the two levels, as it stands with a key.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Side {
    phase: Phase,
    /// Since when, in the key's time. It never goes back.
    since_ms: u64,
    /// When the alarm started that there is.
    alarm_ms: u64,
}

impl Side {
    fn judge(&mut self, level: Level, value: f64, at_ms: u64) {
        self.phase = match self.phase {
            Phase::Clear if level.beyond(value) => Phase::Pending,
            Phase::Pending if !level.beyond(value) => Phase::Clear,
            Phase::Active if level.back(value) => Phase::Clearing,
            Phase::Clearing if !level.back(value) => Phase::Active,
            _ => return,
        };
        self.since_ms = self.since_ms.max(at_ms);
    }

    /// When it goes on of itself, in the key's time.
    fn ripe_ms(&self, limits: &Limits) -> Option<u64> {
        let hold_ms = match self.phase {
            Phase::Clear | Phase::Active => return None,
            Phase::Pending => limits.hold_ms,
            Phase::Clearing => limits.hold_clear_ms,
        };
        Some(self.since_ms.saturating_add(hold_ms))
    }
}

/// What is known of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Watch {
    /// Where its latest event came from; empty before the first.
    pub(super) room: SmolStr,
    /// When the clock is to look at it, as far as that is noted; never later than it must.
    pub(super) noted_ms: Option<u64>,
    sides: [Side; 2],
    /// The last value.
    value: f64,
    /// When that happened.
    seen_ms: u64,
    /// What the clock said then.
    judged_ms: u64,
    /// What the clock said at the last event, whatever was in it.
    heard_ms: u64,
    /// Since when there is an alarm for its silence.
    silent_ms: Option<u64>,
}

impl Watch {
    /// A key that is known from now on.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            room: SmolStr::default(),
            noted_ms: None,
            sides: [Side::default(); 2],
            value: 0.0,
            seen_ms: 0,
            judged_ms: now_ms,
            heard_ms: now_ms,
            silent_ms: None,
        }
    }

    /// When its last value happened, in milliseconds since 1970; 0 before the first.
    pub(super) fn seen_ms(&self) -> u64 {
        self.seen_ms
    }

    /// Whether there is no alarm, and none that waits to become one.
    pub(super) fn is_quiet(&self) -> bool {
        self.silent_ms.is_none() && self.sides.iter().all(|side| side.phase == Phase::Clear)
    }

    /// An event has come.
    pub(super) fn heard(&mut self, now_ms: u64, changes: &mut Changes) {
        self.heard_ms = now_ms;
        if let Some(since_ms) = self.silent_ms.take() {
            let at_ms = now_ms.max(since_ms);
            changes.push(Change { reason: Reason::NoData, started: false, at_ms, since_ms, value: None });
        }
    }

    /// A value has come that happened at a time no earlier than [`Watch::seen_ms`].
    pub(super) fn judge(&mut self, limits: &Limits, value: f64, at_ms: u64, now_ms: u64, changes: &mut Changes) {
        // Up to then the last one held.
        self.settle(limits, at_ms, changes);
        (self.value, self.seen_ms, self.judged_ms) = (value, at_ms, now_ms);
        for (side, level) in self.sides.iter_mut().zip(limits.levels) {
            if let Some(level) = level {
                side.judge(level, value, at_ms);
            }
        }
        self.settle(limits, at_ms, changes);
    }

    /// The clock has come to a time.
    pub(super) fn clock(&mut self, limits: &Limits, clock_ms: u64, changes: &mut Changes) {
        let reached_ms = self.seen_ms.saturating_add(clock_ms.saturating_sub(self.judged_ms));
        self.settle(limits, reached_ms, changes);
        if let Some(since_ms) = self.silence_due_ms(limits).filter(|due_ms| *due_ms <= clock_ms) {
            self.silent_ms = Some(since_ms);
            changes.push(Change { reason: Reason::NoData, started: true, at_ms: since_ms, since_ms, value: None });
        }
    }

    /// When the clock must look at it, if nothing comes before.
    pub(super) fn due_ms(&self, limits: &Limits) -> Option<u64> {
        let side = self.ripe(limits).map(|(at_ms, _)| {
            // In the clock's time.
            self.judged_ms.saturating_add(at_ms.saturating_sub(self.seen_ms))
        });
        match (side, self.silence_due_ms(limits)) {
            (Some(side), Some(silence)) => Some(side.min(silence)),
            (side, silence) => side.or(silence),
        }
    }

    /// There was a pause until now, in which nothing was seen: whatever waits for the clock waits anew.
    pub(super) fn resumed(&mut self, now_ms: u64) {
        self.judged_ms = self.judged_ms.max(now_ms);
        self.heard_ms = self.heard_ms.max(now_ms);
    }

    fn silence_due_ms(&self, limits: &Limits) -> Option<u64> {
        if self.silent_ms.is_some() {
            return None;
        }
        limits.no_data_ms.map(|ms| self.heard_ms.saturating_add(ms))
    }

    /// The side that goes on of itself next, and when, in the key's time. Of two at once the one whose alarm ends is first.
    fn ripe(&self, limits: &Limits) -> Option<(u64, usize)> {
        let ripe = |at: usize| {
            let side = &self.sides[at];
            side.ripe_ms(limits).map(|at_ms| (at_ms, side.phase == Phase::Pending, at))
        };
        let first = match (ripe(0), ripe(1)) {
            (Some(above), Some(below)) => Some(above.min(below)),
            (above, below) => above.or(below),
        };
        first.map(|(at_ms, _, side)| (at_ms, side))
    }

    /// What has happened when the key's time has come so far.
    fn settle(&mut self, limits: &Limits, until_ms: u64, changes: &mut Changes) {
        while let Some((at_ms, at)) = self.ripe(limits).filter(|(at_ms, _)| *at_ms <= until_ms) {
            let side = &mut self.sides[at];
            let started = side.phase == Phase::Pending;
            if started {
                side.alarm_ms = at_ms;
            }
            side.phase = if started { Phase::Active } else { Phase::Clear };
            side.since_ms = at_ms;
            let (since_ms, value) = (side.alarm_ms, Some(self.value));
            changes.push(Change { reason: SIDES[at], started, at_ms, since_ms, value });
        }
    }
}
