//! `aggregate`: running figures of each group, with every event.
//!
//! Every event goes on with the figures of its group in place of its data: those of [`crate::pipelines::aggregates`], `start` and `end` (the times of the oldest and the newest event),
//! of the kind `as_kind` and with the group as its key; its time stays. `rate` is how many events have come since the first, by the time since then: `null` until there are two times.
//! With `reset` the figures begin anew with each multiple of that time since 1970 (`"24h"`: at midnight UTC), by event time; an event ahead of its arrival counts as of its arrival.
//!
//! With `emit_every` a group's figures come at most once in this time: the first at once, and the last always, from the clock if no event brings them. Figures that were still to come
//! when a reset begins come before those of the new time.
//!
//! *Late*: an event that is older than the group's last reset is a dead letter; other than that order does not matter. *Missing or wrong*: see the figures; a field of `by` that is
//! missing, or no text, number or flag, makes a dead letter, and so does a group over `keys_max`. A group without an event for `keys_idle` is forgotten and begins anew.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::held::Timetable;
use crate::clock::rfc3339;
use crate::pipelines::aggregates::{About, Grouping, Plan, Totals, made_kind, record_key};
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

#[derive(Debug)]
struct Aggregate {
    plan: Plan,
    grouping: Grouping,
    kind: SmolStr,
    /// 0 for never.
    reset_ms: u64,
    /// 0 for with every event.
    every_ms: u64,
    groups: Keyed<Group>,
    keys_max: usize,
    keys_idle_ms: u64,
    /// Groups whose figures wait.
    timetable: Timetable,
}

#[derive(Debug, Serialize, Deserialize)]
struct Group {
    about: About,
    /// Which of the times between resets it is, counted from 1970.
    period: u64,
    first_ms: u64,
    last_ms: u64,
    totals: Totals,
    /// From when on its figures may come again.
    free_ms: u64,
    /// Whether there are figures that have not come yet.
    waits: bool,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let grouping = Grouping::read(section);
    let plan = Plan::read(section, &grouping);
    let kind = made_kind(section, "aggregate");
    let (reset_ms, every_ms) = (section.time_or("reset", 0), section.time_or("emit_every", 0));
    let (keys_max, keys_idle_ms) = section.key_limits();
    let (groups, timetable) = (Keyed::new(keys_max, keys_idle_ms), Timetable::default());
    Some(Box::new(Aggregate { plan, grouping, kind, reset_ms, every_ms, groups, keys_max, keys_idle_ms, timetable }))
}

fn data(plan: &Plan, grouping: &Grouping, group: &Group) -> Value {
    let mut data = Map::new();
    grouping.write(&group.about, &mut data);
    let length_ms = group.last_ms - group.first_ms;
    let rate = |count: u64| (length_ms > 0).then(|| count.saturating_sub(1) as f64 * 1000.0 / length_ms as f64);
    plan.write(&group.totals, rate, &mut data);
    data.insert("start".to_owned(), Value::from(rfc3339(group.first_ms)));
    data.insert("end".to_owned(), Value::from(rfc3339(group.last_ms)));
    Value::Object(data)
}

/// A group's figures as an event that no event brings.
fn made(plan: &Plan, grouping: &Grouping, kind: &str, key: &str, group: &Group, now_ms: u64) -> Record {
    let data = data(plan, grouping, group);
    Record::made(group.about.room().clone(), kind, record_key(key), group.last_ms, now_ms, data)
}

impl Operator for Aggregate {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.grouping.key(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let values = match self.plan.values(record) {
            Ok(values) => values,
            Err((field, expected)) => return cx.reject_field(record, field, expected),
        };
        let (time_ms, arrived_ms) = (record.timestamp_ms, record.arrived_ms);
        let period = time_ms.min(arrived_ms).checked_div(self.reset_ms).unwrap_or(0);
        let group = self.groups.entry(&key, cx.now_ms, || Group {
            about: About::of(&self.grouping, record),
            period,
            first_ms: time_ms,
            last_ms: time_ms,
            totals: self.plan.empty(),
            free_ms: 0,
            waits: false,
        });
        let Some(group) = group else { return cx.reject(record, "key", Why::TooManyKeys) };
        if period < group.period {
            let end_ms = (period + 1).saturating_mul(self.reset_ms);
            return cx.reject(record, "timestamp", Why::Late { by_ms: group.last_ms.saturating_sub(end_ms) });
        }
        if period > group.period {
            if group.waits {
                cx.emit(made(&self.plan, &self.grouping, &self.kind, &key, group, cx.now_ms));
                self.timetable.remove(group.free_ms, &SmolStr::from(&*key));
                group.waits = false;
            }
            (group.period, group.first_ms, group.last_ms) = (period, time_ms, time_ms);
            group.totals = self.plan.empty();
        }
        group.about.seen(record);
        group.first_ms = group.first_ms.min(time_ms);
        group.last_ms = group.last_ms.max(time_ms);
        self.plan.add(&mut group.totals, &values, time_ms);
        // They are the record's, which is changed below.
        drop(values);
        if arrived_ms < group.free_ms {
            if !group.waits {
                group.waits = true;
                self.timetable.add(group.free_ms, &SmolStr::from(&*key));
            }
            return Next::Drop;
        }
        if group.waits {
            group.waits = false;
            self.timetable.remove(group.free_ms, &SmolStr::from(&*key));
        }
        group.free_ms = if self.every_ms > 0 { arrived_ms.saturating_add(self.every_ms) } else { 0 };
        let (key, data) = (record_key(&key), data(&self.plan, &self.grouping, group));
        record.kind = self.kind.clone();
        record.key = key;
        record.set_value(data);
        Next::Pass
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        while let Some(key) = self.timetable.take(cx.now_ms) {
            if let Some(group) = self.groups.get_mut(&key) {
                group.waits = false;
                // From when it was due, however late the clock comes.
                group.free_ms = group.free_ms.saturating_add(self.every_ms);
                let record = made(&self.plan, &self.grouping, &self.kind, &key, group, cx.now_ms);
                cx.emit(record);
            }
        }
        self.groups.expire(cx.now_ms, |group| !group.waits);
    }

    fn due_ms(&self) -> Option<u64> {
        self.timetable.first_ms().into_iter().chain(self.groups.due_ms()).min()
    }

    fn keys(&self) -> usize {
        self.groups.len()
    }

    fn save(&self) -> Vec<u8> {
        self.groups.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        let mut groups: Keyed<Group> = Keyed::new(self.keys_max, self.keys_idle_ms);
        groups.load(state)?;
        if !groups.iter().all(|(_, group)| self.plan.fits(&group.totals)) {
            return Err(BadState);
        }
        let waiting = groups.iter().filter(|(_, group)| group.waits);
        self.timetable = waiting.map(|(key, group)| (group.free_ms, key.clone())).collect();
        self.groups = groups;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use smol_str::SmolStr;

    const STEP: &str = "op = \"aggregate\"\nfields = { usage = [\"mean\", \"max\"] }";
    const MIDNIGHT: u64 = 1_763_596_800_000;

    #[test]
    fn every_event_brings_the_figures_of_its_group() {
        let mut bench = Bench::new(&format!("{STEP}\nby = [\"host\", \"disk.id\"]"));
        bench.event(MIDNIGHT, json!({ "host": "a", "disk": { "id": 7 }, "usage": 1 }));
        bench.event(MIDNIGHT, json!({ "host": "b", "disk": { "id": 7 }, "usage": 9 }));
        let came =
            bench.full(MIDNIGHT + 500, MIDNIGHT + 600, None, json!({ "host": "a", "disk": { "id": 7 }, "usage": 2 }));
        let [record] = &came[..] else { panic!("one is expected: {came:?}") };
        let own = (record.kind.as_str(), record.key.as_deref(), record.timestamp_ms, record.seq);
        assert_eq!(own, ("aggregate", Some("a/7"), MIDNIGHT + 500, 3));
        assert_eq!(
            record.value(),
            json!({
                "count": 2, "rate": 2, "host": "a", "disk_id": 7, "usage_mean": 1.5, "usage_max": 2,
                "start": "2025-11-20T00:00:00.000Z", "end": "2025-11-20T00:00:00.500Z",
            })
        );
        assert_eq!(bench.keys(), 2);
    }

    #[test]
    fn without_fields_there_are_count_and_rate() {
        let mut bench = Bench::new("op = \"aggregate\"\nas_kind = \"seen\"");
        let start = "2025-11-20T00:00:00.000Z";
        let one = json!({ "count": 1, "rate": null, "start": start, "end": start });
        assert_eq!(bench.keyed(MIDNIGHT, Some("a"), json!(7)), [one]);
    }

    #[test]
    fn a_reset_begins_anew_and_what_is_older_is_late() {
        let mut bench = Bench::new(&format!("{STEP}\nreset = \"24h\""));
        let count = |came: Vec<Value>| came.iter().map(|data| data["count"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(count(bench.event(MIDNIGHT - 2, json!({ "usage": 5 }))), [1]);
        assert_eq!(count(bench.event(MIDNIGHT - 1, json!({ "usage": 5 }))), [2]);
        let came = bench.event(MIDNIGHT, json!({ "usage": 1 }));
        assert_eq!((&came[0]["count"], &came[0]["usage_max"]), (&json!(1), &json!(1)));
        let late = bench.full(MIDNIGHT - 3, MIDNIGHT + 5, None, json!({ "usage": 5 }));
        assert!(late.is_empty());
        assert_eq!(bench.rejected(), ["timestamp: came 0 ms after its time was closed"]);
        // A wrong clock does not close the day.
        assert_eq!(bench.full(MIDNIGHT * 2, MIDNIGHT + 10, None, json!({ "usage": 5 })).len(), 1);
        assert_eq!(count(bench.event(MIDNIGHT + 20, json!({ "usage": 1 }))), [3]);
    }

    #[test]
    fn with_emit_every_the_first_comes_at_once_and_the_last_always() {
        let mut bench = Bench::new("op = \"aggregate\"\nemit_every = \"100ms\"\nreset = \"1s\"");
        let count = |came: Vec<Value>| came.iter().map(|data| data["count"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(count(bench.event(5000, json!(0))), [1]);
        assert!(bench.event(5001, json!(0)).is_empty() && bench.event(5002, json!(0)).is_empty());
        assert_eq!(bench.due_ms(), Some(5100));
        assert_eq!(count(bench.clock(5100)), [3]);
        assert!(bench.event(5150, json!(0)).is_empty(), "it was just told");
        assert_eq!(count(bench.clock(5200)), [4]);
        assert_eq!(count(bench.event(5950, json!(0))), [5]);
        assert!(bench.event(5960, json!(0)).is_empty());
        assert_eq!(count(bench.event(6000, json!(0))), [6], "the last of what was before the reset");
        assert_eq!(count(bench.clock(6050)), [1]);
    }

    #[test]
    fn what_is_missing_is_refused_or_left_out() {
        let mut bench = Bench::new(STEP);
        assert!(bench.event(0, json!({})).is_empty() && bench.event(0, json!({ "usage": "x" })).is_empty());
        assert_eq!(bench.rejected(), ["data.usage: is missing", "data.usage: expected a number, found text"]);
        assert_eq!(bench.keys(), 0, "a refused event leaves no group");
        let mut bench = Bench::new(&format!("{STEP}\nmissing = \"skip\""));
        let came = bench.event(0, json!({ "usage": null }));
        assert_eq!((&came[0]["count"], &came[0]["usage_mean"]), (&json!(1), &Value::Null));
        assert!(bench.event(0, json!({ "usage": "x" })).is_empty());
    }

    #[test]
    fn wrong_settings_are_told() {
        let faults = |settings: &str| Bench::try_new(&format!("op = \"aggregate\"\n{settings}")).unwrap_err();
        assert!(
            faults("fields = { usage = [\"median\"] }").contains("there is no function \"median\"; there are: count")
        );
        assert!(faults("fields = { usage = [] }").contains("expected at least one function"));
        assert!(faults("fields = { usage = 7 }").contains("expected a table of lists"));
        assert!(faults("fields = { usage = [\"max\", \"max\"] }").contains("two figures would be called usage_max"));
        assert!(faults("by = \"count\"").contains("two figures would be called count"));
        assert!(faults("as_kind = \"\"").contains("expected 1 to 100 characters"));
    }

    proptest! {
        #[test]
        fn the_last_figures_are_those_of_all_events_whenever_it_is_restarted(
            steps in proptest::collection::vec(
                (0..60_u64, 0..50_u64, 0..3_u8, -100..100_i64, prop::bool::weighted(0.2)),
                1..60,
            ),
            every_ms in 0..80_u64,
        ) {
            let every = if every_ms == 0 { "0s".to_owned() } else { format!("{every_ms}ms") };
            let fields = "fields = { v = [\"sum\", \"min\", \"first\", \"last\", \"distinct\"] }";
            let mut bench = Bench::new(&format!("op = \"aggregate\"\nemit_every = \"{every}\"\n{fields}"));
            let (mut now_ms, mut came) = (MIDNIGHT, 0);
            let mut events: BTreeMap<Option<SmolStr>, Vec<(u64, i64)>> = BTreeMap::new();
            let mut last: BTreeMap<Option<SmolStr>, Value> = BTreeMap::new();
            for (pause, back, key, value, restart) in steps {
                now_ms += pause;
                while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms <= now_ms) {
                    for record in bench.clock_full(due_ms) {
                        came += 1;
                        last.insert(record.key.clone(), record.value());
                    }
                }
                if restart {
                    bench.restart();
                }
                let key = format!("k{key}");
                for record in bench.full(now_ms - back, now_ms, Some(key.as_str()), json!({ "v": value })) {
                    came += 1;
                    last.insert(record.key.clone(), record.value());
                }
                events.entry(Some(SmolStr::from(key))).or_default().push((now_ms - back, value));
            }
            let waiting = bench.clock_full(now_ms + 100);
            came += waiting.len();
            last.extend(waiting.into_iter().map(|record| (record.key.clone(), record.value())));
            let number = events.values().map(Vec::len).sum::<usize>();
            prop_assert!(came == number || (every_ms > 0 && came < number));
            for (key, events) in events {
                let values: Vec<i64> = events.iter().map(|(_, value)| *value).collect();
                let first = events.iter().min_by_key(|(at, _)| *at);
                let newest = events.iter().max_by_key(|(at, _)| *at);
                let distinct: std::collections::BTreeSet<i64> = values.iter().copied().collect();
                let said = &last[&key];
                prop_assert_eq!(&said["count"], &json!(events.len()));
                prop_assert_eq!(&said["v_sum"], &json!(values.iter().sum::<i64>()));
                prop_assert_eq!(&said["v_min"], &json!(values.iter().min().unwrap()));
                prop_assert_eq!(&said["v_first"], &json!(first.unwrap().1));
                prop_assert_eq!(&said["v_last"], &json!(newest.unwrap().1));
                prop_assert_eq!(&said["v_distinct"], &json!(distinct.len()));
            }
        }
    }
}
