//! A daemon of one's own to measure: a child process of the same program, with a directory, settings and keys made for it, which go with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::auth::files;

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(30);
/// What its log says when it is ready.
const READY: &str = "listening on ";
/// Of its log, so many lines are kept for when it does not start.
const LINES_MAX: usize = 50;
/// What the kernel counts processor time in, for programs (`USER_HZ`): a hundredth of a second wherever Linux runs today.
const TICK_MS: u64 = 10;
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

/// A place for daemons: a directory with settings, a secret and a token. It goes, with all that daemons left in it, when this is dropped.
#[derive(Debug)]
pub(in crate::cli::bench) struct Place {
    program: PathBuf,
    directory: PathBuf,
    secret: String,
    /// A token with every role.
    pub(in crate::cli::bench) token: String,
    /// Settings beside those that every daemon here has, as for `--set`.
    flags: Vec<(String, String)>,
}

impl Place {
    /// Makes one.
    ///
    /// # Errors
    /// When there is no directory for it, or no token can be made.
    pub(in crate::cli::bench) fn new(flags: &[(&str, String)]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let directory = std::env::temp_dir().join(format!("tidegate-bench-{}", files::random_hex::<8>()));
        fs::DirBuilder::new().mode(0o700).create(&directory).with_context(|| format!("{}", directory.display()))?;
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        // From here on dropping it takes the directory away.
        let mut place = Self { program, directory, secret: files::random_hex::<32>(), token: String::new(), flags };
        fs::write(place.directory.join("tidegate.toml"), SETTINGS)?;
        let mint = ["token", "mint", "--sub", "bench", "--role", "admin", "--role", "platform_admin", "--ttl", "1d"];
        let minted = place.command().args(mint).output()?;
        if !minted.status.success() {
            bail!("no token could be made: {}", String::from_utf8_lossy(&minted.stderr));
        }
        String::from_utf8(minted.stdout)?.trim().clone_into(&mut place.token);
        Ok(place)
    }

    /// Where the log of its daemons is.
    pub(in crate::cli::bench) fn log(&self) -> PathBuf {
        self.directory.join("data").join("log")
    }

    /// Starts a daemon here and waits until it listens, no longer than `limit`.
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub(in crate::cli::bench) fn start(&self, limit: Duration) -> anyhow::Result<Running> {
        let mut serve = self.command();
        serve.arg("serve");
        for (name, value) in &self.flags {
            serve.arg("--set").arg(format!("{name}={value}"));
        }
        Running::begin(&mut serve, limit)
    }

    /// A command of this program that reads the settings made for it, and no others.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
            command.env_remove(name);
        }
        command.current_dir(&self.directory).env("TIDEGATE_CONFIG", "tidegate.toml");
        command.env("TIDEGATE_AUTH__JWT_SECRET", &self.secret);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A daemon that runs. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::cli::bench) struct Running {
    child: Child,
    pub(in crate::cli::bench) address: SocketAddr,
    /// From the start of its process until it listened.
    pub(in crate::cli::bench) took: Duration,
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
    pub(in crate::cli::bench) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop; [`Running::ended`] says when it has.
    ///
    /// # Errors
    /// When there is no such process.
    pub(in crate::cli::bench) fn ask_to_stop(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("the daemon cannot be told to stop")
    }

    /// Whether it has ended, and then how: `Some(true)` in good order.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub(in crate::cli::bench) fn ended(&mut self) -> anyhow::Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// Ends it as a crash would (`kill -9`).
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(in crate::cli::bench) fn crash(mut self) -> anyhow::Result<()> {
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

/// A running daemon in a place of its own. It ends, and its directory goes, when this is dropped.
#[derive(Debug)]
pub(in crate::cli::bench) struct Daemon {
    // Dropped in this order: first the process ends, then its directory goes.
    running: Running,
    _place: Place,
    pub(in crate::cli::bench) address: SocketAddr,
    /// A token with every role.
    pub(in crate::cli::bench) token: String,
}

impl Daemon {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub(in crate::cli::bench) fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with settings of its own, as for `--set`.
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub(in crate::cli::bench) fn start_with(flags: &[(&str, String)]) -> anyhow::Result<Self> {
        let place = Place::new(flags)?;
        let running = place.start(START)?;
        let (address, token) = (running.address, place.token.clone());
        Ok(Self { running, _place: place, address, token })
    }

    /// Its process.
    pub(in crate::cli::bench) fn pid(&self) -> u32 {
        self.running.pid()
    }
}

/// Resident memory of a process of this machine, in bytes.
pub(in crate::cli::bench) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Processor time of a process of this machine so far.
pub(in crate::cli::bench) fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; behind it the state is the third field, user and system time are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * TICK_MS))
}
