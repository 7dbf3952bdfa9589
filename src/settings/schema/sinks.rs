//! The settings of sinks: the store that all write to, and each one's own.

use super::super::value::Kind;
use super::{DAY, GIB, HOUR, KIB, MINUTE, Setting, TIB, setting};

/// How many events a batch may have.
const BATCH_EVENTS: Kind = Kind::Count(1, 100_000);
/// How long a batch may be gathered.
const BATCH_WAIT: Kind = Kind::Time(10, HOUR);
const BATCH_BYTES: Kind = Kind::Size(KIB, GIB);
const ROOMS: &str = "Rooms whose events are kept, and patterns such as \"well:*\".";
const EVENTS: &str = "A batch is written when it has so many events";
const WAIT: &str = "or when so much time has passed since the first of them.";
const BYTES: &str = "Or when it has so many bytes.";
const ENABLED: &str = "Whether it runs. What it has not written stays in the log, for as long as that keeps it.";

/// In the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "sink.database_url",
        Kind::Text,
        "\"\"",
        "The database in which sinks keep events, postgres://USER:PASSWORD@HOST/NAME (with ?sslmode=verify-full over a network). Empty: none; the same is read from the log then. A secret: best in the environment.",
    ),
    setting(
        "sink.connect_timeout",
        Kind::Time(10, 5 * MINUTE),
        "\"5s\"",
        "How long a connection to the database may take to come to be.",
    ),
    setting(
        "sink.statement_timeout",
        Kind::Time(10, HOUR),
        "\"30s\"",
        "How long a statement may take before it is given up and tried again.",
    ),
    setting(
        "sink.retry_max",
        Kind::Time(100, HOUR),
        "\"10s\"",
        "The longest pause between two tries to write; it begins with 100ms and doubles.",
    ),
    setting(
        "sink.stop_timeout",
        Kind::Time(10, MINUTE),
        "\"3s\"",
        "How long a stop of the daemon may wait for sinks to write what they have; the rest is written after the next start.",
    ),
    setting(
        "sink.pool",
        Kind::Count(1, 1000),
        "8",
        "Connections to the database for reading, at most. For writing each sink has one of its own.",
    ),
    setting(
        "sink.retention",
        Kind::Time(0, 36_500 * DAY),
        "\"0s\"",
        "How long the database keeps an event, by the time at which it happened; 0 means for ever.",
    ),
    setting(
        "sink.compress_after",
        Kind::Time(0, 36_500 * DAY),
        "\"7d\"",
        "With TimescaleDB: events older than this are compressed; 0 switches it off.",
    ),
    setting(
        "sink.keep_unstored",
        Kind::Flag,
        "true",
        "Whether the log keeps events that the database has not taken yet longer than their rooms' retention says, up to log.bytes_max.",
    ),
    setting(
        "sink.stats_interval",
        Kind::Time(50, HOUR),
        "\"500ms\"",
        "How often a sink's figures are published to sink:NAME while somebody follows that room.",
    ),
    setting(
        "sink.mailbox_messages",
        Kind::Count(1, 10_000_000),
        "10000",
        "Events that may wait in memory for a sink; what is more it reads from the log.",
    ),
    setting("sink.mailbox_bytes", Kind::Size(KIB, TIB), "\"16MiB\"", "Their bytes."),
    setting("sinks.wells.rooms", Kind::List, "[\"well:*\"]", ROOMS),
    setting("sinks.wells.batch_events", BATCH_EVENTS, "500", EVENTS),
    setting("sinks.wells.batch_wait", BATCH_WAIT, "\"1s\"", WAIT),
    setting("sinks.wells.batch_bytes", BATCH_BYTES, "\"8MiB\"", BYTES),
    setting("sinks.wells.enabled", Kind::Flag, "true", ENABLED),
    setting("sinks.buffer.rooms", Kind::List, "[\"messages\"]", ROOMS),
    setting("sinks.buffer.batch_events", BATCH_EVENTS, "50", EVENTS),
    setting("sinks.buffer.batch_wait", BATCH_WAIT, "\"2s\"", WAIT),
    setting("sinks.buffer.batch_bytes", BATCH_BYTES, "\"8MiB\"", BYTES),
    setting("sinks.buffer.enabled", Kind::Flag, "true", ENABLED),
    setting("sinks.*.rooms", Kind::List, "[]", ROOMS),
    setting("sinks.*.batch_events", BATCH_EVENTS, "500", EVENTS),
    setting("sinks.*.batch_wait", BATCH_WAIT, "\"1s\"", WAIT),
    setting("sinks.*.batch_bytes", BATCH_BYTES, "\"8MiB\"", BYTES),
    setting("sinks.*.enabled", Kind::Flag, "true", ENABLED),
];
