//! What `join` promises, by example.
use super::*;
use crate::event::RoomName;
use crate::pipelines::field::Extractor;
use crate::pipelines::merge::tests::any_json;
use crate::pipelines::operator::Rejected;
use crate::pipelines::source::Source;
use crate::pipelines::testing::Bench;
use proptest::prelude::*;
use serde_json::json;
use toml::de::DeTable;

/// The operator by itself: a bench has no other room.
struct Rig {
    settings: &'static str,
    join: Box<dyn Operator>,
    extractor: Extractor,
    rejected: Vec<Rejected>,
}

impl Rig {
    fn new(settings: &'static str) -> Self {
        let source = Source::new("test.toml", settings, None);
        let table = DeTable::parse(settings).unwrap();
        let mut section = Section::new(&source, table.get_ref(), 0..0, "join");
        let join = read(&mut section).unwrap();
        section.finish();
        let extractor = source.paths().extractor();
        assert!(source.into_faults().is_empty());
        Self { settings, join, extractor, rejected: Vec::new() }
    }

    fn restart(&mut self) {
        let mut fresh = Self::new(self.settings);
        fresh.join.load(&self.join.save()).unwrap();
        self.join = fresh.join;
    }

    fn run<T>(&mut self, now_ms: u64, work: impl FnOnce(&mut dyn Operator, &mut Context<'_>) -> T) -> T {
        let (mut emitted, mut sent) = (Vec::new(), Vec::new());
        let rejected = &mut self.rejected;
        let mut cx = Context { now_ms, step: 0, emitted: &mut emitted, sent: &mut sent, rejected };
        work(&mut *self.join, &mut cx)
    }

    fn record(&self, key: &str, data: &Value) -> Record {
        let room = RoomName::parse("r").unwrap();
        let record = Record::made(room, "sample", Some(key.into()), 0, 0, Value::Null);
        record.given(data.to_string().into(), &self.extractor)
    }

    /// The other room says something.
    fn beside(&mut self, now_ms: u64, key: &str, data: &Value) {
        let record = self.record(key, data);
        self.run(now_ms, |join, cx| join.event_beside(&record, cx));
    }

    /// The other room's state changes.
    fn change(&mut self, data: &Value) {
        let mut record = self.record("any", data);
        record.change = true;
        self.run(0, |join, cx| join.event_beside(&record, cx));
    }

    fn event(&mut self, key: &str, data: &Value) -> Option<Value> {
        let mut record = self.record(key, data);
        let next = self.run(0, |join, cx| join.event(&mut record, cx));
        (next == Next::Pass).then(|| record.value())
    }

    fn rejected(&mut self) -> Vec<String> {
        self.rejected.drain(..).map(|rejected| format!("{}: {}", rejected.field, rejected.why)).collect()
    }
}

#[test]
fn an_event_is_given_what_the_other_room_last_said_about_its_key() {
    let mut rig =
        Rig::new("with = \"well-info:*\"\nas = \"info\"\nfields = { site = \"plant.site\", \"a.b\" = \"x\" }");
    assert!(rig.join.beside().unwrap().matches(&RoomName::parse("well-info:1").unwrap()));
    assert_eq!(rig.event("w", &json!({ "t": 1 })), Some(json!({ "t": 1 })), "nothing is known yet");
    rig.beside(0, "w", &json!({ "plant": { "site": "old" } }));
    rig.beside(0, "w", &json!({ "plant": { "site": "north" } }));
    let whole = json!({ "t": 1, "site": "north", "info": { "plant": { "site": "north" } } });
    assert_eq!(rig.event("w", &json!({ "t": 1, "info": 5 })), Some(whole), "what is not there is left out");
    assert_eq!(rig.event("other", &json!({})), Some(json!({})));
    rig.beside(0, "w", &Value::Null);
    assert_eq!((rig.event("w", &json!({})), rig.join.keys()), (Some(json!({})), 0));
}

#[test]
fn fields_of_either_side_can_say_what_belongs_together() {
    let mut rig = Rig::new("with = \"r\"\non = [\"a\", \"b\"]\ntable_key = \"id\"\nfields = { v = \"data.v\" }");
    rig.beside(0, "", &json!({ "id": "x/1", "v": 7 }));
    assert_eq!(rig.event("", &json!({ "a": "x", "b": 1 })), Some(json!({ "a": "x", "b": 1, "v": 7 })));
    rig.beside(0, "", &json!({ "v": 7 }));
    assert_eq!(rig.event("", &json!({ "a": "x" })), None);
    assert_eq!(rig.rejected(), ["data.id: is missing", "data.b: is missing"]);
}

#[test]
fn changes_of_a_rooms_state_change_the_keys_that_they_name() {
    let mut rig = Rig::new("with = \"r\"\nas = \"f\"\nkeys_max = 2");
    rig.change(&json!({ "a": { "x": 1, "y": 2 }, "b": 3 }));
    rig.change(&json!({ "a": { "x": null }, "b": null }));
    assert_eq!(rig.event("a", &json!({})), Some(json!({ "f": { "y": 2 } })));
    assert_eq!(rig.event("b", &json!({})), Some(json!({})));
    rig.change(&json!({ "c": 1, "d": 1 }));
    rig.change(&json!([1]));
    let expected = ["key: there are as many keys as keys_max allows", "data: expected an object, found a list"];
    assert_eq!((rig.rejected(), rig.join.keys()), (expected.map(String::from).to_vec(), 2));
}

#[test]
fn an_event_that_nothing_is_known_about_goes_on_or_not_as_is_said() {
    let step = "op = \"join\"\nwith = \"r\"\nas = \"f\"\n";
    let mut bench = Bench::new(step);
    assert_eq!(bench.event(0, json!(1)), [json!(1)]);
    let mut bench = Bench::new(&format!("{step}missing = \"drop\""));
    assert!(bench.event(0, json!({})).is_empty() && bench.rejected().is_empty());
    let mut bench = Bench::new(&format!("{step}missing = \"dead_letter\""));
    assert!(bench.keyed(0, Some("k"), json!({})).is_empty());
    assert_eq!(bench.rejected(), ["with: r has said nothing about \"k\""]);
}

#[test]
fn data_that_cannot_be_given_anything_is_refused_as_it_came() {
    let mut rig = Rig::new("with = \"r\"\nfields = { a = \"a\", \"b.c\" = \"a\" }");
    rig.beside(0, "k", &json!({ "a": 1 }));
    assert_eq!((rig.event("k", &json!([])), rig.event("k", &json!({ "b": 5 }))), (None, None));
    assert_eq!(rig.rejected[1].record.value(), json!({ "b": 5 }));
    assert_eq!(
        rig.rejected(),
        ["data: expected an object, found a list", "data.b: expected an object, found a number"]
    );
    rig.beside(0, "k", &json!({ "other": 1 }));
    assert_eq!(rig.event("k", &json!([])), Some(json!([])), "there is nothing to be given");
}

#[test]
fn what_was_said_is_not_forgotten_unless_that_is_wanted() {
    let mut rig = Rig::new("with = \"r\"\nas = \"f\"");
    rig.beside(0, "k", &json!(1));
    assert_eq!(rig.join.due_ms(), None);
    let mut rig = Rig::new("with = \"r\"\nas = \"f\"\nkeys_idle = \"8s\"");
    rig.beside(0, "k", &json!(1));
    assert_eq!(rig.join.due_ms(), Some(1000));
    rig.run(9000, |join, cx| join.clock(cx));
    assert_eq!(rig.join.keys(), 0);
}

#[test]
fn settings_that_say_nothing_or_contradict_each_other_are_faults() {
    for (settings, fault) in [
        ("as = \"f\"", "with is missing"),
        ("with = \"a b\"\nas = \"f\"", "with: a room's name has"),
        ("with = \"r\"", "fields: nothing would be put into an event"),
        ("with = \"r\"\nas = \"kind\"", "as: kind is the event's own"),
        ("with = \"r\"\nas = \"f\"\nfields = { \"f.x\" = \"x\" }", "data.f.x cannot be put in beside data.f"),
    ] {
        let faults = Bench::try_new(&format!("op = \"join\"\n{settings}")).unwrap_err();
        assert!(faults.contains(fault), "{faults}");
    }
}

proptest! {
    #[test]
    fn the_table_is_what_was_said_last_whenever_the_step_was_restarted(
        steps in proptest::collection::vec((0..3_u8, "[xy]", any_json()), 1..40),
        restart_at in 0..40_usize,
    ) {
        let mut rig = Rig::new("with = \"r\"\nas = \"found\"\nfields = { a = \"a\" }");
        let mut said = json!({});
        for (at, (what, key, data)) in steps.into_iter().enumerate() {
            if at == restart_at {
                rig.restart();
            }
            match what {
                0 if data.is_null() => {
                    rig.beside(0, &key, &data);
                    said.as_object_mut().unwrap().remove(&key);
                }
                0 => {
                    rig.beside(0, &key, &data);
                    said[&key] = data;
                }
                1 => {
                    let patch = json!({ key: data });
                    rig.change(&patch);
                    merge::apply(&mut said, &patch);
                }
                _ => {
                    let mut expected = json!({ "a": "own", "data": data });
                    let out = rig.event(&key, &expected);
                    if let Some(found) = said.get(&key) {
                        if let Some(part) = found.get("a") {
                            expected["a"] = part.clone();
                        }
                        expected["found"] = found.clone();
                    }
                    prop_assert_eq!(out, Some(expected));
                }
            }
        }
    }
}
