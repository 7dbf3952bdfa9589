//! What `anomaly` promises, by example; against a model in `model.rs`.
use serde_json::{Value, json};

use crate::clock::rfc3339;
use crate::event::Lane;
use crate::pipelines::testing::Bench;

pub(super) fn bench(settings: &str) -> Bench {
    Bench::new(&format!("op = \"anomaly\"\nfield = \"x\"\n{settings}"))
}

/// A value of the key `a`: what is told of it, in a word for each.
fn value(bench: &mut Bench, at_ms: u64, value: f64) -> Vec<String> {
    let out = bench.keyed(at_ms, Some("a"), json!({ "x": value }));
    out.iter().map(|data| data["state"].as_str().unwrap().to_owned()).collect()
}

/// The same value at each of these times.
fn values(bench: &mut Bench, times: std::ops::Range<u64>, of: f64) -> Vec<String> {
    times.flat_map(|at_ms| value(bench, at_ms, of)).collect()
}

const NOTHING: [String; 0] = [];
/// Weights that are nearly the same, so that one can reckon in one's head.
const EVEN: &str = "samples = 8\nhalf_life = 1_000_000\nwarm_up = 5";

#[test]
fn an_anomaly_is_told_when_it_starts_and_when_it_is_over_and_not_between() {
    let mut bench = bench(EVEN);
    for at in 1..=5_u32 {
        assert_eq!(value(&mut bench, u64::from(at) * 1000, f64::from(at)), NOTHING);
    }
    // 1 to 5: median 3, of the distances from it 0, 1, 1, 2, 2 the median is 1.
    let started = bench.full(6000, 6000, Some("a"), json!({ "x": 10 }));
    let (kind, priority, key) = (&*started[0].kind, started[0].priority, started[0].key.as_deref());
    assert_eq!((started.len(), kind, priority, key), (1, "anomaly", Lane::High, Some("a")));
    let told = json!({
        "anomaly": "anomaly", "state": "started", "value": 10, "expected": 3, "deviation": 1.4826,
        "score": 7.0 / 1.4826, "severity": "warning", "field": "data.x", "since": rfc3339(6000),
    });
    assert_eq!((started[0].timestamp_ms, started[0].value()), (6000, told));
    assert_eq!(value(&mut bench, 7000, 20.0), NOTHING);
    // 1 to 5, 10 and 20: median 4, of the distances 0, 1, 1, 2, 3, 6, 16 the median is 2.
    let over = bench.keyed(8500, Some("a"), json!({ "x": 4 }));
    let told = json!({
        "anomaly": "anomaly", "state": "cleared", "value": 4, "expected": 4, "deviation": 2.0 * 1.4826,
        "score": 0, "severity": "warning", "field": "data.x", "since": rfc3339(6000), "duration_ms": 2500,
    });
    assert_eq!(over, [told]);
    assert_eq!(value(&mut bench, 9000, 4.0), NOTHING);
}

#[test]
fn every_anomalous_value_is_told_where_that_is_asked_for_with_the_start_of_their_row() {
    let mut bench = bench(&format!("{EVEN}\nmin_deviation = 1\nemit = \"each\""));
    assert_eq!(values(&mut bench, 0..5, 0.0), NOTHING);
    assert_eq!(value(&mut bench, 5, 9.0), ["anomalous"]);
    let second = bench.keyed(6, Some("a"), json!({ "x": -9 }));
    assert_eq!((second.len(), &second[0]["since"], &second[0]["score"]), (1, &json!(rfc3339(5)), &json!(-36)));
    assert_eq!(second[0].get("duration_ms"), None);
    assert_eq!(value(&mut bench, 7, 0.0), NOTHING);
    let next = bench.keyed(8, Some("a"), json!({ "x": 9 }));
    assert_eq!(next[0]["since"], json!(rfc3339(8)));
}

#[test]
fn only_what_lies_in_the_direction_is_anomalous() {
    for (direction, low, high) in [("both", 1, 1), ("above", 0, 1), ("below", 1, 0)] {
        let settings = format!("{EVEN}\nmin_deviation = 1\nemit = \"each\"\ndirection = \"{direction}\"");
        let mut bench = bench(&settings);
        assert_eq!(values(&mut bench, 0..8, 5.0), NOTHING);
        assert_eq!((value(&mut bench, 8, 1.0).len(), value(&mut bench, 9, 9.0).len()), (low, high), "{direction}");
    }
}

#[test]
fn a_value_that_never_moved_may_move_by_less_than_the_least_deviation() {
    let mut strict = bench("emit = \"each\"");
    assert_eq!(values(&mut strict, 0..16, 5.0), NOTHING);
    assert_eq!(value(&mut strict, 16, 5.001), ["anomalous"]);
    let mut lenient = bench("emit = \"each\"\nmin_deviation = 0.5");
    assert_eq!(values(&mut lenient, 0..16, 5.0), NOTHING);
    assert_eq!(value(&mut lenient, 16, 5.499), NOTHING);
    let told = lenient.keyed(17, Some("a"), json!({ "x": 5.5 }));
    assert_eq!((&told[0]["score"], &told[0]["deviation"]), (&json!(4), &json!(0.125)));
}

#[test]
fn no_score_is_infinite_whatever_the_values() {
    let mut bench = bench("emit = \"each\"\nwarm_up = 1");
    let extremes = [0.0, f64::MIN_POSITIVE, f64::MAX, f64::MIN, 1.0, -f64::MIN_POSITIVE, f64::MAX, f64::MIN, f64::MIN];
    for (at, extreme) in (0..).zip(extremes) {
        for told in bench.keyed(at, None, json!({ "x": extreme })) {
            assert!(["value", "expected", "deviation", "score"].iter().all(|name| told[*name].is_number()), "{told}");
        }
    }
    assert_eq!(bench.rejected(), NOTHING);
}

#[test]
fn nothing_is_judged_before_enough_was_learned() {
    let mut short = bench("warm_up = 3\nmin_deviation = 1");
    assert_eq!((values(&mut short, 0..2, 0.0), value(&mut short, 2, 99.0)), (Vec::new(), Vec::new()));
    assert_eq!(value(&mut short, 3, 99.0), ["started"]);
    let mut usual = bench("min_deviation = 1");
    assert_eq!((values(&mut usual, 0..15, 0.0), value(&mut usual, 15, 99.0)), (Vec::new(), Vec::new()));
    assert_eq!(value(&mut usual, 16, 99.0), ["started"]);
}

#[test]
fn anomalous_values_are_not_learned_before_there_were_enough_of_them_in_a_row() {
    let settings = format!("{EVEN}\nmin_deviation = 1\nlearn = \"normal\"");
    let mut patient = bench(&settings);
    assert_eq!(values(&mut patient, 0..8, 0.0), NOTHING);
    assert_eq!(values(&mut patient, 8..27, 100.0), ["started"]);
    // The twentieth is anomalous still, and with it all are learned.
    assert_eq!(value(&mut patient, 27, 100.0), NOTHING);
    assert_eq!(value(&mut patient, 28, 100.0), ["cleared"]);

    let mut quick = bench(&format!("{settings}\nrelearn = 5"));
    assert_eq!(values(&mut quick, 0..8, 0.0), NOTHING);
    assert_eq!(values(&mut quick, 8..12, 100.0), ["started"]);
    // The row is broken, and what it was is forgotten.
    assert_eq!(value(&mut quick, 12, 0.0), ["cleared"]);
    assert_eq!(values(&mut quick, 13..17, 100.0), ["started"]);
    assert_eq!(values(&mut quick, 17..18, 100.0), NOTHING);
    assert_eq!(value(&mut quick, 18, 100.0), ["cleared"]);
    assert_eq!(value(&mut quick, 19, 0.0), ["started"]);
}

#[test]
fn with_a_season_a_value_is_compared_with_the_same_slot_of_other_rounds() {
    let mut bench = bench("samples = 8\nwarm_up = 4\nmin_deviation = 1\nseason = \"10ms\"\nslots = 2");
    // 0 in the first half of each round, 100 in the second.
    for round in 0..4 {
        assert_eq!(value(&mut bench, round * 10 + 4, 0.0), NOTHING);
        assert_eq!(value(&mut bench, round * 10 + 5, 100.0), NOTHING);
    }
    assert_eq!(value(&mut bench, 40, 100.0), ["started"]);
    assert_eq!(value(&mut bench, 49, 100.0), ["cleared"]);
    assert_eq!(value(&mut bench, 50, 0.0), NOTHING);
    assert_eq!(value(&mut bench, 55, 0.0), ["started"]);
}

#[test]
fn a_slot_that_is_not_warmed_up_neither_starts_nor_ends_an_anomaly() {
    let mut bench = bench("samples = 8\nwarm_up = 4\nmin_deviation = 1\nseason = \"10ms\"\nslots = 3");
    assert_eq!(values(&mut bench, 0..3, 0.0), NOTHING);
    // Ten milliseconds make two slots of three, and what is left is the third's.
    assert_eq!(values(&mut bench, 6..10, 7.0), NOTHING);
    assert_eq!(value(&mut bench, 19, 0.0), ["started"]);
    assert_eq!(value(&mut bench, 23, 7.0), NOTHING);
    assert_eq!(value(&mut bench, 29, 7.0), ["cleared"]);
}

#[test]
fn a_late_event_and_one_without_a_number_are_dead_letters_and_teach_nothing() {
    let mut bench = bench("warm_up = 2\nmin_deviation = 1\nkeys_max = 1");
    assert_eq!((value(&mut bench, 100, 0.0), value(&mut bench, 110, 0.0)), (Vec::new(), Vec::new()));
    assert!(bench.full(105, 120, Some("a"), json!({ "x": 99 })).is_empty());
    assert!(bench.keyed(130, Some("a"), json!({ "x": "99" })).is_empty());
    assert!(bench.keyed(140, Some("a"), json!({})).is_empty());
    assert!(bench.keyed(150, Some("b"), json!({ "x": 99 })).is_empty());
    let wrong = [
        "timestamp: came 5 ms after its time was closed",
        "data.x: expected a number, found text",
        "data.x: is missing",
        "key: there are as many keys as keys_max allows",
    ];
    assert_eq!(bench.rejected(), wrong);
    assert_eq!(value(&mut bench, 160, 99.0), ["started"]);
}

#[test]
fn keys_are_judged_apart_and_forgotten_when_idle_but_not_while_an_anomaly_is_to_be_ended() {
    let mut bench = bench("warm_up = 2\nmin_deviation = 1\nby = \"host\"\nkeys_idle = \"8s\"");
    let mut told = |at_ms: u64, host: &str, x: i32| bench.event(at_ms, json!({ "host": host, "x": x })).len();
    let found = [told(0, "a", 0), told(0, "b", 9), told(1, "a", 0), told(1, "b", 9), told(2, "a", 9), told(2, "b", 9)];
    assert_eq!((found, bench.keys()), ([0, 0, 0, 0, 1, 0], 2));
    assert!(bench.clock(60_000).is_empty());
    assert_eq!(bench.keys(), 1);
    assert_eq!(bench.event(61_000, json!({ "host": "a", "x": 0 })).len(), 1);
    assert!(bench.clock(120_000).is_empty());
    assert_eq!((bench.keys(), bench.due_ms()), (0, None));
}

#[test]
fn words_and_priority_are_as_they_are_set_and_watched_events_go_on_only_if_asked_for() {
    let words = "name = \"odd\"\nseverity = \"page\"\nas_kind = \"trouble\"\npriority = \"low\"\npass = true";
    let mut bench = bench(&format!("warm_up = 1\nmin_deviation = 1\n{words}"));
    assert_eq!(bench.event(0, json!({ "x": 0 })), [json!({ "x": 0 })]);
    let out = bench.full(5, 7, None, json!({ "x": 9 }));
    let found = (out.len(), &*out[0].kind, out[0].priority, out[0].key.as_deref(), out[0].timestamp_ms);
    assert_eq!(found, (2, "trouble", Lane::Low, None, 5));
    let data = out[0].value();
    assert_eq!((&data["anomaly"], &data["severity"]), (&json!("odd"), &json!("page")));
    assert_eq!((&*out[1].kind, out[1].value()), ("sample", json!({ "x": 9 })));
}

#[test]
fn settings_that_cannot_be_are_refused_where_they_stand() {
    let wrong = [
        ("method = \"magic\"", "method: expected one of zscore"),
        ("samples = 7", "samples: expected a whole number from 8 to 4096"),
        ("half_life = 0", "half_life: expected a whole number"),
        ("threshold = 0", "threshold: expected a number from 0.1"),
        ("min_deviation = -1", "min_deviation: expected a number that is at least 0"),
        ("samples = 8\nwarm_up = 9", "warm_up: expected at most samples"),
        ("relearn = 5", "relearn: with learn = \"all\""),
        ("slots = 5", "slots: there is no season"),
        ("season = \"5ms\"\nslots = 6", "season: expected at least 1ms for each slot"),
        ("season = \"0s\"", "season: expected at least 1ms for each slot"),
        ("as_kind = \"\"", "as_kind: expected 1 to 100 characters"),
    ];
    for (settings, why) in wrong {
        let faults = Bench::try_new(&format!("op = \"anomaly\"\nfield = \"x\"\n{settings}")).unwrap_err();
        assert!(faults.contains(why), "{settings}: {faults}");
    }
    assert!(Bench::try_new("op = \"anomaly\"").unwrap_err().contains("field is missing"));
    assert_eq!(bench("samples = 8").event(0, json!({ "x": 1 })), Vec::<Value>::new());
}
