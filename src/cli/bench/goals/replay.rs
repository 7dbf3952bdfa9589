//! A reader that comes back for its history. The rows `replay-memory` and `replay-log`.

use super::Bench;
use super::fan::BYTES;
use super::row::{Beside, Outcome};
use super::server::{Floor, Subject, Tidegate};
use crate::cli::bench::floor;
use crate::cli::bench::rows::{Replay, Report};

/// Events to come back for.
const SIZES: [u64; 3] = [100, 1000, 10_000];
/// How often each is measured in a run.
const RUNS: u64 = 50;
/// What the floor keeps: more than is asked for.
const FLOOR_KEEPS: u64 = 20_000;
/// Events of one publish to tidegate; the floor takes each alone.
const BATCH: u64 = 500;

/// So that the tail holds all that is asked for.
pub(super) const FROM_MEMORY: [(&str, &str); 2] =
    [("rooms.default.tail_events", "20000"), ("rooms.default.tail_bytes", "32MiB")];
/// So that it holds nothing.
pub(super) const FROM_LOG: [(&str, &str); 1] = [("rooms.default.tail_events", "0")];

/// What is published for a replay to one side.
pub(super) fn filling(bench: &Bench, room: &str, events: u64, is_floor: bool) -> Replay {
    Replay {
        room: room.to_owned(),
        events,
        runs: bench.count(RUNS),
        bytes: BYTES,
        batch: if is_floor { 1 } else { BATCH },
        // The floor's answers do not say.
        after: is_floor.then_some(floor::BEFORE_FIRST),
    }
}

#[derive(Default)]
struct Measured {
    /// Of each size.
    p50_ms: [f64; 3],
    p99_ms: [f64; 3],
    rate: [f64; 3],
    wrong: u64,
}

fn once(bench: &Bench, subject: &dyn Subject, is_floor: bool) -> anyhow::Result<Measured> {
    let server = subject.start(bench)?;
    let mut measured = Measured::default();
    for (at, events) in SIZES.into_iter().enumerate() {
        let replay = filling(bench, &format!("replay-{events}"), events, is_floor);
        let report = bench.run(replay.run(server.speech(), &bench.bar))?;
        let figure = |name| Report::figure(&report, name).unwrap_or(f64::NAN);
        measured.p50_ms[at] = figure("replay p50 ms");
        measured.p99_ms[at] = figure("replay p99 ms");
        measured.rate[at] = figure("events/s");
        measured.wrong += report.wrong;
    }
    Ok(measured)
}

fn beside(bench: &Bench, settings: &[(&'static str, &str)]) -> anyhow::Result<(Beside<Measured>, Outcome)> {
    let tidegate = Tidegate::with(settings);
    let floor = || once(bench, &Floor { keep: FLOOR_KEEPS }, true);
    let beside = Beside::run(bench.runs, floor, || once(bench, &tidegate, false))?;
    let mut outcome = Outcome { wrong: beside.sum(|run| run.wrong), settings: tidegate.settings, ..Outcome::default() };
    for (at, events) in SIZES.into_iter().enumerate() {
        outcome.figure(format!("{events} events, p50 ms"), beside.ours(|run| run.p50_ms[at]));
        outcome.figure(format!("{events} events, p99 ms"), beside.ours(|run| run.p99_ms[at]));
        outcome.figure(format!("{events} events, events/s"), beside.ours(|run| run.rate[at]));
        outcome.figure(format!("{events} events, p50 × floor"), beside.ratio(|run| run.p50_ms[at]).median);
    }
    Ok((beside, outcome))
}

pub(super) fn from_memory(bench: &Bench) -> anyhow::Result<Outcome> {
    let (beside, mut outcome) = beside(bench, &FROM_MEMORY)?;
    outcome.reached = (0..SIZES.len()).map(|at| beside.as_figure(|run| run.p50_ms[at])).collect();
    Ok(outcome)
}

pub(super) fn from_log(bench: &Bench) -> anyhow::Result<Outcome> {
    let (beside, mut outcome) = beside(bench, &FROM_LOG)?;
    outcome.reached = vec![beside.as_figure(|run| run.rate[SIZES.len() - 1])];
    Ok(outcome)
}
