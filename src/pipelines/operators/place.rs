//! A place in an event's data that a step puts something in or takes something from: names of objects from the outside in. Positions of lists are no places.

use serde_json::{Map, Value};
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::pipelines::field::{Field, Paths};
use crate::pipelines::record::Got;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// A place in an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(SmallVec<[SmolStr; 2]>);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&dotted(&self.0))
    }
}

fn dotted(names: &[SmolStr]) -> String {
    names.iter().fold("data".to_owned(), |dotted, name| dotted + "." + name.as_str())
}

impl Place {
    /// Reads a place's name: `disk.free`, with or without `data.` before it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        // The rules are those of all fields. It is not read ahead, so the slot that it is given here is nobody's.
        match Paths::default().field(text)? {
            Field::Data(path) if path.names.is_empty() => Err("expected a part of the data, not all of it".to_owned()),
            Field::Data(path) => Ok(Self(path.names)),
            own => Err(format!("{own} is the event's own; a field of that name in its data is data.{own}")),
        }
    }

    /// The places that a setting names; what is none is a fault.
    pub(super) fn list(section: &mut Section<'_, '_>, key: &'static str) -> Vec<Self> {
        let texts = section.texts(key);
        let places = texts.iter().map(|text| Self::parse(text).map_err(|why| section.fault(key, why)));
        places.filter_map(Result::ok).collect()
    }

    /// Whether one of two lies in the other, or both are the same.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one == other)
    }

    /// What is there.
    pub(super) fn get<'v>(&self, data: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(data, |value, name| value.as_object()?.get(name.as_str()))
    }

    /// Takes out what is there. An object in which nothing is left by that goes too.
    pub(super) fn take(&self, data: &mut Value) -> Option<Value> {
        take(data, &self.0)
    }

    /// Puts a value there, in objects that are made if there are none; what was there before.
    ///
    /// # Errors
    /// What is on the way and is no object: its name, and what it is.
    pub(super) fn put(&self, data: &mut Value, value: Value) -> Result<Option<Value>, (String, Why)> {
        let Some((last, way)) = self.0.split_last() else { return Ok(Some(std::mem::replace(data, value))) };
        let mut at = data;
        for (depth, name) in way.iter().enumerate() {
            let fields = match at {
                Value::Object(fields) => fields,
                other => return Err((dotted(&way[..depth]), no_object(other))),
            };
            at = fields.entry(name.as_str()).or_insert(Value::Null);
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
        }
        match at {
            Value::Object(fields) => Ok(fields.insert(last.to_string(), value)),
            other => Err((dotted(way), no_object(other))),
        }
    }
}

/// Why a value cannot be worked on where an object is wanted.
pub(super) fn no_object(found: &Value) -> Why {
    Why::Type { expected: "an object", found: Got::of(found).type_name() }
}

fn take(data: &mut Value, names: &[SmolStr]) -> Option<Value> {
    let (name, inside) = names.split_first()?;
    let fields = data.as_object_mut()?;
    if inside.is_empty() {
        return fields.remove(name.as_str());
    }
    let object = fields.get_mut(name.as_str())?;
    let taken = take(object, inside)?;
    if object.as_object().is_some_and(Map::is_empty) {
        fields.remove(name.as_str());
    }
    Some(taken)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    #[test]
    fn what_is_put_is_found_and_what_is_taken_leaves_nothing_empty_behind() {
        let mut data = json!({ "a": 1, "n": null });
        assert_eq!(place("b.c.d").put(&mut data, json!(2)), Ok(None));
        assert_eq!(place("data.n.x").put(&mut data, json!(3)), Ok(None), "null gives way to an object");
        assert_eq!(data, json!({ "a": 1, "b": { "c": { "d": 2 } }, "n": { "x": 3 } }));
        assert_eq!(place("b.c").get(&data), Some(&json!({ "d": 2 })));
        assert_eq!(place("b.c.d").put(&mut data, json!(4)), Ok(Some(json!(2))));
        assert_eq!((place("b.c.d").take(&mut data), place("b.c.x").take(&mut data)), (Some(json!(4)), None));
        assert_eq!(data, json!({ "a": 1, "n": { "x": 3 } }));
    }

    #[test]
    fn what_is_no_object_is_not_gone_into() {
        let mut data = json!({ "a": { "b": 5 }, "l": [1] });
        let why = |found| Why::Type { expected: "an object", found };
        assert_eq!(place("a.b.c").put(&mut data, json!(1)), Err(("data.a.b".to_owned(), why("a number"))));
        assert_eq!(place("l.0").put(&mut data, json!(1)), Err(("data.l".to_owned(), why("a list"))));
        assert_eq!(place("l.0").get(&data), None);
        assert_eq!(place("a.b.c").take(&mut data), None);
        assert_eq!(place("a").put(&mut json!(7), json!(1)), Err(("data".to_owned(), why("a number"))));
    }

    #[test]
    fn the_events_own_and_the_whole_of_its_data_are_no_places_in_it() {
        for wrong in ["kind", "key", "data", "a..b", ""] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(place("data.kind").to_string(), "data.kind");
        assert!(place("a.b").overlaps(&place("a")) && !place("a.b").overlaps(&place("a.c")));
    }
}
