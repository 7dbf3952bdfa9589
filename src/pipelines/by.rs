//! What events are told apart by: the group that an event belongs to.

use smallvec::SmallVec;
use smol_str::SmolStr;

use super::field::Field;
use super::record::{Got, Record};

/// What events are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By(pub SmallVec<[Field; 1]>);

impl By {
    /// By the event's own key; events without one are one group.
    #[must_use]
    pub fn event_key() -> Self {
        Self(smallvec::smallvec![Field::Key])
    }

    /// The group that a record belongs to: its fields as text, with a slash between several. Empty for an event without a key, where that is what is asked for.
    ///
    /// # Errors
    /// The field that it does not have, or that is no text, number or flag.
    pub fn of(&self, record: &Record) -> Result<SmolStr, &Field> {
        if let [field] = &self.0[..] {
            return text_of(field, record);
        }
        let mut joined = String::new();
        for (at, field) in self.0.iter().enumerate() {
            if at > 0 {
                joined.push('/');
            }
            joined.push_str(&text_of(field, record)?);
        }
        Ok(joined.into())
    }
}

fn text_of<'f>(field: &'f Field, record: &Record) -> Result<SmolStr, &'f Field> {
    match record.get(field) {
        Got::Text(text) => Ok(text.into()),
        Got::Missing if *field == Field::Key => Ok(SmolStr::default()),
        got => got.as_text().ok_or(field),
    }
}
