//! A weighted sample of the last values, and how far another one lies from it.
//!
//! The i-th newest of the last `samples` values (the newest is i = 0) weighs `floor(2^(32 - i / half_life))`: whole numbers, so that sums of weights are exact in whatever order they are
//! taken. The weighted median is the smallest value at which the weights of all values up to it, in ascending order, come to at least half of all weights. The spread is the weighted
//! median of the distances from that median, with the same weights: the median absolute deviation, MAD (Hampel, "The Influence Curve and Its Role in Robust Estimation", JASA 69, 1974).
//!
//! In Python, of `newest_first`, a list of at most `samples` values:
//!
//! ```text
//! def middle(pairs):
//!     half, weights = sum(weight for _, weight in pairs) / 2, 0
//!     for value, weight in sorted(pairs):
//!         weights += weight
//!         if weights >= half:
//!             return value
//! pairs  = [(value, int(2 ** (32 - i / half_life))) for i, value in enumerate(newest_first)]
//! median = middle(pairs)
//! mad    = middle([(abs(value - median), weight) for value, weight in pairs])
//! ```
//!
//! Cost: values are kept in ascending order, each with its number, and once more in the order in which they came, which says what is to be taken out. A new value is found its place by
//! bisection, and moving the others aside is a move of at most 2 KiB at 128 values. The median is then one walk upwards through at most all weights, and the spread one walk outwards
//! from it, nearer neighbour first, until half of the weights are met: nothing is sorted and nothing allocated. Some hundred nanoseconds at 128 values, and in proportion to them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// By which a MAD becomes what the standard deviation is of normally distributed values: 1 / Φ⁻¹(3/4).
const NORMAL: f64 = 1.4826;
/// A deviation is at least this part of the median: values that differ by less are the same but for rounding.
const RELATIVE: f64 = 1e-9;
/// The largest score, so that none is infinite where the deviation is next to nothing.
const SCORE_MAX: f64 = 1e12;

/// What each value weighs by its age, in values.
#[derive(Debug)]
pub(super) struct Weights {
    of: Vec<u64>,
    /// Of the newest so many together.
    sums: Vec<u64>,
}

impl Weights {
    /// For at most so many values; after `half_life` values a weight is half of what it was.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^32, and cut on purpose")]
    pub(super) fn new(samples: u32, half_life: u32) -> Self {
        let weight = |age: u32| (32.0 - f64::from(age) / f64::from(half_life)).exp2() as u64;
        let of: Vec<u64> = (0..samples).map(weight).collect();
        let sum = |sum: &mut u64, weight: &u64| {
            *sum += weight;
            Some(*sum)
        };
        let sums = std::iter::once(0).chain(of.iter().scan(0, sum)).collect();
        Self { of, sums }
    }

    /// How many values there are at most.
    pub(super) fn samples(&self) -> usize {
        self.of.len()
    }
}

/// Where a value lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judged {
    /// The median of those before it.
    pub(super) expected: f64,
    /// What counts as one deviation, never 0.
    pub(super) deviation: f64,
    /// How many deviations it is from the median, with its sign.
    pub(super) score: f64,
}

/// The last values.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<f64>", into = "Vec<f64>")]
pub(super) struct Sample {
    /// Ascending, each with its number.
    sorted: Vec<(f64, usize)>,
    /// As they came.
    ring: VecDeque<f64>,
    /// The number of the next one.
    next: usize,
}

impl Sample {
    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Takes a value in, in place of the oldest if there are as many as there may be.
    pub(super) fn push(&mut self, value: f64, weights: &Weights) {
        if self.ring.len() >= weights.samples() {
            let number = self.next - self.ring.len();
            if let Some(oldest) = self.ring.pop_front() {
                self.sorted.remove(self.place(oldest, number));
            }
        }
        self.sorted.insert(self.place(value, self.next), (value, self.next));
        self.ring.push_back(value);
        self.next += 1;
    }

    fn place(&self, value: f64, number: usize) -> usize {
        self.sorted.partition_point(|(other, at)| other.total_cmp(&value).then(at.cmp(&number)).is_lt())
    }

    /// Where a value lies among them, `None` if there are none. A deviation is at least `least`.
    pub(super) fn judge(&self, value: f64, least: f64, weights: &Weights) -> Option<Judged> {
        let (expected, mad) = self.middle(weights)?;
        // Not infinite, whatever the values: infinite ones divided by each other would be no number.
        let deviation = (NORMAL * mad).max(least).max(RELATIVE * expected.abs()).clamp(f64::MIN_POSITIVE, f64::MAX);
        let score = ((value - expected).clamp(f64::MIN, f64::MAX) / deviation).clamp(-SCORE_MAX, SCORE_MAX);
        Some(Judged { expected, deviation, score })
    }

    /// The weighted median and the weighted MAD.
    fn middle(&self, weights: &Weights) -> Option<(f64, f64)> {
        let all = weights.sums[self.sorted.len()];
        let weight = |at: usize| weights.of[self.next - 1 - self.sorted[at].1];
        let (mut at, mut met) = (0, 0);
        while at < self.sorted.len() {
            met += weight(at);
            if 2 * met >= all {
                break;
            }
            at += 1;
        }
        let median = self.sorted.get(at)?.0;
        // From `below` downwards (itself excluded) and from `above` upwards they were not met yet.
        let (mut below, mut above, mut met, mut mad) = (at, at + 1, weight(at), 0.0);
        while 2 * met < all {
            let under = below.checked_sub(1).map(|at| median - self.sorted[at].0);
            let over = self.sorted.get(above).map(|(value, _)| value - median);
            let down = match (under, over) {
                (Some(under), Some(over)) => under <= over,
                (under, _) => under.is_some(),
            };
            // As long as half of the weights is not met there is a value left.
            mad = if down { under? } else { over? };
            if down {
                below -= 1;
                met += weight(below);
            } else {
                met += weight(above);
                above += 1;
            }
        }
        Some((median, mad))
    }
}

/// Only the values and their order matter, not what their numbers were.
impl From<Sample> for Vec<f64> {
    fn from(sample: Sample) -> Self {
        sample.ring.into()
    }
}

impl From<Vec<f64>> for Sample {
    fn from(values: Vec<f64>) -> Self {
        let mut sorted: Vec<(f64, usize)> = values.iter().copied().zip(0..).collect();
        sorted.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        Self { sorted, next: values.len(), ring: values.into() }
    }
}
