//! The settings of surfaces.

use super::super::value::Kind;
use super::{MIB, Setting, setting};

/// In the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "surfaces.enabled",
        Kind::List,
        "[\"overview\", \"metrics\", \"wells\", \"analytics\", \"buffer\"]",
        "The surfaces that are served, with their pipelines: sets of endpoints for existing dashboards (docs/surfaces.md).",
    ),
    setting(
        "buffer.content_bytes",
        Kind::Size(1, 64 * MIB),
        "\"64KiB\"",
        "The content of a message (POST /messages); an event is bounded beside (limits.event_bytes).",
    ),
];
