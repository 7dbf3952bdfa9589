//! Names made from events: `well:{well_id}`.

use smol_str::SmolStr;

use super::field::{Field, Paths};
use super::record::{Got, Record};
use crate::event::{NameError, Pattern, RoomName};

/// The longest name that a template makes, in bytes; what is longer is no room's name and no key.
const MADE_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(SmolStr),
    Field(Field),
}

/// Text with fields in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Reads a template; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, paths: &mut Paths) -> Result<Self, String> {
        let (mut pieces, mut literal) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if after.starts_with(brace) {
                literal.push_str(brace);
                rest = &after[1..];
                continue;
            }
            let end = (brace == "{").then(|| after.find('}')).flatten();
            let Some(end) = end else { return Err(format!("{text:?} has a brace that stands alone")) };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Field(paths.field(after[..end].trim())?));
            rest = &after[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self(pieces))
    }

    /// The text where nothing in it depends on the event.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match &self.0[..] {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// What it makes of an event.
    ///
    /// # Errors
    /// The field that the event does not have, or that is no text, number or flag.
    pub fn render(&self, record: &Record) -> Result<SmolStr, &Field> {
        if let Some(text) = self.fixed() {
            return Ok(text.into());
        }
        let mut made = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => made.push_str(text),
                Piece::Field(field) => match record.get(field) {
                    Got::Text(text) => made.push_str(text),
                    got => made.push_str(&got.as_text().ok_or(field)?),
                },
            }
            if made.len() > MADE_BYTES {
                break;
            }
        }
        Ok(made.into())
    }

    /// The rooms whose names it can make, as far as that can be said: what stands before its first field.
    ///
    /// # Errors
    /// Where no room can be named so.
    pub fn rooms(&self) -> Result<Pattern, NameError> {
        for piece in &self.0 {
            if let Piece::Text(text) = piece
                && !text.is_empty()
            {
                // Each part must be of the letters that a name has.
                Pattern::parse(&format!("{text}*"))?;
            }
        }
        match (&self.0[..], self.fixed()) {
            (_, Some(text)) => RoomName::parse(text).map(Pattern::Room),
            ([Piece::Text(text), ..], None) => Pattern::parse(&format!("{text}*")),
            _ => Pattern::parse("*"),
        }
    }
}

/// Whether two patterns can mean the same room.
#[must_use]
pub fn overlap(one: &Pattern, other: &Pattern) -> bool {
    match (one, other) {
        (Pattern::Room(one), Pattern::Room(other)) => one == other,
        (Pattern::Room(room), prefix @ Pattern::Prefix(_)) | (prefix @ Pattern::Prefix(_), Pattern::Room(room)) => {
            prefix.matches(room)
        }
        (Pattern::Prefix(one), Pattern::Prefix(other)) => one.starts_with(&**other) || other.starts_with(&**one),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_in_braces_are_filled_in() {
        let mut paths = Paths::default();
        let template = Template::parse("well:{well_id}/{kind}{{x}}", &mut paths).unwrap();
        let room = RoomName::parse("in").unwrap();
        let record = Record::made(room, "k", None, 0, 0, json!({ "well_id": 7 }));
        assert_eq!(template.render(&record).unwrap(), "well:7/k{x}");
        assert!(template.rooms().is_err(), "no room has braces in its name");
        let rooms = Template::parse("well:{well_id}/x", &mut paths).unwrap().rooms();
        assert_eq!(rooms.unwrap(), Pattern::parse("well:*").unwrap());
        let without = Record::made(record.room.clone(), "k", None, 0, 0, json!({ "well_id": [1] }));
        assert_eq!(template.render(&without).unwrap_err().to_string(), "data.well_id");
    }

    #[test]
    fn a_brace_that_stands_alone_is_refused() {
        for wrong in ["a{b", "a}b", "{}", "{a..b}"] {
            assert!(Template::parse(wrong, &mut Paths::default()).is_err(), "{wrong}");
        }
    }
}
