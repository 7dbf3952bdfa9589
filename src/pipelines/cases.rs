//! Cases that stand beside a pipeline: events in, time that passes, events expected. `host_alarms.toml` has them in `host_alarms.test.toml`.
//!
//! ```toml
//! [[case]]
//! name = "a short peak is no alarm"
//! steps = [
//!   { at = "0s", room = "host:cpu", data = { usage = 95 } },                # one event
//!   { at = "1s", room = "host:cpu", field = "usage", values = [96, 97, 12] },   # several, a second apart
//!   { at = "60s" },                                                         # only time
//! ]
//! expect = []                                                               # every event that comes out, in order
//! ```
//! Of an expected event only what is said is compared: `room`, `kind`, `key`, `priority`, `at` (its timestamp), `data` (all of it) or `has` (some of its fields). A step may have `expect` of its
//! own, for what came out until then.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::definition::Definition;
use super::machine::{Machine, Output};
use super::record::Record;
use crate::clock;
use crate::event::{RoomName, parse_priority};
use crate::settings::value::parse_time;

/// Where a case begins if it does not say: the first moment of 2026, so that windows begin with it.
const START_MS: u64 = 1_767_225_600_000;
/// The most events that one step may make.
const TIMES_MAX: u64 = 1_000_000;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

/// A case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it promises.
    pub name: String,
    /// When it begins, RFC 3339.
    start: Option<String>,
    steps: Vec<Step>,
    #[serde(default)]
    expect: Vec<Expected>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: Option<String>,
    room: Option<String>,
    kind: Option<String>,
    key: Option<String>,
    priority: Option<String>,
    /// When it happened, if that is not when it arrives: a time since the case's beginning.
    happened: Option<String>,
    data: Option<toml::Value>,
    /// It is a change of its room's state: its data is a merge patch of the whole table.
    #[serde(default)]
    change: bool,
    field: Option<String>,
    values: Option<Vec<toml::Value>>,
    times: Option<u64>,
    every: Option<String>,
    /// The pipeline is stopped and begins again.
    #[serde(default)]
    restart: bool,
    expect: Option<Vec<Expected>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    room: Option<String>,
    kind: Option<String>,
    key: Option<String>,
    priority: Option<String>,
    at: Option<String>,
    data: Option<toml::Value>,
    has: Option<toml::Table>,
}

/// Reads the cases of a file.
///
/// # Errors
/// What is wrong, in words.
pub fn read(text: &str) -> Result<Vec<Case>, String> {
    toml::from_str::<File>(text).map(|file| file.case).map_err(|error| error.to_string())
}

/// Runs a case with a pipeline that has seen nothing yet.
///
/// # Errors
/// What came out otherwise than expected, line by line, or what is wrong with the case.
pub fn run(definition: Definition, case: &Case) -> Result<(), String> {
    let start_ms = match &case.start {
        None => START_MS,
        Some(text) => clock::parse_rfc3339(text).ok_or_else(|| format!("start: {text:?} is no time"))?,
    };
    let mut run = Run { machine: Machine::new(definition), start_ms, now_ms: start_ms, seq: 0, out: Vec::new() };
    for (at, step) in case.steps.iter().enumerate() {
        run.step(step).map_err(|why| format!("step {}: {why}", at + 1))?;
        if let Some(expected) = &step.expect {
            run.compare(expected).map_err(|why| format!("after step {}:\n{why}", at + 1))?;
        }
    }
    run.compare(&case.expect)
}

struct Run {
    machine: Machine,
    start_ms: u64,
    now_ms: u64,
    seq: u64,
    out: Vec<Output>,
}

fn time(text: &str) -> Result<u64, String> {
    let time = parse_time(text).ok_or_else(|| format!("{text:?} is no time, such as 10s"))?;
    u64::try_from(time.as_millis()).map_err(|_| format!("{text:?} is too long"))
}

fn json_of(value: &toml::Value) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// A merge patch: what it takes away it says as `null`, which TOML does not have.
fn patch_of(value: &toml::Value) -> Value {
    fn with_nulls(value: Value) -> Value {
        match value {
            Value::String(text) if text == "null" => Value::Null,
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, with_nulls(value))).collect(),
            other => other,
        }
    }
    with_nulls(json_of(value))
}

impl Run {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Some(at) = &step.at {
            let at = self.start_ms + time(at)?;
            if at < self.now_ms {
                return Err(format!("at {at:?} lies before the step before it", at = step.at.as_deref().unwrap_or("")));
            }
            self.now_ms = at;
        }
        if step.restart {
            self.restart()?;
        }
        self.machine.clock(self.now_ms, &mut self.out);
        let Some(room) = &step.room else {
            let stray = step.data.is_some() || step.values.is_some() || step.times.is_some();
            return if stray { Err("an event needs a room".to_owned()) } else { Ok(()) };
        };
        let room = RoomName::parse(room).map_err(|error| error.to_string())?;
        let base = step.data.as_ref().map_or(Value::Null, if step.change { patch_of } else { json_of });
        let all: Vec<Value> = match (&step.values, &step.field) {
            (Some(values), Some(field)) => values.iter().map(|value| with(&base, field, json_of(value))).collect(),
            (Some(values), None) => values.iter().map(json_of).collect(),
            (None, _) => vec![base],
        };
        let times = step.times.unwrap_or(1).min(TIMES_MAX);
        let every = step.every.as_deref().map_or(Ok(1000), time)?;
        let count = all.len() as u64 * times;
        let happened = step.happened.as_deref().map(time).transpose()?;
        let priority = step.priority.as_deref().map(|text| parse_priority(text).ok_or("no such priority"));
        let priority = priority.transpose()?.unwrap_or_default();
        for (at, data) in all.iter().cycle().take(usize::try_from(count).unwrap_or(0)).enumerate() {
            if at > 0 {
                self.now_ms += every;
            }
            self.seq += 1;
            let happened_ms = happened.map_or(self.now_ms, |happened| self.start_ms + happened + at as u64 * every);
            let kind = step.kind.as_deref().or(step.change.then_some("delta"));
            let kind = kind.unwrap_or_else(|| room.as_str().rsplit(':').next().unwrap_or("event"));
            let key = step.key.as_deref().map(Into::into);
            let mut record = Record::made(room.clone(), kind, key, happened_ms, self.now_ms, Value::Null);
            (record.seq, record.priority) = (self.seq, priority);
            let mut record = record.given(data.to_string().into(), self.machine.definition().chain.extractor());
            record.change = step.change;
            self.machine.record(record, &mut self.out);
        }
        Ok(())
    }

    /// As after a stop: what was written down is read by a new one.
    fn restart(&mut self) -> Result<(), String> {
        let state = self.machine.save();
        let again = Definition::again(&self.machine.definition().written());
        let again = again.map_err(|_| "it cannot be read again".to_owned())?;
        self.machine = Machine::new(again);
        self.machine.load(&state).map_err(|error| error.to_string())?;
        self.machine.resumed(self.now_ms);
        Ok(())
    }

    /// Compares what has come out with what was expected, and begins anew.
    fn compare(&mut self, expected: &[Expected]) -> Result<(), String> {
        let out = std::mem::take(&mut self.out);
        let matches = |at: usize| match (expected.get(at), out.get(at)) {
            (Some(expected), Some(output)) => self.fits(expected, output),
            (None, None) => true,
            _ => false,
        };
        let length = expected.len().max(out.len());
        if (0..length).all(matches) {
            return Ok(());
        }
        let mut lines = Vec::new();
        for at in 0..length {
            let (wanted, got) = (expected.get(at), out.get(at));
            if wanted.is_some() && got.is_some() && matches(at) {
                lines.push(format!("    {}. as expected: {}", at + 1, self.shown(&out[at])));
                continue;
            }
            lines.push(format!("    {}. expected: {}", at + 1, wanted.map_or("nothing".into(), Expected::to_string)));
            lines.push(format!("       came out: {}", got.map_or("nothing".into(), |output| self.shown(output))));
        }
        Err(lines.join("\n"))
    }

    fn fits(&self, expected: &Expected, output: &Output) -> bool {
        let event = &output.event;
        let text = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let at = event.timestamp_ms.unwrap_or(0);
        let time_fits = expected.at.as_deref().is_none_or(|wanted| match time(wanted) {
            Ok(since) => self.start_ms + since == at,
            Err(_) => clock::parse_rfc3339(wanted) == Some(at),
        });
        let data: Value = serde_json::from_slice(&event.data).unwrap_or_default();
        text(&expected.room, output.room.as_str())
            && text(&expected.kind, &event.kind)
            && text(&expected.key, event.key.as_deref().unwrap_or(""))
            && text(&expected.priority, event.priority.name())
            && time_fits
            && expected.data.as_ref().is_none_or(|wanted| same(&json_of(wanted), &data))
            && expected.has.as_ref().is_none_or(|wanted| {
                wanted.iter().all(|(name, value)| data.get(name).is_some_and(|is| same(&json_of(value), is)))
            })
    }

    fn shown(&self, output: &Output) -> String {
        let event = &output.event;
        let since = event.timestamp_ms.unwrap_or(0).saturating_sub(self.start_ms);
        let key = event.key.as_deref().map_or(String::new(), |key| format!(" key={key}"));
        let data = String::from_utf8_lossy(&event.data);
        let (room, kind, priority) = (&output.room, &event.kind, event.priority.name());
        format!("{room} {kind}{key} {priority} at {} {data}", shown_time(since))
    }
}

fn shown_time(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        let mut say =
            |name: &str, value: &Option<String>| words.extend(value.as_ref().map(|value| format!("{name}={value}")));
        say("room", &self.room);
        say("kind", &self.kind);
        say("key", &self.key);
        say("priority", &self.priority);
        say("at", &self.at);
        words.extend(self.data.as_ref().map(|data| format!("data={}", json_of(data))));
        words.extend(self.has.as_ref().map(|has| format!("with {}", json!(has))));
        f.write_str(if words.is_empty() { "any event".to_owned() } else { words.join(" ") }.as_str())
    }
}

/// Whether two values are the same; 1 and 1.0 are.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| same(value, other)))
        }
        // TOML has no null; a case says it so.
        (Value::String(text), Value::Null) => text == "null",
        (one, other) => one == other,
    }
}

/// An object with one more field, whose name may have dots.
fn with(base: &Value, field: &str, value: Value) -> Value {
    let mut whole = if base.is_object() { base.clone() } else { Value::Object(Map::new()) };
    let mut place = &mut whole;
    for name in field.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = value;
    whole
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const PIPELINE: &str =
        "[pipeline]\nfrom = \"in\"\n[[step]]\nop = \"filter\"\nwhere = \"data.x > 1\"\n[[output]]\nroom = \"out\"\n";

    fn outcome(case: &str) -> Result<(), String> {
        let definition = Definition::read("t", "t.toml", PIPELINE, None).unwrap();
        run(definition, &read(case).unwrap()[0])
    }

    #[test]
    fn a_case_passes_when_just_that_comes_out() {
        let case = "[[case]]\nname = \"n\"\nsteps = [{ at = \"1s\", room = \"in\", field = \"x\", values = [1, 2, 3.0] }]\n\
                    expect = [{ room = \"out\", at = \"2s\", data = { x = 2 } }, { has = { x = 3 } }]";
        assert_eq!(outcome(case), Ok(()));
    }

    #[test]
    fn a_step_may_be_a_change_of_a_rooms_state() {
        let pipeline = "[pipeline]\nfrom = \"in\"\n[[step]]\nop = \"rollup\"\n[[output]]\nroom = \"out\"\n";
        let case = "[[case]]\nname = \"n\"\nsteps = [{ room = \"in\", change = true, data = { a = {}, b = {} } },
                    { room = \"in\", change = true, data = { b = \"null\" } }]
                    expect = [{ data = { rows = 2 } }, { data = { rows = 1 } }]";
        let definition = Definition::read("t", "t.toml", pipeline, None).unwrap();
        assert_eq!(run(definition, &read(case).unwrap()[0]), Ok(()));
    }

    #[test]
    fn what_differs_is_shown_side_by_side() {
        let case = "[[case]]\nname = \"n\"\nsteps = [{ room = \"in\", data = { x = 2 } }]\nexpect = [{ room = \"out\", data = { x = 5 } }, { key = \"k\" }]";
        let shown = outcome(case).unwrap_err();
        assert!(
            shown.contains("1. expected: room=out data={\"x\":5}")
                && shown.contains("came out: out in normal at 0s {\"x\":2}"),
            "{shown}"
        );
        assert!(shown.contains("2. expected: key=k\n       came out: nothing"), "{shown}");
    }

    #[test]
    fn what_nobody_expected_fails_a_case() {
        assert!(outcome("[[case]]\nname = \"n\"\nsteps = [{ room = \"in\", data = { x = 2 } }]").is_err());
        assert!(
            outcome("[[case]]\nname = \"n\"\nsteps = [{ at = \"5s\" }, { at = \"4s\" }]")
                .unwrap_err()
                .contains("before")
        );
    }
}
