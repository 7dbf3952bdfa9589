//! The edge: the only part that knows HTTP. In come requests, out go the engine's answers in their dialects. Computes nothing itself.
//!
//! [`server`] accepts sockets and bounds them; [`native`] lists the routes; `auth` asks for a credential first; `stream` finds the transport for one URL, served by `ws`, `sse`
//! and `poll`; `dialects` are the wire shapes; [`problem`] is how errors look.

mod answer;
mod auth;
mod body;
mod dialects;
mod history;
pub mod native;
mod page;
mod params;
mod poll;
mod probes;
pub mod problem;
mod publish;
mod rooms;
pub mod server;
mod sse;
mod stream;
mod ws;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_actors::Census;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::auth::Keys;
use crate::engine::connections::supervisor::Connections;
use crate::engine::rooms::Rooms;
use crate::engine::sources::ingest::Ingest;
use crate::settings::Settings;

/// What every route may use. Clones share it.
#[derive(Debug, Clone)]
pub struct Edge(Arc<Shared>);

/// The parts that [`Edge`] shares.
#[derive(Debug)]
pub struct Shared {
    /// The settings.
    pub settings: Arc<Settings>,
    /// The rooms.
    pub rooms: Rooms,
    /// Where publishes go.
    pub ingest: Ingest,
    /// The streams.
    pub connections: Connections,
    /// Who may come in.
    pub keys: Keys,
    /// All actors.
    pub census: Census,
    /// When the daemon started.
    pub started: Instant,
    /// Bytes of publish bodies that may still come in, in KiB.
    bodies: Arc<Semaphore>,
    stopping: AtomicBool,
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
    pub fn new(
        settings: Arc<Settings>,
        rooms: Rooms,
        ingest: Ingest,
        connections: Connections,
        keys: Keys,
        census: Census,
    ) -> Self {
        let bodies = Arc::new(Semaphore::new((settings.limits.bodies_bytes >> 10).clamp(1, Semaphore::MAX_PERMITS)));
        let (started, stopping) = (Instant::now(), AtomicBool::new(false));
        Self(Arc::new(Shared { settings, rooms, ingest, connections, keys, census, started, bodies, stopping }))
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
}
