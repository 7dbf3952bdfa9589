//! A part of what `gather` gives out: how it takes an event in, how many bytes of JSON that makes, and what it says in the end.

use std::collections::VecDeque;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::super::batch::text_bytes;
use super::super::place::no_object;
use crate::pipelines::by::By;
use crate::pipelines::expression::Expression;
use crate::pipelines::operator::Context;
use crate::pipelines::record::{Got, Record};
use crate::pipelines::why::Why;
use crate::pipelines::{json, merge};

/// `"":[],"_omitted":18446744073709551615,"_removed":[],`, in bytes, the name aside.
const ENVELOPE_BYTES: usize = 52;

/// The hasher's seeds are fixed, though the order of an index map does not depend on its hashes.
type Table<V> = IndexMap<SmolStr, V, std::hash::BuildHasherDefault<ahash::AHasher>>;

/// A part, as the settings say.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) condition: Option<Expression>,
    pub(super) room: Option<crate::event::Pattern>,
    pub(super) form: Form,
    /// Whether it is in every result.
    pub(super) always: bool,
    pub(super) bytes_max: usize,
}

/// What becomes of the events' data.
#[derive(Debug)]
pub(super) enum Form {
    /// The newest, in order.
    List { max: usize },
    /// The newest of each key.
    Rows { key: By, key_as: Option<String>, max: usize, keys_max: usize },
    /// All merged; of a state's changes those of this key.
    Object { of: SmolStr },
    /// The newest alone.
    Last,
}

/// What was gathered for a part, and what it keeps. All as JSON, which weighs a fraction of what it weighs parsed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Gathered {
    List {
        bytes: usize,
        items: VecDeque<String>,
        omitted: u64,
    },
    Rows {
        bytes: usize,
        /// What has changed; `None` where the row is gone.
        #[serde(with = "pairs")]
        changed: Table<Option<String>>,
        #[serde(with = "pairs")]
        kept: Table<String>,
    },
    One {
        changed: bool,
        json: Option<String>,
    },
}

/// What an event makes of a part.
#[derive(Debug)]
pub(super) enum Update {
    Item(String),
    Row(SmolStr, Option<String>),
    One(Option<String>),
}

/// What an event makes of a part; of a state's change several rows may come.
pub(super) type Updates = SmallVec<[Update; 1]>;

fn one(update: Update) -> Updates {
    let mut updates = Updates::new();
    updates.push(update);
    updates
}

/// What was kept as JSON, or `null`.
fn parsed(json: Option<&String>) -> Value {
    json.map(|json| json::parse(json.as_bytes())).unwrap_or_default()
}

/// A value as JSON, if there is one.
fn written(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| value.to_string())
}

impl Part {
    /// A part of which nothing is known yet.
    pub(super) fn begin(&self) -> Gathered {
        match self.form {
            Form::List { .. } => Gathered::List { bytes: 0, items: VecDeque::new(), omitted: 0 },
            Form::Rows { .. } => Gathered::Rows { bytes: 0, changed: Table::default(), kept: Table::default() },
            Form::Object { .. } | Form::Last => Gathered::One { changed: false, json: None },
        }
    }

    /// Whether what was kept is this part's.
    pub(super) fn fits(&self, gathered: &Gathered) -> bool {
        matches!(
            (&self.form, gathered),
            (Form::List { .. }, Gathered::List { .. })
                | (Form::Rows { .. }, Gathered::Rows { .. })
                | (Form::Object { .. } | Form::Last, Gathered::One { .. })
        )
    }

    /// Bytes of JSON that it may take beside what was gathered.
    pub(super) fn envelope(&self) -> usize {
        3 * self.name.len() + ENVELOPE_BYTES
    }

    fn row_bytes(&self, key: &str, row: Option<&String>) -> usize {
        match (row, &self.form) {
            (None, _) => text_bytes(key) + 3,
            (Some(json), Form::Rows { key_as: Some(name), .. }) => json.len() + text_bytes(name) + text_bytes(key) + 7,
            (Some(json), _) => json.len() + 1,
        }
    }

    /// A value for an object or a row, if it is not larger than all may be.
    fn bounded(&self, value: &Value) -> Result<Option<String>, (String, Why)> {
        let json = written(value);
        match json.as_ref().map_or(0, String::len) {
            bytes if bytes > self.bytes_max => {
                let why = format!("{} would have {bytes} bytes; bytes_max allows {}", self.name, self.bytes_max);
                Err(("data".to_owned(), Why::Other(why)))
            }
            _ => Ok(json),
        }
    }

    /// What an event makes of this part. Rows of a state's change that cannot be are refused one by one.
    pub(super) fn updates(
        &self,
        gathered: &mut Gathered,
        record: &Record,
        cx: &mut Context<'_>,
    ) -> Result<Updates, (String, Why)> {
        let data = record.value();
        match (&self.form, gathered) {
            (Form::Rows { keys_max, .. }, Gathered::Rows { kept, .. }) if record.change => {
                let Value::Object(changes) = data else { return Err(("data".to_owned(), no_object(&data))) };
                let mut updates = Updates::new();
                for (key, patch) in changes {
                    match self.changed_row(kept, *keys_max, &key, &patch) {
                        Ok(row) => updates.push(Update::Row(key.into(), row)),
                        Err((field, why)) => drop(cx.reject(record, field, why)),
                    }
                }
                Ok(updates)
            }
            (Form::Rows { key, keys_max, .. }, Gathered::Rows { kept, .. }) => {
                let key = key.of(record).map_err(|field| {
                    let expected = "text, a number or a flag";
                    let why = match record.get(field) {
                        Got::Missing => Why::Missing,
                        got => Why::Type { expected, found: got.type_name() },
                    };
                    (field.to_string(), why)
                })?;
                let row = self.checked_row(&data)?;
                self.keep(kept, *keys_max, &key, row.as_ref(), false)?;
                Ok(one(Update::Row(key, row)))
            }
            (Form::Object { of }, Gathered::One { json, .. }) if record.change => {
                let Value::Object(changes) = data else { return Err(("data".to_owned(), no_object(&data))) };
                let Some(patch) = changes.get(of.as_str()) else { return Ok(Updates::new()) };
                self.merged(json.as_ref(), patch)
            }
            (Form::Object { .. }, Gathered::One { json, .. }) => self.merged(json.as_ref(), &data),
            (Form::List { .. }, _) => Ok(one(Update::Item(data.to_string()))),
            _ => Ok(one(Update::One(Some(data.to_string())))),
        }
    }

    fn merged(&self, json: Option<&String>, patch: &Value) -> Result<Updates, (String, Why)> {
        if !patch.is_object() && !patch.is_null() {
            return Err(("data".to_owned(), no_object(patch)));
        }
        let mut value = parsed(json);
        merge::apply(&mut value, patch);
        Ok(one(Update::One(self.bounded(&value)?)))
    }

    /// The row that a merge patch makes; it is kept.
    fn changed_row(
        &self,
        kept: &mut Table<String>,
        keys_max: usize,
        key: &str,
        patch: &Value,
    ) -> Result<Option<String>, (String, Why)> {
        let mut value = parsed(kept.get(key));
        merge::apply(&mut value, patch);
        let row = self.checked_row(&value)?;
        self.keep(kept, keys_max, key, row.as_ref(), true)?;
        Ok(row)
    }

    fn checked_row(&self, value: &Value) -> Result<Option<String>, (String, Why)> {
        let wants_object = matches!(&self.form, Form::Rows { key_as: Some(_), .. });
        if wants_object && !value.is_object() && !value.is_null() {
            return Err(("data".to_owned(), no_object(value)));
        }
        self.bounded(value)
    }

    /// Keeps a row where it will be asked for: if all rows are given out always, and if it is one of a state, of which only changes come.
    fn keep(
        &self,
        kept: &mut Table<String>,
        keys_max: usize,
        key: &str,
        row: Option<&String>,
        of_state: bool,
    ) -> Result<(), (String, Why)> {
        let Some(row) = row else {
            kept.shift_remove(key);
            return Ok(());
        };
        if let Some(old) = kept.get_mut(key) {
            old.clone_from(row);
        } else if of_state || self.always {
            if kept.len() >= keys_max {
                return Err(("key".to_owned(), Why::TooManyKeys));
            }
            kept.insert(key.into(), row.clone());
        }
        Ok(())
    }

    /// How many bytes would be gathered with an update; `None` if there would be too many rows.
    pub(super) fn bytes_with(&self, gathered: &Gathered, update: &Update) -> Option<usize> {
        match (&self.form, gathered, update) {
            // What is always there is not counted.
            (Form::List { .. }, ..) if self.always => Some(0),
            (Form::List { max }, Gathered::List { bytes, items, .. }, Update::Item(json)) => {
                let oldest = if items.len() >= *max { items.front().map_or(0, |json| json.len() + 1) } else { 0 };
                Some(bytes + json.len() + 1 - oldest)
            }
            (Form::Rows { max, .. }, Gathered::Rows { bytes, changed, .. }, Update::Row(key, row)) => {
                let fresh = self.row_bytes(key, row.as_ref());
                match changed.get(key) {
                    Some(old) => Some(bytes + fresh - self.row_bytes(key, old.as_ref())),
                    None => (changed.len() < *max).then_some(bytes + fresh),
                }
            }
            (_, _, Update::One(json)) => Some(json.as_ref().map_or(4, String::len)),
            _ => Some(0),
        }
    }

    /// Takes an update in.
    pub(super) fn take(&self, gathered: &mut Gathered, update: Update) {
        let all = self.bytes_with(gathered, &update);
        match (&self.form, gathered, update) {
            (Form::List { max }, Gathered::List { bytes, items, omitted }, Update::Item(json)) => {
                *bytes = all.unwrap_or(*bytes);
                items.push_back(json);
                let is_long = |items: &VecDeque<String>| {
                    self.always && items.iter().map(|json| json.len() + 1).sum::<usize>() > self.bytes_max
                };
                while items.len() > *max || (items.len() > 1 && is_long(items)) {
                    items.pop_front();
                    *omitted += 1;
                }
            }
            (_, Gathered::Rows { bytes, changed, .. }, Update::Row(key, row)) => {
                *bytes = all.unwrap_or(*bytes);
                changed.insert(key, row);
            }
            (_, Gathered::One { changed, json }, Update::One(new)) => (*changed, *json) = (true, new),
            _ => {}
        }
    }

    /// Puts the part into the result, and begins anew.
    pub(super) fn give(&self, gathered: &mut Gathered, data: &mut Map<String, Value>) {
        match gathered {
            Gathered::List { bytes, items, omitted } => {
                if !items.is_empty() {
                    data.insert(self.name.clone(), items.iter().map(|json| json::parse(json.as_bytes())).collect());
                } else if self.always {
                    data.insert(self.name.clone(), Value::Array(Vec::new()));
                }
                if self.always {
                    return;
                }
                if *omitted > 0 {
                    data.insert(self.omitted(), Value::from(*omitted));
                }
                (*bytes, *omitted) = (0, 0);
                items.clear();
            }
            Gathered::Rows { bytes, changed, kept } => {
                if self.always {
                    self.give_all(kept, data);
                } else {
                    self.give_changed(changed, data);
                }
                *bytes = 0;
                changed.clear();
            }
            Gathered::One { changed, json } => {
                if *changed || (self.always && json.is_some()) {
                    data.insert(self.name.clone(), parsed(json.as_ref()));
                }
                *changed = false;
                if matches!(self.form, Form::Last) && !self.always {
                    *json = None;
                }
            }
        }
    }

    fn given_row(&self, key: &str, json: &str) -> Value {
        let mut row = json::parse(json.as_bytes());
        if let (Form::Rows { key_as: Some(name), .. }, Value::Object(fields)) = (&self.form, &mut row) {
            fields.insert(name.clone(), key.into());
        }
        row
    }

    fn give_changed(&self, changed: &Table<Option<String>>, data: &mut Map<String, Value>) {
        let rows = changed.iter().filter_map(|(key, row)| Some(self.given_row(key, row.as_ref()?)));
        let rows: Vec<Value> = rows.collect();
        if !rows.is_empty() {
            data.insert(self.name.clone(), rows.into());
        }
        let gone = changed.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| Value::from(key.as_str()));
        let gone: Vec<Value> = gone.collect();
        if !gone.is_empty() {
            data.insert(self.removed(), gone.into());
        }
    }

    fn give_all(&self, kept: &Table<String>, data: &mut Map<String, Value>) {
        let Form::Rows { max, .. } = &self.form else { return };
        let rows = kept.iter().take(*max).map(|(key, row)| self.given_row(key, row));
        data.insert(self.name.clone(), rows.collect());
        if kept.len() > *max {
            data.insert(self.omitted(), Value::from(kept.len() - max));
        }
    }

    /// What says how many were left out.
    pub(super) fn omitted(&self) -> String {
        format!("{}_omitted", self.name)
    }

    /// What says which rows are gone.
    pub(super) fn removed(&self) -> String {
        format!("{}_removed", self.name)
    }
}

impl Gathered {
    /// How many bytes of JSON were gathered.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::List { bytes, .. } | Self::Rows { bytes, .. } => *bytes,
            Self::One { changed: true, json } => json.as_ref().map_or(4, String::len),
            Self::One { .. } => 0,
        }
    }

    /// How many keys it keeps.
    pub(super) fn keys(&self) -> usize {
        match self {
            Self::Rows { kept, .. } => kept.len(),
            Self::List { .. } | Self::One { .. } => 0,
        }
    }
}

/// Tables as lists of pairs, which keep their order.
mod pairs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use smol_str::SmolStr;

    use super::Table;

    pub(super) fn serialize<S: Serializer, V: Serialize>(table: &Table<V>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(table.iter())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<Table<V>, D::Error> {
        Ok(Vec::<(SmolStr, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
