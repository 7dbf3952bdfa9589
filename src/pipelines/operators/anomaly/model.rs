//! `anomaly` against a reckoning that keeps every value and starts from all of them each time.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::bench;

#[derive(Debug, Clone)]
struct Set {
    samples: usize,
    half_life: u32,
    warm_up: usize,
    threshold: f64,
    min_deviation: f64,
    direction: &'static str,
    relearn: Option<usize>,
    /// How long, and of how many slots.
    season: Option<(u64, u64)>,
}

impl Set {
    fn toml(&self, emit: &str) -> String {
        let Self { samples, half_life, warm_up, threshold, min_deviation, direction, .. } = self;
        let learn = self.relearn.map_or(String::new(), |relearn| format!("learn = \"normal\"\nrelearn = {relearn}\n"));
        let season = self.season.map_or(String::new(), |(ms, slots)| format!("season = \"{ms}ms\"\nslots = {slots}\n"));
        let counts = format!("samples = {samples}\nhalf_life = {half_life}\nwarm_up = {warm_up}");
        let limits = format!("threshold = {threshold:?}\nmin_deviation = {min_deviation:?}");
        format!(
            "{counts}\n{limits}\ndirection = \"{direction}\"\n{learn}{season}emit = \"{emit}\"\nkeys_idle = \"99ms\""
        )
    }
}

fn set() -> impl Strategy<Value = Set> {
    let limits = (prop_oneof![Just(0.1), Just(1.5), Just(4.0)], prop_oneof![Just(0.0), Just(0.5), Just(3.0)]);
    let direction = prop_oneof![2 => Just("both"), 1 => Just("above"), 1 => Just("below")];
    let season = proptest::option::of((5_u64..15, 1_u64..4));
    let counts = (8..24_usize, 1..40_u32, 1..8_usize, proptest::option::of(1..6_usize));
    (counts, limits, direction, season).prop_map(|(counts, limits, direction, season)| {
        let (samples, half_life, warm_up, relearn) = counts;
        let (threshold, min_deviation) = limits;
        Set { samples, half_life, warm_up, threshold, min_deviation, direction, relearn, season }
    })
}

/// Times and values.
fn values(most: usize) -> impl Strategy<Value = Vec<(u64, f64)>> {
    let value = prop_oneof![3 => (-4_i32..5).prop_map(f64::from), 2 => -10.0..10.0_f64, 1 => Just(100.0)];
    proptest::collection::vec((0_u64..6, value), 1..most).prop_map(|steps| {
        let next = |now: &mut u64, (after, value): (u64, f64)| {
            *now += after;
            Some((*now, value))
        };
        steps.into_iter().scan(0, next).collect()
    })
}

/// The smallest value at which the weights of all that are no greater come to half of all weights.
fn middle(weighted: &[(f64, u64)]) -> f64 {
    let weights_to =
        |most: f64| weighted.iter().filter(|(value, _)| *value <= most).map(|(_, weight)| weight).sum::<u64>();
    let enough = |value: &f64| 2 * weights_to(*value) >= weights_to(f64::INFINITY);
    weighted.iter().map(|(value, _)| *value).filter(enough).min_by(f64::total_cmp).unwrap()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as it is defined")]
fn weight(age: usize, half_life: u32) -> u64 {
    (32.0 - age as f64 / f64::from(half_life)).exp2() as u64
}

/// Of a slot every value that it had, and whether that was anomalous.
type History = Vec<(f64, bool)>;

/// Median, deviation, score, and whether it is anomalous.
fn judge(history: &[(f64, bool)], value: f64, set: &Set) -> Option<(f64, f64, f64, bool)> {
    let rows = history.chunk_by(|one, other| one.1 == other.1);
    let learned = rows.filter(|row| !row[0].1 || set.relearn.is_none_or(|relearn| row.len() >= relearn)).flatten();
    let mut weighted: Vec<(f64, u64)> = learned.map(|(value, _)| (*value, 0)).collect();
    weighted.reverse();
    weighted.truncate(set.samples);
    if weighted.len() < set.warm_up {
        return None;
    }
    (0..).zip(&mut weighted).for_each(|(age, of)| of.1 = weight(age, set.half_life));
    let median = middle(&weighted);
    let distances: Vec<(f64, u64)> = weighted.iter().map(|(value, weight)| ((value - median).abs(), *weight)).collect();
    let least = [set.min_deviation / set.threshold, 1e-9 * median.abs(), f64::MIN_POSITIVE];
    let deviation = least.into_iter().fold(1.4826 * middle(&distances), f64::max);
    let score = ((value - median) / deviation).clamp(-1e12, 1e12);
    let wanted = set.direction == "both" || (set.direction == "above") == (score > 0.0);
    let anomalous = wanted && score.abs() >= set.threshold && (value - median).abs() >= set.min_deviation;
    Some((median, deviation, score, anomalous))
}

/// What is told of a value, as far as it is reckoned here.
fn told(data: &Value) -> (String, Option<f64>, Option<f64>, Option<f64>, Option<u64>) {
    let number = |name: &str| data[name].as_f64();
    let state = data["state"].as_str().unwrap().to_owned();
    (state, number("expected"), number("deviation"), number("score"), data["duration_ms"].as_u64())
}

proptest! {
    #[test]
    fn what_is_told_is_what_comes_out_of_all_values_each_time(values in values(80), set in set()) {
        let (mut each, mut changes) = (bench(&set.toml("each")), bench(&set.toml("changes")));
        let (mut slots, mut since): (_, Option<u64>) = (vec![History::new(); 4], None);
        for (at, value) in values {
            let slot = set.season.map_or(0, |(length, slots)| (at % length / (length / slots)).min(slots - 1));
            let history = &mut slots[usize::try_from(slot).unwrap()];
            let judged = judge(history, value, &set);
            history.push((value, judged.is_some_and(|judged| judged.3)));

            let (mut of_each, mut of_changes) = (Vec::new(), Vec::new());
            if let Some((median, deviation, score, anomalous)) = judged {
                let line = |state: &str, lasted: Option<u64>| {
                    (state.to_owned(), Some(median), Some(deviation), Some(score), lasted)
                };
                match (anomalous, since) {
                    (true, None) => of_changes.push(line("started", None)),
                    (false, Some(since)) => of_changes.push(line("cleared", Some(at - since))),
                    _ => {}
                }
                if anomalous {
                    of_each.push(line("anomalous", None));
                }
                since = anomalous.then_some(since.unwrap_or(at));
            }
            let data = json!({ "x": value });
            prop_assert_eq!(each.event(at, data.clone()).iter().map(told).collect::<Vec<_>>(), of_each);
            prop_assert_eq!(changes.event(at, data).iter().map(told).collect::<Vec<_>>(), of_changes);
        }
    }

    #[test]
    fn a_restart_changes_nothing(
        values in values(60),
        set in set(),
        at in 0..60_usize,
        late in 0_u64..4,
        each in any::<bool>(),
    ) {
        let settings = set.toml(if each { "each" } else { "changes" });
        let (mut once, mut again) = (bench(&settings), bench(&settings));
        for (step, (now, value)) in values.into_iter().enumerate() {
            if step == at {
                again.restart();
            }
            let key = [None, Some("a"), Some("b")][step % 3];
            // A key comes every third time: now and then one comes late.
            let happened = if step % 5 == 0 { (100 + now).saturating_sub(late) } else { 100 + now };
            let [one, other] = [&mut once, &mut again].map(|bench| {
                let out = bench.full(happened, 100 + now, key, json!({ "x": value })).into_iter();
                let out: Vec<_> = out.map(|record| (record.timestamp_ms, record.key.clone(), record.value())).collect();
                (out, bench.rejected(), bench.due_ms(), bench.keys())
            });
            prop_assert_eq!(one, other);
        }
    }
}
