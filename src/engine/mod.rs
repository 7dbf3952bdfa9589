//! The engine: sources, rooms, connections. Data goes from left to right, sources → pipelines → rooms → connections; an actor never waits for one to its left.
//!
//! [`sources`] bring events in, [`pipelines`] work on them, [`rooms`] number them, keep their newest in memory, hand them to the log and to their readers, [`connections`] serve one reader each,
//! [`sinks`] write them into a store. `tap` and `journal` are what pipelines and sinks share: how they read rooms, and what they write down of it.
//! Nothing here knows HTTP or a wire shape.

pub mod connections;
mod journal;
pub mod log_keeper;
pub mod pipelines;
pub mod rooms;
pub mod sinks;
pub mod sources;
mod tap;
