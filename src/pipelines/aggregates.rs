//! What is computed of a group of events: counts, sums, quantiles and the like, one event at a time, and of two groups together as well.
//!
//! Settings say what is wanted (`fields = { usage = ["mean", "max"], latency = "p95" }`); a [`Plan`] is made of them, and each group's [`Totals`] keep only what that needs. The figures
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

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::field::Field;
use super::record::{Got, Record, number_value};
use super::section::Section;
use cell::{Cell, Kept};
pub(crate) use group::{About, Grouping, name_of, record_key};

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
    skip: bool,
    distinct_max: usize,
}

#[derive(Debug)]
struct Planned {
    field: Field,
    numbers: bool,
    cells: Range<usize>,
    figures: Vec<(String, Function)>,
}

impl Plan {
    /// Reads `fields`, `missing` and `distinct_max`.
    pub(crate) fn read(section: &mut Section<'_, '_>, grouping: &Grouping) -> Self {
        let skip = section.choice("missing", &["dead_letter", "skip"], Some("dead_letter")) == "skip";
        let distinct_max = section.count_or("distinct_max", 1..=1_000_000, DISTINCT_MAX);
        let distinct_max = usize::try_from(distinct_max).unwrap_or(usize::MAX);
        let mut names: BTreeSet<String> = RESERVED.iter().map(|name| (*name).to_owned()).collect();
        for name in grouping.names() {
            if !names.insert(name.clone()) {
                section.fault("by", format!("two figures would be called {name}"));
            }
        }
        let (mut fields, mut cells) = (Vec::new(), Vec::new());
        for (field, functions) in section.named_lists("fields") {
            let from = cells.len();
            let mut own = vec![Cell::Count(0)];
            let mut planned = Planned { field, numbers: false, cells: from..from, figures: Vec::new() };
            for text in &functions {
                let Some((_, function)) = FUNCTIONS.iter().find(|(name, _)| name == text) else {
                    let known: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
                    section.fault("fields", format!("there is no function {text:?}; there are: {}", known.join(", ")));
                    continue;
                };
                let name = format!("{}_{text}", name_of(&planned.field));
                if !names.insert(name.clone()) {
                    section.fault("fields", format!("two figures would be called {name}"));
                }
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
        Self { fields, empty: Totals { count: 0, cells: cells.into() }, skip, distinct_max }
    }

    /// The totals of no event.
    pub(crate) fn empty(&self) -> Totals {
        self.empty.clone()
    }

    /// Whether totals that were kept are those of this plan.
    pub(crate) fn fits(&self, totals: &Totals) -> bool {
        totals.cells.iter().map(discriminant).eq(self.empty.cells.iter().map(discriminant))
    }

    /// An event's values.
    ///
    /// # Errors
    /// The field that it does not have or that is something else, and what was expected.
    pub(crate) fn values<'r>(&self, record: &'r Record) -> Result<Values<'r>, (&Field, &'static str)> {
        let mut values = Values::new();
        for planned in &self.fields {
            let value = record.get(&planned.field);
            let fine = match value {
                Got::Number(_) => true,
                Got::Text(_) | Got::Bool(_) => !planned.numbers,
                Got::Missing | Got::Null => self.skip,
                Got::Tree(_) => false,
            };
            if !fine {
                return Err((&planned.field, if planned.numbers { "a number" } else { "text, a number or a flag" }));
            }
            values.push(value);
        }
        Ok(values)
    }

    /// Takes an event into totals.
    pub(crate) fn add(&self, totals: &mut Totals, values: &Values<'_>, time_ms: u64) {
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
        data.insert("count".to_owned(), Value::from(totals.count));
        data.insert("rate".to_owned(), rate(totals.count));
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add(cells: &mut [Cell], time_ms: u64, value: Got<'_>) {
        cells.iter_mut().for_each(|cell| cell.add(value, time_ms, 3));
    }

    /// What a function says of these values, each at its time.
    fn of(function: Function, values: &[(u64, f64)]) -> Value {
        let mut cells = function.needs();
        values.iter().for_each(|(time_ms, value)| add(&mut cells, *time_ms, Got::Number(*value)));
        figure(function, u64::try_from(values.len()).unwrap(), &cells)
    }

    /// The same, of two heaps put together.
    fn of_two(function: Function, one: &[(u64, f64)], other: &[(u64, f64)]) -> Value {
        let (mut cells, mut others) = (function.needs(), function.needs());
        one.iter().for_each(|(time_ms, value)| add(&mut cells, *time_ms, Got::Number(*value)));
        other.iter().for_each(|(time_ms, value)| add(&mut others, *time_ms, Got::Number(*value)));
        cells.iter_mut().zip(&others).for_each(|(cell, other)| cell.merge(other, 3));
        figure(function, u64::try_from(one.len() + other.len()).unwrap(), &cells)
    }

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap()
    }

    fn near(one: f64, other: f64, relative: f64) -> bool {
        (one - other).abs() <= relative * one.abs().max(other.abs()).max(1e-9)
    }

    #[test]
    fn each_function_says_what_its_name_says() {
        let values = [(2000, 4.0), (1000, 1.0), (3000, 7.0), (1000, 1.5), (3000, 7.5)];
        let expected = [
            (Function::Count, 5.0),
            (Function::Sum, 21.0),
            (Function::Mean, 4.2),
            (Function::Min, 1.0),
            (Function::Max, 7.5),
            (Function::First, 1.0),
            (Function::Last, 7.5),
            (Function::Delta, 6.5),
            (Function::Distinct, 3.0),
            (Function::Stddev, (7.0_f64 * 7.0 + 7.5 * 7.5 + 16.0 + 1.0 + 2.25).mul_add(0.2, -4.2 * 4.2).sqrt()),
            (Function::Trend, 3.0),
        ];
        for (function, figure) in expected {
            assert!(near(number(&of(function, &values)), figure, 1e-12), "{function:?}");
        }
        assert!(near(number(&of(Function::P50, &values)), 4.0, 0.01));
        assert_eq!(of(Function::P99, &[(0, 0.1)]), Value::from(0.1), "of one value it is that value");
    }

    #[test]
    fn of_nothing_sums_are_0_and_the_rest_is_null() {
        for (name, function) in FUNCTIONS.into_iter().filter(|(_, function)| *function != Function::Rate) {
            let none = matches!(name, "count" | "sum" | "distinct");
            assert_eq!(of(function, &[]), if none { Value::from(0) } else { Value::Null }, "{name}");
        }
        assert_eq!(of(Function::Trend, &[(5, 1.0), (5, 2.0)]), Value::Null, "there is no slope in one moment");
        assert_eq!(of(Function::Sum, &[(0, f64::MAX), (0, f64::MAX), (0, 1.0)]), Value::Null);
    }

    #[test]
    fn text_and_flags_are_told_apart_and_kept() {
        let mut cells = [Function::First, Function::Last, Function::Distinct].map(Function::needs).concat();
        for (time_ms, value) in [(2, Got::Text("b")), (1, Got::Text("a")), (3, Got::Bool(true)), (2, Got::Text("b"))] {
            add(&mut cells, time_ms, value);
        }
        let said = [Function::First, Function::Last, Function::Distinct].map(|function| figure(function, 4, &cells));
        assert_eq!(said, [Value::from("a"), Value::from(true), Value::from(3)]);
    }

    #[test]
    fn what_cancels_out_leaves_what_is_left() {
        assert_eq!(of(Function::Sum, &[(0, 1.0), (0, 1e100), (0, 1.0), (0, -1e100)]), Value::from(2));
        let tenths: Vec<(u64, f64)> = (0..1_000_000).map(|time_ms| (time_ms, 0.1)).collect();
        assert_eq!(of(Function::Sum, &tenths), Value::from(100_000));
    }

    proptest! {
        #[test]
        fn a_sum_is_the_exact_sum_rounded_once(parts in proptest::collection::vec((any::<i32>(), 0..41_u32), 1..200), cut in any::<prop::sample::Index>()) {
            let scale = 1.0 / f64::from(1_u32 << 20);
            let value = |(mantissa, exponent): &(i32, u32)| f64::from(*mantissa) * 2_f64.powi(i32::try_from(*exponent).unwrap()) * scale;
            let values: Vec<(u64, f64)> = parts.iter().map(|part| (0, value(part))).collect();
            let exact: i128 = parts.iter().map(|(mantissa, exponent)| i128::from(*mantissa) << exponent).sum();
            prop_assert_eq!(number(&of(Function::Sum, &values)), exact as f64 * scale);
            let (one, other) = values.split_at(cut.index(values.len()));
            prop_assert_eq!(number(&of_two(Function::Sum, one, other)), exact as f64 * scale);
        }

        #[test]
        fn figures_are_those_of_the_textbook_also_when_they_are_put_together(
            values in proptest::collection::vec((0..100_000_u64, -1e3..1e6_f64), 1..300),
            cut in any::<prop::sample::Index>(),
        ) {
            // As with windows: what is put together is apart in time.
            let mut values = values;
            values.sort_by_key(|(time_ms, _)| *time_ms);
            let cut = values.partition_point(|(time_ms, _)| *time_ms < values[cut.index(values.len())].0);
            let (one, other) = values.split_at(cut);
            let n = values.len() as f64;
            let mean = |of: &dyn Fn(&(u64, f64)) -> f64| values.iter().map(of).sum::<f64>() / n;
            let (time, value) = (mean(&|(time_ms, _)| *time_ms as f64 / 1000.0), mean(&|(_, value)| *value));
            let stddev = mean(&|(_, other)| (other - value).powi(2)).sqrt();
            let along = mean(&|(time_ms, _)| (*time_ms as f64 / 1000.0 - time).powi(2));
            let both = mean(&|(time_ms, other)| (*time_ms as f64 / 1000.0 - time) * (other - value));
            let mut sorted: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
            sorted.sort_by(f64::total_cmp);
            for said in [&|function| of(function, &values), &|function| of_two(function, one, other)] as [&dyn Fn(Function) -> Value; 2] {
                prop_assert_eq!(number(&said(Function::First)), values[0].1);
                prop_assert_eq!(number(&said(Function::Last)), values[values.len() - 1].1);
                prop_assert_eq!((number(&said(Function::Min)), number(&said(Function::Max))), (sorted[0], sorted[sorted.len() - 1]));
                prop_assert!((number(&said(Function::Stddev)) - stddev).abs() <= 1e-6);
                match said(Function::Trend) {
                    Value::Null => prop_assert!(along < 1e-9),
                    slope => prop_assert!((number(&slope) * along - both).abs() <= 1e-9 * (along.sqrt() * stddev + value.abs() + 1.0)),
                }
                for (function, rank) in [(Function::P50, 50), (Function::P95, 95), (Function::P99, 99)] {
                    let exact = sorted[(sorted.len() - 1) * rank / 100];
                    let said = number(&said(function));
                    // The rank may be one lower where the product of q and n - 1 is rounded down to just below a whole number.
                    let below = sorted[((sorted.len() - 1) * rank / 100).saturating_sub(1)];
                    prop_assert!(near(said, exact, 0.0101) || near(said, below, 0.0101), "{} is not near {}", said, exact);
                }
            }
        }
    }
}
