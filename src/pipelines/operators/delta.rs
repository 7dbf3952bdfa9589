//! `delta`: of events about the same thing only what has changed since the last one goes on, as a JSON merge patch (RFC 7396).
//!
//! An event goes on with `{"full": …}`, all of its data, where it is the first of its key, and again as one of every `full_every`; any other with `{"patch": …}`, which applied to
//! what was known before it gives what is known now. Its key is then the group's, since a patch does not say again what it is about. As a patch cannot say `null`, members of objects
//! that are `null` count as not there, and are left out of `full` too. Where nothing has changed the event goes no further, and counts for nothing.
//!
//! Data that is no object and events without the field that tells them apart are dead letters, and change nothing of what is known. Events are taken in the order in which they come:
//! a late one is a change like any other.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::place::no_object;
use crate::pipelines::by::By;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::merge::{diff, without_nulls};
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

#[derive(Debug)]
struct Delta {
    by: By,
    /// One of so many is whole; 0 for only the first.
    full_every: u64,
    kind: Option<SmolStr>,
    keys: Keyed<Last>,
}

/// What is known of a key.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Last {
    /// Its data as JSON; empty before its first event.
    json: String,
    /// How many patches there were since it went whole.
    patches: u64,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let by = section.by("by");
    let full_every = section.count_or("full_every", 0..=u64::MAX, 0);
    let kind = section.text_if_given("as_kind").map(SmolStr::from);
    let (keys_max, keys_idle) = section.key_limits();
    Some(Box::new(Delta { by, full_every, kind, keys: Keyed::new(keys_max, keys_idle) }))
}

impl Operator for Delta {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let value = record.value();
        if !value.is_object() {
            return cx.reject(record, "data", no_object(&value));
        }
        let Some(last) = self.keys.entry(&key, cx.now_ms, Last::default) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        let value = without_nulls(value);
        let json = value.to_string();
        if last.json == json {
            return Next::Drop;
        }
        let whole = last.json.is_empty() || (self.full_every > 0 && last.patches + 1 >= self.full_every);
        let (name, data) = if whole {
            ("full", value)
        } else {
            let before = crate::pipelines::json::parse(last.json.as_bytes());
            let Some(patch) = diff(&before, &value) else { return Next::Drop };
            ("patch", patch)
        };
        *last = Last { json, patches: if whole { 0 } else { last.patches + 1 } };
        record.set_value(Value::Object(Map::from_iter([(name.to_owned(), data)])));
        record.key = (!key.is_empty()).then_some(key);
        if let Some(kind) = &self.kind {
            record.kind = kind.clone();
        }
        Next::Pass
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.keys.expire(cx.now_ms, |_| true);
    }

    fn due_ms(&self) -> Option<u64> {
        self.keys.due_ms()
    }

    fn keys(&self) -> usize {
        self.keys.len()
    }

    fn save(&self) -> Vec<u8> {
        self.keys.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.keys.load(state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use crate::pipelines::merge::tests::any_object;
    use crate::pipelines::merge::{apply, without_nulls};
    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn the_first_of_a_key_goes_whole_and_after_it_only_what_changes() {
        let mut bench = Bench::new("op = \"delta\"");
        let mut send = |key, data| bench.keyed(0, Some(key), data);
        assert_eq!(send("a", json!({"t": 1, "p": 2, "n": null})), [json!({"full": {"t": 1, "p": 2}})]);
        assert_eq!(send("b", json!({"t": 1})), [json!({"full": {"t": 1}})]);
        assert_eq!(send("a", json!({"t": 3, "p": 2})), [json!({"patch": {"t": 3}})]);
        assert!(send("a", json!({"p": 2, "t": 3})).is_empty(), "nothing has changed");
        assert_eq!(send("a", json!({"t": 3, "p": null, "q": []})), [json!({"patch": {"p": null, "q": []}})]);
    }

    #[test]
    fn one_of_so_many_is_whole_and_what_goes_no_further_does_not_count() {
        let mut bench = Bench::new("op = \"delta\"\nfull_every = 3");
        let mut said = Vec::new();
        for n in [1, 2, 2, 3, 4, 5, 6, 7] {
            for out in bench.event(0, json!({ "n": n })) {
                said.push(out.as_object().unwrap().keys().next().unwrap().clone());
            }
        }
        assert_eq!(said, ["full", "patch", "patch", "full", "patch", "patch", "full"]);
    }

    #[test]
    fn a_delta_says_by_its_key_what_it_is_about() {
        let mut bench = Bench::new("op = \"delta\"\nby = \"well\"\nas_kind = \"delta\"");
        let out = bench.full(0, 0, Some("own"), json!({"well": 7, "t": 1})).remove(0);
        assert_eq!((out.key.as_deref(), &out.kind[..]), (Some("7"), "delta"));
        let mut bench = Bench::new("op = \"delta\"");
        let out = bench.full(0, 0, None, json!({"t": 1})).remove(0);
        assert_eq!((out.key, &out.kind[..]), (None, "sample"));
    }

    #[test]
    fn what_cannot_be_compared_is_refused_and_what_was_known_stays() {
        let mut bench = Bench::new("op = \"delta\"\nby = \"k\"\nkeys_max = 1\nkeys_idle = \"8s\"");
        assert_eq!(bench.event(0, json!({"k": 1, "x": 1})).len(), 1);
        for wrong in [json!({"x": 1}), json!({"k": [], "x": 1}), json!({"k": 2})] {
            assert!(bench.event(1, wrong).is_empty());
        }
        let expected = [
            "data.k: is missing",
            "data.k: expected text, a number or a flag, found a list",
            "key: there are as many keys as keys_max allows",
        ];
        assert_eq!(bench.rejected(), expected);
        assert_eq!(bench.event(2, json!({"k": 1, "x": 2})), [json!({"patch": {"x": 2}})]);
        assert!(bench.clock(20_000).is_empty() && bench.keys() == 0, "a key that is idle is forgotten");
        assert_eq!(bench.event(20_000, json!({"k": 2})), [json!({"full": {"k": 2}})]);
        let mut bench = Bench::new("op = \"delta\"");
        assert!(bench.event(0, json!([1])).is_empty());
        assert_eq!(bench.rejected(), ["data: expected an object, found a list"]);
    }

    proptest! {
        #[test]
        fn whoever_applies_them_all_has_the_data_as_it_is_whenever_the_step_was_restarted(
            events in proptest::collection::vec(("[ab]", any_object()), 1..30),
            full_every in 0..4_u64,
            restart_at in 0..30_usize,
        ) {
            let mut bench = Bench::new(&format!("op = \"delta\"\nfull_every = {full_every}"));
            let mut again = Bench::new(&format!("op = \"delta\"\nfull_every = {full_every}"));
            let mut known: BTreeMap<String, Value> = BTreeMap::new();
            for (at, (key, data)) in events.into_iter().enumerate() {
                if at == restart_at {
                    again.restart();
                }
                let out = bench.keyed(0, Some(&key), data.clone());
                prop_assert_eq!(&out, &again.keyed(0, Some(&key), data.clone()));
                for delta in &out {
                    match (delta.get("full"), delta.get("patch")) {
                        (Some(full), None) => drop(known.insert(key.clone(), full.clone())),
                        (None, Some(patch)) => apply(known.get_mut(&key).unwrap(), patch),
                        _ => prop_assert!(false, "neither full nor a patch: {}", delta),
                    }
                }
                prop_assert_eq!(known.get(&key), Some(&without_nulls(data)));
            }
        }
    }
}
