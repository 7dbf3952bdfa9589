//! Names of rooms, and patterns over them.

use std::fmt;
use std::sync::Arc;

/// Names that begin so are the daemon's own: nobody can name them from outside.
const INTERNAL: &str = "_tidegate:";

/// The longest name, in characters.
pub const NAME_MAX: usize = 200;

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or over [`NAME_MAX`].
    #[error("a room's name has 1 to {NAME_MAX} characters, this one has {0}")]
    Length(usize),
    /// A character that is not allowed.
    #[error("a room's name has letters, digits and _ - . : / @ only, this one has {0:?}")]
    Character(char),
    /// A name of the daemon's own.
    #[error("names that begin with {INTERNAL} are the daemon's own")]
    Internal,
    /// A star that is not the last character.
    #[error("a pattern may have one *, at its end")]
    Star,
}

/// A room's name: 1 to 200 of `A-Z a-z 0-9 _ - . : / @`. Opaque: a slash in it is no path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text)?;
        if text.starts_with(INTERNAL) { Err(NameError::Internal) } else { Ok(Self(text.into())) }
    }

    /// A name of the daemon's own, which no client can name and no pattern matches.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn internal(text: &str) -> Result<Self, NameError> {
        Self::stored(&format!("{INTERNAL}{text}"))
    }

    /// Reads a name that was checked when it was written down.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn stored(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// Whether it is one of the daemon's own.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with(INTERNAL)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first colon; the whole name if there is none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str) -> Result<(), NameError> {
    if let Some(wrong) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"_-.:/@".contains(*c)) {
        return Err(NameError::Character(wrong));
    }
    let length = text.len();
    if (1..=NAME_MAX).contains(&length) { Ok(()) } else { Err(NameError::Length(length)) }
}

/// What a subscription asks for: one room, or all whose names begin so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// One room.
    Room(RoomName),
    /// `well:*`: all rooms whose name begins with this; empty for all rooms there are.
    Prefix(Arc<str>),
}

impl Pattern {
    /// Checks a name or a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(prefix) = text.strip_suffix('*') else {
            return if text.contains('*') { Err(NameError::Star) } else { RoomName::parse(text).map(Self::Room) };
        };
        if prefix.contains('*') {
            return Err(NameError::Star);
        }
        if !prefix.is_empty() {
            check(prefix)?;
        }
        Ok(Self::Prefix(prefix.into()))
    }

    /// Whether a room is asked for.
    #[must_use]
    pub fn matches(&self, name: &RoomName) -> bool {
        match self {
            Self::Room(room) => room == name,
            Self::Prefix(prefix) => name.as_str().starts_with(&**prefix) && !name.is_internal(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(room) => room.fmt(f),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "well:WELL-001", "x@y/z.w_1", &"n".repeat(200)] {
            assert!(RoomName::parse(good).is_ok(), "{good}");
        }
        assert_eq!(RoomName::parse(""), Err(NameError::Length(0)));
        assert_eq!(RoomName::parse(&"n".repeat(201)), Err(NameError::Length(201)));
        for (bad, letter) in [("a b", ' '), ("ä", 'ä'), ("a\nb", '\n'), ("a,b", ','), ("a=b", '='), ("a*", '*')] {
            assert_eq!(RoomName::parse(bad), Err(NameError::Character(letter)));
        }
    }

    #[test]
    fn a_namespace_is_what_stands_before_the_first_colon() {
        assert_eq!(RoomName::parse("well:A:B").unwrap().namespace(), "well");
        assert_eq!(RoomName::parse("dashboard").unwrap().namespace(), "dashboard");
    }

    #[test]
    fn a_star_stands_for_the_rest_of_the_name() {
        let wells = Pattern::parse("well:*").unwrap();
        assert!(wells.matches(&RoomName::parse("well:1").unwrap()));
        assert!(!wells.matches(&RoomName::parse("wells:1").unwrap()));
        assert!(Pattern::parse("*").unwrap().matches(&RoomName::parse("x").unwrap()));
        assert_eq!(Pattern::parse("a*b"), Err(NameError::Star));
        assert_eq!(Pattern::parse("a**"), Err(NameError::Star));
    }

    #[test]
    fn the_daemons_own_names_cannot_be_named_and_match_no_pattern() {
        let own = RoomName::internal("pipeline:x").unwrap();
        assert_eq!(RoomName::parse(own.as_str()), Err(NameError::Internal));
        assert_eq!(RoomName::stored(own.as_str()), Ok(own.clone()));
        assert!(!["*", "_tide*", "_tidegate:*"].iter().any(|text| Pattern::parse(text).unwrap().matches(&own)));
    }
}
