//! Values of settings: what kinds there are, how each is written, what is allowed.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What a setting holds, and its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path; not empty.
    Path,
    /// An address, `host:port` with a numeric host.
    Address,
    /// `true` or `false`.
    Flag,
    /// A whole number in this range.
    Count(u64, u64),
    /// A number in this range, whole or not.
    Number(u64, u64),
    /// A time in this range of milliseconds, written `500ms`, `30s`, `5m`, `24h`, `7d`.
    Time(u64, u64),
    /// A size in this range of bytes, written `100KiB`, `10MiB`, or a plain number of bytes.
    Size(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts; in the environment separated by commas.
    List,
}

/// A value of some [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, an address, a choice, or a number as it was written.
    Text(String),
    /// A flag.
    Flag(bool),
    /// A count, or a size in bytes.
    Number(u64),
    /// A time.
    Time(Duration),
    /// A list.
    List(Vec<String>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Text => f.write_str("text"),
            Self::Path => f.write_str("a path"),
            Self::Address => f.write_str("an address such as \"127.0.0.1:8000\""),
            Self::Flag => f.write_str("true or false"),
            Self::Count(min, u64::MAX) => write!(f, "a whole number, at least {min}"),
            Self::Count(min, max) => write!(f, "a whole number from {min} to {max}"),
            Self::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Self::Time(min, max) => {
                write!(f, "a time from {} to {}, such as \"500ms\", \"30s\", \"5m\", \"24h\"", Millis(min), Millis(max))
            }
            Self::Size(min, max) => {
                write!(f, "a size from {} to {}, such as \"100KiB\" or \"10MiB\"", size(min), size(max))
            }
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::List => f.write_str("a list of texts"),
        }
    }
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Milliseconds in the largest unit that divides them.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        match ms {
            0 => f.write_str("0s"),
            _ if ms.is_multiple_of(86_400_000) => write!(f, "{}d", ms / 86_400_000),
            _ if ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            _ if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

impl Kind {
    /// Reads a value as it stands in a TOML file.
    ///
    /// # Errors
    /// `None` if it is not of this kind or out of its range.
    #[must_use]
    pub fn read(self, value: &toml::Value) -> Option<Value> {
        match (self, value) {
            (_, toml::Value::String(text)) => self.parse(text),
            (Self::Flag, toml::Value::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Self::Count(..) | Self::Size(..), toml::Value::Integer(number)) => self.parse(&number.to_string()),
            (Self::Number(..), toml::Value::Integer(number)) => self.parse(&number.to_string()),
            (Self::Number(..), toml::Value::Float(number)) => self.parse(&number.to_string()),
            (Self::List, toml::Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>().map(Value::List)
            }
            _ => None,
        }
    }

    /// Reads a value as it stands in the environment or on the command line; `None` if it is not of this kind or out of its range.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Value> {
        let text = text.trim();
        match self {
            Self::Text => Some(Value::Text(text.to_owned())),
            Self::Path => (!text.is_empty()).then(|| Value::Text(text.to_owned())),
            Self::Address => text.parse::<SocketAddr>().ok().map(|_| Value::Text(text.to_owned())),
            Self::Flag => text.parse().ok().map(Value::Flag),
            Self::Count(min, max) => {
                text.replace('_', "").parse().ok().filter(|n| (min..=max).contains(n)).map(Value::Number)
            }
            Self::Number(min, max) => {
                // Also what a pipeline's file can hold: no sign and no exponent.
                let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
                let number: f64 =
                    text.parse().ok().filter(|_| plain && !text.starts_with('.') && !text.ends_with('.'))?;
                #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
                let inside = (min as f64..=max as f64).contains(&number);
                inside.then(|| Value::Text(text.to_owned()))
            }
            Self::Time(min, max) => {
                let time = parse_time(text)?;
                let ms = u64::try_from(time.as_millis()).ok()?;
                (min..=max).contains(&ms).then_some(Value::Time(time))
            }
            Self::Size(min, max) => {
                let bytes = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
                (min..=max).contains(&bytes).then_some(Value::Number(bytes))
            }
            Self::Choice(words) => words.contains(&text).then(|| Value::Text(text.to_owned())),
            Self::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(Value::List(items.map(str::to_owned).collect()))
            }
        }
    }
}

/// Reads a time such as `500ms`, `30s`, `5m`, `24h`, `7d`, `1h30m`; a bare `0` is none.
#[must_use]
pub fn parse_time(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    // jiff has no days in an absolute time, because a calendar day has no fixed length; here a day is 24 hours.
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()) {
        return days.checked_mul(86_400).map(Duration::from_secs);
    }
    let time: jiff::SignedDuration = text.parse().ok()?;
    Duration::try_from(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_unit() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000), ("7d", 604_800_000)] {
            assert_eq!(parse_time(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "-5s", "5 parsecs", "s"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_value_out_of_its_range_or_of_another_kind_is_none() {
        assert_eq!(Kind::Count(1, 10).parse("11"), None);
        assert_eq!(Kind::Size(0, 1024).parse("2KiB"), None);
        assert_eq!(Kind::Size(0, 4096).parse("2KiB"), Some(Value::Number(2048)));
        assert_eq!(Kind::Number(0, 1).parse("0.8"), Some(Value::Text("0.8".into())));
        assert_eq!(Kind::Number(0, 1).read(&toml::Value::Float(0.8)), Some(Value::Text("0.8".into())));
        assert_eq!(Kind::Number(0, 1).read(&toml::Value::Integer(1)), Some(Value::Text("1".into())));
        for wrong in ["1.1", "-0", "nan", "inf", "1e-1", ".5", "1.", ""] {
            assert_eq!(Kind::Number(0, 1).parse(wrong), None, "{wrong}");
        }
        assert_eq!(Kind::Address.parse("localhost"), None);
        assert_eq!(Kind::Flag.parse("yes"), None);
        assert_eq!(Kind::List.parse("a, b,"), Some(Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(Kind::Flag.read(&toml::Value::Integer(1)), None);
    }
}
