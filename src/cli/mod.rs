//! The command line. In come arguments, out goes an exit code: 0 in order, 1 something failed, 2 the arguments or settings are wrong.
//!
//! Each command has a file; [`client`] is what those share that speak to a daemon.

pub mod bench;
mod check;
pub mod client;
mod health;
mod key;
mod publish;
mod replay;
mod serve;
mod tail;
mod test;
mod token;
mod top;
mod user;
mod why;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::settings::reload::Running;
use crate::settings::{Settings, Sources};

/// A real-time telemetry engine: rooms with replay, over WebSocket, Server-Sent Events and polling.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    args_conflicts_with_subcommands = true,
    about,
    after_help = "Without a command it serves. Every setting: tidegate check --defaults."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: SettingsArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (what happens without a command, too)
    Serve(SettingsArguments),
    /// Read the settings and pipelines and say what is wrong with them
    Check(check::CheckArguments),
    /// Run the cases that stand beside pipelines
    Test(test::TestArguments),
    /// Send what rooms hold through a pipeline, without publishing anything
    Replay(replay::ReplayArguments),
    /// Publish events to a room
    Publish(publish::PublishArguments),
    /// Follow rooms and print their events
    Tail(tail::TailArguments),
    /// Watch the daemon and its connections, live
    Top(top::TopArguments),
    /// Say in words what a connection waits for
    Why(why::WhyArguments),
    /// Make tokens, and look at one
    Token(token::TokenArguments),
    /// Make, list and revoke API keys
    Key(key::KeyArguments),
    /// Hash a password for the settings
    User(user::UserArguments),
    /// Ask a daemon with these settings whether it is ready
    Health(health::HealthArguments),
    /// Measure a daemon: fan-out, replay, ingest, dashboards
    Bench(bench::BenchArguments),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where settings come from.
#[derive(Debug, Clone, Default, Args)]
struct SettingsArguments {
    /// A settings file (TOML)
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// The address to listen on; short for --set server.listen=ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// One setting, such as heartbeat.interval=10s; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as heartbeat.interval=10s")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl SettingsArguments {
    /// Reads the settings, or says on standard error what is wrong.
    fn load(&self) -> Result<Settings, ExitCode> {
        self.load_running().map(|(_, settings)| settings)
    }

    /// Reads the settings, so that they can be read again.
    fn load_running(&self) -> Result<(Running, Settings), ExitCode> {
        let mut flags = self.set.clone();
        flags.extend(self.listen.clone().map(|address| ("server.listen".to_owned(), address)));
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let sources = Sources { file: self.config.clone(), environment: environment.collect(), flags };
        for name in sources.passed_over() {
            complain(&format!(
                "{name} in the environment is no setting (those have two underscores between levels, TIDEGATE_SERVER__LISTEN); passed over"
            ));
        }
        Running::load(sources).map_err(|faults| {
            for fault in &faults.0 {
                complain(fault);
            }
            ExitCode::from(2)
        })
    }
}

/// Says something on standard error. Where even that is gone, there is nobody to tell.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "tidegate: {what}");
}

/// Runs the command line.
#[must_use]
pub fn run() -> ExitCode {
    let Arguments { command, settings } = Arguments::parse();
    match command {
        None => serve::run(&settings),
        Some(Command::Serve(own)) => serve::run(&own),
        Some(Command::Check(arguments)) => check::run(&arguments),
        Some(Command::Test(arguments)) => test::run(&arguments),
        Some(Command::Replay(arguments)) => client::run(replay::run(arguments)),
        Some(Command::Publish(arguments)) => client::run(publish::run(arguments)),
        Some(Command::Tail(arguments)) => client::run(tail::run(arguments)),
        Some(Command::Top(arguments)) => client::run(top::run(arguments)),
        Some(Command::Why(arguments)) => client::run(why::run(arguments)),
        Some(Command::Token(arguments)) => token::run(&arguments),
        Some(Command::Key(arguments)) => key::run(&arguments),
        Some(Command::User(arguments)) => user::run(&arguments),
        Some(Command::Health(arguments)) => health::run(&arguments),
        Some(Command::Bench(arguments)) => client::run(bench::run(arguments)),
        Some(Command::Completions { shell }) => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "tidegate", &mut text);
            // A reader that wants no more has what it wants.
            let _ = std::io::stdout().write_all(&text);
            ExitCode::SUCCESS
        }
    }
}
