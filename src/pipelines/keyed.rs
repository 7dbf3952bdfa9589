//! State by key, as most operators keep it: bounded in keys, and a key that nobody has asked for in a long time is forgotten.
//!
//! Bound: `keys_max`. A new key over it is refused, and its event goes to the dead letters: forgetting another key in its place would be a silent loss. Keys stay in the order in which
//! they came, changed only by removals, so that the same steps always meet the same order.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// The hasher's seeds are fixed, though the order of an index map does not depend on its hashes.
type Hasher = std::hash::BuildHasherDefault<ahash::AHasher>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Slot<S> {
    touched_ms: u64,
    state: S,
}

/// A table of states.
#[derive(Debug, Clone)]
pub struct Keyed<S> {
    slots: IndexMap<SmolStr, Slot<S>, Hasher>,
    keys_max: usize,
    /// After so many milliseconds without being asked for a key goes; 0 for never.
    idle_ms: u64,
    next_look_ms: u64,
}

impl<S> Keyed<S> {
    /// An empty table.
    #[must_use]
    pub fn new(keys_max: usize, idle_ms: u64) -> Self {
        Self { slots: IndexMap::default(), keys_max, idle_ms, next_look_ms: 0 }
    }

    /// The state of a key, made if there is none; `None` if there are too many keys.
    pub fn entry(&mut self, key: &str, now_ms: u64, make: impl FnOnce() -> S) -> Option<&mut S> {
        // Looked up twice where it is new, which is rare; asked for once, the borrow checker would want it so everywhere.
        if let Some(at) = self.slots.get_index_of(key) {
            let slot = &mut self.slots[at];
            slot.touched_ms = now_ms;
            return Some(&mut slot.state);
        }
        if self.slots.len() >= self.keys_max {
            return None;
        }
        if self.next_look_ms == 0 {
            self.next_look_ms = now_ms + self.pause();
        }
        Some(&mut self.slots.entry(key.into()).or_insert(Slot { touched_ms: now_ms, state: make() }).state)
    }

    /// The state of a key, if there is one.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut S> {
        self.slots.get_mut(key).map(|slot| &mut slot.state)
    }

    /// The state of a key, if there is one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&S> {
        self.slots.get(key).map(|slot| &slot.state)
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &str) -> Option<S> {
        self.slots.swap_remove(key).map(|slot| slot.state)
    }

    /// All keys and their states.
    pub fn iter(&self) -> impl Iterator<Item = (&SmolStr, &S)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.state))
    }

    /// All keys and their states, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&SmolStr, &mut S)> {
        self.slots.iter_mut().map(|(key, slot)| (key, &mut slot.state))
    }

    /// Keeps only some.
    pub fn retain(&mut self, mut keep: impl FnMut(&SmolStr, &mut S) -> bool) {
        self.slots.retain(|key, slot| keep(key, &mut slot.state));
    }

    /// How many keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn pause(&self) -> u64 {
        (self.idle_ms / 8).max(1)
    }

    /// When [`Keyed::expire`] wants to be called next.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        (self.idle_ms > 0 && !self.slots.is_empty()).then_some(self.next_look_ms)
    }

    /// Forgets keys that nobody has asked for in a long time, and that may be forgotten; they come back in the order in which they were kept.
    pub fn expire(&mut self, now_ms: u64, may: impl Fn(&S) -> bool) -> Vec<(SmolStr, S)> {
        if self.idle_ms == 0 || now_ms < self.next_look_ms {
            return Vec::new();
        }
        self.next_look_ms = now_ms + self.pause();
        let idle_ms = self.idle_ms;
        let old = |slot: &Slot<S>| slot.touched_ms.saturating_add(idle_ms) <= now_ms && may(&slot.state);
        if !self.slots.values().any(old) {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.slots);
        let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, slot)| old(slot));
        self.slots = kept.into_iter().collect();
        gone.into_iter().map(|(key, slot)| (key, slot.state)).collect()
    }
}

impl<S: Serialize> Keyed<S> {
    /// The table, to be kept.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let slots: Vec<(&SmolStr, &Slot<S>)> = self.slots.iter().collect();
        super::operator::save(&(self.next_look_ms, slots))
    }
}

impl<S: serde::de::DeserializeOwned> Keyed<S> {
    /// Takes a table that was kept.
    ///
    /// # Errors
    /// [`super::operator::BadState`].
    pub fn load(&mut self, state: &[u8]) -> Result<(), super::operator::BadState> {
        let (next_look_ms, slots): (u64, Vec<(SmolStr, Slot<S>)>) = super::operator::load(state)?;
        self.next_look_ms = next_look_ms;
        self.slots = slots.into_iter().collect();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_key_too_many_is_refused_and_an_old_one_makes_place_in_its_time() {
        let mut table: Keyed<u32> = Keyed::new(2, 80);
        assert!(table.entry("a", 100, || 1).is_some() && table.entry("b", 150, || 2).is_some());
        assert!(table.entry("c", 150, || 3).is_none());
        assert_eq!(table.due_ms(), Some(110));
        assert!(table.expire(170, |_| true).is_empty(), "not old enough");
        assert_eq!(table.expire(180, |_| true), [("a".into(), 1)]);
        assert!(table.entry("c", 181, || 3).is_some());
        assert!(
            table.expire(1000, |state| *state == 3).len() == 1 && table.get("b").is_some(),
            "what may not go stays"
        );
    }

    #[test]
    fn what_is_kept_is_found_again_in_the_same_order() {
        let mut table: Keyed<f64> = Keyed::new(10, 0);
        for (at, key) in ["z", "a", "m"].into_iter().enumerate() {
            table.entry(key, 7, || f64::from(u32::try_from(at).unwrap()) / 3.0);
        }
        let mut again: Keyed<f64> = Keyed::new(10, 0);
        again.load(&table.save()).unwrap();
        assert!(table.iter().eq(again.iter()));
        assert!(again.load(b"nonsense that is too long").is_err());
    }
}
