//! The daemon's settings. In come a file, the environment and flags; out goes one [`Settings`] in which everything has its type, or every fault at once.
//!
//! [`schema`] is the table of all settings and the place to add one; `load` brings the sources together; [`value`] reads single values.
//! Nothing here looks at the file system beyond the settings file. A value is never changed: reading the settings again makes another ([`reload`]).

pub mod auth;
pub mod load;
pub mod reload;
pub mod schema;
pub mod sinks;
pub mod surfaces;
pub mod value;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use load::Values;
pub use load::{Fault, Faults, Sources};
use tidegate_actors::OnFull;
pub use tidegate_actors::Policy;

pub use self::auth::Auth;
pub use self::sinks::Sinks;
pub use self::surfaces::{Surface, Surfaces, Wells};
use crate::event::{Ack, Pattern, RoomName};

/// Where pipelines are looked for if the settings do not say; that there is no such directory is no fault.
const PIPELINES_DIR: &str = "config/pipelines";

/// A WebSocket message where `limits.max_message_bytes` is switched off: what fits into memory without harm.
const MESSAGE_BYTES_MOST: usize = 64 << 20;

/// All settings; `config/default.toml` says what each means.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each field is a setting, and the schema says what it means")]
pub struct Settings {
    pub server: Server,
    pub log: Log,
    pub auth: Auth,
    pub rooms: Rooms,
    pub limits: Limits,
    pub heartbeat: Heartbeat,
    pub cors_origins: Vec<String>,
    pub surfaces: Surfaces,
    pub host: Host,
    pub generator: Generator,
    pub pipelines: Pipelines,
    pub sinks: Sinks,
    pub metrics_public: bool,
    pub audit: Audit,
    pub tracing: Tracing,
    pub logging: Logging,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Server {
    pub listen: SocketAddr,
    pub shutdown_timeout: Duration,
    pub drain_wait: Duration,
    pub reconnect_spread: Duration,
    pub unix: Option<PathBuf>,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Log {
    pub dir: PathBuf,
    pub ack: Ack,
    pub generation_bytes: u64,
    pub generation_age: Duration,
    pub bytes_max: u64,
    pub flush_interval: Duration,
    pub queue_events: usize,
    pub append_timeout: Duration,
    pub sync_timeout: Duration,
    pub readers: usize,
    pub read_cache_bytes: usize,
    pub tails_bytes: usize,
}

/// The settings of one namespace's rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Namespace {
    pub retention: Retention,
    pub policy: Policy,
    pub wait: Duration,
    pub durable: bool,
    pub tail_events: usize,
    pub tail_bytes: usize,
    pub idempotency_window: Duration,
    pub idempotency_ids: usize,
    pub idle_after: Duration,
}

/// What a room keeps; `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Retention {
    pub count: Option<u64>,
    pub age: Option<Duration>,
    pub bytes: Option<u64>,
}

/// The settings of all namespaces.
#[derive(Debug, Clone)]
pub struct Rooms {
    default: Arc<Namespace>,
    named: HashMap<String, Arc<Namespace>>,
    /// For whom events are kept beyond their room's retention until they are done with them, and of which rooms.
    holders: Arc<[(Arc<str>, Vec<Pattern>)]>,
}

impl Rooms {
    /// The settings of a namespace.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Arc<Namespace> {
        Arc::clone(self.named.get(&namespace.to_lowercase()).unwrap_or(&self.default))
    }

    /// For whom a room's events are kept beyond its retention until they are done with them.
    #[must_use]
    pub fn holders_of(&self, room: &RoomName) -> Vec<Arc<str>> {
        let wanting = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(room));
        self.holders.iter().filter(|(_, patterns)| wanting(patterns)).map(|(name, _)| Arc::clone(name)).collect()
    }
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Limits {
    pub connections: usize,
    pub trusted_proxies: Vec<IpNet>,
    /// Whether who comes by the Unix socket is a trusted proxy.
    pub trusted_unix: bool,
    pub per_ip_sockets: usize,
    pub per_ip_connections: usize,
    pub per_ip_connections_per_hour: u32,
    pub per_ip_logins_per_minute: u32,
    pub per_user_connections: usize,
    pub per_user_publishes_per_second: u32,
    pub rooms_per_publisher: usize,
    pub per_connection_messages_per_second: u32,
    pub per_connection_messages_per_minute: u32,
    pub mailbox_messages: usize,
    pub mailbox_bytes: usize,
    pub mailboxes_bytes: usize,
    pub room_messages: usize,
    pub room_bytes: usize,
    pub source_messages: usize,
    pub source_bytes: usize,
    pub event_bytes: usize,
    pub body_bytes: usize,
    pub bodies_bytes: usize,
    pub json_depth: usize,
    pub body_events: usize,
    pub message_bytes: usize,
    pub rooms_per_connection: usize,
    pub rooms: usize,
    pub cursor_bytes: usize,
    pub header_bytes: usize,
    pub http2_streams: u32,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub send_buffer: usize,
    pub poll_wait_max: Duration,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Heartbeat {
    pub interval: Duration,
    pub timeout: Duration,
    pub comment: Duration,
    pub retry: Duration,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Host {
    pub enabled: bool,
    pub interval: Duration,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Generator {
    pub enabled: bool,
    pub rooms: u64,
    pub rate: u64,
    pub bytes: usize,
    pub seed: u64,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Pipelines {
    pub dir: Option<PathBuf>,
    /// Whether the directory was named, and so has to be there.
    pub dir_needed: bool,
    pub builtin: bool,
    pub tick: Duration,
    pub snapshot_interval: Duration,
    pub stop_timeout: Duration,
    pub mailbox_messages: usize,
    pub mailbox_bytes: usize,
    /// Settings that their files may name, as they are written there.
    pub values: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Audit {
    pub file: Option<PathBuf>,
    pub refusals_per_second: u64,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Tracing {
    pub otlp_endpoint: Option<String>,
    pub sample_percent: u64,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Logging {
    pub level: String,
    pub format: String,
}

impl Settings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn load(sources: &Sources) -> Result<Self, Faults> {
        let (values, mut faults) = sources.gather();
        let settings = Self::from_values(&values, &mut faults);
        match settings {
            Some(settings) if faults.is_empty() => Ok(settings),
            _ => Err(Faults(faults)),
        }
    }

    fn from_values(v: &Values, faults: &mut Vec<Fault>) -> Option<Self> {
        let auth = auth::read(v, faults);
        let sinks = sinks::read(v, faults);
        let limits = limits(v, faults);
        if limits.body_bytes > limits.bodies_bytes {
            faults.push(Fault::Together(
                "limits.body_bytes is larger than limits.bodies_bytes: such a body could not be taken in".into(),
            ));
        }
        check_level(&v.text("logging.level"), faults);
        let cors_origins = v.list("cors.origins");
        for origin in cors_origins.iter().filter(|origin| !is_origin(origin)) {
            faults.push(Fault::Together(format!(
                "cors.origins: {origin:?} is no origin; expected such as \"https://dash.example.org\", without a path; * is not allowed, because credentials are"
            )));
        }
        Some(Self {
            server: Server {
                listen: v.text("server.listen").parse().ok()?,
                shutdown_timeout: v.time("server.shutdown_timeout"),
                drain_wait: v.time("server.drain_wait"),
                reconnect_spread: v.time("server.reconnect_spread"),
                unix: v.text_if_given("server.unix").map(PathBuf::from),
                tls: tls(v, faults),
            },
            log: log(v)?,
            auth,
            rooms: rooms(v, &sinks),
            limits,
            heartbeat: Heartbeat {
                interval: v.time("heartbeat.interval"),
                timeout: v.time("heartbeat.timeout"),
                comment: v.time("heartbeat.comment"),
                retry: v.time("heartbeat.retry"),
            },
            cors_origins,
            surfaces: surfaces::read(v, faults),
            host: Host { enabled: v.flag("sources.host.enabled"), interval: v.time("sources.host.interval") },
            generator: Generator {
                enabled: v.flag("sources.generator.enabled"),
                rooms: v.number("sources.generator.rooms"),
                rate: v.number("sources.generator.rate"),
                bytes: v.length("sources.generator.bytes"),
                seed: v.number("sources.generator.seed"),
            },
            pipelines: Pipelines {
                dir: v.text_if_given("pipelines.dir").map(PathBuf::from),
                dir_needed: v.text("pipelines.dir") != PIPELINES_DIR,
                builtin: v.flag("pipelines.builtin"),
                tick: v.time("pipelines.tick"),
                snapshot_interval: v.time("pipelines.snapshot_interval"),
                stop_timeout: v.time("pipelines.stop_timeout"),
                mailbox_messages: v.length("pipelines.mailbox_messages"),
                mailbox_bytes: v.length("pipelines.mailbox_bytes"),
                values: schema::IN_PIPELINES.iter().map(|key| ((*key).to_owned(), v.written(key))).collect(),
            },
            sinks,
            metrics_public: v.flag("metrics.public"),
            audit: Audit {
                file: v.text_if_given("audit.file").map(PathBuf::from),
                refusals_per_second: v.number("audit.refusals_per_second"),
            },
            tracing: Tracing {
                otlp_endpoint: v.text_if_given("tracing.otlp_endpoint"),
                sample_percent: v.number("tracing.sample_percent"),
            },
            logging: Logging { level: v.text("logging.level"), format: v.text("logging.format") },
        })
    }
}

/// A bare word must be a level: as a filter it would name a part of the program that does not exist, and silence everything.
fn check_level(level: &str, faults: &mut Vec<Fault>) {
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    let bare = !level.contains(['=', ',']);
    if level.parse::<tracing_subscriber::EnvFilter>().is_err()
        || (bare && !known.contains(&level.to_lowercase().as_str()))
    {
        let known = known.join(", ");
        faults.push(Fault::Together(format!("logging.level = {level:?} is not allowed; expected one of {known}, or a filter such as \"info,tidegate::log=debug\"")));
    }
}

/// `scheme://host` or `scheme://host:port`.
fn is_origin(text: &str) -> bool {
    if text == "null" {
        // What a page says that was opened as a file.
        return true;
    }
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
    })
}

fn log(v: &Values) -> Option<Log> {
    Some(Log {
        dir: v.text("log.dir").into(),
        ack: Ack::parse(&v.text("log.ack"))?,
        generation_bytes: v.number("log.generation_bytes"),
        generation_age: v.time("log.generation_age"),
        bytes_max: v.number("log.bytes_max"),
        flush_interval: v.time("log.flush_interval"),
        queue_events: v.length("log.queue_events"),
        append_timeout: v.time("log.append_timeout"),
        sync_timeout: v.time("log.sync_timeout"),
        readers: v.length("log.readers"),
        read_cache_bytes: v.length("log.read_cache_bytes"),
        tails_bytes: v.length("log.tails_bytes"),
    })
}

fn rooms(v: &Values, sinks: &Sinks) -> Rooms {
    let namespace = |name: &str| {
        let key = |setting: &str| format!("rooms.{name}.{setting}");
        let on_full = match v.text(&key("on_full")).as_str() {
            "displace" => OnFull::Displace,
            "reject" => OnFull::Reject,
            "wait" => OnFull::Wait,
            _ => OnFull::CatchUp,
        };
        Arc::new(Namespace {
            retention: Retention {
                count: Some(v.number(&key("retention_count"))).filter(|count| *count > 0),
                age: Some(v.time(&key("retention_age"))).filter(|age| !age.is_zero()),
                bytes: Some(v.number(&key("retention_bytes"))).filter(|bytes| *bytes > 0),
            },
            policy: Policy { on_full, conflate: v.flag(&key("conflate")) },
            wait: v.time(&key("wait")),
            durable: v.flag(&key("durable")),
            tail_events: v.length(&key("tail_events")),
            tail_bytes: v.length(&key("tail_bytes")),
            idempotency_window: v.time(&key("idempotency_window")),
            idempotency_ids: v.length(&key("idempotency_ids")),
            idle_after: v.time(&key("idle_after")),
        })
    };
    let named = v.namespaces().into_iter().map(|name| (name.to_lowercase(), namespace(&name))).collect();
    Rooms { default: namespace(schema::DEFAULT_NAMESPACE), named, holders: sinks.holders().collect() }
}

/// Certificate and key; one without the other is a fault.
fn tls(v: &Values, faults: &mut Vec<Fault>) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = (v.text_if_given("server.tls_cert"), v.text_if_given("server.tls_key"));
    if cert.is_some() != key.is_some() {
        faults.push(Fault::Together("server.tls_cert and server.tls_key: one needs the other".into()));
    }
    Some((cert?.into(), key?.into()))
}

/// Networks of proxies; a single address is a network of one.
fn proxies(v: &Values, faults: &mut Vec<Fault>) -> (Vec<IpNet>, bool) {
    let (mut networks, mut unix) = (Vec::new(), false);
    for text in v.list("limits.trusted_proxies") {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        match text.parse::<IpNet>().or(address) {
            Ok(network) => networks.push(network),
            Err(_) if text == "unix" => unix = true,
            Err(_) => faults.push(Fault::Together(format!(
                "limits.trusted_proxies: {text:?} is not allowed; expected an address, a network such as 10.0.0.0/8, or unix"
            ))),
        }
    }
    (networks, unix)
}

fn limits(v: &Values, faults: &mut Vec<Fault>) -> Limits {
    let (trusted_proxies, trusted_unix) = proxies(v, faults);
    let rate = |key: &str| u32::try_from(v.number(key)).unwrap_or(u32::MAX);
    Limits {
        connections: v.length("limits.connections"),
        trusted_proxies,
        trusted_unix,
        per_ip_sockets: v.length("limits.per_ip_sockets"),
        per_ip_connections: v.length("limits.per_ip_connections"),
        per_ip_connections_per_hour: rate("limits.per_ip_connections_per_hour"),
        per_ip_logins_per_minute: rate("limits.per_ip_logins_per_minute"),
        per_user_connections: v.length("limits.per_user_connections"),
        per_user_publishes_per_second: rate("limits.per_user_publishes_per_second"),
        rooms_per_publisher: v.length("limits.rooms_per_publisher"),
        per_connection_messages_per_second: rate("limits.per_connection_messages_per_second"),
        per_connection_messages_per_minute: rate("limits.per_connection_messages_per_minute"),
        mailboxes_bytes: v.length("limits.mailboxes_bytes"),
        json_depth: v.length("limits.json_depth"),
        header_bytes: v.length("limits.header_bytes"),
        http2_streams: rate("limits.http2_streams"),
        mailbox_messages: v.length("limits.mailbox_messages"),
        mailbox_bytes: v.length("limits.mailbox_bytes"),
        room_messages: v.length("limits.room_messages"),
        room_bytes: v.length("limits.room_bytes"),
        source_messages: v.length("limits.source_messages"),
        source_bytes: v.length("limits.source_bytes"),
        event_bytes: v.length("limits.event_bytes"),
        body_bytes: v.length("limits.body_bytes"),
        bodies_bytes: v.length("limits.bodies_bytes"),
        body_events: v.length("limits.body_events"),
        message_bytes: Some(v.length("limits.max_message_bytes"))
            .filter(|bytes| *bytes > 0)
            .unwrap_or(MESSAGE_BYTES_MOST),
        rooms_per_connection: v.length("limits.rooms_per_connection"),
        rooms: v.length("limits.rooms"),
        cursor_bytes: v.length("limits.cursor_bytes"),
        header_timeout: v.time("limits.header_timeout"),
        body_timeout: v.time("limits.body_timeout"),
        write_timeout: v.time("limits.write_timeout"),
        send_buffer: v.length("limits.send_buffer"),
        poll_wait_max: v.time("limits.poll_wait_max"),
    }
}

#[cfg(test)]
mod tests;
