//! `tidegate bench goals`: every row of the table of goals, each measured against a floor that runs before and after it, with every reader's sequence checked.
//!
//! A file for each family of rows: [`fan`], [`connect`], [`memory`], [`replay`], [`storm`], [`ingest`], [`stalled`], [`parts`] (in this process, by [`chain`] and [`disk`]).
//! [`row`] is what a row is and how runs are compared, [`server`] who is measured, [`peers`] are other servers beside it, [`sweep`] is what plots are drawn from, [`report`] what
//! comes out. They know the wires only, and the settings that they say.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

pub mod chain;
mod connect;
pub mod disk;
mod fan;
mod ingest;
mod live;
mod memory;
mod parts;
mod peers;
mod replay;
mod report;
mod row;
mod server;
mod stalled;
mod storm;
mod sweep;

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use self::peers::{Installed, Missing, Table};
use self::report::{Line, Report};
use self::row::{Outcome, Row, at_least, at_most};
use super::process::Cores;
use super::{plot, rows};
use crate::edge::server::raise_open_files;

/// What is measured, and how thoroughly.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  tidegate bench goals --short\n  tidegate bench goals --only websocket,latency --runs 5 --out figures.json"
)]
pub struct GoalsArguments {
    /// Only these rows, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "ROW", value_parser = row_name)]
    only: Vec<&'static str>,
    /// Print the rows with their goals, and measure nothing
    #[arg(long)]
    list: bool,
    /// About a tenth of the work
    #[arg(long)]
    short: bool,
    /// How often each row is measured, with the floor before and after each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    runs: u8,
    /// Write the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// End with 1 where a must is missed
    #[arg(long)]
    strict: bool,
    /// Where servers keep their directories; by default where the system keeps temporary files
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Cores that the server has; the client has the last one there is
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    server_cores: u16,
    /// Fewer readers and events: for tests of the bench itself, whose figures say nothing
    #[arg(long, default_value_t = 1.0, hide = true)]
    scale: f64,
    #[command(flatten)]
    beside: BesideArguments,
}

/// What is measured beside the table.
#[derive(Debug, Clone, Args)]
struct BesideArguments {
    /// Other servers in some of the rows: all, or these, separated by commas; benches/peers/install installs them
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = peers::peer_name)]
    peers: Vec<&'static str>,
    /// Where benches/peers is
    #[arg(long, value_name = "DIRECTORY", default_value = "benches/peers")]
    peers_dir: PathBuf,
    /// Latency against load and memory against connections, too, for `bench plot`; alone by --only sweep-latency,sweep-memory
    #[arg(long)]
    sweeps: bool,
    /// Draw the sweeps into this directory, as SVG
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
}

/// The table. What must be and what is aimed at comes from measurements of a bare broadcaster and of other servers on a machine with two cores.
static ROWS: [Row; 16] = [
    Row {
        name: "websocket",
        what: "one room, 1,000 WebSockets, one publisher as fast as it is answered",
        goals: &[at_least("deliveries/s", "× floor", 0.85, 0.95)],
        run: fan::websocket,
    },
    Row {
        name: "latency",
        what: "one room, 1,000 WebSockets, 50 events a second: 50,000 deliveries a second",
        goals: &[at_most("p50", "× floor", 1.25, Some(1.1)), at_most("p99", "× floor", 1.25, Some(1.1))],
        run: fan::latency,
    },
    Row {
        name: "publishers",
        what: "one room, 1,000 WebSockets, 16 publishers as fast as they are answered",
        goals: &[at_least("deliveries/s", "× floor", 6.0, 9.0)],
        run: fan::publishers,
    },
    Row {
        name: "sse",
        what: "one room, 1,000 readers of Server-Sent Events, one publisher as fast as it is answered",
        goals: &[at_least("deliveries/s", "× floor", 0.9, 0.95)],
        run: fan::sse,
    },
    Row {
        name: "rooms",
        what: "100 rooms with 100 WebSockets each, one publisher that goes round them",
        goals: &[at_least("deliveries/s", "× floor", 0.85, 1.1)],
        run: fan::rooms,
    },
    Row {
        name: "memory",
        what: "5,000 connections that wait: the server's resident memory",
        goals: &[
            at_most("WebSocket, idle", "bytes each", 5120.0, Some(2048.0)),
            at_most("WebSocket, after an event", "bytes each", 5120.0, Some(2048.0)),
            at_most("SSE, idle", "bytes each", 10_240.0, Some(5120.0)),
            at_most("SSE, after an event", "bytes each", 10_240.0, Some(5120.0)),
        ],
        run: memory::memory,
    },
    Row {
        name: "connecting",
        what: "10,000 WebSockets come to be, 64 at a time, each with a token (JWT) of its own",
        goals: &[at_least("connections", "/s", 15_000.0, 25_000.0)],
        run: connect::connecting,
    },
    Row {
        name: "last",
        what: "one event to 10,000 WebSockets",
        goals: &[at_most("the last has it", "ms", 90.0, Some(75.0))],
        run: connect::last,
    },
    Row {
        name: "replay-memory",
        what: "an SSE reader comes back for 100, 1,000, 10,000 events that are in memory; from the request to the last event",
        goals: &[
            at_most("100 events, p50", "ms", 0.3, Some(0.1)),
            at_most("1,000 events, p50", "ms", 1.0, Some(0.4)),
            at_most("10,000 events, p50", "ms", 8.0, Some(3.0)),
        ],
        run: replay::from_memory,
    },
    Row {
        name: "replay-log",
        what: "an SSE reader comes back for 10,000 events that are in the log only (the floor has them in memory)",
        goals: &[at_least("events", "/s", 1e6, 3e6)],
        run: replay::from_log,
    },
    Row {
        name: "storm",
        what: "200 WebSockets come back at once for 1,000 events each, again and again, beside a live room of 100 readers at 50 events a second",
        goals: &[at_least("events", "/s", 2e6, 4e6), at_most("live p99", "× without", 2.0, None)],
        run: storm::storms,
    },
    Row {
        name: "ingest",
        what: "16 publishers, an event a request, answered when it is logged",
        goals: &[at_least("requests/s", "× floor", 0.6, 0.85)],
        run: ingest::single,
    },
    Row {
        name: "batches",
        what: "16 publishers, 50 events a request",
        goals: &[at_least("logged", "events/s", 1e6, 2e6), at_least("synced", "events/s", 3e5, 1e6)],
        run: ingest::batches,
    },
    Row {
        name: "stalled",
        what: "100 WebSockets that never read, 8 MB behind, beside 900 that have 50 events a second",
        goals: &[
            at_most("others' p99", "× without", 1.25, None),
            at_most("server and kernel", "bytes each", 1_048_576.0, Some(262_144.0)),
        ],
        run: stalled::stalled,
    },
    Row {
        name: "operators",
        what: "filter, window of ten seconds, threshold, 10,000 keys: one core, without rooms and journals",
        goals: &[at_least("events", "/s", 1e6, 2e6)],
        run: parts::operators,
    },
    Row {
        name: "disk",
        what: "rooms under retention, written over and over: what the log takes of the disk, when it is full",
        goals: &[
            at_most("on the disk", "× bytes kept", 2.0, Some(1.3)),
            // It goes up and down by a generation, of which there are eight.
            at_most("later half", "× earlier half", 1.1, None),
        ],
        run: parts::disk,
    },
];

fn row_name(text: &str) -> Result<&'static str, String> {
    let names = || ROWS.iter().map(|row| row.name).chain(sweep::NAMES);
    let found = names().find(|name| *name == text);
    found.ok_or_else(|| format!("expected one of {}", names().collect::<Vec<_>>().join(", ")))
}

/// How rows are run.
#[derive(Debug)]
struct Bench {
    short: bool,
    scale: f64,
    runs: usize,
    cores: Cores,
    dir: PathBuf,
    bar: ProgressBar,
    stop: CancellationToken,
}

impl Bench {
    /// Events, requests or turns: fewer in a short run.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
    fn count(&self, full: u64) -> u64 {
        let part = if self.short { 0.1 } else { 1.0 };
        ((full as f64 * self.scale * part) as u64).max(5)
    }

    /// Readers: as many in a short run, because what is measured hangs on them.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
    fn readers(&self, full: usize) -> usize {
        ((full as f64 * self.scale) as usize).max(3)
    }

    /// How long something is watched.
    fn time(&self, full: Duration) -> Duration {
        let part = if self.short { 0.25 } else { 1.0 };
        full.mul_f64(part * self.scale.clamp(0.1, 1.0))
    }

    /// # Errors
    /// When nobody wants it any more.
    fn go_on(&self) -> anyhow::Result<()> {
        if self.stop.is_cancelled() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Runs a measurement on this thread alone.
    fn run<T>(&self, measurement: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        rows::on_one_thread(async {
            tokio::select! {
                measured = measurement => measured,
                () = self.stop.cancelled() => bail!("interrupted"),
            }
        })
    }
}

/// Runs the command.
///
/// # Errors
/// When a row fails, something was lost, or (with `--strict`) a must is missed.
pub(super) async fn run(arguments: GoalsArguments, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if arguments.list {
        return Ok(write!(out, "{}", listed())?);
    }
    raise_open_files();
    let stop = CancellationToken::new();
    let bench = Bench {
        short: arguments.short,
        scale: arguments.scale.clamp(0.001, 1.0),
        runs: arguments.runs.into(),
        cores: Cores::new(arguments.server_cores.into())?,
        dir: arguments.dir.unwrap_or_else(std::env::temp_dir),
        bar: progress(),
        stop: stop.clone(),
    };
    let (only, beside) = (arguments.only, arguments.beside.clone());
    // One thread, so that the client disturbs the server beside it as little as it can; and what it counts needs no lock.
    let mut measuring = tokio::task::spawn_blocking(move || measure(&bench, &only, &beside));
    let report = tokio::select! {
        report = &mut measuring => report??,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            // So that servers end and their directories go.
            stop.cancel();
            measuring.await??
        }
    };
    if let Some(file) = &arguments.out {
        let text = serde_json::to_string_pretty(&report.to_json())? + "\n";
        std::fs::write(file, text).with_context(|| format!("{}", file.display()))?;
    }
    if let Some(directory) = &arguments.beside.plots {
        plot::write(&[report.to_json()], directory)?;
    }
    if json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        write!(out, "{report}")?;
    }
    if stop.is_cancelled() {
        bail!("interrupted");
    }
    let (broken, missed) = (report.broken(), report.missed());
    if !broken.is_empty() {
        bail!("failed or with events lost, doubled or out of order: {}", broken.join(", "));
    }
    if arguments.strict && !missed.is_empty() {
        bail!("below what must be: {}", missed.join(", "));
    }
    Ok(())
}

fn measure(bench: &Bench, only: &[&str], beside: &BesideArguments) -> anyhow::Result<Report> {
    let machine = report::machine(&bench.dir, &bench.cores);
    let mut report = Report { machine, lines: Vec::new(), peers: None, sweeps: None };
    report.machine["short"] = bench.short.into();
    report.machine["runs"] = bench.runs.into();
    report.machine["scale"] = bench.scale.into();
    bench.cores.pin_client()?;
    let (installed, missing) = match beside.peers.as_slice() {
        [] => (Vec::new(), Vec::new()),
        names => peers::find(names, &beside.peers_dir)?,
    };
    let wanted = ROWS.iter().filter(|row| only.is_empty() || only.contains(&row.name));
    for row in wanted {
        if bench.stop.is_cancelled() {
            break;
        }
        bench.bar.set_prefix(row.name);
        let began = Instant::now();
        let outcome: Result<Outcome, String> = (row.run)(bench).map_err(|error| format!("{error:#}"));
        report.lines.push(Line { row, outcome, seconds: began.elapsed().as_secs_f64() });
    }
    if !beside.peers.is_empty() {
        report.peers = Some(beside_it(bench, &report.lines, &installed, missing, only));
    }
    let sweeps: Vec<&str> = sweep::NAMES
        .into_iter()
        .filter(|name| beside.sweeps || beside.plots.is_some() || only.contains(name))
        .collect();
    if !sweeps.is_empty() {
        report.sweeps = Some(sweep::run(bench, &sweeps, &installed));
    }
    // The thread goes back to where others may use it.
    bench.cores.unpin()?;
    bench.bar.finish_and_clear();
    Ok(report)
}

/// Other servers in rows that tidegate was measured in before.
fn beside_it(bench: &Bench, lines: &[Line], installed: &[Installed], missing: Vec<Missing>, rows: &[&str]) -> Table {
    let outcomes = lines.iter().filter_map(|line| Some((line.row.name, line.outcome.as_ref().ok()?)));
    let ours = outcomes.flat_map(|(row, outcome)| peers::cells_of_ours(row, outcome)).collect();
    let measured = installed.iter().map(|peer| peers::measure(bench, peer, rows)).collect();
    Table { ours, measured, missing }
}

/// Rows with their goals.
fn listed() -> String {
    let mut text = String::new();
    for row in &ROWS {
        text.push_str(&format!("{:14} {}\n", row.name, row.what));
        for goal in row.goals {
            let sign = goal.direction.sign();
            let aim = goal.aim.map_or(String::new(), |aim| format!(", aim {sign} {}", report::figure(aim)));
            text.push_str(&format!(
                "{:14}   {}, {}: must {sign} {}{aim}\n",
                "",
                goal.name,
                goal.unit,
                report::figure(goal.must)
            ));
        }
    }
    text
}

fn progress() -> ProgressBar {
    let bar = super::progress();
    // A template that does not parse would only lose its looks.
    if let Ok(style) = ProgressStyle::with_template("{prefix:14} {msg:12} {wide_bar} {human_pos}/{human_len} {elapsed}")
    {
        bar.set_style(style);
    }
    bar
}
