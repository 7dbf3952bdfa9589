//! The daemon beside the floor: runs `tidegate bench goals --short` row by row, and holds what came out against committed bounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Where the bounds stand, from the repository's root.
pub(crate) const FILE: &str = "benches/guard/ratios.toml";

/// What must be reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bounds {
    /// A row fails when it misses its bound so often.
    pub(crate) tries: usize,
    /// Of the floor, by row.
    pub(crate) ratios: BTreeMap<String, f64>,
}

impl Bounds {
    pub(crate) fn read() -> Result<Self, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        toml::from_str(&text).map_err(|error| error.to_string())
    }
}

/// A row that keeps its bound, or why it does not.
pub(crate) fn judge(
    row: &str,
    bound: f64,
    tries: usize,
    mut once: impl FnMut(&str) -> Result<f64, String>,
) -> Result<String, String> {
    let mut reached = Vec::new();
    for _ in 0..tries {
        // What is broken is broken; only what is slow may be so by chance.
        let ratio = once(row).map_err(|error| format!("{row}: {error}"))?;
        reached.push(format!("{ratio:.2}"));
        if ratio >= bound {
            return Ok(format!("{row:<16} {:>20} × floor, at least {bound}", reached.join(", ")));
        }
    }
    Err(format!(
        "{row}: {} × floor in {tries} tries, and at least {bound} is expected of one of them. To see it whole: `tidegate bench goals --only {row}`. \
         If the row is worth that, lower its bound in {FILE}",
        reached.join(", ")
    ))
}

/// Measures a row once with the program, whose report goes into this directory.
pub(crate) fn once(program: &Path, dir: &Path, row: &str) -> Result<f64, String> {
    let file = dir.join("goals.json");
    let mut command = Command::new(program);
    command.args(["bench", "goals", "--short", "--only", row, "--out"]).arg(&file).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{}: {error}", program.display()))?;
    // A must that was missed is no fault here, and lost events are in the report.
    let report = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let report = report.ok_or_else(|| format!("no report:\n{}", String::from_utf8_lossy(&output.stderr)))?;
    std::fs::remove_file(&file).map_err(|error| error.to_string())?;
    ratio(&report, row)
}

/// What a row reached of the floor, by the report of `tidegate bench goals`.
pub(crate) fn ratio(report: &serde_json::Value, row: &str) -> Result<f64, String> {
    let rows = report["rows"].as_array().into_iter().flatten();
    let found = rows.into_iter().find(|found| found["name"] == row).ok_or("the report has no such row")?;
    if let Some(error) = found["error"].as_str() {
        return Err(error.to_owned());
    }
    match found["wrong"].as_u64() {
        Some(0) => {}
        wrong => return Err(format!("events lost, doubled or out of order: {wrong:?}")),
    }
    let goal = &found["goals"][0];
    if goal["unit"] != "× floor" {
        return Err(format!("its goal is no ratio to the floor: {goal}"));
    }
    goal["reached"].as_f64().ok_or_else(|| format!("nothing was reached: {goal}"))
}
