//! What came of other servers beside tidegate: a table for people with a line for each, and JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use super::Peer;
use crate::cli::bench::goals::report::{aligned, figure};
use crate::cli::bench::goals::row::{Beside, Spread};

/// What came of a row.
#[derive(Debug, Clone)]
pub(in super::super) enum Cell {
    /// A rate beside the floor's.
    Rate {
        /// To the floor beside it.
        ratio: Spread,
        /// A second.
        theirs: f64,
        floor: f64,
        /// Events lost, doubled or out of order.
        wrong: u64,
        /// Where they were measured: p50 and p99 in ms, and µs of the processor for each.
        late: Option<(f64, f64, f64)>,
    },
    /// Bytes each.
    Memory { idle: f64, after: f64, wrong: u64 },
    /// It does not speak like that.
    Cannot,
    /// Why there is no figure.
    Failed(String),
}

impl Cell {
    pub(super) fn rate<T>(
        beside: &Beside<T>,
        rate: impl Fn(&T) -> f64 + Copy,
        wrong: impl Fn(&T) -> u64,
        late: impl Fn(&T) -> (f64, f64, f64) + Copy,
    ) -> Self {
        let wrong = beside.ours.iter().map(wrong).sum();
        let late = (beside.ours(|run| late(run).0), beside.ours(|run| late(run).1), beside.ours(|run| late(run).2));
        let (theirs, floor) = (beside.ours(rate), beside.floor(rate));
        Self::Rate { ratio: beside.ratio(rate), theirs, floor, wrong, late: Some(late) }
    }

    fn wrong(&self) -> u64 {
        match self {
            Self::Rate { wrong, .. } | Self::Memory { wrong, .. } => *wrong,
            Self::Cannot | Self::Failed(_) => 0,
        }
    }

    /// The figure of this column.
    fn text(&self) -> String {
        let mark = if self.wrong() > 0 { " LOST" } else { "" };
        match self {
            Self::Rate { ratio, .. } => figure(ratio.median) + mark,
            Self::Memory { after, .. } => figure(after / 1024.0) + mark,
            Self::Cannot => "–".to_owned(),
            Self::Failed(_) => "failed".to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Rate { ratio, theirs, floor, wrong, late } => json!({
                "ratio_to_floor": ratio.median, "least": ratio.least, "most": ratio.most,
                "per_second": theirs, "floor_per_second": floor, "wrong": wrong,
                "p50_ms": late.map(|late| late.0), "p99_ms": late.map(|late| late.1), "cpu_us": late.map(|late| late.2),
            }),
            Self::Memory { idle, after, wrong } => {
                json!({ "idle_bytes_each": idle, "after_an_event_bytes_each": after, "wrong": wrong })
            }
            Self::Cannot => Value::Null,
            Self::Failed(why) => json!({ "failed": why }),
        }
    }
}

/// What came of a server, by the names of rows; memory is there twice, for WebSocket and SSE.
#[derive(Debug)]
pub(in super::super) struct Measured {
    pub(in super::super) peer: Peer,
    pub(in super::super) version: String,
    pub(in super::super) cells: Vec<(&'static str, Cell)>,
}

/// A server that is not installed.
#[derive(Debug)]
pub(in super::super) struct Missing {
    pub(in super::super) peer: Peer,
    /// With the command that installs it.
    pub(in super::super) why: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(in super::super) struct Table {
    /// What tidegate reached in the same rows, where it was measured.
    pub(in super::super) ours: Vec<(&'static str, Cell)>,
    pub(in super::super) measured: Vec<Measured>,
    pub(in super::super) missing: Vec<Missing>,
}

/// Columns: the row, which of its cells, what stands above it, and its name in JSON.
const COLUMNS: [(&str, usize, &str, &str); 7] = [
    ("websocket", 0, "WebSocket, × floor", "websocket"),
    ("publishers", 0, "16 publishers, × floor", "publishers"),
    ("sse", 0, "SSE, × floor", "sse"),
    ("rooms", 0, "100 rooms, × floor", "rooms"),
    ("memory", 0, "WebSocket, KiB each", "memory_websocket"),
    ("memory", 1, "SSE, KiB each", "memory_sse"),
    ("ingest", 0, "POSTs, × floor", "ingest"),
];

fn cell<'c>(cells: &'c [(&'static str, Cell)], row: &str, which: usize) -> Option<&'c Cell> {
    cells.iter().filter(|(name, _)| *name == row).nth(which).map(|(_, cell)| cell)
}

fn rows_json(cells: &[(&'static str, Cell)]) -> Value {
    let rows = COLUMNS
        .iter()
        .filter_map(|(row, which, _, name)| Some(((*name).to_owned(), cell(cells, row, *which)?.to_json())));
    rows.collect::<Map<_, _>>().into()
}

impl Table {
    pub(in super::super) fn to_json(&self) -> Value {
        let measured: Vec<Value> = self
            .measured
            .iter()
            .map(|one| {
                let Peer { name, title, .. } = one.peer;
                json!({ "name": name, "title": title, "version": one.version, "rows": rows_json(&one.cells) })
            })
            .collect();
        let missing = self.missing.iter().map(|missing| json!({ "name": missing.peer.name, "why": missing.why }));
        json!({ "tidegate": rows_json(&self.ours), "measured": measured, "not_installed": missing.collect::<Vec<_>>() })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || {
            let ours = ("tidegate", self.ours.as_slice());
            std::iter::once(ours).chain(self.measured.iter().map(|one| (one.peer.title, one.cells.as_slice())))
        };
        let shown: Vec<_> = COLUMNS
            .iter()
            .filter(|(row, which, ..)| lines().any(|(_, cells)| cell(cells, row, *which).is_some()))
            .collect();
        let mut table = vec![vec!["beside it".to_owned()]];
        table[0].extend(shown.iter().map(|(_, _, heading, _)| (*heading).to_owned()));
        for (title, cells) in lines().filter(|(_, cells)| !cells.is_empty()) {
            let texts = shown.iter().map(|(row, which, ..)| cell(cells, row, *which).map_or(String::new(), Cell::text));
            table.push(std::iter::once(title.to_owned()).chain(texts).collect());
        }
        if table.len() > 1 {
            write!(f, "{}", aligned(&table, 1))?;
        }
        for one in &self.measured {
            writeln!(f, "\n{} {}", one.peer.title, one.version)?;
            for (row, which, heading, _) in &shown {
                let Some(cell) = cell(&one.cells, row, *which) else { continue };
                details(f, heading, cell)?;
            }
        }
        for missing in &self.missing {
            writeln!(f, "\n{}: {}", missing.peer.title, missing.why)?;
        }
        Ok(())
    }
}

fn details(f: &mut fmt::Formatter<'_>, heading: &str, cell: &Cell) -> fmt::Result {
    match cell {
        Cell::Rate { theirs, floor, late, .. } => {
            write!(f, "  {heading:24} {:>9}/s, floor {:>9}/s", figure(*theirs), figure(*floor))?;
            if let Some((p50, p99, cpu)) = late {
                write!(f, ", p50 {} ms, p99 {} ms, CPU {} µs", figure(*p50), figure(*p99), figure(*cpu))?;
            }
        }
        Cell::Memory { idle, after, .. } => {
            write!(f, "  {heading:24} idle {}, after an event {}", figure(idle / 1024.0), figure(after / 1024.0))?;
        }
        Cell::Cannot => return Ok(()),
        Cell::Failed(why) => write!(f, "  {heading:24} failed: {}", why.lines().next().unwrap_or_default())?,
    }
    if cell.wrong() > 0 {
        write!(f, "; LOST, DOUBLED OR OUT OF ORDER: {}", cell.wrong())?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::super::PEERS;
    use super::*;

    fn rate(ratio: f64, wrong: u64) -> Cell {
        let ratio = Spread { median: ratio, least: ratio, most: ratio };
        Cell::Rate { ratio, theirs: 80_000.0, floor: 100_000.0, wrong, late: Some((1.0, 2.0, 3.0)) }
    }

    fn table(cells: Vec<(&'static str, Cell)>) -> Table {
        let measured = vec![Measured { peer: PEERS[0], version: "9.8.7".to_owned(), cells }];
        let missing = vec![Missing { peer: PEERS[1], why: "install it by: this".to_owned() }];
        Table { ours: vec![("websocket", rate(1.5, 0))], measured, missing }
    }

    #[test]
    fn each_has_a_line_and_what_is_not_measured_has_no_column() {
        let memory = Cell::Memory { idle: 1024.0, after: 2048.0, wrong: 0 };
        let cells = vec![("websocket", rate(0.8, 0)), ("memory", memory), ("memory", Cell::Cannot)];
        let text = table(cells).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("WebSocket, KiB each") && !lines[0].contains("POSTs"), "{text}");
        let fields = |line: &str| {
            line.split("  ").map(str::trim).filter(|field| !field.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(fields(lines[1]), ["tidegate", "1.50"]);
        assert_eq!(fields(lines[2]), [PEERS[0].title, "0.80", "2.00", "–"]);
        assert!(text.contains("9.8.7") && text.contains("install it by: this"), "{text}");
    }

    #[test]
    fn what_was_lost_or_failed_is_shown() {
        let cells = vec![("websocket", rate(0.8, 12)), ("sse", Cell::Failed("no reason\nmore".to_owned()))];
        let table = table(cells);
        let text = table.to_string();
        assert!(text.contains("0.80 LOST") && text.contains("LOST, DOUBLED OR OUT OF ORDER: 12"), "{text}");
        assert!(text.contains("failed: no reason\n"), "{text}");
        let json = table.to_json();
        let rows = &json["measured"][0]["rows"];
        assert_eq!((&rows["websocket"]["wrong"], &rows["sse"]["failed"]), (&json!(12), &json!("no reason\nmore")));
        assert_eq!(json["not_installed"][0]["name"], PEERS[1].name);
        assert_eq!(json["tidegate"]["websocket"]["ratio_to_floor"], json!(1.5));
    }
}
