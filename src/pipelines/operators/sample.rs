//! `sample`: some events for all.
//!
//! With `every = N` each N-th event of a group (`by`, the event's key) goes on, the first one first. A field of `by` that is missing or no text, number or flag, and a new key over
//! `keys_max`, make the event a dead letter. A group that nothing was heard of for `keys_idle` begins anew.
//!
//! With `percent` a hash of the event's room and number decides, so that always the same events go on, whatever comes between them and however often they are read; what goes on at some
//! percentage goes on at every larger one. An event that another was made of goes on or not as that one would; those that a clock made have no number, and their key and time decide
//! instead. Nothing is kept, and no event is a dead letter. What is dropped on purpose is none either way. Late data is as good as any.

use crate::pipelines::by::By;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let every = section.count_if_given("every", 1..=u64::MAX);
    let percent = section.has("percent").then(|| section.number_or("percent", 0.0..=100.0, 0.0));
    if section.has("every") == section.has("percent") {
        section.fault("percent", "expected either every = N or percent = 0.0 to 100.0");
    }
    if let Some(percent) = percent {
        for name in ["by", "keys_max", "keys_idle"] {
            if section.value(name).is_some() {
                section.fault(name, "goes with every only");
            }
        }
        return Some(Box::new(Percent { share: percent / 100.0 }));
    }
    let by = section.by("by");
    let (keys_max, keys_idle) = section.key_limits();
    Some(Box::new(Every { by, every: every?, passed: Keyed::new(keys_max, keys_idle) }))
}

/// Each N-th event of a group.
#[derive(Debug)]
struct Every {
    by: By,
    every: u64,
    /// How many events of a group came since the last one that went on, that one included.
    passed: Keyed<u64>,
}

impl Operator for Every {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let Some(passed) = self.passed.entry(&key, cx.now_ms, || 0) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        let goes_on = *passed == 0;
        *passed = (*passed + 1) % self.every;
        if goes_on { Next::Pass } else { Next::Drop }
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.passed.expire(cx.now_ms, |_| true);
    }

    fn due_ms(&self) -> Option<u64> {
        self.passed.due_ms()
    }

    fn keys(&self) -> usize {
        self.passed.len()
    }

    fn save(&self) -> Vec<u8> {
        self.passed.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.passed.load(state)
    }
}

/// A share of all events.
#[derive(Debug)]
struct Percent {
    /// From 0 to 1.
    share: f64,
}

impl Operator for Percent {
    fn event(&mut self, record: &mut Record, _: &mut Context<'_>) -> Next {
        if place_of(record) < self.share { Next::Pass } else { Next::Drop }
    }
}

/// A number from 0 to below 1 that belongs to an event for ever: FNV-1a (Fowler, Noll, Vo; 64 bits) over what it is known by, mixed by the last steps of SplitMix64 (Steele, Lea, Flood,
/// "Fast splittable pseudorandom number generators", 2014), since FNV's upper bits alone are poor. Of the 64 bits the upper 53 are used, which is what a float holds.
fn place_of(record: &Record) -> f64 {
    let mut hash = fnv(FNV_OFFSET, record.room.as_str().as_bytes());
    // No text has this byte in it, so what stands on its two sides cannot be confused.
    hash = fnv(hash, &[0xff]);
    hash = fnv(hash, &record.seq.to_le_bytes());
    if record.seq == 0 {
        hash = fnv(hash, &record.timestamp_ms.to_le_bytes());
        hash = fnv(hash, record.key.as_deref().unwrap_or_default().as_bytes());
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn bench(settings: &str) -> Bench {
        Bench::new(&format!("op = \"sample\"\n{settings}"))
    }

    /// Which of so many events go on, by their numbers.
    fn sampled(settings: &str, events: u64) -> Vec<u64> {
        let mut bench = bench(settings);
        (0..events).flat_map(|now_ms| bench.full(now_ms, now_ms, None, Value::Null)).map(|record| record.seq).collect()
    }

    #[test]
    fn each_nth_event_of_a_group_goes_on_the_first_one_first() {
        assert_eq!(sampled("every = 3", 10), [1, 4, 7, 10]);
        assert_eq!(sampled("every = 1", 3), [1, 2, 3]);
        let mut bench = bench("every = 2\nby = \"k\"\nkeys_max = 2");
        let passed: Vec<bool> =
            [1, 2, 1, 1, 2, 2].into_iter().map(|key| !bench.event(0, json!({ "k": key })).is_empty()).collect();
        assert_eq!(passed, [true, true, false, true, false, true]);
        assert!(bench.event(1, json!({ "k": 3 })).is_empty() && bench.event(1, json!({})).is_empty());
        assert_eq!(bench.rejected(), ["key: there are as many keys as keys_max allows", "data.k: is missing"]);
    }

    #[test]
    fn a_group_that_nothing_was_heard_of_begins_anew() {
        let mut bench = bench("every = 2\nkeys_idle = \"1m\"");
        assert_eq!((bench.event(0, json!(1)).len(), bench.keys()), (1, 1));
        bench.clock(70_000);
        assert_eq!(bench.keys(), 0);
        assert_eq!(bench.event(70_001, json!(2)).len(), 1);
    }

    #[test]
    fn a_percentage_goes_on_and_all_of_it_at_a_larger_percentage_too() {
        let (none, few, more, all) = (
            sampled("percent = 0", 500),
            sampled("percent = 2.5", 20_000),
            sampled("percent = 30", 20_000),
            sampled("percent = 100.0", 500),
        );
        assert_eq!((none.len(), all.len()), (0, 500));
        assert!(
            (400..600).contains(&few.len()) && (5700..6300).contains(&more.len()),
            "{} and {}",
            few.len(),
            more.len()
        );
        assert!(few.iter().all(|seq| more.binary_search(seq).is_ok()));
        assert_eq!(few, sampled("percent = 2.5", 20_000), "the same ones every time");
    }

    #[test]
    fn exactly_one_way_must_be_said() {
        let cases = [
            ("", "expected either every = N or percent"),
            ("every = 2\npercent = 5", "expected either every = N or percent"),
            ("percent = 101", "a number from 0 to 100"),
            ("every = 0", "a whole number, at least 1"),
            ("percent = 5\nby = \"a\"", "by: goes with every only"),
        ];
        for (settings, expected) in cases {
            let faults = Bench::try_new(&format!("op = \"sample\"\n{settings}")).unwrap_err();
            assert!(faults.contains(expected) && faults.lines().count() == 1, "{settings}: {faults}");
        }
    }

    proptest! {
        #[test]
        fn each_nth_is_counted_for_each_group_alone_also_across_restarts(
            keys in proptest::collection::vec(0..4_usize, 1..60),
            every in 1..6_usize,
            restart in 0..60_usize,
        ) {
            let mut bench = bench(&format!("every = {every}\nby = \"k\""));
            let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
            for (at, key) in keys.into_iter().enumerate() {
                let before = counts.entry(key).or_default();
                let passed = !bench.event(0, json!({ "k": key })).is_empty();
                prop_assert_eq!(passed, before.is_multiple_of(every));
                *before += 1;
                if at == restart {
                    bench.restart();
                }
            }
        }
    }
}
