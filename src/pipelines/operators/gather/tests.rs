//! What `gather` promises.

use std::collections::BTreeMap;

use crate::event::{Lane, RoomName};
use crate::pipelines::field::Extractor;
use crate::pipelines::machine::Machine;
use crate::pipelines::record::Record;
use crate::pipelines::testing::Bench;
use crate::pipelines::{Definition, merge};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn bench(rest: &str) -> Bench {
    Bench::new(&format!("op = \"gather\"\nperiod = \"250ms\"\n{rest}"))
}

const PARTS: &str = "
    [[step.part]]\nname = \"alerts\"\nas = \"list\"\nwhere = \"data.kind == 'alert'\"\nmax = 2
    [[step.part]]\nname = \"status\"\nas = \"object\"\nwhere = \"data.kind == 'status'\"
    [[step.part]]\nname = \"newest\"\nas = \"last\"\nwhere = \"data.kind == 'beat'\"
    [[step.part]]\nname = \"wells\"\nas = \"rows\"\nwhere = \"data.kind == 'well'\"\nkey_as = \"id\"";

#[test]
fn what_came_in_a_period_goes_on_as_one_event_at_its_end() {
    let mut bench = bench(PARTS);
    for (at_ms, key, data) in [
        (1000, None, json!({ "kind": "alert", "n": 1 })),
        (1010, Some("b"), json!({ "kind": "well", "oil": 1 })),
        (1020, Some("a"), json!({ "kind": "well", "oil": 2 })),
        (1030, Some("b"), json!({ "kind": "well", "oil": 3 })),
        (1040, None, json!({ "kind": "status", "x": 1 })),
        (1050, None, json!({ "kind": "status", "y": { "z": 2 } })),
        (1060, None, json!({ "kind": "beat", "n": 1 })),
        (1070, None, json!({ "kind": "beat", "n": 2 })),
        (1080, None, json!({ "kind": "other" })),
    ] {
        assert!(bench.full(at_ms - 900, at_ms, key, data).is_empty());
    }
    assert!(bench.due_ms() == Some(1250) && bench.clock(1249).is_empty());
    let came = bench.clock_full(1250);
    let [record] = &came[..] else { panic!("one is expected: {came:?}") };
    let own = (record.kind.as_str(), record.key.as_deref(), record.timestamp_ms, record.arrived_ms, record.seq);
    assert_eq!(own, ("update", None, 170, 1250, 0), "what no part takes has no part in it");
    assert_eq!(
        record.value(),
        json!({
            "alerts": [{ "kind": "alert", "n": 1 }],
            "status": { "kind": "status", "x": 1, "y": { "z": 2 } },
            "newest": { "kind": "beat", "n": 2 },
            "wells": [{ "kind": "well", "oil": 3, "id": "b" }, { "kind": "well", "oil": 2, "id": "a" }],
        })
    );
    assert_eq!((bench.due_ms(), bench.clock(5000).len()), (None, 0), "nothing came, nothing goes on");
}

#[test]
fn of_a_list_the_newest_are_kept_and_the_others_are_counted() {
    let mut bench = bench(PARTS);
    (0..5).for_each(|n| drop(bench.event(1000, json!({ "kind": "alert", "n": n }))));
    bench.restart();
    let alerts = json!([{ "kind": "alert", "n": 3 }, { "kind": "alert", "n": 4 }]);
    assert_eq!(bench.clock(1250), [json!({ "alerts": alerts, "alerts_omitted": 3 })]);
}

#[test]
fn an_object_stays_and_goes_on_whole_when_it_changes() {
    let mut bench = bench("[[step.part]]\nname = \"o\"\nas = \"object\"");
    bench.event(1000, json!({ "a": 1, "b": 2 }));
    bench.clock(1250);
    bench.restart();
    bench.event(2000, json!({ "a": null, "c": 3 }));
    assert_eq!(bench.clock(2250), [json!({ "o": { "b": 2, "c": 3 } })]);
    bench.event(3000, Value::Null);
    assert_eq!(bench.clock(3250), [json!({ "o": null })], "it is gone, which is told");
}

#[test]
fn changes_of_a_rooms_state_give_whole_rows() {
    let mut bench = bench("[[step.part]]\nname = \"w\"\nas = \"rows\"\nkey_as = \"id\"");
    bench.change(1000, json!({ "a": { "oil": 1, "gas": 2 }, "b": { "oil": 5 } }));
    assert_eq!(bench.clock(1250), [json!({ "w": [{ "id": "a", "oil": 1, "gas": 2 }, { "id": "b", "oil": 5 }] })]);
    bench.restart();
    bench.change(2000, json!({ "a": { "oil": 7 } }));
    bench.change(2001, json!({ "b": null }));
    assert_eq!(bench.clock(2250), [json!({ "w": [{ "id": "a", "oil": 7, "gas": 2 }], "w_removed": ["b"] })]);
    assert_eq!(bench.keys(), 1);
    bench.change(3000, json!({ "c": 5 }));
    bench.change(3000, json!([5]));
    let refused = ["data: expected an object, found a number", "data: expected an object, found a list"];
    assert_eq!((bench.rejected(), bench.due_ms()), (refused.map(String::from).to_vec(), None));
}

#[test]
fn an_object_is_one_row_of_a_rooms_state() {
    let mut bench = bench("[[step.part]]\nname = \"o\"\nas = \"object\"\nof = \"main\"");
    bench.change(1000, json!({ "main": { "a": 1, "b": 1 }, "": { "a": 9 } }));
    bench.change(1001, json!({ "main": { "b": null } }));
    assert_eq!(bench.clock(1250), [json!({ "o": { "a": 1 } })]);
    bench.change(2000, json!({ "": { "a": 9 } }));
    assert_eq!(bench.due_ms(), None, "that is another row");
}

#[test]
fn what_is_wanted_always_is_in_every_result() {
    let mut bench = bench(&format!("always = [\"status\", \"newest\", \"wells\"]\n{PARTS}"));
    bench.event(1000, json!({ "kind": "alert" }));
    assert_eq!(bench.clock(1250), [json!({ "alerts": [{ "kind": "alert" }], "wells": [] })], "nothing is known yet");
    bench.event(2000, json!({ "kind": "status", "x": 1 }));
    bench.event(2000, json!({ "kind": "beat" }));
    bench.keyed(2000, Some("a"), json!({ "kind": "well" }));
    let known = json!({ "status": { "kind": "status", "x": 1 }, "newest": { "kind": "beat" }, "wells": [{ "kind": "well", "id": "a" }] });
    assert_eq!(bench.clock(2250), std::slice::from_ref(&known));
    bench.restart();
    bench.event(3000, json!({ "kind": "alert" }));
    let mut all = known;
    all["alerts"] = json!([{ "kind": "alert" }]);
    assert_eq!(bench.clock(3250), [all]);
}

#[test]
fn what_would_be_too_large_goes_on_early() {
    let mut bench = bench("bytes_max = \"1KB\"\n[[step.part]]\nname = \"l\"\nas = \"list\"");
    let item = json!("x".repeat(300));
    assert!((0..3).all(|_| bench.event(1000, item.clone()).is_empty()));
    let came = bench.full(1010, 1010, None, item.clone());
    assert_eq!((came[0].value(), came[0].seq, came[0].arrived_ms), (json!({ "l": [item, item, item] }), 3, 1000));
    assert_eq!(bench.due_ms(), Some(1260), "a new period has begun");
    let huge = json!("x".repeat(5000));
    assert_eq!(bench.event(1020, huge.clone()).len(), 1);
    assert_eq!(bench.clock(1270), [json!({ "l": [huge] })], "what is too large alone is alone");
}

#[test]
fn of_too_many_rows_some_go_on_early() {
    let mut bench = bench("[[step.part]]\nname = \"r\"\nas = \"rows\"\nkey = \"id\"\nmax = 2");
    assert!([1, 2, 1, 2].into_iter().all(|id| bench.event(1000, json!({ "id": id })).is_empty()));
    assert_eq!(bench.event(1000, json!({ "id": 3 })), [json!({ "r": [{ "id": 1 }, { "id": 2 }] })]);
    assert_eq!(bench.clock(1250), [json!({ "r": [{ "id": 3 }] })]);
}

#[test]
fn the_first_part_that_fits_has_the_event_by_its_room_too() {
    let text = "[pipeline]\nfrom = \"in:*\"\n[[step]]\nop = \"gather\"\nperiod = \"1s\"
        [[step.part]]\nname = \"a\"\nas = \"last\"\nroom = \"in:a*\"\n[[step.part]]\nname = \"rest\"\nas = \"last\"
        [[output]]\nroom = \"out\"\n";
    let mut machine = Machine::new(Definition::read("p", "p.toml", text, None).unwrap());
    let mut out = Vec::new();
    for (room, lane, data) in [("in:a7", Lane::High, json!(1)), ("in:b", Lane::Low, json!(2))] {
        let mut record = Record::made(RoomName::parse(room).unwrap(), "k", None, 1000, 1000, json!(null));
        record.priority = lane;
        machine.record(record.given(data.to_string().into(), &Extractor::default()), &mut out);
    }
    machine.clock(2000, &mut out);
    let data: Value = serde_json::from_slice(&out[0].event.data).unwrap();
    assert_eq!((out.len(), data, out[0].event.priority), (1, json!({ "a": 1, "rest": 2 }), Lane::High));
}

#[test]
fn what_is_wrong_is_a_dead_letter() {
    let mut bench = bench(&format!("bytes_max = 1000\n{PARTS}"));
    bench.event(0, json!({}));
    bench.event(0, json!({ "kind": "status", "x": "x".repeat(2000) }));
    assert_eq!(
        bench.rejected(),
        ["data.kind: is missing", "data: status would have 2024 bytes; bytes_max allows 1000"]
    );
    let mut bench =
        self::bench("always = \"r\"\n[[step.part]]\nname = \"r\"\nas = \"rows\"\nkey_as = \"id\"\nkeys_max = 1");
    bench.keyed(0, Some("a"), json!(7));
    bench.keyed(0, Some("a"), json!({}));
    bench.keyed(0, Some("b"), json!({}));
    let refused = ["data: expected an object, found a number", "key: there are as many keys as keys_max allows"];
    assert_eq!(bench.rejected(), refused);
}

#[test]
fn wrong_settings_are_told() {
    for (settings, fault) in [
        ("", "part: expected at least one table, begun with [[step.part]]"),
        ("[[step.part]]\nas = \"list\"", "step 1 (gather), part 1: name is missing"),
        ("[[step.part]]\nname = \"a\"", "as is missing; expected one of list, rows, object, last"),
        ("[[step.part]]\nname = \"a b\"\nas = \"list\"", "name: \"a b\" is no name"),
        ("[[step.part]]\nname = \"a\"\nas = \"list\"\nroom = \"a b\"", "part 1: room: "),
        ("[[step.part]]\nname = \"a\"\nas = \"list\"\nkey_as = \"id\"", "there is no setting key_as"),
        ("bytes_max = \"1B\"\n[[step.part]]\nname = \"a\"\nas = \"list\"", "bytes_max: expected a size from"),
        ("always = \"b\"\n[[step.part]]\nname = \"a\"\nas = \"list\"", "always: there is no part \"b\""),
        (
            "[[step.part]]\nname = \"a\"\nas = \"list\"\n[[step.part]]\nname = \"a_omitted\"\nas = \"last\"",
            "part: two fields would be called a_omitted",
        ),
    ] {
        let faults = Bench::try_new(&format!("op = \"gather\"\nperiod = \"1s\"\n{settings}")).unwrap_err();
        assert!(faults.contains(fault), "{fault} is not among:\n{faults}");
    }
    assert!(Bench::try_new("op = \"gather\"").unwrap_err().contains("period is missing"));
}

#[derive(Debug, Clone)]
enum Came {
    Item(usize),
    Row(u8, Option<i64>),
    Change(Value),
    Restart,
}

fn came() -> impl Strategy<Value = Came> {
    let row = prop_oneof![
        4 => (prop::option::of(0..9_i64), prop::option::of("[xy]{0,30}")).prop_map(|(a, b)| json!({ "a": a, "b": b })),
        1 => Just(Value::Null),
    ];
    prop_oneof![
        3 => (0..60_usize).prop_map(Came::Item),
        3 => (0..4_u8, prop::option::weighted(0.8, any::<i64>())).prop_map(|(key, value)| Came::Row(key, value)),
        3 => proptest::collection::btree_map("[0-5]", row, 0..4).prop_map(|rows| Came::Change(rows.into_iter().collect())),
        1 => Just(Came::Restart),
    ]
}

/// What a screen shows that takes in every result.
#[derive(Debug, Default, PartialEq)]
struct Screen {
    items: Vec<Value>,
    rows: BTreeMap<String, Value>,
    table: BTreeMap<String, Value>,
}

impl Screen {
    fn show(&mut self, result: &Value) {
        self.items.extend(result["items"].as_array().into_iter().flatten().cloned());
        let tables = [("rows", &mut self.rows), ("table", &mut self.table)];
        for (name, table) in tables {
            for row in result[name].as_array().into_iter().flatten() {
                let mut row = row.clone();
                let key = row.as_object_mut().unwrap().remove("id").unwrap();
                table.insert(key.as_str().unwrap().to_owned(), row);
            }
            for key in result[format!("{name}_removed")].as_array().into_iter().flatten() {
                table.remove(key.as_str().unwrap());
            }
        }
    }
}

proptest! {
    #[test]
    fn a_screen_that_takes_in_the_results_shows_what_came_whenever_it_is_restarted(
        steps in proptest::collection::vec((0..80_u64, came()), 1..80),
    ) {
        let mut bench = bench(
            "bytes_max = 1000\n[[step.part]]\nname = \"items\"\nas = \"list\"\nwhere = \"kind == 'sample' && has(data.item)\"
             max = 10000\n[[step.part]]\nname = \"rows\"\nas = \"rows\"\nwhere = \"has(data.value) || data == null\"\nkey_as = \"id\"
             [[step.part]]\nname = \"table\"\nas = \"rows\"\nkey_as = \"id\"\nmax = 3"
        );
        let (mut now_ms, mut screen, mut expected) = (1000, Screen::default(), Screen::default());
        for (pause, step) in steps {
            now_ms += pause;
            while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms <= now_ms) {
                bench.clock(due_ms).iter().for_each(|result| screen.show(result));
                prop_assert_eq!(&screen, &expected, "at a period's end all is shown");
            }
            let results = match step {
                Came::Restart => {
                    bench.restart();
                    continue;
                }
                Came::Item(length) => {
                    let item = json!({ "item": "x".repeat(length) });
                    expected.items.push(item.clone());
                    bench.event(now_ms, item)
                }
                Came::Row(key, value) => {
                    let key = key.to_string();
                    let row = value.map(|value| json!({ "value": value }));
                    match &row {
                        Some(row) => drop(expected.rows.insert(key.clone(), row.clone())),
                        None => drop(expected.rows.remove(&key)),
                    }
                    bench.keyed(now_ms, Some(&key), row.unwrap_or_default())
                }
                Came::Change(change) => {
                    let mut whole: Value = std::mem::take(&mut expected.table).into_iter().collect::<Map<_, _>>().into();
                    merge::apply(&mut whole, &change);
                    expected.table = whole.as_object().unwrap().clone().into_iter().collect();
                    bench.change(now_ms, change)
                }
            };
            for result in &results {
                prop_assert!(result.to_string().len() <= 1000);
                screen.show(result);
            }
        }
        bench.clock(now_ms + 250).iter().for_each(|result| screen.show(result));
        prop_assert_eq!((screen, bench.due_ms()), (expected, None));
        prop_assert!(bench.rejected().is_empty());
    }
}

#[test]
fn a_list_that_is_wanted_always_is_the_newest_whenever_they_came() {
    let mut bench = bench(&format!("always = \"alerts\"\n{PARTS}"));
    (0..3).for_each(|n| drop(bench.event(1000, json!({ "kind": "alert", "n": n }))));
    let alerts = json!([{ "kind": "alert", "n": 1 }, { "kind": "alert", "n": 2 }]);
    assert_eq!(bench.clock(1250), [json!({ "alerts": alerts })]);
    bench.restart();
    bench.event(2000, json!({ "kind": "beat" }));
    assert_eq!(bench.clock(2250), [json!({ "alerts": alerts, "newest": { "kind": "beat" } })]);
    let mut bench = self::bench("bytes_max = \"1000B\"\nalways = \"a\"\n[[step.part]]\nname = \"a\"\nas = \"list\"");
    let long = |n: u32| json!({ "n": n, "pad": "x".repeat(600) });
    (0..3).for_each(|n| assert!(bench.event(1000, long(n)).is_empty(), "it does not go on early for it"));
    assert_eq!(bench.clock(1250), [json!({ "a": [long(2)] })], "no longer than bytes_max");
}

#[test]
fn with_repeat_a_result_goes_on_every_period_once_something_has_come() {
    let mut bench = bench(&format!("always = \"newest\"\nrepeat = true\n{PARTS}"));
    assert_eq!(bench.due_ms(), None);
    bench.event(1000, json!({ "kind": "beat" }));
    let known = json!({ "newest": { "kind": "beat" } });
    assert_eq!(bench.clock(1250), std::slice::from_ref(&known));
    bench.restart();
    assert_eq!(bench.clock(1499).len(), 0);
    let came = bench.clock_full(1500);
    assert_eq!((came.len(), came[0].timestamp_ms, came[0].value()), (1, 1500, known));
    bench.event(1600, json!({ "kind": "alert" }));
    assert_eq!((bench.due_ms(), bench.clock(1750).len()), (Some(1750), 1), "in step with what goes on anyway");
}

#[test]
fn what_is_urgent_ends_the_period_at_once_and_then_not_too_often() {
    let mut bench = bench(&format!("urgent = \"data.kind == 'other'\"\nalways = \"newest\"\n{PARTS}"));
    bench.event(1000, json!({ "kind": "beat" }));
    let known = json!({ "newest": { "kind": "beat" } });
    assert_eq!(bench.event(1010, json!({ "kind": "other" })), std::slice::from_ref(&known));
    assert_eq!(bench.event(1020, json!({ "kind": "other" })).len(), 0);
    bench.restart();
    assert_eq!(bench.due_ms(), Some(1110));
    assert_eq!(bench.event(1030, json!({ "kind": "other" })).len(), 0);
    assert_eq!((bench.clock(1110), bench.due_ms()), (vec![known], None));
}

#[test]
fn with_pace_early_results_wait_for_their_turn_and_none_is_lost() {
    let settings = "bytes_max = \"1000B\"\npace = \"100ms\"\n[[step.part]]\nname = \"a\"\nas = \"list\"";
    let mut bench = bench(settings);
    let long = |n: u32| json!({ "n": n, "pad": "x".repeat(600) });
    let came: Vec<_> = (0..5).flat_map(|n| bench.event(1000, long(n))).collect();
    assert_eq!(came, [json!({ "a": [long(0)] })], "the first at once");
    assert_eq!(bench.due_ms(), Some(1100));
    bench.restart();
    assert_eq!(bench.clock(1099).len(), 0);
    assert_eq!(bench.clock(1100), [json!({ "a": [long(1)] })]);
    assert_eq!(bench.clock(1200), [json!({ "a": [long(2)] })]);
    assert_eq!(bench.clock(1300), [json!({ "a": [long(3)] })]);
    assert_eq!(bench.clock(1400), [json!({ "a": [long(4)] })], "the last one's period was over at 1250");
    assert_eq!(bench.due_ms(), None);
}
