//! `tidegate bench start`: how long a daemon takes to start with a large log, after a stop and after a crash; how it stops under load, with nothing lost that it acknowledged.
//!
//! [`fill`] makes the log, by the same code that the daemon writes it with; [`load`] are the readers and publishers of the stop. All of it lies in a directory of its own
//! below the system's for temporary files (`TMPDIR`), which is deleted afterwards.

mod fill;
mod load;
mod place;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep, timeout};

use self::load::{Load, Stop};
use self::place::{Place, Running};
use super::http::{Publisher, Speech};
use super::process::{cpu_seconds, resident_bytes};
use super::reader::{Reader, Tally, Transport};
use super::rows::{PATIENCE, Report, float};
use crate::edge::server::raise_open_files;

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(600);
/// So long a daemon is watched doing nothing.
const REST: Duration = Duration::from_secs(5);
/// Events of the first replay.
const REPLAYED: u64 = 1000;

/// How large the log is, and how much load there is.
#[derive(Debug, Clone, Args)]
pub(super) struct StartArguments {
    /// Gigabytes of events' data in the log
    #[arg(long, default_value_t = 10.0)]
    log_gb: f64,
    /// Rooms that they are spread over
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rooms: u64,
    /// Events of one room that came one after the other; 1 is the hardest for the index
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=500))]
    run: u64,
    /// Readers on each of WebSocket and SSE while it is stopped
    #[arg(long, default_value_t = 1000)]
    readers: usize,
    /// Publishers at full speed while it is stopped, half of them with ack=logged, half with ack=synced
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    publishers: u64,
    /// How long they load it before it is stopped, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Measures, with daemons of its own.
///
/// # Errors
/// When a daemon does not start, refuses or breaks off, or the disk is too small.
pub(super) async fn run(arguments: &StartArguments, bar: &ProgressBar) -> anyhow::Result<Report> {
    tokio::select! {
        measured = measure(arguments, bar) => measured,
        // So that the daemon ends and its directory goes.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted")
        }
    }
}

/// Nothing that is written here is let go.
fn flags() -> Vec<(&'static str, String)> {
    let unbounded = ["rooms.default.retention_count", "rooms.default.retention_bytes", "rooms.default.retention_age"];
    let mut flags: Vec<(&str, String)> = unbounded.into_iter().map(|name| (name, "0".to_owned())).collect();
    flags.push(("log.bytes_max", "1TiB".to_owned()));
    flags
}

async fn measure(arguments: &StartArguments, bar: &ProgressBar) -> anyhow::Result<Report> {
    raise_open_files();
    let place = Place::new(flags())?;
    let mut found = Findings { figures: Vec::new(), wrong: 0 };
    let filled = fill::run(&place.log(), &flags(), arguments, bar).await?;
    found.figures.push(("log events", float(filled.events)));
    found.figures.push(("filled events/s", float(filled.events) / filled.took.as_secs_f64()));
    found.figures.push(("log MB on the disk", float(bytes_on_disk(&place.log())) / 1e6));

    let daemon = found
        .start(
            &place,
            ["start: ms", "start: MiB", "start: replay ms", "start: publish ms", "start: % of a core at rest"],
            bar,
        )
        .await?;
    daemon.crash()?;
    let names = [
        "kill -9, start: ms",
        "kill -9, start: MiB",
        "kill -9, start: replay ms",
        "kill -9, start: publish ms",
        "kill -9, start: % at rest",
    ];
    let daemon = found.start(&place, names, bar).await?;

    let daemon = found.stop(&place, daemon, arguments, Stop::InOrder, bar).await?;
    found.stop(&place, daemon, arguments, Stop::Crash, bar).await?;
    let what = format!(
        "start: a log of {} GB of events' data in {} rooms, {} at a time; stops with {} WebSocket and {} SSE readers and {} publishers; {}",
        arguments.log_gb,
        arguments.rooms,
        arguments.run,
        arguments.readers,
        arguments.readers,
        arguments.publishers,
        flags().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    );
    Ok(Report { what, figures: found.figures, wrong: found.wrong })
}

/// What came out so far.
struct Findings {
    figures: Vec<(&'static str, f64)>,
    wrong: u64,
}

impl Findings {
    /// Starts a daemon; how long that took, what it holds, how long its first replay and its first publish take, and how much it works when nobody wants anything.
    async fn start(&mut self, place: &Place, names: [&'static str; 5], bar: &ProgressBar) -> anyhow::Result<Running> {
        bar.set_message("starting");
        // It blocks this thread, which has nothing else to do.
        let daemon = place.start(START)?;
        let target = place.target(&daemon);
        let resident = resident_bytes(daemon.pid()).context("the daemon has ended")?;
        let (tally, began) = (Tally::new()?, Instant::now());
        let query = format!("rooms={}&tail={REPLAYED}", fill::room(0));
        let reader = Reader::open(&target, Transport::Sse, &query).await?;
        timeout(PATIENCE, reader.count(std::rc::Rc::clone(&tally), REPLAYED))
            .await
            .context("the replay did not end")?;
        let replayed = began.elapsed();
        self.wrong += tally.borrow().lost + tally.borrow().doubled + REPLAYED.abs_diff(tally.borrow().delivered);
        let began = Instant::now();
        let body = target.publish(&fill::room(0), "logged").body(0, 0, 200);
        Publisher::connect(&target, &fill::room(0), "logged").await?.publish(&body).await?;
        let published = began.elapsed();
        let rest = share_of_a_core(&daemon).await?;
        let values = [ms(daemon.took), float(resident >> 10) / 1024.0, ms(replayed), ms(published), rest];
        self.figures.extend(names.into_iter().zip(values));
        Ok(daemon)
    }

    /// Loads a daemon, stops it, starts it again, and looks whether everything that was acknowledged is there.
    async fn stop(
        &mut self,
        place: &Place,
        mut daemon: Running,
        arguments: &StartArguments,
        stop: Stop,
        bar: &ProgressBar,
    ) -> anyhow::Result<Running> {
        bar.set_message("loading");
        let load = Load::start(&place.target(&daemon), arguments, stop, bar).await?;
        load.run(Duration::from_secs(arguments.seconds)).await;
        bar.set_message("stopping");
        let began = Instant::now();
        match stop {
            Stop::Crash => daemon.crash()?,
            Stop::InOrder => {
                daemon.ask_to_stop()?;
                load.until_ended(&mut daemon).await?;
                self.figures.push(("stop under load: ms", ms(began.elapsed())));
            }
        }
        let loaded = load.end().await;
        self.wrong += loaded.wrong;
        let [published, delivered, took] = match stop {
            Stop::InOrder => ["stop: acknowledged", "stop: delivered", "stop, start: ms"],
            Stop::Crash => ["kill -9: acknowledged", "kill -9: delivered", "kill -9 under load, start: ms"],
        };
        self.figures.push((published, float(loaded.rooms.iter().map(|room| room.acknowledged).sum())));
        self.figures.push((delivered, float(loaded.delivered)));
        bar.set_message("looking");
        let daemon = place.start(START)?;
        self.figures.push((took, ms(daemon.took)));
        for room in &loaded.rooms {
            self.wrong += room.missing(&place.target(&daemon)).await?;
        }
        Ok(daemon)
    }
}

/// How much of a core it takes while nobody wants anything of it, in percent.
async fn share_of_a_core(daemon: &Running) -> anyhow::Result<f64> {
    let (before, began) = (cpu_seconds(daemon.pid())?, Instant::now());
    sleep(REST).await;
    let worked = cpu_seconds(daemon.pid())? - before;
    Ok(100.0 * worked / began.elapsed().as_secs_f64())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a directory takes on the disk, not how long its files claim to be.
fn bytes_on_disk(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_on_disk(&entry.path()),
        Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
        // Gone meanwhile.
        Err(_) => 0,
    });
    sizes.sum()
}
