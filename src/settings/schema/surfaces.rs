//! The settings of surfaces.

use super::super::value::Kind;
use super::{Setting, setting};

/// In the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[setting(
    "surfaces.enabled",
    Kind::List,
    "[\"overview\", \"metrics\", \"wells\", \"analytics\", \"buffer\"]",
    "The surfaces that are served, with their pipelines: sets of endpoints for existing dashboards (docs/surfaces.md).",
)];
