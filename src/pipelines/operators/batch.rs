//! `batch`: gathers a key's events into one.
//!
//! A batch begins with its first event and ends when it has `count` events, when `time` has passed since the first, or before it would be larger than `bytes_max` bytes of JSON,
//! whichever comes first. It goes on as `{"count": 2, "events": [{"kind": …, "key": …, "timestamp": …, "data": …}, …]}`, or with the data alone of each, in the order of arrival. Its
//! time is that of the last event, its priority the highest of all. By the pipeline's clock, which is arrival. Without `time`, a batch to which nothing comes for `keys_idle` ends as
//! it is.
//!
//! *Late*: an event's own time is not looked at. *Missing or wrong*: a field of `by` that is missing, or no text, number or flag, makes the event a dead letter, and so does a key over
//! `keys_max`. An event that is larger than `bytes_max` is a batch by itself.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::held::{Held, Timetable};
use crate::clock::rfc3339;
use crate::pipelines::by::By;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// The longest kind, in characters.
const KIND_MAX: usize = 100;
/// `{"count":18446744073709551615,"events":[]}`, in bytes.
const ENVELOPE_BYTES: usize = 42;
/// `{"data":,"key":"","kind":"","timestamp":"2026-11-20T06:10:00.000Z"},`, in bytes.
const ITEM_BYTES: usize = 68;

#[derive(Debug)]
struct Batches {
    by: By,
    kind: SmolStr,
    /// Whether all of an event goes in, or its data alone.
    whole: bool,
    count: usize,
    time_ms: Option<u64>,
    bytes_max: usize,
    batches: Keyed<Batch>,
    /// The ends of all batches, where they end by the clock.
    ends: Timetable,
}

#[derive(Debug, Serialize, Deserialize)]
struct Batch {
    begun_ms: u64,
    bytes: usize,
    events: Vec<Held>,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let by = section.by("by");
    let (count, time_ms) = (section.count_if_given("count", 1..=10_000), section.time_if_given("time"));
    let kind = section.text_if_given("as_kind").unwrap_or_else(|| "batch".to_owned());
    let whole = section.choice("items", &["events", "data"], Some("events")) == "events";
    let bytes_max = section.count_or("bytes_max", 1..=100 * 1024 * 1024, 65_536);
    let (keys_max, keys_idle) = section.key_limits();
    if !section.has("count") && !section.has("time") {
        section.fault("count", "is missing; a batch ends by count, by time or by both");
        return None;
    }
    if section.has("keys_idle") && section.has("time") {
        section.fault("keys_idle", "goes without time only, by which a batch ends sooner or later anyway");
        return None;
    }
    if time_ms == Some(0) {
        section.fault("time", "expected a time longer than 0s");
        return None;
    }
    if !(1..=KIND_MAX).contains(&kind.chars().count()) {
        section.fault("as_kind", format!("expected text of 1 to {KIND_MAX} characters"));
        return None;
    }
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Some(Box::new(Batches {
        by,
        kind: kind.into(),
        whole,
        count: count.map_or(usize::MAX, size),
        time_ms,
        bytes_max: size(bytes_max),
        // What ends by the clock needs no other end.
        batches: Keyed::new(keys_max, if time_ms.is_some() { 0 } else { keys_idle }),
        ends: Timetable::default(),
    }))
}

/// At most how many bytes a text takes in JSON, quotes aside.
pub(super) fn text_bytes(text: &str) -> usize {
    let bytes = |letter: char| match letter {
        '"' | '\\' => 2,
        letter if letter < ' ' => 6,
        letter => letter.len_utf8(),
    };
    text.chars().map(bytes).sum()
}

impl Batches {
    /// How many bytes of JSON an event adds to a batch; its data counted as it stands there now.
    fn bytes(&self, record: &Record) -> usize {
        let data = record.json().len();
        if !self.whole {
            return data + 1;
        }
        data + ITEM_BYTES + text_bytes(&record.kind) + record.key.as_deref().map_or(0, text_bytes)
    }

    fn item(&self, record: &Record) -> Value {
        if !self.whole {
            return record.value();
        }
        let mut item = Map::new();
        item.insert("kind".to_owned(), record.kind.as_str().into());
        if let Some(key) = &record.key {
            item.insert("key".to_owned(), key.as_str().into());
        }
        item.insert("timestamp".to_owned(), rfc3339(record.timestamp_ms).into());
        item.insert("data".to_owned(), record.value());
        Value::Object(item)
    }

    /// A batch as an event.
    fn made(&self, key: &SmolStr, batch: &Batch) -> Option<Record> {
        let events = || batch.events.iter().map(Held::record);
        let mut data = Map::new();
        data.insert("count".to_owned(), batch.events.len().into());
        data.insert("events".to_owned(), events().map(|record| self.item(record)).collect());
        let mut made = events().last()?.derived(&self.kind, Value::Object(data));
        made.key = (!key.is_empty()).then(|| key.clone());
        made.priority = events().map(|record| record.priority).min()?;
        Some(made)
    }

    /// Ends a key's batch because of an event.
    fn end(&mut self, key: &SmolStr, cx: &mut Context<'_>) {
        let Some(batch) = self.batches.remove(key) else { return };
        if let Some(time_ms) = self.time_ms {
            self.ends.remove(batch.begun_ms.saturating_add(time_ms), key);
        }
        if let Some(made) = self.made(key, &batch) {
            cx.emit(made);
        }
    }

    /// Lets a batch go that the clock has ended.
    fn over(&self, key: &SmolStr, batch: &Batch, cx: &mut Context<'_>) {
        if let Some(mut made) = self.made(key, batch) {
            (made.seq, made.arrived_ms) = (0, cx.now_ms);
            cx.emit(made);
        }
    }
}

impl Operator for Batches {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let (now_ms, bytes) = (cx.now_ms, self.bytes(record));
        let is_over =
            |batch: &Batch| self.time_ms.is_some_and(|time_ms| batch.begun_ms.saturating_add(time_ms) <= now_ms);
        let is_full = |batch: &Batch| batch.bytes.saturating_add(bytes) > self.bytes_max;
        if self.batches.get(&key).is_some_and(|batch| is_over(batch) || is_full(batch)) {
            self.end(&key, cx);
        }
        let fresh = || Batch { begun_ms: now_ms, bytes: ENVELOPE_BYTES, events: Vec::new() };
        let Some(batch) = self.batches.entry(&key, now_ms, fresh) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        if let Some(time_ms) = self.time_ms
            && batch.events.is_empty()
        {
            self.ends.add(batch.begun_ms.saturating_add(time_ms), &key);
        }
        batch.bytes = batch.bytes.saturating_add(bytes);
        batch.events.push(Held::of(record));
        if batch.events.len() >= self.count {
            self.end(&key, cx);
        }
        Next::Drop
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        while let Some(key) = self.ends.take(cx.now_ms) {
            if let Some(batch) = self.batches.remove(&key) {
                self.over(&key, &batch, cx);
            }
        }
        for (key, batch) in self.batches.expire(cx.now_ms, |_| true) {
            self.over(&key, &batch, cx);
        }
    }

    fn due_ms(&self) -> Option<u64> {
        self.ends.first_ms().into_iter().chain(self.batches.due_ms()).min()
    }

    fn keys(&self) -> usize {
        self.batches.len()
    }

    fn save(&self) -> Vec<u8> {
        self.batches.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.batches.load(state)?;
        let Some(time_ms) = self.time_ms else { return Ok(()) };
        self.ends =
            self.batches.iter().map(|(key, batch)| (batch.begun_ms.saturating_add(time_ms), key.clone())).collect();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{ENVELOPE_BYTES, text_bytes};
    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn a_batch_ends_with_its_last_event_and_holds_them_all_in_order() {
        let mut bench = Bench::new("op = \"batch\"\ncount = 2\nas_kind = \"pair\"");
        assert!(bench.full(1, 1000, Some("a"), json!({ "x": 1 })).is_empty());
        assert!(bench.full(9, 1001, None, json!(9)).is_empty(), "those without a key are a group of their own");
        let came = bench.full(2, 1002, Some("a"), json!(2));
        let [record] = &came[..] else { panic!("one is expected: {came:?}") };
        let events = json!([
            { "kind": "sample", "key": "a", "timestamp": "1970-01-01T00:00:00.001Z", "data": { "x": 1 } },
            { "kind": "sample", "key": "a", "timestamp": "1970-01-01T00:00:00.002Z", "data": 2 },
        ]);
        assert_eq!(record.value(), json!({ "count": 2, "events": events }));
        assert_eq!((record.kind.as_str(), record.key.as_deref(), record.seq), ("pair", Some("a"), 3));
        assert_eq!((record.timestamp_ms, record.arrived_ms, bench.keys()), (2, 1002, 1));
        let came = bench.full(10, 1003, None, json!(10));
        assert_eq!(
            (came[0].value()["events"][0].clone(), came[0].key.clone()),
            (json!({ "kind": "sample", "timestamp": "1970-01-01T00:00:00.009Z", "data": 9 }), None)
        );
    }

    #[test]
    fn a_batch_ends_when_its_time_has_passed_since_its_first_event() {
        let mut bench = Bench::new("op = \"batch\"\ntime = \"1s\"\nitems = \"data\"");
        bench.full(7, 5000, None, json!(1));
        bench.full(8, 5900, None, json!(2));
        assert!(bench.due_ms() == Some(6000) && bench.clock(5999).is_empty());
        let came = bench.clock_full(6000);
        assert_eq!(came[0].value(), json!({ "count": 2, "events": [1, 2] }));
        assert_eq!((came[0].timestamp_ms, came[0].arrived_ms, came[0].seq), (8, 6000, 0), "the clock made it");
        assert_eq!((bench.due_ms(), bench.keys()), (None, 0));
    }

    #[test]
    fn a_batch_ends_before_it_grows_too_large_and_what_is_too_large_alone_is_one_alone() {
        let mut bench = Bench::new("op = \"batch\"\ntime = \"1s\"\nitems = \"data\"\nbytes_max = 100");
        let (small, large) = (json!("x".repeat(20)), json!("x".repeat(200)));
        assert!(bench.event(1, small.clone()).is_empty() && bench.event(2, small.clone()).is_empty());
        assert_eq!(bench.event(3, small.clone()), [json!({ "count": 2, "events": [small, small] })]);
        assert_eq!(bench.event(4, large.clone()), [json!({ "count": 1, "events": [small] })]);
        assert_eq!(bench.event(5, small.clone()), [json!({ "count": 1, "events": [large] })]);
    }

    #[test]
    fn a_batch_that_only_waits_for_its_count_ends_as_it_is_when_nothing_comes_for_long() {
        let mut bench = Bench::new("op = \"batch\"\ncount = 10\nkeys_idle = \"800ms\"");
        bench.event(1000, json!(1));
        bench.restart();
        assert!(bench.clock(1799).is_empty());
        assert_eq!(bench.clock(1900)[0]["count"], 1);
        assert_eq!((bench.keys(), bench.due_ms()), (0, None));
    }

    #[test]
    fn settings_by_which_no_batch_would_end_are_faults() {
        for (settings, fault) in [
            ("", "count: is missing; a batch ends by count, by time or by both"),
            ("count = 0", "count: expected a whole number from 1 to 10000"),
            ("time = \"0s\"", "time: expected a time longer than 0s"),
            ("time = \"1s\"\nkeys_idle = \"1h\"", "keys_idle: goes without time only"),
            ("count = 2\nas_kind = \"\"", "as_kind: expected text of 1 to 100 characters"),
        ] {
            let faults = Bench::try_new(&format!("op = \"batch\"\n{settings}")).unwrap_err();
            assert!(faults.contains(fault), "{faults}");
        }
    }

    #[test]
    fn keys_too_many_and_fields_that_are_not_there_are_dead_letters() {
        let mut bench = Bench::new("op = \"batch\"\ncount = 2\nby = \"well\"\nkeys_max = 1");
        [json!({ "well": 1 }), json!({ "well": 2 }), json!({ "well": [] })]
            .into_iter()
            .for_each(|data| drop(bench.event(0, data)));
        let refused = [
            "key: there are as many keys as keys_max allows",
            "data.well: expected text, a number or a flag, found a list",
        ];
        assert_eq!(bench.rejected(), refused);
    }

    /// The batches of one key's arrivals, and when each comes: the first, then those of the rest.
    fn model(arrivals: &[(u64, Value)], count: usize, time_ms: u64, bytes_max: usize) -> Vec<(u64, Vec<Value>)> {
        let Some((begun_ms, _)) = arrivals.first() else { return Vec::new() };
        let over_ms = begun_ms + time_ms;
        let bytes = |first: usize| arrivals[..first].iter().map(|(_, data)| data.to_string().len() + 1).sum::<usize>();
        let in_time = arrivals.iter().take_while(|(at_ms, _)| *at_ms < over_ms).count();
        let in_bytes =
            (1..=arrivals.len()).take_while(|first| *first == 1 || ENVELOPE_BYTES + bytes(*first) <= bytes_max).count();
        let taken = count.min(in_time).min(in_bytes);
        let at_ms = match taken {
            taken if taken == count => arrivals[taken - 1].0,
            taken if taken < in_time => arrivals[taken].0,
            _ => over_ms,
        };
        let mut out = vec![(at_ms, arrivals[..taken].iter().map(|(_, data)| data.clone()).collect())];
        out.extend(model(&arrivals[taken..], count, time_ms, bytes_max));
        out
    }

    proptest! {
        #[test]
        fn every_event_is_in_one_batch_in_its_order_whenever_it_is_restarted(
            steps in proptest::collection::vec((0..60_u64, 0..3_u8, 0..40_usize, prop::bool::weighted(0.2)), 1..60),
            count in 1..8_usize,
            time_ms in 1..300_u64,
            bytes_max in 60..300_usize,
        ) {
            let settings = format!("count = {count}\ntime = \"{time_ms}ms\"\nbytes_max = {bytes_max}\nitems = \"data\"");
            let mut bench = Bench::new(&format!("op = \"batch\"\n{settings}"));
            let (mut now_ms, mut arrivals, mut out) = (1000_u64, vec![Vec::new(); 3], Vec::new());
            let events = |batch: &Value| batch["events"].as_array().unwrap().clone();
            for (at, (pause, key, size, restart)) in steps.into_iter().enumerate() {
                now_ms += pause;
                while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms <= now_ms) {
                    out.extend(bench.clock(due_ms).iter().map(|batch| (due_ms, events(batch))));
                }
                if restart {
                    bench.restart();
                }
                let data = json!([at, "x".repeat(size)]);
                arrivals[usize::from(key)].push((now_ms, data.clone()));
                for batch in bench.keyed(now_ms, Some(&key.to_string()), data) {
                    prop_assert_eq!(batch["count"].as_u64(), u64::try_from(events(&batch).len()).ok());
                    prop_assert!(batch.to_string().len() <= bytes_max || batch["count"] == 1);
                    out.push((now_ms, events(&batch)));
                }
            }
            while let Some(due_ms) = bench.due_ms() {
                out.extend(bench.clock(due_ms).iter().map(|batch| (due_ms, events(batch))));
            }
            let mut expected: Vec<_> = arrivals.iter().flat_map(|arrivals| model(arrivals, count, time_ms, bytes_max)).collect();
            let order = |(at_ms, events): &(u64, Vec<Value>)| (*at_ms, events[0][0].as_u64());
            out.sort_by_key(order);
            expected.sort_by_key(order);
            prop_assert_eq!(out, expected);
            prop_assert!(bench.keys() == 0 && bench.rejected().is_empty());
        }

        #[test]
        fn a_text_takes_no_more_in_json_than_is_counted(text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,20}") {
            prop_assert!(serde_json::to_string(&text).unwrap().len() - 2 <= text_bytes(&text));
        }
    }
}
