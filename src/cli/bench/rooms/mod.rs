//! `tidegate bench rooms`: a daemon with very many rooms, some with a reader, thousands behind one pattern; what a room costs, and what all of them cost the others.
//!
//! [`watch`] is the reader by pattern. The daemon is one of its own, everything of it on; the settings that are raised for this are named in the report.

mod watch;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use indicatif::ProgressBar;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::watch::Watch;
use super::daemon::Daemon;
use super::http::{self, Publisher, Speech, Target};
use super::reader::{Tally, Transport};
use super::rows::{Report, float, open_each, settle};
use crate::edge::server::raise_open_files;

/// Publishers that make rooms at once.
const PUBLISHERS: usize = 16;
/// Rooms and readers of the run before there are many, against which the others are held.
const FEW: usize = 100;
/// Rooms of the daemon's own, more or less.
const SPARE: usize = 1000;
/// Rooms that come to be while many look on.
const LATE: usize = 1000;
/// Calls of which the median is taken.
const CALLS: usize = 20;
/// So long the daemon is watched doing nothing.
const REST: Duration = Duration::from_secs(5);
/// So long at most is waited until its memory does not fall any more: the allocator gives back what was freed after ten seconds.
const FALLING: Duration = Duration::from_secs(20);
/// A fall of less is none.
const FALL_BYTES: u64 = 128 << 10;

/// How many of everything.
#[derive(Debug, Clone, Args)]
pub(super) struct RoomsArguments {
    /// Rooms, each with one event
    #[arg(long, default_value_t = 100_000)]
    rooms: usize,
    /// Of these, so many have a reader
    #[arg(long, default_value_t = 10_000)]
    readers: usize,
    /// Rooms beside them that one reader follows by a pattern
    #[arg(long, default_value_t = 10_000)]
    patterns: usize,
    /// Readers by patterns that no room matches; each new room is held against all of them
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Events a second, spread over rooms with a reader
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// For so long, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes of an event's data
    #[arg(long, default_value_t = 200)]
    bytes: usize,
}

/// Measures, with a daemon of its own.
///
/// # Errors
/// When the daemon does not start, refuses or breaks off.
pub(super) async fn run(arguments: &RoomsArguments, bar: &ProgressBar) -> anyhow::Result<Report> {
    if arguments.readers > arguments.rooms {
        bail!("--readers {}: there are only {} rooms", arguments.readers, arguments.rooms);
    }
    tokio::select! {
        measured = measure(arguments, bar) => measured,
        // So that the daemon ends and its directory goes.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted")
        }
    }
}

async fn measure(arguments: &RoomsArguments, bar: &ProgressBar) -> anyhow::Result<Report> {
    raise_open_files();
    bar.set_message("starting");
    let rooms_max = arguments.rooms + arguments.patterns + LATE + FEW + SPARE;
    let flags = [
        ("limits.rooms", rooms_max.to_string()),
        ("limits.rooms_per_connection", (arguments.patterns + 1).to_string()),
        ("rooms.default.idle_after", "1d".to_owned()),
    ];
    let raised: Vec<String> = flags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let daemon = tokio::task::spawn_blocking(move || Daemon::start(&std::env::temp_dir(), &flags, None)).await??;
    let mut run = Run { arguments, target: daemon.target(), daemon: &daemon, bar, figures: Vec::new(), wrong: 0 };
    let readers = run.many().await?;
    run.followed().await?;
    run.watched().await?;
    run.calls().await?;
    run.rest().await?;
    drop(readers);
    let what = format!(
        "rooms: {} with an event of {} bytes of data each, {} of them with a WebSocket reader, {} more behind one pattern, {} readers of other patterns; {}",
        arguments.rooms,
        arguments.bytes,
        arguments.readers,
        arguments.patterns,
        arguments.watchers,
        raised.join(" ")
    );
    Ok(Report { what, figures: run.figures, wrong: run.wrong })
}

/// Connections that are read for as long as this is kept, what they have seen, and how long they took to connect.
type Readers = (JoinSet<()>, Rc<RefCell<Tally>>, Duration);

/// A measurement under way.
struct Run<'a> {
    arguments: &'a RoomsArguments,
    target: Target,
    daemon: &'a Daemon,
    bar: &'a ProgressBar,
    figures: Vec<(&'static str, f64)>,
    wrong: u64,
}

impl Run<'_> {
    /// A few rooms with readers, then all of them; returns what keeps the readers' connections open.
    async fn many(&mut self) -> anyhow::Result<JoinSet<()>> {
        let few = FEW.min(self.arguments.readers).max(1);
        self.publish_each("few", few).await?;
        let (readers, tally, _) = self.open(few, |number| format!("rooms=few:{number}")).await?;
        self.trickle("few", few, &tally, ["few: p50 ms", "few: p99 ms"]).await?;
        drop(readers);
        let before = self.resident().await?;
        let took = self.publish_each("many", self.arguments.rooms).await?;
        self.figures.push(("rooms made/s", rate(self.arguments.rooms, took)));
        let after = self.resident().await?;
        self.figures.push(("resident bytes a room", per(after.saturating_sub(before), self.arguments.rooms)));
        let (readers, tally, took) = self.open(self.arguments.readers, |number| format!("rooms=many:{number}")).await?;
        self.figures.push(("connects/s", rate(self.arguments.readers, took)));
        let open = self.resident().await?;
        self.figures.push(("resident bytes a reader", per(open.saturating_sub(after), self.arguments.readers)));
        self.trickle("many", self.arguments.readers, &tally, ["many: p50 ms", "many: p99 ms"]).await?;
        Ok(readers)
    }

    /// Publishes one event to each room of a kind, by several publishers; how long that took.
    async fn publish_each(&self, kind: &'static str, rooms: usize) -> anyhow::Result<Duration> {
        self.bar.set_message("publishing");
        self.bar.set_length(rooms as u64);
        self.bar.set_position(0);
        let began = Instant::now();
        let next = Rc::new(RefCell::new(0..rooms));
        let mut publishing = JoinSet::new();
        for _ in 0..PUBLISHERS {
            let (target, next, bar) = (self.target.clone(), Rc::clone(&next), self.bar.clone());
            let event = target.publish(kind, "logged").body(0, 0, self.arguments.bytes);
            publishing.spawn_local(async move {
                let mut publisher = Publisher::connect(&target, kind, "logged").await?;
                loop {
                    let Some(room) = next.borrow_mut().next() else { return anyhow::Ok(()) };
                    publisher.aim(target.publish(&format!("{kind}:{room}"), "logged"));
                    publisher.publish(&event).await?;
                    bar.inc(1);
                }
            });
        }
        while let Some(done) = publishing.join_next().await {
            done??;
        }
        Ok(began.elapsed())
    }

    /// Readers, each with a query of its own; how long they took to connect.
    async fn open(&self, count: usize, query: impl Fn(usize) -> String) -> anyhow::Result<Readers> {
        let (tally, began) = (Tally::new()?, Instant::now());
        let requests = (0..count).map(|number| self.target.ask(Transport::WebSocket, &query(number)));
        let open = open_each(self.target.address, requests, self.bar).await?;
        let took = began.elapsed();
        let mut reading = JoinSet::new();
        for reader in open {
            reading.spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
        }
        Ok((reading, tally, took))
    }

    /// Events at a steady rate, each to any of the rooms with a reader; how late they come.
    async fn trickle(
        &mut self,
        kind: &'static str,
        rooms: usize,
        tally: &Rc<RefCell<Tally>>,
        names: [&'static str; 2],
    ) -> anyhow::Result<()> {
        let events = self.arguments.rate * self.arguments.seconds;
        self.bar.set_message("delivering");
        self.bar.set_length(events);
        let mut random = StdRng::seed_from_u64(1);
        let mut publisher = Publisher::connect(&self.target, kind, "memory").await?;
        let began = Instant::now();
        tally.borrow_mut().began = began;
        let gap = Duration::from_secs(1).div_f64(float(self.arguments.rate));
        for event in 0..events {
            let due = began + gap.mul_f64(float(event));
            sleep_until(due).await;
            let request = self.target.publish(&format!("{kind}:{}", random.random_range(0..rooms)), "memory");
            let body = request.body(u64::try_from((due - began).as_micros())?, event, self.arguments.bytes);
            publisher.aim(request);
            publisher.publish(&body).await?;
            self.bar.set_position(event);
        }
        settle(tally, events, self.bar).await;
        let tally = tally.borrow();
        self.wrong += events.abs_diff(tally.delivered) + tally.lost + tally.doubled + tally.ended;
        for (name, quantile) in names.into_iter().zip([0.5, 0.99]) {
            self.figures.push((name, float(tally.latency_us.value_at_quantile(quantile)) / 1000.0));
        }
        Ok(())
    }

    /// Rooms behind one pattern: they come to be under it, each gets another event, and a second reader comes who wants the newest of each.
    async fn followed(&mut self) -> anyhow::Result<()> {
        let rooms = self.arguments.patterns;
        let count = rooms as u64;
        if rooms == 0 {
            return Ok(());
        }
        let watch = Watch::open(&self.target, "").await?;
        for (made, delivered) in
            [("pattern: rooms made/s", "pattern: first events/s"), ("pattern: published/s", "pattern: events/s")]
        {
            let began = Instant::now();
            let took = self.publish_each(watch::KIND, rooms).await?;
            self.figures.push((made, rate(rooms, took)));
            let (missing, last) = watch.round(count).await;
            self.wrong += missing;
            self.figures.push((delivered, rate(rooms, last - began)));
        }
        self.wrong += watch.wrong();
        let began = Instant::now();
        let second = Watch::open(&self.target, "&tail=1").await?;
        let (missing, last) = second.round(count).await;
        self.wrong += missing + second.wrong();
        self.figures.push(("pattern: joined ms", (last - began).as_secs_f64() * 1000.0));
        Ok(())
    }

    /// Rooms come to be while many follow patterns that mean others.
    async fn watched(&mut self) -> anyhow::Result<()> {
        if self.arguments.watchers == 0 {
            return Ok(());
        }
        let (watching, tally, _) =
            self.open(self.arguments.watchers, |number| format!("rooms=none-{number}:*")).await?;
        let took = self.publish_each("late", LATE).await?;
        self.figures.push(("watchers: rooms made/s", rate(LATE, took)));
        self.wrong += tally.borrow().delivered + tally.borrow().ended;
        drop(watching);
        Ok(())
    }

    /// What it costs to ask how the daemon is.
    async fn calls(&mut self) -> anyhow::Result<()> {
        for (name, size, path) in [
            ("GET /metrics ms", "GET /metrics KiB", "/metrics"),
            ("GET /v1/rooms ms", "GET /v1/rooms KiB", "/v1/rooms"),
            ("10,000 rooms ms", "10,000 rooms KiB", "/v1/rooms?limit=10000"),
        ] {
            let (mut times, mut bytes) = (Vec::new(), 0);
            for _ in 0..CALLS {
                let began = Instant::now();
                bytes = http::get(&self.target, path).await?.len();
                times.push(began.elapsed());
            }
            times.sort_unstable();
            self.figures.push((name, times[CALLS / 2].as_secs_f64() * 1000.0));
            self.figures.push((size, per(bytes as u64, 1024)));
        }
        Ok(())
    }

    /// What all of it costs while nothing happens.
    async fn rest(&mut self) -> anyhow::Result<()> {
        self.bar.set_message("resting");
        let resident = self.resident().await?;
        self.figures.push(("resident MiB", per(resident, 1 << 20)));
        let (before, began) = (self.daemon.process().cpu_seconds()?, Instant::now());
        sleep(REST).await;
        let worked = self.daemon.process().cpu_seconds()? - before;
        self.figures.push(("% of a core at rest", 100.0 * worked / began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Its resident memory when that does not fall any more.
    async fn resident(&self) -> anyhow::Result<u64> {
        let began = Instant::now();
        let look = || self.daemon.process().resident_bytes();
        let (mut lowest, mut since) = (look()?, began);
        while since.elapsed() < Duration::from_secs(3) && began.elapsed() < FALLING {
            sleep(Duration::from_millis(200)).await;
            let now = look()?;
            if now + FALL_BYTES < lowest {
                (lowest, since) = (now, Instant::now());
            }
        }
        look()
    }
}

fn per(bytes: u64, count: usize) -> f64 {
    float(bytes) / float(count.max(1) as u64)
}

fn rate(count: usize, took: Duration) -> f64 {
    float(count as u64) / took.as_secs_f64().max(1e-9)
}
