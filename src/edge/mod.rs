//! The edge: the only part that knows HTTP. In come requests, out go the engine's answers in their dialects. Computes nothing itself.
//!
//! [`server`] accepts sockets and bounds them; [`way_in`] is what every request passes, `native` lists the routes; `auth` asks for a credential first; `stream` finds the transport for one URL, served by `ws` (on `websocket`), `sse`
//! and `poll`; `dialects` are the wire shapes; `surfaces` speak existing dashboards' languages; [`problem`] is how errors look.

mod answer;
mod auth;
mod body;
mod caller;
mod connections;
mod contract;
mod dialects;
mod history;
pub mod listen;
mod login;
#[doc(hidden)]
pub mod measured;
mod native;
mod openapi;
mod page;
mod params;
mod pipelines;
mod poll;
mod probes;
pub mod problem;
mod publish;
mod rooms;
pub mod server;
mod sinks;
mod socket;
mod sse;
mod stream;
mod surfaces;
pub mod tls;
pub mod way_in;
mod websocket;
mod wellformed;
pub mod ws;

#[doc(hidden)]
pub use surfaces::wells::socketio::is_payload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use tidegate_actors::{Census, Mailbox};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::auth::Auth;
use crate::engine::connections::supervisor::{Connections, Order};
use crate::engine::pipelines::Pipelines;
use crate::engine::rooms::Rooms;
use crate::engine::sinks::Sinks;
use crate::engine::sources::ingest::Ingest;
use crate::limits::Guards;
use crate::settings::Settings;

/// What every route may use. Clones share it.
#[derive(Debug, Clone)]
pub struct Edge(Arc<Shared>);

/// The parts that [`Edge`] shares.
#[derive(Debug)]
pub struct Shared {
    settings: ArcSwap<Settings>,
    /// The rooms.
    pub rooms: Rooms,
    /// What works on them.
    pub pipelines: Pipelines,
    /// What keeps events outside of the log.
    pub sinks: Sinks,
    /// Where publishes go.
    pub ingest: Ingest,
    /// The streams.
    pub connections: Connections,
    /// What is to be done to streams.
    pub orders: Mailbox<Order>,
    /// Who may come in.
    pub auth: Auth,
    /// How much one client may take.
    pub guards: Guards,
    /// Where admin calls and refusals are written down.
    pub audit: Audit,
    /// All actors.
    pub census: Census,
    /// When the daemon started.
    pub started: Instant,
    /// The same in milliseconds since 1970.
    pub started_ms: u64,
    /// Connections of the surface analytics.
    analytics: surfaces::analytics::Desk,
    /// Bytes of publish bodies that may still come in, in KiB.
    bodies: Arc<Semaphore>,
    stopping: AtomicBool,
    /// What has no end of its own ends by it.
    draining: CancellationToken,
}

/// What an [`Edge`] is made of.
#[derive(Debug)]
#[allow(missing_docs, reason = "as in Shared")]
pub struct Parts {
    pub settings: Arc<Settings>,
    pub rooms: Rooms,
    pub pipelines: Pipelines,
    pub sinks: Sinks,
    pub ingest: Ingest,
    pub connections: Connections,
    pub orders: Mailbox<Order>,
    pub auth: Auth,
    pub guards: Guards,
    pub audit: Audit,
    pub census: Census,
}

impl std::ops::Deref for Edge {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Edge {
    /// An edge over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { settings, rooms, pipelines, sinks, ingest, connections, orders, auth, guards, audit, census } =
            parts;
        let bodies = Arc::new(Semaphore::new((settings.limits.bodies_bytes >> 10).clamp(1, Semaphore::MAX_PERMITS)));
        let (started, stopping) = (Instant::now(), AtomicBool::new(false));
        let (settings, started_ms) = (ArcSwap::new(settings), crate::clock::now_ms());
        let shared = Shared {
            settings,
            rooms,
            pipelines,
            sinks,
            ingest,
            connections,
            orders,
            auth,
            guards,
            audit,
            census,
            started,
            started_ms,
            analytics: surfaces::analytics::Desk::default(),
            bodies,
            stopping,
            draining: CancellationToken::new(),
        };
        Self(Arc::new(shared))
    }

    /// The settings as they hold now.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings.load_full()
    }

    /// From now on these settings hold.
    pub fn reload(&self, settings: Arc<Settings>) {
        self.0.guards.reload(settings.limits.clone());
        self.0.audit.reload(settings.audit.refusals_per_second);
        self.0.settings.store(settings);
    }

    /// Whether the daemon's actors answer, within a time in which they would if all were well.
    pub async fn answers(&self) -> bool {
        let (reply, answer) = tokio::sync::oneshot::channel();
        // No connection has this number; that is an answer too.
        self.0.orders.push(Order::Kick(0, reply)).is_ok()
            && tokio::time::timeout(std::time::Duration::from_secs(5), answer).await.is_ok_and(|answer| answer.is_ok())
    }

    /// From now on the daemon says that it is not ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the daemon is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// From now on requests that have no end of their own are ended; streams are told by their supervisor.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Whether they are.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until they are.
    pub(crate) async fn drained(&self) {
        self.draining.cancelled().await;
    }
}
