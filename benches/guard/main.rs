//! The guard of performance, which `tests/speed` runs: instructions of each step of an event's way, compared with committed figures, and the daemon beside the floor, compared with committed bounds.
//!
//! `cargo bench --bench guard` runs both; `-- instructions` and `-- ratios` one of them, any further words only the rows with one of them in their name. `-- instructions --accept` writes
//! `instructions.toml` anew. The bounds of `ratios.toml` are chosen by hand.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a bench"
)]

mod callgrind;
mod chain;
mod engine;
mod figures;
mod steps;

use std::process::ExitCode;

use figures::{Figures, Tools};

/// As in the daemon.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, step, rounds] = &arguments[..]
        && flag == callgrind::COUNT
    {
        callgrind::count(step, rounds.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let accept = arguments.iter().any(|argument| argument == "--accept");
    // What cargo itself passes.
    arguments.retain(|argument| !argument.starts_with('-'));
    let part = |name: &str| {
        arguments.first().is_none_or(|first| first == name || !["instructions", "ratios"].contains(&first.as_str()))
    };
    let words: Vec<String> =
        arguments.iter().filter(|word| !["instructions", "ratios"].contains(&word.as_str())).cloned().collect();
    let mut faults = Vec::new();
    if part("instructions") {
        instructions(&words, accept, &mut faults);
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a row is asked for.
fn asked(words: &[String], name: &str) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

fn instructions(words: &[String], accept: bool, faults: &mut Vec<String>) {
    let names: Vec<&str> = steps::STEPS.iter().map(|step| step.name).collect();
    let measured = callgrind::measure(|name| asked(words, name));
    let now = Figures { made: Tools::here(), instructions: measured };
    let committed = Figures::read();
    if accept {
        let mut figures = now;
        if let Ok(committed) = committed {
            // Of what was not measured now, what it was.
            let others = committed
                .instructions
                .into_iter()
                .filter(|(name, _)| names.contains(&name.as_str()) && !asked(words, name));
            figures.instructions.extend(others);
        }
        figures.write(&names);
        println!("written to {}: look at what has changed, and commit it with the reason", figures::FILE);
        return;
    }
    match committed {
        Ok(mut committed) => {
            committed.instructions.retain(|name, _| asked(words, name));
            let report = figures::compare(&committed, &now);
            println!("{}", report.table);
            report.notices.iter().for_each(|notice| println!("{notice}"));
            faults.extend(report.faults);
        }
        Err(error) => faults.push(format!("{}: {error}", figures::FILE)),
    }
}
