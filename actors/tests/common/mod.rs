//! The message that the tests of this crate send.
#![allow(dead_code, reason = "each test binary uses its part")]

use tidegate_actors::{Lane, Message, OnFull, Policy};

/// A message of stream `stream` at position `position`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) stream: u32,
    pub(crate) position: u64,
    pub(crate) lane: Lane,
    pub(crate) policy: Policy,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) bytes: usize,
}

impl Note {
    pub(crate) fn new(stream: u32, position: u64, lane: Lane, on_full: OnFull) -> Self {
        Self { stream, position, lane, policy: Policy::on_full(on_full), key: None, bytes: 1 }
    }

    pub(crate) fn keyed(mut self, key: &str) -> Self {
        self.key = Some(key.as_bytes().to_vec());
        self.policy.conflate = true;
        self
    }
}

impl Message for Note {
    type Stream = u32;
    fn lane(&self) -> Lane {
        self.lane
    }
    fn stream(&self) -> Option<&u32> {
        Some(&self.stream)
    }
    fn position(&self) -> u64 {
        self.position
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn policy(&self) -> Policy {
        self.policy
    }
    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }
}
