//! The operators, a file each. What one does, and what it does with late, missing and wrong data, stands at the head of its file and in `docs/pipelines.md`.

mod aggregate;
mod anomaly;
mod batch;
mod debounce;
mod dedupe;
mod delta;
mod filter;
mod flatten;
mod gather;
mod held;
mod join;
mod map;
mod number;
mod patterns;
mod place;
mod rename;
mod rollup;
mod route;
mod sample;
mod threshold;
mod throttle;
mod validate;
mod window;

use super::operator::Operator;
use super::section::Section;

type Read = fn(&mut Section<'_, '_>) -> Option<Box<dyn Operator>>;

/// All operators by name: what reads their settings. `None` where the settings are wrong, which is noted as a fault of the section.
const OPERATORS: &[(&str, Read)] = &[
    ("filter", filter::read),
    ("map", map::read),
    ("flatten", flatten::read),
    ("rename", rename::read),
    ("validate", validate::read),
    ("dedupe", dedupe::read),
    ("sample", sample::read),
    ("number", number::read),
    ("throttle", throttle::read),
    ("debounce", debounce::read),
    ("batch", batch::read),
    ("gather", gather::read),
    ("window", window::read),
    ("aggregate", aggregate::read),
    ("rollup", rollup::read),
    ("delta", delta::read),
    ("threshold", threshold::read),
    ("anomaly", anomaly::read),
    ("patterns", patterns::read),
    ("join", join::read),
    ("route", route::read),
];

/// Settings that say nothing about what a step of this operator keeps: with other ones it goes on where it was.
pub(super) fn adjustable(operator: &str) -> &'static [&'static str] {
    match operator {
        "gather" => &["period", "pace", "repeat", "urgent", "urgent_every"],
        "anomaly" => &["threshold", "min_deviation", "direction", "relearn", "severity", "priority"],
        _ => &[],
    }
}

/// The names of all operators.
pub fn names() -> impl Iterator<Item = &'static str> {
    OPERATORS.iter().map(|(name, _)| *name)
}

/// Reads a step: its operator's name, and the operator. What is wrong is noted as faults of the section.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<(&'static str, Box<dyn Operator>)> {
    let name = section.text("op");
    let Some((name, read)) = OPERATORS.iter().find(|(known, _)| *known == name) else {
        if section.has("op") {
            section.fault(
                "op",
                format!("there is no operator {name:?}; there are: {}", names().collect::<Vec<_>>().join(", ")),
            );
        }
        return None;
    };
    let step = section.name().to_owned();
    section.rename(format!("{step} ({name})"));
    read(section).map(|operator| (*name, operator))
}
