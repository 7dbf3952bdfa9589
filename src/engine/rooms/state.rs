//! A room's state: a table by key, as the pipeline that keeps it last said. The pipeline publishes changes; the room's actor enters each in the moment it is numbered, so that a newcomer's
//! snapshot and the changes after it join without a seam.
//!
//! Kept as JSON, a text for each key. A snapshot is made when somebody asks for one after a change, and shared until the next change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use indexmap::IndexMap;
use smol_str::SmolStr;

use crate::event::Change;
use crate::event::encode::write_json_text;

/// How many tables there have been, so that each has a number.
static TABLES: AtomicU64 = AtomicU64::new(0);

/// The table of a room.
#[derive(Debug)]
pub(super) struct RoomState {
    /// Its number in this process: another table of the same room has another.
    number: u64,
    table: IndexMap<SmolStr, Bytes, ahash::RandomState>,
    bytes: usize,
    made: Option<Arc<Snapshot>>,
}

/// A room's state at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Every change up to this seq is in it.
    pub seq: u64,
    /// How many keys it has.
    pub keys: usize,
    /// The table as a JSON object.
    pub json: Bytes,
}

impl RoomState {
    /// A table as it is given.
    pub(super) fn of(table: Vec<(SmolStr, Bytes)>) -> Self {
        let bytes = table.iter().map(|(key, value)| key.len() + value.len()).sum();
        let number = TABLES.fetch_add(1, Ordering::Relaxed);
        Self { number, table: table.into_iter().collect(), bytes, made: None }
    }

    /// Enters a change.
    pub(super) fn apply(&mut self, change: Change) {
        self.made = None;
        let weight = change.key.len();
        let old = match change.value {
            Some(value) => {
                self.bytes += weight + value.len();
                self.table.insert(change.key, value)
            }
            None => self.table.swap_remove(&change.key),
        };
        self.bytes -= old.map_or(0, |old| weight + old.len());
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.table.get(key).cloned()
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many keys, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.table.len(), self.bytes)
    }

    /// The table now, every change up to `seq` in it.
    pub(super) fn snapshot(&mut self, seq: u64) -> Arc<Snapshot> {
        if let Some(made) = &self.made
            && made.seq == seq
        {
            return Arc::clone(made);
        }
        let json = match &self.made {
            // Nothing has changed, though other events have come.
            Some(made) => made.json.clone(),
            None => self.json(),
        };
        let made = Arc::new(Snapshot { seq, keys: self.table.len(), json });
        self.made = Some(Arc::clone(&made));
        made
    }

    fn json(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes + self.table.len() * 6 + 2);
        out.put_u8(b'{');
        let mut name = String::new();
        for (at, (key, value)) in self.table.iter().enumerate() {
            name.clear();
            name.push_str(if at == 0 { "" } else { "," });
            write_json_text(key, &mut name);
            name.push(':');
            out.put_slice(name.as_bytes());
            out.put_slice(value);
        }
        out.put_u8(b'}');
        out.freeze()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>) -> Change {
        Change { key: key.into(), value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())) }
    }

    #[test]
    fn a_snapshot_is_the_table_after_all_changes_and_is_shared_until_the_next() {
        let mut state = RoomState::of(vec![("a".into(), Bytes::from_static(b"1"))]);
        state.apply(change("b\"", Some("{\"x\":2}")));
        state.apply(change("a", None));
        state.apply(change("b\"", Some("{\"x\":3}")));
        let made = state.snapshot(7);
        assert_eq!((made.seq, made.keys, &made.json[..]), (7, 1, &br#"{"b\"":{"x":3}}"#[..]));
        assert!(Arc::ptr_eq(&made, &state.snapshot(7)));
        assert_eq!(state.snapshot(8).json.as_ptr(), made.json.as_ptr(), "the same bytes at another seq");
        assert_eq!(state.size(), (1, 2 + 7));
    }
}
