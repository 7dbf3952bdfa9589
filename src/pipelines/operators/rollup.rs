//! `rollup`: figures over the newest event of every key, a table's rows, and not over all events.
//!
//! Of each key there is a row: the data of its last event, or of all its events merged (`merge`, RFC 7396). Data that is `null` takes the row away. Events that are changes of a room's
//! state are merge patches of the whole table, whatever `merge` and `key` say. What goes on is one event without a key: `{"rows": N, FIELD_FUNCTION: …, NAME: …}`, of the kind `as_kind`,
//! with every event or at most once in `emit_every`: the first at once, and the last always, from the clock if no event brings it. What the figures and conditions need of a row is read
//! when the row changes; they are put together of all rows when they go on.
//!
//! *Late*: an event's own time decides only what `first` and `last` mean. *Missing*: a row without a field is left out of its figures, and a condition that has no value for want of a
//! field is not true of the row. *Wrong*: data that is no object, a field of another kind than its figures want, a condition without a value for another reason, a `key` that gives
//! nothing and a row over `keys_max` make a dead letter and change nothing; of a change of a room's state the row is entered all the same, since the table must stay that of the room,
//! and what is wrong of it counts as missing.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::held::Held;
use super::place::no_object;
use crate::pipelines::aggregates::{Common, Noted, Plan, is_name, made_kind, record_key};
use crate::pipelines::by::By;
use crate::pipelines::expression::Expression;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{self, BadState, Context, Next, Operator};
use crate::pipelines::record::{Got, Record};
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;
use crate::pipelines::{json, merge};

/// The name of the figure that says how many rows there are.
const ROWS: &str = "rows";

#[derive(Debug)]
struct Rollup {
    key: By,
    merge: bool,
    pass: bool,
    kind: SmolStr,
    plan: Plan,
    counts: Vec<(String, Expression)>,
    /// 0 for with every event.
    every_ms: u64,
    keys_max: usize,
    keys_idle_ms: u64,
    rows: Keyed<Row>,
    turn: Turn,
}

/// A row, and what the figures and conditions need of it.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    /// When its last event happened, in milliseconds since 1970.
    time_ms: u64,
    /// As JSON: it is parsed when it changes, and weighs a fraction until then.
    json: String,
    values: Noted,
    counts: Box<[bool]>,
}

/// When the figures may go on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Turn {
    free_ms: u64,
    /// Whether there are figures that have not come yet.
    waits: bool,
    /// The time of what they are of.
    time_ms: u64,
    /// The last event, without its data.
    last: Option<Held>,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let key = section.by("key");
    let mut common = Common::of_rows(section, &[ROWS]);
    let plan = Plan::of(section, &mut common, "");
    let counts = counts(section, &mut common);
    let (merge, pass) = (section.flag("merge", false), section.flag("pass", false));
    let kind = made_kind(section, "rollup");
    let every_ms = section.time_or("emit_every", 0);
    let keys_max = usize::try_from(section.count_or("keys_max", 1..=1_000_000, 10_000)).unwrap_or(usize::MAX);
    // What a table says holds until it says otherwise.
    let keys_idle_ms = section.time_or("keys_idle", 0);
    let (rows, turn) = (Keyed::new(keys_max, keys_idle_ms), Turn::default());
    Some(Box::new(Rollup { key, merge, pass, kind, plan, counts, every_ms, keys_max, keys_idle_ms, rows, turn }))
}

fn counts(section: &mut Section<'_, '_>, common: &mut Common) -> Vec<(String, Expression)> {
    let mut counts = Vec::new();
    for (at, mut table) in section.sections("count").into_iter().enumerate() {
        table.rename(format!("{}, count {}", section.name(), at + 1));
        let (name, condition) = (table.text("name"), table.condition("where"));
        if table.has("name") && !is_name(&name) {
            table.fault("name", format!("{name:?} is no name: expected 1 to 100 letters, digits and underscores"));
        }
        common.take(&table, "name", &name);
        counts.extend(condition.map(|condition| (name, condition)));
        table.finish();
    }
    counts
}

impl Rollup {
    /// A row of this value, and what is wrong with it.
    fn row(&self, key: &str, value: Value, record: &Record) -> (Row, Option<(String, Why)>) {
        let mut of_row = record.derived(&record.kind, value);
        of_row.key = record_key(key);
        let (values, wrong) = self.plan.fitting(&of_row);
        let mut wrong = wrong.map(|(field, expected)| {
            let why = match of_row.get(field) {
                Got::Missing => Why::Missing,
                got => Why::Type { expected, found: got.type_name() },
            };
            (field.to_string(), why)
        });
        let mut test = |condition: &Expression| {
            condition.test(&of_row).unwrap_or_else(|failure| {
                if failure.why != Why::Missing {
                    wrong.get_or_insert((failure.field, failure.why));
                }
                false
            })
        };
        let counts = self.counts.iter().map(|(_, condition)| test(condition)).collect();
        let (values, json) = (Noted::of(&values), String::from_utf8_lossy(&of_row.json()).into_owned());
        (Row { time_ms: record.timestamp_ms, json, values, counts }, wrong)
    }

    /// The value of a key's row; `null` if there is none.
    fn value(&self, key: &str) -> Value {
        self.rows.get(key).map(|row| json::parse(row.json.as_bytes())).unwrap_or_default()
    }

    fn put(&mut self, key: &str, row: Row, now_ms: u64) -> Result<(), (String, Why)> {
        let empty = || Row { time_ms: 0, json: String::new(), values: Noted::of(&[]), counts: Box::default() };
        let Some(entry) = self.rows.entry(key, now_ms, empty) else {
            return Err(("key".to_owned(), Why::TooManyKeys));
        };
        *entry = row;
        Ok(())
    }

    /// Enters an event that is about one row.
    fn enter(&mut self, record: &Record, now_ms: u64) -> Result<(), (String, Why)> {
        let key = self.key.of(record).map_err(|field| {
            let why = match record.get(field) {
                Got::Missing => Why::Missing,
                got => Why::Type { expected: "text, a number or a flag", found: got.type_name() },
            };
            (field.to_string(), why)
        })?;
        let value = match record.value() {
            Value::Null => {
                self.rows.remove(&key);
                return Ok(());
            }
            patch @ Value::Object(_) if self.merge => {
                let mut value = self.value(&key);
                merge::apply(&mut value, &patch);
                value
            }
            value @ Value::Object(_) => value,
            other => return Err(("data".to_owned(), no_object(&other))),
        };
        match self.row(&key, value, record) {
            (row, None) => self.put(&key, row, now_ms),
            (_, Some(wrong)) => Err(wrong),
        }
    }

    /// Applies a merge patch of the whole table; whether it is one.
    fn change(&mut self, record: &Record, cx: &mut Context<'_>) -> bool {
        let changes = match record.value() {
            Value::Object(changes) => changes,
            other => {
                cx.reject(record, "data", no_object(&other));
                return false;
            }
        };
        for (key, patch) in &changes {
            let mut value = self.value(key);
            merge::apply(&mut value, patch);
            let wrong = match value {
                value @ Value::Object(_) => {
                    let (row, wrong) = self.row(key, value, record);
                    self.put(key, row, cx.now_ms).err().or(wrong)
                }
                other => {
                    self.rows.remove(key);
                    (!other.is_null()).then(|| (format!("data.{key}"), no_object(&other)))
                }
            };
            if let Some((field, why)) = wrong {
                cx.reject(record, field, why);
            }
        }
        true
    }

    fn data(&self) -> Value {
        let (mut totals, mut counts) = (self.plan.empty(), vec![0_u64; self.counts.len()]);
        for (_, row) in self.rows.iter() {
            self.plan.add(&mut totals, &row.values.values(), row.time_ms);
            counts.iter_mut().zip(&row.counts).for_each(|(count, is)| *count += u64::from(*is));
        }
        let mut data = Map::new();
        data.insert(ROWS.to_owned(), self.rows.len().into());
        self.plan.write_fields(&totals, |_| Value::Null, &mut data);
        data.extend(self.counts.iter().zip(counts).map(|((name, _), count)| (name.clone(), count.into())));
        Value::Object(data)
    }

    fn made(&self, record: &Record) -> Record {
        let mut made = record.derived(&self.kind, self.data());
        made.key = None;
        made
    }

    /// Lets the figures go on after an event, or has them wait for their turn.
    fn tell(&mut self, record: &Record, cx: &mut Context<'_>) {
        self.turn.last = Some(Held::of(&record.derived(&record.kind, Value::Null)));
        self.turn.time_ms = record.timestamp_ms;
        self.turn.waits = record.arrived_ms < self.turn.free_ms;
        if !self.turn.waits {
            self.turn.free_ms = if self.every_ms > 0 { record.arrived_ms.saturating_add(self.every_ms) } else { 0 };
            cx.emit(self.made(record));
        }
    }
}

impl Operator for Rollup {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        if record.change {
            if !self.change(record, cx) {
                return Next::Drop;
            }
        } else if let Err((field, why)) = self.enter(record, cx.now_ms) {
            return cx.reject(record, field, why);
        }
        self.tell(record, cx);
        if self.pass { Next::Pass } else { Next::Drop }
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        let waited = self.turn.waits;
        if !self.rows.expire(cx.now_ms, |_| true).is_empty() {
            (self.turn.waits, self.turn.time_ms) = (true, cx.now_ms);
        }
        if !self.turn.waits || self.turn.free_ms > cx.now_ms {
            return;
        }
        self.turn.waits = false;
        // From when it was due, however late the clock comes; that rows were forgotten is due now.
        let due_ms = if waited { self.turn.free_ms } else { cx.now_ms };
        self.turn.free_ms = if self.every_ms > 0 { due_ms.saturating_add(self.every_ms) } else { 0 };
        if let Some(last) = &self.turn.last {
            let mut made = self.made(last.record());
            (made.seq, made.timestamp_ms, made.arrived_ms) = (0, self.turn.time_ms, cx.now_ms);
            cx.emit(made);
        }
    }

    fn due_ms(&self) -> Option<u64> {
        self.turn.waits.then_some(self.turn.free_ms).into_iter().chain(self.rows.due_ms()).min()
    }

    fn keys(&self) -> usize {
        self.rows.len()
    }

    fn save(&self) -> Vec<u8> {
        operator::save(&(&self.turn, self.rows.save()))
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        let (turn, kept): (Turn, Vec<u8>) = operator::load(state)?;
        let mut rows: Keyed<Row> = Keyed::new(self.keys_max, self.keys_idle_ms);
        rows.load(&kept)?;
        if !rows.iter().all(|(_, row)| self.plan.noted(&row.values) && row.counts.len() == self.counts.len()) {
            return Err(BadState);
        }
        (self.turn, self.rows) = (turn, rows);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
