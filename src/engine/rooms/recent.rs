//! The ids of recent events, so that a repeated publish is known and answered with the first one's number.
//!
//! Bound: `idempotency_ids` ids, each for `idempotency_window`.

use std::collections::{HashMap, VecDeque};

use smol_str::SmolStr;

/// What a repetition repeats.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// An event that is published already, by its seq.
    Before(u64),
    /// One of the same publish: which of those that are kept of it, from 0.
    Here(u64),
}

impl Origin {
    /// Its seq, where `first` is that of the first event that is kept.
    pub(super) fn seq(self, first: u64) -> u64 {
        match self {
            Self::Before(seq) => seq,
            Self::Here(at) => first + at,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    seqs: HashMap<SmolStr, u64, ahash::RandomState>,
    /// In the order of arrival: when, and which id.
    order: VecDeque<(u64, SmolStr)>,
}

impl Recent {
    pub(super) fn seq_of(&self, id: &str) -> Option<u64> {
        self.seqs.get(id).copied()
    }

    pub(super) fn remember(&mut self, id: SmolStr, seq: u64, now_ms: u64) {
        self.seqs.insert(id.clone(), seq);
        self.order.push_back((now_ms, id));
    }

    /// Forgets what is older than the window or over the bound.
    pub(super) fn forget(&mut self, before_ms: u64, ids_max: usize) {
        while let Some((at, _)) = self.order.front() {
            if *at >= before_ms && self.order.len() <= ids_max {
                break;
            }
            if let Some((_, id)) = self.order.pop_front() {
                self.seqs.remove(&id);
            }
        }
    }
}
