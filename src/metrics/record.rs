//! The only place that counts. Handles are made once and kept: looking one up by name costs ten times what counting does.
//!
//! Call these once for a batch, not once for an event.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::names;
use crate::event::Ack;

macro_rules! kept {
    ($($handle:ident: $kind:ident = $make:expr;)*) => {
        $(static $handle: LazyLock<$kind> = LazyLock::new(|| $make);)*

        /// Makes what has no labels or known ones, so that it is there with 0 before anything happens.
        pub(super) fn begin() {
            $(LazyLock::force(&$handle);)*
            for meter in [&WEBSOCKET, &SSE, &POLL, &SOCKETIO] {
                LazyLock::force(meter);
            }
        }
    };
}

kept! {
    LOG_EVENTS: Counter = counter!(names::LOG_EVENTS);
    LOG_COMMIT: Histogram = histogram!(names::LOG_COMMIT);
    LOG_FAULTS: Counter = counter!(names::LOG_FAULTS);
    LOG_EXPELLED: Counter = counter!(names::LOG_EXPELLED);
    SOCKETS: Gauge = gauge!(names::SOCKETS);
    ABANDONED: Counter = counter!(names::ABANDONED);
    REPLAY: Histogram = histogram!(names::REPLAY_SECONDS);
    AUDIT_DROPPED: Counter = counter!(names::AUDIT_DROPPED);
    WEBSOCKET_MESSAGES: Counter = counter!(names::WEBSOCKET_MESSAGES);
    WEBSOCKET_ERRORS: Counter = counter!(names::WEBSOCKET_ERRORS);
    PUBLISHES: Counter = counter!(names::PUBLISHES);
    PUBLISHES_SECONDS: Histogram = histogram!(names::PUBLISHES_SECONDS);
    PUBLISH_MEMORY: Histogram = histogram!(names::PUBLISH_SECONDS, "ack" => "memory");
    PUBLISH_LOGGED: Histogram = histogram!(names::PUBLISH_SECONDS, "ack" => "logged");
    PUBLISH_SYNCED: Histogram = histogram!(names::PUBLISH_SECONDS, "ack" => "synced");
}

/// Namespaces that have series of their own; clients choose the names, so there must be an end to it.
const NAMESPACES_MAX: usize = 100;
static NAMESPACES: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// A namespace as a label: its name, or `other` once there are [`NAMESPACES_MAX`] of them.
fn label(namespace: &str) -> String {
    let mut known = NAMESPACES.lock();
    if known.contains(namespace) {
        return namespace.to_owned();
    }
    if known.len() >= NAMESPACES_MAX {
        return "other".to_owned();
    }
    known.insert(namespace.to_owned());
    namespace.to_owned()
}

/// A length as a counter takes it.
fn wide(count: usize) -> u64 {
    count as u64
}

/// A count as a gauge takes it.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; above 2^53 nobody counts singly")]
fn float(count: u64) -> f64 {
    count as f64
}

/// One group commit.
pub fn log_commit(events: usize, took: Duration) {
    LOG_EVENTS.increment(wide(events));
    LOG_COMMIT.record(took);
}

/// A try to write that failed.
pub fn log_fault() {
    LOG_FAULTS.increment(1);
}

/// Events that retention let go.
pub fn log_expired(namespace: &str, events: u64) {
    counter!(names::LOG_EXPIRED, "namespace" => label(namespace)).increment(events);
}

/// Events that the log's budget let go.
pub fn log_expelled(events: u64) {
    LOG_EXPELLED.increment(events);
}

/// A publish that was refused.
pub fn refused(reason: &'static str) {
    counter!(names::REFUSED, "reason" => reason).increment(1);
}

/// A publish that was answered.
pub fn published(ack: Ack, took: Duration) {
    match ack {
        Ack::Memory => &PUBLISH_MEMORY,
        Ack::Logged => &PUBLISH_LOGGED,
        Ack::Synced => &PUBLISH_SYNCED,
    }
    .record(took);
    PUBLISHES.increment(1);
    PUBLISHES_SECONDS.record(took);
}

/// A read of the history from the disk.
pub fn replay(took: Duration) {
    REPLAY.record(took);
}

/// A request that was refused.
pub fn request_refused(reason: &'static str) {
    counter!(names::REQUESTS_REFUSED, "reason" => reason).increment(1);
}

/// A login, and what came of it.
pub fn login(outcome: &'static str) {
    counter!(names::LOGINS, "outcome" => outcome).increment(1);
}

/// A line of the audit log that is lost.
pub fn audit_dropped() {
    AUDIT_DROPPED.increment(1);
}

/// The settings were read again.
pub fn reloaded(outcome: &'static str) {
    counter!(names::RELOADS, "outcome" => outcome).increment(1);
}

/// Due events whose reader has left.
pub fn abandoned(events: u64) {
    ABANDONED.increment(events);
}

/// Messages sent to a WebSocket client.
pub fn websocket_messages(messages: usize) {
    WEBSOCKET_MESSAGES.increment(wide(messages));
}

/// An error message for a WebSocket client.
pub fn websocket_error() {
    WEBSOCKET_ERRORS.increment(1);
}

/// Events given up for one reader.
pub fn shed(namespace: &str, lane: &'static str, reason: &'static str, events: u64) {
    counter!(names::SHED, "namespace" => label(namespace), "lane" => lane, "reason" => reason).increment(events);
}

/// A connection that was refused when it was opened.
pub fn connection_refused(reason: &'static str) {
    counter!(names::CONNECTIONS_REFUSED, "reason" => reason).increment(1);
}

/// A connection that the daemon ended.
pub fn connection_cut(reason: &'static str) {
    counter!(names::CONNECTIONS_CUT, "reason" => reason).increment(1);
}

/// A socket opened.
pub fn socket_opened() {
    SOCKETS.increment(1.0);
}

/// A socket closed.
pub fn socket_closed() {
    SOCKETS.decrement(1.0);
}

/// What a room counts.
#[derive(Clone)]
pub struct RoomMeter {
    published: Counter,
    due: Counter,
    duplicates: Counter,
}

impl std::fmt::Debug for RoomMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RoomMeter")
    }
}

impl RoomMeter {
    /// The meter of a namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        let namespace = label(namespace);
        Self {
            published: counter!(names::PUBLISHED, "namespace" => namespace.clone()),
            due: counter!(names::DUE, "namespace" => namespace.clone()),
            duplicates: counter!(names::DUPLICATES, "namespace" => namespace),
        }
    }

    /// What readers have a right to: events, times readers.
    pub fn due(&self, deliveries: usize) {
        self.due.increment(wide(deliveries));
    }

    /// Events numbered, and repetitions among what came in.
    pub fn published(&self, events: usize, duplicates: usize) {
        self.published.increment(wide(events));
        if duplicates > 0 {
            self.duplicates.increment(wide(duplicates));
        }
    }
}

/// What a transport's connections count.
pub struct TransportMeter {
    /// The transport's name.
    pub name: &'static str,
    delivered: Counter,
    replayed: Counter,
    filtered: Counter,
    missed: Counter,
    conflated: Counter,
    latency: Histogram,
    caught_up: Counter,
    gaps: Counter,
    connections: Gauge,
    /// The same under the name that a contract gives it.
    contract: Option<Gauge>,
}

impl std::fmt::Debug for TransportMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TransportMeter").field(&self.name).finish()
    }
}

impl TransportMeter {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            delivered: counter!(names::DELIVERED, "transport" => name),
            replayed: counter!(names::REPLAYED, "transport" => name),
            filtered: counter!(names::FILTERED, "transport" => name),
            missed: counter!(names::MISSED, "transport" => name),
            latency: histogram!(names::DELIVERY_SECONDS, "transport" => name),
            conflated: counter!(names::CONFLATED, "transport" => name),
            caught_up: counter!(names::CAUGHT_UP, "transport" => name),
            gaps: counter!(names::GAPS, "transport" => name),
            connections: gauge!(names::CONNECTIONS, "transport" => name),
            contract: match name {
                "websocket" | "socketio" => Some(gauge!(names::WEBSOCKETS)),
                "sse" => Some(gauge!(names::SSES)),
                _ => None,
            },
        }
    }

    /// Events handed to a socket.
    pub fn delivered(&self, events: u64) {
        self.delivered.increment(events);
    }

    /// Events from before a reader joined.
    pub fn replayed(&self, events: u64) {
        self.replayed.increment(events);
    }

    /// Events that their reader did not want.
    pub fn filtered(&self, events: u64) {
        self.filtered.increment(events);
    }

    /// Events that were not held any more.
    pub fn missed(&self, events: u64) {
        self.missed.increment(events);
    }

    /// Due events whose reader has left.
    pub fn abandoned(&self, events: u64) {
        abandoned(events);
    }

    /// The time of one delivery, in microseconds.
    pub fn latency(&self, took_us: u64) {
        self.latency.record(Duration::from_micros(took_us));
    }

    /// Events that gave way to newer ones.
    pub fn conflated(&self, events: u64) {
        self.conflated.increment(events);
    }

    /// A reader fell behind.
    pub fn caught_up(&self) {
        self.caught_up.increment(1);
    }

    /// A reader was told of a gap.
    pub fn gap(&self) {
        self.gaps.increment(1);
    }

    /// A stream opened.
    pub fn opened(&self) {
        self.connections.increment(1.0);
        if let Some(contract) = &self.contract {
            contract.increment(1.0);
        }
    }

    /// A stream closed.
    pub fn closed(&self) {
        self.connections.decrement(1.0);
        if let Some(contract) = &self.contract {
            contract.decrement(1.0);
        }
    }
}

/// The meters of the native transports.
pub static WEBSOCKET: LazyLock<TransportMeter> = LazyLock::new(|| TransportMeter::new("websocket"));
/// Server-Sent Events.
pub static SSE: LazyLock<TransportMeter> = LazyLock::new(|| TransportMeter::new("sse"));
/// Socket.IO, whatever carries it.
pub static SOCKETIO: LazyLock<TransportMeter> = LazyLock::new(|| TransportMeter::new("socketio"));
/// Long-poll.
pub static POLL: LazyLock<TransportMeter> = LazyLock::new(|| TransportMeter::new("poll"));

/// No transport: connections whose client is away and may come back.
pub static PARKED: LazyLock<TransportMeter> = LazyLock::new(|| TransportMeter::new("parked"));

/// Pipelines, which read rooms as connections do.
pub static PIPELINE: LazyLock<TransportMeter> = LazyLock::new(|| TransportMeter::new("pipeline"));

/// Sinks, which read rooms in the same way.
pub static SINK: LazyLock<TransportMeter> = LazyLock::new(|| TransportMeter::new("sink"));

/// What a sink counts.
pub struct SinkMeter {
    events: Counter,
    batches: Counter,
    refused: Counter,
    failures: Counter,
    waiting: Gauge,
    took: Histogram,
    lost: Counter,
}

impl std::fmt::Debug for SinkMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SinkMeter")
    }
}

impl SinkMeter {
    /// The meter of a sink of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let label = || name.to_owned();
        Self {
            events: counter!(names::SINK_EVENTS, "sink" => label()),
            batches: counter!(names::SINK_BATCHES, "sink" => label()),
            refused: counter!(names::SINK_REFUSED, "sink" => label()),
            failures: counter!(names::SINK_FAILURES, "sink" => label()),
            waiting: gauge!(names::SINK_WAITING, "sink" => label()),
            took: histogram!(names::SINK_WRITE_SECONDS, "sink" => label()),
            lost: counter!(names::SINK_LOST, "sink" => label()),
        }
    }

    /// A batch is written: so many of its events are new, so many were refused.
    pub fn stored(&self, events: u64, refused: u64, took: Duration) {
        self.events.increment(events);
        self.refused.increment(refused);
        self.batches.increment(u64::from(events > 0));
        self.took.record(took);
    }

    /// A try to write failed.
    pub fn failed(&self) {
        self.failures.increment(1);
    }

    /// Events are gone that were not stored.
    pub fn lost(&self, events: u64) {
        self.lost.increment(events);
    }

    /// How many events wait at this moment.
    pub fn waiting(&self, events: u64) {
        self.waiting.set(float(events));
    }
}

/// What a pipeline counts.
pub struct PipelineMeter {
    name: String,
    taken: Counter,
    published: Counter,
    missed: Counter,
    lost: Counter,
}

impl std::fmt::Debug for PipelineMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PipelineMeter").field(&self.name).finish()
    }
}

impl PipelineMeter {
    /// The meter of a pipeline of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let label = || name.to_owned();
        Self {
            name: name.to_owned(),
            taken: counter!(names::PIPELINE_IN, "pipeline" => label()),
            published: counter!(names::PIPELINE_OUT, "pipeline" => label()),
            missed: counter!(names::PIPELINE_MISSED, "pipeline" => label()),
            lost: counter!(names::PIPELINE_LOST, "pipeline" => label()),
        }
    }

    /// Events that it has worked on.
    pub fn taken(&self, events: u64) {
        self.taken.increment(events);
    }

    /// Events that it has published.
    pub fn published(&self, events: u64) {
        self.published.increment(events);
    }

    /// Times that events were not held any more.
    pub fn missed(&self) {
        self.missed.increment(1);
    }

    /// Events that no room could take.
    pub fn lost(&self, events: u64) {
        self.lost.increment(events);
    }

    /// An event that it could not work on.
    pub fn rejected(&self, step: &str, reason: &'static str) {
        counter!(names::PIPELINE_REJECTED, "pipeline" => self.name.clone(), "step" => step.to_owned(), "reason" => reason)
            .increment(1);
    }

    /// It is no more: a figure that stayed as it was would be taken for one of today.
    pub fn gone(&self) {
        for name in [
            names::PIPELINE_WORKS,
            names::PIPELINE_KEYS,
            names::PIPELINE_WAITING,
            names::PIPELINE_STATE_BYTES,
            names::PIPELINE_BEHIND,
        ] {
            gauge!(name, "pipeline" => self.name.clone()).set(f64::NAN);
        }
    }

    /// How it is at this moment.
    pub fn now(&self, works: bool, keys: u64, waiting: u64, state_bytes: u64, behind_ms: u64) {
        let label = || self.name.clone();
        gauge!(names::PIPELINE_WORKS, "pipeline" => label()).set(if works { 1.0 } else { 0.0 });
        gauge!(names::PIPELINE_KEYS, "pipeline" => label()).set(float(keys));
        gauge!(names::PIPELINE_WAITING, "pipeline" => label()).set(float(waiting));
        gauge!(names::PIPELINE_STATE_BYTES, "pipeline" => label()).set(float(state_bytes));
        gauge!(names::PIPELINE_BEHIND, "pipeline" => label()).set(float(behind_ms) / 1000.0);
    }
}

/// Figures that are looked up when somebody asks.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "as the metrics of these names")]
pub struct Snapshot {
    pub rooms: usize,
    pub tails_bytes: usize,
    pub log_bytes: u64,
    pub log_generations: usize,
    pub actors: u64,
    pub actors_failed: u64,
    pub actors_restarted: u64,
    pub events_waiting: usize,
    pub mailboxes_bytes: usize,
    pub slow_connections: usize,
    pub ready: bool,
    pub started_ms: u64,
}

/// Takes in the figures of the moment.
pub fn snapshot(now: &Snapshot) {
    gauge!(names::ROOMS).set(float(wide(now.rooms)));
    gauge!(names::TAIL_BYTES).set(float(wide(now.tails_bytes)));
    gauge!(names::LOG_BYTES).set(float(now.log_bytes));
    gauge!(names::LOG_GENERATIONS).set(float(wide(now.log_generations)));
    gauge!(names::ACTORS).set(float(now.actors));
    counter!(names::ACTORS_FAILED).absolute(now.actors_failed);
    counter!(names::ACTORS_RESTARTED).absolute(now.actors_restarted);
    gauge!(names::WAITING).set(float(wide(now.events_waiting)));
    gauge!(names::MAILBOXES_BYTES).set(float(wide(now.mailboxes_bytes)));
    gauge!(names::READY).set(if now.ready { 1.0 } else { 0.0 });
    gauge!(names::STARTED).set(float(now.started_ms / 1000));
    gauge!(names::SLOW).set(float(wide(now.slow_connections)));
}
