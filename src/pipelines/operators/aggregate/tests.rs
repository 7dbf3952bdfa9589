//! What `aggregate` promises.

mod recent;

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
    assert!(faults("fields = { usage = [\"median\"] }").contains("there is no function \"median\"; there are: count"));
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
