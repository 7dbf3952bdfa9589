//! Sources: where events enter. Each is an actor of its own, restarted alone when it fails. Out go publishes to rooms, without waiting for them.
//!
//! [`ingest`] takes what clients publish, [`host`] measures this machine, [`connections`] counts the daemon's streams, [`generator`] makes events up for demos and load, [`sinks`] tells how the
//! sinks are.

pub mod connections;
pub mod generator;
pub mod host;
pub mod ingest;
pub mod sinks;
