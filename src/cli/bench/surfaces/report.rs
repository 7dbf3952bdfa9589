//! What was measured, as a table for people and as JSON.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::kinds::Kind;

/// What was measured of a row.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) clients: usize,
    /// Why its clients could not connect, if they could not; then the rest says nothing.
    pub(super) refused: Option<String>,
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Messages that had to come; `None` where that follows from nothing that was published.
    pub(super) due: Option<u64>,
    pub(super) errors: u64,
    pub(super) ended: u64,
    pub(super) first_error: Option<String>,
    pub(super) latency_us: Histogram<u64>,
    /// Memory that the daemon took for its clients, in bytes.
    pub(super) memory_bytes: Option<u64>,
}

/// The daemon's resident memory in bytes, where its process is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// Before the first client.
    pub(super) empty: Option<u64>,
    /// With all clients, before anything was sent.
    pub(super) connected: Option<u64>,
    /// With all clients, after everything was sent.
    pub(super) loaded: Option<u64>,
}

/// All rows.
#[derive(Debug, Clone)]
pub(in crate::cli::bench) struct Report {
    /// Who was measured.
    pub(super) daemon: String,
    pub(super) memory: Memory,
    pub(super) lines: Vec<Line>,
    /// What went wrong while events were published.
    pub(super) feeds: Vec<String>,
}

const COLUMNS: [&str; 11] = [
    "surface",
    "clients",
    "messages",
    "each/s",
    "bytes",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "max ms",
    "KiB/client",
    "missing",
];

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn float(number: u64) -> f64 {
    number as f64
}

impl Line {
    fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        (!self.latency_us.is_empty()).then(|| float(self.latency_us.value_at_quantile(quantile)) / 1000.0)
    }

    fn max_ms(&self) -> Option<f64> {
        (!self.latency_us.is_empty()).then(|| float(self.latency_us.max()) / 1000.0)
    }

    fn kib_per_client(&self) -> Option<f64> {
        self.memory_bytes.map(|bytes| float(bytes) / 1024.0 / float(self.clients.max(1) as u64))
    }

    /// Messages that a client got in a second.
    fn each_per_second(&self) -> f64 {
        float(self.messages) / float(self.clients.max(1) as u64) / self.seconds.max(1e-9)
    }

    fn message_bytes(&self) -> u64 {
        self.bytes / self.messages.max(1)
    }

    /// Messages that had to come and did not, or came again.
    fn missing(&self) -> Option<u64> {
        self.due.map(|due| due.abs_diff(self.messages))
    }

    fn is_wrong(&self) -> bool {
        self.refused.is_some() || self.messages == 0 || self.missing().unwrap_or(0) > 0 || self.errors + self.ended > 0
    }

    /// What is wrong with it, in words.
    fn trouble(&self) -> Option<String> {
        if let Some(refused) = &self.refused {
            return Some(refused.clone());
        }
        let what = format!("{} errors, {} streams ended", self.errors, self.ended);
        self.first_error.as_ref().map(|first| format!("{what}; the first: {first}"))
    }

    fn cells(&self) -> [String; 11] {
        let number = |number: Option<f64>| number.map_or("–".to_owned(), |number| format!("{number:.2}"));
        let name = self.kind.name().to_owned();
        if self.refused.is_some() {
            let none = || "–".to_owned();
            let clients = self.clients.to_string();
            return [name, clients, none(), none(), none(), none(), none(), none(), none(), none(), none()];
        }
        [
            name,
            self.clients.to_string(),
            self.messages.to_string(),
            format!("{:.2}", self.each_per_second()),
            self.message_bytes().to_string(),
            number(self.quantile_ms(0.5)),
            number(self.quantile_ms(0.95)),
            number(self.quantile_ms(0.99)),
            number(self.max_ms()),
            number(self.kib_per_client()),
            self.missing().map_or("–".to_owned(), |missing| missing.to_string()),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "surface": self.kind.name(),
            "measured": self.kind.says(),
            "clients": self.clients,
            "refused": self.refused,
            "seconds": self.seconds,
            "messages": self.messages,
            "messages_per_client_and_second": self.each_per_second(),
            "message_bytes": self.message_bytes(),
            "latency_ms": {
                "p50": self.quantile_ms(0.5), "p95": self.quantile_ms(0.95), "p99": self.quantile_ms(0.99), "max": self.max_ms(),
            },
            "memory_bytes_per_client": self.kib_per_client().map(|kib| (kib * 1024.0).round()),
            "due": self.due,
            "missing": self.missing(),
            "errors": self.errors,
            "ended": self.ended,
            "first_error": self.first_error,
        })
    }
}

impl Report {
    pub(in crate::cli::bench) fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.lines.iter().map(Line::to_json).collect();
        let Memory { empty, connected, loaded } = self.memory;
        let memory = json!({ "empty": empty, "connected": connected, "loaded": loaded });
        json!({ "daemon": self.daemon, "memory_bytes": memory, "rows": rows, "feeds": self.feeds })
    }

    /// # Errors
    /// When something was refused, missing, doubled or broken off.
    pub(in crate::cli::bench) fn verdict(&self) -> anyhow::Result<()> {
        let wrong: Vec<&str> = self.lines.iter().filter(|line| line.is_wrong()).map(|line| line.kind.name()).collect();
        anyhow::ensure!(
            wrong.is_empty() && self.feeds.is_empty(),
            "not everything came as it should: {}",
            if wrong.is_empty() { self.feeds.join("; ") } else { wrong.join(", ") }
        );
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.daemon)?;
        let rows: Vec<[String; 11]> =
            std::iter::once(COLUMNS.map(str::to_owned)).chain(self.lines.iter().map(Line::cells)).collect();
        let widths: [usize; 11] =
            std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
        for row in &rows {
            write!(f, "{:width$}", row[0], width = widths[0])?;
            for (cell, width) in row.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\nWhat was measured (timestamps have whole milliseconds, so up to one of them is too much):")?;
        for line in &self.lines {
            writeln!(f, "  {}: {}", line.kind.name(), line.kind.says())?;
        }
        writeln!(f, "  KiB/client: what the daemon's resident memory grew by while they connected and came to rest")?;
        if let Memory { empty: Some(empty), connected: Some(connected), loaded: Some(loaded) } = self.memory {
            let [empty, connected, loaded] = [empty, connected, loaded].map(|bytes| bytes >> 20);
            writeln!(
                f,
                "  all together: {empty} MiB without a client, {connected} MiB with all, {loaded} MiB after all was sent"
            )?;
        }
        for line in &self.lines {
            if let Some(trouble) = line.trouble() {
                writeln!(f, "{}: {trouble}", line.kind.name())?;
            }
        }
        self.feeds.iter().try_for_each(|feed| writeln!(f, "{feed}"))
    }
}
