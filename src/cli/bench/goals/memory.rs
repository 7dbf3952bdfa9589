//! What a connection weighs while it waits: the server's resident memory and the kernel's. The row `memory`; what the kernel holds is counted here for `stalled`, too.

use std::fs;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::Bench;
use super::fan::BYTES;
use super::row::{Outcome, Reached};
use super::server::{Floor, Server, Subject, Tidegate};
use crate::cli::bench::http::Publisher;
use crate::cli::bench::reader::{Tally, Transport};
use crate::cli::bench::rows::{open_each, settle};

/// Connections that are weighed.
const CONNECTIONS: usize = 5000;
/// Connections before these, so that what a process needs once is there.
pub(super) const WARM: usize = 50;
/// Memory is looked at so often, and has come to rest when it has not changed for so many looks; after so many it is taken as it is.
const LOOK: Duration = Duration::from_millis(50);
const RESTED: usize = 10;
const LOOKS_MAX: usize = 100;
/// What the kernel counts sockets' memory in.
const PAGE_BYTES: u64 = 4096;

/// What the kernel of this machine holds for all sockets, at both ends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kernel {
    /// What waits in sockets' buffers, as it is accounted.
    pub(super) buffers_bytes: u64,
    /// The structures of sockets, files and all else.
    slab_bytes: u64,
}

impl Kernel {
    /// As it is now.
    ///
    /// # Errors
    /// When /proc does not say.
    pub(super) fn look() -> anyhow::Result<Self> {
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).context("no TCP in /proc/net/sockstat")?;
        let pages = tcp.split_whitespace().skip_while(|word| *word != "mem").nth(1);
        let pages: u64 = pages.context("no mem in /proc/net/sockstat")?.parse()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let slab = memory.lines().find_map(|line| line.strip_prefix("Slab:")).context("no Slab in /proc/meminfo")?;
        let slab_kib: u64 = slab.split_whitespace().next().context("no figure in /proc/meminfo")?.parse()?;
        Ok(Self { buffers_bytes: pages * PAGE_BYTES, slab_bytes: slab_kib * 1024 })
    }
}

/// Bytes that wait in the kernel for a server's clients: at the server's end, and at the clients'.
///
/// # Errors
/// When /proc does not say.
pub(super) fn queued(server: SocketAddr) -> anyhow::Result<(u64, u64)> {
    let table = fs::read_to_string("/proc/net/tcp")?;
    let port = format!("{:04X}", server.port());
    let mut queued = (0, 0);
    for line in table.lines().skip(1) {
        // Its number, both addresses, the state, and the queues out and in.
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(remote), _, Some(queues)) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some((out, back)) = queues.split_once(':') else { continue };
        if local.ends_with(&port) {
            queued.0 += u64::from_str_radix(out, 16)?;
        } else if remote.ends_with(&port) {
            queued.1 += u64::from_str_radix(back, 16)?;
        }
    }
    Ok(queued)
}

/// The server's resident memory when it has come to rest.
pub(super) async fn rested(server: &Server) -> anyhow::Result<u64> {
    let (mut before, mut same) = (server.process().resident_bytes()?, 0);
    for _ in 0..LOOKS_MAX {
        sleep(LOOK).await;
        let now = server.process().resident_bytes()?;
        same = if now == before { same + 1 } else { 0 };
        if same == RESTED {
            break;
        }
        before = now;
    }
    Ok(before)
}

/// What connections weigh.
#[derive(Debug)]
pub(super) struct Weighed {
    pub(super) idle: f64,
    pub(super) after: f64,
    kernel_buffers: f64,
    kernel_slab: f64,
    pub(super) wrong: u64,
}

pub(super) fn weigh(bench: &Bench, subject: &dyn Subject, transport: Transport) -> anyhow::Result<Weighed> {
    let server = subject.start(bench)?;
    let count = bench.readers(CONNECTIONS);
    bench.run(async {
        let speech = server.speech();
        let stream = |room: &str| speech.stream(room, transport, None);
        let _warm = open_each(speech.address(), (0..WARM).map(|_| stream("warm")), &bench.bar).await?;
        let request = speech.publish("idle", "memory");
        let mut publisher = Publisher::open(speech.address(), std::slice::from_ref(&request)).await?;
        publisher.publish(&request.body(0, 1, BYTES)).await?;
        let (before, kernel) = (rested(&server).await?, Kernel::look()?);
        let open = open_each(speech.address(), (0..count).map(|_| stream("idle")), &bench.bar).await?;
        let (idle, kernel_idle) = (rested(&server).await?, Kernel::look()?);
        let tally = Tally::new()?;
        for reader in open {
            tokio::task::spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
        }
        publisher.publish(&request.body(0, 2, BYTES)).await?;
        settle(&tally, count as u64, &bench.bar).await;
        let after = rested(&server).await?;
        let each = |more: u64, less: u64| (more as f64 - less as f64) / count as f64;
        let wrong = tally.borrow().wrong(count as u64);
        Ok(Weighed {
            idle: each(idle, before),
            after: each(after, before),
            kernel_buffers: each(kernel_idle.buffers_bytes, kernel.buffers_bytes),
            kernel_slab: each(kernel_idle.slab_bytes, kernel.slab_bytes),
            wrong,
        })
    })
}

pub(super) fn memory(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for (name, transport) in [("WebSocket", Transport::WebSocket), ("SSE", Transport::Sse)] {
        let floor = weigh(bench, &Floor::default(), transport)?;
        let ours = weigh(bench, &Tidegate::default(), transport)?;
        outcome.reached.push(Reached { floor: Some(floor.idle), ..Reached::alone([ours.idle]) });
        outcome.reached.push(Reached { floor: Some(floor.after), ..Reached::alone([ours.after]) });
        outcome.wrong += floor.wrong + ours.wrong;
        outcome.figure(format!("{name}, kernel's structures at both ends, bytes each"), ours.kernel_slab);
        outcome.figure(format!("{name}, sockets' buffers at both ends, bytes each"), ours.kernel_buffers);
    }
    Ok(outcome)
}
