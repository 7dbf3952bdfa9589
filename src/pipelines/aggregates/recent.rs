//! Figures of a group's newest events: the last so many, those of the last so long, those since a time of day. What leaves such a range leaves its figures.
//!
//! Events are kept as their values, in chunks with totals of their own: figures are put together of these, so that a range of n events takes n / 64 steps, not n. Bound: `events`, or
//! `samples_max` of an `age`; of a `reset` only totals are kept. `age` and `reset` go by the pipeline's clock, so nothing is late for them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::{Common, Noted, Plan, Totals, Values, is_name};
use crate::pipelines::field::Field;
use crate::pipelines::record::{Got, Record};
use crate::pipelines::section::Section;

/// So many events of a range have totals in common.
const CHUNK: usize = 64;
/// The most events of a range by number.
const EVENTS_MAX: u64 = 10_000;
/// The most events of a range by age, if the settings do not say.
const SAMPLES_MAX: u64 = 10_000;

/// How far back a range goes.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// So many events.
    Events(usize),
    /// So long, by the clock, and at most so many events.
    Age { ms: u64, samples_max: usize },
    /// To the last multiple of this time since 1970, by the clock.
    Reset { ms: u64 },
}

#[derive(Debug)]
struct Range {
    reach: Reach,
    plan: Plan,
}

/// The ranges that a step's settings name.
#[derive(Debug)]
pub(crate) struct Ranges(Vec<Range>);

/// An event's values for each range.
pub(crate) type RangeValues<'r> = SmallVec<[Values<'r>; 2]>;

/// What is kept of a group for one range.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Recent {
    Samples(Samples),
    Since { period: u64, heap: Heap },
}

/// Totals, and the times of the oldest and the newest event, in milliseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Heap {
    first_ms: u64,
    last_ms: u64,
    totals: Totals,
}

/// Events as their values, the oldest to arrive first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Samples {
    chunks: VecDeque<Chunk>,
    len: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Chunk {
    samples: VecDeque<Sample>,
    /// Whether the totals are those of its samples; not any more once one of them has left.
    whole: bool,
    heap: Heap,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    /// When it came, by the clock.
    came_ms: u64,
    time_ms: u64,
    values: Noted,
}

impl Heap {
    fn empty(plan: &Plan) -> Self {
        Self { first_ms: u64::MAX, last_ms: 0, totals: plan.empty() }
    }

    fn add(&mut self, plan: &Plan, values: &[Got<'_>], time_ms: u64) {
        (self.first_ms, self.last_ms) = (self.first_ms.min(time_ms), self.last_ms.max(time_ms));
        plan.add(&mut self.totals, values, time_ms);
    }

    fn merge(&mut self, plan: &Plan, other: &Self) {
        (self.first_ms, self.last_ms) = (self.first_ms.min(other.first_ms), self.last_ms.max(other.last_ms));
        plan.merge(&mut self.totals, &other.totals);
    }
}

impl Samples {
    fn push(&mut self, plan: &Plan, values: &[Got<'_>], time_ms: u64, came_ms: u64) {
        if self.chunks.back().is_none_or(|chunk| chunk.samples.len() >= CHUNK) {
            self.chunks.push_back(Chunk { samples: VecDeque::new(), whole: true, heap: Heap::empty(plan) });
        }
        // There is one by now.
        let Some(chunk) = self.chunks.back_mut() else { return };
        if chunk.whole {
            chunk.heap.add(plan, values, time_ms);
        }
        chunk.samples.push_back(Sample { came_ms, time_ms, values: Noted::of(values) });
        self.len += 1;
    }

    fn pop(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else { return };
        if chunk.samples.pop_front().is_some() {
            self.len -= 1;
        }
        chunk.whole = false;
        if chunk.samples.is_empty() {
            self.chunks.pop_front();
        }
    }

    fn oldest_ms(&self) -> Option<u64> {
        self.chunks.front()?.samples.front().map(|sample| sample.came_ms)
    }

    fn heap(&self, plan: &Plan) -> Heap {
        let mut all = Heap::empty(plan);
        for chunk in &self.chunks {
            if chunk.whole {
                all.merge(plan, &chunk.heap);
            } else {
                chunk.samples.iter().for_each(|sample| all.add(plan, &sample.values.values(), sample.time_ms));
            }
        }
        all
    }

    fn fits(&self, plan: &Plan) -> bool {
        let samples = || self.chunks.iter().flat_map(|chunk| &chunk.samples);
        samples().count() == self.len
            && samples().all(|sample| plan.noted(&sample.values))
            && self.chunks.iter().all(|chunk| !chunk.samples.is_empty() && plan.fits(&chunk.heap.totals))
    }
}

impl Ranges {
    /// Reads the tables `recent`.
    pub(crate) fn read(section: &mut Section<'_, '_>, common: &mut Common) -> Self {
        let mut ranges = Vec::new();
        for (at, mut table) in section.sections("recent").into_iter().enumerate() {
            table.rename(format!("{}, recent {}", section.name(), at + 1));
            ranges.extend(range(&mut table, common));
            table.finish();
        }
        Self(ranges)
    }

    /// A group without events.
    pub(crate) fn begin(&self) -> Box<[Recent]> {
        let empty = |range: &Range| match range.reach {
            Reach::Events(_) | Reach::Age { .. } => Recent::Samples(Samples::default()),
            Reach::Reset { .. } => Recent::Since { period: 0, heap: Heap::empty(&range.plan) },
        };
        self.0.iter().map(empty).collect()
    }

    /// Whether what was kept is of these ranges.
    pub(crate) fn fits(&self, recent: &[Recent]) -> bool {
        let fits = |(range, recent): (&Range, &Recent)| match (range.reach, recent) {
            (Reach::Events(_) | Reach::Age { .. }, Recent::Samples(samples)) => samples.fits(&range.plan),
            (Reach::Reset { .. }, Recent::Since { heap, .. }) => range.plan.fits(&heap.totals),
            _ => false,
        };
        self.0.len() == recent.len() && self.0.iter().zip(recent).all(fits)
    }

    /// An event's values for each range.
    ///
    /// # Errors
    /// As [`Plan::values`].
    pub(crate) fn values<'r>(&self, record: &'r Record) -> Result<RangeValues<'r>, (&Field, &'static str)> {
        self.0.iter().map(|range| range.plan.values(record)).collect()
    }

    /// Lets go what has left its range by now.
    pub(crate) fn pass(&self, recent: &mut [Recent], now_ms: u64) {
        for (range, recent) in self.0.iter().zip(recent) {
            match (range.reach, recent) {
                (Reach::Age { ms, .. }, Recent::Samples(samples)) => {
                    while samples.oldest_ms().is_some_and(|came_ms| came_ms.saturating_add(ms) <= now_ms) {
                        samples.pop();
                    }
                }
                (Reach::Reset { ms }, Recent::Since { period, heap }) if now_ms / ms != *period => {
                    (*period, *heap) = (now_ms / ms, Heap::empty(&range.plan));
                }
                _ => {}
            }
        }
    }

    /// Takes an event in. What has left by now was let go before.
    pub(crate) fn add(&self, recent: &mut [Recent], values: &RangeValues<'_>, time_ms: u64, now_ms: u64) {
        for ((range, values), recent) in self.0.iter().zip(values).zip(recent) {
            let plan = &range.plan;
            match (range.reach, recent) {
                (Reach::Events(max), Recent::Samples(samples)) if plan.concerns(values) => {
                    samples.push(plan, values, time_ms, now_ms);
                    if samples.len > max {
                        samples.pop();
                    }
                }
                (Reach::Age { samples_max, .. }, Recent::Samples(samples)) => {
                    samples.push(plan, values, time_ms, now_ms);
                    if samples.len > samples_max {
                        samples.pop();
                    }
                }
                (Reach::Reset { .. }, Recent::Since { heap, .. }) => heap.add(plan, values, time_ms),
                _ => {}
            }
        }
    }

    /// When time alone changes a figure next, in milliseconds since 1970.
    pub(crate) fn leaves_ms(&self, recent: &[Recent]) -> Option<u64> {
        let leaves = |(range, recent): (&Range, &Recent)| match (range.reach, recent) {
            (Reach::Age { ms, .. }, Recent::Samples(samples)) => Some(samples.oldest_ms()?.saturating_add(ms)),
            (Reach::Reset { ms }, Recent::Since { period, heap }) => {
                (heap.totals.count() > 0).then(|| (period + 1).saturating_mul(ms))
            }
            _ => None,
        };
        self.0.iter().zip(recent).filter_map(leaves).min()
    }

    /// Puts the figures into an event's data.
    pub(crate) fn write(&self, recent: &[Recent], data: &mut Map<String, Value>) {
        for (range, recent) in self.0.iter().zip(recent) {
            match recent {
                Recent::Samples(samples) => range.write(&samples.heap(&range.plan), data),
                Recent::Since { heap, .. } => range.write(heap, data),
            }
        }
    }
}

impl Range {
    fn write(&self, heap: &Heap, data: &mut Map<String, Value>) {
        let length_ms = heap.last_ms.saturating_sub(heap.first_ms);
        let rate = |count: u64| match self.reach {
            Reach::Age { ms, .. } => Some(count as f64 * 1000.0 / ms as f64),
            _ => (length_ms > 0).then(|| count.saturating_sub(1) as f64 * 1000.0 / length_ms as f64),
        };
        self.plan.write(&heap.totals, rate, data);
    }
}

fn range(table: &mut Section<'_, '_>, common: &mut Common) -> Option<Range> {
    let name = table.text("name");
    if table.has("name") && !is_name(&name) {
        table.fault("name", format!("{name:?} is no name: expected 1 to 100 letters, digits and underscores"));
    }
    let prefix = format!("{name}_");
    for own in ["count", "rate"] {
        common.take(table, "name", &format!("{prefix}{own}"));
    }
    let plan = Plan::of(table, common, &prefix);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let events = table.count_if_given("events", 1..=EVENTS_MAX);
    let mut time = |key| {
        let ms = table.time_if_given(key);
        if ms == Some(0) {
            table.fault(key, "expected a time longer than 0s");
        }
        ms.filter(|ms| *ms > 0)
    };
    let (age, reset) = (time("age"), time("reset"));
    let samples_max = size(table.count_or("samples_max", 1..=1_000_000, SAMPLES_MAX));
    let given: Vec<&str> = ["events", "age", "reset"].into_iter().filter(|key| table.has(key)).collect();
    if given.len() != 1 {
        table.fault(given.get(1).unwrap_or(&"events"), "expected exactly one of events, age and reset");
    }
    if table.has("samples_max") && !table.has("age") {
        table.fault("samples_max", "goes with age only");
    }
    let reach = match (events, age, reset) {
        (Some(events), _, _) => Reach::Events(size(events)),
        (_, Some(ms), _) => Reach::Age { ms, samples_max },
        (_, _, Some(ms)) => Reach::Reset { ms },
        _ => return None,
    };
    Some(Range { reach, plan })
}
