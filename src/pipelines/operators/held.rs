//! What waits in an operator: events in the form in which they are kept, and the times at which keys are due.
//!
//! A held event stays the [`Record`] that came, which costs nothing; it is written out only where the operator's state is. When it is let go it is a tree in any case: steps behind it
//! must see the same whether or not the state was read back meanwhile, and as JSON it may be written otherwise than it came (names sorted, no spaces, numbers in their shortest form).

use std::collections::BTreeSet;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use crate::event::{Lane, RoomName};
use crate::pipelines::record::Record;

/// An event that waits.
#[derive(Debug, Clone)]
pub(super) struct Held(Record);

impl Held {
    /// Holds an event.
    pub(super) fn of(record: &Record) -> Self {
        Self(record.clone())
    }

    /// The event.
    pub(super) fn record(&self) -> &Record {
        &self.0
    }

    /// Lets the event go, as a tree.
    pub(super) fn into_record(mut self) -> Record {
        self.0.tree();
        self.0
    }
}

/// A held event, written out.
#[derive(Serialize, Deserialize)]
struct Kept {
    room: String,
    seq: u64,
    kind: SmolStr,
    key: Option<SmolStr>,
    priority: u8,
    timestamp_ms: u64,
    arrived_ms: u64,
    change: bool,
    json: String,
}

impl Serialize for Held {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.0;
        let kept = Kept {
            room: record.room.as_str().to_owned(),
            seq: record.seq,
            kind: record.kind.clone(),
            key: record.key.clone(),
            priority: u8::try_from(record.priority.index()).unwrap_or(u8::MAX),
            timestamp_ms: record.timestamp_ms,
            arrived_ms: record.arrived_ms,
            change: record.change,
            json: String::from_utf8_lossy(&record.json()).into_owned(),
        };
        kept.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kept = Kept::deserialize(deserializer)?;
        let room = RoomName::stored(&kept.room).map_err(D::Error::custom)?;
        let priority = Lane::ALL.get(usize::from(kept.priority)).ok_or_else(|| D::Error::custom("no such priority"))?;
        // What cannot be parsed is null, as for every operator that asks for all of an event's data.
        let data = crate::pipelines::json::parse(kept.json.as_bytes());
        let mut record = Record::made(room, &kept.kind, kept.key, kept.timestamp_ms, kept.arrived_ms, data);
        (record.seq, record.priority, record.change) = (kept.seq, *priority, kept.change);
        Ok(Self(record))
    }
}

/// When keys are due: the soonest first, and of those at the same time in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Timetable(BTreeSet<(u64, SmolStr)>);

impl Timetable {
    /// Enters a key.
    pub(super) fn add(&mut self, due_ms: u64, key: &SmolStr) {
        self.0.insert((due_ms, key.clone()));
    }

    /// Strikes a key off, if it is there for this time.
    pub(super) fn remove(&mut self, due_ms: u64, key: &SmolStr) {
        self.0.remove(&(due_ms, key.clone()));
    }

    /// The soonest time.
    pub(super) fn first_ms(&self) -> Option<u64> {
        self.0.first().map(|(due_ms, _)| *due_ms)
    }

    /// Takes off the next key that is due by now.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<SmolStr> {
        self.first_ms().filter(|due_ms| *due_ms <= now_ms)?;
        self.0.pop_first().map(|(_, key)| key)
    }
}

impl FromIterator<(u64, SmolStr)> for Timetable {
    fn from_iter<I: IntoIterator<Item = (u64, SmolStr)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::pipelines::field::Extractor;
    use crate::pipelines::operator::{load, save};
    use serde_json::json;

    #[test]
    fn a_held_event_comes_back_from_the_state_as_it_was() {
        for (lane, key) in Lane::ALL.into_iter().zip([None, Some("a"), Some(""), Some("é/\"")]) {
            let data = json!({ "z": [1, 2.5, null], "a": { "x": 0.1, "big": u64::MAX } });
            let room = RoomName::parse("in:7").unwrap();
            let mut record = Record::made(room, "sample", key.map(Into::into), 12, 34, data);
            (record.seq, record.priority, record.change) = (u64::MAX, lane, key.is_none());
            let again: Held = load(&save(&Held::of(&record))).unwrap();
            assert_eq!(format!("{:?}", again.into_record()), format!("{record:?}"));
        }
    }

    #[test]
    fn what_goes_on_is_the_same_whether_or_not_the_state_was_read_back() {
        let room = RoomName::parse("in").unwrap();
        let record = Record::made(room, "sample", None, 0, 0, json!(null));
        let record = record.given(r#"{ "z": 1e2, "a": "\u00e9" }"#.into(), &Extractor::default());
        let again: Held = load(&save(&Held::of(&record))).unwrap();
        let [kept, held] = [again, Held::of(&record)].map(|held| format!("{:?}", held.into_record()));
        assert_eq!(kept, held);
    }

    #[test]
    fn keys_are_due_in_the_order_of_their_times_and_no_sooner() {
        let mut due: Timetable =
            [(20, "b".into()), (10, "c".into()), (20, "a".into()), (30, "d".into())].into_iter().collect();
        due.remove(10, &"a".into());
        assert_eq!((due.first_ms(), due.take(9)), (Some(10), None));
        let taken: Vec<SmolStr> = std::iter::from_fn(|| due.take(20)).collect();
        assert_eq!((taken.join(" "), due.first_ms()), ("c a b".to_owned(), Some(30)));
    }
}
