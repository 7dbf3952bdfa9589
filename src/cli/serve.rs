//! `tidegate serve`: runs the daemon until it is told to stop.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::{SettingsArguments, complain};
use crate::app::App;
use crate::settings::{Logging, Settings};

pub(super) fn run(arguments: &SettingsArguments) -> ExitCode {
    let settings = match arguments.load() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    start_logging(&settings.logging);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(settings));
    // What still blocks a thread does not hold up the end.
    runtime.shutdown_background();
    code
}

async fn serve(settings: Settings) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot listen for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let app = match App::start(settings).await {
        Ok(app) => app,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    tracing::info!("listening on {}", app.address);
    greet(app.address, app.token.as_deref());
    signals.next().await;
    let told = Instant::now();
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        in_order = app.stop() => {
            tracing::info!(in_order, "stopped");
            if in_order { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        () = signals.next_after(told + SAME_SIGNAL) => {
            complain(&"stopped at once");
            ExitCode::FAILURE
        }
    }
}

/// A signal that comes so soon after another is the same one, sent to the process and to its group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// The signals that tell the daemon to stop; a closed terminal is one of them.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    async fn next_after(&mut self, time: Instant) {
        loop {
            self.next().await;
            if Instant::now() > time {
                return;
            }
        }
    }
}

/// Prints where to look. The token goes to standard output only, never into the log.
fn greet(address: SocketAddr, token: Option<&str>) {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(host, address.port());
    let line = match token {
        Some(token) => format!("Open http://{address}/?token={token}"),
        None => format!("Open http://{address}/ and sign in with one of the keys of auth.api_keys"),
    };
    // Somebody who closed standard output does not want it.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn start_logging(logging: &Logging) {
    // ractor says little that its users need; its spans cost on every poll.
    let filter = tracing_subscriber::EnvFilter::new(format!("{},ractor=warn,sled=warn", logging.level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    // A second start in one process keeps the first one's log.
    let _ = match logging.format.as_str() {
        "json" => lines.json().try_init(),
        "text" => lines.with_ansi(terminal).try_init(),
        _ if terminal => lines.with_ansi(true).try_init(),
        _ => lines.with_ansi(false).try_init(),
    };
}
