//! How many actors live, and how those that do not came to their end. Counted by the runners, read by tests and by metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of actors; cloned handles count into the same figures.
#[derive(Debug, Clone, Default)]
pub struct Census(Arc<Figures>);

#[derive(Debug, Default)]
struct Figures {
    started: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    panicked: AtomicU64,
    restarted: AtomicU64,
    given_up: AtomicU64,
}

impl Census {
    /// Actors that live now.
    #[must_use]
    pub fn live(&self) -> u64 {
        // `ended` first: an actor that starts and ends between the two reads must not make the difference negative.
        let ended = self.0.ended.load(Ordering::Acquire);
        self.0.started.load(Ordering::Acquire).saturating_sub(ended)
    }

    /// Actors started so far, restarts included.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.0.started.load(Ordering::Relaxed)
    }

    /// Actors that ended with a fault.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Actors that ended in a panic.
    #[must_use]
    pub fn panicked(&self) -> u64 {
        self.0.panicked.load(Ordering::Relaxed)
    }

    /// Actors started again by their supervisor.
    #[must_use]
    pub fn restarted(&self) -> u64 {
        self.0.restarted.load(Ordering::Relaxed)
    }

    /// Actors whose supervisor stopped starting them again.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.0.given_up.load(Ordering::Relaxed)
    }

    /// Counts one actor as living until the guard is dropped; a drop while unwinding counts as a panic.
    #[must_use]
    pub fn enter(&self) -> Living {
        self.0.started.fetch_add(1, Ordering::AcqRel);
        Living(self.clone())
    }

    pub(crate) fn note_failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_restarted(&self) {
        self.0.restarted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_given_up(&self) {
        self.0.given_up.fetch_add(1, Ordering::Relaxed);
    }
}

/// One living actor; dropping it ends its life in the figures.
#[derive(Debug)]
pub struct Living(Census);

impl Living {
    pub(crate) fn note_panicked(&self) {
        self.0.0.panicked.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.note_panicked();
        }
        self.0.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}
