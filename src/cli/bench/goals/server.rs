//! Who is measured: something that can be started ([`Subject`]) and then runs ([`Server`]). The floor and tidegate are here.

use std::fmt::Debug;
use std::rc::Rc;

use anyhow::{Context, bail};

use super::Bench;
use crate::cli::bench::daemon::Daemon;
use crate::cli::bench::http::{Speech, Target};
use crate::cli::bench::process::Process;

/// What a run can be made of.
pub(super) trait Subject: Debug {
    /// Starts one, on the server's cores.
    ///
    /// # Errors
    /// When it does not start.
    fn start(&self, bench: &Bench) -> anyhow::Result<Server>;
}

/// The bare broadcaster.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Floor {
    /// So many of a room's last messages it keeps.
    pub(super) keep: u64,
}

/// tidegate, with settings beside those for all.
#[derive(Debug, Clone, Default)]
pub(super) struct Tidegate {
    pub(super) settings: Vec<(&'static str, String)>,
}

impl Tidegate {
    pub(super) fn with(settings: &[(&'static str, &str)]) -> Self {
        Self { settings: settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect() }
    }
}

/// One that runs. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    held: Held,
    speech: Rc<dyn Speech>,
}

#[derive(Debug)]
enum Held {
    Daemon(Box<Daemon>),
    Process(Process),
}

impl Server {
    /// Any process, and how it is spoken to.
    pub(super) fn new(process: Process, speech: Rc<dyn Speech>) -> Self {
        Self { held: Held::Process(process), speech }
    }

    pub(super) fn process(&self) -> &Process {
        match &self.held {
            Held::Daemon(daemon) => daemon.process(),
            Held::Process(process) => process,
        }
    }

    pub(super) fn speech(&self) -> &dyn Speech {
        &*self.speech
    }

    /// As [`Self::speech`], for tasks.
    pub(super) fn shared_speech(&self) -> Rc<dyn Speech> {
        Rc::clone(&self.speech)
    }

    /// A server's own way of being spoken to, with a token of its own for each subject; the floor takes any.
    pub(super) fn target(&self, subject: &str) -> anyhow::Result<Target> {
        match &self.held {
            Held::Daemon(daemon) => Ok(Target { token: daemon.token(subject)?, ..daemon.target() }),
            Held::Process(process) => Ok(Target { address: process.address(), token: subject.to_owned() }),
        }
    }
}

impl Subject for Floor {
    fn start(&self, bench: &Bench) -> anyhow::Result<Server> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let mut command = std::process::Command::new(program);
        command.args(["bench", "floor", "--keep", &self.keep.to_string()]);
        let process = Process::start(command, None, Some(bench.cores))?;
        let speech = Rc::new(Target { address: process.address(), token: "none".to_owned() });
        Ok(Server::new(process, speech))
    }
}

impl Subject for Tidegate {
    fn start(&self, bench: &Bench) -> anyhow::Result<Server> {
        if bench.stop.is_cancelled() {
            bail!("interrupted");
        }
        let daemon = Daemon::start(&bench.dir, &self.settings, Some(bench.cores))?;
        let speech = Rc::new(daemon.target());
        Ok(Server { held: Held::Daemon(Box::new(daemon)), speech })
    }
}
