//! The settings of sinks, read and checked.

use std::sync::Arc;
use std::time::Duration;

use super::auth::Secret;
use super::load::{Fault, Values};
use crate::event::{Pattern, RoomName};

/// Where sinks write, and all of them.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Sinks {
    pub store: Store,
    /// By name, those that are switched off too.
    pub sinks: Vec<Sink>,
}

impl Sinks {
    /// The sinks for which the log keeps events beyond their rooms' retention until they are stored, with their rooms. Without a database the log is the store, and its retention that of
    /// the store.
    pub(super) fn holders(&self) -> impl Iterator<Item = (Arc<str>, Vec<Pattern>)> {
        let hold = self.store.keep_unstored && self.store.database_url.is_some();
        self.sinks
            .iter()
            .filter(move |sink| hold && sink.enabled)
            .map(|sink| (sink.name.as_str().into(), sink.rooms.clone()))
    }
}

/// The store that all sinks write to.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Store {
    /// None: the log is read instead.
    pub database_url: Option<Secret>,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    pub retry_max: Duration,
    pub stop_timeout: Duration,
    pub pool: u32,
    /// None: for ever.
    pub retention: Option<Duration>,
    /// None: never.
    pub compress_after: Option<Duration>,
    pub keep_unstored: bool,
    pub stats_interval: Duration,
    pub mailbox_messages: usize,
    pub mailbox_bytes: usize,
}

/// One sink.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Sink {
    pub name: String,
    pub rooms: Vec<Pattern>,
    pub batch_events: usize,
    pub batch_wait: Duration,
    pub batch_bytes: usize,
    pub enabled: bool,
}

/// Reads them; what is wrong is told.
pub(super) fn read(v: &Values, faults: &mut Vec<Fault>) -> Sinks {
    let some = |key: &str| Some(v.time(key)).filter(|time| !time.is_zero());
    let database_url = v.text_if_given("sink.database_url");
    if database_url.as_ref().is_some_and(|url| !url.starts_with("postgres://") && !url.starts_with("postgresql://")) {
        // Without the value: there may be a password in it.
        faults.push(Fault::Together(
            "sink.database_url: expected an address that begins with postgres://, or nothing".into(),
        ));
    }
    let store = Store {
        database_url: database_url.map(Secret::new),
        connect_timeout: v.time("sink.connect_timeout"),
        statement_timeout: v.time("sink.statement_timeout"),
        retry_max: v.time("sink.retry_max"),
        stop_timeout: v.time("sink.stop_timeout"),
        pool: u32::try_from(v.number("sink.pool")).unwrap_or(u32::MAX),
        retention: some("sink.retention"),
        compress_after: some("sink.compress_after"),
        keep_unstored: v.flag("sink.keep_unstored"),
        stats_interval: v.time("sink.stats_interval"),
        mailbox_messages: v.length("sink.mailbox_messages"),
        mailbox_bytes: v.length("sink.mailbox_bytes"),
    };
    let sinks = v.names("sinks.").into_iter().filter(|name| name != "*").map(|name| sink(v, faults, name)).collect();
    Sinks { store, sinks }
}

fn sink(v: &Values, faults: &mut Vec<Fault>, name: String) -> Sink {
    let key = |what: &str| format!("sinks.{name}.{what}");
    // It stands in names of rooms.
    if let Err(error) = RoomName::parse(&format!("dead-letter:sink:{name}")) {
        faults.push(Fault::Together(format!("sinks.{name}: this is no name for a sink: {error}")));
    }
    let mut rooms = Vec::new();
    for text in v.list(&key("rooms")) {
        match Pattern::parse(&text) {
            Ok(pattern) => rooms.push(pattern),
            Err(error) => faults.push(Fault::Together(format!("{}: {text:?}: {error}", key("rooms")))),
        }
    }
    let enabled = v.flag(&key("enabled"));
    if enabled && rooms.is_empty() {
        faults.push(Fault::Together(format!("{}: which rooms? It has none, and is enabled", key("rooms"))));
    }
    Sink {
        rooms,
        batch_events: v.length(&key("batch_events")),
        batch_wait: v.time(&key("batch_wait")),
        batch_bytes: v.length(&key("batch_bytes")),
        enabled,
        name,
    }
}
