//! Parts of tidegate by themselves, in this process: pipelines' operators and the log's disk. The rows `operators` and `disk`.

use std::time::Instant;

use super::Bench;
use super::chain::{CHAIN, Stream};
use super::disk::{Look, run};
use super::row::{Outcome, Reached, Spread};
use crate::cli::bench::process::Directory;

/// Events through the chain in each run, after as many tenths to warm up.
const EVENTS: u64 = 3_000_000;
/// Keys of the goal, and a few for comparison.
const KEYS: usize = 10_000;
const FEW_KEYS: usize = 10;
/// Events written to the disk: four times what is kept, at least.
const WRITTEN: u64 = 20_000_000;
const WRITTEN_MIN: u64 = 2_000_000;

pub(super) fn operators(bench: &Bench) -> anyhow::Result<Outcome> {
    let rates = |keys| (0..bench.runs).map(|_| rate(bench, keys)).collect::<anyhow::Result<Vec<f64>>>();
    let mut outcome = Outcome { reached: vec![Reached::alone(rates(KEYS)?)], ..Outcome::default() };
    let few = Spread::of(rates(FEW_KEYS)?).median;
    outcome.figure(format!("events/s with {FEW_KEYS} keys in place of {KEYS}"), few);
    Ok(outcome)
}

fn rate(bench: &Bench, keys: usize) -> anyhow::Result<f64> {
    let events = bench.count(EVENTS);
    let mut stream = Stream::new(&CHAIN, keys)?;
    bench.bar.set_message("chain");
    for _ in 0..events / 10 {
        stream.one()?;
    }
    let began = Instant::now();
    for _ in 0..events {
        stream.one()?;
    }
    Ok(events as f64 / began.elapsed().as_secs_f64())
}

pub(super) fn disk(bench: &Bench) -> anyhow::Result<Outcome> {
    let directory = Directory::new(&bench.dir)?;
    let events = bench.count(WRITTEN).max(bench.readers(usize::try_from(WRITTEN_MIN)?) as u64);
    bench.bar.set_message("writing");
    bench.bar.set_length(events);
    let mut looks: Vec<Look> = Vec::new();
    // The log has threads of its own, and there is no server beside this.
    bench.cores.unpin()?;
    let written = run(directory.path(), events, |look| {
        bench.bar.set_position(look.written);
        looks.push(look);
        bench.go_on()
    });
    bench.cores.pin_client()?;
    written?;
    // Until a quarter is written it fills up.
    let full = &looks[looks.len() / 4..];
    let half = |looks: &[Look]| Spread::of(looks.iter().map(|look| look.bytes as f64)).median;
    let (earlier, later) = full.split_at(full.len() / 2);
    let growth = half(later) / half(earlier);
    let reached = vec![Reached::alone(full.iter().map(|look| look.ratio)), Reached::alone([growth])];
    let mut outcome = Outcome { reached, ..Outcome::default() };
    outcome.figure("events written", looks.last().map_or(f64::NAN, |look| look.written as f64));
    outcome.figure("events/s, with housekeeping", looks.last().map_or(f64::NAN, |look| look.events_per_second));
    outcome.figure("MB on the disk, most", Spread::of(full.iter().map(|look| look.bytes as f64 / 1e6)).most);
    Ok(outcome)
}
