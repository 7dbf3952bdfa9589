//! Many connections: how fast they come to be, and how soon the last of them has an event. The rows `connecting` and `last`.

use std::rc::Rc;

use tokio::time::Instant;

use super::Bench;
use super::fan::{BYTES, one_room};
use super::row::{Beside, Outcome, Spread};
use super::server::{Floor, Subject, Tidegate};
use crate::cli::bench::http::{Publisher, Speech, StreamRequest};
use crate::cli::bench::reader::{Tally, Transport};
use crate::cli::bench::rows::{Fanout, open_each, settle};

/// Connections in both rows.
const CONNECTIONS: usize = 10_000;
/// Events that are sent to all, one after the other.
const EVENTS: u64 = 7;

struct Connecting {
    rate: f64,
    cpu_us: f64,
}

/// Connections a second, each with a token of its own.
fn connecting_once(bench: &Bench, subject: &dyn Subject) -> anyhow::Result<Connecting> {
    let server = subject.start(bench)?;
    let count = usize::try_from(bench.count(CONNECTIONS as u64))?;
    let requests: Vec<StreamRequest> = (0..count)
        .map(|number| Ok(server.target(&format!("reader-{number}"))?.stream("bench:idle", Transport::WebSocket, None)))
        .collect::<anyhow::Result<_>>()?;
    bench.run(async {
        let before = server.process().cpu_seconds()?;
        let began = Instant::now();
        let open = open_each(server.process().address(), requests.into_iter(), &bench.bar).await?;
        let (seconds, connections) = (began.elapsed().as_secs_f64(), open.len() as f64);
        let cpu = server.process().cpu_seconds()? - before;
        Ok(Connecting { rate: connections / seconds, cpu_us: cpu * 1e6 / connections })
    })
}

pub(super) fn connecting(bench: &Bench) -> anyhow::Result<Outcome> {
    let floor = || connecting_once(bench, &Floor::default());
    let beside = Beside::run(bench.runs, floor, || connecting_once(bench, &Tidegate::default()))?;
    let mut outcome = Outcome { reached: vec![beside.as_figure(|run| run.rate)], ..Outcome::default() };
    outcome.figure("CPU µs a connection: tidegate", beside.ours(|run| run.cpu_us));
    outcome.figure("CPU µs a connection: floor", beside.floor(|run| run.cpu_us));
    Ok(outcome)
}

struct Last {
    /// Of each event, how long until the last reader had it.
    last_ms: Spread,
    wrong: u64,
}

fn last_once(bench: &Bench, subject: &dyn Subject) -> anyhow::Result<Last> {
    let server = subject.start(bench)?;
    let fan = Fanout { readers: bench.readers(CONNECTIONS), ..one_room(bench, Transport::WebSocket) };
    bench.run(async {
        let readers = fan.open(server.speech(), &bench.bar).await?;
        let count = readers.len() as u64;
        let tally = Tally::new()?;
        for reader in readers {
            tokio::task::spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
        }
        let request = server.speech().publish(&fan.room, "memory");
        let mut publisher = Publisher::open(server.process().address(), std::slice::from_ref(&request)).await?;
        let mut times = Vec::new();
        for event in 1..=EVENTS {
            let due = Instant::now();
            let due_us = tally.borrow().now_us();
            publisher.publish(&request.body(due_us, event, BYTES)).await?;
            settle(&tally, event * count, &bench.bar).await;
            times.push((tally.borrow().last - due).as_secs_f64() * 1000.0);
        }
        let wrong = tally.borrow().wrong(EVENTS * count);
        Ok(Last { last_ms: Spread::of(times), wrong })
    })
}

pub(super) fn last(bench: &Bench) -> anyhow::Result<Outcome> {
    let floor = || last_once(bench, &Floor::default());
    let beside = Beside::run(bench.runs, floor, || last_once(bench, &Tidegate::default()))?;
    let reached = vec![beside.as_figure(|run| run.last_ms.median)];
    let mut outcome = Outcome { reached, wrong: beside.sum(|run| run.wrong), ..Outcome::default() };
    outcome.figure("× floor", beside.ratio(|run| run.last_ms.median).median);
    outcome.figure("slowest event, ms: tidegate", beside.ours(|run| run.last_ms.most));
    outcome.figure("slowest event, ms: floor", beside.floor(|run| run.last_ms.most));
    Ok(outcome)
}
