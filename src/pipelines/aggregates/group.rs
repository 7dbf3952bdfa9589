//! How events are put into groups, and what is kept of a group beside its figures.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::cell::Kept;
use crate::event::RoomName;
use crate::pipelines::by::By;
use crate::pipelines::field::Field;
use crate::pipelines::record::{Got, Record};
use crate::pipelines::section::Section;

/// A field's name as the name of a figure: dots are underscores, `data.` is left out.
pub(super) fn name_of(field: &Field) -> String {
    match field {
        Field::Data(path) if !path.names.is_empty() => path.names.join("_"),
        field => field.to_string(),
    }
}

/// Reads `as_kind`, the kind of the events that are made.
pub(crate) fn made_kind(section: &mut Section<'_, '_>, default: &'static str) -> SmolStr {
    let kind = section.text_if_given("as_kind").map_or(SmolStr::new_static(default), SmolStr::from);
    if kind.is_empty() || kind.chars().count() > 100 {
        section.fault("as_kind", "expected 1 to 100 characters");
    }
    kind
}

/// A group's key as an event's key: none if it is empty.
pub(crate) fn record_key(key: &str) -> Option<SmolStr> {
    (!key.is_empty()).then(|| key.into())
}

/// How events are put into groups.
#[derive(Debug)]
pub(crate) struct Grouping {
    by: By,
    /// How the fields of `by` are called in what comes out; none where the settings do not say `by`.
    names: Vec<String>,
}

impl Grouping {
    /// Reads `by`.
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Self {
        let said = section.has("by");
        let by = section.by("by");
        let names = if said { by.0.iter().map(name_of).collect() } else { Vec::new() };
        Self { by, names }
    }

    /// How the fields are called in what comes out.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The key of a record's group; where it is one text field it is not copied.
    ///
    /// # Errors
    /// The field that the record does not have, or that is no text, number or flag.
    pub(crate) fn key<'r>(&self, record: &'r Record) -> Result<Cow<'r, str>, &Field> {
        if let [field] = &self.by.0[..] {
            match record.get(field) {
                Got::Text(text) => return Ok(Cow::Borrowed(text)),
                Got::Missing if *field == Field::Key => return Ok(Cow::Borrowed("")),
                _ => {}
            }
        }
        self.by.of(record).map(|key| Cow::Owned(key.to_string()))
    }

    /// Puts the fields of `by` into an event's data.
    pub(crate) fn write(&self, about: &About, data: &mut Map<String, Value>) {
        for (name, value) in self.names.iter().zip(about.values.iter()) {
            data.insert(name.clone(), value.as_ref().map_or(Value::Null, Kept::to_value));
        }
    }
}

/// What is kept of a group beside its figures.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// That of its latest event.
    #[serde(with = "room_text")]
    room: RoomName,
    /// The values of the fields of `by`, as the group's first event had them.
    values: Box<[Option<Kept>]>,
}

impl About {
    /// A group that begins with a record.
    pub(crate) fn of(grouping: &Grouping, record: &Record) -> Self {
        let fields = grouping.by.0.iter().take(grouping.names.len());
        Self { room: record.room.clone(), values: fields.map(|field| Kept::of(record.get(field))).collect() }
    }

    /// Another event of the group.
    pub(crate) fn seen(&mut self, record: &Record) {
        if self.room != record.room {
            self.room = record.room.clone();
        }
    }

    /// The room of its latest event.
    pub(crate) fn room(&self) -> &RoomName {
        &self.room
    }
}

/// A room as its name.
mod room_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::event::RoomName;

    pub(super) fn serialize<S: Serializer>(room: &RoomName, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(room.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoomName, D::Error> {
        let text = String::deserialize(deserializer)?;
        RoomName::stored(&text).map_err(D::Error::custom)
    }
}
