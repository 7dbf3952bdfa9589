//! The guard of performance guards: what is a loss fails, what is none does not, and what is committed is whole. The counting itself is `tests/speed`.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "tests; only what compares is used of these files")]

#[path = "../benches/guard/figures.rs"]
mod figures;
#[path = "../benches/guard/ratios.rs"]
mod ratios;

use figures::{Figures, Tools, compare};
use serde_json::json;

fn figures(counts: &[(&str, u64)]) -> Figures {
    let made = Tools { arch: "x86_64".into(), rustc: "rustc 1".into(), valgrind: "valgrind 1".into() };
    Figures { made, instructions: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect() }
}

#[test]
fn a_count_above_the_bound_fails_and_says_how_to_accept_it() {
    let committed = figures(&[("parse", 1000), ("pack", 1000)]);
    let report = compare(&committed, &figures(&[("parse", 1050), ("pack", 1051)]));
    assert!(report.notices.is_empty());
    let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
    for part in ["pack", "1051", "5.1 %", "committed 1000", "tests/speed --accept", figures::FILE] {
        assert!(fault.contains(part), "{part} is not in: {fault}");
    }
}

#[test]
fn a_count_far_below_is_a_notice() {
    let committed = figures(&[("parse", 1000), ("pack", 1000)]);
    let report = compare(&committed, &figures(&[("parse", 899), ("pack", 901)]));
    assert!(report.faults.is_empty());
    let [notice] = &report.notices[..] else { panic!("{:?}", report.notices) };
    assert!(notice.starts_with("parse: 899") && notice.contains("10.1 % less"), "{notice}");
}

#[test]
fn another_compiler_is_told_and_given_more_room_and_another_processor_is_not_compared() {
    let committed = figures(&[("parse", 1000)]);
    let mut now = figures(&[("parse", 1149)]);
    now.made.rustc = "rustc 2".into();
    let report = compare(&committed, &now);
    assert!(report.faults.is_empty() && report.notices[0].contains("rustc 2"), "{report:?}");
    now.instructions.insert("parse".into(), 1151);
    assert_eq!(compare(&committed, &now).faults.len(), 1);
    let mut elsewhere = figures(&[("parse", 1000)]);
    elsewhere.made.arch = "aarch64".into();
    assert!(compare(&committed, &elsewhere).faults[0].contains("aarch64"));
}

#[test]
fn a_step_without_a_figure_and_a_figure_without_a_step_fail() {
    let report = compare(&figures(&[("gone", 1)]), &figures(&[("new", 7)]));
    assert_eq!(report.faults.len(), 2, "{report:?}");
    assert!(report.faults[0].starts_with("new: no figure") && report.faults[1].starts_with("gone: "));
}

#[test]
fn what_is_committed_can_be_read() {
    let committed = Figures::read().unwrap();
    assert!(committed.instructions.values().all(|count| *count > 0), "{committed:?}");
    let bounds = ratios::Bounds::read().unwrap();
    assert!(bounds.tries > 0 && !bounds.ratios.is_empty());
    assert!(bounds.ratios.values().all(|bound| bound.is_finite() && *bound > 0.0), "{bounds:?}");
}

#[test]
fn a_row_fails_only_when_it_misses_its_bound_each_time() {
    let of = |reached: &[f64]| {
        let mut reached = reached.iter();
        ratios::judge("sse", 0.9, 3, |_| Ok(*reached.next().unwrap()))
    };
    assert!(of(&[0.95]).is_ok());
    assert!(of(&[0.2, 0.89, 0.9]).is_ok());
    let fault = of(&[0.2, 0.89, 0.3]).unwrap_err();
    for part in ["sse", "0.20, 0.89, 0.30", "at least 0.9", "bench goals --only sse", ratios::FILE] {
        assert!(fault.contains(part), "{part} is not in: {fault}");
    }
    assert!(of(&[f64::NAN, f64::NAN, f64::NAN]).is_err(), "what is not measured is not reached");
}

#[test]
fn a_row_that_is_wrong_fails_at_once() {
    let goal = json!({ "unit": "× floor", "reached": 1.5 });
    let report = |more: serde_json::Value| {
        let mut row = json!({ "name": "sse", "goals": [goal], "wrong": 0 });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ratios::ratio(&json!({ "rows": [row] }), "sse")
    };
    assert_eq!(report(json!({})), Ok(1.5));
    assert!(report(json!({ "wrong": 3 })).unwrap_err().contains('3'));
    assert_eq!(report(json!({ "error": "it did not start" })), Err("it did not start".to_owned()));
    assert!(report(json!({ "goals": [{ "unit": "ms", "reached": 1.5 }] })).is_err());
    assert!(report(json!({ "goals": [{ "unit": "× floor", "reached": null }] })).is_err());
    assert!(ratios::ratio(&json!({ "rows": [] }), "sse").is_err());
    let mut tries = 0;
    let lost = ratios::judge("sse", 0.9, 3, |_| {
        tries += 1;
        Err("events lost".to_owned())
    });
    assert_eq!((lost, tries), (Err("sse: events lost".to_owned()), 1));
}
