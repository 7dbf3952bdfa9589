//! The daemon end to end beside the bare broadcaster: fan-out, memory, replay, ingest. Each row runs floor, tidegate, floor; the ratio is to the mean of the two floors.
//!
//! `cargo bench --bench end_to_end` runs all rows and prints a table; `-- --short` a tenth of it, `-- memory` (`fan`, `replay`, `ingest`) some of it. Where there are two cores the server runs on the first and the client on the second.
//! Everything of tidegate is on: auth, numbers, log, limits, metrics. Every reader's sequence is checked, and a row with anything lost, doubled or out of order fails the run.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::expect_used,
    missing_docs,
    reason = "a bench"
)]

mod floor;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use indicatif::ProgressBar;
use tidegate::cli::bench::http::{Publisher, Target};
use tidegate::cli::bench::reader::Transport;
use tidegate::cli::bench::rows::{Fanout, Ingest, Replay, Report, on_one_thread, open_all};

const KEY: &str = "bench-key";

/// A server under test.
struct Server {
    child: Child,
    target: Target,
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn two_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

/// On the first core, if there is another one for the client.
fn pinned(program: &std::path::Path) -> Command {
    if !two_cores() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program);
    command
}

impl Server {
    fn floor() -> Self {
        let mut command = pinned(&std::env::current_exe().unwrap());
        command.arg("--floor");
        Self::start(command, None, false)
    }

    fn tidegate(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = pinned(std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--set", "sources.host.enabled=false"])
            .args(more)
            .env("TIDEGATE_LOG__DIR", dir.path().join("log"))
            .env("TIDEGATE_AUTH__API_KEYS", format!("bench:{KEY}"));
        Self::start(command, Some(dir), true)
    }

    fn start(mut command: Command, dir: Option<tempfile::TempDir>, on_stderr: bool) -> Self {
        command.stdout(Stdio::piped()).stderr(if on_stderr { Stdio::piped() } else { Stdio::inherit() });
        let mut child = command.spawn().unwrap();
        let lines: Box<dyn BufRead + Send> = if on_stderr {
            Box::new(BufReader::new(child.stderr.take().unwrap()))
        } else {
            Box::new(BufReader::new(child.stdout.take().unwrap()))
        };
        let mut lines = lines.lines();
        let address = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().parse().unwrap();
            }
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, target: Target { address, token: KEY.to_owned() }, _dir: dir }
    }

    /// Seconds of CPU so far.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }

    /// Resident memory in KiB.
    fn rss_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

struct Fan {
    name: &'static str,
    transport: Transport,
    publishers: usize,
    events: u64,
    rate: Option<u64>,
}

struct Measured {
    rate: f64,
    cpu_us: f64,
    p50: f64,
    p99: f64,
}

fn fan(server: &Server, row: &Fan, readers: usize) -> Measured {
    let fanout = Fanout {
        room: "bench:1795000000000000".to_owned(),
        readers,
        transport: row.transport,
        publishers: row.publishers,
        events: row.events,
        rate: row.rate,
        bytes: 200,
    };
    let (report, cpu): (Report, f64) = on_one_thread(async {
        let bar = ProgressBar::hidden();
        let open = open_all(&server.target, row.transport, &format!("rooms={}", fanout.room), readers, &bar).await?;
        let before = server.cpu();
        let report = fanout.measure(&server.target, open, Duration::from_secs(1), &bar).await?;
        Ok((report, server.cpu() - before))
    })
    .unwrap();
    assert_eq!(report.wrong, 0, "{report}");
    let figure = |name| report.figure(name).unwrap();
    Measured {
        rate: figure("deliveries/s"),
        cpu_us: cpu * 1e6 / figure("deliveries"),
        p50: figure("latency p50 ms"),
        p99: figure("latency p99 ms"),
    }
}

fn fan_rows(short: bool) {
    let scale = if short { 10 } else { 1 };
    println!(
        "| one room × 1,000 readers | tidegate | floor | ratio | CPU µs a delivery: tidegate, floor | p50, p99 ms: tidegate | floor |"
    );
    println!("|---|---|---|---|---|---|---|");
    let row = |name, transport, publishers, events, rate| Fan { name, transport, publishers, events, rate };
    for row in [
        row("WebSocket, one publisher, as fast as answered", Transport::WebSocket, 1, 2000 / scale, None),
        row("WebSocket, 50 events/s (one at a time)", Transport::WebSocket, 1, 500 / scale, Some(50)),
        row("WebSocket, 16 publishers", Transport::WebSocket, 16, 2000 / scale, None),
        row("SSE, one publisher, as fast as answered", Transport::Sse, 1, 2000 / scale, None),
        row("SSE, 50 events/s (one at a time)", Transport::Sse, 1, 500 / scale, Some(50)),
        row("SSE, 16 publishers", Transport::Sse, 16, 2000 / scale, None),
    ] {
        let before = fan(&Server::floor(), &row, 1000);
        let ours = fan(&Server::tidegate(&[]), &row, 1000);
        let after = fan(&Server::floor(), &row, 1000);
        let mean = |pick: fn(&Measured) -> f64| f64::midpoint(pick(&before), pick(&after));
        println!(
            "| {} | {:.0}/s | {:.0}/s | {:.2} | {:.2}, {:.2} | {:.2}, {:.2} | {:.2}, {:.2} |",
            row.name,
            ours.rate,
            mean(|m| m.rate),
            ours.rate / mean(|m| m.rate),
            ours.cpu_us,
            mean(|m| m.cpu_us),
            ours.p50,
            ours.p99,
            mean(|m| m.p50),
            mean(|m| m.p99),
        );
    }
}

fn memory_rows(short: bool) {
    let readers = if short { 1000 } else { 5000 };
    println!("\n| memory, {readers} connections | KiB each, idle | KiB each, after one event |");
    println!("|---|---|---|");
    for (name, transport) in [("WebSocket", Transport::WebSocket), ("SSE", Transport::Sse)] {
        let server = Server::tidegate(&[]);
        let (idle, after) = on_one_thread(async {
            let bar = ProgressBar::hidden();
            // A first few, so that what the process needs once is there before.
            let warm = open_all(&server.target, transport, "rooms=warm", 50, &bar).await?;
            let mut publisher = Publisher::connect(&server.target, "idle", "memory").await?;
            let before = server.rss_kib();
            let open = open_all(&server.target, transport, "rooms=idle", readers, &bar).await?;
            let idle = server.rss_kib();
            publisher.publish(br#"{"kind":"k","data":"one event"}"#).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let after = server.rss_kib();
            drop((warm, open));
            Ok(((idle - before) / readers as f64, (after - before) / readers as f64))
        })
        .unwrap();
        println!("| {name} | {idle:.2} | {after:.2} |");
    }
}

fn replay_rows(short: bool) {
    println!("\n| replay over SSE | from memory: p50, p99 ms | events/s | from the log: p50, p99 ms | events/s |");
    println!("|---|---|---|---|---|");
    for events in [100, 1000, 10_000] {
        let run = |more: &[&str]| {
            let server = Server::tidegate(more);
            let replay = Replay { room: "replay".to_owned(), events, runs: if short { 5 } else { 50 }, bytes: 200 };
            let report = on_one_thread(replay.run(&server.target, &ProgressBar::hidden())).unwrap();
            assert_eq!(report.wrong, 0, "{report}");
            let figure = |name| report.figure(name).unwrap();
            (figure("replay p50 ms"), figure("replay p99 ms"), figure("events/s"))
        };
        let memory = run(&["--set", "rooms.default.tail_events=20000"]);
        let log = run(&["--set", "rooms.default.tail_events=0"]);
        println!(
            "| {events} events | {:.2}, {:.2} | {:.0} | {:.2}, {:.2} | {:.0} |",
            memory.0, memory.1, memory.2, log.0, log.1, log.2
        );
    }
}

fn ingest_rows(short: bool) {
    let scale = if short { 10 } else { 1 };
    println!("\n| ingest, 4 publishers | tidegate: requests/s | events/s | p50, p99 ms | floor: requests/s |");
    println!("|---|---|---|---|---|");
    let floor = {
        let server = Server::floor();
        let ingest = Ingest {
            room: "i".into(),
            publishers: 4,
            requests: 40_000 / scale,
            batch: 1,
            ack: "memory".into(),
            bytes: 200,
        };
        on_one_thread(ingest.run(&server.target, &ProgressBar::hidden())).unwrap().figure("requests/s").unwrap()
    };
    for (batch, ack, requests) in [
        (1, "memory", 40_000),
        (1, "logged", 40_000),
        (1, "synced", 10_000),
        (50, "logged", 10_000),
        (50, "synced", 5000),
    ] {
        let server = Server::tidegate(&[]);
        let ingest =
            Ingest { room: "i".into(), publishers: 4, requests: requests / scale, batch, ack: ack.into(), bytes: 200 };
        let report = on_one_thread(ingest.run(&server.target, &ProgressBar::hidden())).unwrap();
        let figure = |name| report.figure(name).unwrap();
        let beside =
            if batch == 1 { format!("{floor:.0} ({:.2})", figure("requests/s") / floor) } else { "–".to_owned() };
        println!(
            "| {batch} a request, ack={ack} | {:.0} | {:.0} | {:.2}, {:.2} | {beside} |",
            figure("requests/s"),
            figure("events/s"),
            figure("latency p50 ms"),
            figure("latency p99 ms"),
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--floor") {
        return floor::serve().unwrap();
    }
    // `cargo test --benches` only looks whether it starts.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let short = arguments.iter().any(|argument| argument == "--short");
    if two_cores() {
        let pid = std::process::id().to_string();
        let _ = Command::new("taskset").args(["-cp", "1", &pid]).stdout(Stdio::null()).status();
    }
    type Row = (&'static str, fn(bool));
    let rows: [Row; 4] = [("fan", fan_rows), ("memory", memory_rows), ("replay", replay_rows), ("ingest", ingest_rows)];
    let named = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = !rows.iter().any(|(name, _)| named(name));
    for (name, run) in rows {
        if all || named(name) {
            run(short);
        }
    }
}
