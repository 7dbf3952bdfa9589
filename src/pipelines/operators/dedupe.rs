//! `dedupe`: drops what was there already a short time ago.
//!
//! Events are told apart by `by` (their key), or by all of their data with `by = "data"`: then by the first 128 bits of the SHA-256 of its JSON, in which spaces and the order of names do not
//! matter. With `mode = "first"` an event goes on and its repetitions are dropped until `within` after it; the next one then is a first again. With `mode = "changes"` an event goes on if
//! `field` is another than in the last one that went on, or if that was `within` ago; of a field that is a list or an object, or long text, a digest is kept. Dropped repetitions are no
//! dead letters.
//!
//! Times are those of arrival: when something happened does not matter, and late events are as good as any. A field of `by` that is missing or no text, number or flag, a missing
//! `field`, and a new key over `keys_max` make the event a dead letter; a `field` that is `null` is a value like others. Keys are forgotten by themselves, `within` after they last
//! mattered or somewhat later.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use crate::pipelines::by::By;
use crate::pipelines::field::Field;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::{Got, Record};
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

#[derive(Debug)]
struct Dedupe {
    by: Group,
    within_ms: u64,
    /// What must change, if that is asked for.
    field: Option<Field>,
    seen: Keyed<Seen>,
}

#[derive(Debug)]
enum Group {
    Fields(By),
    WholeData,
}

/// The last event of a group that went on; none if it was refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Seen {
    /// When it arrived, in milliseconds since 1970.
    passed_ms: Option<u64>,
    /// What must change, as JSON or its digest; empty if nothing must.
    value: SmolStr,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let within_ms = section.time("within");
    let changes = section.choice("mode", &["first", "changes"], Some("first")) == "changes";
    let field = if changes { Some(section.field("field")) } else { section.field_if_given("field") };
    if field.is_some() && !changes {
        section.fault("field", "goes with mode = \"changes\" only");
    }
    let by = group(section);
    // Not `key_limits`: what is older than `within` is as good as forgotten, so there is nothing to set. Twice that, because a key is touched when the clock says so and judged by arrivals.
    let keys_max = usize::try_from(section.count_or("keys_max", 1..=10_000_000, 100_000)).unwrap_or(usize::MAX);
    let seen = Keyed::new(keys_max, within_ms.saturating_mul(2));
    Some(Box::new(Dedupe { by: by?, within_ms, field, seen }))
}

fn group(section: &mut Section<'_, '_>) -> Option<Group> {
    // Read here and not as a field: that would have all data parsed whole for it.
    if section.value("by").is_some_and(|value| value.get_ref().as_str() == Some("data")) {
        return Some(Group::WholeData);
    }
    let by = section.by("by");
    if by.0.iter().any(|field| matches!(field, Field::Data(path) if path.names.is_empty())) {
        section.fault("by", "data is all of the data, and stands alone: by = \"data\"");
        return None;
    }
    Some(Group::Fields(by))
}

/// The first 128 bits of the SHA-256 as 22 letters, which fit where short texts are kept.
fn digest(json: &[u8]) -> SmolStr {
    let hash = Sha256::digest(json);
    URL_SAFE_NO_PAD.encode(&hash[..16]).into()
}

/// A value to be compared: short ones as JSON, of others a digest behind a sign that no JSON begins with.
fn mark(value: &Got<'_>) -> SmolStr {
    let json = value.to_value().to_string();
    if json.len() <= 23 { json.into() } else { SmolStr::from(format!("#{}", digest(json.as_bytes()))) }
}

impl Operator for Dedupe {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match &self.by {
            // Not the JSON as it came: what a step before kept over a restart is written anew.
            Group::WholeData => digest(record.value().to_string().as_bytes()),
            Group::Fields(by) => match by.of(record) {
                Ok(key) => key,
                Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
            },
        };
        let value = match &self.field {
            None => SmolStr::default(),
            Some(field) => match record.get(field) {
                Got::Missing => return cx.reject(record, field, Why::Missing),
                got => mark(&got),
            },
        };
        let Some(seen) = self.seen.entry(&key, cx.now_ms, Seen::default) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        let recent = seen.passed_ms.is_some_and(|ms| record.arrived_ms.saturating_sub(ms) < self.within_ms);
        if recent && seen.value == value {
            return Next::Drop;
        }
        *seen = Seen { passed_ms: Some(record.arrived_ms), value };
        Next::Pass
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.seen.expire(cx.now_ms, |_| true);
    }

    fn due_ms(&self) -> Option<u64> {
        self.seen.due_ms()
    }

    fn keys(&self) -> usize {
        self.seen.len()
    }

    fn save(&self) -> Vec<u8> {
        self.seen.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.seen.load(state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::json;

    const BEGIN_MS: u64 = 1_000_000;

    fn bench(settings: &str) -> Bench {
        Bench::new(&format!("op = \"dedupe\"\n{settings}"))
    }

    #[test]
    fn a_repetition_is_dropped_until_the_time_after_the_first_is_over() {
        let mut bench = bench("within = \"10s\"");
        let events = [
            (0, "a", true),
            (1, "b", true),
            (9999, "a", false),
            (10_000, "a", true),
            (10_001, "b", true),
            (19_999, "a", false),
        ];
        for (ms, key, expected) in events {
            assert_eq!(!bench.keyed(BEGIN_MS + ms, Some(key), json!(ms)).is_empty(), expected, "{key} at {ms}");
        }
        let alike = [bench.event(BEGIN_MS + 20_000, json!(1)).len(), bench.event(BEGIN_MS + 20_001, json!(2)).len()];
        assert_eq!(alike, [1, 0], "events without a key are one group");
    }

    #[test]
    fn only_changes_go_on_and_after_the_time_what_did_not_change_too() {
        let mut bench = bench("mode = \"changes\"\nfield = \"valve\"\nby = \"well\"\nwithin = \"1m\"");
        let long = "x".repeat(1000);
        let cases = [
            (0, 1, json!("open"), true),
            (1, 1, json!("open"), false),
            (2, 2, json!("open"), true),
            (3, 1, json!("shut"), true),
            (4, 1, json!("open"), true),
            (60_003, 1, json!("open"), false),
            (60_004, 1, json!("open"), true),
            (60_005, 1, json!(null), true),
            (60_006, 1, json!({ "a": [1, 2, 3, 4, 5, 6, 7, 8, 9] }), true),
            (60_007, 1, json!({ "a": [1, 2, 3, 4, 5, 6, 7, 8, 9] }), false),
            (60_008, 1, json!(long), true),
            (60_009, 1, json!(long), false),
            (60_010, 1, json!(long + "y"), true),
        ];
        for (ms, well, valve, expected) in cases {
            let passed = !bench.event(BEGIN_MS + ms, json!({ "well": well, "valve": valve })).is_empty();
            assert_eq!(passed, expected, "at {ms}");
            bench.restart();
        }
    }

    #[test]
    fn by_all_of_the_data_only_the_same_data_is_a_repetition() {
        let mut bench = bench("by = \"data\"\nwithin = \"10s\"");
        let cases = [
            (0, json!({ "a": 1 }), true),
            (1, json!({ "a": 2 }), true),
            (2, json!({ "a": 1 }), false),
            (3, json!(5), true),
        ];
        for (ms, data, expected) in cases {
            assert_eq!(!bench.keyed(BEGIN_MS + ms, Some(&ms.to_string()), data).is_empty(), expected, "at {ms}");
        }
        assert_eq!(bench.keys(), 3);
    }

    #[test]
    fn what_cannot_be_told_apart_is_a_dead_letter_and_so_is_a_key_too_many() {
        let mut bench = bench("by = \"well\"\nwithin = \"10s\"\nmode = \"changes\"\nfield = \"psi\"\nkeys_max = 1");
        for data in [json!({ "psi": 1 }), json!({ "well": [1], "psi": 1 }), json!({ "well": 1 })] {
            assert!(bench.event(0, data).is_empty());
        }
        assert_eq!(bench.event(0, json!({ "well": 1, "psi": 1 })).len(), 1);
        assert!(bench.event(0, json!({ "well": 2, "psi": 1 })).is_empty());
        let expected = [
            "data.well: is missing",
            "data.well: expected text, a number or a flag, found a list",
            "data.psi: is missing",
            "key: there are as many keys as keys_max allows",
        ];
        assert_eq!(bench.rejected(), expected);
    }

    #[test]
    fn keys_are_forgotten_by_themselves() {
        let mut bench = bench("within = \"1s\"");
        assert_eq!((bench.keyed(BEGIN_MS, Some("a"), json!(1)).len(), bench.keys()), (1, 1));
        bench.clock(BEGIN_MS + 1000);
        assert_eq!(bench.keys(), 1);
        bench.clock(BEGIN_MS + 3000);
        assert_eq!((bench.keys(), bench.due_ms()), (0, None));
    }

    #[test]
    fn settings_that_contradict_each_other_are_faults() {
        let cases = [
            ("by = \"key\"", "within is missing"),
            ("within = \"1s\"\nmode = \"changes\"", "field is missing"),
            ("within = \"1s\"\nfield = \"a\"", "field: goes with mode"),
            ("within = \"1s\"\nby = [\"a\", \"data\"]", "by: data is all of the data"),
        ];
        for (settings, expected) in cases {
            let faults = Bench::try_new(&format!("op = \"dedupe\"\n{settings}")).unwrap_err();
            assert!(faults.contains(expected) && faults.lines().count() == 1, "{settings}: {faults}");
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_list_of_all_that_went_on_would_do_also_across_restarts(
            events in proptest::collection::vec((0..400_u64, 0..3_u8, 0..2_u8), 1..60),
            changes in any::<bool>(),
            restart in 0..60_usize,
        ) {
            let mode = if changes { "mode = \"changes\"\nfield = \"v\"" } else { "" };
            let mut bench = bench(&format!("by = \"k\"\nwithin = \"500ms\"\n{mode}"));
            let mut went_on: Vec<(u64, u8, u8)> = Vec::new();
            let mut now_ms = BEGIN_MS;
            for (at, (pause_ms, key, value)) in events.into_iter().enumerate() {
                now_ms += pause_ms;
                let last = went_on.iter().rfind(|(_, other, _)| *other == key);
                let repeated = last.is_some_and(|(ms, _, other)| now_ms < ms + 500 && (!changes || *other == value));
                let passed = !bench.event(now_ms, json!({ "k": key, "v": value })).is_empty();
                prop_assert_eq!(passed, !repeated, "event {} at {}", at, now_ms);
                if passed {
                    went_on.push((now_ms, key, value));
                }
                if at == restart {
                    bench.restart();
                }
            }
        }
    }
}
