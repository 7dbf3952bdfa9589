//! The daemon: builds its parts in the order in which events flow, and takes them down in phases.
//!
//! Phases of a stop, each with a limit inside `server.shutdown_timeout`: take no more sockets and say "not ready"; tell the streams to go and come back; let
//! sources, pipelines, sinks and rooms work off what they have; write and close the log. What was acknowledged is kept whatever happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::{Bounds, Census, Child, Fault, Handler, Mailbox, Message, Supervisor, Window, ticker};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::audit::{Audit, AuditError};
use crate::auth::{Auth, AuthError};
use crate::edge::listen::{self, ListenError};
use crate::edge::server::{self, Server};
use crate::edge::tls::{Tls, TlsError};
use crate::edge::{self, Edge, Parts};
use crate::engine::connections::supervisor::{ConnectionSupervisor, Connections, Order};
use crate::engine::log_keeper::LogKeeper;
use crate::engine::pipelines::Pipelines;
use crate::engine::rooms::Rooms;
use crate::engine::rooms::keeper::RoomsKeeper;
use crate::engine::sinks::{Sinks, SinksError};
use crate::engine::sources::connections::{ConnectionsSource, Count};
use crate::engine::sources::generator::{self, GeneratorSource};
use crate::engine::sources::host::HostSource;
use crate::engine::sources::ingest::{self, Ingest, IngestSource};
use crate::engine::sources::sinks::SinksSource;
use crate::limits::Guards;
use crate::log::{Log, LogError};
use crate::metrics::exporter;
use crate::pipelines::{self, Definition};
use crate::settings::{Settings, Surface};

/// Bound of a mailbox that only ever holds a few orders.
const FEW: Bounds = Bounds { messages: 64, bytes: usize::MAX };
/// How often rooms and the log are looked after.
const KEEP_PERIOD: Duration = Duration::from_secs(1);
/// How often files of credentials are looked at; one that has changed is read at the second look.
const FILES_PERIOD: Duration = Duration::from_millis(500);
/// How often connections are looked at whose credential ends.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// How often the histograms' samples are brought together.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);
/// How often a stop looks whether the streams have gone.
const GOODBYE_LOOK: Duration = Duration::from_millis(5);

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somewhere it cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What it listens on cannot be served.
    #[error("the server cannot be started: {0}")]
    Serve(std::io::Error),
    /// Keys or secrets cannot be read or kept.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Pipelines are not as they should be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Pipelines(Vec<pipelines::Fault>),
    /// Sinks cannot be started.
    #[error(transparent)]
    Sinks(#[from] SinksError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An actor cannot be started.
    #[error("an actor cannot be started: {0}")]
    Actor(#[from] Fault),
}

/// A running daemon.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    /// The token made for it, where no key was given.
    pub token: Option<String>,
    settings: Arc<Settings>,
    edge: Edge,
    log: Log,
    server: Server,
    tls: Option<Tls>,
    connections: Mailbox<Order>,
    sources: Supervisor,
    pipelines: Supervisor,
    sinks: Supervisor,
    rooms: Supervisor,
    keepers: Supervisor,
}

impl App {
    /// Starts the daemon.
    ///
    /// # Errors
    /// Why it does not start; nothing runs then.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        exporter::install();
        let settings = Arc::new(settings);
        let tls = settings.server.tls.clone().map(|(cert, key)| Tls::open(cert, key)).transpose()?;
        let (listeners, address) = listen::bind(settings.server.listen, settings.server.unix.as_deref())?;
        let opening = Arc::clone(&settings);
        // Hashes the admin's password, which takes its time.
        let opened = tokio::task::spawn_blocking(move || Auth::open(&opening.auth)).await;
        let (auth, token) = opened.map_err(|panic| Fault::from(panic.to_string()))??;
        let definitions = read_pipelines(&settings).await?;
        let audit = Audit::open(settings.audit.file.as_deref(), settings.audit.refusals_per_second)?;
        let log = open_log(&settings).await?;
        let census = Census::default();
        let room_supervisor = Supervisor::start(&census).await?;
        let rooms = Rooms::new(Arc::clone(&settings), log.clone(), room_supervisor.clone());
        let pipeline_supervisor = Supervisor::start(&census).await?;
        let pipelines = Pipelines::new(rooms.clone(), settings.pipelines.clone(), pipeline_supervisor.clone());
        pipelines.become_these(definitions).await?;
        let sink_supervisor = Supervisor::start(&census).await?;
        let sinks = Sinks::start(rooms.clone(), &settings.sinks, &sink_supervisor).await?;
        let sources = Supervisor::start(&census).await?;
        let ingest = start_sources(&settings, &rooms, &sinks, &sources).await?;
        let limits = &settings.limits;
        let bounds = Bounds { messages: limits.mailbox_messages, bytes: limits.mailbox_bytes };
        let connections = Connections::new(census.clone(), bounds, limits.mailboxes_bytes, limits.rooms_per_connection);
        if settings.pipelines.builtin && settings.surfaces.enabled.contains(&Surface::Metrics) {
            let (own, shown) = (rooms.clone(), connections.clone());
            let count: Count = Arc::new(move || shown.count());
            let make = move || ConnectionsSource::new(own.clone(), Arc::clone(&count));
            spawn_ticked(&sources, "source connections", LOOK_PERIOD, make).await?;
        }
        let keepers = Supervisor::start(&census).await?;
        let guards = Guards::new(settings.limits.clone());
        let orders = start_keepers(&keepers, &rooms, &log, &connections, &auth).await?;
        start_upkeep(&auth, &guards, tls.clone());
        let edge = Edge::new(Parts {
            settings: Arc::clone(&settings),
            rooms,
            pipelines,
            sinks,
            ingest,
            connections,
            orders: orders.clone(),
            auth,
            guards,
            audit,
            census,
        });
        let api = edge::way_in::Api::new(edge.clone());
        let server =
            server::start(listeners, api, limits, edge.guards.clone(), tls.clone()).map_err(StartError::Serve)?;
        Ok(Self {
            address,
            token,
            settings,
            edge,
            log,
            server,
            tls,
            connections: orders,
            sources,
            pipelines: pipeline_supervisor,
            sinks: sink_supervisor,
            rooms: room_supervisor,
            keepers,
        })
    }

    /// Takes new settings, as far as they can change while the daemon runs.
    ///
    /// # Errors
    /// What is wrong with the credentials or the pipelines that they name; everything is as it was then.
    pub async fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let definitions = read_pipelines(&settings).await?;
        let (auth, settings) = (self.edge.auth.clone(), Arc::new(settings));
        let fresh = Arc::clone(&settings);
        let reloading = tokio::task::spawn_blocking(move || auth.reload(&fresh.auth)).await;
        reloading.map_err(|panic| Fault::from(panic.to_string()))??;
        if let Some(tls) = self.tls.clone() {
            let _ = tokio::task::spawn_blocking(move || tls.look_after_files()).await;
        }
        self.edge.reload(settings);
        self.edge.pipelines.become_these(definitions).await?;
        Ok(())
    }

    /// Whether its address speaks TLS.
    #[must_use]
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the edge holds, for what is said of it.
    #[must_use]
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Stops the daemon; `true` if everything ended in order and in time.
    pub async fn stop(self) -> bool {
        let deadline = Instant::now() + self.settings.server.shutdown_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.edge.stop();
        // A balancer that asks now and then gets to hear it before anybody is refused.
        tokio::time::sleep(self.settings.server.drain_wait.min(left() / 2)).await;
        self.edge.drain();
        let (reply, ended) = oneshot::channel();
        if self.connections.push(Order::Drain(reply)).is_ok()
            && let Ok(Ok(streams)) = tokio::time::timeout(left(), ended).await
        {
            tracing::info!(streams, "stopping: streams were told to come back later");
        }
        // Accepts nothing more, and ends when the streams and answers under way have ended, or when half the time is over.
        let served = self.server.stop(left() / 2).await;
        // WebSockets are out of the server's sight; each leaves the table when it has said goodbye.
        let goodbyes = Instant::now() + left() / 2;
        while self.edge.connections.count() > 0 && Instant::now() < goodbyes {
            tokio::time::sleep(GOODBYE_LOOK).await;
        }
        let sources = self.sources.stop(left() / 2).await;
        let pipelines = self.pipelines.stop(left() / 2).await;
        let sinks = self.sinks.stop(left() / 2).await;
        let rooms = self.rooms.stop(left() / 2).await;
        let keepers = self.keepers.stop(left() / 2).await;
        let (log, audit, limit) = (self.log, self.edge.audit.clone(), left().max(Duration::from_millis(100)));
        let closing = tokio::task::spawn_blocking(move || {
            let closed = log.close(limit);
            audit.close();
            closed
        });
        let closed = closing.await.unwrap_or(false);
        if !closed {
            tracing::error!("the log could not be closed in time: what was not acknowledged may be lost");
        }
        if let Some(path) = &self.settings.server.unix {
            // It is of no use to anybody; that it cannot be deleted hurts nobody.
            let _ = std::fs::remove_file(path);
        }
        served && sources && pipelines && sinks && rooms && keepers && closed
    }
}

/// Reads the pipelines' files.
async fn read_pipelines(settings: &Settings) -> Result<Vec<Definition>, StartError> {
    let (pipelines, surfaces) = (settings.pipelines.clone(), settings.surfaces.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let embedded = |name: &str| pipelines.builtin && surfaces.want(name);
        pipelines::set::load(pipelines.dir.as_deref(), pipelines.dir_needed, embedded, Some(&pipelines.values))
    });
    reading.await.map_err(|panic| Fault::from(panic.to_string()))?.map_err(StartError::Pipelines)
}

async fn open_log(settings: &Arc<Settings>) -> Result<Log, StartError> {
    let opening = Arc::clone(settings);
    let opened = tokio::task::spawn_blocking(move || Log::open(&opening.log, &opening.rooms)).await;
    let log = opened.map_err(|panic| Fault::from(panic.to_string()))??;
    if !log.was_clean() {
        tracing::warn!("the last stop was not in order: rooms number on from the clock, so no number comes back");
    }
    Ok(log)
}

async fn start_sources(
    settings: &Settings,
    rooms: &Rooms,
    sinks: &Sinks,
    supervisor: &Supervisor,
) -> Result<Ingest, StartError> {
    let limits = &settings.limits;
    let (mailbox, _) = Mailbox::new(Bounds { messages: limits.source_messages, bytes: limits.source_bytes });
    let own = rooms.clone();
    supervisor
        .spawn(Child::new("source ingest", mailbox.clone(), ingest::WINDOW, move || IngestSource::new(own.clone())))
        .await?;
    if settings.host.enabled {
        let own = rooms.clone();
        spawn_ticked(supervisor, "source host", settings.host.interval, move || HostSource::new(own.clone())).await?;
    }
    if settings.generator.enabled {
        let (own, wanted) = (rooms.clone(), settings.generator.clone());
        let period = Duration::from_millis(generator::PERIOD_MS);
        spawn_ticked(supervisor, "source generator", period, move || GeneratorSource::new(own.clone(), wanted.clone()))
            .await?;
    }
    let (own, shown, period) = (rooms.clone(), sinks.clone(), settings.sinks.store.stats_interval);
    spawn_ticked(supervisor, "source sinks", period, move || SinksSource::new(own.clone(), shown.clone())).await?;
    Ok(Ingest::new(mailbox))
}

async fn start_keepers(
    supervisor: &Supervisor,
    rooms: &Rooms,
    log: &Log,
    connections: &Connections,
    auth: &Auth,
) -> Result<Mailbox<Order>, StartError> {
    let (own_rooms, own_log, own_connections) = (rooms.clone(), log.clone(), connections.clone());
    spawn_ticked(supervisor, "keeper of the rooms", KEEP_PERIOD, move || RoomsKeeper::new(own_rooms.clone())).await?;
    let keeper =
        spawn_ticked(supervisor, "keeper of the log", KEEP_PERIOD, move || LogKeeper::new(own_log.clone())).await?;
    log.on_roll(move || keeper.tick());
    let own_auth = auth.clone();
    let make = move || ConnectionSupervisor::new(own_connections.clone(), own_auth.clone());
    spawn_ticked(supervisor, "supervisor of the connections", LOOK_PERIOD, make).await
}

/// What is looked after now and then: histograms, rates, files of credentials, key sets.
fn start_upkeep(auth: &Auth, guards: &Guards, tls: Option<Tls>) {
    let guards = guards.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
        loop {
            ticks.tick().await;
            exporter::upkeep();
            guards.forget();
        }
    });
    let files = auth.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(FILES_PERIOD);
        loop {
            ticks.tick().await;
            let (auth, tls) = (files.clone(), tls.clone());
            let look = move || {
                auth.look_after_files();
                if let Some(tls) = tls {
                    tls.look_after_files();
                }
            };
            // It does not panic; if it did, the next look is as good.
            let _ = tokio::task::spawn_blocking(look).await;
        }
    });
    // Apart, because a key server that does not answer holds up nothing else.
    let sets = auth.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(KEEP_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            sets.look_after_key_sets().await;
        }
    });
}

/// Starts an actor that is woken by its period.
async fn spawn_ticked<H, F>(
    supervisor: &Supervisor,
    name: &str,
    period: Duration,
    make: F,
) -> Result<Mailbox<H::Message>, StartError>
where
    H: Handler,
    H::Message: Message,
    F: Fn() -> H + Send + Sync + 'static,
{
    let (mailbox, _) = Mailbox::new(FEW);
    supervisor.spawn(Child::new(name, mailbox.clone(), Window::ALL, make)).await?;
    ticker::every(period, &mailbox);
    Ok(mailbox)
}
