//! A daemon of one's own to measure: a child process of the same program, with a directory, settings and keys made for it, which go with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::auth::files;

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(30);
/// What its log says when it is ready.
const READY: &str = "listening on ";
/// Of its log, so many lines are kept for when it does not start.
const LINES_MAX: usize = 50;
/// Every client is of one address and one user here, so what bounds these is off.
const SETTINGS: &str = "\
[server]
listen = \"127.0.0.1:0\"
[limits]
per_ip_connections = 0
per_ip_connections_per_hour = 0
per_ip_sockets = 0
per_user_connections = 0
[overview]
per_ip_connections = 0
per_ip_connections_per_hour = 0
[analytics]
per_user_connections = 0
[sources.host]
enabled = false
";

/// A running daemon. It ends, and its directory goes, when this is dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    directory: PathBuf,
    pub(super) address: SocketAddr,
    /// A token with every role.
    pub(super) token: String,
}

impl Daemon {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub(super) fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let directory = std::env::temp_dir().join(format!("tidegate-bench-{}", files::random_hex::<8>()));
        fs::DirBuilder::new().mode(0o700).create(&directory).with_context(|| format!("{}", directory.display()))?;
        let started = begin(&program, &directory);
        if started.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        started
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing of it is needed any more. One that has ended by itself cannot be killed, and that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A command of this program that reads the settings made for it, and no others.
fn command(program: &Path, directory: &Path, secret: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command.current_dir(directory).env("TIDEGATE_CONFIG", "tidegate.toml").env("TIDEGATE_AUTH__JWT_SECRET", secret);
    command
}

fn begin(program: &Path, directory: &Path) -> anyhow::Result<Daemon> {
    fs::write(directory.join("tidegate.toml"), SETTINGS)?;
    let secret = files::random_hex::<32>();
    let mint = ["token", "mint", "--sub", "bench", "--role", "admin", "--role", "platform_admin", "--ttl", "1d"];
    let minted = command(program, directory, &secret).args(mint).output()?;
    if !minted.status.success() {
        bail!("no token could be made: {}", String::from_utf8_lossy(&minted.stderr));
    }
    let token = String::from_utf8(minted.stdout)?.trim().to_owned();
    let mut child = command(program, directory, &secret)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let (said, hear) = mpsc::sync_channel(LINES_MAX);
    let log = child.stderr.take().context("the daemon has no standard error")?;
    std::thread::spawn(move || {
        // Read to its end, so that the daemon never waits for room to write; what nobody hears is dropped.
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let _ = said.try_send(line);
        }
    });
    let mut daemon =
        Daemon { child, directory: directory.to_owned(), address: SocketAddr::from(([127, 0, 0, 1], 0)), token };
    let mut lines = Vec::new();
    while let Ok(line) = hear.recv_timeout(START) {
        if let Some((_, rest)) = line.split_once(READY) {
            let address = rest.split_whitespace().next().unwrap_or_default();
            let address = address.trim_start_matches("http://").trim_matches(['"', ',']);
            daemon.address = address.parse().with_context(|| format!("the daemon listens on {address}"))?;
            return Ok(daemon);
        }
        lines.push(line);
    }
    // Dropping it ends it.
    bail!("the daemon did not start:\n{}", lines.join("\n"))
}

/// Resident memory of a process of this machine, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
