//! A place for daemons that are started one after the other: a directory with their log, and the credentials that they all take.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::super::daemon::SETTINGS;
use super::super::http::Target;
use super::super::process::{Directory, READY};
use crate::auth::files;

/// Of its log, so many lines are kept for when it does not start.
const LINES_MAX: usize = 50;

/// The place. It goes, with all that daemons left in it, when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    program: PathBuf,
    directory: Directory,
    /// A key that may do everything but what takes a role of its own.
    key: String,
    /// Settings beside those that every daemon here has.
    more: Vec<(&'static str, String)>,
}

impl Place {
    /// Makes one.
    pub(super) fn new(more: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let directory = Directory::new(&std::env::temp_dir())?;
        Ok(Self { program, directory, key: files::random_hex::<16>(), more })
    }

    /// Where the log of its daemons is.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.path().join("data").join("log")
    }

    /// A daemon that runs here.
    pub(super) fn target(&self, running: &Running) -> Target {
        Target { address: running.address, token: self.key.clone() }
    }

    /// Starts a daemon here and waits until it listens, no longer than `limit`.
    pub(super) fn start(&self, limit: Duration) -> anyhow::Result<Running> {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
            command.env_remove(name);
        }
        command.current_dir(self.directory.path()).arg("serve");
        command.env("TIDEGATE_AUTH__API_KEYS", format!("bench:{}", self.key));
        for (name, value) in SETTINGS {
            command.args(["--set", &format!("{name}={value}")]);
        }
        for (name, value) in &self.more {
            command.args(["--set", &format!("{name}={value}")]);
        }
        Running::begin(&mut command, limit)
    }
}

/// A daemon that runs. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pub(super) address: SocketAddr,
    /// From the start of its process until it listened.
    pub(super) took: Duration,
}

impl Running {
    fn begin(command: &mut Command, limit: Duration) -> anyhow::Result<Self> {
        let began = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut running = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), took: Duration::ZERO };
        let (said, hear) = mpsc::sync_channel(LINES_MAX);
        let log = running.child.stderr.take().context("the daemon has no standard error")?;
        std::thread::spawn(move || {
            // Read to its end, so that the daemon never waits for room to write; what nobody hears is dropped.
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = said.try_send(line);
            }
        });
        let mut lines = Vec::new();
        while let Ok(line) = hear.recv_timeout(limit.saturating_sub(began.elapsed())) {
            if let Some((_, rest)) = line.split_once(READY) {
                let address = rest.split_whitespace().next().unwrap_or_default();
                let address = address.trim_start_matches("http://").trim_matches(['"', ',']);
                running.address = address.parse().with_context(|| format!("the daemon listens on {address}"))?;
                running.took = began.elapsed();
                return Ok(running);
            }
            lines.push(line);
        }
        // Dropping it ends it.
        bail!("the daemon did not start within {limit:?}:\n{}", lines.join("\n"))
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop; [`Running::ended`] says when it has.
    pub(super) fn ask_to_stop(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("the daemon cannot be told to stop")
    }

    /// Whether it has ended, and then how: `Some(true)` in good order.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// Ends it as a crash would (`kill -9`).
    pub(super) fn crash(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing of it is needed any more. One that has ended by itself cannot be killed, and that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
