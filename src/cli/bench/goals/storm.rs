//! Readers that all come back at once for what they missed, while a room goes on live. The row `storm`.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Bench;
use super::live::Live;
use super::replay::{FROM_LOG, FROM_MEMORY, filling};
use super::row::{Beside, Outcome, Reached, Spread};
use super::server::{Floor, Server, Subject, Tidegate};
use crate::cli::bench::http::StreamRequest;
use crate::cli::bench::reader::{Reader, Tally, Transport};
use crate::cli::bench::rows::float;

/// Who comes back, for how many events each.
const READERS: usize = 200;
const EVENTS: u64 = 1000;
/// Readers of the room that goes on.
const LIVE_READERS: usize = 100;
/// So long it is watched without and then with storms, one behind the other.
const WATCH: Duration = Duration::from_secs(5);
/// Storms in that time, at least.
const STORMS_MIN: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

struct Measured {
    rate: f64,
    calm_p99_ms: f64,
    storm_p99_ms: f64,
    wrong: u64,
}

fn once(bench: &Bench, subject: &dyn Subject, is_floor: bool) -> anyhow::Result<Measured> {
    let server = subject.start(bench)?;
    let watch = bench.time(WATCH);
    bench.run(async {
        let room = filling(bench, "bench:storm", EVENTS, is_floor);
        let after = room.fill(server.speech(), &bench.bar).await?;
        let request = server.speech().stream(&room.room, Transport::WebSocket, Some(after));
        let live = Live::begin(&server, bench.readers(LIVE_READERS), &bench.bar).await?;
        bench.bar.set_message("calm");
        sleep(watch).await;
        let calm_p99_ms = live.p99_ms();
        bench.bar.set_message("storms");
        let (mut rates, mut wrong, began) = (Vec::new(), 0, Instant::now());
        while began.elapsed() < watch || rates.len() < STORMS_MIN {
            let (rate, missed) = storm(&server, &request, bench.readers(READERS)).await?;
            rates.push(rate);
            wrong += missed;
        }
        let storm_p99_ms = live.p99_ms();
        wrong += live.end(&bench.bar).await?;
        Ok(Measured { rate: Spread::of(rates).median, calm_p99_ms, storm_p99_ms, wrong })
    })
}

/// One: events a second from the first connection to the last event, and what was wrong.
async fn storm(server: &Server, request: &StreamRequest, readers: usize) -> anyhow::Result<(f64, u64)> {
    let tally = Tally::new()?;
    let address = server.process().address();
    let began = Instant::now();
    let mut coming = JoinSet::new();
    for _ in 0..readers {
        let (request, tally) = (request.clone(), Rc::clone(&tally));
        coming.spawn_local(async move {
            Reader::connect(address, &request).await?.count(tally, EVENTS).await;
            anyhow::Ok(())
        });
    }
    // Who has not got everything by then is counted below.
    let all = tokio::time::timeout(PATIENCE, async {
        while let Some(came) = coming.join_next().await {
            came??;
        }
        anyhow::Ok(())
    });
    if let Ok(failed) = all.await {
        failed?;
    }
    let tally = tally.borrow();
    let rate = float(tally.delivered) / (tally.last - began).as_secs_f64();
    Ok((rate, tally.wrong(readers as u64 * EVENTS)))
}

pub(super) fn storms(bench: &Bench) -> anyhow::Result<Outcome> {
    let tidegate = Tidegate::with(&FROM_MEMORY);
    let floor = || once(bench, &Floor { keep: 2 * EVENTS }, true);
    let beside = Beside::run(bench.runs, floor, || once(bench, &tidegate, false))?;
    let log = once(bench, &Tidegate::with(&FROM_LOG), false)?;
    let worse = |run: &Measured| run.storm_p99_ms / run.calm_p99_ms;
    let reached =
        vec![beside.as_figure(|run| run.rate), Reached { floor: Some(beside.floor(worse)), ..beside.as_figure(worse) }];
    let wrong = beside.sum(|run| run.wrong) + log.wrong;
    let mut outcome = Outcome { reached, wrong, settings: tidegate.settings, ..Outcome::default() };
    outcome.figure("live p99 ms without a storm", beside.ours(|run| run.calm_p99_ms));
    outcome.figure("live p99 ms during storms", beside.ours(|run| run.storm_p99_ms));
    outcome.figure("live p99 ms without a storm: floor", beside.floor(|run| run.calm_p99_ms));
    outcome.figure("live p99 ms during storms: floor", beside.floor(|run| run.storm_p99_ms));
    outcome.figure("events/s × floor", beside.ratio(|run| run.rate).median);
    outcome.figure("events/s from the log", log.rate);
    outcome.figure("live p99 during storms from the log, × without", worse(&log));
    Ok(outcome)
}
