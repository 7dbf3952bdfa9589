//! The settings of surfaces.

use super::super::value::Kind;
use super::{DAY, Setting, setting};

/// In the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "surfaces.enabled",
        Kind::List,
        "[\"overview\", \"metrics\", \"wells\", \"analytics\", \"buffer\"]",
        "The surfaces that are served, with their pipelines: sets of endpoints for existing dashboards (docs/surfaces.md).",
    ),
    setting(
        "limits.idle_timeout",
        Kind::Time(0, 365 * DAY),
        "\"5m\"",
        "A stream of the surface overview ends after so long without an event and without a word of its client; it resumes by its cursor. 0 means never.",
    ),
    setting(
        "metrics.stream_public",
        Kind::Flag,
        "false",
        "Whether the streams of the surface metrics may be read without a credential.",
    ),
];
