//! What many mailboxes together may hold. Each counts what it holds in steps, so that one that holds little never touches the common counter.
//!
//! When the budget is spent, a mailbox that holds more than its share (the mean of those that hold more than a step) is full for whatever comes, and its messages' policy decides;
//! so those that hold the most give up first, and one that keeps up does not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// Mailboxes count in steps of so many bytes; up to twice that is held uncounted.
pub(crate) const STEP: usize = 4096;

/// A common budget in bytes. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    used: CachePadded<AtomicUsize>,
    /// Mailboxes that hold more than a step.
    holders: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let (used, holders) = (CachePadded::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        Self(Arc::new(Shared { max, used, holders }))
    }

    /// Its size in bytes.
    #[must_use]
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Bytes counted now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.used() > self.0.max
    }

    /// Whether a mailbox that holds so many bytes holds more than its share of a spent budget.
    pub(crate) fn is_too_much(&self, bytes: usize) -> bool {
        self.is_spent() && bytes > self.used() / self.0.holders.load(Ordering::Relaxed).max(1)
    }

    /// Brings what was counted for a mailbox up to what it holds now; what is counted for it from now on.
    pub(crate) fn recount(&self, counted: usize, bytes: usize) -> usize {
        if bytes.abs_diff(counted) < STEP && (bytes > 0 || counted == 0) {
            return counted;
        }
        let now = if bytes < STEP { 0 } else { bytes };
        if now > counted {
            self.0.used.fetch_add(now - counted, Ordering::Relaxed);
        } else {
            self.0.used.fetch_sub(counted - now, Ordering::Relaxed);
        }
        match (counted, now) {
            (0, 1..) => drop(self.0.holders.fetch_add(1, Ordering::Relaxed)),
            (1.., 0) => drop(self.0.holders.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        now
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_follows_what_is_held_in_steps_and_goes_back_to_nothing() {
        let budget = Budget::new(100_000);
        let mut counted = budget.recount(0, STEP - 1);
        assert_eq!((counted, budget.used()), (0, 0), "little is not counted");
        for bytes in [5_000, 9_500, 60_000, 30_000, 4_500, 10, 0] {
            counted = budget.recount(counted, bytes);
            assert!(budget.used().abs_diff(bytes) < 2 * STEP, "{bytes}: {}", budget.used());
        }
        assert_eq!((counted, budget.used()), (0, 0));
    }

    #[test]
    fn only_who_holds_more_than_the_mean_of_a_spent_budget_holds_too_much() {
        let budget = Budget::new(100_000);
        budget.recount(0, 20_000);
        budget.recount(0, 60_000);
        assert!(!budget.is_too_much(60_000), "the budget is not spent");
        budget.recount(0, 70_000);
        assert!(budget.is_too_much(60_000) && budget.is_too_much(70_000) && !budget.is_too_much(20_000));
    }
}
