//! What the plots are drawn from: latency against load, and memory against connections, of the floor, of tidegate, and of other servers where they are wanted. Not rows of the
//! table: they have no goals.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Bench;
use super::fan::{self, one_room};
use super::memory::{WARM, rested};
use super::peers::Installed;
use super::report::{aligned, figure};
use super::server::{Floor, Subject, Tidegate};
use crate::cli::bench::reader::Transport;
use crate::cli::bench::rows::{Fanout, open_each};

/// Their names, for `--only`.
pub(super) const NAMES: [&str; 2] = ["sweep-latency", "sweep-memory"];

/// Deliveries a second that are asked for, with a thousand readers, until a server cannot.
const LOADS: [u64; 12] =
    [10_000, 20_000, 30_000, 50_000, 70_000, 100_000, 150_000, 200_000, 300_000, 500_000, 700_000, 1_000_000];
const READERS: u64 = 1000;
/// How long a load lasts.
const LOAD: Duration = Duration::from_secs(4);
/// A server that delivers less of what is asked for, or later, is saturated, and is asked for no more.
const SATURATED: f64 = 0.9;
const LATE_MS: f64 = 1000.0;
/// Connections at which memory is looked at.
const CONNECTIONS: [usize; 4] = [1000, 2000, 5000, 10_000];

/// A load that was tried.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Deliveries a second.
    asked: f64,
    reached: f64,
    p50_ms: f64,
    p99_ms: f64,
    wrong: u64,
}

/// Connections, and what they weigh in bytes beyond what there is without them.
type Weights = Vec<(usize, f64)>;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    latency: Vec<(String, Vec<Load>)>,
    /// Of the room in it.
    readers: usize,
    /// By subject and transport.
    memory: Vec<(String, Transport, Weights)>,
    /// What broke off, and why.
    failed: Vec<String>,
}

/// Who is measured: a name, by what it is read, and how it is started.
struct Swept<'s> {
    title: &'s str,
    transports: &'s [Transport],
    subject: &'s dyn Subject,
}

/// Runs the sweeps of these names.
pub(super) fn run(bench: &Bench, names: &[&str], peers: &[Installed]) -> Sweeps {
    let both = &[Transport::WebSocket, Transport::Sse];
    let (tidegate, floor) = (Tidegate::default(), Floor::default());
    let mut subjects = vec![
        Swept { title: "tidegate", transports: both, subject: &tidegate },
        Swept { title: "floor", transports: both, subject: &floor },
    ];
    let peers =
        peers.iter().map(|peer| Swept { title: peer.peer.title, transports: peer.peer.transports, subject: peer });
    subjects.extend(peers);
    let mut sweeps = Sweeps { readers: one_room(bench, Transport::WebSocket).readers, ..Sweeps::default() };
    for swept in &subjects {
        if names.contains(&NAMES[0]) && swept.transports.contains(&Transport::WebSocket) {
            sweeps.load(bench, swept);
        }
        for transport in swept.transports.iter().filter(|_| names.contains(&NAMES[1])) {
            sweeps.weigh(bench, swept, *transport);
        }
    }
    sweeps
}

/// Fewer connections in a short run, because what is drawn is a line.
fn connections(bench: &Bench) -> impl Iterator<Item = usize> + '_ {
    let count = if bench.short { 2 } else { CONNECTIONS.len() };
    CONNECTIONS[..count].iter().map(|count| bench.readers(*count))
}

impl Sweeps {
    fn load(&mut self, bench: &Bench, swept: &Swept<'_>) {
        let mut loads: Vec<Load> = Vec::new();
        for asked in LOADS {
            bench.bar.set_prefix(format!("{} {}", NAMES[0], swept.title));
            match load(bench, swept.subject, asked) {
                Ok(load) => {
                    loads.push(load);
                    if load.reached < load.asked * SATURATED || load.p50_ms > LATE_MS {
                        break;
                    }
                }
                Err(error) => {
                    self.failed.push(format!("{}, {asked} deliveries/s: {error:#}", swept.title));
                    break;
                }
            }
        }
        self.latency.push((swept.title.to_owned(), loads));
    }

    fn weigh(&mut self, bench: &Bench, swept: &Swept<'_>, transport: Transport) {
        bench.bar.set_prefix(format!("{} {}", NAMES[1], swept.title));
        match weigh(bench, swept.subject, transport) {
            Ok(points) => self.memory.push((swept.title.to_owned(), transport, points)),
            Err(error) => self.failed.push(format!("{}, {transport:?}: {error:#}", swept.title)),
        }
    }

    /// As `plot` reads it.
    pub(super) fn to_json(&self) -> Value {
        let load = |load: &Load| {
            json!({
                "asked_per_second": load.asked, "per_second": load.reached,
                "p50_ms": load.p50_ms, "p99_ms": load.p99_ms, "wrong": load.wrong,
            })
        };
        let latency = self.latency.iter().map(
            |(subject, loads)| json!({ "subject": subject, "readers": self.readers, "points": loads.iter().map(load).collect::<Vec<_>>() }),
        );
        let memory = self.memory.iter().map(|(subject, transport, points)| {
            let points: Vec<Value> =
                points.iter().map(|(count, bytes)| json!({ "connections": count, "bytes": bytes })).collect();
            json!({ "subject": subject, "transport": name(*transport), "points": points })
        });
        json!({
            "latency": latency.collect::<Vec<_>>(), "memory": memory.collect::<Vec<_>>(), "failed": self.failed,
        })
    }
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::WebSocket => "websocket",
        Transport::Sse => "sse",
    }
}

fn load(bench: &Bench, subject: &dyn Subject, asked: u64) -> anyhow::Result<Load> {
    let rate = asked / READERS;
    let room = one_room(bench, Transport::WebSocket);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of events")]
    let events = ((rate as f64 * bench.time(LOAD).as_secs_f64()) as u64).max(5);
    let fan = Fanout { rate: Some(rate), events, ..room };
    let run = fan::once(bench, subject, &fan)?;
    let asked = rate as f64 * fan.readers as f64;
    Ok(Load { asked, reached: run.rate, p50_ms: run.p50_ms, p99_ms: run.p99_ms, wrong: run.wrong })
}

fn weigh(bench: &Bench, subject: &dyn Subject, transport: Transport) -> anyhow::Result<Weights> {
    let server = subject.start(bench)?;
    bench.run(async {
        let speech = server.speech();
        let stream = |room: &str| speech.stream(room, transport, None);
        let _warm = open_each(speech.address(), (0..WARM).map(|_| stream("warm")), &bench.bar).await?;
        let before = rested(&server).await?;
        let (mut open, mut points) = (Vec::new(), Vec::new());
        for count in connections(bench) {
            let more = count.saturating_sub(open.len());
            open.extend(open_each(speech.address(), (0..more).map(|_| stream("idle")), &bench.bar).await?);
            points.push((count, rested(&server).await? as f64 - before as f64));
        }
        Ok(points)
    })
}

impl fmt::Display for Sweeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.latency.is_empty() {
            let mut table = vec![
                ["latency against load", "asked/s", "reached/s", "p50 ms", "p99 ms", ""].map(str::to_owned).to_vec(),
            ];
            for (subject, load) in
                self.latency.iter().flat_map(|(subject, loads)| loads.iter().map(move |load| (subject, load)))
            {
                let wrong = if load.wrong > 0 { format!("LOST {}", load.wrong) } else { String::new() };
                let figures = [load.asked, load.reached, load.p50_ms, load.p99_ms].map(figure);
                table.push([vec![subject.clone()], figures.to_vec(), vec![wrong]].concat());
            }
            writeln!(f, "{}", aligned(&table, 1))?;
        }
        if !self.memory.is_empty() {
            let mut table =
                vec![["memory against connections", "", "connections", "MiB", "KiB each"].map(str::to_owned).to_vec()];
            for (subject, transport, points) in &self.memory {
                for (count, bytes) in points {
                    let figures = [*count as f64, bytes / 1_048_576.0, bytes / 1024.0 / *count as f64].map(figure);
                    table.push([vec![subject.clone(), name(*transport).to_owned()], figures.to_vec()].concat());
                }
            }
            writeln!(f, "{}", aligned(&table, 2))?;
        }
        self.failed.iter().try_for_each(|why| writeln!(f, "failed: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_swept_is_what_plots_read() {
        let load = Load { asked: 10_000.0, reached: 9_990.0, p50_ms: 1.0, p99_ms: 2.0, wrong: 3 };
        let sweeps = Sweeps {
            latency: vec![("tidegate".to_owned(), vec![load; 2])],
            memory: vec![("floor".to_owned(), Transport::Sse, vec![(1000, 2_097_152.0)])],
            readers: 1000,
            failed: vec!["no reason".to_owned()],
        };
        let text = sweeps.to_string();
        assert!(text.contains("LOST 3") && text.contains("failed: no reason") && text.contains("2.05"), "{text}");
        let directory = tempfile::tempdir().unwrap();
        let document = json!({ "sweeps": sweeps.to_json() });
        let written = crate::cli::bench::plot::write(&[document], directory.path()).unwrap();
        assert_eq!(written.len(), 3, "there is no memory of WebSockets");
    }
}
