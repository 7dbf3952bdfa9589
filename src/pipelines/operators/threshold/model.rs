//! `threshold` against what a step function says, by which alarms are worked out otherwise: millisecond by millisecond.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{bench, lines};
use crate::pipelines::record::Record;

/// Settings of a band, in milliseconds and in the values' own unit.
#[derive(Debug, Clone, Copy)]
struct Band {
    above: i32,
    clear_above: i32,
    below: i32,
    clear_below: i32,
    hold: u64,
    hold_clear: u64,
}

fn ms(ms: u64) -> String {
    if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") }
}

impl Band {
    fn toml(&self, keys_idle: &str) -> String {
        let Self { above, clear_above, below, clear_below, hold, hold_clear } = *self;
        let (hold, hold_clear) = (ms(hold), ms(hold_clear));
        let above = format!("above = {above}\nclear_above = {clear_above}");
        let below = format!("below = {below}\nclear_below = {clear_below}");
        let holds = format!("hold = \"{hold}\"\nhold_clear = \"{hold_clear}\"");
        format!("field = \"usage\"\n{above}\n{below}\n{holds}\nkeys_idle = \"{keys_idle}\"")
    }
}

fn band() -> impl Strategy<Value = Band> {
    (5_i32..9, 0_i32..3, 1_i32..5, 0_i32..3, 0_u64..8, 0_u64..8).prop_map(
        |(above, lower, below, higher, hold, hold_clear)| Band {
            above,
            clear_above: above - lower,
            below,
            clear_below: below + higher,
            hold,
            hold_clear,
        },
    )
}

/// When, why, started or cleared, the value, and how long the alarm had been.
type Told = (u64, &'static str, &'static str, i64, Option<u64>);

fn told(records: Vec<Record>) -> Vec<Told> {
    let told = |record: Record| {
        let data = record.value();
        let word = |name: &str, words: [&'static str; 2]| words.into_iter().find(|word| data[name] == **word).unwrap();
        let (reason, state) = (word("reason", ["above", "below"]), word("state", ["started", "cleared"]));
        (record.timestamp_ms, reason, state, data["value"].as_i64().unwrap(), data["duration_ms"].as_u64())
    };
    records.into_iter().map(told).collect()
}

#[derive(Default)]
struct Rule {
    since: Option<u64>,
    started: Option<u64>,
}

/// A step function, walked through one millisecond after the other: at each of them what held until then, and then what comes.
fn walked(values: &[(u64, i32)], band: &Band, end: u64) -> Vec<Told> {
    let (mut out, mut rules, mut held) = (Vec::new(), [Rule::default(), Rule::default()], None);
    for now in 0..=end {
        let come = values.iter().find(|(at, _)| *at == now).map(|(_, value)| *value);
        for value in [held, come].into_iter().flatten() {
            let mut changes: Vec<Told> = Vec::new();
            for (rule, reason) in rules.iter_mut().zip(["above", "below"]) {
                let (wanted, hold) = match (rule.started, reason) {
                    (None, "above") => (value > band.above, band.hold),
                    (None, _) => (value < band.below, band.hold),
                    (Some(_), "above") => (value <= band.clear_above, band.hold_clear),
                    (Some(_), _) => (value >= band.clear_below, band.hold_clear),
                };
                if !wanted {
                    rule.since = None;
                } else if now - *rule.since.get_or_insert(now) >= hold {
                    rule.since = None;
                    let started = rule.started.take();
                    let state = if started.is_some() { "cleared" } else { "started" };
                    changes.push((now, reason, state, value.into(), started.map(|started| now - started)));
                    if started.is_none() {
                        rule.started = Some(now);
                    }
                }
            }
            // "cleared" is before "started" in the alphabet, too.
            changes.sort_by_key(|change| change.2);
            out.extend(changes);
        }
        held = come.or(held);
    }
    out
}

fn usages() -> impl Strategy<Value = Vec<(u64, i32)>> {
    proptest::collection::vec((1_u64..7, 0_i32..11), 1..40).prop_map(|steps| {
        let next = |now: &mut u64, (after, value): (u64, i32)| {
            *now += after;
            Some((*now, value))
        };
        steps.into_iter().scan(0, next).collect()
    })
}

proptest! {
    #[test]
    fn alarms_are_those_of_the_step_function_that_the_values_make_however_the_clock_is_told(
        values in usages(),
        band in band(),
    ) {
        let last = values.last().unwrap().0;
        let end = last + 20;
        let expected = walked(&values, &band, end);
        let data = |value: i32| json!({ "usage": value });

        // The clock is heard of with the events only.
        let (mut sparse, mut out) = (bench(&band.toml("0s")), Vec::new());
        for (at, value) in &values {
            out.extend(sparse.full(*at, *at, None, data(*value)));
        }
        out.extend(sparse.clock_full(end));
        prop_assert_eq!(told(out), expected.clone());

        // The clock is heard of all the time.
        let (mut dense, mut out) = (bench(&band.toml("0s")), Vec::new());
        for now in 0..=end {
            out.extend(dense.clock_full(now));
            if let Some((_, value)) = values.iter().find(|(at, _)| *at == now) {
                out.extend(dense.full(now, now, None, data(*value)));
            }
        }
        prop_assert_eq!(told(out), expected.clone());

        // Everything comes at once, long after it happened.
        let (mut late, mut out) = (bench(&band.toml("0s")), Vec::new());
        for (at, value) in &values {
            out.extend(late.full(*at, 1_000_000, None, data(*value)));
        }
        out.extend(late.clock_full(1_000_000 + end - last));
        prop_assert_eq!(told(out), expected.clone());
    }

    #[test]
    fn a_silence_is_an_alarm_from_its_limit_to_its_end(
        gaps in proptest::collection::vec(1_u64..20, 1..30),
        limit in 1_u64..20,
    ) {
        let (mut bench, mut now, mut expected) = (bench(&format!("no_data = \"{limit}ms\"")), 0, Vec::new());
        let mut out = bench.full(0, 0, Some("a"), Value::Null);
        for gap in gaps {
            if gap >= limit {
                expected.push(format!("{} a no_data started", now + limit));
                expected.push(format!("{} a no_data cleared", now + gap));
            }
            now += gap;
            out.extend(bench.full(now, now, Some("a"), Value::Null));
        }
        prop_assert_eq!(lines(&out), expected);
    }

    #[test]
    fn a_restart_changes_nothing(
        steps in proptest::collection::vec((0_u64..6, 0_u64..6, 0..3_usize, -1_i32..11), 1..50),
        at in 0..50_usize,
        band in band(),
        silence in 0_u64..12,
    ) {
        let no_data = format!("\nno_data = \"{silence}ms\"\nexpect = [\"a\", \"z\"]");
        let settings = band.toml("16ms") + if silence == 0 { "" } else { no_data.as_str() };
        let (mut once, mut again, mut now) = (bench(&settings), bench(&settings), 10);
        for (step, (after, delay, key, value)) in steps.into_iter().enumerate() {
            now += after;
            let data = if value < 0 { json!({}) } else { json!({ "usage": value }) };
            let key = [None, Some("a"), Some("b")][key];
            if step == at {
                again.restart();
            }
            let [one, other] = [&mut once, &mut again].map(|bench| {
                let out = bench.full(now - delay, now, key, data.clone()).into_iter();
                let out: Vec<_> = out.map(|record| (record.timestamp_ms, record.key.clone(), record.value())).collect();
                (out, bench.rejected(), bench.due_ms(), bench.keys())
            });
            prop_assert_eq!(one, other);
        }
    }
}
