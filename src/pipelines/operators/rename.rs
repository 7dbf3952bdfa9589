//! `rename`: gives fields of the data other names, all at once, so that two can change places.
//!
//! Fields are first all taken out and then put in under their new names. An object in which nothing is left goes too, and one that a new name wants and that is not there is made. A
//! field that is not there is passed over, or makes the event a dead letter with `missing = "dead_letter"`. A new name that is there already makes the event a dead letter, unless
//! `overwrite` is set. So do data that is no object and a new name inside of what is none; the dead letter is the event as it came. Late data is as good as any.

use serde_json::Value;
use toml::de::DeValue;

use super::place::{Place, no_object};
use crate::pipelines::operator::{Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

#[derive(Debug)]
struct Rename {
    /// Old and new.
    fields: Vec<(Place, Place)>,
    must_be_there: bool,
    overwrite: bool,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let named = section.named_texts("fields");
    let must_be_there = section.choice("missing", &["skip", "dead_letter"], Some("skip")) == "dead_letter";
    let overwrite = section.flag("overwrite", false);
    if named.is_empty() {
        // What is something else than a table of texts was noted already.
        let empty = |value: &DeValue<'_>| value.as_table().is_some_and(|table| table.is_empty());
        if section.value("fields").is_none_or(|value| empty(value.get_ref())) {
            section.fault("fields", "expected old and new names, such as { usage = \"cpu.usage\" }");
        }
        return None;
    }
    let mut fields: Vec<(Place, Place)> = Vec::new();
    for (old, new) in named {
        let (old, new) = match (Place::parse(&old), Place::parse(&new)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(why), _) | (_, Err(why)) => {
                section.fault("fields", why);
                continue;
            }
        };
        for (other_old, other_new) in &fields {
            if other_old.overlaps(&old) {
                section.fault("fields", format!("{old} cannot be renamed beside {other_old}"));
            }
            if other_new.overlaps(&new) {
                section.fault("fields", format!("there cannot be {new} beside {other_new}"));
            }
        }
        fields.push((old, new));
    }
    Some(Box::new(Rename { fields, must_be_there, overwrite }))
}

impl Operator for Rename {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        match self.renamed(record.value()) {
            Ok(Some(data)) => record.set_value(data),
            Ok(None) => {}
            Err((field, why)) => return cx.reject(record, field, why),
        }
        Next::Pass
    }
}

impl Rename {
    /// The data with its new names; none if there was nothing to rename.
    fn renamed(&self, mut data: Value) -> Result<Option<Value>, (String, Why)> {
        if !data.is_object() {
            return Err(("data".to_owned(), no_object(&data)));
        }
        let mut taken = Vec::with_capacity(self.fields.len());
        for (old, new) in &self.fields {
            match old.take(&mut data) {
                Some(value) => taken.push((new, value)),
                None if self.must_be_there => return Err((old.to_string(), Why::Missing)),
                None => {}
            }
        }
        if taken.is_empty() {
            return Ok(None);
        }
        for (new, value) in taken {
            if new.put(&mut data, value)?.is_some() && !self.overwrite {
                return Err((new.to_string(), Why::Other("is there already".to_owned())));
            }
        }
        Ok(Some(data))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn renamed(settings: &str, data: Value) -> Result<Value, String> {
        let mut bench = Bench::new(&format!("op = \"rename\"\n{settings}"));
        bench.event(0, data).pop().ok_or_else(|| bench.rejected().join("; "))
    }

    #[test]
    fn fields_get_their_new_names_all_at_once() {
        let data = json!({ "a": 1, "b": { "c": 2, "d": null } });
        let cases = [
            ("fields = { a = \"x\" }", json!({ "x": 1, "b": { "c": 2, "d": null } })),
            ("fields = { a = \"b.c\", \"b.c\" = \"a\" }", json!({ "a": 2, "b": { "c": 1, "d": null } })),
            ("fields = { \"b.c\" = \"p.q\", \"data.b.d\" = \"p.r\" }", json!({ "a": 1, "p": { "q": 2, "r": null } })),
            ("fields = { b = \"b.old\" }", json!({ "a": 1, "b": { "old": { "c": 2, "d": null } } })),
            ("fields = { z = \"y\", a = \"a\" }", data.clone()),
            ("fields = { a = \"b.c\" }\noverwrite = true", json!({ "b": { "c": 1, "d": null } })),
        ];
        for (settings, expected) in cases {
            assert_eq!(renamed(settings, data.clone()), Ok(expected), "{settings}");
        }
    }

    #[test]
    fn what_would_be_lost_or_is_not_there_makes_a_dead_letter() {
        let cases = [
            ("fields = { a = \"b\" }", json!({ "a": 1, "b": null }), "data.b: is there already"),
            ("fields = { a = \"b.c\" }", json!({ "a": 1, "b": 2 }), "data.b: expected an object, found a number"),
            ("fields = { a = \"b\" }\nmissing = \"dead_letter\"", json!({ "c": 1 }), "data.a: is missing"),
            ("fields = { a = \"b\" }", json!([1]), "data: expected an object, found a list"),
        ];
        for (settings, data, expected) in cases {
            assert_eq!(renamed(settings, data), Err(expected.to_owned()), "{settings}");
        }
    }

    #[test]
    fn names_that_cannot_be_told_apart_are_faults() {
        let cases = [
            ("", "expected old and new names"),
            ("fields = {}", "expected old and new names"),
            ("fields = 5", "expected a table of texts"),
            ("fields = { a = \"x\", b = \"x.y\" }", "there cannot be data.x.y beside data.x"),
            ("fields = { a = \"x\", \"a.b\" = \"y\" }", "data.a.b cannot be renamed beside data.a"),
            ("fields = { key = \"x\" }", "key is the event's own"),
        ];
        for (settings, expected) in cases {
            let faults = Bench::try_new(&format!("op = \"rename\"\n{settings}")).unwrap_err();
            assert!(faults.contains(expected) && faults.lines().count() == 1, "{settings}: {faults}");
        }
    }

    const NAMES: [&str; 6] = ["a", "b.c", "b.d", "e", "f.g.h", "i"];

    fn data_of(values: &BTreeMap<&str, usize>) -> Value {
        let mut data = json!({});
        for (name, value) in values {
            *name.split('.').fold(&mut data, |inside, name| &mut inside[name]) = json!(value);
        }
        data
    }

    proptest! {
        #[test]
        fn any_change_of_places_moves_every_value_to_its_new_name(order in Just((0..NAMES.len()).collect::<Vec<_>>()).prop_shuffle()) {
            let fields: BTreeMap<&str, &str> = NAMES.iter().copied().zip(order.iter().map(|to| NAMES[*to])).collect();
            let before = NAMES.iter().copied().zip(0..).collect();
            let after = order.iter().map(|to| NAMES[*to]).zip(0..).collect();
            let fields: Vec<String> = fields.iter().map(|(old, new)| format!("\"{old}\" = \"{new}\"")).collect();
            let settings = format!("fields = {{ {} }}\nmissing = \"dead_letter\"", fields.join(", "));
            prop_assert_eq!(renamed(&settings, data_of(&before)), Ok(data_of(&after)));
        }
    }
}
