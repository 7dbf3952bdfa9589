//! `throttle`: at most one event of each key in each period.
//!
//! A key's first event goes on at once, and its first period begins with it. Its next periods follow on that one, each as long, whatever comes or is dropped. In each of them one event
//! may go on: the first one at once; of the others the last waits for the period's end and is the next period's one (`last`). After a whole period without an event the key's next
//! event is a first again, and periods begin anew with it. All by the pipeline's clock, which is arrival.
//!
//! *Late*: an event's own time is not looked at. *Missing or wrong*: a field of `by` that is missing, or no text, number or flag, makes the event a dead letter, and so does a key over
//! `keys_max`. What is throttled is dropped on purpose and is no dead letter.

use serde::{Deserialize, Serialize};

use super::held::{Held, Timetable};
use crate::pipelines::by::By;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

#[derive(Debug)]
struct Throttle {
    by: By,
    period_ms: u64,
    last: bool,
    periods: Keyed<Period>,
    /// The ends of those that hold an event.
    ends: Timetable,
}

/// The period that a key is in.
#[derive(Debug, Serialize, Deserialize)]
struct Period {
    begun_ms: u64,
    /// Whether an event came in it.
    seen: bool,
    /// Whether an event went on in it.
    spent: bool,
    held: Option<Held>,
}

impl Period {
    fn begun(now_ms: u64) -> Self {
        Self { begun_ms: now_ms, seen: false, spent: false, held: None }
    }

    fn end_ms(&self, period_ms: u64) -> u64 {
        self.begun_ms.saturating_add(period_ms)
    }

    /// Moves on to the period that it is now, if this one is over. What was held is let go, as that one's event.
    fn roll(&mut self, period_ms: u64, now_ms: u64) -> Option<Held> {
        let passed = now_ms.saturating_sub(self.begun_ms) / period_ms;
        if passed == 0 {
            return None;
        }
        let held = self.held.take();
        let rested = held.is_none() && (passed > 1 || !self.seen);
        self.begun_ms = if rested { now_ms } else { self.begun_ms + passed * period_ms };
        (self.seen, self.spent) = (false, held.is_some());
        held
    }
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let (by, period_ms, last) = (section.by("by"), section.time("period"), section.flag("last", true));
    // Not `key_limits`: two periods after its last event there is nothing left of a key to be kept, so there is nothing to set.
    let keys_max = usize::try_from(section.count_or("keys_max", 1..=10_000_000, 100_000)).unwrap_or(usize::MAX);
    let periods = Keyed::new(keys_max, period_ms.saturating_mul(2));
    Some(Box::new(Throttle { by, period_ms, last, periods, ends: Timetable::default() }))
}

impl Operator for Throttle {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let now_ms = cx.now_ms;
        let Some(period) = self.periods.entry(&key, now_ms, || Period::begun(now_ms)) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        let end_ms = period.end_ms(self.period_ms);
        if let Some(held) = period.roll(self.period_ms, now_ms) {
            self.ends.remove(end_ms, &key);
            cx.emit(held.into_record());
        }
        period.seen = true;
        if !period.spent {
            period.spent = true;
            return Next::Pass;
        }
        if self.last {
            if period.held.is_none() {
                self.ends.add(period.end_ms(self.period_ms), &key);
            }
            period.held = Some(Held::of(record));
        }
        Next::Drop
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        while let Some(key) = self.ends.take(cx.now_ms) {
            let held = self.periods.get_mut(&key).and_then(|period| period.roll(self.period_ms, cx.now_ms));
            if let Some(held) = held {
                cx.emit(held.into_record());
            }
        }
        // What was just let go counts for the period that it is now.
        let (now_ms, period_ms) = (cx.now_ms, self.period_ms);
        self.periods.expire(now_ms, |period| period.held.is_none() && period.end_ms(period_ms) <= now_ms);
    }

    fn due_ms(&self) -> Option<u64> {
        self.ends.first_ms().into_iter().chain(self.periods.due_ms()).min()
    }

    fn keys(&self) -> usize {
        self.periods.len()
    }

    fn save(&self) -> Vec<u8> {
        self.periods.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.periods.load(state)?;
        let holding = self.periods.iter().filter(|(_, period)| period.held.is_some());
        self.ends = holding.map(|(key, period)| (period.end_ms(self.period_ms), key.clone())).collect();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// When periods of a key begin, and what came in each, by its number.
    type Run = (u64, BTreeMap<u64, Vec<(u64, usize)>>);

    const STEP: &str = "op = \"throttle\"\nperiod = \"100ms\"";

    #[test]
    fn the_first_of_a_burst_comes_at_once_and_the_last_at_the_periods_end() {
        let mut bench = Bench::new(STEP);
        assert_eq!(bench.event(1000, json!(1)), [json!(1)]);
        assert!(bench.event(1010, json!(2)).is_empty() && bench.event(1099, json!(3)).is_empty());
        assert_eq!(bench.due_ms(), Some(1100));
        assert!(bench.clock(1099).is_empty());
        assert_eq!(bench.clock(1100), [json!(3)]);
        // That one was the next period's.
        assert!(bench.event(1150, json!(4)).is_empty());
        assert_eq!(bench.clock(1200), [json!(4)]);
        assert!(bench.rejected().is_empty(), "what is throttled is no dead letter");
    }

    #[test]
    fn an_event_goes_on_as_it_was() {
        let mut bench = Bench::new(STEP);
        bench.full(5, 1000, Some("a"), json!(1));
        bench.full(6, 1001, Some("a"), json!(2));
        let came = bench.clock_full(1100);
        let [record] = &came[..] else { panic!("one is expected: {came:?}") };
        assert_eq!(
            (record.timestamp_ms, record.arrived_ms, record.seq, record.key.as_deref()),
            (6, 1001, 2, Some("a"))
        );
    }

    #[test]
    fn without_last_only_the_first_of_each_period_comes_and_what_is_dropped_moves_no_period() {
        let mut bench = Bench::new(&format!("{STEP}\nlast = false"));
        let times = [1000, 1050, 1099, 1101, 1150, 1200, 1299];
        let came: Vec<u64> = times.into_iter().filter(|time| !bench.event(*time, json!(0)).is_empty()).collect();
        assert_eq!(came, [1000, 1101, 1200]);
    }

    #[test]
    fn after_a_whole_period_without_events_periods_begin_anew() {
        let mut bench = Bench::new(&format!("{STEP}\nlast = false"));
        assert_eq!(bench.event(1000, json!(1)).len(), 1);
        assert_eq!(bench.event(1250, json!(2)).len(), 1);
        assert!(bench.event(1349, json!(3)).is_empty(), "its period is from 1250 to 1350");
    }

    #[test]
    fn keys_have_periods_of_their_own_and_are_forgotten_when_they_rest() {
        let mut bench = Bench::new(&format!("{STEP}\nby = \"well\"\nkeys_max = 2"));
        assert_eq!(bench.event(1000, json!({ "well": "a" })).len(), 1);
        assert_eq!(bench.event(1010, json!({ "well": 7 })).len(), 1);
        assert!(bench.event(1020, json!({ "well": "c" })).is_empty() && bench.event(1020, json!({})).is_empty());
        assert_eq!(bench.rejected(), ["key: there are as many keys as keys_max allows", "data.well: is missing"]);
        assert_eq!(bench.keys(), 2);
        while let Some(due_ms) = bench.due_ms() {
            assert!(bench.clock(due_ms).is_empty() && due_ms < 1300);
        }
        assert_eq!(bench.keys(), 0);
    }

    #[test]
    fn a_period_must_be_said() {
        let faults = Bench::try_new("op = \"throttle\"\nlast = 1").unwrap_err();
        assert!(faults.contains("period is missing") && faults.contains("last: expected true or false"), "{faults}");
    }

    /// What comes out, by whole lists: each key's arrivals are parted into runs of periods, and each period's events are looked at together.
    fn model(arrivals: &[(u64, u8)], period_ms: u64, last: bool) -> Vec<(u64, usize)> {
        let mut by_key: BTreeMap<u8, Vec<(u64, usize)>> = BTreeMap::new();
        for (number, (time_ms, key)) in arrivals.iter().enumerate() {
            by_key.entry(*key).or_default().push((*time_ms, number));
        }
        let mut out = Vec::new();
        for events in by_key.into_values() {
            // Runs: where a period is left out, another run begins.
            let mut runs: Vec<Run> = Vec::new();
            for event in events {
                let fits = runs.last().is_some_and(|(begun_ms, periods)| {
                    (event.0 - begun_ms) / period_ms <= periods.last_key_value().unwrap().0 + 1
                });
                if !fits {
                    runs.push((event.0, BTreeMap::new()));
                }
                let (begun_ms, periods) = runs.last_mut().unwrap();
                periods.entry((event.0 - *begun_ms) / period_ms).or_default().push(event);
            }
            for (begun_ms, periods) in runs {
                let mut carried = false;
                for (number, events) in periods {
                    let waiting = if carried { &events[..] } else { &events[1..] };
                    if !carried {
                        out.push(events[0]);
                    }
                    carried = last && !waiting.is_empty();
                    if carried {
                        out.push((begun_ms + (number + 1) * period_ms, waiting.last().unwrap().1));
                    }
                }
            }
        }
        out.sort_unstable();
        out
    }

    proptest! {
        #[test]
        fn it_does_what_the_model_does_whenever_it_is_restarted(
            steps in proptest::collection::vec((0..60_u64, 0..3_u8, prop::bool::weighted(0.2)), 1..60),
            period_ms in 1..100_u64,
            last in any::<bool>(),
        ) {
            let mut bench = Bench::new(&format!("op = \"throttle\"\nperiod = \"{period_ms}ms\"\nlast = {last}"));
            let (mut now_ms, mut arrivals, mut out) = (1000_u64, Vec::new(), Vec::new());
            let number = |data: &Value| usize::try_from(data.as_u64().unwrap()).unwrap();
            for (pause, key, restart) in steps {
                now_ms += pause;
                while let Some(due_ms) = bench.due_ms().filter(|due_ms| *due_ms <= now_ms) {
                    out.extend(bench.clock(due_ms).iter().map(|data| (due_ms, number(data))));
                }
                if restart {
                    bench.restart();
                }
                let came = bench.keyed(now_ms, Some(&key.to_string()), json!(arrivals.len()));
                out.extend(came.iter().map(|data| (now_ms, number(data))));
                arrivals.push((now_ms, key));
            }
            while let Some(due_ms) = bench.due_ms() {
                out.extend(bench.clock(due_ms).iter().map(|data| (due_ms, number(data))));
            }
            out.sort_unstable();
            prop_assert_eq!(&out, &model(&arrivals, period_ms, last));
            prop_assert!(bench.keys() == 0 && bench.rejected().is_empty());
            if last {
                for key in 0..3 {
                    let newest = arrivals.iter().rposition(|(_, other)| *other == key);
                    prop_assert!(newest.is_none_or(|newest| out.iter().any(|(_, number)| *number == newest)));
                }
            }
        }

        #[test]
        fn a_clock_that_comes_late_lets_no_two_of_a_key_go_at_once(times in proptest::collection::vec(0..400_u64, 2..40)) {
            // Nobody moves the clock but the events, so that a held one goes only when the next one comes.
            let mut bench = Bench::new(STEP);
            let (mut now_ms, mut out) = (1000_u64, Vec::new());
            for pause in times {
                now_ms += pause;
                out.extend(bench.event(now_ms, json!(0)).iter().map(|_| now_ms));
            }
            out.extend(bench.clock(now_ms + 100).iter().map(|_| now_ms + 100));
            prop_assert!(out.windows(2).all(|two| two[0] < two[1]), "two at once: {:?}", out);
        }
    }
}
