//! The settings of surfaces.

use super::super::value::Kind;
use super::{DAY, GIB, HOUR, KIB, MIB, SECOND, Setting, TIB, setting};

/// Names that variables of the environment have in a dashboard's own documentation, and the settings that they are here; times are in milliseconds. A setting under its own name goes before.
pub const ALIASES: &[(&str, &str)] = &[
    ("REAL_TIME_ENABLED", "analytics.enabled"),
    ("REAL_TIME_UPDATE_INTERVAL", "analytics.update_interval"),
    ("REAL_TIME_CLEANUP_INTERVAL", "analytics.sweep_interval"),
    ("WEBSOCKET_ENABLED", "analytics.websocket_enabled"),
    ("WEBSOCKET_PATH", "analytics.websocket_path"),
    ("WEBSOCKET_PING_INTERVAL", "heartbeat.interval"),
    // Behind it, so that this one holds where both are given.
    ("REAL_TIME_HEARTBEAT_INTERVAL", "heartbeat.interval"),
    ("MAX_CONNECTIONS_PER_USER", "analytics.per_user_connections"),
    ("MAX_BUFFER_SIZE", "analytics.mailbox_messages"),
    ("CONNECTION_TIMEOUT", "analytics.parked_timeout"),
];

/// Settings that pipelines' files may name, as `${overview.update_period:250ms}`.
pub const IN_PIPELINES: &[&str] = &[
    "overview.update_period",
    "overview.telemetry_period",
    "overview.healthy_from",
    "overview.warning_from",
    "overview.latency_deviations",
    "overview.latency_min_deviation",
    "overview.success_rate_deviations",
    "overview.success_rate_min_deviation",
];

/// In the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "surfaces.enabled",
        Kind::List,
        "[\"overview\", \"metrics\", \"wells\", \"analytics\", \"buffer\"]",
        "The surfaces that are served, with their pipelines: sets of endpoints for existing dashboards (docs/surfaces.md).",
    ),
    setting(
        "overview.per_ip_connections",
        Kind::Count(0, 10_000_000),
        "100",
        "Streams of the surface overview at once of one client address; 0 means no limit. limits.per_ip_connections counts instead where it is set.",
    ),
    setting(
        "overview.per_ip_connections_per_hour",
        Kind::Count(0, 10_000_000),
        "100",
        "New streams of it an hour of one client address; 0 means no limit. limits.per_ip_connections_per_hour counts instead where it is set.",
    ),
    setting(
        "overview.messages_per_minute",
        Kind::Count(0, 10_000_000),
        "1000",
        "Messages a minute that one WebSocket client of it may send; 0 means no limit. limits.per_connection_messages_per_minute counts instead where it is set.",
    ),
    setting(
        "overview.updates_per_second",
        Kind::Count(0, 1000),
        "10",
        "Messages a second to one reader of its overview or telemetry; more wait, and nothing is lost. 0 means no limit.",
    ),
    setting(
        "overview.update_period",
        Kind::Time(100, 500),
        "\"250ms\"",
        "Changes are gathered for so long before a reader of its overview gets them (in overview_updates).",
    ),
    setting(
        "overview.telemetry_period",
        Kind::Time(SECOND, HOUR),
        "\"5s\"",
        "How often readers of its telemetry get figures, beside those that come at once (in overview_telemetry).",
    ),
    setting(
        "overview.healthy_from",
        Kind::Number(0, 1),
        "0.8",
        "A project is healthy from this health_score on (in overview_projects, like the next).",
    ),
    setting(
        "overview.warning_from",
        Kind::Number(0, 1),
        "0.5",
        "It is a warning from this one on; below it is critical.",
    ),
    setting(
        "overview.latency_deviations",
        Kind::Number(1, 1000),
        "6.0",
        "A project's latency is unusual that lies so many deviations above the median of its last 128 (robust z-score; in overview_anomalies, like the next three).",
    ),
    setting("overview.latency_min_deviation", Kind::Number(0, 1_000_000), "20.0", "And so many milliseconds at least."),
    setting(
        "overview.success_rate_deviations",
        Kind::Number(1, 1000),
        "4.0",
        "A project's success rate over 10 runs is unusual that lies so many deviations below its own median.",
    ),
    setting(
        "overview.success_rate_min_deviation",
        Kind::Number(0, 1),
        "0.3",
        "And so much at least; 0.3 are 30 percent.",
    ),
    setting(
        "wells.ping_interval",
        Kind::Time(100, HOUR),
        "\"25s\"",
        "How often a Socket.IO client is asked whether it lives.",
    ),
    setting(
        "wells.ping_timeout",
        Kind::Time(50, HOUR),
        "\"20s\"",
        "How long a Socket.IO client may take to say so before it is disconnected.",
    ),
    setting(
        "wells.connect_timeout",
        Kind::Time(100, HOUR),
        "\"10s\"",
        "How long a Socket.IO client may take to sign in.",
    ),
    setting(
        "wells.upgrade_timeout",
        Kind::Time(100, HOUR),
        "\"10s\"",
        "How long a Socket.IO client that polls may take to go over to a WebSocket that it tries; it polls on if it does not.",
    ),
    setting(
        "wells.guests_max",
        Kind::Count(1, 10_000_000),
        "2000",
        "Socket.IO clients at once that have not signed in yet; more are told to come back.",
    ),
    setting(
        "wells.guests_per_ip",
        Kind::Count(0, 10_000_000),
        "500",
        "Of these, so many of one address; 0 means no limit of its own.",
    ),
    setting(
        "wells.guest_message_bytes",
        Kind::Size(KIB, GIB),
        "\"16KiB\"",
        "What a Socket.IO client that has not signed in yet may send at once: no more than a token needs.",
    ),
    setting(
        "wells.refusals_max",
        Kind::Count(1, 1_000_000),
        "5",
        "Times that a Socket.IO client may be refused on one connection before it is disconnected.",
    ),
    setting(
        "wells.waiting_max",
        Kind::Count(16, 1_000_000),
        "1024",
        "Packets that may wait for the next poll of a Socket.IO client, beside what is in its mailbox; over it the client is disconnected.",
    ),
    setting(
        "wells.recovery_window",
        Kind::Time(0, DAY),
        "\"2m\"",
        "How long a Socket.IO client whose connection broke off may come back to where it stood; 0 switches that off.",
    ),
    setting(
        "wells.recovery_max",
        Kind::Count(0, 10_000_000),
        "10000",
        "Socket.IO clients at once that may come back; beyond it those that have been away longest begin anew.",
    ),
    setting(
        "wells.messages_per_second",
        Kind::Count(0, 1_000_000),
        "10",
        "Messages a second that one Socket.IO client may send; 0 means no limit. limits.per_connection_messages_per_second counts instead where it is set.",
    ),
    setting(
        "analytics.enabled",
        Kind::Flag,
        "true",
        "Whether the streams of the surface analytics are served; its other calls are in any case. Also REAL_TIME_ENABLED.",
    ),
    setting(
        "analytics.update_interval",
        Kind::Time(0, HOUR),
        "\"0s\"",
        "At most one update of a metric (and key) to a connection in this time, the newest; 0 sends each at once, and alerts are sent at once in any case. Also REAL_TIME_UPDATE_INTERVAL, in ms.",
    ),
    setting(
        "analytics.websocket_enabled",
        Kind::Flag,
        "true",
        "Whether its streams are served over WebSocket. Also WEBSOCKET_ENABLED.",
    ),
    setting(
        "analytics.websocket_path",
        Kind::Text,
        "\"/api/admin/analytics/websocket\"",
        "Where its WebSocket is; below /api/admin/analytics/. Also WEBSOCKET_PATH.",
    ),
    setting(
        "analytics.per_user_connections",
        Kind::Count(0, 10_000_000),
        "5",
        "Its streams at once of one user; 0 means no limit. limits.per_user_connections counts instead where it is set. Also MAX_CONNECTIONS_PER_USER.",
    ),
    setting(
        "analytics.mailbox_messages",
        Kind::Count(1, 1_000_000),
        "100",
        "Events that may wait for one of its connections, also while its client is away; the least urgent give way. Also MAX_BUFFER_SIZE.",
    ),
    setting(
        "analytics.parked_timeout",
        Kind::Time(0, DAY),
        "\"30m\"",
        "How long a lost connection is kept, with what waits for it, for its client to come back; 0 keeps none. Also CONNECTION_TIMEOUT, in ms.",
    ),
    setting(
        "analytics.sweep_interval",
        Kind::Time(100, DAY),
        "\"5m\"",
        "How often lost connections whose time is over are cleared away. Also REAL_TIME_CLEANUP_INTERVAL, in ms.",
    ),
    setting(
        "analytics.parked_connections",
        Kind::Count(0, 10_000_000),
        "1000",
        "Lost connections that are kept at once; beyond it those go that have been lost longest. Of one user as many are kept as it may have open.",
    ),
    setting(
        "analytics.parked_bytes",
        Kind::Size(0, TIB),
        "\"64MiB\"",
        "What waits for lost connections together; over it those go that have been lost longest.",
    ),
    setting(
        "buffer.content_bytes",
        Kind::Size(1, 64 * MIB),
        "\"64KiB\"",
        "The content of a message (POST /messages); an event is bounded beside (limits.event_bytes).",
    ),
];
