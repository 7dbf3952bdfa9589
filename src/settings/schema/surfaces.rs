//! The settings of surfaces.

use super::super::value::Kind;
use super::{Setting, setting};

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
];
