//! Thinning: of a stream of events fewer, by the reader's contract. At most one for each key in a period, or one for each key and period that is made of all of them.
//!
//! Time is the events' arrival, so that the past comes out as it would have come out live; the clock only says when something that is held goes out though nothing more comes. Whatever
//! comes out is in the order of its seq: where a key's value goes out, what is held of others from before it goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;
use smol_str::SmolStr;

use super::contract::{Contract, Function, Mode};
use crate::event::{Event, Lane, Parts};
use crate::pipelines::field::{Field, step_into};
use crate::pipelines::json;
use crate::pipelines::record::number_value;

/// How long after a period's end its events may still come in, in milliseconds: from a room to a reader takes a moment.
const SLACK_MS: u64 = 50;
/// From so many keys on those that were quiet for a period are forgotten.
const KEYS_LOOK: usize = 256;
/// So many keys are kept back for one reader and room; with more something goes early.
const KEYS_MAX: usize = 10_000;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// What thins one room for one reader.
#[derive(Debug)]
pub enum Thin {
    /// At most one for each key in a period.
    Spaced(Spaced),
    /// One made of all for each key and period.
    Made(Made),
}

/// An event that goes out.
#[derive(Debug, Clone)]
pub struct Out {
    /// The event.
    pub event: Arc<Event>,
    /// Where a reader has to go on that breaks off right behind it: before what is still to come of earlier ones.
    pub cursor: u64,
}

impl Out {
    /// One before which nothing is held back.
    fn whole(event: Arc<Event>) -> Self {
        Self { cursor: event.seq, event }
    }
}

/// What became of events that were not passed on as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thinned {
    /// Gave way to newer ones, or went into one that was made.
    pub merged: u64,
}

impl Thin {
    /// What a contract asks for, if it asks for any. `live` where the reader begins with what comes next: then its first value comes at once.
    #[must_use]
    pub fn of(contract: &Contract, live: bool) -> Option<Self> {
        match contract.mode {
            _ if contract.period_ms == 0 => None,
            Mode::Every | Mode::Latest => Some(Self::Spaced(Spaced::new(contract.period_ms))),
            Mode::Made(function) => {
                Some(Self::Made(Made::new(contract.period_ms, function, contract.field.clone(), live)))
            }
        }
    }

    /// Takes an event in; what goes out for it is put into `out`.
    pub fn take(&mut self, event: &Arc<Event>, out: &mut Vec<Out>) -> Thinned {
        match self {
            // A change of state is not thinned; what is held goes before it.
            _ if event.change => self.pass(event, out),
            Self::Spaced(spaced) => spaced.take(event, out),
            Self::Made(made) => made.take(event, out),
        }
    }

    /// Lets an event through as it is; what is held goes before it.
    pub fn pass(&mut self, event: &Arc<Event>, out: &mut Vec<Out>) -> Thinned {
        let thinned = self.flush(out);
        out.push(Out::whole(Arc::clone(event)));
        thinned
    }

    /// The clock has come to `now_ms`: what is due goes out.
    pub fn clock(&mut self, now_ms: u64, out: &mut Vec<Out>) -> Thinned {
        match self {
            Self::Spaced(spaced) => {
                spaced.flush_due(now_ms, out);
                Thinned::default()
            }
            Self::Made(made) if made.due_ms().is_some_and(|due| due <= now_ms) => made.close(out),
            Self::Made(_) => Thinned::default(),
        }
    }

    /// Everything that is held goes out.
    pub fn flush(&mut self, out: &mut Vec<Out>) -> Thinned {
        match self {
            Self::Spaced(spaced) => {
                let now_ms = spaced.held.values().map(|event| event.arrived_ms).max().unwrap_or(0);
                spaced.flush_all(now_ms, out);
                Thinned::default()
            }
            Self::Made(made) => made.close(out),
        }
    }

    /// When something that is held is due, in milliseconds since 1970.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        match self {
            Self::Spaced(spaced) => spaced.due_ms(),
            Self::Made(made) => made.due_ms(),
        }
    }

    /// The seq of the first event that is held.
    #[must_use]
    pub fn first_held(&self) -> Option<u64> {
        match self {
            Self::Spaced(spaced) => spaced.held.keys().next().copied(),
            Self::Made(made) => made.keys.values().map(|key| key.first_seq).min(),
        }
    }

    /// How many events are held.
    #[must_use]
    pub fn held(&self) -> u64 {
        match self {
            Self::Spaced(spaced) => spaced.held.len() as u64,
            Self::Made(made) => made.keys.values().map(|key| key.count - u64::from(key.told)).sum(),
        }
    }
}

/// At most one event for each key in a period: the first at once, the last of a burst always. While there is always something held, a key's clock goes in whole periods from its first
/// event on, whatever is dropped; it begins anew with the next first one, and where a value has to go out early, so that the order holds.
#[derive(Debug)]
pub struct Spaced {
    period_ms: u64,
    /// Until when each key's period lasts.
    until: Map<SmolStr, u64>,
    /// The newest event of each key whose period lasts, by seq.
    held: BTreeMap<u64, Arc<Event>>,
    held_of: Map<SmolStr, u64>,
    forget_at: usize,
}

fn key_of(event: &Event) -> SmolStr {
    event.key.clone().unwrap_or_default()
}

impl Spaced {
    fn new(period_ms: u64) -> Self {
        Self { period_ms, until: Map::default(), held: BTreeMap::new(), held_of: Map::default(), forget_at: KEYS_LOOK }
    }

    fn take(&mut self, event: &Arc<Event>, out: &mut Vec<Out>) -> Thinned {
        let (now_ms, key) = (event.arrived_ms, key_of(event));
        self.flush_due(now_ms, out);
        let until = self.until.get(&key).copied().unwrap_or(0);
        if now_ms < until {
            if self.held.len() >= KEYS_MAX && !self.held_of.contains_key(&key) {
                // More is not kept back for one reader; what goes early is not lost.
                self.flush_all(now_ms, out);
            }
            let older = self.held_of.insert(key, event.seq);
            self.held.insert(event.seq, Arc::clone(event));
            let merged = u64::from(older.and_then(|older| self.held.remove(&older)).is_some());
            return Thinned { merged };
        }
        // All that is held is older than this one.
        self.flush_all(now_ms, out);
        out.push(Out::whole(Arc::clone(event)));
        self.until.insert(key, now_ms + self.period_ms);
        self.forget(now_ms);
        Thinned::default()
    }

    /// Lets go what was due until now, each at its time, whenever it is asked for: so the past comes out as it did live.
    fn flush_due(&mut self, now_ms: u64, out: &mut Vec<Out>) {
        while let Some(at_ms) = self.due_ms().filter(|due| *due <= now_ms) {
            let due = |event: &Arc<Event>| self.until.get(&key_of(event)).is_none_or(|until| *until <= at_ms);
            // What lies before the last one due goes too.
            let Some(last) = self.held.iter().rev().find(|(_, event)| due(event)).map(|(seq, _)| *seq) else { return };
            let rest = self.held.split_off(&(last + 1));
            for event in std::mem::replace(&mut self.held, rest).into_values() {
                let key = key_of(&event);
                self.held_of.remove(&key);
                // For one that was due its next period follows right on; one that goes early begins anew.
                self.until.insert(key, at_ms + self.period_ms);
                out.push(Out::whole(event));
            }
        }
    }

    fn flush_all(&mut self, now_ms: u64, out: &mut Vec<Out>) {
        for event in std::mem::take(&mut self.held).into_values() {
            self.until.insert(key_of(&event), now_ms + self.period_ms);
            out.push(Out::whole(event));
        }
        self.held_of.clear();
    }

    fn due_ms(&self) -> Option<u64> {
        self.held.values().map(|event| self.until.get(&key_of(event)).copied().unwrap_or(0)).min()
    }

    /// Forgets keys that have been quiet for a period.
    fn forget(&mut self, now_ms: u64) {
        if self.until.len() >= self.forget_at {
            let period_ms = self.period_ms;
            self.until.retain(|_, until| *until + period_ms > now_ms);
            if self.until.len() >= 2 * KEYS_MAX {
                // Nothing is held at this moment; each key's next event is a first again.
                self.until.clear();
            }
            self.forget_at = (self.until.len() * 2).max(KEYS_LOOK);
        }
    }
}

/// One event for each key and period, made of all of them. Periods are counted from 1970, so that they are the same for everybody and for the past.
#[derive(Debug)]
pub struct Made {
    period_ms: u64,
    function: Function,
    field: Option<Field>,
    /// Whether the first value is still to come, and to go out at once.
    first: bool,
    /// The period that is gathered, as a number.
    period: u64,
    keys: IndexMap<SmolStr, Gathered, ahash::RandomState>,
}

/// What one key's events come to.
#[derive(Debug)]
struct Gathered {
    count: u64,
    first_seq: u64,
    last: Arc<Event>,
    priority: Lane,
    total: Total,
    /// Whether its first event went out at once.
    told: bool,
}

/// A value over several events: numbers are computed with, everything else is as it was last.
#[derive(Debug)]
enum Total {
    Number { sum: f64, min: f64, max: f64, last: f64, count: u64 },
    Object(BTreeMap<String, Total>),
    Other(Value),
}

impl Total {
    fn of(value: Value) -> Self {
        match value {
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(0.0);
                Self::Number { sum: number, min: number, max: number, last: number, count: 1 }
            }
            Value::Object(fields) => {
                Self::Object(fields.into_iter().map(|(name, value)| (name, Self::of(value))).collect())
            }
            other => Self::Other(other),
        }
    }

    fn add(&mut self, value: Value) {
        match (&mut *self, value) {
            (Self::Number { sum, min, max, last, count }, Value::Number(number)) => {
                let number = number.as_f64().unwrap_or(0.0);
                (*sum, *min, *max, *last, *count) =
                    (*sum + number, min.min(number), max.max(number), number, *count + 1);
            }
            (Self::Object(fields), Value::Object(values)) => {
                for (name, value) in values {
                    match fields.get_mut(&name) {
                        Some(total) => total.add(value),
                        None => drop(fields.insert(name, Self::of(value))),
                    }
                }
            }
            // A value of another kind than before begins anew.
            (_, value) => *self = Self::of(value),
        }
    }

    fn value(&self, function: Function) -> Value {
        match self {
            Self::Number { sum, min, max, last, count } => number_value(match function {
                #[allow(clippy::cast_precision_loss, reason = "events of one period")]
                Function::Mean => *sum / *count as f64,
                Function::Min => *min,
                Function::Max => *max,
                Function::Last => *last,
            }),
            Self::Object(fields) => {
                Value::Object(fields.iter().map(|(name, total)| (name.clone(), total.value(function))).collect())
            }
            Self::Other(value) => value.clone(),
        }
    }
}

impl Made {
    fn new(period_ms: u64, function: Function, field: Option<Field>, first: bool) -> Self {
        Self { period_ms, function, field, first, period: 0, keys: IndexMap::default() }
    }

    /// An event's data, or of it only the field that is asked for, in its place.
    fn data(&self, event: &Event) -> Option<Value> {
        let data = json::parse(event.data());
        let Some(Field::Data(path)) = &self.field else { return Some(data) };
        let value = path.names.iter().try_fold(&data, |value, name| step_into(value, name))?.clone();
        if !value.is_number() {
            return None;
        }
        let wrap = |value, name: &SmolStr| Value::Object([(name.to_string(), value)].into_iter().collect());
        Some(path.names.iter().rev().fold(value, wrap))
    }

    fn take(&mut self, event: &Arc<Event>, out: &mut Vec<Out>) -> Thinned {
        let period = event.arrived_ms / self.period_ms;
        let mut thinned = Thinned::default();
        if period > self.period {
            thinned = self.close(out);
            self.period = period;
        }
        let Some(data) = self.data(event) else {
            // Without the field there is nothing to make of it.
            thinned.merged += 1;
            return thinned;
        };
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(&key_of(event)) {
            thinned.merged += self.close(out).merged;
        }
        let told = std::mem::take(&mut self.first);
        if told {
            // It is held as well, for what it becomes a part of.
            out.push(Out { event: Arc::clone(event), cursor: event.seq - 1 });
        }
        match self.keys.get_mut(&key_of(event)) {
            Some(gathered) => {
                gathered.count += 1;
                gathered.last = Arc::clone(event);
                gathered.priority = gathered.priority.min(event.priority);
                gathered.total.add(data);
            }
            None => {
                let (count, first_seq, last, priority) = (1, event.seq, Arc::clone(event), event.priority);
                let total = Total::of(data);
                self.keys.insert(key_of(event), Gathered { count, first_seq, last, priority, total, told });
            }
        }
        thinned
    }

    fn due_ms(&self) -> Option<u64> {
        (!self.keys.is_empty()).then(|| (self.period + 1) * self.period_ms + SLACK_MS)
    }

    /// Ends the period: what was gathered goes out, in the order of its last seqs.
    fn close(&mut self, out: &mut Vec<Out>) -> Thinned {
        let mut merged = 0;
        let mut gathered: Vec<Gathered> = std::mem::take(&mut self.keys).into_values().collect();
        gathered.sort_unstable_by_key(|gathered| gathered.last.seq);
        // Behind each: the first of all events that are in those still to come.
        let mut first_left = vec![u64::MAX; gathered.len()];
        for at in (0..gathered.len().saturating_sub(1)).rev() {
            first_left[at] = first_left[at + 1].min(gathered[at + 1].first_seq);
        }
        for (Gathered { count, last, priority, total, told, .. }, first_left) in gathered.into_iter().zip(first_left) {
            if told && count == 1 {
                // It has gone out already, and nothing has come since.
                continue;
            }
            merged += count - 1 - u64::from(told);
            let data = total.value(self.function).to_string();
            let parts = Parts {
                seq: last.seq,
                arrived_ms: last.arrived_ms,
                timestamp_ms: self.period * self.period_ms,
                priority,
                kind: &last.kind,
                key: last.key.as_deref(),
                id: None,
                change: false,
                data: data.as_bytes(),
            };
            let event = Arc::new(Event::new(&last.room, &parts));
            out.push(Out { cursor: last.seq.min(first_left - 1), event });
        }
        Thinned { merged }
    }
}

#[cfg(test)]
mod tests;
