//! The table of all settings: key, kind, default, meaning. From it come the checks, the messages and `config/default.toml`.

use super::value::Kind;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its key with dots; a `*` stands for the name of a namespace.
    pub key: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default as it is written in TOML.
    pub default: &'static str,
    /// What it means, with its unit where it has one.
    pub help: &'static str,
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, default, help }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// All settings, in the order in which `config/default.toml` shows them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "server.listen",
        Kind::Address,
        "\"127.0.0.1:8000\"",
        "The address to listen on. Anything but loopback should stand behind TLS.",
    ),
    setting(
        "server.shutdown_timeout",
        Kind::Time(0, 10 * MINUTE),
        "\"10s\"",
        "How long a stop waits for what is under way.",
    ),
    setting(
        "server.drain_wait",
        Kind::Time(0, 10 * MINUTE),
        "\"0s\"",
        "How long a stop says \"not ready\" before it takes no more connections, so that a balancer sees it; part of server.shutdown_timeout.",
    ),
    setting(
        "server.reconnect_spread",
        Kind::Time(0, 10 * MINUTE),
        "\"5s\"",
        "At a stop each client is told to come back after a time of its own up to this, so that they do not all come at once.",
    ),
    setting("server.unix", Kind::Text, "\"\"", "A Unix socket to listen on as well (mode 660). Empty: none."),
    setting(
        "server.tls_cert",
        Kind::Text,
        "\"\"",
        "A certificate chain in PEM; with it server.listen speaks TLS, HTTP/2 included. Read again when it changes. Empty: no TLS.",
    ),
    setting("server.tls_key", Kind::Text, "\"\"", "The certificate's private key in PEM."),
    setting("log.dir", Kind::Path, "\"data/log\"", "The log's directory. One daemon at a time."),
    setting(
        "log.ack",
        Kind::Choice(&["memory", "logged", "synced"]),
        "\"logged\"",
        "What a publisher's answer means when it does not ask: in the room, given to the operating system (survives a killed daemon), or on the disk (survives a power loss).",
    ),
    setting(
        "log.generation_bytes",
        Kind::Size(MIB, 4 * GIB),
        "\"64MiB\"",
        "The log is kept in generations of about this size; an old one is deleted whole.",
    ),
    setting("log.generation_age", Kind::Time(SECOND, 365 * DAY), "\"6h\"", "A generation also ends at this age."),
    setting(
        "log.bytes_max",
        Kind::Size(4 * MIB, 1024 * TIB),
        "\"4GiB\"",
        "The log's events in all rooms together; over it the oldest generation goes, even if its rooms would keep it.",
    ),
    setting(
        "log.flush_interval",
        Kind::Time(1, MINUTE),
        "\"200ms\"",
        "How long events that nobody waits for (ack=memory) may stay in the daemon's memory.",
    ),
    setting(
        "log.queue_events",
        Kind::Count(1, 10_000_000),
        "16384",
        "Events that may wait to be written; beyond it publishers wait.",
    ),
    setting(
        "log.append_timeout",
        Kind::Time(1, MINUTE),
        "\"2s\"",
        "How long a room waits for a place in that queue before its publisher is refused.",
    ),
    setting(
        "log.sync_timeout",
        Kind::Time(1, 10 * MINUTE),
        "\"10s\"",
        "How long a publisher's answer waits for the log before it is told that the log does not answer.",
    ),
    setting("log.readers", Kind::Count(1, 64), "2", "Threads that read replays from the disk."),
    setting(
        "log.tails_bytes",
        Kind::Size(0, TIB),
        "\"256MiB\"",
        "The newest events of all rooms together that are held in memory for replay.",
    ),
    setting(
        "auth.api_keys",
        Kind::List,
        "[]",
        "Keys that may read and publish everything (role operator), as name:key. Where there is no credential at all, a token for an admin is made at first start and kept in auth.token_file.",
    ),
    setting("auth.token_file", Kind::Path, "\"data/token\"", "Where the token made at first start is kept (mode 600)."),
    setting(
        "auth.keys_file",
        Kind::Path,
        "\"data/keys.toml\"",
        "Keys made with tidegate key create, as hashes; read again when it changes.",
    ),
    setting(
        "auth.jwt_secret",
        Kind::Text,
        "\"\"",
        "The HS256 secret of tokens, those of a login and those minted elsewhere; where it is empty, one is made and kept in auth.secret_file. At least 32 random characters.",
    ),
    setting("auth.secret_file", Kind::Path, "\"data/secret\"", "Where that secret is kept (mode 600)."),
    setting(
        "auth.jwt_keys",
        Kind::List,
        "[]",
        "Public keys (PEM files: RSA, EC, Ed25519) that tokens may be signed with, as path or kid=path; read again when they change.",
    ),
    setting(
        "auth.jwks_file",
        Kind::Text,
        "\"\"",
        "A file with a JSON Web Key Set; read again when it changes. Empty: none.",
    ),
    setting("auth.jwks_url", Kind::Text, "\"\"", "Where to fetch a JSON Web Key Set. Empty: nowhere."),
    setting(
        "auth.jwks_refresh",
        Kind::Time(5 * SECOND, 7 * DAY),
        "\"5m\"",
        "How often it is fetched; a token of an unknown key has it fetched at once, at most every 5 s.",
    ),
    setting("auth.issuer", Kind::Text, "\"\"", "The iss that tokens must have. Empty: any."),
    setting("auth.audience", Kind::List, "[]", "A token's aud must name one of these. Empty: any."),
    setting("auth.leeway", Kind::Time(0, HOUR), "\"30s\"", "By how much the clocks of issuer and daemon may differ."),
    setting("auth.require_exp", Kind::Flag, "true", "Whether a token must have an end (exp)."),
    setting("auth.default_role", Kind::Text, "\"viewer\"", "The role of a token that names none. Empty: none."),
    setting(
        "auth.admin_password",
        Kind::Text,
        "\"\"",
        "The password of the user admin (roles admin, platform_admin). Empty: there is no such user.",
    ),
    setting("auth.token_ttl", Kind::Time(SECOND, 365 * DAY), "\"1h\"", "How long the token of a login is good for."),
    setting(
        "auth.session_max",
        Kind::Time(0, 3650 * DAY),
        "\"24h\"",
        "How long after a login its token may be exchanged for a new one; 0 means for ever.",
    ),
    setting(
        "auth.revoked_file",
        Kind::Path,
        "\"data/revoked\"",
        "Where revoked tokens are kept until they would have ended.",
    ),
    setting(
        "auth.expiry_warning",
        Kind::Time(0, DAY),
        "\"60s\"",
        "How long before its token ends a connection is told.",
    ),
    setting("auth.roles.viewer.rooms", Kind::List, "[\"*\"]", "What a viewer may read: names and patterns of rooms."),
    setting("auth.roles.viewer.publish", Kind::List, "[]", "Where a viewer may publish."),
    setting("auth.roles.operator.rooms", Kind::List, "[\"*\"]", "What an operator may read."),
    setting("auth.roles.operator.publish", Kind::List, "[\"*\"]", "Where an operator may publish."),
    setting("auth.roles.admin.rooms", Kind::List, "[\"*\"]", "What an admin may read. Admin calls need this role."),
    setting("auth.roles.admin.publish", Kind::List, "[\"*\"]", "Where an admin may publish."),
    setting("auth.roles.platform_admin.rooms", Kind::List, "[\"*\"]", "What a platform administrator may read."),
    setting("auth.roles.platform_admin.publish", Kind::List, "[\"*\"]", "Where a platform administrator may publish."),
    setting("auth.roles.*.rooms", Kind::List, "[]", "What a role of your own may read."),
    setting("auth.roles.*.publish", Kind::List, "[]", "Where a role of your own may publish."),
    setting(
        "auth.users.*.password_hash",
        Kind::Text,
        "\"\"",
        "A user's password as tidegate user hash writes it (argon2).",
    ),
    setting("auth.users.*.roles", Kind::List, "[]", "A user's roles."),
    setting("auth.users.*.rooms", Kind::List, "[]", "What a user may read, in place of what the roles allow."),
    setting("auth.users.*.publish", Kind::List, "[]", "Where a user may publish, in place of what the roles allow."),
    setting(
        "rooms.*.retention_count",
        Kind::Count(0, u64::MAX),
        "100000",
        "Events that a room keeps; 0 means no limit.",
    ),
    setting(
        "rooms.*.retention_age",
        Kind::Time(0, 3650 * DAY),
        "\"24h\"",
        "How long a room keeps an event; 0 means no limit.",
    ),
    setting(
        "rooms.*.retention_bytes",
        Kind::Size(0, TIB),
        "\"64MiB\"",
        "Bytes of events that a room keeps; 0 means no limit.",
    ),
    setting(
        "rooms.*.on_full",
        Kind::Choice(&["catch_up", "displace", "reject", "wait"]),
        "\"catch_up\"",
        "When a reader's mailbox is full: the reader reads on from the log, the oldest event goes, the newest goes, or publishers wait for the reader (rooms.*.wait).",
    ),
    setting(
        "rooms.*.wait",
        Kind::Time(1, MINUTE),
        "\"1s\"",
        "With on_full = \"wait\": how long publishers wait for a slow reader before the event is given up for that reader.",
    ),
    setting(
        "rooms.*.conflate",
        Kind::Flag,
        "false",
        "Whether a waiting event gives way to a newer one of the same key.",
    ),
    setting(
        "rooms.*.durable",
        Kind::Flag,
        "true",
        "Whether events go to the log; otherwise a room's history is its tail in memory.",
    ),
    setting(
        "rooms.*.tail_events",
        Kind::Count(0, 10_000_000),
        "10000",
        "A room's newest events held in memory for replay.",
    ),
    setting("rooms.*.tail_bytes", Kind::Size(0, TIB), "\"8MiB\"", "Their bytes."),
    setting(
        "rooms.*.idempotency_window",
        Kind::Time(0, 7 * DAY),
        "\"10m\"",
        "How long a room remembers the ids of events; 0 switches it off.",
    ),
    setting("rooms.*.idempotency_ids", Kind::Count(0, 10_000_000), "10000", "Ids that a room remembers at most."),
    setting(
        "rooms.*.idle_after",
        Kind::Time(SECOND, 365 * DAY),
        "\"5m\"",
        "A room without readers and new events for so long gives its memory back; its events and numbering stay.",
    ),
    setting(
        "limits.connections",
        Kind::Count(0, 10_000_000),
        "0",
        "Connections at once; 0 means as many as the open-file limit allows.",
    ),
    setting(
        "limits.trusted_proxies",
        Kind::List,
        "[]",
        "Addresses and networks (10.0.0.0/8) of proxies in front, and \"unix\" for whoever comes by server.unix: from these the client's address is taken from X-Forwarded-For.",
    ),
    setting(
        "limits.per_ip_sockets",
        Kind::Count(0, 10_000_000),
        "0",
        "TCP connections at once of one address that is no trusted proxy; 0 means no limit. An IPv6 address counts by its /64.",
    ),
    setting(
        "limits.per_ip_connections",
        Kind::Count(0, 10_000_000),
        "0",
        "Streams at once of one client address; 0 means no limit.",
    ),
    setting(
        "limits.per_ip_connections_per_hour",
        Kind::Count(0, 10_000_000),
        "0",
        "New WebSocket and SSE streams an hour of one client address; 0 means no limit.",
    ),
    setting(
        "limits.per_ip_logins_per_minute",
        Kind::Count(0, 1_000_000),
        "30",
        "Logins a minute of one client address; 0 means no limit.",
    ),
    setting(
        "limits.per_user_connections",
        Kind::Count(0, 10_000_000),
        "0",
        "Streams at once of one subject (a token's sub, a key's name); 0 means no limit.",
    ),
    setting(
        "limits.per_user_publishes_per_second",
        Kind::Count(0, 10_000_000),
        "0",
        "Publish requests a second of one subject; 0 means no limit.",
    ),
    setting(
        "limits.rooms_per_publisher",
        Kind::Count(0, 100_000_000),
        "0",
        "Rooms that one subject may bring to be; 0 means no limit. Counted since the daemon's start.",
    ),
    setting(
        "limits.per_connection_messages_per_second",
        Kind::Count(0, 1_000_000),
        "0",
        "Messages a second that one WebSocket connection may send; 0 means no limit.",
    ),
    setting(
        "limits.per_connection_messages_per_minute",
        Kind::Count(0, 10_000_000),
        "0",
        "Messages a minute that one WebSocket connection may send; 0 means no limit.",
    ),
    setting("limits.mailbox_messages", Kind::Count(1, 1_000_000), "100", "Events that may wait for one connection."),
    setting("limits.mailbox_bytes", Kind::Size(KIB, GIB), "\"1MiB\"", "Their bytes."),
    setting(
        "limits.mailboxes_bytes",
        Kind::Size(0, TIB),
        "\"256MiB\"",
        "What waits for all connections together; over it the fullest mailboxes give up first (on_full says how). 0 means no limit.",
    ),
    setting(
        "limits.room_messages",
        Kind::Count(1, 1_000_000),
        "1024",
        "Publishes that may wait in a room; beyond it publishers are told to come back.",
    ),
    setting("limits.room_bytes", Kind::Size(KIB, 64 * GIB), "\"32MiB\"", "Their bytes."),
    setting("limits.source_messages", Kind::Count(1, 1_000_000), "4096", "Publishes that may wait in a source."),
    setting("limits.source_bytes", Kind::Size(KIB, 64 * GIB), "\"128MiB\"", "Their bytes."),
    setting("limits.event_bytes", Kind::Size(64, 64 * MIB), "\"100KiB\"", "One event."),
    setting("limits.body_bytes", Kind::Size(KIB, 4 * GIB), "\"10MiB\"", "A publish body."),
    setting(
        "limits.bodies_bytes",
        Kind::Size(KIB, 64 * GIB),
        "\"256MiB\"",
        "All publish bodies under way together; beyond it publishers are told to come back.",
    ),
    setting(
        "limits.json_depth",
        Kind::Count(1, 1000),
        "64",
        "How deep arrays and objects may be nested in what clients send.",
    ),
    setting("limits.body_events", Kind::Count(1, 10_000_000), "50000", "Events in a publish body."),
    setting(
        "limits.max_message_bytes",
        Kind::Size(0, 64 * MIB),
        "\"100KiB\"",
        "A WebSocket message from a client; 0 switches the limit off (64 MiB remain).",
    ),
    setting(
        "limits.rooms_per_connection",
        Kind::Count(1, 10_000_000),
        "1000",
        "Rooms that one connection follows, those matched by its patterns included.",
    ),
    setting("limits.rooms", Kind::Count(1, 100_000_000), "100000", "Rooms in memory at once."),
    setting(
        "limits.cursor_bytes",
        Kind::Size(64, MIB),
        "\"6KiB\"",
        "The longest cursor on a stream whose client must send it back in a header.",
    ),
    setting(
        "limits.header_bytes",
        Kind::Size(8 * KIB, MIB),
        "\"8KiB\"",
        "A request's head. Each connection has a buffer of this size.",
    ),
    setting(
        "limits.http2_streams",
        Kind::Count(1, 10_000),
        "100",
        "Requests and streams at once on one HTTP/2 connection.",
    ),
    setting(
        "limits.header_timeout",
        Kind::Time(100, 10 * MINUTE),
        "\"10s\"",
        "How long a client may take to send a request's head.",
    ),
    setting(
        "limits.body_timeout",
        Kind::Time(100, 60 * MINUTE),
        "\"30s\"",
        "How long a client may take to send a publish body.",
    ),
    setting(
        "limits.write_timeout",
        Kind::Time(10, 10 * MINUTE),
        "\"10s\"",
        "A client that takes nothing for so long is disconnected.",
    ),
    setting(
        "limits.send_buffer",
        Kind::Size(4 * KIB, 64 * MIB),
        "\"256KiB\"",
        "What the operating system may hold for one connection that does not read.",
    ),
    setting("limits.poll_wait_max", Kind::Time(0, 10 * MINUTE), "\"60s\"", "The longest wait= of a long-poll."),
    setting("heartbeat.interval", Kind::Time(10, HOUR), "\"30s\"", "Between two heartbeats, which carry the cursor."),
    setting(
        "heartbeat.timeout",
        Kind::Time(10, DAY),
        "\"60s\"",
        "A WebSocket client silent for so long is disconnected.",
    ),
    setting(
        "heartbeat.comment",
        Kind::Time(10, HOUR),
        "\"15s\"",
        "An SSE stream without anything else for so long gets a comment, so that proxies keep it open.",
    ),
    setting(
        "heartbeat.retry",
        Kind::Time(0, HOUR),
        "\"2s\"",
        "How long SSE clients are told to wait before they reconnect.",
    ),
    setting("cors.origins", Kind::List, "[\"http://localhost:3000\"]", "Origins whose pages may call this daemon."),
    setting(
        "sources.host.enabled",
        Kind::Flag,
        "true",
        "Whether this machine's own figures are published to host:cpu, host:memory, host:load, host:disk, host:network and host:process.",
    ),
    setting("sources.host.interval", Kind::Time(100, HOUR), "\"1s\"", "How often."),
    setting(
        "sources.generator.enabled",
        Kind::Flag,
        "false",
        "Whether made-up events are published to demo:1, demo:2, …, for demos and load.",
    ),
    setting("sources.generator.rooms", Kind::Count(1, 100_000), "4", "How many rooms."),
    setting("sources.generator.rate", Kind::Count(1, 1_000_000), "20", "Events a second, all rooms together."),
    setting("sources.generator.bytes", Kind::Size(16, 64 * KIB), "\"200B\"", "About the size of one event's data."),
    setting("sources.generator.seed", Kind::Count(0, u64::MAX), "1", "The same seed makes the same values."),
    setting("metrics.public", Kind::Flag, "false", "Whether /metrics needs no credential."),
    setting(
        "audit.file",
        Kind::Text,
        "\"data/audit.log\"",
        "Where admin calls, logins and refusals are written, a line of JSON each (mode 600, only ever appended to). Empty: nowhere.",
    ),
    setting(
        "audit.refusals_per_second",
        Kind::Count(1, 1_000_000),
        "50",
        "Refusals beyond this are counted and told in one line, so that nobody can fill the disk with them.",
    ),
    setting(
        "tracing.otlp_endpoint",
        Kind::Text,
        "\"\"",
        "Where traces go: an OTLP/HTTP collector, such as http://127.0.0.1:4318. Empty: nowhere.",
    ),
    setting(
        "tracing.sample_percent",
        Kind::Count(0, 100),
        "100",
        "Of the publishes that do not say themselves whether they are traced: how many are.",
    ),
    setting(
        "logging.level",
        Kind::Text,
        "\"info\"",
        "What the daemon's own log says: error, warn, info, debug, trace, or a filter such as \"info,tidegate::log=debug\".",
    ),
    setting(
        "logging.format",
        Kind::Choice(&["auto", "text", "json"]),
        "\"auto\"",
        "Text for people or JSON for machines; auto: text on a terminal.",
    ),
];

/// Limits that are built into what runs when the daemon starts.
const FIXED_LIMITS: &[&str] = &[
    "connections",
    "per_ip_sockets",
    "mailbox_messages",
    "mailbox_bytes",
    "mailboxes_bytes",
    "room_messages",
    "room_bytes",
    "source_messages",
    "source_bytes",
    "bodies_bytes",
    "rooms",
    "rooms_per_connection",
    "header_bytes",
    "header_timeout",
    "http2_streams",
    "write_timeout",
    "send_buffer",
];

/// Files that are opened when the daemon starts.
const FIXED_FILES: &[&str] = &["auth.revoked_file"];

/// Whether a changed value takes effect when the settings are read again (SIGHUP).
#[must_use]
pub fn is_live(key: &str) -> bool {
    if FIXED_FILES.contains(&key) {
        return false;
    }
    match key.split_once('.') {
        Some(("auth" | "cors", _)) => true,
        Some(("limits", name)) => !FIXED_LIMITS.contains(&name),
        _ => ["metrics.public", "logging.level", "server.reconnect_spread", "audit.refusals_per_second"].contains(&key),
    }
}

/// The name under which the namespaces' defaults stand.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The setting a key belongs to, `rooms.well.conflate` to `rooms.*.conflate`.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key || wildcard(key).is_some_and(|general| setting.key == general))
}

/// What there may be many of, each with a name of its own. Only rooms have one that all others take from.
const FAMILIES: &[&str] = &["rooms.", "auth.roles.", "auth.users."];

/// `rooms.well.conflate` as `rooms.*.conflate`.
fn wildcard(key: &str) -> Option<String> {
    let family = FAMILIES.iter().find(|family| key.starts_with(**family))?;
    let (one, name) = key.strip_prefix(family)?.rsplit_once('.')?;
    (!one.is_empty()).then(|| format!("{family}*.{name}"))
}

/// The key most like an unknown one, for "did you mean".
#[must_use]
pub fn nearest(key: &str) -> Option<String> {
    let namespace =
        key.strip_prefix("rooms.").and_then(|rest| rest.rsplit_once('.')).map_or(DEFAULT_NAMESPACE, |split| split.0);
    let keys = SETTINGS.iter().map(|setting| setting.key.replace('*', namespace));
    let near = keys.map(|known| (strsim::damerau_levenshtein(key, &known), known)).min()?;
    (near.0 <= (key.len() / 4).clamp(2, 4)).then_some(near.1)
}

/// `config/default.toml`: every setting with its meaning, what is allowed and its default.
#[must_use]
pub fn render() -> String {
    let mut text = String::from(
        "# Every setting of tidegate with its default. A file needs only what differs: tidegate serve --config FILE.\n\
         # The environment goes before the file (TIDEGATE_SERVER__LISTEN for server.listen), flags go before both (--set server.listen=…).\n\
         # Written by `tidegate check --defaults`; a test keeps it equal to the code.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (group, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        if group != section {
            section = group;
            if group == "rooms.*" {
                text.push_str("\n# Rooms by namespace, the part of their name before the first colon: [rooms.well] is for well:WELL-001. What a namespace does\n# not say is as in [rooms.default].");
            }
            match group {
                "auth.roles.*" => text.push_str("\n# A role of your own:\n# [auth.roles.NAME]\n"),
                "auth.users.*" => text.push_str("\n# A user who signs in with a password:\n# [auth.users.NAME]\n"),
                _ => text.push_str(&format!("\n[{}]\n", group.replace('*', DEFAULT_NAMESPACE))),
            }
        }
        // Of your own there are none until you name one.
        let hidden = if group.contains('*') && group != "rooms.*" { "# " } else { "" };
        let (help, kind, default) = (setting.help, setting.kind, setting.default);
        text.push_str(&format!("# {help}\n# Allowed: {kind}.\n{hidden}{name} = {default}\n"));
    }
    text
}
