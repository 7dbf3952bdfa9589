//! What `threshold` promises, by example; against a model in `model.rs`.
use serde_json::json;

use crate::clock::rfc3339;
use crate::event::Lane;
use crate::pipelines::record::Record;
use crate::pipelines::testing::Bench;

pub(super) fn bench(settings: &str) -> Bench {
    Bench::new(&format!("op = \"threshold\"\n{settings}"))
}

/// What came out, a line each: when, about what, why, started or cleared.
pub(super) fn lines(records: &[Record]) -> Vec<String> {
    let line = |record: &Record| {
        let data = record.value();
        let text = |name: &str| data[name].as_str().unwrap().to_owned();
        format!("{} {} {} {}", record.timestamp_ms, record.key.as_deref().unwrap_or("-"), text("reason"), text("state"))
    };
    records.iter().map(line).collect()
}

/// A usage of the key `a`, which arrives when it happens.
fn usage(bench: &mut Bench, at_ms: u64, value: i32) -> Vec<String> {
    lines(&bench.full(at_ms, at_ms, Some("a"), json!({ "usage": value })))
}

fn clock(bench: &mut Bench, now_ms: u64) -> Vec<String> {
    lines(&bench.clock_full(now_ms))
}

const NOTHING: [String; 0] = [];

#[test]
fn an_alarm_is_told_when_it_starts_and_when_it_is_over_and_not_between() {
    let mut bench = bench("field = \"usage\"\nabove = 90.5");
    assert_eq!(usage(&mut bench, 0, 90), NOTHING);
    let started = bench.full(1000, 1000, Some("a"), json!({ "usage": 95 }));
    let (kind, priority, key) = (&*started[0].kind, started[0].priority, started[0].key.as_deref());
    assert_eq!((started.len(), kind, priority, key), (1, "alarm", Lane::Critical, Some("a")));
    let told = json!({
        "alarm": "above", "state": "started", "reason": "above", "value": 95, "threshold": 90.5,
        "severity": "warning", "since": rfc3339(1000), "field": "data.usage",
    });
    assert_eq!(started[0].value(), told);
    assert_eq!(usage(&mut bench, 2000, 99), NOTHING);
    assert_eq!(usage(&mut bench, 2500, 91), NOTHING);
    let over = bench.keyed(4000, Some("a"), json!({ "usage": 90.5 }));
    let told = json!({
        "alarm": "above", "state": "cleared", "reason": "above", "value": 90.5, "threshold": 90.5,
        "severity": "warning", "since": rfc3339(1000), "field": "data.usage", "duration_ms": 3000,
    });
    assert_eq!(over, [told]);
    assert_eq!(usage(&mut bench, 5000, 10), NOTHING);
}

#[test]
fn words_and_priority_are_as_they_are_set_and_watched_events_go_on_only_if_asked_for() {
    let words = "name = \"disk full\"\nseverity = \"page\"\nas_kind = \"trouble\"\npriority = \"low\"";
    let mut bench = bench(&format!("field = \"usage\"\nabove = 90\n{words}\npass = true"));
    let out = bench.full(5, 7, None, json!({ "usage": 91 }));
    let found = (out.len(), &*out[0].kind, out[0].priority, out[0].key.as_deref(), out[0].timestamp_ms);
    assert_eq!(found, (2, "trouble", Lane::Low, None, 5));
    let data = out[0].value();
    assert_eq!((&data["alarm"], &data["severity"]), (&json!("disk full"), &json!("page")));
    assert_eq!((&*out[1].kind, out[1].value()), ("sample", json!({ "usage": 91 })));
}

#[test]
fn an_alarm_is_over_only_beyond_the_hysteresis() {
    let mut above = bench("field = \"usage\"\nabove = 90\nclear_above = 80");
    assert_eq!(usage(&mut above, 0, 91), ["0 a above started"]);
    assert_eq!(usage(&mut above, 1, 81), NOTHING);
    assert_eq!(usage(&mut above, 2, 80), ["2 a above cleared"]);
    assert_eq!(usage(&mut above, 3, 90), NOTHING);
    let mut below = bench("field = \"usage\"\nbelow = -10\nclear_below = 0");
    assert_eq!(usage(&mut below, 0, -11), ["0 a below started"]);
    assert_eq!(usage(&mut below, 1, -1), NOTHING);
    assert_eq!(usage(&mut below, 2, 0), ["2 a below cleared"]);
}

#[test]
fn of_a_band_both_sides_are_alarms_and_one_is_over_before_the_other_starts() {
    let mut bench = bench("field = \"usage\"\nabove = 30\nbelow = 10");
    assert_eq!(usage(&mut bench, 0, 5), ["0 a below started"]);
    assert_eq!(usage(&mut bench, 1, 35), ["1 a below cleared", "1 a above started"]);
    assert_eq!(usage(&mut bench, 2, 5), ["2 a above cleared", "2 a below started"]);
    assert_eq!(usage(&mut bench, 3, 20), ["3 a below cleared"]);
}

#[test]
fn an_alarm_starts_by_the_clock_when_the_hold_is_reached_and_not_if_the_value_comes_back_before() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nhold = \"10s\"\nkeys_idle = \"0s\"");
    assert_eq!((usage(&mut bench, 1000, 95).len(), bench.due_ms()), (0, Some(11_000)));
    assert_eq!(usage(&mut bench, 10_999, 90), NOTHING);
    assert_eq!(clock(&mut bench, 20_000), NOTHING);
    assert_eq!(usage(&mut bench, 21_000, 95), NOTHING);
    assert_eq!(usage(&mut bench, 25_000, 96), NOTHING);
    assert_eq!(bench.due_ms(), Some(31_000));
    assert_eq!(clock(&mut bench, 30_999), NOTHING);
    let started = bench.clock_full(40_000);
    assert_eq!((lines(&started), started[0].arrived_ms), (vec!["31000 a above started".to_owned()], 40_000));
    assert_eq!((started[0].room.as_str(), &started[0].value()["value"]), ("in", &json!(96)));
    assert_eq!(bench.due_ms(), None);
}

#[test]
fn a_hold_goes_by_when_the_values_happened_and_by_the_clock_only_after_the_last() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nhold = \"10s\"");
    let mut late = |at_ms: u64, value: i32| lines(&bench.full(at_ms, 100_000, Some("a"), json!({ "usage": value })));
    assert_eq!(late(1000, 95), NOTHING);
    assert_eq!(late(4000, 95), NOTHING);
    assert_eq!(late(20_000, 10), ["11000 a above started", "20000 a above cleared"]);
    assert_eq!(late(30_000, 95), NOTHING);
    // Ten seconds are left of the hold when the value arrives.
    assert_eq!(clock(&mut bench, 109_999), NOTHING);
    assert_eq!(clock(&mut bench, 110_000), ["40000 a above started"]);
}

#[test]
fn a_value_that_came_back_before_the_clock_found_the_hold_reached_ends_the_alarm_at_its_start() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nhold = \"10s\"");
    assert_eq!(usage(&mut bench, 0, 95), NOTHING);
    assert_eq!(clock(&mut bench, 10_000), ["10000 a above started"]);
    // It had happened in time, but came too late.
    assert_eq!(lines(&bench.full(9000, 12_000, Some("a"), json!({ "usage": 1 }))), NOTHING);
    let over = bench.clock_full(13_000);
    assert_eq!(lines(&over), ["10000 a above cleared"]);
    assert_eq!(over[0].value()["duration_ms"], json!(0));
}

#[test]
fn an_alarm_is_over_only_when_the_value_was_back_for_long_enough() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nclear_above = 80\nhold_clear = \"5s\"");
    assert_eq!(usage(&mut bench, 1000, 95), ["1000 a above started"]);
    assert_eq!(usage(&mut bench, 2000, 70), NOTHING);
    // Not over the limit, but no longer back.
    assert_eq!(usage(&mut bench, 4000, 85), NOTHING);
    assert_eq!(usage(&mut bench, 8000, 80), NOTHING);
    let over = bench.clock_full(60_000);
    assert_eq!(lines(&over), ["13000 a above cleared"]);
    let data = over[0].value();
    assert_eq!((&data["duration_ms"], &data["value"]), (&json!(12_000), &json!(80)));
}

#[test]
fn a_key_that_falls_silent_is_an_alarm_until_its_next_event_whatever_that_says() {
    let mut bench = bench("no_data = \"1m\"");
    assert!(bench.keyed(0, Some("a"), json!({})).is_empty() && bench.keyed(30_000, Some("b"), json!(1)).is_empty());
    assert_eq!(usage(&mut bench, 50_000, 1), NOTHING);
    assert_eq!(clock(&mut bench, 89_999), NOTHING);
    let silent = bench.clock_full(100_000);
    assert_eq!(lines(&silent), ["90000 b no_data started"]);
    let told = json!({
        "alarm": "no_data", "state": "started", "reason": "no_data", "value": null, "threshold": null,
        "severity": "warning", "since": rfc3339(90_000), "field": null, "silence_ms": 60_000,
    });
    assert_eq!(silent[0].value(), told);
    assert_eq!(clock(&mut bench, 1_000_000), ["110000 a no_data started"]);
    let over = bench.full(999_000, 1_000_500, Some("b"), json!({}));
    assert_eq!(lines(&over), ["1000500 b no_data cleared"]);
    assert_eq!(over[0].value()["duration_ms"], json!(910_500));
    // Ten days later both keys are still known: the one that fell silent again, and the other that has been so all the time.
    assert_eq!((clock(&mut bench, 864_000_000).len(), bench.keys()), (1, 2));
}

#[test]
fn a_late_event_or_one_without_a_number_is_a_dead_letter_but_no_silence() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nno_data = \"1m\"");
    assert_eq!(usage(&mut bench, 100_000, 95), ["100000 a above started"]);
    assert_eq!(clock(&mut bench, 160_000), ["160000 a no_data started"]);
    let late = bench.full(99_990, 170_000, Some("a"), json!({ "usage": 1 }));
    assert_eq!(lines(&late), ["170000 a no_data cleared"]);
    assert!(bench.keyed(200_000, Some("a"), json!({ "usage": "much" })).is_empty());
    assert!(bench.keyed(210_000, Some("a"), json!({})).is_empty());
    assert_eq!(clock(&mut bench, 269_999), NOTHING);
    let wrong = [
        "timestamp: came 10 ms after its time was closed",
        "data.usage: expected a number, found text",
        "data.usage: is missing",
    ];
    assert_eq!(bench.rejected(), wrong);
    assert_eq!(clock(&mut bench, 270_000), ["270000 a no_data started"]);
}

#[test]
fn a_key_that_is_expected_and_never_comes_is_missed_from_the_first_moment_on() {
    let mut bench = bench("no_data = \"10s\"\nexpect = [\"a\", \"b\"]\nby = \"host\"");
    assert_eq!((bench.due_ms(), bench.keys()), (Some(0), 0));
    assert_eq!(clock(&mut bench, 5000), NOTHING);
    assert_eq!((bench.due_ms(), bench.keys()), (Some(15_000), 2));
    assert!(bench.event(6000, json!({ "host": "a" })).is_empty());
    let missed = bench.clock_full(17_000);
    assert_eq!(lines(&missed), ["15000 b no_data started", "16000 a no_data started"]);
    assert_eq!(missed[0].room.as_str(), "in");
    let mut empty = self::bench("no_data = \"10s\"\nexpect = \"a\"");
    empty.resumed(1000);
    assert_eq!(empty.clock_full(11_000)[0].room.as_str(), "unknown");
}

#[test]
fn a_pause_of_the_pipeline_is_no_silence_and_no_hold() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nhold = \"20s\"\nno_data = \"10s\"");
    assert_eq!(usage(&mut bench, 1000, 95), NOTHING);
    bench.restart();
    bench.resumed(500_000);
    assert_eq!(clock(&mut bench, 509_999), NOTHING);
    assert_eq!(clock(&mut bench, 519_999), ["510000 a no_data started"]);
    // By its own time the key is where it was when the pause began.
    assert_eq!(clock(&mut bench, 520_000), ["21000 a above started"]);
}

#[test]
fn a_key_is_forgotten_when_it_is_idle_but_not_while_it_has_an_alarm_or_waits_for_one() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nhold = \"1h\"\nkeys_idle = \"8s\"");
    assert_eq!(usage(&mut bench, 1000, 95), NOTHING);
    assert!(bench.keyed(1000, Some("b"), json!({ "usage": 1 })).is_empty());
    assert_eq!(bench.keys(), 2);
    assert_eq!((clock(&mut bench, 60_000), bench.keys()), (Vec::new(), 1));
    assert_eq!((clock(&mut bench, 4_000_000).len(), bench.keys()), (1, 1));
    assert_eq!(usage(&mut bench, 4_001_000, 1), ["4001000 a above cleared"]);
    assert_eq!((clock(&mut bench, 4_100_000).len(), bench.keys(), bench.due_ms()), (0, 0, None));
}

#[test]
fn a_key_too_many_and_one_that_cannot_be_told_are_dead_letters() {
    let mut bench = bench("field = \"usage\"\nabove = 90\nby = \"host\"\nkeys_max = 1");
    assert_eq!(bench.event(0, json!({ "host": "a", "usage": 91 })).len(), 1);
    assert!(bench.event(1, json!({ "host": "b", "usage": 91 })).is_empty());
    assert!(bench.event(2, json!({ "host": [], "usage": 91 })).is_empty());
    let wrong = [
        "key: there are as many keys as keys_max allows",
        "data.host: expected text, a number or a flag, found a list",
    ];
    assert_eq!(bench.rejected(), wrong);
}

#[test]
fn settings_that_cannot_be_are_refused_where_they_stand() {
    let wrong = [
        ("field = \"x\"", "at least one of above, below and no_data"),
        ("above = 1", "field is missing"),
        ("no_data = \"1s\"\nfield = \"x\"", "field: there is no above and no below"),
        ("no_data = \"1s\"\nhold = \"1s\"", "hold: there is no above and no below"),
        ("field = \"x\"\nabove = 1\nbelow = 1", "above: expected a number over that of below"),
        ("field = \"x\"\nbelow = 1\nclear_above = 1", "clear_above: there is no above"),
        ("field = \"x\"\nabove = 1\nclear_below = 1", "clear_below: there is no below"),
        ("field = \"x\"\nabove = 1\nclear_above = 2", "clear_above: expected at most above"),
        ("field = \"x\"\nbelow = 1\nclear_below = 0", "clear_below: expected at least below"),
        ("no_data = \"0s\"", "no_data: expected a time of at least 1ms"),
        ("field = \"x\"\nabove = 1\nexpect = \"a\"", "expect: there is no no_data"),
        ("no_data = \"1s\"\nexpect = [\"a\", \"b\"]\nkeys_max = 1", "expect: expected no more keys than keys_max"),
        ("no_data = \"1s\"\nas_kind = \"\"", "as_kind: expected 1 to 100 characters"),
        ("field = \"x\"\nabove = \"high\"", "above: expected a number"),
    ];
    for (settings, why) in wrong {
        let faults = Bench::try_new(&format!("op = \"threshold\"\n{settings}")).unwrap_err();
        assert!(faults.contains(why), "{settings}: {faults}");
    }
}
