//! `tidegate bench`: a load client against a running daemon. Fan-out, replay, ingest; every reader's sequence is checked, latency is taken from the moment an event was due.
//!
//! [`http`] and [`reader`] speak just enough of the protocols to cost little; [`rows`] are the measurements; [`process`] and [`daemon`] start what is measured, `floor` is the bare broadcaster. [`goals`]
//! measures all that is promised, beside that floor; `surfaces` is a crowd of dashboards, `rooms` very many rooms, `start` a start with a large log and a stop under load.

pub mod daemon;
mod floor;
pub mod goals;
pub mod http;
pub mod process;
pub mod reader;
mod rooms;
pub mod rows;
mod start;
mod surfaces;

use std::future::Future;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::client::Server;
use floor::FloorArguments;
use goals::GoalsArguments;
use http::Target;
use reader::Transport;
use rooms::RoomsArguments;
use rows::{Fanout, Ingest, Replay, Report};
use start::StartArguments;
use surfaces::SurfacesArguments;

/// What to measure.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate bench goals --short\n  tidegate bench fanout --readers 1000 --transport sse --events 2000\n  tidegate bench surfaces --clients 1000 --seconds 30"
)]
pub struct BenchArguments {
    #[command(subcommand)]
    row: Measurement,
    #[command(flatten)]
    server: Server,
    /// Print the result as one line of JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// A crowd of dashboards on every surface at once: latencies, and memory for each client
    Surfaces(SurfacesArguments),
    /// All that is promised of tidegate's speed, measured beside a bare broadcaster on this machine
    Goals(GoalsArguments),
    /// Very many rooms, some with a reader, thousands behind one pattern; a daemon is started for this
    Rooms(RoomsArguments),
    /// A start with a large log, and a stop under load; a daemon is started for this
    Start(StartArguments),
    /// The bare broadcaster
    #[command(hide = true)]
    Floor(FloorArguments),
    #[command(flatten)]
    Row(Row),
}

#[derive(Debug, Subcommand)]
enum Row {
    /// Many readers of one room
    Fanout {
        /// Readers
        #[arg(long, default_value_t = 1000)]
        readers: usize,
        /// How they read
        #[arg(long, value_enum, default_value = "websocket")]
        transport: Wire,
        /// Publishers at once
        #[arg(long, default_value_t = 1)]
        publishers: usize,
        /// Events published in all
        #[arg(long, default_value_t = 1000)]
        events: u64,
        /// Events a second; without it, as fast as they are answered
        #[arg(long)]
        rate: Option<u64>,
        /// Bytes of an event's data
        #[arg(long, default_value_t = 200)]
        bytes: usize,
    },
    /// One reader that comes back for its history
    Replay {
        /// Events to come back for
        #[arg(long, default_value_t = 1000)]
        events: u64,
        /// How often
        #[arg(long, default_value_t = 20)]
        runs: u64,
        /// Bytes of an event's data
        #[arg(long, default_value_t = 200)]
        bytes: usize,
    },
    /// Publishing alone
    Ingest {
        /// Publishers at once
        #[arg(long, default_value_t = 4)]
        publishers: usize,
        /// Requests in all
        #[arg(long, default_value_t = 20_000)]
        requests: u64,
        /// Events in one request
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// What the answer means: memory, logged or synced
        #[arg(long, default_value = "logged")]
        ack: String,
        /// Bytes of an event's data
        #[arg(long, default_value_t = 200)]
        bytes: usize,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wire {
    Websocket,
    Sse,
}

/// Events of one publish before a replay.
const REPLAY_BATCH: u64 = 500;

/// Where the daemon is, and as whom it is loaded.
async fn target(server: &Server) -> anyhow::Result<Target> {
    let authority = server.authority()?;
    let address = tokio::net::lookup_host(&authority).await.with_context(|| format!("{authority} is no address"))?;
    let address = address.into_iter().next().with_context(|| format!("{authority} is no address"))?;
    Ok(Target { address, token: server.credential()? })
}

pub(super) async fn run(arguments: BenchArguments) -> anyhow::Result<()> {
    let BenchArguments { row, server, json } = arguments;
    match row {
        Measurement::Surfaces(surfaces) => run_surfaces(surfaces, &server, json).await,
        Measurement::Goals(goals) => goals::run(goals, json).await,
        Measurement::Floor(floor) => tokio::task::spawn_blocking(move || floor::serve(&floor)).await?,
        Measurement::Rooms(rooms) => alone(json, move |bar| async move { rooms::run(&rooms, &bar).await }).await,
        Measurement::Start(start) => alone(json, move |bar| async move { start::run(&start, &bar).await }).await,
        Measurement::Row(row) => {
            let target = target(&server).await?;
            alone(json, move |bar| async move { measure(&target, &row, &bar).await }).await
        }
    }
}

/// Measures on one thread, so that the client disturbs the daemon beside it as little as it can; and what it counts needs no lock. Then says what came out.
async fn alone<M>(json: bool, measurement: impl FnOnce(ProgressBar) -> M + Send + 'static) -> anyhow::Result<()>
where
    M: Future<Output = anyhow::Result<Report>>,
{
    let measured = tokio::task::spawn_blocking(move || {
        let bar = progress();
        let report = rows::on_one_thread(measurement(bar.clone()));
        bar.finish_and_clear();
        report
    });
    let report = measured.await??;
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        write!(out, "{report}")?;
    }
    report.verdict()
}

async fn run_surfaces(arguments: SurfacesArguments, server: &Server, json: bool) -> anyhow::Result<()> {
    let running = match &arguments.url {
        None => None,
        Some(url) => Some(target(&Server { server: url.clone(), ..server.clone() }).await?),
    };
    let measured = tokio::task::spawn_blocking(move || {
        let bar = progress();
        let report = rows::on_one_thread(surfaces::run(&arguments, running, &bar));
        bar.finish_and_clear();
        report
    });
    let report = measured.await??;
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        write!(out, "{report}")?;
    }
    report.verdict()
}

async fn measure(target: &Target, row: &Row, bar: &ProgressBar) -> anyhow::Result<Report> {
    let room = format!("bench:{}", crate::clock::now_us());
    match row {
        Row::Fanout { readers, transport, publishers, events, rate, bytes } => {
            let transport = match transport {
                Wire::Websocket => Transport::WebSocket,
                Wire::Sse => Transport::Sse,
            };
            let fanout = Fanout {
                room,
                rooms: 1,
                readers: *readers,
                transport,
                publishers: *publishers,
                events: *events,
                rate: *rate,
                bytes: *bytes,
            };
            fanout.run(target, bar).await
        }
        Row::Replay { events, runs, bytes } => {
            let replay = Replay { room, events: *events, runs: *runs, bytes: *bytes, batch: REPLAY_BATCH, after: None };
            replay.run(target, bar).await
        }
        Row::Ingest { publishers, requests, batch, ack, bytes } => {
            let ingest = Ingest {
                room,
                publishers: *publishers,
                requests: *requests,
                batch: *batch,
                ack: ack.clone(),
                bytes: *bytes,
            };
            ingest.run(target, bar).await
        }
    }
}

fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // A template that does not parse would only lose its looks.
    if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
