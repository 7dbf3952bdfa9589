//! `map`: makes other data of an event's data, and gives it another kind, key, priority or time.
//!
//! First `keep` and `remove` decide which of the old fields stay, then `set` puts in what its expressions say; or `value` takes the place of all of the data. Every expression and
//! template sees the event as it came to the step, not what the others make of it. Expressions that come to `null` set `null`.
//!
//! Data that is no object, where fields of it are to be changed, a field that an expression, a template or `timestamp` needs and that is missing or of another kind, and a name to be
//! set inside of what is no object make the event a dead letter, as it came. Fields to be kept or removed that are not there are no fault. Late data is as good as any.

use serde_json::Value;
use smol_str::SmolStr;

use super::place::{Place, no_object};
use crate::clock::parse_rfc3339;
use crate::event::Lane;
use crate::pipelines::expression::{Expression, Failure};
use crate::pipelines::field::Field;
use crate::pipelines::operator::{Context, Next, Operator};
use crate::pipelines::record::{Got, Record, number_text};
use crate::pipelines::section::Section;
use crate::pipelines::template::Template;
use crate::pipelines::why::Why;

/// The last time that can be written as RFC 3339 wherever on earth it is read, in milliseconds since 1970.
const TIME_MAX_MS: u64 = 253_402_207_200_999;
const SETTINGS: [&str; 8] = ["set", "keep", "remove", "value", "kind", "key", "priority", "timestamp"];

/// What an event cannot be worked on for: a field, and why.
type Wrong = (String, Why);

#[derive(Debug)]
struct Map {
    change: Change,
    kind: Option<Template>,
    key: Option<Template>,
    priority: Option<Lane>,
    timestamp: Option<Field>,
}

/// What becomes of the data.
#[derive(Debug)]
enum Change {
    Nothing,
    Whole(Expression),
    Fields { keep: Option<Vec<Place>>, remove: Vec<Place>, set: Vec<(Place, Expression)> },
}

/// What becomes of an event, worked out before anything of it is changed.
struct New {
    data: Option<Value>,
    kind: Option<SmolStr>,
    key: Option<SmolStr>,
    timestamp_ms: Option<u64>,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    if !SETTINGS.iter().any(|name| section.has(name)) {
        section.fault("set", format!("nothing would be changed; expected at least one of {}", SETTINGS.join(", ")));
    }
    let change = change(section);
    let (kind, key) = (section.template_if_given("kind"), section.template_if_given("key"));
    let (priority, timestamp) = (section.priority_if_given("priority"), section.field_if_given("timestamp"));
    Some(Box::new(Map { change: change?, kind, key, priority, timestamp }))
}

fn change(section: &mut Section<'_, '_>) -> Option<Change> {
    let value = section.expression_if_given("value");
    let keep = section.has("keep").then(|| Place::list(section, "keep"));
    let remove = Place::list(section, "remove");
    let mut set: Vec<(Place, Expression)> = Vec::new();
    for (name, expression) in section.expressions("set") {
        match Place::parse(&name) {
            Ok(place) => match set.iter().find(|(other, _)| other.overlaps(&place)) {
                Some((other, _)) => section.fault("set", format!("{place} cannot be set beside {other}")),
                None => set.push((place, expression)),
            },
            Err(why) => section.fault("set", why),
        }
    }
    match ["set", "keep", "remove"].into_iter().find(|name| section.has(name)) {
        Some(name) if section.has("value") => {
            section.fault(name, "not beside value, which takes the place of all of the data");
            None
        }
        Some(_) => Some(Change::Fields { keep, remove, set }),
        None if section.has("value") => value.map(Change::Whole),
        None => Some(Change::Nothing),
    }
}

impl Operator for Map {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let new = match self.new_of(record) {
            Ok(new) => new,
            Err((field, why)) => return cx.reject(record, field, why),
        };
        if let Some(data) = new.data {
            record.set_value(data);
        }
        if let Some(kind) = new.kind {
            record.kind = kind;
        }
        if let Some(key) = new.key {
            record.key = Some(key).filter(|key| !key.is_empty());
        }
        record.priority = self.priority.unwrap_or(record.priority);
        record.timestamp_ms = new.timestamp_ms.unwrap_or(record.timestamp_ms);
        Next::Pass
    }
}

impl Map {
    fn new_of(&self, record: &Record) -> Result<New, Wrong> {
        let data = match &self.change {
            Change::Nothing => None,
            Change::Whole(expression) => Some(expression.value(record).map_err(failed)?),
            Change::Fields { keep, remove, set } => Some(fields(record, keep.as_deref(), remove, set)?),
        };
        let kind = self.kind.as_ref().map(|kind| render(kind, record)).transpose()?;
        if kind.as_ref().is_some_and(SmolStr::is_empty) {
            return Err(("kind".to_owned(), Why::Other("would be empty".to_owned())));
        }
        let key = self.key.as_ref().map(|key| render(key, record)).transpose()?;
        let timestamp_ms = self.timestamp.as_ref().map(|field| time(record, field)).transpose()?;
        Ok(New { data, kind, key, timestamp_ms })
    }
}

fn fields(
    record: &Record,
    keep: Option<&[Place]>,
    remove: &[Place],
    set: &[(Place, Expression)],
) -> Result<Value, Wrong> {
    let values = set.iter().map(|(_, expression)| expression.value(record).map_err(failed));
    let values = values.collect::<Result<Vec<Value>, Wrong>>()?;
    let mut data = record.value();
    if !data.is_object() {
        return Err(("data".to_owned(), no_object(&data)));
    }
    if let Some(places) = keep {
        let mut kept = Value::Object(serde_json::Map::new());
        for place in places {
            if let Some(value) = place.get(&data) {
                place.put(&mut kept, value.clone())?;
            }
        }
        data = kept;
    }
    for place in remove {
        place.take(&mut data);
    }
    for ((place, _), value) in set.iter().zip(values) {
        place.put(&mut data, value)?;
    }
    Ok(data)
}

fn failed(failure: Failure) -> Wrong {
    (failure.field, failure.why)
}

fn wrong(record: &Record, field: &Field, expected: &'static str) -> Wrong {
    let why = match record.get(field) {
        Got::Missing => Why::Missing,
        got => Why::Type { expected, found: got.type_name() },
    };
    (field.to_string(), why)
}

fn render(template: &Template, record: &Record) -> Result<SmolStr, Wrong> {
    template.render(record).map_err(|field| wrong(record, field, "text, a number or a flag"))
}

/// When an event happened, by a field of it: milliseconds since 1970.
fn time(record: &Record, field: &Field) -> Result<u64, Wrong> {
    let other = |why: String| (field.to_string(), Why::Other(why));
    match record.get(field) {
        Got::Number(number) => {
            let ms = whole_ms(number).filter(|ms| *ms <= TIME_MAX_MS);
            ms.ok_or_else(|| other(format!("{} is no time in milliseconds since 1970", number_text(number))))
        }
        Got::Text(text) => {
            let ms = parse_rfc3339(text).filter(|ms| *ms <= TIME_MAX_MS);
            let shown = || text.chars().take(60).collect::<String>();
            ms.ok_or_else(|| other(format!("{:?} is no time such as 2026-11-20T06:10:00.000Z", shown())))
        }
        _ => Err(wrong(record, field, "milliseconds since 1970 or RFC 3339 text")),
    }
}

/// Parts of a millisecond are left out.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is not negative, and a cast does not wrap"
)]
fn whole_ms(number: f64) -> Option<u64> {
    (number >= 0.0).then_some(number as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::event::Lane;
    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn bench(settings: &str) -> Bench {
        Bench::new(&format!("op = \"map\"\n{settings}"))
    }

    /// What a step makes of data, or why it does not.
    fn made(settings: &str, data: Value) -> Result<Value, String> {
        let mut bench = bench(settings);
        bench.event(0, data).pop().ok_or_else(|| bench.rejected().join("; "))
    }

    #[test]
    fn what_stays_is_said_first_and_then_what_is_put_in() {
        let data = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [4], "n": null });
        let cases = [
            (
                "set = { x = \"'new'\", \"b.c\" = \"data.e\" }",
                json!({ "a": 1, "b": { "c": [4], "d": 3 }, "e": [4], "n": null, "x": "new" }),
            ),
            (
                "set = { \"q.r\" = \"null\", \"n.m\" = \"true\" }",
                json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [4], "n": { "m": true }, "q": { "r": null } }),
            ),
            ("keep = [\"b.d\", \"e\", \"missing\"]", json!({ "b": { "d": 3 }, "e": [4] })),
            ("keep = [\"b\", \"a\"]\nremove = \"b.c\"", json!({ "a": 1, "b": { "d": 3 } })),
            ("keep = []\nset = { all = \"data.b\" }", json!({ "all": { "c": 2, "d": 3 } })),
            ("remove = [\"b.c\", \"b.d\", \"data.e\", \"z.z\"]", json!({ "a": 1, "n": null })),
            ("value = \"data.b\"", json!({ "c": 2, "d": 3 })),
        ];
        for (settings, expected) in cases {
            assert_eq!(made(settings, data.clone()), Ok(expected), "{settings}");
        }
    }

    #[test]
    fn expressions_see_the_event_as_it_came_and_not_each_other() {
        let swapped = made("remove = [\"a\"]\nset = { a = \"data.b\", b = \"data.a\" }", json!({ "a": "x", "b": "y" }));
        assert_eq!(swapped, Ok(json!({ "a": "y", "b": "x" })));
        let mut bench = bench("set = { id = \"'new'\" }\nkind = \"{id}.seen\"\nkey = \"{id}\"");
        let record = bench.full(0, 0, None, json!({ "id": "old" })).pop().unwrap();
        assert_eq!((record.kind.as_str(), record.key.as_deref()), ("old.seen", Some("old")));
    }

    #[test]
    fn what_cannot_be_worked_on_is_a_dead_letter_as_it_came() {
        let cases = [
            ("set = { a = \"1\" }", json!(7), "data: expected an object, found a number"),
            ("keep = \"a\"", json!([1]), "data: expected an object, found a list"),
            ("set = { a = \"data.b\" }", json!({}), "data.b: is missing"),
            (
                "remove = \"b\"\nset = { \"a.x.y\" = \"1\" }",
                json!({ "a": { "x": 5 }, "b": 1 }),
                "data.a.x: expected an object, found a number",
            ),
            ("kind = \"{b}\"", json!({ "b": [] }), "data.b: expected text, a number or a flag, found a list"),
            ("kind = \"{b}\"", json!({ "b": "" }), "kind: would be empty"),
            ("timestamp = \"at\"", json!({}), "data.at: is missing"),
            (
                "timestamp = \"at\"",
                json!({ "at": true }),
                "data.at: expected milliseconds since 1970 or RFC 3339 text, found a flag",
            ),
            ("timestamp = \"at\"", json!({ "at": -1 }), "data.at: -1 is no time in milliseconds since 1970"),
            (
                "timestamp = \"at\"",
                json!({ "at": "noon" }),
                "data.at: \"noon\" is no time such as 2026-11-20T06:10:00.000Z",
            ),
        ];
        for (settings, data, expected) in cases {
            assert_eq!(made(settings, data), Err(expected.to_owned()), "{settings}");
        }
    }

    #[test]
    fn kind_key_priority_and_time_are_given_without_touching_data_of_any_kind() {
        let mut bench = bench("kind = \"cpu\"\nkey = \"{key}\"\npriority = \"high\"");
        let record = bench.full(5, 5, Some("k"), json!(7)).pop().unwrap();
        assert_eq!((record.kind.as_str(), record.key.as_deref(), record.priority), ("cpu", Some("k"), Lane::High));
        assert_eq!((record.value(), record.timestamp_ms), (json!(7), 5));
        assert!(bench.full(6, 6, None, json!(7)).is_empty());
        assert_eq!(bench.rejected(), ["key: is missing"]);
    }

    #[test]
    fn the_empty_key_is_none_and_the_time_is_read_from_numbers_and_text() {
        let mut bench = bench("key = \"\"\ntimestamp = \"at\"");
        for (at, expected) in [(json!(1500.9), 1500), (json!("1970-01-01T00:00:02Z"), 2000), (json!(0), 0)] {
            let record = bench.full(9000, 9000, Some("k"), json!({ "at": at })).pop().unwrap();
            assert_eq!((record.key, record.timestamp_ms, record.arrived_ms), (None, expected, 9000));
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_faults() {
        let cases = [
            ("", "nothing would be changed"),
            ("value = \"1\"\nkeep = \"a\"", "not beside value"),
            ("set = { a = \"1\", \"a.b\" = \"2\" }", "data.a.b cannot be set beside data.a"),
            ("remove = \"kind\"", "kind is the event's own"),
            ("value = \"1\"\nkind = \"{a\"", "brace"),
        ];
        for (settings, expected) in cases {
            let faults = Bench::try_new(&format!("op = \"map\"\n{settings}")).unwrap_err();
            assert!(faults.contains(expected), "{settings}: {faults}");
            assert_eq!(faults.lines().count(), 1, "{faults}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_and_what_is_removed_make_up_the_whole(
            data in proptest::collection::btree_map("[a-f]", any::<i32>(), 0..6),
            names in proptest::collection::btree_set("[a-f]", 1..6),
        ) {
            let data: Value = data.into_iter().map(|(name, number)| (name, json!(number))).collect();
            let list = json!(names).to_string();
            let Ok(Value::Object(mut kept)) = made(&format!("keep = {list}"), data.clone()) else { unreachable!() };
            let Ok(Value::Object(mut left)) = made(&format!("remove = {list}"), data.clone()) else { unreachable!() };
            prop_assert!(kept.keys().all(|name| names.contains(name)) && !left.keys().any(|name| names.contains(name)));
            kept.append(&mut left);
            prop_assert_eq!(Value::Object(kept), data);
        }
    }
}
