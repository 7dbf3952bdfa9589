//! The tables of the rooms whose state a pipeline keeps: a value by key, made of the events that it sends there, and changes said as merge patches (RFC 7396) of a room's whole table.
//!
//! Values are kept as JSON text, which weighs a fraction of what it weighs parsed, and are parsed when they change. Bound: `keys_max` keys a room; a room whose table is empty takes no place.
//! As a merge patch cannot say `null`, members of objects that are `null` are not kept, and data that is `null` takes its key away.

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::merge;
use super::operator::{self, BadState};
use super::target::StateRules;
use crate::event::RoomName;

/// The hasher's seeds are fixed, though the order of an index map does not depend on its hashes.
type Hasher = std::hash::BuildHasherDefault<ahash::AHasher>;

/// The tables of all rooms whose state a pipeline keeps.
#[derive(Debug, Default)]
pub struct States {
    rooms: IndexMap<RoomName, Table, Hasher>,
    /// No key is old before, in milliseconds since 1970.
    due_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct Table {
    entries: IndexMap<SmolStr, Entry, Hasher>,
    /// After so many milliseconds without an event a key goes; 0 for never.
    expire_ms: u64,
    next_look_ms: u64,
}

#[derive(Debug)]
struct Entry {
    updated_ms: u64,
    json: Bytes,
}

/// A room as it is written down: its name, after what time its keys go, when they are looked through next, and each key with the time of its last event and its value.
type Kept<R, K, J> = (R, u64, u64, Vec<(K, u64, J)>);

/// A change of a room's table.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The merge patch of the whole table: the key, and under it the patch of its value, or `null` if the key is gone.
    pub patch: Value,
    /// The key's whole new value as JSON; `None` if the key is gone.
    pub value: Option<Bytes>,
}

/// A room's table has as many keys as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the room's state has as many keys as state_keys_max allows")]
pub struct TooMany;

impl States {
    /// Enters an event's data under its key. `None` if that changes nothing; it counts as an event about the key all the same.
    ///
    /// # Errors
    /// [`TooMany`], where the key is new.
    pub fn apply(
        &mut self,
        room: &RoomName,
        key: &str,
        data: Value,
        rules: &StateRules,
        now_ms: u64,
    ) -> Result<Option<Change>, TooMany> {
        if data.is_null() {
            return Ok(self.remove(room, key));
        }
        let table = self.rooms.entry(room.clone()).or_default();
        if table.entries.is_empty() || table.expire_ms != rules.expire_ms {
            table.expire_ms = rules.expire_ms;
            // Of keys that came under other rules some may be old already.
            let pause = if table.entries.is_empty() { rules.expire_ms } else { 0 };
            table.next_look_ms = now_ms.saturating_add(pause);
            self.due_ms = self.due_ms.into_iter().chain(table.due_ms()).min();
        }
        let at = table.entries.get_index_of(key);
        if at.is_none() && table.entries.len() >= rules.keys_max {
            return Err(TooMany);
        }
        let before = at.map_or(Value::Null, |at| table.entries[at].value());
        let after = if rules.merge {
            let mut after = before.clone();
            merge::apply(&mut after, &data);
            after
        } else {
            merge::without_nulls(data)
        };
        let patch = merge::diff(&before, &after);
        let entry = match at {
            Some(at) => &mut table.entries[at],
            None => table.entries.entry(key.into()).or_insert(Entry { updated_ms: now_ms, json: Bytes::new() }),
        };
        entry.updated_ms = now_ms;
        Ok(patch.map(|patch| {
            entry.json = exact(&after);
            Change { patch: of_key(key, patch), value: Some(entry.json.clone()) }
        }))
    }

    fn remove(&mut self, room: &RoomName, key: &str) -> Option<Change> {
        let table = self.rooms.get_mut(room)?;
        table.entries.swap_remove(key)?;
        if table.entries.is_empty() {
            self.rooms.swap_remove(room);
        }
        Some(Change { patch: of_key(key, Value::Null), value: None })
    }

    /// Takes away the keys about which there was no event for as long as their room's rules say, and says which; in the order in which they were kept. Late by up to an eighth of that
    /// time, so that not all keys are looked at all the time.
    pub fn expire(&mut self, now_ms: u64) -> Vec<(RoomName, SmolStr)> {
        let mut gone = Vec::new();
        if self.due_ms.is_none_or(|due| due > now_ms) {
            return gone;
        }
        for (room, table) in &mut self.rooms {
            gone.extend(table.expire(now_ms).into_iter().map(|key| (room.clone(), key)));
        }
        self.rooms.retain(|_, table| !table.entries.is_empty());
        self.due_ms = self.rooms.values().filter_map(Table::due_ms).min();
        gone
    }

    /// Keeps only the tables of some rooms.
    pub fn retain(&mut self, keep: impl Fn(&RoomName) -> bool) {
        self.rooms.retain(|room, _| keep(room));
    }

    /// When [`States::expire`] wants to be called next, in milliseconds since 1970.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// How many keys there are in all rooms together.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.rooms.values().map(|table| table.entries.len()).sum()
    }

    /// The rooms whose tables are not empty.
    pub fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.rooms.keys()
    }

    /// A room's table: its keys, and the value of each as JSON. `None` if it is empty.
    #[must_use]
    pub fn table<'s>(&'s self, room: &RoomName) -> Option<impl Iterator<Item = (&'s SmolStr, &'s Bytes)> + use<'s>> {
        self.rooms.get(room).map(|table| table.entries.iter().map(|(key, entry)| (key, &entry.json)))
    }

    /// The tables, to be kept.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let rooms = self.rooms.iter().map(|(room, table)| {
            let entries = table.entries.iter().map(|(key, entry)| (key.as_str(), entry.updated_ms, entry.text()));
            (room.as_str(), table.expire_ms, table.next_look_ms, entries.collect::<Vec<_>>())
        });
        operator::save(&rooms.collect::<Vec<Kept<&str, &str, &str>>>())
    }

    /// Takes tables that were kept, in place of its own.
    ///
    /// # Errors
    /// [`BadState`].
    pub fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        let kept: Vec<Kept<String, SmolStr, String>> = operator::load(state)?;
        let rooms = kept.into_iter().map(|(room, expire_ms, next_look_ms, entries)| {
            let entries =
                entries.into_iter().map(|(key, updated_ms, json)| (key, Entry { updated_ms, json: json.into() }));
            let room = RoomName::parse(&room).map_err(|_| BadState)?;
            Ok((room, Table { entries: entries.collect(), expire_ms, next_look_ms }))
        });
        self.rooms = rooms.collect::<Result<_, BadState>>()?;
        self.due_ms = self.rooms.values().filter_map(Table::due_ms).min();
        Ok(())
    }
}

impl Table {
    fn due_ms(&self) -> Option<u64> {
        (self.expire_ms > 0).then_some(self.next_look_ms)
    }

    fn expire(&mut self, now_ms: u64) -> Vec<SmolStr> {
        let mut gone = Vec::new();
        if self.due_ms().is_none_or(|due| due > now_ms) {
            return gone;
        }
        let (expire_ms, mut oldest_ms) = (self.expire_ms, now_ms);
        self.entries.retain(|key, entry| {
            let stays = entry.updated_ms.saturating_add(expire_ms) > now_ms;
            if stays {
                oldest_ms = oldest_ms.min(entry.updated_ms);
            } else {
                gone.push(key.clone());
            }
            stays
        });
        let soonest_ms = now_ms.saturating_add((expire_ms / 8).max(1));
        self.next_look_ms = oldest_ms.saturating_add(expire_ms).max(soonest_ms);
        gone
    }
}

impl Entry {
    fn value(&self) -> Value {
        // We have written it ourselves.
        super::json::parse(&self.json)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.json).unwrap_or("null")
    }
}

/// The value as JSON, in no more bytes than it needs.
fn exact(value: &Value) -> Bytes {
    value.to_string().into_boxed_str().into_boxed_bytes().into()
}

fn of_key(key: &str, patch: Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), patch)]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::pipelines::merge::tests::any_json;
    use proptest::prelude::*;
    use serde_json::json;

    const REPLACE: StateRules = StateRules { merge: false, keys_max: 3, expire_ms: 0 };
    const MERGE: StateRules = StateRules { merge: true, ..REPLACE };

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn table(states: &States, room: &RoomName) -> Value {
        let entries = states.table(room).into_iter().flatten();
        Value::Object(entries.map(|(key, json)| (key.to_string(), serde_json::from_slice(json).unwrap())).collect())
    }

    fn change(patch: Value, value: Option<&str>) -> Result<Option<Change>, TooMany> {
        Ok(Some(Change { patch, value: value.map(|json| Bytes::copy_from_slice(json.as_bytes())) }))
    }

    #[test]
    fn a_change_is_a_patch_of_the_whole_table_and_what_changes_nothing_is_none() {
        let (mut states, room) = (States::default(), room("r"));
        let mut apply = |data, rules| states.apply(&room, "k", data, rules, 0);
        assert_eq!(apply(json!({"a": 1, "n": null}), &REPLACE), change(json!({"k": {"a": 1}}), Some("{\"a\":1}")));
        assert_eq!(apply(json!({"a": 1}), &REPLACE), Ok(None));
        assert_eq!(apply(json!({"b": 2}), &MERGE), change(json!({"k": {"b": 2}}), Some("{\"a\":1,\"b\":2}")));
        assert_eq!(apply(json!({"a": null}), &MERGE), change(json!({"k": {"a": null}}), Some("{\"b\":2}")));
        assert_eq!(apply(json!({"c": 3}), &REPLACE), change(json!({"k": {"b": null, "c": 3}}), Some("{\"c\":3}")));
        assert_eq!(apply(json!(7), &MERGE), change(json!({"k": 7}), Some("7")));
        assert_eq!(apply(Value::Null, &MERGE), change(json!({"k": null}), None));
        assert_eq!(apply(Value::Null, &REPLACE), Ok(None));
        assert_eq!((states.keys(), states.rooms().count(), states.table(&room).is_none()), (0, 0, true));
    }

    #[test]
    fn a_key_too_many_is_refused_in_its_room_only() {
        let mut states = States::default();
        for key in ["a", "b", "c"] {
            assert!(states.apply(&room("r"), key, json!(1), &REPLACE, 0).unwrap().is_some());
        }
        assert_eq!(states.apply(&room("r"), "d", json!(1), &REPLACE, 0), Err(TooMany));
        assert_eq!(states.apply(&room("r"), "d", Value::Null, &REPLACE, 0), Ok(None));
        assert!(states.apply(&room("r"), "a", json!(2), &REPLACE, 0).unwrap().is_some());
        assert!(states.apply(&room("other"), "d", json!(1), &REPLACE, 0).unwrap().is_some());
        assert_eq!(states.keys(), 4);
    }

    #[test]
    fn keys_go_when_nothing_was_said_of_them_and_a_repetition_says_something() {
        let rules = StateRules { expire_ms: 80, ..REPLACE };
        let mut states = States::default();
        for key in ["a", "b"] {
            states.apply(&room("r"), key, json!(1), &rules, 1000).unwrap();
        }
        states.apply(&room("never"), "x", json!(1), &REPLACE, 1000).unwrap();
        assert_eq!((states.due_ms(), states.apply(&room("r"), "b", json!(1), &rules, 1040)), (Some(1080), Ok(None)));
        assert!(states.expire(1079).is_empty());
        assert_eq!(states.expire(1080), [(room("r"), "a".into())]);
        assert_eq!(states.due_ms(), Some(1120));
        assert_eq!(states.expire(5000), [(room("r"), "b".into())]);
        assert_eq!((states.due_ms(), states.rooms().cloned().collect::<Vec<_>>()), (None, vec![room("never")]));
        // The rules of a room that has keys already are others now.
        states.apply(&room("never"), "y", json!(1), &rules, 6000).unwrap();
        assert_eq!(states.expire(6000), [(room("never"), "x".into())]);
    }

    #[test]
    fn what_is_no_state_is_not_taken() {
        assert_eq!(States::default().load(b"nonsense that is too long"), Err(BadState));
        let wrong: Vec<Kept<&str, &str, &str>> = vec![("no room", 0, 0, vec![])];
        assert_eq!(States::default().load(&operator::save(&wrong)), Err(BadState));
    }

    proptest! {
        #[test]
        fn all_patches_on_nothing_make_the_table_and_a_restart_at_any_point_changes_nothing(
            steps in proptest::collection::vec(("[rs]", "[a-d]", any_json(), any::<bool>(), 0..40_u64), 1..40),
            restart_at in 0..40_usize,
        ) {
            let (mut states, mut again) = (States::default(), States::default());
            let (mut folded, mut now_ms) = (json!({}), 0);
            let mut values: std::collections::BTreeMap<(String, String), Bytes> = std::collections::BTreeMap::new();
            for (at, (name, key, data, merge, wait_ms)) in steps.into_iter().enumerate() {
                if at == restart_at {
                    let mut fresh = States::default();
                    fresh.load(&again.save()).unwrap();
                    again = fresh;
                }
                now_ms += wait_ms;
                let room = room(&name);
                let rules = StateRules { merge, keys_max: 3, expire_ms: if name == "r" { 64 } else { 0 } };
                let gone = states.expire(now_ms);
                prop_assert_eq!(&gone, &again.expire(now_ms));
                for (room, key) in gone {
                    merge::apply(&mut folded, &json!({ room.as_str(): { key.as_str(): null } }));
                    values.remove(&(room.to_string(), key.to_string()));
                }
                let change = states.apply(&room, &key, data.clone(), &rules, now_ms);
                prop_assert_eq!(&change, &again.apply(&room, &key, data, &rules, now_ms));
                if let Ok(Some(change)) = change {
                    merge::apply(&mut folded, &json!({ name.as_str(): change.patch }));
                    match change.value {
                        Some(json) => drop(values.insert((name.clone(), key), json)),
                        None => drop(values.remove(&(name.clone(), key))),
                    }
                }
                for name in ["r", "s"] {
                    let kept = table(&states, &RoomName::parse(name).unwrap());
                    prop_assert_eq!(&kept, &folded.get(name).cloned().unwrap_or_else(|| json!({})));
                    let whole = values.iter().filter(|((room, _), _)| room == name);
                    let whole = whole.map(|((_, key), json)| (key.clone(), serde_json::from_slice(json).unwrap()));
                    prop_assert_eq!(kept, Value::Object(whole.collect()));
                }
                prop_assert_eq!(states.save(), again.save());
            }
        }
    }
}
