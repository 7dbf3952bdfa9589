//! Readers and publishers under which a daemon is stopped, and what it acknowledged until then.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::super::http::{Publisher, Target};
use super::super::reader::{Reader, Tally, Transport, number};
use super::super::rows::{PATIENCE, open_all};
use super::StartArguments;
use super::place::Running;

/// A stop that takes longer than its own limit (10 s) and this has failed.
const STOP: Duration = Duration::from_secs(30);
/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(2);

/// How a daemon is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    InOrder,
    Crash,
}

/// Readers and publishers at work.
pub(super) struct Load {
    tally: Rc<RefCell<Tally>>,
    reading: JoinSet<()>,
    publishing: Vec<JoinHandle<anyhow::Result<Acknowledged>>>,
    /// Set where the daemon is about to end, so that a publisher may be refused.
    ending: Rc<Cell<bool>>,
}

/// What a publisher was told is kept: events `0` to `acknowledged - 1`.
#[derive(Debug, Clone)]
pub(super) struct Acknowledged {
    room: String,
    /// The seq of the first one.
    first_seq: u64,
    pub(super) acknowledged: u64,
}

/// What came of it.
pub(super) struct Loaded {
    pub(super) rooms: Vec<Acknowledged>,
    pub(super) delivered: u64,
    /// Events that readers lost, got twice or out of order; publishers that were refused too early.
    pub(super) wrong: u64,
}

impl Load {
    /// Opens the readers, spread over the publishers' rooms, and has the publishers begin.
    pub(super) async fn start(
        target: &Target,
        arguments: &StartArguments,
        stop: Stop,
        bar: &ProgressBar,
    ) -> anyhow::Result<Self> {
        let (tally, mut reading) = (Tally::new()?, JoinSet::new());
        let publishers = usize::try_from(arguments.publishers)?;
        let room = |number: usize| format!("load-{stop:?}:{number}");
        for number in 0..publishers {
            let query = format!("rooms={}", room(number));
            // The remainder goes to the first rooms.
            let readers = arguments.readers / publishers + usize::from(number < arguments.readers % publishers);
            for transport in [Transport::WebSocket, Transport::Sse] {
                for reader in open_all(target, transport, &query, readers, bar).await? {
                    reading.spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
                }
            }
        }
        let (ending, mut publishing) = (Rc::new(Cell::new(false)), Vec::new());
        for number in 0..publishers {
            let ack = if number % 2 == 0 { "logged" } else { "synced" };
            let publisher = Publisher::connect(target, &room(number), ack).await?;
            publishing.push(spawn_local(publish(publisher, room(number), Rc::clone(&ending))));
        }
        Ok(Self { tally, reading, publishing, ending })
    }

    /// Lets it go on for so long.
    pub(super) async fn run(&self, time: Duration) {
        sleep(time).await;
        self.ending.set(true);
    }

    /// Waits, with the load still on, until the daemon has ended in good order.
    pub(super) async fn until_ended(&self, daemon: &mut Running) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match daemon.ended()? {
                Some(true) => return Ok(()),
                Some(false) => bail!("the daemon did not stop in good order"),
                None if began.elapsed() > STOP => bail!("the daemon did not stop within {STOP:?}"),
                None => sleep(LOOK).await,
            }
        }
    }

    /// What came of it, after the daemon has ended.
    pub(super) async fn end(mut self) -> Loaded {
        // A socket of a process that has ended says so; what it sent before is read until then.
        let ended = async { while self.reading.join_next().await.is_some() {} };
        let hanging = timeout(PATIENCE, ended).await.is_err();
        let (mut rooms, mut wrong) = (Vec::new(), u64::from(hanging));
        for publishing in self.publishing {
            match publishing.await {
                Ok(Ok(acknowledged)) => rooms.push(acknowledged),
                _ => wrong += 1,
            }
        }
        let tally = self.tally.borrow();
        Loaded { rooms, delivered: tally.delivered, wrong: wrong + tally.lost + tally.doubled }
    }
}

/// Publishes as fast as it is answered, until the daemon has no more answers.
async fn publish(mut publisher: Publisher, room: String, ending: Rc<Cell<bool>>) -> anyhow::Result<Acknowledged> {
    let mut kept = Acknowledged { room, first_seq: 0, acknowledged: 0 };
    loop {
        let n = kept.acknowledged;
        let body = format!("{{\"kind\":\"bench\",\"data\":{{\"n\":{n},\"fill\":\"{:200}\"}}}}", "");
        match publisher.publish(body.as_bytes()).await {
            Ok(answer) => {
                if n == 0 {
                    kept.first_seq = number(answer, b"\"first_seq\":", &mut 0).context("an answer without a seq")?;
                }
                kept.acknowledged += 1;
            }
            Err(_) if ending.get() => return Ok(kept),
            Err(error) => return Err(error),
        }
    }
}

impl Acknowledged {
    /// How many of these a daemon does not have, or has twice or out of order.
    pub(super) async fn missing(&self, target: &Target) -> anyhow::Result<u64> {
        if self.acknowledged == 0 {
            return Ok(0);
        }
        let query = format!("rooms={}&after={}", self.room, self.first_seq - 1);
        let mut reader = Reader::open(target, Transport::Sse, &query).await?;
        let (mut next, mut wrong) = (0, 0);
        let all = reader.each(|message| {
            if let Some(n) = number(message, b"\"n\":", &mut 0) {
                wrong += u64::from(n != next);
                next = n + 1;
            }
            next >= self.acknowledged
        });
        // Where not all of them come, the rest is missing.
        let _ = timeout(PATIENCE, all).await;
        Ok(wrong + self.acknowledged.saturating_sub(next))
    }
}
