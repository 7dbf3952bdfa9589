//! What is computed of a group of events: counts, sums, quantiles and the like, one event at a time, and of two groups together as well.
//!
//! Settings say what is wanted (`fields = { usage = ["mean", "max"], latency = "p95" }`); a plan is made of them, and each group keeps only what that needs. The figures
//! are named `<field>_<function>`, dots as underscores: `usage_mean`, `disk_free_min`. `count` and `rate` of all events are always there.
//!
//! | function | what it is |
//! | --- | --- |
//! | `count`, `rate` | events with a value; how many of them a second |
//! | `sum`, `mean` | Neumaier's compensated summation: what rounding takes away is kept and added in the end |
//! | `min`, `max` | the least and the greatest |
//! | `first`, `last` | by event time; of equal times the first and the last to arrive |
//! | `delta` | last minus first |
//! | `distinct` | how many different values, exact up to `distinct_max` (10,000); it stays there, a lower bound |
//! | `stddev` | of the population (the sum of squares divided by n), by Welford's method |
//! | `p50`, `p95`, `p99` | a value within 1 % of the one at rank ⌊q (n - 1)⌋ of n (`DDSketch`); exact where all are equal |
//! | `trend` | the slope of the least-squares line, per second of event time |
//!
//! `count`, `rate`, `first`, `last` and `distinct` take text and flags too, the others numbers. Of values within 1e-9 of 0 a sketch says 0, and of values over more than 17 decades it
//! keeps the greater ones apart. Without a value in a group `count`, `rate`, `sum` and `distinct` are 0 and the others `null`; what is no finite number is `null`.
//!
//! *Missing*: `missing = "dead_letter"` refuses an event without one of the fields, `"skip"` leaves that field out for it, `null` too. *Wrong*: what is neither of the field's kind nor
//! missing is refused always, and nothing of the event is counted.

mod cell;
mod group;
pub(crate) mod recent;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::field::Field;
use super::record::{Got, Record, number_value};
use super::section::Section;
use cell::Cell;
pub(crate) use cell::Noted;
use group::name_of;
pub(crate) use group::{About, Grouping, made_kind, record_key};

/// Names that the operators' events have anyway.
const RESERVED: [&str; 6] = ["count", "rate", "start", "end", "updated", "open"];
/// How many different values `distinct` tells apart, if the settings do not say.
const DISTINCT_MAX: u64 = 10_000;

/// What can be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Count,
    Rate,
    Sum,
    Mean,
    Min,
    Max,
    First,
    Last,
    Delta,
    Distinct,
    Stddev,
    P50,
    P95,
    P99,
    Trend,
}

const FUNCTIONS: [(&str, Function); 15] = [
    ("count", Function::Count),
    ("rate", Function::Rate),
    ("sum", Function::Sum),
    ("mean", Function::Mean),
    ("min", Function::Min),
    ("max", Function::Max),
    ("first", Function::First),
    ("last", Function::Last),
    ("delta", Function::Delta),
    ("distinct", Function::Distinct),
    ("stddev", Function::Stddev),
    ("p50", Function::P50),
    ("p95", Function::P95),
    ("p99", Function::P99),
    ("trend", Function::Trend),
];

impl Function {
    fn wants_numbers(self) -> bool {
        !matches!(self, Self::Count | Self::Rate | Self::First | Self::Last | Self::Distinct)
    }

    /// What must be kept for it, beside the number of values.
    fn needs(self) -> Vec<Cell> {
        match self {
            Self::Count | Self::Rate => Vec::new(),
            Self::Sum | Self::Mean => vec![Cell::Sum(cell::Sum::default())],
            Self::Min => vec![Cell::Min(f64::INFINITY)],
            Self::Max => vec![Cell::Max(f64::NEG_INFINITY)],
            Self::First => vec![Cell::First(None)],
            Self::Last => vec![Cell::Last(None)],
            Self::Delta => vec![Cell::First(None), Cell::Last(None)],
            Self::Distinct => vec![Cell::Distinct(BTreeSet::new())],
            Self::Stddev => vec![Cell::Spread(cell::Spread::default())],
            Self::P50 | Self::P95 | Self::P99 => vec![Cell::Sketch(Box::default())],
            Self::Trend => vec![Cell::Line(Box::default())],
        }
    }
}

/// What is kept of a group of events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Totals {
    count: u64,
    /// For each field of the plan how many values it had, and what its functions need.
    cells: Box<[Cell]>,
}

impl Totals {
    /// How many events.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

/// An event's values of the fields of a plan, in its order.
pub(crate) type Values<'r> = SmallVec<[Got<'r>; 4]>;

/// What is to be computed.
#[derive(Debug)]
pub(crate) struct Plan {
    fields: Vec<Planned>,
    empty: Totals,
    /// How the number of events and their rate are called.
    count: String,
    rate: String,
    skip: bool,
    distinct_max: usize,
}

/// What all plans of a step have in common: what becomes of missing values, and the names that are taken.
#[derive(Debug)]
pub(crate) struct Common {
    skip: bool,
    distinct_max: usize,
    /// Whether what is counted are events, of which there are so many a second.
    rates: bool,
    names: BTreeSet<String>,
}

impl Common {
    /// Reads `missing` and `distinct_max`; the group's own fields take their names.
    pub(crate) fn read(section: &mut Section<'_, '_>, grouping: &Grouping) -> Self {
        let skip = section.choice("missing", &["dead_letter", "skip"], Some("dead_letter")) == "skip";
        let mut common = Self { skip, rates: true, ..Self::of_rows(section, &RESERVED) };
        for name in grouping.names() {
            common.take(section, "by", name);
        }
        common
    }

    /// Reads `distinct_max`, of a step whose figures are of rows of a table. These need not have all fields.
    pub(crate) fn of_rows(section: &mut Section<'_, '_>, reserved: &[&str]) -> Self {
        let distinct_max = section.count_or("distinct_max", 1..=1_000_000, DISTINCT_MAX);
        let distinct_max = usize::try_from(distinct_max).unwrap_or(usize::MAX);
        Self { skip: true, distinct_max, rates: false, names: reserved.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// Takes a figure's name; one that is taken is a fault of this setting.
    pub(crate) fn take(&mut self, section: &Section<'_, '_>, key: &str, name: &str) {
        if !self.names.insert(name.to_owned()) {
            section.fault(key, format!("two figures would be called {name}"));
        }
    }
}

/// Whether text can be the name of a figure: letters, digits and underscores.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[derive(Debug)]
struct Planned {
    field: Field,
    numbers: bool,
    cells: Range<usize>,
    figures: Vec<(String, Function)>,
}

impl Plan {
    /// Reads `fields`, `missing` and `distinct_max` of a step with one plan.
    pub(crate) fn read(section: &mut Section<'_, '_>, grouping: &Grouping) -> Self {
        let mut common = Common::read(section, grouping);
        Self::of(section, &mut common, "")
    }

    /// Reads `fields`; all figures' names begin with the prefix.
    pub(crate) fn of(section: &mut Section<'_, '_>, common: &mut Common, prefix: &str) -> Self {
        let (mut fields, mut cells) = (Vec::new(), Vec::new());
        for (field, functions) in section.named_lists("fields") {
            let from = cells.len();
            let mut own = vec![Cell::Count(0)];
            let mut planned = Planned { field, numbers: false, cells: from..from, figures: Vec::new() };
            for text in &functions {
                let Some((_, function)) = FUNCTIONS.iter().find(|(name, _)| *name == text.as_str()) else {
                    let known: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
                    section.fault("fields", format!("there is no function {text:?}; there are: {}", known.join(", ")));
                    continue;
                };
                if *function == Function::Rate && !common.rates {
                    section.fault("fields", "there is no rate of rows");
                }
                let name = format!("{prefix}{}_{text}", name_of(&planned.field));
                common.take(section, "fields", &name);
                planned.figures.push((name, *function));
                planned.numbers |= function.wants_numbers();
                for cell in function.needs() {
                    if own.iter().all(|other| discriminant(other) != discriminant(&cell)) {
                        own.push(cell);
                    }
                }
            }
            if functions.is_empty() {
                section.fault("fields", format!("expected at least one function of {}", planned.field));
            }
            cells.append(&mut own);
            planned.cells.end = cells.len();
            fields.push(planned);
        }
        let (count, rate) = (format!("{prefix}count"), format!("{prefix}rate"));
        let (skip, distinct_max) = (common.skip, common.distinct_max);
        Self { fields, empty: Totals { count: 0, cells: cells.into() }, count, rate, skip, distinct_max }
    }

    /// The totals of no event.
    pub(crate) fn empty(&self) -> Totals {
        self.empty.clone()
    }

    /// Whether totals that were kept are those of this plan.
    pub(crate) fn fits(&self, totals: &Totals) -> bool {
        totals.cells.iter().map(discriminant).eq(self.empty.cells.iter().map(discriminant))
    }

    /// Whether values that were kept are those of this plan.
    pub(crate) fn noted(&self, noted: &Noted) -> bool {
        noted.len() == self.fields.len()
    }

    /// An event's values.
    ///
    /// # Errors
    /// The field that it does not have or that is something else, and what was expected.
    pub(crate) fn values<'r>(&self, record: &'r Record) -> Result<Values<'r>, (&Field, &'static str)> {
        let (values, wrong) = self.fitting(record);
        wrong.map_or(Ok(values), Err)
    }

    /// An event's values, what does not fit left out; and the first field that does not, with what was expected.
    pub(crate) fn fitting<'r>(&self, record: &'r Record) -> (Values<'r>, Option<(&Field, &'static str)>) {
        let (mut values, mut wrong) = (Values::new(), None);
        for planned in &self.fields {
            let value = record.get(&planned.field);
            let fits = match value {
                Got::Number(_) => true,
                Got::Text(_) | Got::Bool(_) => !planned.numbers,
                Got::Missing | Got::Null => self.skip,
                Got::Tree(_) => false,
            };
            if !fits {
                let expected = if planned.numbers { "a number" } else { "text, a number or a flag" };
                wrong = wrong.or(Some((&planned.field, expected)));
            }
            values.push(if fits { value } else { Got::Missing });
        }
        (values, wrong)
    }

    /// Whether an event has at least one of the fields; where there are no fields, each has.
    pub(crate) fn concerns(&self, values: &[Got<'_>]) -> bool {
        self.fields.is_empty() || values.iter().any(|value| !matches!(value, Got::Missing | Got::Null))
    }

    /// Takes an event into totals.
    pub(crate) fn add(&self, totals: &mut Totals, values: &[Got<'_>], time_ms: u64) {
        totals.count += 1;
        for (planned, value) in self.fields.iter().zip(values) {
            if matches!(value, Got::Missing | Got::Null) {
                continue;
            }
            for cell in &mut totals.cells[planned.cells.clone()] {
                cell.add(*value, time_ms, self.distinct_max);
            }
        }
    }

    /// Takes the events of other totals into totals.
    pub(crate) fn merge(&self, totals: &mut Totals, others: &Totals) {
        totals.count += others.count;
        for (cell, other) in totals.cells.iter_mut().zip(&others.cells) {
            cell.merge(other, self.distinct_max);
        }
    }

    /// Puts the figures into an event's data; `rate` says how many a second a number of events is.
    pub(crate) fn write(&self, totals: &Totals, rate: impl Fn(u64) -> Option<f64>, data: &mut Map<String, Value>) {
        let rate = |count| rate(count).map_or(Value::Null, number_value);
        data.insert(self.count.clone(), Value::from(totals.count));
        data.insert(self.rate.clone(), rate(totals.count));
        self.write_fields(totals, rate, data);
    }

    /// Puts the figures of the fields alone into an event's data.
    pub(crate) fn write_fields(&self, totals: &Totals, rate: impl Fn(u64) -> Value, data: &mut Map<String, Value>) {
        for planned in &self.fields {
            let [Cell::Count(count), cells @ ..] = &totals.cells[planned.cells.clone()] else { continue };
            for (name, function) in &planned.figures {
                let figure = if *function == Function::Rate { rate(*count) } else { figure(*function, *count, cells) };
                data.insert(name.clone(), figure);
            }
        }
    }
}

/// What a function says of so many values.
fn figure(function: Function, count: u64, cells: &[Cell]) -> Value {
    match function {
        Function::Count => Value::from(count),
        Function::Delta => {
            let first = cells.iter().find_map(|cell| if let Cell::First(first) = cell { first.as_ref() } else { None });
            let last = cells.iter().find_map(|cell| if let Cell::Last(last) = cell { last.as_ref() } else { None });
            let (first, last) = (first.and_then(|(_, kept)| kept.number()), last.and_then(|(_, kept)| kept.number()));
            first.zip(last).map_or(Value::Null, |(first, last)| number_value(last - first))
        }
        function if count == 0 && !matches!(function, Function::Sum | Function::Distinct) => Value::Null,
        function => cells.iter().find_map(|cell| cell.answer(function, count)).unwrap_or_default(),
    }
}
