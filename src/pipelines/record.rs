//! An event on its way through a pipeline: what it is, its data as far as it was read, and what operators have made of it.
//!
//! Data stays the JSON that came in until an operator changes it; it is parsed whole only then. Nothing is written as JSON between operators.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use smol_str::SmolStr;

use super::field::{Extractor, Field, Path, Scalar, Slots, step_into};
use super::json;
use crate::event::{Event, Lane, RoomName};

/// An event on its way.
#[derive(Debug, Clone)]
pub struct Record {
    /// The room it came from.
    pub room: RoomName,
    /// Its number there; of a made one, that of the event that gave rise to it, 0 if it was the clock.
    pub seq: u64,
    /// What kind of thing happened.
    pub kind: SmolStr,
    /// What it is about.
    pub key: Option<SmolStr>,
    /// How urgent it is.
    pub priority: Lane,
    /// When it happened, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// When it arrived, in milliseconds since 1970.
    pub arrived_ms: u64,
    /// Whether it is a change of its room's state: then its data is a merge patch (RFC 7396) of the room's whole table.
    pub change: bool,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    /// As it came in, and the fields that were read of it.
    Raw(Bytes, Slots),
    /// As an operator made it.
    Tree(Box<Value>),
}

/// A field's value, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Got<'r> {
    /// There is none.
    Missing,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text.
    Text(&'r str),
    /// A list or an object.
    Tree(&'r Value),
}

impl<'r> Got<'r> {
    /// A value of a tree.
    #[must_use]
    pub fn of(value: &'r Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => Self::Text(text),
            tree => Self::Tree(tree),
        }
    }

    fn of_scalar(scalar: &'r Scalar) -> Self {
        match scalar {
            Scalar::Missing => Self::Missing,
            Scalar::Null => Self::Null,
            Scalar::Bool(flag) => Self::Bool(*flag),
            Scalar::Number(number) => Self::Number(*number),
            Scalar::Text(text) => Self::Text(text),
            Scalar::Tree(tree) => Self::Tree(tree),
        }
    }

    /// What it is, in a word.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Missing => "nothing",
            Self::Null => "null",
            Self::Bool(_) => "a flag",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::Tree(Value::Array(_)) => "a list",
            Self::Tree(_) => "an object",
        }
    }

    /// Text, a number or a flag as text; `None` for anything else.
    #[must_use]
    pub fn as_text(&self) -> Option<SmolStr> {
        match self {
            Self::Text(text) => Some((*text).into()),
            Self::Number(number) => Some(number_text(*number)),
            Self::Bool(flag) => Some(if *flag { "true".into() } else { "false".into() }),
            Self::Missing | Self::Null | Self::Tree(_) => None,
        }
    }

    /// As JSON; missing is `null`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Missing | Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(number) => number_value(*number),
            Self::Text(text) => Value::from(*text),
            Self::Tree(tree) => (*tree).clone(),
        }
    }
}

/// The largest number up to which every whole one can be told from the next.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A number as JSON: whole ones without a point, and `null` for what JSON cannot say.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "it is whole and in range")]
pub fn number_value(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < WHOLE_MAX {
        return Value::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// A number as text, as it stands in JSON.
#[must_use]
pub fn number_text(number: f64) -> SmolStr {
    SmolStr::from(number_value(number).to_string())
}

impl Record {
    /// An event, with the fields that its pipeline reads.
    #[must_use]
    pub fn of(event: &Arc<Event>, extractor: &Extractor) -> Self {
        let data = Data::Raw(event.data_bytes(), extractor.extract(event.data()));
        Self {
            room: event.room.name().clone(),
            seq: event.seq,
            kind: event.kind.clone(),
            key: event.key.clone(),
            priority: event.priority,
            timestamp_ms: event.timestamp_ms,
            arrived_ms: event.arrived_ms,
            change: event.change,
            data,
        }
    }

    /// An event that an operator makes, about the same thing as this one: room, seq, key, priority and times are this one's.
    #[must_use]
    pub fn derived(&self, kind: &str, data: Value) -> Self {
        Self { kind: kind.into(), data: Data::Tree(Box::new(data)), ..self.without_data() }
    }

    fn without_data(&self) -> Self {
        Self {
            room: self.room.clone(),
            seq: self.seq,
            kind: self.kind.clone(),
            key: self.key.clone(),
            priority: self.priority,
            timestamp_ms: self.timestamp_ms,
            arrived_ms: self.arrived_ms,
            change: false,
            data: Data::Tree(Box::default()),
        }
    }

    /// An event that the clock makes: no event gave rise to it.
    #[must_use]
    pub fn made(room: RoomName, kind: &str, key: Option<SmolStr>, time_ms: u64, now_ms: u64, data: Value) -> Self {
        Self {
            room,
            seq: 0,
            kind: kind.into(),
            key,
            priority: Lane::Normal,
            timestamp_ms: time_ms,
            arrived_ms: now_ms,
            change: false,
            data: Data::Tree(Box::new(data)),
        }
    }

    /// An event as a test or a stored line gives it.
    #[must_use]
    pub fn given(self, json: Bytes, extractor: &Extractor) -> Self {
        let slots = extractor.extract(&json);
        Self { change: false, data: Data::Raw(json, slots), ..self }
    }

    /// A field's value.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "numbers are as JavaScript has them")]
    pub fn get(&self, field: &Field) -> Got<'_> {
        match field {
            Field::Data(path) => self.in_data(path),
            Field::Key => self.key.as_deref().map_or(Got::Missing, Got::Text),
            Field::Kind => Got::Text(&self.kind),
            Field::Room => Got::Text(self.room.as_str()),
            Field::Priority => Got::Text(self.priority.name()),
            Field::Seq => Got::Number(self.seq as f64),
            Field::Timestamp => Got::Number(self.timestamp_ms as f64),
            Field::Arrived => Got::Number(self.arrived_ms as f64),
        }
    }

    /// What lies at a path of its data.
    #[must_use]
    pub fn in_data(&self, path: &Path) -> Got<'_> {
        match &self.data {
            Data::Raw(_, slots) => slots.get(path.slot).map_or(Got::Missing, Got::of_scalar),
            Data::Tree(tree) => {
                let found = path.names.iter().try_fold(&**tree, |value, name| step_into(value, name));
                found.map_or(Got::Missing, Got::of)
            }
        }
    }

    /// A number, or what is there instead.
    ///
    /// # Errors
    /// What is there instead.
    pub fn number(&self, field: &Field) -> Result<f64, Got<'_>> {
        match self.get(field) {
            Got::Number(number) => Ok(number),
            got => Err(got),
        }
    }

    /// Its data as a tree, to be changed. Parsed now if it was not.
    pub fn tree(&mut self) -> &mut Value {
        if let Data::Raw(json, _) = &self.data {
            // It was checked when it came in.
            self.data = Data::Tree(Box::new(json::parse(json)));
        }
        match &mut self.data {
            Data::Tree(tree) => tree,
            Data::Raw(..) => unreachable!("it was made a tree just now"),
        }
    }

    /// Its data as a value of its own.
    #[must_use]
    pub fn value(&self) -> Value {
        match &self.data {
            Data::Raw(json, _) => json::parse(json),
            Data::Tree(tree) => (**tree).clone(),
        }
    }

    /// Other data in place of its own.
    pub fn set_value(&mut self, value: Value) {
        self.data = Data::Tree(Box::new(value));
    }

    /// Its data as JSON: as it came in, unless it was changed.
    #[must_use]
    pub fn json(&self) -> Bytes {
        match &self.data {
            Data::Raw(json, _) => json.clone(),
            Data::Tree(tree) => tree.to_string().into(),
        }
    }
}
