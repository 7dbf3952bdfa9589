//! tidegate: telemetry in, rooms with replay, live to every screen that watches.
//!
//! The map; `ARCHITECTURE.md` says more. Data flows one way: [`engine::sources`] → [`engine::rooms`] → [`engine::connections`] → [`edge`]; rooms keep what happened in the [`log`].
//! [`event`] is what flows, [`settings`] what decides, [`app`] builds it all, [`cli`] is how it is called.

pub mod app;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod edge;
pub mod engine;
pub mod event;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod pipelines;
pub mod settings;
pub mod store;
pub mod traces;
