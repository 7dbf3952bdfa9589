//! What is kept of one field's values: a few numbers for each kind of figure, whatever many values there were.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sketches_ddsketch::{Config, DDSketch};
use smol_str::SmolStr;

use super::{Function, Values};
use crate::pipelines::record::{Got, number_value};

/// A value that is kept itself; equal ones are equal and the order is total, which numbers alone do not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Kept {
    Flag(bool),
    /// Its bits; 0 has one sign.
    Number(u64),
    Text(SmolStr),
}

impl Kept {
    /// Keeps text, a number or a flag; nothing else is.
    pub(super) fn of(value: Got<'_>) -> Option<Self> {
        match value {
            Got::Bool(flag) => Some(Self::Flag(flag)),
            // Minus zero and zero are zero.
            Got::Number(number) => Some(Self::Number((number + 0.0).to_bits())),
            Got::Text(text) => Some(Self::Text(text.into())),
            Got::Missing | Got::Null | Got::Tree(_) => None,
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        if let Self::Number(bits) = self { Some(f64::from_bits(*bits)) } else { None }
    }

    /// The value again.
    fn got(&self) -> Got<'_> {
        match self {
            Self::Flag(flag) => Got::Bool(*flag),
            Self::Number(bits) => Got::Number(f64::from_bits(*bits)),
            Self::Text(text) => Got::Text(text),
        }
    }

    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Flag(flag) => Value::from(*flag),
            Self::Number(bits) => number_value(f64::from_bits(*bits)),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }
}

/// An event's values of a plan's fields, kept; `None` where it has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noted(Box<[Option<Kept>]>);

impl Noted {
    /// Keeps values.
    pub(crate) fn of(values: &[Got<'_>]) -> Self {
        Self(values.iter().map(|value| Kept::of(*value)).collect())
    }

    /// The values again.
    pub(crate) fn values(&self) -> Values<'_> {
        self.0.iter().map(|kept| kept.as_ref().map_or(Got::Missing, Kept::got)).collect()
    }

    /// Of how many fields.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What one or several functions need of a field's values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Cell {
    Count(u64),
    Sum(Sum),
    Min(f64),
    Max(f64),
    /// With its time in milliseconds since 1970.
    First(Option<(u64, Kept)>),
    Last(Option<(u64, Kept)>),
    Spread(Spread),
    Sketch(Box<Sketch>),
    Distinct(BTreeSet<Kept>),
    Line(Box<Line>),
}

impl Cell {
    /// Takes a value in.
    pub(super) fn add(&mut self, value: Got<'_>, time_ms: u64, distinct_max: usize) {
        match (self, value) {
            (Self::Count(count), _) => *count += 1,
            (Self::Sum(sum), Got::Number(number)) => sum.add(number),
            (Self::Min(least), Got::Number(number)) => *least = least.min(number),
            (Self::Max(greatest), Got::Number(number)) => *greatest = greatest.max(number),
            (Self::First(first), value) if first.as_ref().is_none_or(|(at_ms, _)| time_ms < *at_ms) => {
                *first = Kept::of(value).map(|kept| (time_ms, kept));
            }
            (Self::Last(last), value) if last.as_ref().is_none_or(|(at_ms, _)| time_ms >= *at_ms) => {
                *last = Kept::of(value).map(|kept| (time_ms, kept));
            }
            (Self::Spread(spread), Got::Number(number)) => spread.add(number),
            (Self::Sketch(sketch), Got::Number(number)) => sketch.0.add(number),
            (Self::Distinct(values), value) if values.len() < distinct_max => values.extend(Kept::of(value)),
            (Self::Line(line), Got::Number(number)) => line.add(time_ms, number),
            _ => {}
        }
    }

    /// Takes in what another cell of the same kind has.
    pub(super) fn merge(&mut self, other: &Self, distinct_max: usize) {
        match (self, other) {
            (Self::Count(count), Self::Count(others)) => *count += others,
            (Self::Sum(sum), Self::Sum(other)) => sum.merge(*other),
            (Self::Min(least), Self::Min(other)) => *least = least.min(*other),
            (Self::Max(greatest), Self::Max(other)) => *greatest = greatest.max(*other),
            (Self::First(first), Self::First(Some(other)))
                if first.as_ref().is_none_or(|(at_ms, _)| other.0 < *at_ms) =>
            {
                *first = Some(other.clone());
            }
            (Self::Last(last), Self::Last(Some(other))) if last.as_ref().is_none_or(|(at_ms, _)| other.0 >= *at_ms) => {
                *last = Some(other.clone());
            }
            (Self::Spread(spread), Self::Spread(other)) => spread.merge(other),
            // Two of the same accuracy always fit.
            (Self::Sketch(sketch), Self::Sketch(other)) => {
                let _ = sketch.0.merge(&other.0);
            }
            (Self::Distinct(values), Self::Distinct(others)) => {
                for other in others {
                    if values.len() >= distinct_max {
                        break;
                    }
                    values.insert(other.clone());
                }
            }
            (Self::Line(line), Self::Line(other)) => line.merge(other),
            _ => {}
        }
    }

    /// What it says of so many values, if it is what this function needs.
    pub(super) fn answer(&self, function: Function, count: u64) -> Option<Value> {
        Some(match (self, function) {
            (Self::Sum(sum), Function::Sum) => number_value(sum.total()),
            (Self::Sum(sum), Function::Mean) => number_value(sum.total() / count as f64),
            (Self::Min(number), Function::Min) | (Self::Max(number), Function::Max) => number_value(*number),
            (Self::First(Some((_, kept))), Function::First) | (Self::Last(Some((_, kept))), Function::Last) => {
                kept.to_value()
            }
            (Self::Spread(spread), Function::Stddev) => number_value(spread.stddev()),
            (Self::Sketch(sketch), Function::P50) => sketch.quantile(0.5),
            (Self::Sketch(sketch), Function::P95) => sketch.quantile(0.95),
            (Self::Sketch(sketch), Function::P99) => sketch.quantile(0.99),
            (Self::Distinct(values), Function::Distinct) => Value::from(values.len()),
            (Self::Line(line), Function::Trend) => line.slope().map_or(Value::Null, number_value),
            _ => return None,
        })
    }
}

/// A sum, and what rounding has taken from it: A. Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen", 1974. The error of each addition is exact, by Knuth's
/// `TwoSum` (TAOCP 2, 4.2.2), which needs no branch.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    fn add(&mut self, number: f64) {
        let sum = self.sum + number;
        let added = sum - self.sum;
        self.lost += (self.sum - (sum - added)) + (number - added);
        self.sum = sum;
    }

    fn merge(&mut self, other: Self) {
        self.add(other.sum);
        self.lost += other.lost;
    }

    fn total(self) -> f64 {
        // Beyond the greatest number nothing is known of what was lost.
        if self.sum.is_finite() { self.sum + self.lost } else { self.sum }
    }
}

/// The mean and the sum of squares about it: B. P. Welford, "Note on a method for calculating corrected sums of squares and products", 1962; put together as by Chan, Golub and LeVeque,
/// "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Spread {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, number: f64) {
        self.count += 1;
        let off = number - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (number - self.mean);
    }

    fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (own, others) = (self.count as f64, other.count as f64);
        let (off, all) = (other.mean - self.mean, own + others);
        self.count += other.count;
        self.mean += off * (others / all);
        self.squares += other.squares + off * off * (own * others / all);
    }

    fn stddev(&self) -> f64 {
        (self.squares / self.count as f64).sqrt()
    }
}

/// Quantiles within 1 %: C. Masson, J. E. Rim, H. K. Lee, "`DDSketch`: A fast and fully-mergeable quantile sketch with relative-error guarantees", 2019.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Sketch(DDSketch);

impl Default for Sketch {
    fn default() -> Self {
        Self(DDSketch::new(Config::defaults()))
    }
}

impl fmt::Debug for Sketch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sketch").field("count", &self.0.count()).finish_non_exhaustive()
    }
}

impl Sketch {
    fn quantile(&self, q: f64) -> Value {
        let found = self.0.quantile(q).ok().flatten();
        match (found, self.0.min(), self.0.max()) {
            // The ends are known exactly.
            (Some(found), Some(least), Some(greatest)) => number_value(found.max(least).min(greatest)),
            _ => Value::Null,
        }
    }
}

/// The least-squares line through values over time, in seconds since the first value that came: means, and sums of squares and products about them, as in [`Spread`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Line {
    count: u64,
    from_ms: u64,
    time: f64,
    value: f64,
    squares: f64,
    products: f64,
}

/// Milliseconds from one time to another, in seconds.
fn seconds(from_ms: u64, to_ms: u64) -> f64 {
    (to_ms as f64 - from_ms as f64) / 1000.0
}

impl Line {
    fn add(&mut self, time_ms: u64, number: f64) {
        if self.count == 0 {
            self.from_ms = time_ms;
        }
        self.count += 1;
        let time = seconds(self.from_ms, time_ms);
        let off = time - self.time;
        self.time += off / self.count as f64;
        self.value += (number - self.value) / self.count as f64;
        self.products += off * (number - self.value);
        self.squares += off * (time - self.time);
    }

    fn merge(&mut self, other: &Self) {
        if self.count == 0 {
            self.clone_from(other);
            return;
        }
        if other.count == 0 {
            return;
        }
        let (own, others) = (self.count as f64, other.count as f64);
        let all = own + others;
        let off = other.time + seconds(self.from_ms, other.from_ms) - self.time;
        let apart = other.value - self.value;
        self.count += other.count;
        self.time += off * (others / all);
        self.value += apart * (others / all);
        self.products += other.products + off * apart * (own * others / all);
        self.squares += other.squares + off * off * (own * others / all);
    }

    fn slope(&self) -> Option<f64> {
        (self.squares > 0.0).then(|| self.products / self.squares)
    }
}
