//! `gather`: makes one event of what came in a time, for screens that want only what has changed, a few times a second.
//!
//! A period begins with the first event that a part takes, and ends `period` later, by the pipeline's clock, which is arrival. Then one event goes on, without a key and of the kind
//! `as_kind`, whose data has a field for each part with something in it; its time is that of the last event, its priority the highest of all. Parts are tried in their order, the first
//! whose `room` and `where` fit an event takes it; what no part takes is dropped. Before the data would be larger than `bytes_max`, or a part would have more than `max` rows, what was
//! gathered goes on early, and the next period begins. What parts of `always` add is not counted. With `repeat` a result goes on every period, though nothing came. An event of which
//! `urgent` is true ends the period at once, but not before `urgent_every` after the last result. With `pace` results that are early wait until it is their turn; of so many that they fill the
//! place for them the oldest goes on.
//!
//! Changes of a room's state are, for rows and objects, merge patches (RFC 7396) of a whole table, which is kept: a row that goes on is the whole row. An object is kept too.
//!
//! *Late*: an event's own time is not looked at. *Missing or wrong*: an event is a dead letter where a condition cannot be told, where `key` gives nothing, where data is no object for
//! an object or for a row with `key_as`, where a row or an object would be larger than `bytes_max`, and where there would be more than `keys_max` kept rows.

mod part;

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::held::Held;
use crate::event::Pattern;
use crate::pipelines::aggregates::{is_name, made_kind};
use crate::pipelines::expression::{Expression, Failure};
use crate::pipelines::operator::{self, BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use part::{Form, Gathered, Part, Update};

/// How large the gathered data may be, if the settings do not say, in bytes.
const BYTES_MAX: u64 = 90_000;
/// How often what is urgent may end a period, if the settings do not say, in milliseconds.
const URGENT_EVERY_MS: u64 = 100;
/// So many results wait for their turn at most.
const WAITING_MAX: usize = 100;
/// `{}`, in bytes.
const BRACES_BYTES: usize = 2;

#[derive(Debug)]
struct Gather {
    period_ms: u64,
    kind: SmolStr,
    bytes_max: usize,
    parts: Vec<Part>,
    /// For each part what was gathered.
    gathered: Vec<Gathered>,
    period: Option<Period>,
    urgent: Option<Expression>,
    urgent_every_ms: u64,
    repeat: bool,
    /// How far results are apart at least.
    pace_ms: u64,
    /// When the last result went on, and those that are to follow.
    sent_ms: u64,
    waiting: VecDeque<Held>,
    /// When a period last ended, and its last event: what a result is made of with which nothing came.
    ended: Option<Period>,
}

/// A period in which something has come.
#[derive(Debug, Serialize, Deserialize)]
struct Period {
    /// When it began; of one that is over, when it ended.
    begun_ms: u64,
    /// Whether it ends as soon as may be.
    urgent: bool,
    /// The last event, without its data; its priority is the highest of all.
    last: Held,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let period_ms = section.time("period");
    let kind = made_kind(section, "update");
    let bytes_max = section.size_or("bytes_max", 1000..=100 * 1024 * 1024, BYTES_MAX);
    let always = section.texts("always");
    let repeat = section.flag("repeat", false);
    let urgent = section.condition_if_given("urgent");
    let urgent_every_ms = section.time_or("urgent_every", URGENT_EVERY_MS);
    let pace_ms = section.time_or("pace", 0);
    let mut parts = Vec::new();
    let tables = section.sections("part");
    if tables.is_empty() {
        section.fault("part", "expected at least one table, begun with [[step.part]], with the settings name and as");
    }
    for (at, mut table) in tables.into_iter().enumerate() {
        table.rename(format!("{}, part {}", section.name(), at + 1));
        parts.push(part(&mut table, &always, bytes_max));
        table.finish();
    }
    let mut names = BTreeSet::new();
    for part in &parts {
        for name in [part.name.clone(), part.omitted(), part.removed()] {
            if !names.insert(name.clone()) {
                section.fault("part", format!("two fields would be called {name}"));
            }
        }
    }
    for name in &always {
        if !parts.iter().any(|part| part.name == *name) {
            section.fault("always", format!("there is no part {name:?}"));
        }
    }
    let gathered = parts.iter().map(Part::begin).collect();
    let (period, ended) = (None, None);
    Some(Box::new(Gather {
        period_ms,
        kind,
        bytes_max,
        parts,
        gathered,
        period,
        urgent,
        urgent_every_ms,
        repeat,
        pace_ms,
        sent_ms: 0,
        waiting: VecDeque::new(),
        ended,
    }))
}

fn part(table: &mut Section<'_, '_>, always: &[String], bytes_max: usize) -> Part {
    let name = table.text("name");
    if table.has("name") && !is_name(&name) {
        table.fault("name", format!("{name:?} is no name: expected 1 to 100 letters, digits and underscores"));
    }
    let room =
        table.text_if_given("room").map(|text| Pattern::parse(&text).map_err(|error| table.fault("room", error)));
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let form = match table.choice("as", &["list", "rows", "object", "last"], None) {
        "list" => Form::List { max: size(table.count_or("max", 1..=10_000, 50)) },
        "rows" => Form::Rows {
            key: table.by("key"),
            key_as: table.text_if_given("key_as"),
            max: size(table.count_or("max", 1..=10_000, 1000)),
            keys_max: size(table.count_or("keys_max", 1..=1_000_000, 10_000)),
        },
        "object" => Form::Object { of: table.text_if_given("of").unwrap_or_default().into() },
        _ => Form::Last,
    };
    let condition = table.condition_if_given("where");
    let always = always.contains(&name);
    Part { name, condition, room: room.and_then(Result::ok), form, always, bytes_max }
}

impl Gather {
    /// The part that takes an event.
    fn part_of(&self, record: &Record) -> Result<Option<usize>, Failure> {
        for (at, part) in self.parts.iter().enumerate() {
            if part.room.as_ref().is_some_and(|room| !room.matches(&record.room)) {
                continue;
            }
            if part.condition.as_ref().map_or(Ok(true), |condition| condition.test(record))? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Whether there is place for an update beside what was gathered.
    fn has_place(&self, at: usize, update: &Update) -> bool {
        let Some(own) = self.parts[at].bytes_with(&self.gathered[at], update) else { return false };
        let envelopes: usize = self.parts.iter().map(Part::envelope).sum();
        let others: usize = self.gathered.iter().map(Gathered::bytes).sum();
        BRACES_BYTES + envelopes + others - self.gathered[at].bytes() + own <= self.bytes_max
    }

    /// Takes an update of a part in; what was gathered before goes on early if there is no place for it.
    fn take(&mut self, at: usize, update: Update, record: &Record, cx: &mut Context<'_>) {
        if self.period.is_some() && !self.has_place(at, &update) {
            self.end(cx.now_ms).into_iter().for_each(|made| self.send(made, cx));
        }
        self.parts[at].take(&mut self.gathered[at], update);
        self.begin(record, cx.now_ms);
    }

    /// Has a period begin with an event, or go on with it.
    fn begin(&mut self, record: &Record, now_ms: u64) {
        let mut last = record.derived(&record.kind, Value::Null);
        let (mut begun_ms, mut urgent) = (now_ms, false);
        if let Some(period) = &self.period {
            last.priority = last.priority.min(period.last.record().priority);
            (begun_ms, urgent) = (period.begun_ms, period.urgent);
        }
        self.period = Some(Period { begun_ms, urgent, last: Held::of(&last) });
    }

    /// Ends the period: what was gathered as an event.
    fn end(&mut self, now_ms: u64) -> Option<Record> {
        let Period { last, .. } = self.period.take()?;
        let made = self.made(&last);
        self.ended = Some(Period { begun_ms: now_ms, urgent: false, last });
        Some(made)
    }

    /// All parts as an event.
    fn made(&mut self, last: &Held) -> Record {
        let mut data = Map::new();
        for (part, gathered) in self.parts.iter().zip(&mut self.gathered) {
            part.give(gathered, &mut data);
        }
        let mut made = last.record().derived(&self.kind, Value::Object(data));
        made.key = None;
        made
    }

    /// What goes on where nothing came.
    fn again(&mut self, now_ms: u64) -> Option<Record> {
        let mut ended = self.ended.take()?;
        let mut made = self.made(&ended.last);
        (made.timestamp_ms, made.priority) = (now_ms, crate::event::Lane::Normal);
        ended.begun_ms = now_ms;
        self.ended = Some(ended);
        Some(made)
    }

    /// Lets a result go on, or has it wait for its turn.
    fn send(&mut self, made: Record, cx: &mut Context<'_>) {
        if self.waiting.is_empty() && self.free_ms() <= cx.now_ms {
            self.sent_ms = cx.now_ms;
            return cx.emit(made);
        }
        self.waiting.push_back(Held::of(&made));
        if self.waiting.len() > WAITING_MAX {
            self.send_waiting(cx);
        }
    }

    /// Lets the result go on whose turn it is.
    fn send_waiting(&mut self, cx: &mut Context<'_>) {
        if let Some(held) = self.waiting.pop_front() {
            let mut made = held.into_record();
            (made.seq, made.arrived_ms) = (0, cx.now_ms);
            self.sent_ms = cx.now_ms;
            cx.emit(made);
        }
    }

    /// When the next result may go on.
    fn free_ms(&self) -> u64 {
        self.sent_ms.saturating_add(self.pace_ms)
    }

    /// When the period is over, or something is to be said again.
    fn ends_ms(&self) -> Option<u64> {
        let Some(period) = &self.period else {
            let ended = self.ended.as_ref().filter(|_| self.repeat)?;
            return Some(ended.begun_ms.saturating_add(self.period_ms));
        };
        // Where results repeat, a period goes on from the end of the one before.
        let begun_ms = match &self.ended {
            Some(ended) if self.repeat => ended.begun_ms,
            _ => period.begun_ms,
        };
        let due_ms = begun_ms.saturating_add(self.period_ms);
        Some(if period.urgent { due_ms.min(self.urgent_ms()) } else { due_ms })
    }

    /// When what is urgent may go on.
    fn urgent_ms(&self) -> u64 {
        self.ended.as_ref().map_or(0, |ended| ended.begun_ms.saturating_add(self.urgent_every_ms))
    }
}

impl Operator for Gather {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let at = match self.part_of(record) {
            Ok(at) => at,
            Err(failure) => return cx.reject(record, failure.field, failure.why),
        };
        let urgent = match self.urgent.as_ref().map_or(Ok(false), |urgent| urgent.test(record)) {
            Ok(urgent) => urgent,
            Err(failure) => return cx.reject(record, failure.field, failure.why),
        };
        if let Some(at) = at {
            match self.parts[at].updates(&mut self.gathered[at], record, cx) {
                Ok(updates) => updates.into_iter().for_each(|update| self.take(at, update, record, cx)),
                Err((field, why)) => return cx.reject(record, field, why),
            }
        }
        if urgent {
            self.begin(record, cx.now_ms);
            if self.urgent_ms() <= cx.now_ms {
                self.end(cx.now_ms).into_iter().for_each(|made| self.send(made, cx));
            } else if let Some(period) = &mut self.period {
                period.urgent = true;
            }
        }
        Next::Drop
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        if self.free_ms() <= cx.now_ms {
            self.send_waiting(cx);
        }
        if self.ends_ms().is_none_or(|ends_ms| ends_ms > cx.now_ms) {
            return;
        }
        let made = if self.period.is_some() { self.end(cx.now_ms) } else { self.again(cx.now_ms) };
        if let Some(mut made) = made {
            (made.seq, made.arrived_ms) = (0, cx.now_ms);
            self.send(made, cx);
        }
    }

    fn due_ms(&self) -> Option<u64> {
        let turn_ms = (!self.waiting.is_empty()).then(|| self.free_ms());
        self.ends_ms().into_iter().chain(turn_ms).min()
    }

    fn resumed(&mut self, now_ms: u64) {
        // What a pause had no place for is not made up for.
        if let Some(ended) = &mut self.ended {
            ended.begun_ms = ended.begun_ms.max(now_ms);
        }
    }

    fn keys(&self) -> usize {
        self.gathered.iter().map(Gathered::keys).sum()
    }

    fn save(&self) -> Vec<u8> {
        operator::save(&(&self.period, &self.ended, self.sent_ms, &self.waiting, &self.gathered))
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        type State = (Option<Period>, Option<Period>, u64, VecDeque<Held>, Vec<Gathered>);
        let (period, ended, sent_ms, waiting, gathered): State = operator::load(state)?;
        let fits = |(part, gathered): (&Part, &Gathered)| part.fits(gathered);
        if self.parts.len() != gathered.len() || !self.parts.iter().zip(&gathered).all(fits) {
            return Err(BadState);
        }
        (self.period, self.ended, self.gathered) = (period, ended, gathered);
        (self.sent_ms, self.waiting) = (sent_ms, waiting);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
