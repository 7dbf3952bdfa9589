//! `anomaly`: tells for each key when a number is far from where it has been of late.
//!
//! `method = "zscore"`, the robust z-score: a value is anomalous when it lies at least `threshold` deviations from the median of the last `samples` values, newer ones weighing more. One
//! deviation is 1.4826 · MAD, which is the standard deviation if values are normally distributed, but at least `min_deviation / threshold` and at least a billionth of the median, so that a
//! value that never moved has a deviation, too. This is the modified z-score of Iglewicz and Hoaglin ("How to Detect and Handle Outliers", ASQC Quality Press, 1993; their 0.6745 is
//! 1 / 1.4826). They call 3.5 and more an outlier of a list; a stream is judged at every value, and by a sample, and of normal noise 3.5 takes 16 values in 10,000 for anomalies, the 4.0
//! that is the default here 4. What the median and the MAD of weighted values are stands in `anomaly/sample.rs`.
//!
//! A value is judged by those before it and then learned. With `learn = "normal"` an anomalous value is not learned, until there were `relearn` of them in a row: then these are, and what
//! follows of the row. With `season`, values are judged by, and learned for, the same slot of the season only: with `season = "24h"` and `slots = 24` the same hour of other days, by UTC.
//! The slot is `min(timestamp % season // (season // slots), slots - 1)` in whole milliseconds since 1970, and a row is one of the slot. As long as a key (or a slot) has learned fewer than
//! `warm_up` values they are not judged: they neither start nor end an anomaly.
//!
//! Late: a value that happened before the last one of its key would be judged by its future: it is neither judged nor learned and is a dead letter. Missing or wrong: an event without the
//! number, or whose `by` gives no text, number or flag, is a dead letter, and so is that of a key over `keys_max`. With `missing = "skip"` an event without the number, or with `null`, is
//! passed over. All by the times at which values happened; the clock only forgets keys.
//!
//! Bounds: `keys_max` keys with `slots` slots of `samples` values of 24 bytes, 3 KiB for a key with the defaults and 24 times that with a season. A key that was not heard of for
//! `keys_idle` is forgotten, but not while an anomaly that was told is to be ended.

mod sample;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::sample::{Judged, Sample, Weights};
use crate::clock::rfc3339;
use crate::event::Lane;
use crate::pipelines::by::By;
use crate::pipelines::field::Field;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::{Got, Record, number_value};
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// The longest kind, in characters.
const KIND_MAX: usize = 100;

#[derive(Debug)]
struct Anomaly {
    by: By,
    field: Field,
    rules: Rules,
    told: Told,
    /// Whether an event without the number goes by.
    skip: bool,
    /// Whether every anomalous value is told, not where a row of them starts and ends.
    each: bool,
    /// What becomes of the watched events.
    next: Next,
    table: Keyed<Watch>,
}

/// What is anomalous, and what is learned.
#[derive(Debug)]
struct Rules {
    weights: Weights,
    threshold: f64,
    min_deviation: f64,
    /// Whether what lies above, and what lies below, can be anomalous.
    above: bool,
    below: bool,
    warm_up: usize,
    /// After so many anomalous values in a row they are learned; at once if it is not said.
    relearn: Option<usize>,
    season: Option<Season>,
}

/// Times that are alike.
#[derive(Debug, Clone, Copy)]
struct Season {
    length_ms: u64,
    slots: u64,
}

impl Season {
    fn slot(self, at_ms: u64) -> u64 {
        let width_ms = (self.length_ms / self.slots).max(1);
        ((at_ms % self.length_ms) / width_ms).min(self.slots - 1)
    }
}

/// How anomalies are told.
#[derive(Debug)]
struct Told {
    kind: String,
    name: String,
    severity: String,
    priority: Lane,
    /// The watched field's name.
    field: String,
}

/// What is known of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Watch {
    /// When its last value happened.
    seen_ms: u64,
    /// Since when values are anomalous.
    since_ms: Option<u64>,
    /// One, or one for each slot of the season.
    slots: Vec<Slot>,
}

/// What was learned, and what may have to be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Slot {
    sample: Sample,
    /// Anomalous values in a row, as long as they are not learned.
    held: Vec<f64>,
    /// Whether the row that there is was so long that it is learned.
    learning: bool,
}

impl Slot {
    fn learn(&mut self, value: f64, anomalous: bool, rules: &Rules) {
        if let Some(relearn) = rules.relearn {
            self.learning &= anomalous;
            if !anomalous {
                self.held.clear();
            } else if !self.learning {
                self.held.push(value);
                if self.held.len() >= relearn {
                    self.learning = true;
                    self.held.drain(..).for_each(|value| self.sample.push(value, &rules.weights));
                }
                return;
            }
        }
        self.sample.push(value, &rules.weights);
    }
}

impl Rules {
    fn slots(&self) -> u64 {
        self.season.map_or(1, |season| season.slots)
    }

    fn slot(&self, at_ms: u64) -> usize {
        let slot = self.season.map_or(0, |season| season.slot(at_ms));
        usize::try_from(slot).unwrap_or_default()
    }

    /// Where a value lies, and whether that is anomalous; `None` if too little was learned to tell.
    fn judge(&self, value: f64, sample: &Sample) -> Option<(Judged, bool)> {
        if sample.len() < self.warm_up {
            return None;
        }
        let judged = sample.judge(value, self.min_deviation / self.threshold, &self.weights)?;
        let wanted = if judged.score > 0.0 { self.above } else { self.below };
        let far = judged.score.abs() >= self.threshold && (value - judged.expected).abs() >= self.min_deviation;
        Some((judged, wanted && far))
    }
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let (by, field) = (section.by("by"), section.field("field"));
    // One of one: there may be others.
    let _ = section.choice("method", &["zscore"], Some("zscore"));
    let samples = section.count_or("samples", 8..=4096, 128);
    let half_life = section.count_or("half_life", 1..=1_000_000, samples / 4);
    let threshold = section.number_or("threshold", 0.1..=1_000_000.0, 4.0);
    let min_deviation = section.number_if_given("min_deviation").unwrap_or(0.0);
    let warm_up = section.count_or("warm_up", 1..=4096, samples.min(16));
    let normal_only = section.choice("learn", &["all", "normal"], Some("all")) == "normal";
    let relearn = section.count_if_given("relearn", 1..=4096);
    let direction = section.choice("direction", &["both", "above", "below"], Some("both"));
    let season_ms = section.time_if_given("season");
    let slots = section.count_if_given("slots", 1..=1000);
    let skip = section.choice("missing", &["dead_letter", "skip"], Some("dead_letter")) == "skip";
    let each = section.choice("emit", &["changes", "each"], Some("changes")) == "each";
    let next = if section.flag("pass", false) { Next::Pass } else { Next::Drop };
    let told = Told {
        kind: section.text_if_given("as_kind").unwrap_or_else(|| "anomaly".to_owned()),
        name: section.text_if_given("name").unwrap_or_else(|| "anomaly".to_owned()),
        severity: section.text_if_given("severity").unwrap_or_else(|| "warning".to_owned()),
        priority: section.priority_if_given("priority").unwrap_or(Lane::High),
        field: field.to_string(),
    };
    let (keys_max, idle_ms) = section.key_limits();

    let season = season_ms.map(|length_ms| Season { length_ms, slots: slots.unwrap_or(24) });
    let faults = [
        (min_deviation < 0.0, "min_deviation", "expected a number that is at least 0"),
        (warm_up > samples, "warm_up", "expected at most samples, or nothing would ever be judged"),
        (relearn.is_some() && !normal_only, "relearn", "with learn = \"all\" everything is learned at once"),
        (slots.is_some() && !section.has("season"), "slots", "there is no season to be parted"),
        (season.is_some_and(|season| season.length_ms < season.slots), "season", "expected at least 1ms for each slot"),
        (!(1..=KIND_MAX).contains(&told.kind.chars().count()), "as_kind", "expected 1 to 100 characters"),
    ];
    let mut faulty = false;
    for (_, setting, message) in faults.into_iter().filter(|(wrong, ..)| *wrong) {
        section.fault(setting, message);
        faulty = true;
    }
    if faulty {
        return None;
    }
    let rules = Rules {
        weights: Weights::new(u32::try_from(samples).ok()?, u32::try_from(half_life).ok()?),
        threshold,
        min_deviation,
        above: direction != "below",
        below: direction != "above",
        warm_up: usize::try_from(warm_up).ok()?,
        relearn: if normal_only { Some(usize::try_from(relearn.unwrap_or(20)).ok()?) } else { None },
        season,
    };
    Some(Box::new(Anomaly { by, field, rules, told, skip, each, next, table: Keyed::new(keys_max, idle_ms) }))
}

impl Told {
    fn data(&self, state: &str, value: f64, judged: &Judged, since_ms: u64) -> Value {
        json!({
            "anomaly": self.name,
            "state": state,
            "value": number_value(value),
            "expected": number_value(judged.expected),
            "deviation": number_value(judged.deviation),
            "score": number_value(judged.score),
            "severity": self.severity,
            "field": self.field,
            "since": rfc3339(since_ms),
        })
    }
}

impl Operator for Anomaly {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.by.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let value = match record.number(&self.field) {
            Ok(value) => value,
            Err(Got::Missing | Got::Null) if self.skip => return self.next,
            Err(_) => return cx.reject_field(record, &self.field, "a number"),
        };
        let (at_ms, rules) = (record.timestamp_ms, &self.rules);
        let new = || {
            let slots = (0..rules.slots()).map(|_| Slot::default()).collect();
            Watch { seen_ms: at_ms, since_ms: None, slots }
        };
        let Some(watch) = self.table.entry(&key, cx.now_ms, new) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        if at_ms < watch.seen_ms {
            return cx.reject(record, "timestamp", Why::Late { by_ms: watch.seen_ms - at_ms });
        }
        watch.seen_ms = at_ms;
        // There always is one: the state of other settings is not taken.
        let Some(slot) = watch.slots.get_mut(rules.slot(at_ms)) else { return self.next };
        let judged = rules.judge(value, &slot.sample);
        slot.learn(value, judged.is_some_and(|(_, anomalous)| anomalous), rules);
        let Some((judged, anomalous)) = judged else { return self.next };
        let (before, started_ms) = (watch.since_ms, watch.since_ms.unwrap_or(at_ms));
        watch.since_ms = anomalous.then_some(started_ms);
        let state = match (anomalous, before) {
            (true, _) if self.each => "anomalous",
            (true, None) => "started",
            (false, Some(_)) if !self.each => "cleared",
            _ => return self.next,
        };
        let mut data = self.told.data(state, value, &judged, started_ms);
        if state == "cleared" {
            data["duration_ms"] = Value::from(at_ms - started_ms);
        }
        let mut told = record.derived(&self.told.kind, data);
        told.key = (!key.is_empty()).then_some(key);
        told.priority = self.told.priority;
        cx.emit(told);
        self.next
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.table.expire(cx.now_ms, |watch| self.each || watch.since_ms.is_none());
    }

    fn due_ms(&self) -> Option<u64> {
        self.table.due_ms()
    }

    fn keys(&self) -> usize {
        self.table.len()
    }

    fn save(&self) -> Vec<u8> {
        self.table.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.table.load(state)?;
        let (slots, samples) = (self.rules.slots(), self.rules.weights.samples());
        let fits = |watch: &Watch| {
            u64::try_from(watch.slots.len()) == Ok(slots) && watch.slots.iter().all(|slot| slot.sample.len() <= samples)
        };
        if self.table.iter().all(|(_, watch)| fits(watch)) { Ok(()) } else { Err(BadState) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod model;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
