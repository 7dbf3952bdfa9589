//! `flatten`: makes one level of nested objects, or, with `each`, one event of each element of a list.
//!
//! Without `each` an object inside is replaced by its fields, whose names are put behind its own with `separator` between. That goes `depth` levels down; what lies deeper stays as it
//! is, and so do empty objects, and lists unless `lists` is set (then their positions are names). Two fields that would get the same name make the event a dead letter: either of them
//! would be lost without a word.
//!
//! With `each` the fields of an element go over those of the data around the list, without the list; an element that is no object becomes a field named by `as`. An empty list makes no
//! event. Room, seq, kind, priority and times of the new events are those of the old one, and so is the key unless `key` makes another; an element without what `key` needs is a dead
//! letter alone. A missing list, something else in its place, more than `max` elements and more than 64 MiB of what would be repeated for each make the event a dead letter.
//!
//! Late data is as good as any.

use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::place::{Place, no_object};
use crate::pipelines::operator::{Context, Next, Operator};
use crate::pipelines::record::{Got, Record};
use crate::pipelines::section::Section;
use crate::pipelines::template::Template;
use crate::pipelines::why::Why;

/// The most that is repeated of an event for the elements of its list, in bytes: its other data as JSON, times the elements.
const REPEATED_BYTES: usize = 64 << 20;

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let each = section.has("each");
    let foreign: &[&'static str] =
        if each { &["separator", "depth", "lists"] } else { &["as", "index_as", "key", "max"] };
    for name in foreign.iter().copied() {
        if section.value(name).is_some() {
            let own = if each { "each" } else { "no each" };
            section.fault(name, format!("means nothing where there is {own}"));
        }
    }
    if !each {
        let separator = section.text_if_given("separator").unwrap_or_else(|| "_".to_owned());
        let depth = usize::try_from(section.count_or("depth", 1..=64, 16)).unwrap_or(usize::MAX);
        return Some(Box::new(Flatten { separator, depth, lists: section.flag("lists", false) }));
    }
    let list = section.text("each");
    let list = if list == "data" { Ok(None) } else { Place::parse(&list).map(Some) };
    let name = field_name(section, "as").unwrap_or_else(|| "value".to_owned());
    let index = field_name(section, "index_as");
    let key = section.template_if_given("key");
    let max = usize::try_from(section.count_or("max", 1..=100_000, 1000)).unwrap_or(usize::MAX);
    match list {
        Ok(list) => Some(Box::new(Each { list, name, index, key, max })),
        Err(why) => {
            section.fault("each", why);
            None
        }
    }
}

/// The name of a field of the data itself, not inside of another.
fn field_name(section: &mut Section<'_, '_>, key: &'static str) -> Option<String> {
    let name = section.text_if_given(key)?;
    if name.is_empty() || name.contains('.') {
        section.fault(key, "expected one name, without dots");
    }
    Some(name)
}

/// Makes one level of nested objects.
#[derive(Debug)]
struct Flatten {
    separator: String,
    depth: usize,
    lists: bool,
}

impl Operator for Flatten {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let fields = match record.value() {
            Value::Object(fields) => fields,
            other => return cx.reject(record, "data", no_object(&other)),
        };
        if !fields.values().any(|value| self.opens(value, 1)) {
            return Next::Pass;
        }
        let mut flat = Map::new();
        if let Err(name) = self.fields(None, fields, 1, &mut flat) {
            return cx.reject(record, "data", Why::Other(format!("two fields become {name}")));
        }
        record.set_value(Value::Object(flat));
        Next::Pass
    }
}

type Fields = Map<String, Value>;

impl Flatten {
    /// Whether a value at a level of nesting, the outermost fields' being 1, is replaced by what is in it.
    fn opens(&self, value: &Value, level: usize) -> bool {
        let filled = match value {
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(items) => self.lists && !items.is_empty(),
            _ => false,
        };
        filled && level <= self.depth
    }

    /// Puts fields into the flat ones; the name that two would have is the error.
    fn fields(&self, above: Option<&str>, fields: Fields, level: usize, flat: &mut Fields) -> Result<(), String> {
        fields.into_iter().try_for_each(|(name, value)| self.field(above, name, value, level, flat))
    }

    fn field(
        &self,
        above: Option<&str>,
        name: String,
        value: Value,
        level: usize,
        flat: &mut Fields,
    ) -> Result<(), String> {
        let name = match above {
            Some(above) => format!("{above}{}{name}", self.separator),
            None => name,
        };
        let opens = self.opens(&value, level);
        match value {
            Value::Object(fields) if opens => self.fields(Some(&name), fields, level + 1, flat),
            Value::Array(items) if opens => {
                let mut items = items.into_iter().enumerate();
                items.try_for_each(|(at, item)| self.field(Some(&name), at.to_string(), item, level + 1, flat))
            }
            value => match flat.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(value);
                    Ok(())
                }
                Entry::Occupied(taken) => Err(taken.key().clone()),
            },
        }
    }
}

/// Makes one event of each element of a list.
#[derive(Debug)]
struct Each {
    /// Where the list is; all of the data if none.
    list: Option<Place>,
    /// What elements that are no objects are called.
    name: String,
    /// What their positions, from 0, are called.
    index: Option<String>,
    key: Option<Template>,
    max: usize,
}

impl Operator for Each {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let (around, items) = match self.split(record.value()) {
            Ok(parts) => parts,
            Err((field, why)) => return cx.reject(record, field, why),
        };
        for (at, item) in items.into_iter().enumerate() {
            let made = record.derived(&record.kind, self.made(around.clone(), at, item));
            self.emit(made, cx);
        }
        Next::Drop
    }
}

impl Each {
    /// The fields around the list, and its elements.
    fn split(&self, mut data: Value) -> Result<(Fields, Vec<Value>), (String, Why)> {
        let (field, found) = match &self.list {
            Some(place) => (place.to_string(), place.take(&mut data)),
            None => ("data".to_owned(), Some(data.take())),
        };
        let items = match found {
            Some(Value::Array(items)) => items,
            Some(other) => {
                return Err((field, Why::Type { expected: "a list", found: Got::of(&other).type_name() }));
            }
            None => return Err((field, Why::Missing)),
        };
        if items.len() > self.max {
            return Err((field, Why::Other(format!("has {} elements, more than max = {}", items.len(), self.max))));
        }
        // A list in an object, or all of the data, of which nothing is left.
        let around = if let Value::Object(fields) = data { fields } else { Map::new() };
        if items.len() > 1 && !around.is_empty() {
            let bytes = serde_json::to_vec(&around).map_or(usize::MAX, |json| json.len());
            if bytes.saturating_mul(items.len()) > REPEATED_BYTES {
                let why = format!("has {} elements, each of which would repeat {bytes} bytes beside it", items.len());
                return Err((field, Why::Other(why)));
            }
        }
        Ok((around, items))
    }

    fn made(&self, mut around: Fields, at: usize, item: Value) -> Value {
        match item {
            Value::Object(fields) => around.extend(fields),
            other => drop(around.insert(self.name.clone(), other)),
        }
        if let Some(index) = &self.index {
            around.insert(index.clone(), Value::from(at));
        }
        Value::Object(around)
    }

    fn emit(&self, mut made: Record, cx: &mut Context<'_>) {
        if let Some(key) = &self.key {
            match key.render(&made) {
                Ok(key) => made.key = Some(key).filter(|key| !key.is_empty()),
                Err(field) => {
                    cx.reject_field(&made, field, "text, a number or a flag");
                    return;
                }
            }
        }
        cx.emit(made);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn bench(settings: &str) -> Bench {
        Bench::new(&format!("op = \"flatten\"\n{settings}"))
    }

    #[test]
    fn nested_objects_become_one_level() {
        let data = json!({ "a": 1, "b": { "c": { "d": 2, "e": {} }, "f": [3, { "g": 4 }, []] } });
        let cases = [
            ("", json!({ "a": 1, "b_c_d": 2, "b_c_e": {}, "b_f": [3, { "g": 4 }, []] })),
            (
                "separator = \"/\"\nlists = true",
                json!({ "a": 1, "b/c/d": 2, "b/c/e": {}, "b/f/0": 3, "b/f/1/g": 4, "b/f/2": [] }),
            ),
            ("depth = 1", json!({ "a": 1, "b_c": { "d": 2, "e": {} }, "b_f": [3, { "g": 4 }, []] })),
        ];
        for (settings, expected) in cases {
            assert_eq!(bench(settings).event(0, data.clone()), [expected], "{settings}");
        }
    }

    #[test]
    fn two_fields_of_one_name_and_what_is_no_object_are_dead_letters() {
        let mut bench = bench("");
        assert!(bench.event(0, json!({ "a_b": 1, "a": { "b": 2 } })).is_empty());
        assert!(bench.event(1, json!([1])).is_empty());
        assert_eq!(bench.rejected(), ["data: two fields become a_b", "data: expected an object, found a list"]);
        assert_eq!(bench.event(2, json!({ "a_b": 1 })), [json!({ "a_b": 1 })]);
    }

    #[test]
    fn each_element_of_a_list_is_an_event_with_the_data_around_it() {
        let mut bench = bench("each = \"disks.list\"\nas = \"disk\"\nindex_as = \"at\"\nkey = \"{host}/{at}\"");
        let data = json!({ "host": "h", "disks": { "list": [{ "free": 1, "host": "own" }, "sda", null] } });
        let made = bench.full(5, 7, Some("old"), data);
        let keys: Vec<_> = made.iter().map(|record| record.key.clone().unwrap()).collect();
        assert_eq!(keys, ["own/0", "h/1", "h/2"]);
        assert!(
            made.iter().all(
                |record| (record.seq, record.timestamp_ms, record.arrived_ms, &*record.kind) == (1, 5, 7, "sample")
            )
        );
        let data: Vec<Value> = made.iter().map(|record| record.value()).collect();
        let expected = [
            json!({ "host": "own", "free": 1, "at": 0 }),
            json!({ "host": "h", "disk": "sda", "at": 1 }),
            json!({ "host": "h", "disk": null, "at": 2 }),
        ];
        assert_eq!(data, expected);
        assert!(
            bench.event(8, json!({ "host": "h", "disks": { "list": [] } })).is_empty() && bench.rejected().is_empty()
        );
    }

    #[test]
    fn data_that_is_a_list_is_taken_apart_and_the_key_stays() {
        let mut bench = bench("each = \"data\"");
        let made = bench.full(0, 0, Some("k"), json!([1, { "x": 2 }]));
        assert!(made.iter().all(|record| record.key.as_deref() == Some("k")));
        assert_eq!(
            made.iter().map(|record| record.value()).collect::<Vec<_>>(),
            [json!({ "value": 1 }), json!({ "x": 2 })]
        );
    }

    #[test]
    fn a_list_that_is_none_or_too_long_is_a_dead_letter_and_so_is_an_element_without_its_key() {
        let mut bench = bench("each = \"l\"\nkey = \"{id}\"\nmax = 2");
        for data in [json!({}), json!({ "l": 1 }), json!(5), json!({ "l": [1, 2, 3] })] {
            assert!(bench.event(0, data).is_empty());
        }
        assert_eq!(bench.event(1, json!({ "l": [{ "id": 1 }, { "id": [] }] })), [json!({ "id": 1 })]);
        let expected = [
            "data.l: is missing",
            "data.l: expected a list, found a number",
            "data.l: is missing",
            "data.l: has 3 elements, more than max = 2",
            "data.id: expected text, a number or a flag, found a list",
        ];
        assert_eq!(bench.rejected(), expected);
    }

    #[test]
    fn a_large_event_is_not_repeated_without_bounds() {
        let mut bench = bench("each = \"l\"");
        let list: Vec<u32> = (0..1000).collect();
        assert!(bench.event(0, json!({ "l": list, "text": "x".repeat(100_000) })).is_empty());
        let expected = "data.l: has 1000 elements, each of which would repeat 100011 bytes beside it";
        assert_eq!(bench.rejected(), [expected]);
        assert_eq!(bench.event(1, json!({ "l": list })).len(), 1000);
    }

    #[test]
    fn settings_of_the_other_way_are_faults() {
        let cases = [
            ("each = \"l\"\ndepth = 2", "depth: means nothing where there is each"),
            ("max = 2", "max: means nothing where there is no each"),
            ("each = \"kind\"", "each: kind is the event's own"),
            ("each = \"l\"\nas = \"a.b\"", "as: expected one name"),
        ];
        for (settings, expected) in cases {
            let faults = Bench::try_new(&format!("op = \"flatten\"\n{settings}")).unwrap_err();
            assert!(faults.contains(expected) && faults.lines().count() == 1, "{settings}: {faults}");
        }
    }

    fn nested() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<i32>().prop_map(Value::from), Just(json!({})), Just(json!([]))];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[ab_]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// All that is in a value and is not opened, by its names joined.
    fn leaves(names: &[String], value: &Value, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                fields
                    .iter()
                    .for_each(|(name, value)| leaves(&[names, std::slice::from_ref(name)].concat(), value, out));
            }
            Value::Array(items) if !items.is_empty() => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(at, value)| leaves(&[names, &[at.to_string()]].concat(), value, out));
            }
            leaf => out.push((names.join("_"), leaf.clone())),
        }
    }

    proptest! {
        #[test]
        fn every_leaf_is_found_under_its_names_or_the_event_is_refused(fields in proptest::collection::btree_map("[ab_]{1,2}", nested(), 1..4)) {
            let mut bench = bench("lists = true\ndepth = 64");
            let data = Value::Object(fields.into_iter().collect());
            let made = bench.event(0, data.clone());
            let mut all = Vec::new();
            leaves(&[], &data, &mut all);
            let unique: BTreeMap<String, Value> = all.iter().cloned().collect();
            if unique.len() == all.len() {
                prop_assert_eq!(made, [Value::Object(unique.into_iter().collect())]);
            } else {
                prop_assert!(made.is_empty());
                prop_assert_eq!(bench.rejected().len(), 1);
            }
        }
    }
}
