//! Sinks: what keeps events outside of the log, one actor each. In come events of the rooms that it follows, out go batches to a store; exactly once, whatever is killed.
//!
//! [`Sinks`] is the table of them, and where is read what they have stored. `actor` is a sink at work, `batch` what it gathers, `writer` where it goes, `books` what it writes down of
//! itself, `dead_letters` where what is refused goes, `status` how it is. Without a database nothing is copied: `embedded` reads the same from the log. What a store is, is not known here.

mod actor;
mod batch;
mod books;
mod dead_letters;
mod embedded;
mod keeper;
mod status;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::{Bounds, Child, Fault, Mailbox, Supervisor, Window, ticker};
use tokio::time::Instant;

pub use status::Status;

use crate::engine::rooms::Rooms;
use crate::event::{Pattern, RoomName};
use crate::settings;
use crate::store::postgres::Postgres;
use crate::store::{StoreError, Stored};
use status::Shared;
use writer::Writer;

/// Sinks get ticks only.
const TICKS: Bounds = Bounds { messages: 1, bytes: usize::MAX };
/// How often a sink looks whether a batch is due.
const LOOK: Duration = Duration::from_millis(25);
/// How often it is looked whether the store is to be looked after.
const KEEP: Duration = Duration::from_secs(1);
/// How long a start waits until the sinks follow their rooms; one whose database is away comes when it can.
const BEGIN_WAIT: Duration = Duration::from_secs(2);

/// All sinks. Clones share them.
#[derive(Clone)]
pub struct Sinks(Arc<Table>);

struct Table {
    rooms: Rooms,
    writer: Writer,
    sinks: BTreeMap<String, Arc<Shared>>,
}

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sinks").field("names", &self.names()).finish_non_exhaustive()
    }
}

/// Why sinks cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SinksError {
    /// Where they should write is not understood.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An actor cannot be started.
    #[error("a sink cannot be started: {0}")]
    Actor(#[from] Fault),
}

/// Whether a room is for what sinks themselves publish as refused.
fn is_own(room: &RoomName) -> bool {
    room.as_str().starts_with(dead_letters::PREFIX)
}

impl Sinks {
    /// Starts the sinks that are enabled, under `supervisor`, and waits a moment until they follow their rooms. A database that is away is no reason not to start.
    ///
    /// # Errors
    /// An address of a database that is not understood, or an actor that cannot be started.
    pub async fn start(rooms: Rooms, settings: &settings::Sinks, supervisor: &Supervisor) -> Result<Self, SinksError> {
        let writer = match &settings.store.database_url {
            Some(url) => Writer::Postgres(Postgres::new(url.reveal(), &settings.store)?),
            None => Writer::Embedded,
        };
        let mut sinks = BTreeMap::new();
        for sink in settings.sinks.iter().filter(|sink| sink.enabled) {
            let shared = Arc::new(Shared::new(&sink.name, &sink.rooms));
            let (ticks, _) = Mailbox::new(TICKS);
            let make = {
                let (rooms, sink, store, writer) =
                    (rooms.clone(), sink.clone(), settings.store.clone(), writer.clone());
                let (census, ticks, shared) = (supervisor.census().clone(), ticks.clone(), Arc::clone(&shared));
                move || {
                    let (census, ticks, shared) = (census.clone(), ticks.clone(), Arc::clone(&shared));
                    actor::SinkActor::new(rooms.clone(), &sink, &store, writer.clone(), census, ticks, shared)
                }
            };
            let failed = Arc::clone(&shared);
            let child =
                Child::new(format!("sink {}", sink.name), ticks.clone(), Window::ALL, make).gave_up(move |_| {
                    failed.set_failing(Some("it failed too often and was given up; restart the daemon".to_owned()));
                });
            supervisor.spawn(child).await?;
            ticker::every(LOOK.min(sink.batch_wait), &ticks);
            ticks.tick();
            sinks.insert(sink.name.clone(), shared);
        }
        if let Writer::Postgres(postgres) = &writer {
            let (ticks, _) = Mailbox::new(TICKS);
            let postgres = postgres.clone();
            let make = move || keeper::StoreKeeper::new(postgres.clone());
            supervisor.spawn(Child::new("keeper of the store", ticks.clone(), Window::ALL, make)).await?;
            ticker::every(KEEP, &ticks);
        }
        let deadline = Instant::now() + BEGIN_WAIT;
        for shared in sinks.values() {
            let _ = tokio::time::timeout_at(deadline, shared.wait_begun()).await;
        }
        Ok(Self(Arc::new(Table { rooms, writer, sinks })))
    }

    /// The names of the sinks that run, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.sinks.keys().cloned().collect()
    }

    /// The rooms that a sink follows.
    #[must_use]
    pub fn rooms(&self, name: &str) -> Option<Vec<Pattern>> {
        self.0.sinks.get(name).map(|shared| shared.patterns.clone())
    }

    /// Where they write: `postgres` or `embedded`.
    #[must_use]
    pub fn store(&self) -> &'static str {
        match self.0.writer {
            Writer::Embedded => "embedded",
            Writer::Postgres(_) => "postgres",
        }
    }

    /// How a sink is; `None` if there is none of this name.
    #[must_use]
    pub fn status(&self, name: &str) -> Option<Status> {
        self.0.sinks.get(name).map(|shared| shared.status(&self.0.rooms))
    }

    /// Hands the figures of the moment to the metrics.
    pub fn show(&self) {
        for shared in self.0.sinks.values() {
            shared.meter.waiting(shared.status(&self.0.rooms).waiting);
        }
    }

    /// The newest events of these rooms that a sink has, newest first.
    ///
    /// # Errors
    /// No such sink, or why its store cannot be read now.
    pub async fn newest(&self, sink: &str, rooms: &Pattern, limit: usize) -> Result<Vec<Stored>, StoreError> {
        if !self.0.sinks.contains_key(sink) {
            return Err(StoreError::NoSink(sink.to_owned()));
        }
        match &self.0.writer {
            Writer::Embedded => embedded::newest(&self.0.rooms, rooms, limit).await,
            Writer::Postgres(postgres) => postgres.newest(sink, rooms, limit).await,
        }
    }
}
