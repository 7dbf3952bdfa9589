//! `tidegate bench surfaces`: a crowd of dashboards on every surface at once, each at the rate of its document; how late what they are shown is, and what a client costs.
//!
//! [`kinds`] says what is measured; [`feed`] publishes; [`stream`] and [`polling`] are the clients, which speak [`frames`] and count into a [`tally`]; [`report`] is what
//! comes out. The clients know the wires only, and nothing of how the daemon makes what it sends.

mod feed;
mod frames;
mod kinds;
mod polling;
mod report;
mod stream;
mod tally;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::ProgressBar;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use self::kinds::{Kind, Wire};
use self::polling::Polling;
use self::report::{Line, Memory, Report};
use self::stream::{BUFFER_BYTES, Buffer, Stream};
use self::tally::{SharedTally, Tally};
use super::daemon::Daemon;
use super::http::Target;
use super::process::resident_bytes;
use crate::edge::server::raise_open_files;

/// Clients that connect at once.
const CONNECTING: usize = 64;
/// One that takes longer is refused.
const CONNECT: Duration = Duration::from_secs(30);
/// So long a row comes to rest before its memory is looked at.
const REST: Duration = Duration::from_secs(1);
/// So long is waited for what was published and has not come.
const SETTLE: Duration = Duration::from_secs(5);

/// Of an error, so many characters are shown.
const ERROR_MAX: usize = 400;

/// Who is measured, and by how many.
#[derive(Debug, Clone, Args)]
pub(super) struct SurfacesArguments {
    /// A daemon that runs (with --token of an admin who is platform_admin too, and without limits for one address or user); without it one is started for this
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// The process of the daemon at --url, on this machine, so that its memory is measured
    #[arg(long, value_name = "PID", requires = "url")]
    pid: Option<u32>,
    /// Clients on each surface
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Clients of Socket.IO on HTTP long-polling
    #[arg(long, default_value_t = 500)]
    polling_clients: usize,
    /// Wells among which clients are spread
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=500))]
    wells: u16,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Only these surfaces, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
}

/// A row whose clients are connected.
struct Row {
    kind: Kind,
    clients: usize,
    refused: Option<String>,
    memory_bytes: Option<u64>,
    tally: SharedTally,
    /// They end with the row.
    _following: JoinSet<()>,
}

/// Measures.
///
/// # Errors
/// When there is no daemon. What single surfaces refuse is in the report.
pub(super) async fn run(
    arguments: &SurfacesArguments,
    running: Option<Target>,
    bar: &ProgressBar,
) -> anyhow::Result<Report> {
    tokio::select! {
        measured = measure(arguments, running, bar) => measured,
        // So that a daemon of one's own ends and its directory goes.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted")
        }
    }
}

async fn measure(arguments: &SurfacesArguments, running: Option<Target>, bar: &ProgressBar) -> anyhow::Result<Report> {
    raise_open_files();
    let (own, target) = match running {
        Some(target) => (None, target),
        None => {
            bar.set_message("starting");
            let own = tokio::task::spawn_blocking(|| Daemon::start(&std::env::temp_dir(), &[], None)).await??;
            let target = Target { token: own.token("bench")?, ..own.target() };
            (Some(own), target)
        }
    };
    let pid = own.as_ref().map(|own| own.process().pid()).or(arguments.pid);
    let kinds = Kind::ALL.into_iter().filter(|kind| arguments.only.is_empty() || arguments.only.contains(kind));
    let resident = || pid.and_then(resident_bytes);
    let mut rows = Vec::new();
    let empty = resident();
    for kind in kinds {
        rows.push(open_row(arguments, &target, kind, pid, bar).await?);
    }
    let connected = resident();
    let (seconds, feeds) = load(arguments, &target, &rows, bar).await;
    let memory = Memory { empty, connected, loaded: resident() };
    let whose = if own.is_some() { "a daemon started for this" } else { "a daemon that runs" };
    let open: usize = rows.iter().filter(|row| row.refused.is_none()).map(|row| row.clients).sum();
    let daemon = format!("{whose}, {open} clients at once, measured for {:.1} s", seconds);
    let mut problems = Vec::new();
    let mut turns = Vec::new();
    for (feed, outcome) in feeds {
        match outcome {
            Ok(count) => turns.push((feed, count)),
            Err(error) => problems.push(format!("publishing for {feed:?}: {}", short(&error))),
        }
    }
    let lines = rows.iter().map(|row| {
        let published = turns.iter().find(|(feed, _)| *feed == row.kind.feed()).map(|(_, count)| *count);
        line(row, seconds, published)
    });
    Ok(Report { daemon, memory, lines: lines.collect(), feeds: problems })
}

/// Every client follows one room, whichever it is, so each event comes to as many clients as are spread on its room; every room has an event each turn.
fn line(row: &Row, seconds: f64, published: Option<u64>) -> Line {
    let tally = row.tally.borrow();
    let due = published.filter(|_| row.kind.is_exact() && row.refused.is_none());
    Line {
        kind: row.kind,
        clients: row.clients,
        refused: row.refused.clone(),
        seconds,
        messages: tally.messages,
        bytes: tally.bytes,
        due: due.map(|turns| turns * row.clients as u64),
        errors: tally.errors,
        ended: tally.ended,
        first_error: tally.first_error.clone(),
        latency_us: tally.latency_us.clone(),
        memory_bytes: row.memory_bytes,
    }
}

/// Connects a row's clients, some at a time, and looks what they cost.
async fn open_row(
    arguments: &SurfacesArguments,
    target: &Target,
    kind: Kind,
    pid: Option<u32>,
    bar: &ProgressBar,
) -> anyhow::Result<Row> {
    let clients = if kind.wire() == Wire::Polling { arguments.polling_clients } else { arguments.clients };
    bar.set_message(kind.name());
    bar.set_length(clients as u64);
    bar.set_position(0);
    let before = pid.and_then(resident_bytes);
    let tally = Tally::new(kind)?;
    let buffer: Buffer = Rc::new(RefCell::new(vec![0; BUFFER_BYTES]));
    let (mut opening, mut following, mut refused) = (JoinSet::new(), JoinSet::new(), None);
    let (mut started, mut open) = (0, 0);
    while open < clients && refused.is_none() {
        while started < clients && opening.len() < CONNECTING {
            let (target, well) = (target.clone(), feed::well(started % usize::from(arguments.wells)));
            opening.spawn_local(async move {
                let connecting = tokio::time::timeout(CONNECT, connect(&target, kind, &well));
                connecting.await.context("it was not open in time")?
            });
            started += 1;
        }
        match opening.join_next().await.context("no stream is being opened")?? {
            Ok(client) => {
                let (tally, buffer) = (Rc::clone(&tally), Rc::clone(&buffer));
                following.spawn_local(async move {
                    match client {
                        Client::Stream(stream) => stream.follow(tally, buffer).await,
                        Client::Polling(polling) => polling.follow(tally).await,
                    }
                });
                open += 1;
                bar.inc(1);
            }
            Err(error) => {
                refused = Some(short(&error));
                following.abort_all();
            }
        }
    }
    sleep(REST).await;
    let after = pid.and_then(resident_bytes);
    let memory_bytes = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    Ok(Row { kind, clients, refused, memory_bytes, tally, _following: following })
}

/// An error on one line.
fn short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(ERROR_MAX).collect()
}

/// A client, whichever its wire is.
enum Client {
    Stream(Stream),
    Polling(Polling),
}

async fn connect(target: &Target, kind: Kind, well: &str) -> anyhow::Result<Client> {
    Ok(match kind.wire() {
        Wire::Polling => Client::Polling(Polling::open(target, kind, well).await?),
        Wire::WebSocket | Wire::Sse | Wire::SocketIo => Client::Stream(Stream::open(target, kind, well).await?),
    })
}

/// What each feed published, or why it stopped.
type Fed = Vec<(kinds::Feed, anyhow::Result<u64>)>;

/// Publishes for all rows at once, for as long as it is measured; how long that was, and what was published.
async fn load(arguments: &SurfacesArguments, target: &Target, rows: &[Row], bar: &ProgressBar) -> (f64, Fed) {
    bar.set_message("measuring");
    bar.set_length(arguments.seconds);
    bar.set_position(0);
    let open: Vec<&Row> = rows.iter().filter(|row| row.refused.is_none()).collect();
    open.iter().for_each(|row| row.tally.borrow_mut().measuring = true);
    let (began, stop) = (Instant::now(), Rc::new(Cell::new(false)));
    let mut feeds: Vec<(kinds::Feed, JoinHandle<anyhow::Result<u64>>)> = Vec::new();
    for row in &open {
        let feed = row.kind.feed();
        if feeds.iter().all(|(other, _)| *other != feed) {
            let running = feed::run(target.clone(), feed, usize::from(arguments.wells), Rc::clone(&stop));
            feeds.push((feed, tokio::task::spawn_local(running)));
        }
    }
    for _ in 0..arguments.seconds {
        sleep(Duration::from_secs(1)).await;
        bar.inc(1);
    }
    stop.set(true);
    // Rows that come by themselves are over; what was published for the others is still on its way.
    open.iter().filter(|row| !row.kind.is_exact()).for_each(|row| row.tally.borrow_mut().measuring = false);
    let seconds = began.elapsed().as_secs_f64();
    let mut fed = Vec::new();
    for (feed, running) in feeds {
        let outcome = running.await.map_err(anyhow::Error::from).and_then(|outcome| outcome);
        fed.push((feed, outcome));
    }
    settle(&open, &fed).await;
    open.iter().for_each(|row| row.tally.borrow_mut().measuring = false);
    (seconds, fed)
}

/// Waits for what has to come, where that is known.
async fn settle(open: &[&Row], fed: &Fed) {
    let until = Instant::now() + SETTLE;
    let turns = |row: &Row| {
        let (_, turns) = fed.iter().find(|(feed, _)| *feed == row.kind.feed())?;
        turns.as_ref().ok().copied()
    };
    let is_whole = |row: &&Row| {
        !row.kind.is_exact() || turns(row).is_none_or(|turns| row.tally.borrow().messages >= turns * row.clients as u64)
    };
    while !open.iter().all(is_whole) && Instant::now() < until {
        sleep(Duration::from_millis(10)).await;
    }
}
