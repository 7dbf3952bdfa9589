//! tidegate: a real-time telemetry engine.

pub mod auth;
pub mod clock;
pub mod event;
pub mod log;
pub mod metrics;
pub mod settings;
