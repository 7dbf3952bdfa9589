//! Figures against the exact and the textbook's.

#![allow(clippy::unwrap_used, reason = "tests")]

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
    (one - other).abs() <= relative * one.abs().max(other.abs()).max(1e-7)
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
        (Function::Stddev, 7.26_f64.sqrt()),
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
    fn a_sum_is_the_exact_sum_rounded_once(
        parts in proptest::collection::vec((any::<i32>(), 0..41_u32), 1..200),
        cut in any::<prop::sample::Index>(),
    ) {
        // From 2^-20 up to 2^51, so that the exact sum is a whole number of 2^-20.
        let scale = 1.0 / f64::from(1_u32 << 20);
        let value = |(mantissa, exponent): &(i32, u32)| f64::from(*mantissa) * (1_u64 << *exponent) as f64 * scale;
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
        let ways: [&dyn Fn(Function) -> Value; 2] =
            [&|function| of(function, &values), &|function| of_two(function, one, other)];
        for said in ways {
            prop_assert_eq!(number(&said(Function::First)), values[0].1);
            prop_assert_eq!(number(&said(Function::Last)), values[values.len() - 1].1);
            prop_assert_eq!(number(&said(Function::Min)), sorted[0]);
            prop_assert_eq!(number(&said(Function::Max)), sorted[sorted.len() - 1]);
            prop_assert!((number(&said(Function::Stddev)) - stddev).abs() <= 1e-6);
            match said(Function::Trend) {
                Value::Null => prop_assert!(along < 1e-9),
                slope => {
                    let bound = 1e-9 * (along.sqrt() * stddev + value.abs() + 1.0);
                    prop_assert!((number(&slope) * along - both).abs() <= bound);
                }
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
