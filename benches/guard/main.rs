//! The guard of performance, which `tests/speed` runs: instructions of each step of an event's way, compared with committed figures, and the daemon beside the floor, compared with committed bounds.
//!
//! `cargo bench --bench guard` runs both; `-- instructions` and `-- ratios` one of them, any further words only the rows with one of them in their name. `-- instructions --accept` writes
//! `instructions.toml` anew, `-- instructions --where` prints the functions in which they are. The bounds of `ratios.toml` are chosen by hand.
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
mod ratios;
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
    let show = arguments.iter().any(|argument| argument == "--where");
    let accept = arguments.iter().any(|argument| argument == "--accept");
    // What cargo itself passes.
    arguments.retain(|argument| !argument.starts_with('-'));
    let part = arguments.first().filter(|first| PARTS.contains(&first.as_str())).cloned();
    let words = &arguments[usize::from(part.is_some())..];
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    let mut faults = Vec::new();
    if part.is_none() && !words.is_empty() {
        eprintln!("what to measure is `instructions` or `ratios`, then words of the rows' names");
        return ExitCode::FAILURE;
    }
    if show {
        callgrind::show(|name| asked(words, name));
        return ExitCode::SUCCESS;
    }
    if wanted("instructions") {
        instructions(words, accept, &mut faults);
    }
    if wanted("ratios") && !accept {
        ratios(words, &mut faults);
    }
    for fault in &faults {
        eprintln!("FAILED {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const PARTS: [&str; 2] = ["instructions", "ratios"];

/// Whether a row is asked for.
fn asked(words: &[String], name: &str) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

fn instructions(words: &[String], accept: bool, faults: &mut Vec<String>) {
    let names: Vec<&str> = steps::STEPS.iter().map(|step| step.name).collect();
    let measured = callgrind::measure(|name| asked(words, name));
    if measured.is_empty() {
        return faults.push(format!("no step has one of these in its name: {words:?}"));
    }
    let now = Figures { made: Tools::here(), instructions: measured };
    let committed = Figures::read();
    if accept {
        let mut figures = now;
        if let Ok(committed) = committed
            && !words.is_empty()
        {
            if committed.made != figures.made {
                return faults.push("the other figures were made with other tools: accept all of them".to_owned());
            }
            // Of what was not measured now, what it was.
            let others = committed.instructions.into_iter().filter(|(name, _)| !asked(words, name));
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

fn ratios(words: &[String], faults: &mut Vec<String>) {
    let bounds = match ratios::Bounds::read() {
        Ok(bounds) => bounds,
        Err(error) => return faults.push(format!("{}: {error}", ratios::FILE)),
    };
    let wanted: Vec<(String, f64)> = bounds.ratios.into_iter().filter(|(row, _)| asked(words, row)).collect();
    if wanted.is_empty() {
        return faults.push(format!("{} has no row with one of these in its name: {words:?}", ratios::FILE));
    }
    let dir = tempfile::tempdir().unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate"));
    for (row, bound) in wanted {
        match ratios::judge(&row, bound, bounds.tries, |row| ratios::once(program, dir.path(), row)) {
            Ok(line) => println!("{line}"),
            Err(fault) => faults.push(fault),
        }
    }
}
