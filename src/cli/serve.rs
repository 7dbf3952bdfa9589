//! `tidegate serve`: runs the daemon until it is told to stop.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

use super::{SettingsArguments, complain};
use crate::app::{App, StartError};
use crate::audit::Entry;
use crate::edge::Edge;
use crate::metrics::record;
use crate::settings::reload::{Reloaded, Running};
use crate::settings::{Logging, Settings};
use crate::traces;

pub(super) fn run(arguments: &SettingsArguments) -> ExitCode {
    let (running, settings) = match arguments.load_running() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    // Whoever speaks TLS in this process does it with the same cryptography; a second start in one process keeps the first one's.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let level = start_logging(&settings.logging);
    if let Err(error) = traces::start(settings.tracing.otlp_endpoint.as_deref(), settings.tracing.sample_percent) {
        complain(&error);
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(running, settings, level));
    traces::stop();
    // What still blocks a thread does not hold up the end.
    runtime.shutdown_background();
    code
}

async fn serve(mut running: Running, settings: Settings, level: Level) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot listen for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let app = match App::start(settings).await {
        Ok(app) => app,
        Err(StartError::Pipelines(faults)) => {
            faults.iter().for_each(|fault| complain(fault));
            // What is written wrong is for whoever wrote it, as in the settings.
            return ExitCode::from(2);
        }
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    tracing::info!("listening on {}", app.address);
    greet(app.address, app.token.as_deref(), app.speaks_tls());
    tell_systemd(&[NotifyState::Ready]);
    let watchdog = tokio::spawn(feed_watchdog(app.edge().clone()));
    while signals.next().await == Told::Reload {
        reload(&mut running, &app, &level).await;
    }
    watchdog.abort();
    tell_systemd(&[NotifyState::Stopping]);
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

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

/// The signals that tell the daemon to stop or to read its settings again.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?]))
    }

    async fn next(&mut self) -> Told {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => Told::Stop,
            _ = interrupt.recv() => Told::Stop,
            _ = hangup.recv() => Told::Reload,
        }
    }

    async fn next_after(&mut self, time: Instant) {
        loop {
            if self.next().await == Told::Stop && Instant::now() > time {
                return;
            }
        }
    }
}

/// Reads the settings again and says what holds now, what waits for a restart, or what is wrong.
async fn reload(running: &mut Running, app: &App, level: &Level) {
    let monotonic = NotifyState::monotonic_usec_now();
    tell_systemd(&[NotifyState::Reloading]);
    tell_systemd(&monotonic.into_iter().collect::<Vec<_>>());
    let outcome = try_reload(running, app, level).await;
    record::reloaded(if outcome.is_ok() { "ok" } else { "fault" });
    let (status, reason) = match outcome {
        Ok(Reloaded { changed, waiting, .. }) => {
            let (changed, needs_restart) = (changed.join(" "), waiting.join(" "));
            tracing::info!(changed, needs_restart, "settings reloaded");
            (200, format!("changed: {changed}; needs a restart: {needs_restart}"))
        }
        Err(why) => {
            for fault in why.lines() {
                tracing::error!(fault, "settings not reloaded: everything is as it was");
            }
            (422, why)
        }
    };
    app.edge().audit.note(Entry { event: "reload", status: Some(status), reason: Some(reason), ..Entry::default() });
    tell_systemd(&[NotifyState::Ready]);
}

async fn try_reload(running: &mut Running, app: &App, level: &Level) -> Result<Reloaded, String> {
    let before = running.clone();
    let reloaded = running.reload().map_err(|faults| faults.to_string())?;
    if let Err(error) = app.reload(reloaded.settings.clone()).await {
        *running = before;
        return Err(error.to_string());
    }
    level.set(&reloaded.settings.logging.level);
    Ok(reloaded)
}

/// Where there is no systemd, nobody is told.
fn tell_systemd(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(false, states);
}

/// Tells systemd that the daemon lives, as often as it wants to hear it, and only while the daemon's actors answer.
async fn feed_watchdog(edge: Edge) {
    let mut period_us = 0;
    if !sd_notify::watchdog_enabled(false, &mut period_us) {
        return;
    }
    let mut ticks = tokio::time::interval(Duration::from_micros(period_us / 3).max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        if edge.answers().await {
            tell_systemd(&[NotifyState::Watchdog]);
        }
    }
}

/// Prints where to look. The token goes to standard output only, never into the log.
fn greet(address: SocketAddr, token: Option<&str>, tls: bool) {
    let scheme = if tls { "https" } else { "http" };
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(host, address.port());
    let line = match token {
        Some(token) => format!("Open {scheme}://{address}/?token={token}"),
        None => format!("Open {scheme}://{address}/ and sign in"),
    };
    // Somebody who closed standard output does not want it.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// ractor says little that its users need, and its spans cost on every poll; others write down what clients send, and no secret belongs into the log.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::new(format!(
        "{level},ractor=warn,sled=warn,h2=warn,hyper=warn,rustls=warn,tungstenite=info,tokio_tungstenite=info"
    ))
}

/// What the log says, to be changed while the daemon runs.
struct Level(Option<Box<dyn Fn(EnvFilter) + Send + Sync>>);

impl Level {
    fn set(&self, level: &str) {
        if let Some(set) = &self.0 {
            set(filter(level));
        }
    }
}

fn start_logging(logging: &Logging) -> Level {
    let (lines, first) = (tracing_subscriber::fmt().with_writer(std::io::stderr), filter(&logging.level));
    let terminal = std::io::stderr().is_terminal();
    // A second start in one process keeps the first one's log.
    match logging.format.as_str() {
        "json" => {
            let lines = lines.json().with_env_filter(first).with_filter_reloading();
            let handle = lines.reload_handle();
            let _ = lines.try_init();
            Level(Some(Box::new(move |filter| drop(handle.reload(filter)))))
        }
        _ => {
            let lines = lines.with_ansi(terminal).with_env_filter(first).with_filter_reloading();
            let handle = lines.reload_handle();
            let _ = lines.try_init();
            Level(Some(Box::new(move |filter| drop(handle.reload(filter)))))
        }
    }
}
