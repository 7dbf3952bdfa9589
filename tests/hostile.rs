//! Hostile clients: while a hundred of each kind are at work, a thousand honest readers get every event in time and in order, and the daemon's memory stays within bounds.
//!
//! The same measurement is taken twice, without hostile clients and with them. `cargo test --test hostile -- --nocapture` prints the figures.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "hostile/clients.rs"]
mod clients;

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::ensure;
use clients::{EACH, FLOODER, HONEST_ROOMS, HOSTILE, Hostile, KINDS, QUIET_ROOMS};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate::cli::bench::http::{Publisher, Target};
use tidegate::cli::bench::reader::{Tally, Transport};
use tidegate::cli::bench::rows::{on_one_thread, open_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

/// The key of the honest publisher and of its readers.
const HONEST: &str = "honest-key";

/// What an operator sets who expects such clients. Limits by address stay off: here everybody comes from the same one.
const SETTINGS: &[(&str, &str)] = &[
    ("TIDEGATE_LIMITS__PER_CONNECTION_MESSAGES_PER_SECOND", "50"),
    ("TIDEGATE_LIMITS__PER_USER_PUBLISHES_PER_SECOND", "200"),
    ("TIDEGATE_LIMITS__HEADER_TIMEOUT", "2s"),
    ("TIDEGATE_LIMITS__BODY_TIMEOUT", "5s"),
    ("TIDEGATE_LIMITS__WRITE_TIMEOUT", "5s"),
    ("TIDEGATE_LIMITS__MAILBOXES_BYTES", "64MiB"),
    // An event has at most 100 KiB. What is over it is read four times as far, so that its sender gets its answer.
    ("TIDEGATE_LIMITS__BODY_BYTES", "256KiB"),
    ("TIDEGATE_SOURCES__HOST__ENABLED", "false"),
];

/// Honest readers of each transport in each room: 500 of each, 1,000 in all.
const READERS: usize = 125;
/// Between two events of a room.
const GAP: Duration = Duration::from_millis(100);
/// Rooms do not publish at the same moment: what is measured is one event on its way to the readers of its room.
const STAGGER: Duration = Duration::from_millis(25);
const WARM: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);
/// When an event has not come for so long, it is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// All hostile clients are at work by then.
const AT_WORK: Duration = Duration::from_secs(20);

/// A p99 below this counts as this much. An event goes to 250 readers, and the daemon, those readers and the hostile clients share what may be two cores, so that how late the last
/// of them are is decided by the system's scheduler, in steps of some milliseconds. Where a calm machine is faster than that, twice as slow would still be noise.
const P99_FLOOR: Duration = Duration::from_millis(5);

/// What the daemon may take at its worst: 64 MiB of mailboxes, 50 MiB of bodies that are too large (256 KiB each, while they grow twice that), tails of 8 MiB for each busy room,
/// about 2,500 connections with their sockets' buffers, and the log.
const RSS_BUDGET_KIB: u64 = 256 << 10;

/// How many sockets this process may have, and with it the daemon that it starts.
fn files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).unwrap();
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// What the daemon said on its standard error.
#[derive(Default)]
struct Said {
    lines: u64,
    /// Lines about a panic and what follows them.
    panics: Vec<String>,
}

impl Said {
    fn hear(lines: impl Iterator<Item = std::io::Result<String>>) -> Self {
        let (mut said, mut more) = (Self::default(), 0);
        for line in lines.map_while(Result::ok) {
            said.lines += 1;
            if line.contains("panicked") {
                more = 5;
            }
            if more > 0 {
                said.panics.push(line);
                more -= 1;
            }
        }
        said
    }
}

/// The daemon under attack. Not the one of `harness`: its standard error, its process and its settings matter here.
struct Daemon {
    child: Child,
    target: Target,
    said: Option<JoinHandle<Said>>,
    _dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            // Whatever it keeps, it keeps there.
            .current_dir(dir.path())
            .env("TIDEGATE_LOG__DIR", dir.path().join("log"))
            .env("TIDEGATE_AUTH__API_KEYS", format!("honest:{HONEST},flooder:{FLOODER},hostile:{HOSTILE}"))
            .envs(SETTINGS.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        let address = loop {
            let Some(line) = lines.next() else { panic!("the daemon did not start: {}", before.join("\n")) };
            let line = line.unwrap();
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().parse().unwrap();
            }
            before.push(line);
        };
        let said = std::thread::spawn(move || Said::hear(lines));
        Self { child, target: Target { address, token: HONEST.to_owned() }, said: Some(said), _dir: dir }
    }

    /// A figure of its memory in KiB: `VmRSS` now, `VmHWM` at its worst.
    fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What its metrics say of refusing and cutting off.
    async fn refusals(&self) -> anyhow::Result<Vec<String>> {
        let mut stream = TcpStream::connect(self.target.address).await?;
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: honest\r\nAuthorization: Bearer {HONEST}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let wanted = |line: &&str| {
            [
                "tidegate_connections_cut",
                "tidegate_publishes_refused",
                "tidegate_requests_refused",
                "tidegate_catch_ups",
            ]
            .iter()
            .any(|name| line.starts_with(name))
        };
        Ok(String::from_utf8_lossy(&answer).lines().filter(wanted).map(str::to_owned).collect())
    }

    /// Ends it; what it said.
    fn end(mut self) -> Said {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.said.take().unwrap().join().unwrap()
    }
}

/// CPU time of a process so far.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn body(due_us: u64) -> Vec<u8> {
    let fill = "x".repeat(150);
    format!("{{\"kind\":\"reading\",\"key\":\"pump\",\"data\":{{\"due\":{due_us},\"fill\":\"{fill}\"}}}}").into_bytes()
}

/// The honest side: readers that check their sequence and note how late each event is, and their publisher.
struct Honest {
    target: Target,
    tally: Rc<RefCell<Tally>>,
    /// Deliveries that must have been made by now.
    due: u64,
}

impl Honest {
    async fn come(target: &Target) -> anyhow::Result<Self> {
        // Rooms that nobody publishes to, so that there is something for patterns to match.
        for room in QUIET_ROOMS {
            Publisher::connect(target, room, "memory").await?.publish(&body(0)).await?;
        }
        let (tally, bar) = (Tally::new()?, ProgressBar::hidden());
        for room in HONEST_ROOMS {
            for transport in [Transport::WebSocket, Transport::Sse] {
                for reader in open_all(target, transport, &format!("rooms={room}"), READERS, &bar).await? {
                    tokio::task::spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
                }
            }
        }
        Ok(Self { target: target.clone(), tally, due: 0 })
    }

    /// Publishes for so long, waits until everybody has everything, and says how late it came, in microseconds from the moment it was due: an event that had to wait for its
    /// publisher is late as well.
    async fn go_on(&mut self, time: Duration) -> anyhow::Result<Histogram<u64>> {
        // New connections each time: one that rested for limits.header_timeout would be gone.
        let mut publishers = Vec::new();
        for room in HONEST_ROOMS {
            publishers.push(Publisher::connect(&self.target, room, "memory").await?);
        }
        self.tally.borrow_mut().latency_us.reset();
        let (start, began) = (Instant::now(), self.tally.borrow().began);
        let events = u32::try_from(time.as_millis() / GAP.as_millis())?;
        let publishing = publishers.iter_mut().zip(0_u32..).map(|(publisher, room)| async move {
            for event in 0..events {
                let due = start + STAGGER * room + GAP * event;
                sleep_until(due).await;
                publisher.publish(&body(u64::try_from((due - began).as_micros())?)).await?;
            }
            anyhow::Ok(())
        });
        try_join_all(publishing).await?;
        self.due += u64::from(events) * HONEST_ROOMS.len() as u64 * 2 * READERS as u64;
        let published = Instant::now();
        while self.tally.borrow().delivered < self.due {
            let delivered = self.tally.borrow().delivered;
            ensure!(published.elapsed() < PATIENCE, "only {delivered} of {} events came: {:?}", self.due, self.wrong());
            sleep(Duration::from_millis(2)).await;
        }
        Ok(self.tally.borrow().latency_us.clone())
    }

    /// Events lost, events doubled or out of order, streams ended.
    fn wrong(&self) -> (u64, u64, u64) {
        let tally = self.tally.borrow();
        (tally.lost, tally.doubled, tally.ended)
    }
}

/// A time with what it cost.
struct Measured {
    latency_us: Histogram<u64>,
    daemon_cpu: Duration,
    own_cpu: Duration,
    rss_kib: u64,
}

impl Measured {
    async fn take(honest: &mut Honest, daemon: &Daemon) -> anyhow::Result<Self> {
        let before = (cpu(daemon.child.id()), cpu(std::process::id()));
        let latency_us = honest.go_on(MEASURED).await?;
        let daemon_cpu = cpu(daemon.child.id()).saturating_sub(before.0);
        let own_cpu = cpu(std::process::id()).saturating_sub(before.1);
        Ok(Self { latency_us, daemon_cpu, own_cpu, rss_kib: daemon.memory_kib("VmRSS:") })
    }

    fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency_us.value_at_quantile(quantile))
    }

    fn print(&self, name: &str) {
        println!(
            "{name:8} p50 {:.1?}, p99 {:.1?}, max {:.1?} of {} deliveries; CPU in {MEASURED:?}: daemon {:.1?}, clients {:.1?}; memory {} MiB",
            self.quantile(0.5),
            self.quantile(0.99),
            Duration::from_micros(self.latency_us.max()),
            self.latency_us.len(),
            self.daemon_cpu,
            self.own_cpu,
            self.rss_kib >> 10,
        );
    }
}

#[test]
fn a_thousand_honest_readers_see_little_of_a_hundred_hostile_clients_of_each_kind() {
    assert!(files() >= 5000, "this test needs more open files: ulimit -Hn");
    let daemon = Daemon::start();
    let (calm, hostile, worst_kib) = on_one_thread(async {
        let mut honest = Honest::come(&daemon.target).await?;
        honest.go_on(WARM).await?;
        let calm = Measured::take(&mut honest, &daemon).await?;
        calm.print("calm");

        let attack = Hostile::start(daemon.target.address);
        let began = Instant::now();
        while let Some(kind) = attack.not_at_work() {
            ensure!(began.elapsed() < AT_WORK, "not all {EACH} clients of this kind are at work: {kind}");
            honest.go_on(Duration::from_secs(1)).await?;
        }
        honest.go_on(WARM).await?;
        let before = attack.counts();
        let hostile = Measured::take(&mut honest, &daemon).await?;
        let after = attack.counts();
        hostile.print("hostile");

        println!(
            "{EACH} clients of each kind; what they tried in {MEASURED:?}, and what of it was refused or cut off:"
        );
        for (kind, (before, after)) in KINDS.iter().zip(before.iter().zip(&after)) {
            println!("  {:28} {:>6} {:>6}", kind.name, after.tries - before.tries, after.refused - before.refused);
        }
        for line in daemon.refusals().await? {
            println!("  {line}");
        }
        for (kind, (before, after)) in KINDS.iter().zip(before.iter().zip(&after)) {
            assert!(after.tries > before.tries, "{} came to a standstill", kind.name);
            assert!(!kind.is_refused || after.refused > 0, "{}: nothing of it was refused", kind.name);
        }
        attack.stop();
        // Lost, doubled or out of order, disconnected.
        assert_eq!(honest.wrong(), (0, 0, 0));
        Ok((calm, hostile, daemon.memory_kib("VmHWM:")))
    })
    .unwrap();
    let said = daemon.end();
    println!("memory at its worst {} MiB; {} lines on standard error", worst_kib >> 10, said.lines);
    assert_eq!(said.panics, [] as [String; 0]);
    assert!(worst_kib < RSS_BUDGET_KIB, "{worst_kib} KiB at its worst, more than {RSS_BUDGET_KIB}");
    let (p99, allowed) = (hostile.quantile(0.99), calm.quantile(0.99).max(P99_FLOOR) * 2);
    assert!(p99 < allowed, "p99 {p99:.1?} beside hostile clients; {allowed:.1?} is twice what it is without them");
}
