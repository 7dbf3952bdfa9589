//! `number`: numbers the events of each group, from 0: a field says the how-manieth an event is.
//!
//! Every event goes on with its number in the field `as`. With `modulo = N` numbers begin anew after N - 1: then they are places in a ring, and a state keyed by them holds the last N events.
//!
//! A field of `by` that is missing or no text, number or flag, a new key over `keys_max`, data that is no object and a place inside of what is none make the event a dead letter, which is
//! not counted. A group that nothing was heard of for `keys_idle` begins anew. Late data is as good as any: the order is that of arrival.

use super::place::{Place, no_object};
use crate::pipelines::by::By;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// Numbers go up to here, which every reader of JSON has exactly.
const MODULO_MAX: u64 = 1 << 53;

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let name = section.text_if_given("as").unwrap_or_else(|| "number".to_owned());
    let place = Place::parse(&name).map_err(|why| section.fault("as", why));
    let modulo = section.count_if_given("modulo", 1..=MODULO_MAX).unwrap_or(MODULO_MAX);
    let by = section.by("by");
    let (keys_max, keys_idle) = section.key_limits();
    Some(Box::new(Number { place: place.ok()?, modulo, by, next: Keyed::new(keys_max, keys_idle) }))
}

#[derive(Debug)]
struct Number {
    /// Where the number is put.
    place: Place,
    modulo: u64,
    by: By,
    /// Of each group the next one's number.
    next: Keyed<u64>,
}

impl Operator for Number {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let mut data = record.value();
        if !data.is_object() {
            return cx.reject(record, "data", no_object(&data));
        }
        let number = self.next.get(&key).copied().unwrap_or(0);
        if let Err((field, why)) = self.place.put(&mut data, number.into()) {
            return cx.reject(record, field, why);
        }
        let Some(next) = self.next.entry(&key, cx.now_ms, || 0) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        *next = (number + 1) % self.modulo;
        record.set_value(data);
        Next::Pass
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.next.expire(cx.now_ms, |_| true);
    }

    fn due_ms(&self) -> Option<u64> {
        self.next.due_ms()
    }

    fn keys(&self) -> usize {
        self.next.len()
    }

    fn save(&self) -> Vec<u8> {
        self.next.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.next.load(state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::pipelines::testing::Bench;
    use serde_json::{Value, json};

    fn bench(settings: &str) -> Bench {
        Bench::new(&format!("op = \"number\"\n{settings}"))
    }

    fn numbers(bench: &mut Bench, keys: &[&str]) -> Vec<Value> {
        keys.iter().flat_map(|key| bench.event(0, json!({ "k": key }))).map(|data| data["at"]["n"].clone()).collect()
    }

    #[test]
    fn each_group_is_numbered_from_0_and_in_a_ring_also_across_restarts() {
        let mut bench = bench("as = \"at.n\"\nby = \"k\"\nmodulo = 3");
        assert_eq!(numbers(&mut bench, &["a", "b", "a", "a"]), [0, 0, 1, 2]);
        bench.restart();
        assert_eq!(numbers(&mut bench, &["a", "b", "a"]), [0, 1, 1]);
        assert_eq!(bench.keys(), 2);
        let mut endless = Bench::new("op = \"number\"");
        let counted: Vec<Value> = (0..5).flat_map(|_| endless.event(0, json!({}))).collect();
        assert_eq!(counted[4], json!({ "number": 4 }));
    }

    #[test]
    fn what_cannot_be_numbered_is_a_dead_letter_and_not_counted() {
        let mut bench = bench("as = \"at.n\"\nby = \"k\"\nkeys_max = 1");
        assert_eq!(numbers(&mut bench, &["a", "b"]), [0]);
        assert!(bench.event(0, json!({ "k": "a", "at": 7 })).is_empty() && bench.event(0, json!(["a"])).is_empty());
        assert_eq!(numbers(&mut bench, &["a"]), [1]);
        assert_eq!(
            bench.rejected(),
            [
                "key: there are as many keys as keys_max allows",
                "data.at: expected an object, found a number",
                "data.k: is missing"
            ]
        );
    }

    #[test]
    fn a_group_that_nothing_was_heard_of_begins_anew_and_wrong_settings_are_told() {
        let mut bench = bench("keys_idle = \"1m\"");
        bench.event(0, json!({}));
        bench.clock(70_000);
        assert_eq!(bench.event(70_001, json!({})), [json!({ "number": 0 })]);
        for (settings, expected) in [("modulo = 0", "a whole number"), ("as = \"kind\"", "the event's own")] {
            let faults = Bench::try_new(&format!("op = \"number\"\n{settings}")).unwrap_err();
            assert!(faults.contains(expected) && faults.lines().count() == 1, "{settings}: {faults}");
        }
    }
}
