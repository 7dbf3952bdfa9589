//! `tidegate test`: runs the cases that stand beside pipelines.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::complain;
use crate::pipelines::{Definition, cases, set};

#[derive(Debug, Args)]
#[command(
    after_help = "Cases of well.toml stand in well.test.toml beside it. Examples:\n  tidegate test\n  tidegate test config/pipelines/well.toml --case 'a short peak'"
)]
pub(super) struct TestArguments {
    /// Pipelines, or directories of them
    #[arg(default_value = "config/pipelines")]
    paths: Vec<PathBuf>,
    /// Only cases whose names have this in them
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
}

/// What came of all cases.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    without: Vec<String>,
}

pub(super) fn run(arguments: &TestArguments) -> ExitCode {
    let mut files = Vec::new();
    for path in &arguments.paths {
        match pipelines_in(path) {
            Ok(found) => files.extend(found),
            Err(error) => {
                complain(&format!("{}: {error}", path.display()));
                return ExitCode::from(2);
            }
        }
    }
    let (mut tally, mut wrong) = (Tally::default(), false);
    let mut out = std::io::stdout();
    for file in &files {
        if let Err(why) = test_one(file, arguments.case.as_deref(), &mut tally, &mut out) {
            complain(&why);
            wrong = true;
        }
    }
    for name in &tally.without {
        let _ = writeln!(out, "     {name} has no cases");
    }
    let _ = writeln!(out, "{} passed, {} failed", tally.passed, tally.failed);
    match (wrong, tally.failed) {
        (true, _) => ExitCode::from(2),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    }
}

/// The pipelines' files of a directory, or the one that is named.
fn pipelines_in(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return std::fs::metadata(path).map(|_| vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path)?.filter_map(Result::ok).map(|entry| entry.path());
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut found: Vec<PathBuf> =
        entries.filter(|path| name(path).ends_with(".toml") && !name(path).ends_with(set::CASES)).collect();
    found.sort();
    Ok(found)
}

/// Runs one pipeline's cases; what is wrong with its files comes back.
fn test_one(file: &Path, only: Option<&str>, tally: &mut Tally, out: &mut impl Write) -> Result<(), String> {
    let unreadable = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let name = file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, error))?;
    let read = || {
        Definition::read(&name, &file.display().to_string(), &text, file.parent())
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    };
    read()?;
    let beside = file.with_file_name(format!("{name}{}", set::CASES));
    let cases = match std::fs::read_to_string(&beside) {
        Ok(text) => cases::read(&text).map_err(|why| format!("{}: {why}", beside.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tally.without.push(name);
            return Ok(());
        }
        Err(error) => return Err(unreadable(&beside, error)),
    };
    for case in cases.iter().filter(|case| only.is_none_or(|only| case.name.contains(only))) {
        // Standard output that is gone wants no more.
        match cases::run(read()?, case) {
            Ok(()) => {
                tally.passed += 1;
                let _ = writeln!(out, "ok   {name}: {}", case.name);
            }
            Err(why) => {
                tally.failed += 1;
                let _ = writeln!(out, "FAIL {name}: {}\n{why}", case.name);
            }
        }
    }
    Ok(())
}
