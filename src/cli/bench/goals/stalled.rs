//! Readers that never read, beside others that do. The row `stalled`.

use std::time::Duration;

use tokio::time::sleep;

use super::Bench;
use super::live::Live;
use super::memory::{Kernel, queued, rested};
use super::replay::filling;
use super::row::{Beside, Outcome, Reached, Spread};
use super::server::{Server, Subject, Tidegate};
use crate::cli::bench::reader::Transport;
use crate::cli::bench::rows::{Replay, float, open_each};

/// Who reads, and who does not.
const READERS: usize = 900;
const STALLED: usize = 100;
/// What is published before the others come, so that all that can fill up for those who do not read is full: more than 8 MB for each.
const FILLING: u64 = 25_000;
/// So long the others are watched. Less than a server waits for a socket to take something (10 s by default).
const WATCH: Duration = Duration::from_secs(6);
/// Memory is looked at so often while it fills up.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    p99_ms: f64,
    /// The most that was seen, for each that does not read, in bytes.
    server: f64,
    kernel: f64,
    kernel_both: f64,
    wrong: u64,
}

/// What the server and the kernel hold.
struct Held {
    server: u64,
    kernel: u64,
}

impl Held {
    fn look(server: &Server) -> anyhow::Result<Self> {
        Ok(Self { server: server.process().resident_bytes()?, kernel: Kernel::look()?.buffers_bytes })
    }
}

fn once(bench: &Bench, stalled: usize) -> anyhow::Result<Measured> {
    let server = Tidegate::default().start(bench)?;
    bench.run(async {
        let room = Replay {
            events: bench.readers(usize::try_from(FILLING)?) as u64,
            ..filling(bench, "bench:live", FILLING, false)
        };
        // Once before anybody listens, so that what publishing itself takes (the room's tail, the log) is there.
        room.fill(server.speech(), &bench.bar).await?;
        let requests = (0..stalled).map(|_| server.speech().stream(&room.room, Transport::WebSocket, None));
        let held = open_each(server.process().address(), requests, &bench.bar).await?;
        rested(&server).await?;
        let before = Held::look(&server)?;
        room.fill(server.speech(), &bench.bar).await?;
        let mut measured = Measured::default();
        bench.bar.set_message("stalling");
        for _ in 0..LOOKS {
            measured.look(&server, &before, stalled)?;
            sleep(LOOK).await;
        }
        // What the others take is not the stalled ones'.
        let live = Live::begin(&server, bench.readers(READERS), &bench.bar).await?;
        bench.bar.set_message("watching");
        sleep(bench.time(WATCH)).await;
        measured.p99_ms = live.p99_ms();
        measured.wrong = live.end(&bench.bar).await?;
        drop(held);
        Ok(measured)
    })
}

impl Measured {
    fn look(&mut self, server: &Server, before: &Held, stalled: usize) -> anyhow::Result<()> {
        if stalled == 0 {
            return Ok(());
        }
        let now = Held::look(server)?;
        let (out, back) = queued(server.process().address())?;
        // The kernel says what it holds for both ends together; each has as much of it as it has bytes waiting.
        let share = float(out) / float((out + back).max(1));
        let each = |now: u64, before: u64| float(now.saturating_sub(before)) / float(stalled as u64);
        self.server = self.server.max(each(now.server, before.server));
        self.kernel = self.kernel.max(each(now.kernel, before.kernel) * share);
        self.kernel_both = self.kernel_both.max(each(now.kernel, before.kernel));
        Ok(())
    }
}

pub(super) fn stalled(bench: &Bench) -> anyhow::Result<Outcome> {
    let count = bench.readers(STALLED);
    let beside = Beside::run(bench.runs, || once(bench, 0), || once(bench, count))?;
    let each = |run: &Measured| run.server + run.kernel;
    let reached = vec![
        Reached { tidegate: None, floor: None, ..beside.as_ratio(|run| run.p99_ms) },
        Reached::alone(beside.ours.iter().map(each)),
    ];
    let mut outcome = Outcome { reached, wrong: beside.sum(|run| run.wrong), ..Outcome::default() };
    outcome.figure("others' p99 ms beside stalled ones", beside.ours(|run| run.p99_ms));
    outcome.figure("others' p99 ms without", beside.floor(|run| run.p99_ms));
    outcome.figure("server's bytes for a stalled one", Spread::of(beside.ours.iter().map(|run| run.server)).median);
    outcome.figure("kernel's bytes for a stalled one, server's end", beside.ours(|run| run.kernel));
    outcome.figure("kernel's bytes for a stalled one, both ends", beside.ours(|run| run.kernel_both));
    Ok(outcome)
}
