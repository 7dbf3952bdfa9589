//! Fan-out: one publish, many readers. The rows `websocket`, `latency`, `publishers`, `sse`, `rooms`.

use super::Bench;
use super::row::{Beside, Outcome};
use super::server::{Floor, Subject, Tidegate};
use crate::cli::bench::reader::Transport;
use crate::cli::bench::rows::{Fanout, Report};

/// Readers of one room.
const READERS: usize = 1000;
/// Rooms, and readers of each, in the row with many.
const ROOMS: usize = 100;
const READERS_EACH: usize = 100;
/// Events of each run in the rows that go as fast as they are answered.
const EVENTS: u64 = 2000;
/// Events a second in the row that looks at latency, which come to 50,000 deliveries, and how many.
const RATE: u64 = 50;
const AT_RATE: u64 = 500;
/// Publishers at once in the row with several.
const PUBLISHERS: usize = 16;
/// Bytes of an event's data, everywhere.
pub(super) const BYTES: usize = 200;

/// What a run of one side was like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) rate: f64,
    pub(super) cpu_us: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) wrong: u64,
}

/// One room with the usual readers, as fast as one publisher is answered.
pub(super) fn one_room(bench: &Bench, transport: Transport) -> Fanout {
    Fanout {
        // As long as a name mostly is, and the same for both sides.
        room: "bench:readings".to_owned(),
        rooms: 1,
        readers: bench.readers(READERS),
        transport,
        publishers: 1,
        events: bench.count(EVENTS),
        rate: None,
        bytes: BYTES,
    }
}

/// A run of one side, from its start to its end.
pub(super) fn once(bench: &Bench, subject: &dyn Subject, fan: &Fanout) -> anyhow::Result<Measured> {
    let server = subject.start(bench)?;
    let (report, cpu) = bench.run(async {
        let readers = fan.open(server.speech(), &bench.bar).await?;
        let before = server.process().cpu_seconds()?;
        let report = fan.measure(server.speech(), readers, &bench.bar).await?;
        Ok((report, server.process().cpu_seconds()? - before))
    })?;
    let figure = |name| Report::figure(&report, name).unwrap_or(f64::NAN);
    Ok(Measured {
        rate: figure("deliveries/s"),
        cpu_us: cpu * 1e6 / figure("deliveries"),
        p50_ms: figure("latency p50 ms"),
        p99_ms: figure("latency p99 ms"),
        wrong: report.wrong,
    })
}

/// Runs of tidegate between runs of the floor.
pub(super) fn beside(bench: &Bench, fan: &Fanout) -> anyhow::Result<Beside<Measured>> {
    Beside::run(bench.runs, || once(bench, &Floor::default(), fan), || once(bench, &Tidegate::default(), fan))
}

/// The outcome of a row that is about the rate.
fn rate(beside: &Beside<Measured>) -> Outcome {
    let reached = vec![beside.as_ratio(|run| run.rate)];
    let mut outcome = Outcome { reached, wrong: beside.sum(|run| run.wrong), ..Outcome::default() };
    outcome.figure("CPU µs a delivery: tidegate", beside.ours(|run| run.cpu_us));
    outcome.figure("CPU µs a delivery: floor", beside.floor(|run| run.cpu_us));
    outcome.figure("p99 ms: tidegate", beside.ours(|run| run.p99_ms));
    outcome.figure("p99 ms: floor", beside.floor(|run| run.p99_ms));
    outcome
}

pub(super) fn websocket(bench: &Bench) -> anyhow::Result<Outcome> {
    Ok(rate(&beside(bench, &one_room(bench, Transport::WebSocket))?))
}

pub(super) fn sse(bench: &Bench) -> anyhow::Result<Outcome> {
    Ok(rate(&beside(bench, &one_room(bench, Transport::Sse))?))
}

/// What the row `publishers` does.
pub(super) fn several_publishers(bench: &Bench) -> Fanout {
    Fanout { publishers: PUBLISHERS, ..one_room(bench, Transport::WebSocket) }
}

/// What the row `rooms` does.
pub(super) fn many_rooms(bench: &Bench) -> Fanout {
    // As many deliveries as in the rows with one room.
    let events = bench.count(EVENTS * (READERS / READERS_EACH) as u64);
    let readers = bench.readers(READERS_EACH);
    Fanout { rooms: ROOMS, readers, events, ..one_room(bench, Transport::WebSocket) }
}

pub(super) fn publishers(bench: &Bench) -> anyhow::Result<Outcome> {
    Ok(rate(&beside(bench, &several_publishers(bench))?))
}

pub(super) fn rooms(bench: &Bench) -> anyhow::Result<Outcome> {
    Ok(rate(&beside(bench, &many_rooms(bench))?))
}

pub(super) fn latency(bench: &Bench) -> anyhow::Result<Outcome> {
    let at_rate = |transport| Fanout { events: bench.count(AT_RATE), rate: Some(RATE), ..one_room(bench, transport) };
    let websocket = beside(bench, &at_rate(Transport::WebSocket))?;
    let sse = beside(bench, &at_rate(Transport::Sse))?;
    let reached = vec![websocket.as_ratio(|run| run.p50_ms), websocket.as_ratio(|run| run.p99_ms)];
    let wrong = websocket.sum(|run| run.wrong) + sse.sum(|run| run.wrong);
    let mut outcome = Outcome { reached, wrong, ..Outcome::default() };
    for (name, beside) in [("WebSocket", &websocket), ("SSE", &sse)] {
        outcome.figure(format!("{name}, CPU µs a delivery one at a time: tidegate"), beside.ours(|run| run.cpu_us));
        outcome.figure(format!("{name}, CPU µs a delivery one at a time: floor"), beside.floor(|run| run.cpu_us));
        outcome.figure(format!("{name}, CPU × floor"), beside.ratio(|run| run.cpu_us).median);
    }
    outcome.figure("SSE, p50 × floor", sse.ratio(|run| run.p50_ms).median);
    outcome.figure("SSE, p99 × floor", sse.ratio(|run| run.p99_ms).median);
    Ok(outcome)
}
