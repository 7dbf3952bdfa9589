//! A server under test: a child process with a directory of its own on cores of its own, which has said where it listens; what it has taken of the processor and of memory. It ends, and its directory goes,
//! when it is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::auth::files;

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(30);
/// What a server says when it is ready, in front of its address.
pub(super) const READY: &str = "listening on ";
/// Of its log, so many lines are kept for when it does not start.
const LINES_MAX: usize = 50;
/// The kernel counts a process's time in hundredths of a second, on every architecture that Rust knows.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which cores the server and the client have.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    server: CpuSet,
    client: CpuSet,
    all: CpuSet,
}

impl Cores {
    /// The first so many of those that this program may use for the server, the last one for the client. With one core there is nothing to keep apart.
    ///
    /// # Errors
    /// When the kernel does not say which there are.
    pub fn new(server: usize) -> anyhow::Result<Self> {
        let all = sched_getaffinity(None)?;
        let ids: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|id| all.is_set(*id)).collect();
        let set = |ids: &[usize]| {
            let mut set = CpuSet::new();
            ids.iter().for_each(|id| set.set(*id));
            set
        };
        let last = ids.len().saturating_sub(1);
        Ok(Self { server: set(&ids[..server.clamp(1, ids.len())]), client: set(&ids[last..]), all })
    }

    /// How many the server has, and how many there are.
    #[must_use]
    pub fn count(&self) -> (u32, u32) {
        (self.server.count(), self.all.count())
    }

    /// Keeps this thread, and what it starts, to the client's core.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pin_client(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.client)?)
    }

    /// Lets this thread, and what it starts, use all cores.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unpin(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.all)?)
    }

    /// Does this on the server's cores, which a process that it starts has from then on.
    fn on_server<T>(&self, start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, &self.server)?;
        let started = start();
        sched_setaffinity(None, &before)?;
        started
    }
}

/// A directory for what is only for now.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new one, for this user alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(within: &Path) -> anyhow::Result<Self> {
        let directory = within.join(format!("tidegate-bench-{}", files::random_hex::<8>()));
        fs::DirBuilder::new().mode(0o700).create(&directory).with_context(|| format!("{}", directory.display()))?;
        Ok(Self(directory))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server.
#[derive(Debug)]
pub struct Process {
    child: Child,
    address: SocketAddr,
    // Behind the child: it goes when that has ended.
    _directory: Option<Directory>,
}

impl Process {
    /// Starts it, on the server's cores if there are some, and waits until it says on standard output or standard error that it is listening.
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub fn start(mut command: Command, directory: Option<Directory>, cores: Option<Cores>) -> anyhow::Result<Self> {
        // A server that wants to may end when nobody holds the other end any more.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut spawn = || command.spawn().with_context(|| format!("{:?} does not start", command.get_program()));
        let mut child = match cores {
            Some(cores) => cores.on_server(spawn)?,
            None => spawn()?,
        };
        let (said, hear) = mpsc::sync_channel(LINES_MAX);
        let (out, errors) = (child.stdout.take(), child.stderr.take());
        // It ends when this is dropped, on all ways out of here.
        let mut process = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), _directory: directory };
        listen(out, said.clone());
        listen(errors, said);
        let mut lines = Vec::new();
        while let Ok(line) = hear.recv_timeout(START) {
            if let Some((_, rest)) = line.split_once(READY) {
                let address = rest.split_whitespace().next().unwrap_or_default();
                let address = address.trim_start_matches("http://").trim_matches(['"', ',']);
                process.address = address.parse().with_context(|| format!("the server listens on {address}"))?;
                return Ok(process);
            }
            lines.push(line);
        }
        bail!("the server did not start:\n{}", lines.join("\n"))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds of a core that it has taken so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        cpu_seconds(self.pid())
    }

    /// Its resident memory, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(self.pid()).context("the server has ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing of it is needed any more. One that has ended by itself cannot be killed, and that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, so that the server never waits for room to write; what nobody hears is dropped.
fn listen(log: Option<impl Read + Send + 'static>, said: mpsc::SyncSender<String>) {
    let Some(log) = log else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let _ = said.try_send(line);
        }
    });
}

/// Seconds of a core that a process of this machine has taken so far.
pub(super) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server has ended")?;
    // Its name may have anything in it; the 12th and 13th behind it are user and system time.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |split| split.1).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("/proc has another form than expected")?;
    Ok((user + system) / TICKS_PER_SECOND)
}

/// Resident memory of a process of this machine, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
