//! Why an event could not be worked on: what operators and expressions say, and what counters and dead letters show.

/// Why an event could not be worked on.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// A field is not there.
    Missing,
    /// A field is something else.
    Type {
        /// What was expected, in words.
        expected: &'static str,
        /// What was there, in words.
        found: &'static str,
    },
    /// It came after its time had been closed.
    Late {
        /// By so many milliseconds.
        by_ms: u64,
    },
    /// There are as many keys as there may be.
    TooManyKeys,
    /// Something else, in words.
    Other(String),
}

impl Why {
    /// In one word, for counters.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Type { .. } => "type",
            Self::Late { .. } => "late",
            Self::TooManyKeys => "too_many_keys",
            Self::Other(_) => "invalid",
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Type { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::Late { by_ms } => write!(f, "came {by_ms} ms after its time was closed"),
            Self::TooManyKeys => f.write_str("there are as many keys as keys_max allows"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
