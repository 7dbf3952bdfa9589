//! What `rollup` promises.

use std::collections::BTreeMap;

use crate::pipelines::merge;
use crate::pipelines::testing::Bench;
use proptest::prelude::*;
use serde_json::{Value, json};

fn bench(rest: &str) -> Bench {
    Bench::new(&format!("op = \"rollup\"\n{rest}"))
}

const WELLS: &str = "fields = { oil = [\"sum\", \"max\"] }
    [[step.count]]\nname = \"online\"\nwhere = \"data.status == 'online'\"
    [[step.count]]\nname = \"critical\"\nwhere = \"data.oil > 50.0 && key != 'w0'\"";

#[test]
fn the_newest_event_of_every_key_counts_and_no_older_one() {
    let mut bench = bench(WELLS);
    bench.keyed(1000, Some("w1"), json!({ "oil": 70, "status": "online" }));
    bench.keyed(1001, Some("w0"), json!({ "oil": 60, "status": "online" }));
    let came = bench.full(900, 1002, Some("w1"), json!({ "oil": 10, "status": "off" }));
    let [record] = &came[..] else { panic!("one is expected: {came:?}") };
    assert_eq!(record.value(), json!({ "rows": 2, "oil_sum": 70, "oil_max": 60, "online": 1, "critical": 0 }));
    let own = (record.kind.as_str(), record.key.as_deref(), record.timestamp_ms, record.seq);
    assert_eq!(own, ("rollup", None, 900, 3));
    let came = bench.keyed(1003, Some("w0"), Value::Null);
    assert_eq!(came, [json!({ "rows": 1, "oil_sum": 10, "oil_max": 10, "online": 0, "critical": 0 })]);
    assert_eq!(bench.keys(), 1);
}

#[test]
fn a_row_without_a_field_is_left_out_of_its_figures_and_conditions() {
    let mut bench = bench(WELLS);
    bench.keyed(0, Some("a"), json!({ "status": "online" }));
    let came = bench.keyed(0, Some("b"), json!({ "oil": 80, "status": null }));
    assert_eq!(came, [json!({ "rows": 2, "oil_sum": 80, "oil_max": 80, "online": 1, "critical": 1 })]);
    assert!(bench.rejected().is_empty());
}

#[test]
fn events_are_merged_into_their_row_where_that_is_wanted() {
    let mut bench = bench(&format!("merge = true\nkey = \"well.id\"\n{WELLS}"));
    bench.event(0, json!({ "well": { "id": 7 }, "oil": 80 }));
    let came = bench.event(0, json!({ "well": { "id": 7 }, "status": "online" }));
    assert_eq!(came, [json!({ "rows": 1, "oil_sum": 80, "oil_max": 80, "online": 1, "critical": 1 })]);
}

#[test]
fn changes_of_a_rooms_state_change_the_rows_that_they_name() {
    let mut bench = bench(WELLS);
    bench.change(0, json!({ "a": { "oil": 80, "status": "online" }, "b": { "oil": 1 } }));
    let came = bench.change(1, json!({ "a": { "status": null }, "b": null, "c": { "oil": 5, "status": "online" } }));
    assert_eq!(came, [json!({ "rows": 2, "oil_sum": 85, "oil_max": 80, "online": 1, "critical": 1 })]);
    // The room's table has it so: what is wrong of a row counts as missing, and is told.
    let came = bench.change(2, json!({ "a": { "oil": "much" }, "c": 7 }));
    assert_eq!(came, [json!({ "rows": 1, "oil_sum": 0, "oil_max": null, "online": 0, "critical": 0 })]);
    let refused = ["data.oil: expected a number, found text", "data.c: expected an object, found a number"];
    assert_eq!(bench.rejected(), refused);
    assert!(bench.change(3, json!([1])).is_empty());
    assert_eq!(bench.rejected(), ["data: expected an object, found a list"]);
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let mut bench = bench(&format!("keys_max = 1\n{WELLS}"));
    bench.keyed(0, Some("a"), json!({ "oil": 80 }));
    for data in [json!({ "oil": "x" }), json!([1]), json!({ "oil": [] })] {
        assert!(bench.keyed(0, Some("a"), data).is_empty());
    }
    assert!(bench.keyed(0, Some("b"), json!({ "oil": 1 })).is_empty());
    let refused = [
        "data.oil: expected a number, found text",
        "data: expected an object, found a list",
        "data.oil: expected a number, found a list",
        "key: there are as many keys as keys_max allows",
    ];
    assert_eq!(bench.rejected(), refused);
    assert_eq!(bench.keyed(0, Some("a"), json!({ "oil": 81 }))[0]["oil_sum"], 81);
}

#[test]
fn with_emit_every_the_first_comes_at_once_and_the_last_always() {
    let mut bench = bench("emit_every = \"100ms\"");
    let rows = |came: Vec<Value>| came.iter().map(|data| data["rows"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(rows(bench.keyed(5000, Some("a"), json!({}))), [1]);
    assert!(bench.keyed(5001, Some("b"), json!({})).is_empty() && bench.keyed(5002, Some("c"), json!({})).is_empty());
    bench.restart();
    assert_eq!(bench.due_ms(), Some(5100));
    let came = bench.clock_full(5100);
    assert_eq!((came[0].value()["rows"].clone(), came[0].timestamp_ms, came[0].seq), (json!(3), 5002, 0));
    assert!(bench.keyed(5150, Some("d"), json!({})).is_empty(), "it was just told");
    assert_eq!(rows(bench.clock(5200)), [4]);
    assert_eq!(bench.due_ms(), None);
}

#[test]
fn rows_that_are_forgotten_are_told() {
    let mut bench = bench("keys_idle = \"8s\"");
    bench.keyed(1000, Some("a"), json!({}));
    bench.keyed(6000, Some("b"), json!({}));
    let came = bench.clock_full(9000);
    assert_eq!((came[0].value(), came[0].timestamp_ms), (json!({ "rows": 1 }), 9000));
}

#[test]
fn the_events_go_on_too_where_that_is_wanted() {
    let mut bench = bench("pass = true\nas_kind = \"summary\"");
    let came = bench.full(0, 0, Some("a"), json!({ "x": 1 }));
    let told: Vec<(&str, Value)> = came.iter().map(|record| (record.kind.as_str(), record.value())).collect();
    assert_eq!(told, [("summary", json!({ "rows": 1 })), ("sample", json!({ "x": 1 }))]);
}

#[test]
fn wrong_settings_are_told() {
    for (settings, fault) in [
        ("fields = { v = \"rate\" }", "fields: there is no rate of rows"),
        ("[[step.count]]\nname = \"a\"", "step 1 (rollup), count 1: where is missing"),
        ("[[step.count]]\nname = \"a b\"\nwhere = \"true\"", "name: \"a b\" is no name"),
        ("[[step.count]]\nname = \"rows\"\nwhere = \"true\"", "two figures would be called rows"),
        (
            "fields = { v = \"sum\" }\n[[step.count]]\nname = \"v_sum\"\nwhere = \"true\"",
            "two figures would be called v_sum",
        ),
        ("by = \"x\"", "there is no setting by"),
    ] {
        let faults = Bench::try_new(&format!("op = \"rollup\"\n{settings}")).unwrap_err();
        assert!(faults.contains(fault), "{fault} is not among:\n{faults}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Event(u8, Value),
    Change(Value),
    Restart,
}

fn row() -> impl Strategy<Value = Value> {
    (prop::option::of(0..20_i64), prop::option::of("[ab]")).prop_map(|(v, t)| json!({ "v": v, "t": t }))
}

fn step() -> impl Strategy<Value = Step> {
    let change = proptest::collection::btree_map("[0-3]", prop_oneof![4 => row(), 1 => Just(Value::Null)], 0..4);
    prop_oneof![
        4 => (0..4_u8, prop_oneof![6 => row(), 1 => Just(Value::Null)]).prop_map(|(key, row)| Step::Event(key, row)),
        2 => change.prop_map(|change| Step::Change(change.into_iter().collect())),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn the_figures_are_those_of_the_table_that_the_events_make(
        steps in proptest::collection::vec(step(), 1..60),
        merges in any::<bool>(),
    ) {
        let mut bench = bench(&format!(
            "merge = {merges}\nfields = {{ v = [\"sum\", \"min\", \"count\"], t = \"distinct\" }}
             [[step.count]]\nname = \"high\"\nwhere = \"has(data.v) && data.v != null && data.v > 9\""
        ));
        let mut table: BTreeMap<String, Value> = BTreeMap::new();
        for step in steps {
            let came = match step {
                Step::Restart => {
                    bench.restart();
                    continue;
                }
                Step::Event(key, row) => {
                    let key = key.to_string();
                    let came = bench.keyed(1, Some(&key), row.clone());
                    if row.is_null() {
                        table.remove(&key);
                    } else if merges {
                        merge::apply(table.entry(key).or_default(), &row);
                    } else {
                        table.insert(key, row);
                    }
                    came
                }
                Step::Change(change) => {
                    let came = bench.change(1, change.clone());
                    let mut whole: Value = table.into_iter().collect::<serde_json::Map<_, _>>().into();
                    merge::apply(&mut whole, &change);
                    let Value::Object(members) = whole else { unreachable!() };
                    table = members.into_iter().collect();
                    came
                }
            };
            let numbers: Vec<i64> = table.values().filter_map(|row| row["v"].as_i64()).collect();
            let texts: std::collections::BTreeSet<&str> = table.values().filter_map(|row| row["t"].as_str()).collect();
            let high = numbers.iter().filter(|number| **number > 9).count();
            let sum: i64 = numbers.iter().sum();
            prop_assert_eq!(&came, &[json!({
                "rows": table.len(), "v_sum": sum, "v_min": numbers.iter().min(), "v_count": numbers.len(),
                "t_distinct": texts.len(), "high": high,
            })]);
        }
        prop_assert_eq!((bench.keys(), bench.rejected().len()), (table.len(), 0));
    }
}
