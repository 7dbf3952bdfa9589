//! Publishing alone. The rows `ingest` and `batches`.

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Bench;
use super::fan::BYTES;
use super::row::{Beside, Outcome, Spread};
use super::server::{Floor, Server, Subject, Tidegate};
use crate::cli::bench::http::{Speech, masked_text};
use crate::cli::bench::reader::{Reader, Transport};
use crate::cli::bench::rows::{Ingest, Report, float};

/// Publishers at once: enough to keep the server's core busy, on both sides.
const PUBLISHERS: usize = 16;
/// As a figure beside it.
const FEW: usize = 4;
/// Requests of a run, one event each; and with several.
const SINGLE: u64 = 80_000;
const BATCHES: u64 = 20_000;
/// Events of one request.
const BATCH: usize = 50;
/// Lines of a body of lines, and how many such bodies.
const LINES: usize = 1000;
const LINES_REQUESTS: u64 = 1000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) requests: f64,
    events: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) cpu_us: f64,
}

fn measured(server: &Server, cpu: f64, report: &Report, requests: u64) -> anyhow::Result<Measured> {
    let figure = |name| report.figure(name).unwrap_or(f64::NAN);
    let cpu = server.process().cpu_seconds()? - cpu;
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let cpu_us = cpu * 1e6 / requests as f64;
    Ok(Measured {
        requests: figure("requests/s"),
        events: figure("events/s"),
        p50_ms: figure("latency p50 ms"),
        p99_ms: figure("latency p99 ms"),
        cpu_us,
    })
}

pub(super) fn once(bench: &Bench, subject: &dyn Subject, ingest: &Ingest) -> anyhow::Result<Measured> {
    let server = subject.start(bench)?;
    let cpu = server.process().cpu_seconds()?;
    let report = bench.run(ingest.run(server.speech(), &bench.bar))?;
    measured(&server, cpu, &report, ingest.requests)
}

/// Runs of tidegate between runs of the floor, which knows no acknowledgements.
fn beside(bench: &Bench, ingest: &Ingest) -> anyhow::Result<Beside<Measured>> {
    let tidegate = Tidegate::default();
    Beside::run(bench.runs, || once(bench, &Floor::default(), ingest), || once(bench, &tidegate, ingest))
}

fn ingest(bench: &Bench, publishers: usize, requests: u64, batch: usize, ack: &str) -> Ingest {
    let (room, ack) = ("bench:ingest".to_owned(), ack.to_owned());
    Ingest { room, publishers, requests: bench.count(requests), batch, ack, bytes: BYTES }
}

/// What the row `ingest` does.
pub(super) fn single_posts(bench: &Bench, ack: &str) -> Ingest {
    ingest(bench, PUBLISHERS, SINGLE, 1, ack)
}

pub(super) fn single(bench: &Bench) -> anyhow::Result<Outcome> {
    let many = beside(bench, &single_posts(bench, "logged"))?;
    let few = beside(bench, &ingest(bench, FEW, SINGLE / 2, 1, "logged"))?;
    let mut outcome = Outcome { reached: vec![many.as_ratio(|run| run.requests)], ..Outcome::default() };
    outcome.figure(format!("{PUBLISHERS} publishers, CPU µs a request: tidegate"), many.ours(|run| run.cpu_us));
    outcome.figure(format!("{PUBLISHERS} publishers, CPU µs a request: floor"), many.floor(|run| run.cpu_us));
    outcome.figure(format!("{PUBLISHERS} publishers, p99 ms: tidegate"), many.ours(|run| run.p99_ms));
    outcome.figure(format!("{FEW} publishers, requests/s: tidegate"), few.ours(|run| run.requests));
    outcome.figure(format!("{FEW} publishers, requests/s: floor"), few.floor(|run| run.requests));
    outcome.figure(format!("{FEW} publishers, × floor"), few.ratio(|run| run.requests).median);
    for ack in ["memory", "synced"] {
        let run = once(bench, &Tidegate::default(), &ingest(bench, PUBLISHERS, SINGLE / 2, 1, ack))?;
        outcome.figure(format!("{PUBLISHERS} publishers, ack={ack}, requests/s"), run.requests);
    }
    Ok(outcome)
}

pub(super) fn batches(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for ack in ["logged", "synced"] {
        let runs = beside(bench, &ingest(bench, PUBLISHERS, BATCHES, BATCH, ack))?;
        outcome.reached.push(runs.as_figure(|run| run.events));
        outcome.figure(format!("ack={ack}, CPU µs an event"), runs.ours(|run| run.cpu_us / BATCH as f64));
        outcome.figure(format!("ack={ack}, p99 ms"), runs.ours(|run| run.p99_ms));
        outcome.figure(format!("ack={ack}, events/s × floor"), runs.ratio(|run| run.events).median);
    }
    let lines = (0..bench.runs).map(|_| lines(bench)).collect::<anyhow::Result<Vec<_>>>()?;
    outcome.figure(format!("{LINES} lines a request, ack=logged, events/s"), Spread::of(lines).median);
    let talked = (0..bench.runs).map(|_| talk(bench)).collect::<anyhow::Result<Vec<_>>>()?;
    outcome.figure(format!("{PUBLISHERS} WebSockets, an event a message, events/s"), Spread::of(talked).median);
    Ok(outcome)
}

/// Publishing over WebSocket, each publish when the one before is answered: events a second.
fn talk(bench: &Bench) -> anyhow::Result<f64> {
    let server = Tidegate::default().start(bench)?;
    let target = server.target("publisher")?;
    let each = bench.count(SINGLE) / PUBLISHERS as u64;
    bench.bar.set_message("talking");
    bench.run(async {
        let mut open = Vec::new();
        for number in 0..PUBLISHERS {
            let room = format!("bench:talk-{number}");
            let request = target.stream(&format!("bench:heard-{number}"), Transport::WebSocket, None);
            let data = target.publish(&room, "logged").body(0, 0, BYTES);
            let text = [format!("{{\"type\":\"publish\",\"room\":\"{room}\",").as_bytes(), &data[1..]].concat();
            open.push((Reader::connect(target.address, &request).await?, masked_text(&text)));
        }
        let began = Instant::now();
        let mut talking = JoinSet::new();
        for (mut reader, frame) in open {
            talking.spawn_local(async move {
                for _ in 0..each {
                    reader.say(&frame).await?;
                    reader.wait_for(b"\"published\"").await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = talking.join_next().await {
            done??;
        }
        Ok(float(each * PUBLISHERS as u64) / began.elapsed().as_secs_f64())
    })
}

/// Bodies of many lines: events a second.
fn lines(bench: &Bench) -> anyhow::Result<f64> {
    let server = Tidegate::default().start(bench)?;
    let target = server.target("publisher")?;
    let path = |number| format!("/v1/rooms/bench:lines-{number}/events?ack=logged");
    let requests: Vec<_> = (0..FEW).map(|number| target.post(&path(number), "application/x-ndjson")).collect();
    let one = target.publish("any", "logged").body(0, 0, BYTES);
    let body = vec![one; LINES].join(&b'\n');
    let ingest = ingest(bench, FEW, LINES_REQUESTS, LINES, "logged");
    let report = bench.run(ingest.measure(target.address, requests, body, &bench.bar))?;
    Ok(report.figure("events/s").unwrap_or(f64::NAN))
}
