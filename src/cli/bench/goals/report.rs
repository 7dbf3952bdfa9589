//! What came of all rows: a table for people, JSON for programs, with the machine that it was measured on.

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::peers::Table;
use super::row::{Goal, Outcome, Reached, Row};
use super::sweep::Sweeps;
use crate::cli::bench::daemon::SETTINGS;
use crate::cli::bench::process::Cores;
use crate::clock;

/// What came of a row, or why nothing did.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) row: &'static Row,
    pub(super) outcome: Result<Outcome, String>,
    pub(super) seconds: f64,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) machine: Value,
    pub(super) lines: Vec<Line>,
    /// Other servers in some of the rows, where they were wanted.
    pub(super) peers: Option<Table>,
    pub(super) sweeps: Option<Sweeps>,
}

impl Line {
    /// Its goals with what was reached.
    fn reached(&self) -> impl Iterator<Item = (&'static Goal, Option<Reached>)> {
        let reached = self.outcome.as_ref().ok().map(|outcome| outcome.reached.as_slice()).unwrap_or_default();
        self.row.goals.iter().zip(reached.iter().copied().map(Some).chain(std::iter::repeat(None)))
    }

    fn wrong(&self) -> u64 {
        self.outcome.as_ref().map_or(0, |outcome| outcome.wrong)
    }

    fn to_json(&self) -> Value {
        let goals: Vec<Value> = self.reached().map(|(goal, reached)| goal_json(goal, reached)).collect();
        let mut row = json!({
            "name": self.row.name, "what": self.row.what, "goals": goals, "wrong": self.wrong(), "seconds": self.seconds,
        });
        match &self.outcome {
            Ok(outcome) => {
                let figures = outcome.figures.iter().map(|(name, value)| (name.clone(), json!(value)));
                row["figures"] = figures.collect::<Map<_, _>>().into();
                let settings = outcome.settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
                row["settings"] = settings.collect::<Map<_, _>>().into();
            }
            Err(why) => row["error"] = why.as_str().into(),
        }
        row
    }
}

fn goal_json(goal: &Goal, reached: Option<Reached>) -> Value {
    let mut json = json!({
        "name": goal.name, "unit": goal.unit, "direction": goal.direction.sign(), "must": goal.must, "aim": goal.aim,
        "reached": null, "must_met": false,
    });
    if let Some(Reached { value, tidegate, floor }) = reached {
        json["reached"] = json!(value.median);
        json["least"] = json!(value.least);
        json["most"] = json!(value.most);
        json["tidegate"] = json!(tidegate);
        json["floor"] = json!(floor);
        json["ratio_to_floor"] = json!(ratio(tidegate, floor));
        json["must_met"] = goal.must_met(value.median).into();
        json["aim_met"] = json!(goal.aim_met(value.median));
    }
    json
}

fn ratio(tidegate: Option<f64>, floor: Option<f64>) -> Option<f64> {
    tidegate.zip(floor).map(|(tidegate, floor)| tidegate / floor)
}

impl Report {
    pub(super) fn to_json(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(Line::to_json).collect();
        let mut json = json!({ "machine": self.machine, "rows": lines });
        if let Some(peers) = &self.peers {
            json["peers"] = peers.to_json();
        }
        if let Some(sweeps) = &self.sweeps {
            json["sweeps"] = sweeps.to_json();
        }
        json
    }

    /// Rows that failed, or in which something was lost, doubled or out of order.
    pub(super) fn broken(&self) -> Vec<&'static str> {
        let broken = self.lines.iter().filter(|line| line.outcome.is_err() || line.wrong() > 0);
        broken.map(|line| line.row.name).collect()
    }

    /// Rows of which a must is missed.
    pub(super) fn missed(&self) -> Vec<&'static str> {
        let met = |line: &Line| {
            line.reached().all(|(goal, reached)| reached.is_some_and(|reached| goal.must_met(reached.value.median)))
        };
        self.lines.iter().filter(|line| !met(line)).map(|line| line.row.name).collect()
    }
}

const COLUMNS: [&str; 9] = ["row", "goal", "must", "aim", "reached", "spread", "tidegate", "floor", ""];

/// A figure as people read it: three digits or more, thousands apart.
pub(super) fn figure(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if digits > 0 {
        return text;
    }
    let (sign, number) = text.strip_prefix('-').map_or(("", text.as_str()), |number| ("-", number));
    let mut apart = String::new();
    for (at, digit) in number.chars().enumerate() {
        if at > 0 && (number.len() - at).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    format!("{sign}{apart}")
}

fn cells(line: &Line) -> Vec<[String; 9]> {
    let some = |value: Option<f64>| value.map_or("–".to_owned(), figure);
    let cells = line.reached().map(|(goal, reached)| {
        let sign = goal.direction.sign();
        let verdict = match reached {
            None => "failed",
            Some(_) if line.wrong() > 0 => "WRONG",
            Some(reached) if !goal.must_met(reached.value.median) => "missed",
            Some(reached) if goal.aim_met(reached.value.median) == Some(false) => "must",
            Some(_) => "aim",
        };
        [
            line.row.name.to_owned(),
            format!("{}, {}", goal.name, goal.unit),
            format!("{sign} {}", figure(goal.must)),
            goal.aim.map_or("–".to_owned(), |aim| format!("{sign} {}", figure(aim))),
            some(reached.map(|reached| reached.value.median)),
            reached.map_or(String::new(), |Reached { value, .. }| {
                format!("{} to {}", figure(value.least), figure(value.most))
            }),
            some(reached.and_then(|reached| reached.tidegate)),
            some(reached.and_then(|reached| reached.floor)),
            verdict.to_owned(),
        ]
    });
    cells.collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.lines.is_empty() {
            let mut table = vec![COLUMNS.map(str::to_owned).to_vec()];
            table.extend(self.lines.iter().flat_map(cells).map(|cells| cells.to_vec()));
            write!(f, "{}", aligned(&table, 2))?;
        }
        for line in &self.lines {
            write!(f, "\n{}: {}", line.row.name, line.row.what)?;
            match &line.outcome {
                Err(why) => writeln!(f, "\n  failed: {why}")?,
                Ok(outcome) => {
                    writeln!(f)?;
                    for (name, value) in &outcome.figures {
                        writeln!(f, "  {name:56} {:>14}", figure(*value))?;
                    }
                    if outcome.wrong > 0 {
                        writeln!(f, "  LOST, DOUBLED OR OUT OF ORDER: {}", outcome.wrong)?;
                    }
                }
            }
        }
        if let Some(peers) = &self.peers {
            write!(f, "\n{peers}")?;
        }
        if let Some(sweeps) = &self.sweeps {
            write!(f, "\n{sweeps}")?;
        }
        Ok(())
    }
}

/// Lines whose cells stand below each other; the first so many to the left, which are words, others to the right.
pub(super) fn aligned(table: &[Vec<String>], words: usize) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| table.iter().filter_map(|cells| cells.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for cells in table {
        let cells =
            cells.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| {
                if at < words { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// What this is measured on, and how.
pub(super) fn machine(dir: &Path, cores: &Cores) -> Value {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_matches([' ', '\t', ':']).to_owned())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").map(|kernel| kernel.trim().to_owned());
    let memory_kib = line("/proc/meminfo", "MemTotal")
        .and_then(|memory| memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()));
    let (server, all) = cores.count();
    let settings = SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    json!({
        "cpu": line("/proc/cpuinfo", "model name"),
        "cores": all,
        "server_cores": server,
        "memory_bytes": memory_kib.map(|kib| kib * 1024),
        "kernel": kernel.ok(),
        "log_filesystem": filesystem(dir),
        "date": clock::rfc3339(clock::now_ms()),
        "tidegate": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "allocator": if cfg!(feature = "jemalloc") { "jemalloc" } else { "system" },
        "settings": settings.collect::<Map<_, _>>(),
    })
}

/// The kind of file system that servers' directories are on: what `synced` costs hangs on it.
fn filesystem(dir: &Path) -> Option<String> {
    // Names of the magic numbers in statfs(2).
    let kind = rustix::fs::statfs(dir).ok()?.f_type;
    Some(match kind {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        other => format!("{other:#x}"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::row::{Spread, at_least, at_most};
    use super::*;

    const ROW: Row = Row {
        name: "made-up",
        what: "nothing",
        goals: &[at_least("rate", "/s", 1000.0, 2000.0), at_most("late", "ms", 5.0, None)],
        run: |_| anyhow::bail!("not run"),
    };
    static MADE_UP: Row = ROW;

    fn line(rate: f64, late: f64, wrong: u64) -> Line {
        let reached = vec![
            Reached {
                value: Spread { median: rate, least: rate - 1.0, most: rate + 1.0 },
                tidegate: Some(rate),
                floor: Some(500.0),
            },
            Reached::alone([late]),
        ];
        let figures = vec![("beside".to_owned(), 7.0)];
        Line { row: &MADE_UP, outcome: Ok(Outcome { reached, figures, wrong, settings: Vec::new() }), seconds: 1.0 }
    }

    fn report(lines: Vec<Line>) -> Report {
        Report { machine: Value::Null, lines, peers: None, sweeps: None }
    }

    #[test]
    fn figures_are_read_by_people() {
        let read = [0.012, 0.5, 12.34, 123.4, 1234.0, 1_234_567.8, -4321.0].map(figure);
        assert_eq!(read, ["0.012", "0.50", "12.3", "123", "1,234", "1,234,568", "-4,321"]);
    }

    #[test]
    fn a_must_that_is_missed_is_said_and_is_no_broken_row() {
        let good = report(vec![line(1500.0, 4.0, 0)]);
        assert!(good.missed().is_empty() && good.broken().is_empty());
        let slow = report(vec![line(999.0, 4.0, 0)]);
        assert_eq!((slow.missed(), slow.broken()), (vec!["made-up"], vec![]));
        assert!(slow.to_string().contains("missed"), "{slow}");
        let wrong = report(vec![line(1500.0, 4.0, 3)]);
        assert_eq!(wrong.broken(), ["made-up"]);
        assert!(wrong.to_string().contains("WRONG"), "{wrong}");
    }

    #[test]
    fn a_row_that_failed_says_why_and_meets_nothing() {
        let failed = report(vec![Line { row: &MADE_UP, outcome: Err("no reason".to_owned()), seconds: 0.0 }]);
        assert_eq!((failed.missed(), failed.broken()), (vec!["made-up"], vec!["made-up"]));
        assert!(failed.to_string().contains("failed: no reason"), "{failed}");
        assert_eq!(failed.to_json()["rows"][0]["goals"][0]["reached"], Value::Null);
    }

    #[test]
    fn json_has_both_sides_and_their_ratio() {
        let json = report(vec![line(1500.0, 4.0, 0)]).to_json();
        let goal = &json["rows"][0]["goals"][0];
        assert_eq!((goal["reached"].as_f64(), goal["ratio_to_floor"].as_f64()), (Some(1500.0), Some(3.0)));
        assert_eq!((&goal["must_met"], &goal["aim_met"]), (&json!(true), &json!(false)));
        let late = &json["rows"][0]["goals"][1];
        assert_eq!((&late["ratio_to_floor"], &late["aim_met"]), (&Value::Null, &Value::Null));
        assert_eq!(json["rows"][0]["figures"]["beside"], json!(7.0));
    }
}
