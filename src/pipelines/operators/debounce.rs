//! `debounce`: a key's last event goes on when no other has come for a while.
//!
//! Each event of a key takes the place of the one before, and goes on as it was when `quiet` has passed without another. Where events never cease, the newest one goes on `max_wait`
//! after the first of those that came. By the pipeline's clock, which is arrival. A pause of the pipeline is no quiet: it is waited for anew.
//!
//! *Late*: an event's own time is not looked at. *Missing or wrong*: a field of `by` that is missing, or no text, number or flag, makes the event a dead letter, and so does a key over
//! `keys_max`. Events whose place was taken are dropped on purpose and are no dead letters.

use serde::{Deserialize, Serialize};

use super::held::{Held, Timetable};
use crate::pipelines::by::By;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

#[derive(Debug)]
struct Debounce {
    by: By,
    times: Times,
    waiting: Keyed<Waiting>,
    due: Timetable,
}

#[derive(Debug)]
struct Times {
    quiet_ms: u64,
    max_wait_ms: Option<u64>,
}

impl Times {
    /// When a key's event is due, of which the first and the last of those that wait came then.
    fn due_ms(&self, first_ms: u64, last_ms: u64) -> u64 {
        let quiet = last_ms.saturating_add(self.quiet_ms);
        self.max_wait_ms.map_or(quiet, |wait_ms| quiet.min(first_ms.saturating_add(wait_ms)))
    }
}

/// A key whose event waits.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    first_ms: u64,
    due_ms: u64,
    last: Option<Held>,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let (by, quiet_ms, max_wait_ms) = (section.by("by"), section.time("quiet"), section.time_if_given("max_wait"));
    // Not `key_limits`: a key is forgotten when its event goes on, and not before, so there is nothing to set.
    let keys_max = usize::try_from(section.count_or("keys_max", 1..=10_000_000, 100_000)).unwrap_or(usize::MAX);
    if max_wait_ms.is_some_and(|wait_ms| wait_ms < quiet_ms) {
        section.fault("max_wait", "expected a time that is not shorter than quiet");
        return None;
    }
    let times = Times { quiet_ms, max_wait_ms };
    Some(Box::new(Debounce { by, times, waiting: Keyed::new(keys_max, 0), due: Timetable::default() }))
}

impl Debounce {
    fn enter_all(&mut self) {
        self.due = self.waiting.iter().map(|(key, waiting)| (waiting.due_ms, key.clone())).collect();
    }
}

impl Operator for Debounce {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let now_ms = cx.now_ms;
        let fresh = || Waiting { first_ms: now_ms, due_ms: u64::MAX, last: None };
        let Some(waiting) = self.waiting.entry(&key, now_ms, fresh) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        self.due.remove(waiting.due_ms, &key);
        if waiting.due_ms <= now_ms {
            // The clock has not come by since.
            waiting.first_ms = now_ms;
            if let Some(last) = waiting.last.take() {
                cx.emit(last.into_record());
            }
        }
        waiting.due_ms = self.times.due_ms(waiting.first_ms, now_ms);
        waiting.last = Some(Held::of(record));
        self.due.add(waiting.due_ms, &key);
        Next::Drop
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        while let Some(key) = self.due.take(cx.now_ms) {
            if let Some(last) = self.waiting.remove(&key).and_then(|waiting| waiting.last) {
                cx.emit(last.into_record());
            }
        }
    }

    fn due_ms(&self) -> Option<u64> {
        self.due.first_ms()
    }

    fn resumed(&mut self, now_ms: u64) {
        for (_, waiting) in self.waiting.iter_mut() {
            waiting.due_ms = self.times.due_ms(waiting.first_ms, now_ms);
        }
        self.enter_all();
    }

    fn keys(&self) -> usize {
        self.waiting.len()
    }

    fn save(&self) -> Vec<u8> {
        self.waiting.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.waiting.load(state)?;
        self.enter_all();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const STEP: &str = "op = \"debounce\"\nquiet = \"100ms\"";

    #[test]
    fn the_last_one_goes_on_as_it_was_when_it_has_been_quiet() {
        let mut bench = Bench::new(STEP);
        bench.full(1, 1000, Some("a"), json!(1));
        bench.full(2, 1090, Some("a"), json!(2));
        assert_eq!(bench.due_ms(), Some(1190));
        assert!(bench.clock(1189).is_empty());
        let came = bench.clock_full(1190);
        let [record] = &came[..] else { panic!("one is expected: {came:?}") };
        assert_eq!(
            (record.timestamp_ms, record.arrived_ms, record.seq, record.key.as_deref()),
            (2, 1090, 2, Some("a"))
        );
        assert_eq!((record.value(), bench.keys(), bench.due_ms()), (json!(2), 0, None));
    }

    #[test]
    fn where_events_never_cease_one_goes_on_after_max_wait() {
        let mut bench = Bench::new(&format!("{STEP}\nmax_wait = \"250ms\""));
        for at in 0..5 {
            assert!(bench.event(1000 + 50 * at, json!(at)).is_empty());
        }
        assert_eq!(bench.clock(1250), [json!(4)]);
        assert!(bench.event(1250, json!(5)).is_empty());
        assert_eq!(bench.clock(1350), [json!(5)], "it is quiet before it waited long");
    }

    #[test]
    fn each_key_waits_for_itself_and_those_too_many_are_refused() {
        let mut bench = Bench::new(&format!("{STEP}\nby = [\"site\", \"well\"]\nkeys_max = 2"));
        let well = |well: u32| json!({ "site": "north", "well": well });
        let came = [(1000, well(2)), (1000, well(1)), (1001, well(3)), (1002, json!({ "site": "north" }))];
        came.into_iter().for_each(|(at, data)| assert!(bench.event(at, data).is_empty()));
        assert_eq!(bench.rejected(), ["key: there are as many keys as keys_max allows", "data.well: is missing"]);
        assert_eq!(bench.clock(1100), [well(1), well(2)], "at the same time, in the order of their names");
    }

    #[test]
    fn a_pause_of_the_pipeline_is_no_quiet() {
        let mut bench = Bench::new(&format!("{STEP}\nmax_wait = \"1s\""));
        bench.event(1000, json!(1));
        bench.resumed(1500);
        assert!(bench.clock(1599).is_empty());
        assert_eq!(bench.clock(1600), [json!(1)]);
        bench.event(2000, json!(2));
        bench.resumed(9000);
        assert_eq!(bench.clock(9000), [json!(2)], "it has waited long enough");
    }

    #[test]
    fn settings_that_contradict_each_other_are_faults() {
        let faults = Bench::try_new(&format!("{STEP}\nmax_wait = \"99ms\"")).unwrap_err();
        assert!(faults.contains("max_wait: expected a time that is not shorter than quiet"), "{faults}");
        assert!(Bench::try_new("op = \"debounce\"").unwrap_err().contains("quiet is missing"));
    }

    /// What comes out of one key's arrivals: those that wait together, then the rest.
    fn model(arrivals: &[(u64, usize)], quiet_ms: u64, max_wait_ms: u64) -> Vec<(u64, usize)> {
        let Some((first_ms, _)) = arrivals.first() else { return Vec::new() };
        let due_ms = |at: usize| (arrivals[at].0 + quiet_ms).min(first_ms + max_wait_ms);
        let last =
            (0..arrivals.len()).find(|at| arrivals.get(at + 1).is_none_or(|next| next.0 >= due_ms(*at))).unwrap();
        let mut out = vec![(due_ms(last), arrivals[last].1)];
        out.extend(model(&arrivals[last + 1..], quiet_ms, max_wait_ms));
        out
    }

    proptest! {
        #[test]
        fn it_does_what_the_model_does_whenever_it_is_restarted(
            steps in proptest::collection::vec((0..60_u64, 0..3_u8, prop::bool::weighted(0.2)), 1..60),
            quiet_ms in 1..80_u64,
            more_ms in proptest::option::of(0..200_u64),
        ) {
            let max_wait_ms = more_ms.map(|more_ms| quiet_ms + more_ms);
            let max_wait = max_wait_ms.map(|wait_ms| format!("max_wait = \"{wait_ms}ms\"")).unwrap_or_default();
            let mut bench = Bench::new(&format!("op = \"debounce\"\nquiet = \"{quiet_ms}ms\"\n{max_wait}"));
            let (mut now_ms, mut arrivals, mut out) = (1000_u64, vec![Vec::new(); 3], Vec::new());
            let number = |data: &Value| usize::try_from(data.as_u64().unwrap()).unwrap();
            for (at, (pause, key, restart)) in steps.into_iter().enumerate() {
                now_ms += pause;
                while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms <= now_ms) {
                    out.extend(bench.clock(due_ms).iter().map(|data| (due_ms, number(data))));
                }
                if restart {
                    bench.restart();
                }
                prop_assert!(bench.keyed(now_ms, Some(&key.to_string()), json!(at)).is_empty());
                arrivals[usize::from(key)].push((now_ms, at));
            }
            while let Some(due_ms) = bench.due_ms() {
                out.extend(bench.clock(due_ms).iter().map(|data| (due_ms, number(data))));
            }
            let wait_ms = max_wait_ms.unwrap_or(1_000_000);
            let mut expected: Vec<_> = arrivals.iter().flat_map(|arrivals| model(arrivals, quiet_ms, wait_ms)).collect();
            out.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(out, expected);
            prop_assert!(bench.keys() == 0 && bench.rejected().is_empty());
        }
    }
}
