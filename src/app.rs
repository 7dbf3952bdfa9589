//! The daemon: builds its parts in the order in which events flow, and takes them down in phases.
//!
//! Phases of a stop, each with a limit inside `server.shutdown_timeout`: take no more sockets and say "not ready"; tell the streams to go and come back; let
//! sources and rooms work off what they have; write and close the log. What was acknowledged is kept whatever happens.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use tidegate_actors::{Bounds, Census, Child, Fault, Handler, Mailbox, Message, Supervisor, Window, ticker};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::auth::{Keys, TokenFileError};
use crate::edge::{self, Edge};
use crate::engine::connections::supervisor::{ConnectionSupervisor, Connections, Order};
use crate::engine::log_keeper::LogKeeper;
use crate::engine::rooms::Rooms;
use crate::engine::rooms::keeper::RoomsKeeper;
use crate::engine::sources::generator::{self, GeneratorSource};
use crate::engine::sources::host::HostSource;
use crate::engine::sources::ingest::{self, Ingest, IngestSource};
use crate::log::{Log, LogError};
use crate::metrics::exporter;
use crate::settings::Settings;

/// Bound of a mailbox that only ever holds a few orders.
const FEW: Bounds = Bounds { messages: 64, bytes: usize::MAX };
/// How often rooms and the log are looked after.
const KEEP_PERIOD: Duration = Duration::from_secs(1);
/// How often the histograms' samples are brought together.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);
/// How often a stop looks whether the streams have gone.
const GOODBYE_LOOK: Duration = Duration::from_millis(5);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; set server.listen to another address, or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The token cannot be kept.
    #[error(transparent)]
    Token(#[from] TokenFileError),
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
    handle: Handle<SocketAddr>,
    server: JoinHandle<std::io::Result<()>>,
    connections: Mailbox<Order>,
    sources: Supervisor,
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
        let (listener, address) = listen(settings.server.listen)?;
        let (keys, token) = Keys::open(&settings.auth.api_keys, &settings.auth.token_file)?;
        let log = open_log(&settings).await?;
        let census = Census::default();
        let room_supervisor = Supervisor::start(&census).await?;
        let rooms = Rooms::new(Arc::clone(&settings), log.clone(), room_supervisor.clone());
        let sources = Supervisor::start(&census).await?;
        let ingest = start_sources(&settings, &rooms, &sources).await?;
        let limits = &settings.limits;
        let bounds = Bounds { messages: limits.mailbox_messages, bytes: limits.mailbox_bytes };
        let connections = Connections::new(census.clone(), bounds, limits.rooms_per_connection);
        let keepers = Supervisor::start(&census).await?;
        let orders = start_keepers(&keepers, &rooms, &log, &connections).await?;
        let edge = Edge::new(Arc::clone(&settings), rooms, ingest, connections, keys, census);
        let handle = Handle::new();
        let serving = {
            let (router, handle, limits) =
                (edge::native::router(edge.clone()), handle.clone(), settings.limits.clone());
            async move { edge::server::serve(listener, router, handle, &limits).await }
        };
        let server = tokio::spawn(serving);
        Ok(Self {
            address,
            token,
            settings,
            edge,
            log,
            handle,
            server,
            connections: orders,
            sources,
            rooms: room_supervisor,
            keepers,
        })
    }

    /// Stops the daemon; `true` if everything ended in order and in time.
    pub async fn stop(self) -> bool {
        let deadline = Instant::now() + self.settings.server.shutdown_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.edge.stop();
        self.handle.graceful_shutdown(Some(left() / 2));
        let (reply, ended) = oneshot::channel();
        if self.connections.push(Order::Drain(reply)).is_ok()
            && let Ok(Ok(streams)) = tokio::time::timeout(left(), ended).await
        {
            tracing::info!(streams, "stopping: streams were told to come back later");
        }
        // WebSockets are out of the server's sight; each leaves the table when it has said goodbye.
        let goodbyes = Instant::now() + left() / 2;
        while self.edge.connections.count() > 0 && Instant::now() < goodbyes {
            tokio::time::sleep(GOODBYE_LOOK).await;
        }
        // Ends when the streams and answers under way have ended, or when half the time is over.
        let mut server = self.server;
        let served = tokio::time::timeout(left(), &mut server).await.is_ok();
        server.abort();
        let sources = self.sources.stop(left() / 2).await;
        let rooms = self.rooms.stop(left() / 2).await;
        let keepers = self.keepers.stop(left() / 2).await;
        let (log, limit) = (self.log, left().max(Duration::from_millis(100)));
        let closed = tokio::task::spawn_blocking(move || log.close(limit)).await.unwrap_or(false);
        if !closed {
            tracing::error!("the log could not be closed in time: what was not acknowledged may be lost");
        }
        served && sources && rooms && keepers && closed
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bind = || -> std::io::Result<(TcpListener, SocketAddr)> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        // So that a daemon that was just stopped can be started again.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener: TcpListener = socket.into();
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|source| StartError::Listen { address, source })
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

async fn start_sources(settings: &Settings, rooms: &Rooms, supervisor: &Supervisor) -> Result<Ingest, StartError> {
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
    Ok(Ingest::new(mailbox))
}

async fn start_keepers(
    supervisor: &Supervisor,
    rooms: &Rooms,
    log: &Log,
    connections: &Connections,
) -> Result<Mailbox<Order>, StartError> {
    let (own_rooms, own_log, own_connections) = (rooms.clone(), log.clone(), connections.clone());
    spawn_ticked(supervisor, "keeper of the rooms", KEEP_PERIOD, move || RoomsKeeper::new(own_rooms.clone())).await?;
    let keeper =
        spawn_ticked(supervisor, "keeper of the log", KEEP_PERIOD, move || LogKeeper::new(own_log.clone())).await?;
    log.on_roll(move || keeper.tick());
    let (orders, _) = Mailbox::new(FEW);
    let make = move || ConnectionSupervisor::new(own_connections.clone());
    supervisor.spawn(Child::new("supervisor of the connections", orders.clone(), Window::ALL, make)).await?;
    tokio::spawn(async {
        let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
        loop {
            ticks.tick().await;
            exporter::upkeep();
        }
    });
    Ok(orders)
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
