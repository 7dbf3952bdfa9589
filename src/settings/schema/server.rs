//! The settings of the server and the log.

use super::super::value::Kind;
use super::{DAY, GIB, MIB, MINUTE, SECOND, Setting, TIB, setting};

/// In the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[
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
        "log.read_cache_bytes",
        Kind::Size(0, TIB),
        "\"32MiB\"",
        "Events read from the disk that are held in memory, so that many readers who come back at once cost one reading; 0 holds none.",
    ),
    setting(
        "log.tails_bytes",
        Kind::Size(0, TIB),
        "\"256MiB\"",
        "The newest events of all rooms together that are held in memory for replay.",
    ),
];
