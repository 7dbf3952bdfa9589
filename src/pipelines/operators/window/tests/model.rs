//! Windows against models that keep all events.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use super::{T, at, bench, late, lines, ms};
use crate::pipelines::testing::Bench;
use proptest::prelude::*;

/// Tumbling and sliding windows as they are defined: each keeps the events that it has taken.
struct Aligned {
    size: u64,
    every: u64,
    offset: u64,
    disorder: u64,
    lateness: u64,
    watermark: u64,
    /// Groups in the order of their first event.
    groups: Vec<String>,
    /// By end and group.
    windows: BTreeMap<(u64, usize), Vec<(u64, i64)>>,
    told: BTreeSet<(u64, usize)>,
    late: usize,
}

impl Aligned {
    fn tell(&self, window: (u64, usize), mark: &str) -> String {
        let events = &self.windows[&window];
        let values: Vec<i64> = events.iter().map(|(_, value)| *value).collect();
        let (sum, least): (i64, i64) = (values.iter().sum(), *values.iter().min().unwrap());
        let first = events.iter().min_by_key(|(time, _)| *time).unwrap().1;
        let last = events.iter().max_by_key(|(time, _)| *time).unwrap().1;
        let (end, key) = (i64::try_from(window.0 - T).unwrap(), &self.groups[window.1]);
        let start = end - i64::try_from(self.size).unwrap();
        format!("{start} {end} {key} {} {sum} {least} {first} {last}{mark}", values.len())
    }

    fn event(&mut self, time: u64, key: &str, value: i64) -> Vec<String> {
        self.watermark = self.watermark.max(time - self.disorder);
        let ended = |window: &&(u64, usize)| window.0 <= self.watermark && !self.told.contains(*window);
        let closed: Vec<(u64, usize)> = self.windows.keys().filter(ended).copied().collect();
        let mut out: Vec<String> = closed.iter().map(|window| self.tell(*window, "")).collect();
        self.told.extend(closed);
        let ends =
            (time + 1..=time + self.size).filter(|end| (end - self.offset - self.size).rem_euclid(self.every) == 0);
        let ends: Vec<u64> = ends.filter(|end| end + self.lateness > self.watermark).collect();
        if ends.is_empty() {
            self.late += 1;
            return out;
        }
        let group = self.groups.iter().position(|other| other == key).unwrap_or_else(|| {
            self.groups.push(key.to_owned());
            self.groups.len() - 1
        });
        for end in ends {
            self.windows.entry((end, group)).or_default().push((time, value));
            if end <= self.watermark {
                let again = !self.told.insert((end, group));
                out.push(self.tell((end, group), if again { " updated" } else { "" }));
            }
        }
        out
    }
}

/// A setting of each kind.
const KINDS: [(&str, &str); 3] = [
    ("tumbling", "size = \"30ms\""),
    ("sliding", "size = \"30ms\"\nevery = \"20ms\""),
    ("session", "gap = \"15ms\"\nmax = \"80ms\""),
];

type Step = (u64, u64, u8, i64, bool);

/// Events: how long after the one before, how long before its arrival, of which group, with what, whether there is a restart before.
fn steps(back: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = (0..50_u64, 0..=back, 0..3_u8, -100..100_i64, prop::bool::weighted(0.1));
    proptest::collection::vec(step, 1..80)
}

/// Sessions as they are defined, of all events at once: `start end key count sum min first last`, in no order.
fn sessions(events: &BTreeMap<String, Vec<(u64, i64)>>, gap: u64, max: u64) -> Vec<String> {
    let mut out = Vec::new();
    for (key, events) in events {
        let mut sorted = events.clone();
        sorted.sort_by_key(|(time, _)| *time);
        let mut runs: Vec<Vec<(u64, i64)>> = Vec::new();
        for event in sorted {
            match runs.last_mut() {
                Some(run) if event.0 - run.last().unwrap().0 < gap && event.0 - run[0].0 < max => run.push(event),
                _ => runs.push(vec![event]),
            }
        }
        for run in runs {
            let (start, last) = (run[0].0, run.last().unwrap());
            let (sum, least) = (run.iter().map(|(_, value)| value).sum::<i64>(), run.iter().map(|event| event.1).min());
            let end = (last.0 + gap).min(start + max) - T;
            let (start, least) = (start - T, least.unwrap());
            out.push(format!("{start} {end} {key} {} {sum} {least} {} {}", run.len(), run[0].1, last.1));
        }
    }
    out
}

/// What comes out of steps, and the events by group.
#[allow(clippy::type_complexity, reason = "what came out, and what went in by key")]
fn run(bench: &mut Bench, steps: &[Step]) -> (Vec<String>, BTreeMap<String, Vec<(u64, i64)>>) {
    let (mut now, mut out, mut events) = (1000_u64, Vec::new(), BTreeMap::<String, Vec<(u64, i64)>>::new());
    for &(pause, back, key, value, restart) in steps {
        now += pause;
        if restart {
            bench.restart();
        }
        let key = format!("k{key}");
        out.extend(late(bench, now - back, now, &key, value));
        events.entry(key).or_default().push((T + now - back, value));
    }
    out.extend(at(bench, now + 1_000_000, "last", 0));
    (out, events)
}

proptest! {
    #[test]
    fn tumbling_and_sliding_windows_are_those_of_the_model_whenever_they_are_restarted(
        steps in steps(100),
        (every, beyond, offset) in (1..30_u64, 0..70_u64, 0..50_u64),
        (disorder, lateness) in (0..40_u64, prop_oneof![Just(0_u64), 1..60_u64]),
    ) {
        let size = every + beyond;
        let (kind, step) = match beyond {
            0 => ("tumbling", String::new()),
            _ => ("sliding", format!("every = \"{every}ms\"\n")),
        };
        let times = format!("disorder = \"{}\"\nlateness = \"{}\"\nidle = \"0s\"", ms(disorder), ms(lateness));
        let mut bench = bench(kind, &format!("size = \"{size}ms\"\noffset = \"{}\"\n{step}{times}", ms(offset)));
        let mut model = Aligned {
            size, every, offset, disorder, lateness, watermark: 0, late: 0,
            groups: Vec::new(), windows: BTreeMap::new(), told: BTreeSet::new(),
        };
        let mut now = 1000_u64;
        for (pause, back, key, value, restart) in steps {
            now += pause;
            if restart {
                bench.restart();
            }
            let key = format!("k{key}");
            let came = late(&mut bench, now - back, now, &key, value);
            prop_assert_eq!(came, model.event(T + now - back, &key, value));
        }
        now += 1_000_000;
        prop_assert_eq!(at(&mut bench, now, "last", 0), model.event(T + now, "last", 0));
        prop_assert_eq!(bench.rejected().len(), model.late);
    }

    #[test]
    fn sessions_are_the_runs_of_all_events_in_whatever_order_they_come(
        steps in steps(100),
        gap in 1..120_u64,
    ) {
        let mut bench = bench("session", &format!("gap = \"{gap}ms\"\ndisorder = \"100ms\"\nidle = \"0s\""));
        let (mut out, events) = run(&mut bench, &steps);
        let mut expected = sessions(&events, gap, u64::MAX - T * 2);
        out.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(out, expected);
        prop_assert!(bench.rejected().is_empty());
    }

    #[test]
    fn sessions_in_order_are_no_longer_than_they_may_be(steps in steps(0), gap in 1..60_u64, beyond in 0..100_u64) {
        let max = gap + beyond;
        let mut bench = bench("session", &format!("gap = \"{gap}ms\"\nmax = \"{max}ms\"\nidle = \"0s\""));
        let (mut out, events) = run(&mut bench, &steps);
        let mut expected = sessions(&events, gap, max);
        out.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn restarts_and_ticks_of_the_clock_change_nothing_that_comes_out(
        steps in steps(60),
        ticks in proptest::collection::vec(0..50_u64, 80),
        ((kind, size), time) in (prop::sample::select(KINDS.to_vec()), any::<bool>()),
        lateness in prop_oneof![Just(0_u64), 1..60_u64],
    ) {
        let event = format!("disorder = \"10ms\"\nidle = \"20ms\"\nlateness = \"{}\"", ms(lateness));
        let time = if time { event } else { "time = \"arrival\"".to_owned() };
        let (mut one, mut other) = (bench(kind, &format!("{size}\n{time}")), bench(kind, &format!("{size}\n{time}")));
        let (mut now, mut all, mut others) = (1000_u64, Vec::new(), Vec::new());
        for ((pause, back, key, value, restart), tick) in steps.into_iter().zip(ticks) {
            all.extend(lines(&one.clock_full(T + now + tick.min(pause))));
            now += pause;
            if restart {
                one.restart();
            }
            let key = format!("k{key}");
            all.extend(late(&mut one, now - back, now, &key, value));
            others.extend(late(&mut other, now - back, now, &key, value));
        }
        all.extend(lines(&one.clock_full(T + now + 1000)));
        others.extend(lines(&other.clock_full(T + now + 1000)));
        prop_assert_eq!(all, others);
        prop_assert_eq!(one.rejected(), other.rejected());
    }
}
