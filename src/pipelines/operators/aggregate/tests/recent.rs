//! What the ranges of `aggregate` promise.

use std::collections::BTreeSet;

use crate::pipelines::testing::Bench;
use proptest::prelude::*;
use serde_json::{Value, json};

const MIDNIGHT: u64 = 1_763_596_800_000;

fn bench(rest: &str) -> Bench {
    Bench::new(&format!("op = \"aggregate\"\n{rest}"))
}

fn said<'v>(came: &'v [Value], name: &str) -> Vec<&'v Value> {
    came.iter().map(|data| &data[name]).collect()
}

#[test]
fn the_last_so_many_events_are_those_that_have_one_of_the_fields() {
    let mut bench = bench(
        "missing = \"skip\"\n[[step.recent]]\nname = \"runs\"\nevents = 3\nfields = { ok = \"mean\", by = [\"last\", \"distinct\"] }",
    );
    bench.event(1000, json!({ "ok": 1, "by": "a" }));
    bench.event(2000, json!({ "ok": 0, "by": "b" }));
    bench.event(3000, json!({ "ok": 0 }));
    let other = &bench.event(4000, json!({ "other": 1 }))[0];
    assert_eq!((&other["runs_count"], &other["runs_by_last"], &other["count"]), (&json!(3), &json!("b"), &json!(4)));
    let last = &bench.event(5000, json!({ "ok": 1, "by": "b" }))[0];
    assert_eq!((&last["runs_count"], &last["runs_by_distinct"], &last["count"]), (&json!(3), &json!(1), &json!(5)));
    assert_eq!((&last["runs_ok_mean"], &last["runs_rate"]), (&json!(1.0 / 3.0), &json!(2.0 / 3.0)));
    assert_eq!(bench.due_ms().filter(|due_ms| *due_ms < 10_000_000), None, "time changes nothing of it");
}

#[test]
fn a_rate_by_age_goes_down_to_0_though_nothing_comes() {
    let mut bench =
        bench("emit_every = \"500ms\"\n[[step.recent]]\nname = \"now\"\nage = \"10s\"\nfields = { tokens = \"rate\" }");
    assert_eq!(said(&bench.event(1000, json!({ "tokens": 5 })), "now_rate"), [&json!(0.1)]);
    bench.event(1200, json!({ "tokens": 5 }));
    assert_eq!(bench.due_ms(), Some(1500));
    let came = bench.clock(1500);
    assert_eq!((said(&came, "now_rate"), said(&came, "now_tokens_rate")), (vec![&json!(0.2)], vec![&json!(0.2)]));
    bench.restart();
    let mut gone = Vec::new();
    while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms < 20_000) {
        gone.extend(
            bench.clock_full(due_ms).iter().map(|record| (record.timestamp_ms, record.value()["now_count"].clone())),
        );
    }
    // The first leaves at 11 s, the second at 11.2 s, but it is told half a second later.
    assert_eq!(gone, [(11_000, json!(1)), (11_500, json!(0))]);
}

#[test]
fn without_emit_every_time_alone_brings_figures_at_most_once_a_second() {
    let mut bench = bench("[[step.recent]]\nname = \"now\"\nage = \"2s\"");
    for at_ms in [0, 100, 200, 1500] {
        assert_eq!(bench.event(10_000 + at_ms, json!(0)).len(), 1);
    }
    let mut gone = Vec::new();
    while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms < 20_000) {
        gone.extend(bench.clock(due_ms).iter().map(|data| (due_ms, data["now_count"].clone())));
    }
    assert_eq!(gone, [(12_500, json!(1)), (13_500, json!(0))]);
}

#[test]
fn a_range_with_a_reset_is_empty_after_midnight() {
    let mut bench =
        bench("by = \"p\"\n[[step.recent]]\nname = \"today\"\nreset = \"24h\"\nfields = { cost = \"sum\" }");
    bench.event(MIDNIGHT - 2000, json!({ "p": "a", "cost": 2 }));
    assert_eq!(said(&bench.event(MIDNIGHT - 1, json!({ "p": "a", "cost": 3 })), "today_cost_sum"), [&json!(5)]);
    let came = bench.clock_full(MIDNIGHT + 999);
    let told = came.iter().map(|record| (record.key.as_deref(), record.value())).next().unwrap();
    assert_eq!((told.0, &told.1["today_count"], &told.1["today_cost_sum"]), (Some("a"), &json!(0), &json!(0)));
    assert_eq!((&told.1["count"], &told.1["p"]), (&json!(2), &json!("a")));
    assert_eq!(said(&bench.event(MIDNIGHT + 1500, json!({ "p": "a", "cost": 4 })), "today_cost_sum"), [&json!(4)]);
    // What claims to be of yesterday came today.
    let late = bench.full(MIDNIGHT - 5, MIDNIGHT + 1600, None, json!({ "p": "a", "cost": 1 }));
    assert_eq!(late[0].value()["today_cost_sum"], 5);
}

#[test]
fn of_more_events_than_samples_max_the_oldest_go() {
    let mut bench = bench("[[step.recent]]\nname = \"r\"\nage = \"1h\"\nsamples_max = 2\nfields = { v = \"sum\" }");
    [1, 2, 4].into_iter().for_each(|v| drop(bench.event(v, json!({ "v": v }))));
    let came = bench.event(10, json!({ "v": 8 }));
    assert_eq!((&came[0]["r_count"], &came[0]["r_v_sum"]), (&json!(2), &json!(12)));
}

#[test]
fn a_group_is_not_forgotten_before_its_ranges_are_empty() {
    let mut bench = bench("keys_idle = \"8s\"\n[[step.recent]]\nname = \"r\"\nage = \"30s\"");
    bench.event(1000, json!(0));
    bench.clock(20_000);
    assert_eq!(bench.keys(), 1);
    assert_eq!(said(&bench.clock(31_000), "r_count"), [&json!(0)]);
    bench.clock(32_000);
    assert_eq!((bench.keys(), bench.due_ms()), (0, None));
}

#[test]
fn an_event_without_a_field_of_a_range_is_a_dead_letter_unless_that_is_skipped() {
    let mut bench = bench("[[step.recent]]\nname = \"r\"\nevents = 3\nfields = { v = \"sum\" }");
    assert!(bench.event(0, json!({})).is_empty());
    assert_eq!((bench.rejected(), bench.keys()), (vec!["data.v: is missing".to_owned()], 0));
}

#[test]
fn wrong_ranges_are_told() {
    for (table, fault) in [
        ("events = 3", "step 1 (aggregate), recent 1: name is missing"),
        ("name = \"a b\"\nevents = 3", "name: \"a b\" is no name: expected 1 to 100 letters"),
        ("name = \"a\"", "events: expected exactly one of events, age and reset"),
        ("name = \"a\"\nevents = 3\nage = \"1s\"", "age: expected exactly one of events, age and reset"),
        ("name = \"a\"\nage = \"0s\"", "age: expected a time longer than 0s"),
        ("name = \"a\"\nevents = 10001", "events: expected a whole number from 1 to 10000"),
        ("name = \"a\"\nevents = 3\nsamples_max = 5", "samples_max: goes with age only"),
        ("name = \"a\"\nevents = 3\nfields = { v = \"median\" }", "there is no function \"median\""),
        ("name = \"a\"\nevents = 3\n[[step.recent]]\nname = \"a\"\nevents = 4", "two figures would be called a_count"),
        ("name = \"a\"\nevents = 3\nagee = \"1s\"", "there is no setting agee; did you mean age?"),
    ] {
        let faults = Bench::try_new(&format!("op = \"aggregate\"\n[[step.recent]]\n{table}")).unwrap_err();
        assert!(faults.contains(fault), "{fault} is not among:\n{faults}");
    }
}

/// What a range should say of these values.
fn model(values: &[i64]) -> Value {
    let distinct: BTreeSet<i64> = values.iter().map(|value| value % 7).collect();
    let sum: i64 = values.iter().sum();
    json!([values.len(), sum, values.iter().min(), values.last().map(|value| value % 7), distinct.len()])
}

const SETTINGS: &str = "
    [[step.recent]]\nname = \"n\"\nevents = 70\nfields = { v = [\"sum\", \"min\"], k = [\"last\", \"distinct\"] }
    [[step.recent]]\nname = \"a\"\nage = \"300ms\"\nfields = { v = [\"sum\", \"min\"], k = [\"last\", \"distinct\"] }
    [[step.recent]]\nname = \"r\"\nreset = \"1s\"\nfields = { v = [\"sum\", \"min\"], k = [\"last\", \"distinct\"] }";

proptest! {
    #[test]
    fn ranges_have_just_the_events_that_are_in_them_whenever_it_is_restarted(
        steps in proptest::collection::vec((0..12_u64, -100..100_i64, prop::bool::weighted(0.05)), 1..200),
        every_ms in prop_oneof![Just(0), 1..80_u64],
    ) {
        let every = if every_ms == 0 { "0s".to_owned() } else { format!("{every_ms}ms") };
        let mut bench = bench(&format!("emit_every = \"{every}\"\n{SETTINGS}"));
        let (mut now_ms, mut all, mut last) = (MIDNIGHT, Vec::new(), Value::Null);
        let check = |said: &Value, at_ms: u64, all: &[(u64, i64)]| {
            let of = |range: &str| json!(["count", "v_sum", "v_min", "k_last", "k_distinct"].map(|name| said[format!("{range}_{name}")].clone()));
            let values = |from_ms: u64| all.iter().filter(|(came_ms, _)| *came_ms >= from_ms).map(|(_, value)| *value).collect::<Vec<_>>();
            let newest: Vec<i64> = values(0).into_iter().rev().take(70).rev().collect();
            assert_eq!(of("n"), model(&newest));
            assert_eq!(of("a"), model(&values(at_ms - 299)));
            assert_eq!(of("r"), model(&values(at_ms / 1000 * 1000)));
        };
        for (pause, value, restart) in steps {
            now_ms += pause;
            while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms <= now_ms) {
                for said in bench.clock(due_ms) {
                    check(&said, due_ms, &all);
                    last = said;
                }
            }
            if restart {
                bench.restart();
            }
            all.push((now_ms, value));
            for said in bench.event(now_ms, json!({ "v": value, "k": value % 7 })) {
                check(&said, now_ms, &all);
                last = said;
            }
        }
        // In the end the ranges by time are empty, and that was told.
        while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms <= now_ms + 5000) {
            for said in bench.clock(due_ms) {
                check(&said, due_ms, &all);
                last = said;
            }
        }
        prop_assert_eq!((&last["a_count"], &last["r_count"], &last["count"]), (&json!(0), &json!(0), &json!(all.len())));
    }
}
