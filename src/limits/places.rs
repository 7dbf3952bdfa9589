//! Counts of what is open by some key, each given back when it is dropped.

use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

/// How many places each key has taken. Keys without any are not kept.
#[derive(Debug)]
pub struct Places<K: Eq + Hash>(Arc<DashMap<K, usize, ahash::RandomState>>);

impl<K: Eq + Hash> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// A place that was taken.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    key: K,
    all: Arc<DashMap<K, usize, ahash::RandomState>>,
}

/// All places of a key are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken;

impl<K: Eq + Hash + Clone> Places<K> {
    /// Takes a place if there is one of `allowed`; with 0 there is no limit. It is counted all the same, because there may be one later.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, key: K, allowed: usize) -> Result<Place<K>, Taken> {
        let mut taken = self.0.entry(key.clone()).or_insert(0);
        if allowed > 0 && *taken >= allowed {
            return Err(Taken);
        }
        *taken += 1;
        Ok(Place { key, all: Arc::clone(&self.0) })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        // The entry is looked up by reference first, because a key may be dear to copy.
        let empty = self.all.get_mut(&self.key).is_some_and(|mut taken| {
            *taken -= 1;
            *taken == 0
        });
        if empty {
            self.all.remove_if(&self.key, |_, taken| *taken == 0);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_when_it_is_dropped_and_nothing_is_kept() {
        let places = Places::default();
        let (first, second) = (places.take("a", 2).unwrap(), places.take("a", 2).unwrap());
        assert!(places.take("a", 2).is_err() && places.take("b", 2).is_ok());
        drop(first);
        assert!(places.take("a", 2).is_ok());
        drop(second);
        assert!(places.0.is_empty());
        let unlimited: Vec<_> = (0..5).map(|_| places.take("a", 0).unwrap()).collect();
        assert!(places.take("a", 5).is_err(), "they count when there is a limit later");
        drop(unlimited);
    }
}
