//! `threshold`: watches a number for each key and tells when an alarm starts and when it is over, once each.
//!
//! A value over `above` or under `below` is beyond; with both, what lies between them is the good. The alarm starts when the value has been beyond for `hold`, and is over when it was back
//! (no further than `clear_above`, `clear_below`) for `hold_clear`. A value holds until the next one of its key. Both times go by when the values happened, and after the last of them by the
//! clock; an alarm's time is the moment at which the hold was reached, not the one at which that was found out. `above`, `below` and `no_data` are alarms of their own, side by side.
//!
//! `no_data` starts an alarm when a key has had no event for so long by the clock. Any event of the key ends it and counts, also one that is late or has no number: the key is not silent.
//! A key is watched from its first event on, those of `expect` from the pipeline's first event or clock. A pause of the pipeline is nobody's silence: waiting begins anew after it. Its
//! alarms have the clock's times.
//!
//! Late: a value that happened before the last one seen of its key would judge the present by the past: it is not judged and is a dead letter. A value that claims to be from the future
//! therefore makes its key deaf until then. With `time = "arrival"` values happen when they arrive, and none is late. Missing or wrong: an event without the number, or whose `by` gives no
//! text, number or flag, is a dead letter, and so is that of a key over `keys_max`. With `missing = "skip"` an event without the number, or with `null`, is passed over.
//!
//! Bounds: `keys_max` keys of about 250 bytes. A key that was not heard of for `keys_idle` is forgotten, but not while it has an alarm or waits for one. With `no_data` no key is ever
//! forgotten: `keys_idle` does not apply, since to forget a silent key would be to miss what is asked for.

mod watch;

use serde_json::{Value, json};
use smol_str::SmolStr;

use self::watch::{Change, Changes, Level, Limits, Reason, Watch};
use super::held::Timetable;
use crate::clock::rfc3339;
use crate::event::{Lane, RoomName};
use crate::pipelines::by::By;
use crate::pipelines::field::Field;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{self, BadState, Context, Next, Operator};
use crate::pipelines::record::{Got, Record, number_value};
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// The longest kind, in characters.
const KIND_MAX: usize = 100;
/// The room of an alarm about a key that never came, in a pipeline to which nothing ever came.
const NO_ROOM: &str = "unknown";

#[derive(Debug)]
struct Threshold {
    by: By,
    /// The number, where levels are given.
    field: Option<Field>,
    limits: Limits,
    /// Whether values are in the order of their arrival, whatever they say of their time.
    by_arrival: bool,
    /// Whether an event without the number goes by.
    skip: bool,
    told: Told,
    /// What becomes of the watched events.
    next: Next,
    /// Keys that must be there from the start.
    expect: Vec<SmolStr>,
    table: Keyed<Watch>,
    /// When the clock is to look at which key: at most one entry for each, never later than it must. It is corrected when it is reached, so that an event that only puts a time off,
    /// as every event does with `no_data`, costs nothing here.
    noted: Timetable,
    /// Whether the expected keys are watched.
    begun: bool,
    /// Where the latest event of any key came from; kept where keys are expected.
    room: SmolStr,
}

/// How alarms are told.
#[derive(Debug)]
struct Told {
    kind: String,
    name: Option<String>,
    severity: String,
    priority: Lane,
    /// The watched field's name.
    field: Value,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let by = section.by("by");
    let (above, below) = (section.number_if_given("above"), section.number_if_given("below"));
    let (clear_above, clear_below) = (section.number_if_given("clear_above"), section.number_if_given("clear_below"));
    let (hold_ms, hold_clear_ms) = (section.time_or("hold", 0), section.time_or("hold_clear", 0));
    let no_data_ms = section.time_if_given("no_data");
    let by_arrival = section.choice("time", &["event", "arrival"], Some("event")) == "arrival";
    let skip = section.choice("missing", &["dead_letter", "skip"], Some("dead_letter")) == "skip";
    let expect: Vec<SmolStr> = section.texts("expect").into_iter().map(SmolStr::from).collect();
    let judges = section.has("above") || section.has("below");
    let field = if judges { Some(section.field("field")) } else { section.field_if_given("field") };
    let told = Told {
        kind: section.text_if_given("as_kind").unwrap_or_else(|| "alarm".to_owned()),
        name: section.text_if_given("name"),
        severity: section.text_if_given("severity").unwrap_or_else(|| "warning".to_owned()),
        priority: section.priority_if_given("priority").unwrap_or(Lane::Critical),
        field: field.as_ref().map_or(Value::Null, |field| Value::from(field.to_string())),
    };
    let next = if section.flag("pass", false) { Next::Pass } else { Next::Drop };
    let (keys_max, idle_ms) = section.key_limits();

    let silent = section.has("no_data");
    let holds = section.has("hold") || section.has("hold_clear");
    let faults = [
        (!judges && !silent, "above", "expected at least one of above, below and no_data"),
        (!judges && section.has("field"), "field", "there is no above and no below to compare it with"),
        (!judges && holds, "hold", "there is no above and no below to be held"),
        (
            above.zip(below).is_some_and(|(above, below)| above <= below),
            "above",
            "expected a number over that of below",
        ),
        (clear_above.is_some() && !section.has("above"), "clear_above", "there is no above to be cleared"),
        (clear_below.is_some() && !section.has("below"), "clear_below", "there is no below to be cleared"),
        (clear_above.zip(above).is_some_and(|(clear, above)| clear > above), "clear_above", "expected at most above"),
        (clear_below.zip(below).is_some_and(|(clear, below)| clear < below), "clear_below", "expected at least below"),
        (no_data_ms == Some(0), "no_data", "expected a time of at least 1ms"),
        (!expect.is_empty() && !silent, "expect", "there is no no_data that would miss them"),
        (expect.len() > keys_max, "expect", "expected no more keys than keys_max"),
        (!(1..=KIND_MAX).contains(&told.kind.chars().count()), "as_kind", "expected 1 to 100 characters"),
    ];
    let mut faulty = false;
    for (_, setting, message) in faults.into_iter().filter(|(wrong, ..)| *wrong) {
        section.fault(setting, message);
        faulty = true;
    }
    if faulty {
        return None;
    }
    let level = |upward: bool, limit: Option<f64>, clear: Option<f64>| {
        limit.map(|limit| Level { upward, limit, clear: clear.unwrap_or(limit) })
    };
    let levels = [level(true, above, clear_above), level(false, below, clear_below)];
    let idle_ms = if no_data_ms.is_some() { 0 } else { idle_ms };
    Some(Box::new(Threshold {
        by,
        field,
        limits: Limits { levels, hold_ms, hold_clear_ms, no_data_ms },
        by_arrival,
        skip,
        told,
        next,
        begun: expect.is_empty(),
        expect,
        table: Keyed::new(keys_max, idle_ms),
        noted: Timetable::default(),
        room: NO_ROOM.into(),
    }))
}

impl Told {
    fn data(&self, change: &Change, limits: &Limits) -> Value {
        let level = match change.reason {
            Reason::Above => limits.levels[0],
            Reason::Below => limits.levels[1],
            Reason::NoData => None,
        };
        let reason = change.reason.name();
        let mut data = json!({
            "alarm": self.name.as_deref().unwrap_or(reason),
            "state": if change.started { "started" } else { "cleared" },
            "reason": reason,
            "value": change.value.map_or(Value::Null, number_value),
            "threshold": level.map_or(Value::Null, |level| number_value(level.limit)),
            "severity": self.severity,
            "since": rfc3339(change.since_ms),
            "field": self.field,
        });
        if change.reason == Reason::NoData {
            data["silence_ms"] = Value::from(limits.no_data_ms);
        }
        if !change.started {
            data["duration_ms"] = Value::from(change.at_ms.saturating_sub(change.since_ms));
        }
        data
    }

    fn address(&self, record: &mut Record, change: &Change, key: &SmolStr) {
        record.key = (!key.is_empty()).then(|| key.clone());
        record.timestamp_ms = change.at_ms;
        record.priority = self.priority;
    }
}

/// Notes when the clock is to look at a key. A later time than is noted already is noted only when that one is reached: most keys are heard of before.
fn note(noted: &mut Timetable, key: &SmolStr, watch: &mut Watch, limits: &Limits) {
    let Some(due_ms) = watch.due_ms(limits) else { return };
    if watch.noted_ms.is_some_and(|noted_ms| noted_ms <= due_ms) {
        return;
    }
    if let Some(later_ms) = watch.noted_ms.replace(due_ms) {
        noted.remove(later_ms, key);
    }
    noted.add(due_ms, key);
}

impl Threshold {
    /// From now on the expected keys are.
    fn begin(&mut self, now_ms: u64) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        for key in &self.expect {
            if let Some(watch) = self.table.entry(key, now_ms, || Watch::new(now_ms)) {
                note(&mut self.noted, key, watch, &self.limits);
            }
        }
    }
}

impl Operator for Threshold {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let now_ms = cx.now_ms;
        if !self.expect.is_empty() && self.room != record.room.as_str() {
            self.room = record.room.as_str().into();
        }
        // What the clock has brought comes before what the event brings, also where the clock was not told first.
        if self.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.clock(cx);
        }
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let Some(watch) = self.table.entry(&key, now_ms, || Watch::new(now_ms)) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        if watch.room != record.room.as_str() {
            watch.room = record.room.as_str().into();
        }
        let mut changes = Changes::new();
        watch.heard(now_ms, &mut changes);
        let happened_ms = if self.by_arrival { now_ms } else { record.timestamp_ms };
        let next = match &self.field {
            None => self.next,
            Some(field) => match record.number(field) {
                Err(Got::Missing | Got::Null) if self.skip => self.next,
                Err(_) => cx.reject_field(record, field, "a number"),
                Ok(_) if happened_ms < watch.seen_ms() => {
                    cx.reject(record, "timestamp", Why::Late { by_ms: watch.seen_ms() - happened_ms })
                }
                Ok(value) => {
                    watch.judge(&self.limits, value, happened_ms, now_ms, &mut changes);
                    self.next
                }
            },
        };
        note(&mut self.noted, &key, watch, &self.limits);
        for change in changes {
            let mut alarm = record.derived(&self.told.kind, self.told.data(&change, &self.limits));
            self.told.address(&mut alarm, &change, &key);
            cx.emit(alarm);
        }
        next
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.begin(cx.now_ms);
        while let Some(key) = self.noted.take(cx.now_ms) {
            let Some(watch) = self.table.get_mut(&key) else { continue };
            let Some(noted_ms) = watch.noted_ms.take() else { continue };
            let mut changes = Changes::new();
            // If it was put off meanwhile there is nothing to do but to note the later time.
            if watch.due_ms(&self.limits).is_some_and(|due_ms| due_ms <= noted_ms) {
                watch.clock(&self.limits, noted_ms, &mut changes);
            }
            note(&mut self.noted, &key, watch, &self.limits);
            for change in changes {
                let room = if watch.room.is_empty() { &self.room } else { &watch.room };
                let Ok(room) = RoomName::stored(room) else { continue };
                let data = self.told.data(&change, &self.limits);
                let mut alarm = Record::made(room, &self.told.kind, None, change.at_ms, cx.now_ms, data);
                self.told.address(&mut alarm, &change, &key);
                cx.emit(alarm);
            }
        }
        for (key, watch) in self.table.expire(cx.now_ms, Watch::is_quiet) {
            if let Some(noted_ms) = watch.noted_ms {
                self.noted.remove(noted_ms, &key);
            }
        }
    }

    fn due_ms(&self) -> Option<u64> {
        if !self.begun {
            // Now, whenever that is: what is expected is so from the first moment.
            return Some(0);
        }
        self.noted.first_ms().into_iter().chain(self.table.due_ms()).min()
    }

    fn resumed(&mut self, now_ms: u64) {
        self.begin(now_ms);
        // What is noted is too early now, which is corrected when it is reached.
        self.table.iter_mut().for_each(|(_, watch)| watch.resumed(now_ms));
    }

    fn keys(&self) -> usize {
        self.table.len()
    }

    fn save(&self) -> Vec<u8> {
        operator::save(&(self.begun, &self.room, self.table.save()))
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        let (begun, room, table): (bool, SmolStr, Vec<u8>) = operator::load(state)?;
        self.table.load(&table)?;
        (self.begun, self.room) = (begun, room);
        let noted = self.table.iter().filter_map(|(key, watch)| Some((watch.noted_ms?, key.clone())));
        self.noted = noted.collect();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod model;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
