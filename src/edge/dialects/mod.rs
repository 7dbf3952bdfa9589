//! Wire shapes. A dialect knows how events and notices look on one transport, and nothing else. In come the engine's words, out go bytes.

pub(super) mod json;
pub(super) mod poll;
pub(super) mod sse;
pub(super) mod ws;
