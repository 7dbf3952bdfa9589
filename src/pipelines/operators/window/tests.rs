//! Windows by example; against models in `model.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod model;

use crate::pipelines::record::Record;
use crate::pipelines::testing::Bench;
use serde_json::json;

/// 2025-11-20T06:10:00Z, a whole minute.
const T: u64 = 1_763_619_000_000;

fn bench(kind: &str, settings: &str) -> Bench {
    let fields = "fields = { v = [\"sum\", \"min\", \"first\", \"last\"] }";
    Bench::new(&format!("op = \"window\"\nkind = \"{kind}\"\n{fields}\n{settings}"))
}

fn ms(time_ms: u64) -> String {
    if time_ms == 0 { "0s".to_owned() } else { format!("{time_ms}ms") }
}

/// What is told of a window: `start end key count sum min first last`, times since `T`, and `updated` or `open`.
fn line(record: &Record) -> String {
    let data = record.value();
    let time = |name: &str| {
        let time_ms = crate::clock::parse_rfc3339(data[name].as_str().unwrap()).unwrap();
        i64::try_from(time_ms).unwrap() - i64::try_from(T).unwrap()
    };
    assert_eq!((record.kind.as_str(), i64::try_from(record.timestamp_ms - T).unwrap()), ("window", time("end")));
    let key = record.key.as_deref().unwrap_or("-");
    let figures = ["count", "v_sum", "v_min", "v_first", "v_last"].map(|name| data[name].to_string()).join(" ");
    let marks = ["updated", "open"].into_iter().filter(|name| data.get(name).is_some());
    let marks: String = marks.map(|name| format!(" {name}")).collect();
    format!("{} {} {key} {figures}{marks}", time("start"), time("end"))
}

fn lines(records: &[Record]) -> Vec<String> {
    records.iter().map(line).collect()
}

/// An event that arrives when it happens.
fn at(bench: &mut Bench, time_ms: u64, key: &str, value: i64) -> Vec<String> {
    lines(&bench.full(T + time_ms, T + time_ms, Some(key), json!({ "v": value })))
}

/// An event that arrives later than it happens.
fn late(bench: &mut Bench, time_ms: u64, arrives_ms: u64, key: &str, value: i64) -> Vec<String> {
    lines(&bench.full(T + time_ms, T + arrives_ms, Some(key), json!({ "v": value })))
}

#[test]
fn tumbling_windows_are_told_when_event_time_has_passed_their_end() {
    let mut bench = bench("tumbling", "size = \"10s\"");
    assert!(at(&mut bench, 0, "b", 1).is_empty() && at(&mut bench, 4000, "a", 3).is_empty());
    assert!(at(&mut bench, 9999, "b", 5).is_empty());
    assert_eq!(at(&mut bench, 10_000, "a", 7), ["0 10000 b 2 6 1 1 5", "0 10000 a 1 3 3 3 3"]);
    assert_eq!(at(&mut bench, 30_000, "a", 7), ["10000 20000 a 1 7 7 7 7"]);
}

#[test]
fn figures_have_names_and_the_group_is_told() {
    let settings = "op = \"window\"\nkind = \"tumbling\"\nsize = \"10s\"\nby = \"host\"\nas_kind = \"load\"";
    let mut bench = Bench::new(&format!("{settings}\nfields = {{ \"cpu.usage\" = [\"mean\", \"p95\"] }}"));
    for (time_ms, usage) in [(0, 1.0), (5000, 2.0)] {
        bench.event(T + time_ms, json!({ "host": "a", "cpu": { "usage": usage } }));
    }
    let came = bench.full(T + 10_000, T + 10_000, Some("else"), json!({ "host": "b", "cpu": { "usage": 1 } }));
    let [record] = &came[..] else { panic!("one is expected: {came:?}") };
    let own = (record.kind.as_str(), record.key.as_deref(), record.timestamp_ms, record.seq, record.room.as_str());
    assert_eq!(own, ("load", Some("a"), T + 10_000, 3, "in"));
    let data = record.value();
    assert!((data["cpu_usage_p95"].as_f64().unwrap() - 1.0).abs() < 0.0101, "rank 0.95 of two is the first");
    assert_eq!((&data["host"], &data["count"], &data["rate"]), (&json!("a"), &json!(2), &json!(0.2)));
    assert_eq!((&data["cpu_usage_mean"], &data["start"]), (&json!(1.5), &json!("2025-11-20T06:10:00.000Z")));
}

#[test]
fn a_quiet_streams_last_window_comes_by_the_clock() {
    let mut bench = bench("tumbling", "size = \"10s\"\ndisorder = \"1s\"");
    at(&mut bench, 1000, "a", 1);
    // Silence counts from 5 s on; from there event time has 9 s to go to the window's end, and the disorder.
    assert_eq!(bench.due_ms(), Some(T + 1000 + 5000 + 10_000));
    assert!(bench.clock(T + 15_999).is_empty());
    assert_eq!(lines(&bench.clock_full(T + 16_000)), ["0 10000 a 1 1 1 1 1"]);
    assert!(late(&mut bench, 2000, 16_500, "a", 1).is_empty());
    assert_eq!(bench.rejected(), ["timestamp: came 500 ms after its time was closed"]);
}

#[test]
fn a_pause_is_no_silence_and_idle_0s_waits_for_ever() {
    let mut one = bench("tumbling", "size = \"10s\"");
    at(&mut one, 9000, "a", 1);
    one.resumed(T + 60_000);
    assert!(one.clock(T + 65_000).is_empty());
    assert_eq!(one.clock(T + 66_000).len(), 1);
    let mut one = bench("tumbling", "size = \"10s\"\nidle = \"0s\"\nkeys_idle = \"0s\"");
    at(&mut one, 9000, "a", 1);
    assert_eq!(one.due_ms(), None);
}

#[test]
fn an_event_ahead_of_its_arrival_closes_nothing_before_its_time() {
    let mut bench = bench("tumbling", "size = \"10s\"");
    at(&mut bench, 1000, "a", 1);
    assert!(late(&mut bench, 86_400_000, 2000, "wrong", 1).is_empty());
    assert!(at(&mut bench, 3000, "a", 1).is_empty() && bench.rejected().is_empty());
    assert_eq!(at(&mut bench, 10_000, "a", 1), ["0 10000 a 2 2 1 1 1"]);
}

#[test]
fn late_events_bring_a_window_again_until_lateness_is_over() {
    let mut bench = bench("tumbling", "size = \"10s\"\nlateness = \"5s\"");
    at(&mut bench, 1, "a", 1);
    assert_eq!(at(&mut bench, 11_000, "a", 1), ["0 10000 a 1 1 1 1 1"]);
    assert_eq!(late(&mut bench, 0, 11_001, "a", 2), ["0 10000 a 2 3 1 2 1 updated"]);
    assert_eq!(late(&mut bench, 5, 11_002, "b", 4), ["0 10000 b 1 4 4 4 4"], "of b nothing was told before");
    at(&mut bench, 15_000, "a", 1);
    assert!(late(&mut bench, 9999, 15_001, "a", 1).is_empty());
    assert_eq!(bench.rejected(), ["timestamp: came 0 ms after its time was closed"]);
}

#[test]
fn sliding_windows_overlap_and_begin_at_the_offset() {
    let mut bench = bench("sliding", "size = \"10s\"\nevery = \"4s\"\noffset = \"1s\"");
    // T is a multiple of 4 s: windows begin at -7000, -3000, 1000, 5000.
    at(&mut bench, 1500, "a", 1);
    assert_eq!(at(&mut bench, 3000, "a", 2), ["-7000 3000 a 1 1 1 1 1"]);
    assert_eq!(at(&mut bench, 7000, "a", 4), ["-3000 7000 a 2 3 1 1 2"]);
    let rest = ["1000 11000 a 3 7 1 1 4", "5000 15000 a 1 4 4 4 4"];
    assert_eq!(at(&mut bench, 40_000, "a", 0), rest);
}

#[test]
fn a_session_ends_with_a_gap_or_when_it_is_too_long() {
    let mut one = bench("session", "gap = \"3s\"");
    at(&mut one, 0, "a", 1);
    at(&mut one, 2000, "a", 2);
    assert_eq!(at(&mut one, 6000, "b", 2), ["0 5000 a 2 3 1 1 2"]);
    let mut one = bench("session", "gap = \"3s\"\nmax = \"5s\"");
    let told: Vec<String> = (0..10).flat_map(|second| at(&mut one, second * 1000, "a", 1)).collect();
    assert_eq!(told, ["0 5000 a 5 5 1 1 1"]);
    assert_eq!(at(&mut one, 20_000, "a", 1), ["5000 10000 a 5 5 1 1 1"]);
}

#[test]
fn an_event_between_two_sessions_makes_them_one() {
    let mut bench = bench("session", "gap = \"3s\"\ndisorder = \"10s\"");
    at(&mut bench, 0, "a", 1);
    at(&mut bench, 5000, "a", 2);
    assert!(late(&mut bench, 2500, 6000, "a", 4).is_empty());
    assert_eq!(at(&mut bench, 18_000, "b", 0), ["0 8000 a 3 7 1 1 2"]);
}

#[test]
fn a_late_event_brings_a_session_again_or_opens_it_again() {
    let mut bench = bench("session", "gap = \"3s\"\nlateness = \"10s\"");
    at(&mut bench, 0, "a", 1);
    assert_eq!(at(&mut bench, 5000, "b", 1), ["0 3000 a 1 1 1 1 1"]);
    assert_eq!(late(&mut bench, 1000, 5001, "a", 2), ["0 4000 a 2 3 1 1 2 updated"]);
    assert!(late(&mut bench, 3500, 5002, "a", 4).is_empty(), "now it lasts until 6500");
    assert_eq!(at(&mut bench, 6500, "b", 1), ["0 6500 a 3 7 1 1 4 updated"]);
}

#[test]
fn by_arrival_windows_close_with_the_clock_and_nothing_is_late() {
    let mut bench = bench("tumbling", "size = \"10s\"\ntime = \"arrival\"");
    assert!(late(&mut bench, 0, 86_400_000, "a", 1).is_empty());
    assert_eq!(bench.due_ms(), Some(T + 86_410_000));
    assert!(late(&mut bench, 5, 86_409_999, "a", 2).is_empty());
    assert_eq!(lines(&bench.clock_full(T + 86_410_000)), ["86400000 86410000 a 2 3 1 1 2"]);
    assert!(late(&mut bench, 5, 86_409_999, "a", 4).is_empty(), "it was under way");
    assert_eq!(lines(&bench.clock_full(T + 86_420_000)), ["86410000 86420000 a 1 4 4 4 4"]);
    assert!(bench.rejected().is_empty());
}

#[test]
fn with_emit_update_every_event_tells_its_window() {
    let mut one = bench("tumbling", "size = \"10s\"\nemit = \"update\"");
    assert_eq!(at(&mut one, 1000, "a", 1), ["0 10000 a 1 1 1 1 1 open"]);
    assert_eq!(at(&mut one, 2000, "a", 2), ["0 10000 a 2 3 1 1 2 open"]);
    assert_eq!(at(&mut one, 10_000, "b", 1), ["0 10000 a 2 3 1 1 2", "10000 20000 b 1 1 1 1 1 open"]);
    let mut one = bench("session", "gap = \"3s\"\nemit = \"update\"");
    assert_eq!(at(&mut one, 1000, "a", 1), ["1000 4000 a 1 1 1 1 1 open"]);
}

#[test]
fn groups_without_windows_make_place_and_those_with_windows_do_not() {
    let mut bench = bench("tumbling", "size = \"10s\"\nkeys_max = 2");
    at(&mut bench, 0, "a", 1);
    at(&mut bench, 0, "b", 1);
    assert!(at(&mut bench, 0, "c", 1).is_empty());
    assert_eq!(bench.rejected(), ["key: there are as many keys as keys_max allows"]);
    assert_eq!(at(&mut bench, 10_000, "b", 1).len(), 2);
    assert!(at(&mut bench, 10_001, "c", 1).is_empty() && bench.rejected().is_empty());
    assert_eq!(bench.keys(), 2);
    while let Some(due_ms) = bench.due_ms() {
        bench.clock(due_ms);
    }
    assert_eq!(bench.keys(), 0);
}

#[test]
fn a_group_has_so_many_windows_and_no_more() {
    let mut bench = bench("session", "gap = \"1ms\"\ndisorder = \"1h\"\nidle = \"0s\"");
    for number in 0..1001 {
        at(&mut bench, number * 10, "a", 1);
    }
    assert_eq!(bench.rejected(), ["key: has 1000 open windows, as many as it may"]);
}

#[test]
fn wrong_settings_are_told() {
    let faults = |settings: &str| Bench::try_new(&format!("op = \"window\"\n{settings}")).unwrap_err();
    assert!(faults("size = \"1s\"").contains("kind is missing; expected one of tumbling, sliding, session"));
    assert!(faults("kind = \"tumbling\"").contains("size is missing"));
    assert!(faults("kind = \"tumbling\"\nsize = \"1s\"\nevery = \"1s\"").contains("there is no setting every"));
    assert!(faults("kind = \"sliding\"\nsize = \"1s\"\nevery = \"2s\"").contains("expected at most size"));
    assert!(
        faults("kind = \"sliding\"\nsize = \"1s\"\nevery = \"999ms\"\nemit = \"update\"").contains("expected close")
    );
    assert!(faults("kind = \"sliding\"\nsize = \"1001ms\"\nevery = \"1000ms\"").contains("made of 1001 pieces"));
    assert!(faults("kind = \"tumbling\"\nsize = \"1s\"\nlateness = \"1h\"").contains("3600 windows"));
    assert!(faults("kind = \"session\"\ngap = \"2h\"\nmax = \"1h\"").contains("expected at least gap"));
    assert!(faults("kind = \"session\"\ngap = \"2h\"\ntime = \"arrival\"\nidle = \"1s\"").contains("goes with time"));
}
