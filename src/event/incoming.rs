//! Publish bodies: one event, an array, NDJSON, CloudEvents. A body is taken whole or not at all, and what is wrong with it is said item by item, field by field.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use smol_str::SmolStr;
use std::borrow::Cow;

use super::depth::is_deeper_than;
use super::{Lane, NewEvent, parse_priority};
use crate::clock;

/// What a body may hold.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Bytes of one event.
    pub event_bytes: usize,
    /// Events in one body.
    pub events: usize,
    /// How deep an event's data may be nested.
    pub depth: usize,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One event or an array of them.
    Json,
    /// One event a line.
    Ndjson,
    /// One CloudEvent, structured.
    CloudEvent,
    /// An array of CloudEvents.
    CloudEventBatch,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Json, Self::Ndjson, Self::CloudEvent, Self::CloudEventBatch];

    /// Its media type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::CloudEvent => "application/cloudevents+json",
            Self::CloudEventBatch => "application/cloudevents-batch+json",
        }
    }

    /// The format that a content type names; JSON without one.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Option<Self> {
        let Some(content_type) = content_type else { return Some(Self::Json) };
        match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            // curl -d says the second unless told otherwise, and a first try should not fail on that.
            "" | "application/json" | "application/x-www-form-urlencoded" => Some(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Self::Ndjson),
            "application/cloudevents+json" => Some(Self::CloudEvent),
            "application/cloudevents-batch+json" => Some(Self::CloudEventBatch),
            _ => None,
        }
    }
}

/// What a JSON value is, in words for people.
#[must_use]
pub const fn kind_of(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a flag",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What is wrong with one item of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFault {
    /// Its place in the body, from 0; `None` where the body is a single event.
    pub item: Option<usize>,
    /// The field, where it is one field's fault.
    pub field: Option<String>,
    /// What is wrong and what was expected.
    pub message: String,
}

/// Why a body was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not JSON.
    #[error("the body is not JSON: {0}")]
    Broken(String),
    /// No event in it.
    #[error("the body holds no event")]
    Empty,
    /// Too many events in it.
    #[error("the body holds more than {0} events (limits.body_events)")]
    TooMany(usize),
    /// An event is too large.
    #[error("item {item} has {bytes} bytes, more than {max} (limits.event_bytes)")]
    EventTooLarge {
        /// Its place in the body.
        item: usize,
        /// Its bytes.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// Events are wrong; at most [`FAULTS_MAX`] are named.
    #[error("{} of the events are not right", .0.len())]
    Invalid(Vec<ItemFault>),
}

/// How many faults one answer names.
pub const FAULTS_MAX: usize = 20;
const KIND_MAX: usize = 100;
const TEXT_MAX: usize = 200;
/// The last time that can be written as RFC 3339 wherever on earth it is read.
const TIME_MAX_MS: u64 = 253_402_207_200_999;
const PRIORITIES: &str = "one of critical, high, normal, low";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Native<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    priority: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
}

/// The attributes of CloudEvents 1.0 that mean something here; others are allowed and not looked at.
#[derive(Deserialize)]
struct Cloud<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    priority: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data_base64: Option<Cow<'a, str>>,
}

/// Reads a body.
///
/// # Errors
/// Why it was not taken; nothing of it is.
pub fn parse(format: Format, body: &[u8], limits: BodyLimits) -> Result<Vec<NewEvent>, BodyError> {
    let batch = match format {
        Format::Json => body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'['),
        Format::Ndjson => return parse_lines(body, 0, limits),
        Format::CloudEvent => false,
        Format::CloudEventBatch => true,
    };
    let events = match (format, batch) {
        (Format::Json, false) => one::<Native<'_>>(body, limits)?,
        (Format::Json, true) => many::<Native<'_>>(body, limits)?,
        (_, false) => one::<Cloud<'_>>(body, limits)?,
        (_, true) => many::<Cloud<'_>>(body, limits)?,
    };
    if events.is_empty() { Err(BodyError::Empty) } else { Ok(events) }
}

fn one<'a, T: Incoming<'a>>(body: &'a [u8], limits: BodyLimits) -> Result<Vec<NewEvent>, BodyError> {
    let mut faults = Vec::new();
    let event = item::<T>(body, None, limits, &mut faults)?;
    if faults.is_empty() { Ok(event.into_iter().collect()) } else { Err(BodyError::Invalid(faults)) }
}

/// An array. First with one pass; only if something is wrong again item by item, to say what.
fn many<'a, T: Incoming<'a>>(body: &'a [u8], limits: BodyLimits) -> Result<Vec<NewEvent>, BodyError> {
    if let Ok(items) = serde_json::from_slice::<Vec<T>>(body) {
        if items.len() > limits.events {
            return Err(BodyError::TooMany(limits.events));
        }
        let mut events = Vec::with_capacity(items.len());
        let mut faults = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let mut own = Faults { item: Some(index), depth: limits.depth, list: &mut faults };
            let event = item.check(&mut own);
            too_large(index, event.content_bytes(), limits)?;
            events.push(event);
        }
        return if faults.is_empty() { Ok(events) } else { Err(invalid(faults)) };
    }
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| BodyError::Broken(error.to_string()))?;
    if items.len() > limits.events {
        return Err(BodyError::TooMany(limits.events));
    }
    let mut faults = Vec::new();
    for (index, raw) in items.into_iter().enumerate() {
        item::<T>(raw.get().as_bytes(), Some(index), limits, &mut faults)?;
    }
    Err(invalid(faults))
}

/// Reads lines, the first of which is at this place in its body.
///
/// # Errors
/// As [`parse`]; what is wrong is said by its place in the body.
pub fn parse_lines(body: &[u8], first: usize, limits: BodyLimits) -> Result<Vec<NewEvent>, BodyError> {
    let mut events = Vec::new();
    let mut faults = Vec::new();
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    for (count, line) in lines.enumerate() {
        if count >= limits.events {
            return Err(BodyError::TooMany(limits.events));
        }
        let index = first + count;
        match item::<Native<'_>>(line, Some(index), limits, &mut faults) {
            Ok(event) => events.extend(event),
            Err(BodyError::Broken(why)) => return Err(BodyError::Broken(format!("item {index}: {why}"))),
            Err(other) => return Err(other),
        }
    }
    match (faults.is_empty(), events.is_empty()) {
        (false, _) => Err(invalid(faults)),
        (true, true) => Err(BodyError::Empty),
        (true, false) => Ok(events),
    }
}

fn invalid(mut faults: Vec<ItemFault>) -> BodyError {
    faults.truncate(FAULTS_MAX);
    BodyError::Invalid(faults)
}

fn too_large(item: usize, bytes: usize, limits: BodyLimits) -> Result<(), BodyError> {
    if bytes > limits.event_bytes {
        return Err(BodyError::EventTooLarge { item, bytes, max: limits.event_bytes });
    }
    Ok(())
}

/// One item; its faults go into `faults`.
fn item<'a, T: Incoming<'a>>(
    text: &'a [u8],
    index: Option<usize>,
    limits: BodyLimits,
    faults: &mut Vec<ItemFault>,
) -> Result<Option<NewEvent>, BodyError> {
    too_large(index.unwrap_or(0), text.len(), limits)?;
    let mut own = Faults { item: index, depth: limits.depth, list: faults };
    match serde_json::from_slice::<T>(text) {
        Ok(item) => {
            let event = item.check(&mut own);
            too_large(index.unwrap_or(0), event.content_bytes(), limits)?;
            Ok(Some(event))
        }
        Err(error) if error.is_data() => {
            // The path is only looked for when something is wrong: it costs time.
            let mut deserializer = serde_json::Deserializer::from_slice(text);
            let path =
                serde_path_to_error::deserialize::<_, T>(&mut deserializer).err().map(|error| error.path().to_string());
            let message = error.to_string();
            let message = shorten(message.split(" at line ").next().unwrap_or_default());
            own.list.push(ItemFault { item: index, field: field_of(path, &message), message });
            Ok(None)
        }
        Err(error) => Err(BodyError::Broken(error.to_string())),
    }
}

/// serde repeats a wrong value whole.
fn shorten(message: &str) -> String {
    message.char_indices().nth(200).map_or_else(|| message.to_owned(), |(end, _)| format!("{}…", &message[..end]))
}

/// The field that a message of serde's is about: by its path, or, for a missing or unknown field, by the name in backquotes.
fn field_of(path: Option<String>, message: &str) -> Option<String> {
    path.filter(|path| path != "." && !path.is_empty())
        .or_else(|| message.split('`').nth(1).filter(|_| message.contains("field")).map(str::to_owned))
}

/// As much of a wrong value as an answer repeats.
fn shown(text: &str) -> &str {
    text.char_indices().nth(60).map_or(text, |(end, _)| &text[..end])
}

/// Collects the faults of one item.
struct Faults<'l> {
    item: Option<usize>,
    depth: usize,
    list: &'l mut Vec<ItemFault>,
}

impl Faults<'_> {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.list.push(ItemFault { item: self.item, field: Some(field.to_owned()), message: message.into() });
    }

    fn text(&mut self, field: &str, text: &str, max: usize) -> SmolStr {
        let length = text.chars().count();
        if !(1..=max).contains(&length) {
            self.add(field, format!("expected text of 1 to {max} characters, got {length}"));
        } else if text.chars().any(char::is_control) {
            self.add(field, "expected text without control characters");
        }
        SmolStr::from(text)
    }

    fn data(&mut self, json: &str) -> Bytes {
        if is_deeper_than(json.as_bytes(), self.depth) {
            self.add("data", format!("nested deeper than {} (limits.json_depth)", self.depth));
            return Bytes::new();
        }
        Bytes::copy_from_slice(json.as_bytes())
    }

    fn priority(&mut self, text: Option<&str>) -> Lane {
        let Some(text) = text else { return Lane::Normal };
        parse_priority(text).unwrap_or_else(|| {
            self.add("priority", format!("expected {PRIORITIES}, got {:?}", shown(text)));
            Lane::Normal
        })
    }

    /// RFC 3339 text, or whole milliseconds since 1970, which may be written as a float (`5.0`).
    fn timestamp(&mut self, json: &str) -> Option<u64> {
        if json.starts_with('"') {
            let text: Result<Cow<'_, str>, _> = serde_json::from_str(json);
            return text.ok().and_then(|text| self.time("timestamp", &text));
        }
        let whole = match json.split_once('.') {
            Some((whole, rest)) if rest.bytes().all(|digit| digit == b'0') => whole,
            _ => json,
        };
        let ms = whole.parse().ok().filter(|ms| *ms <= TIME_MAX_MS);
        if ms.is_none() {
            let expected = "RFC 3339 text or whole milliseconds since 1970";
            self.add("timestamp", format!("expected {expected}, got {}", shown(json)));
        }
        ms
    }

    fn time(&mut self, field: &str, text: &str) -> Option<u64> {
        let time = clock::parse_rfc3339(text);
        if time.is_none() {
            self.add(field, format!("expected a time such as 2026-11-20T06:10:00.000Z, got {:?}", shown(text)));
        }
        time
    }
}

trait Incoming<'a>: Deserialize<'a> {
    fn check(self, faults: &mut Faults<'_>) -> NewEvent;
}

impl<'a> Incoming<'a> for Native<'a> {
    fn check(self, faults: &mut Faults<'_>) -> NewEvent {
        NewEvent {
            change: None,
            kind: faults.text("kind", &self.kind, KIND_MAX),
            key: self.key.map(|key| faults.text("key", &key, TEXT_MAX)),
            id: self.id.map(|id| faults.text("id", &id, TEXT_MAX)),
            priority: faults.priority(self.priority.as_deref()),
            timestamp_ms: self.timestamp.and_then(|time| faults.timestamp(time.get())),
            data: faults.data(self.data.get()),
            trace: None,
        }
    }
}

impl<'a> Incoming<'a> for Cloud<'a> {
    fn check(self, faults: &mut Faults<'_>) -> NewEvent {
        if self.specversion != "1.0" {
            faults.add("specversion", format!("expected \"1.0\", got {:?}", shown(&self.specversion)));
        }
        faults.text("id", &self.id, TEXT_MAX);
        faults.text("source", &self.source, TEXT_MAX);
        let data = match (self.data, self.data_base64) {
            (Some(_), Some(_)) => {
                faults.add("data_base64", "expected either data or data_base64");
                Bytes::from_static(b"null")
            }
            (Some(data), None) => faults.data(data.get()),
            (None, Some(binary)) => Bytes::from(serde_json::json!({ "data_base64": binary }).to_string()),
            (None, None) => Bytes::from_static(b"null"),
        };
        NewEvent {
            change: None,
            kind: faults.text("type", &self.kind, KIND_MAX),
            key: self.subject.map(|subject| faults.text("subject", &subject, TEXT_MAX)),
            // By its specification an event is known by its source and id together.
            id: Some(SmolStr::from(format!("{} {}", self.source, self.id))),
            priority: faults.priority(self.priority.as_deref()),
            timestamp_ms: self.time.and_then(|time| faults.time("time", &time)),
            data,
            trace: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: BodyLimits = BodyLimits { event_bytes: 1000, events: 5, depth: 64 };

    fn json(body: &str) -> Result<Vec<NewEvent>, BodyError> {
        parse(Format::Json, body.as_bytes(), LIMITS)
    }

    fn faults(body: &str) -> Vec<(Option<usize>, Option<String>)> {
        match json(body).unwrap_err() {
            BodyError::Invalid(faults) => faults.into_iter().map(|fault| (fault.item, fault.field)).collect(),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn one_event_and_an_array_and_lines_give_the_same() {
        let one =
            json(r#" {"kind":"k","data":{"a":[1, 2]},"priority":"high","timestamp":5,"key":"x","id":"i"}"#).unwrap();
        assert_eq!((&*one[0].kind, &one[0].data[..], one[0].priority), ("k", &b"{\"a\":[1, 2]}"[..], Lane::High));
        let item = r#"{"kind":"k","data":{"a":[1, 2]},"priority":"high","timestamp":"1970-01-01T00:00:00.005Z","key":"x","id":"i"}"#;
        assert_eq!(json(&format!("[{item}]")).unwrap(), one);
        assert_eq!(parse(Format::Ndjson, format!("\n{item}\r\n\n").as_bytes(), LIMITS).unwrap(), one);
    }

    #[test]
    fn a_batch_with_a_bad_item_names_the_item_and_the_field() {
        let good = r#"{"kind":"k","data":1}"#;
        let field = |name: &str| Some(name.to_owned());
        assert_eq!(faults(&format!(r#"[{good},{{"kind":"k"}}]"#)), [(Some(1), field("data"))]);
        assert_eq!(faults(&format!(r#"[{good},{good},{{"kind":7,"data":1}}]"#)), [(Some(2), field("kind"))]);
        assert_eq!(faults(r#"{"kind":"k","data":1,"prio":"high"}"#), [(None, field("prio"))]);
        assert_eq!(faults(r#"{"kind":"k","data":1,"priority":"urgent"}"#), [(None, field("priority"))]);
        assert_eq!(
            faults(r#"[{"kind":"","data":1,"timestamp":"noon"}]"#),
            [(Some(0), field("kind")), (Some(0), field("timestamp"))]
        );
        assert_eq!(faults("[1]"), [(Some(0), None)]);
    }

    #[test]
    fn lines_of_a_later_step_are_named_by_their_place_in_the_body() {
        let read = |body: &str| parse_lines(body.as_bytes(), 40, LIMITS).unwrap_err();
        let good = r#"{"kind":"k","data":1}"#;
        let BodyError::Invalid(faults) = read(&format!("{good}\n\n{{\"kind\":1,\"data\":1}}\n")) else {
            unreachable!()
        };
        assert_eq!(faults[0].item, Some(41));
        assert!(matches!(read("{"), BodyError::Broken(why) if why.starts_with("item 40: ")));
        let large = format!(r#"{{"kind":"k","data":"{}"}}"#, "x".repeat(1000));
        assert!(matches!(read(&large), BodyError::EventTooLarge { item: 40, .. }));
        // How many there may be counts for each step.
        assert!(matches!(read(&[good; 6].join("\n")), BodyError::TooMany(5)));
    }

    #[test]
    fn broken_empty_and_oversized_bodies_are_told_apart() {
        assert!(matches!(json("{"), Err(BodyError::Broken(_))));
        assert!(matches!(json(""), Err(BodyError::Broken(_))));
        assert!(matches!(json("[]"), Err(BodyError::Empty)));
        assert!(matches!(parse(Format::Ndjson, b"\n\n", LIMITS), Err(BodyError::Empty)));
        assert!(matches!(
            json(&format!("[{}]", [r#"{"kind":"k","data":1}"#; 6].join(","))),
            Err(BodyError::TooMany(5))
        ));
        let large = format!(r#"{{"kind":"k","data":"{}"}}"#, "x".repeat(1000));
        assert!(matches!(json(&large), Err(BodyError::EventTooLarge { item: 0, .. })));
        assert!(matches!(json(&format!("[{large}]")), Err(BodyError::EventTooLarge { item: 0, .. })));
    }

    #[test]
    fn cloud_events_are_read_by_their_specification() {
        let event = r#"{"specversion":"1.0","id":"7","source":"/pump","type":"sample","subject":"p1","time":"1970-01-01T00:00:01Z","priority":"low","other":1,"data":{"a":1}}"#;
        let read = parse(Format::CloudEvent, event.as_bytes(), LIMITS).unwrap().remove(0);
        assert_eq!((&*read.kind, read.key.as_deref(), read.id.as_deref()), ("sample", Some("p1"), Some("/pump 7")));
        assert_eq!((read.timestamp_ms, read.priority), (Some(1000), Lane::Low));
        let batch = parse(Format::CloudEventBatch, format!("[{event},{event}]").as_bytes(), LIMITS).unwrap();
        assert_eq!(batch.len(), 2);
        let wrong = event.replace("1.0", "0.3");
        assert!(matches!(parse(Format::CloudEvent, wrong.as_bytes(), LIMITS), Err(BodyError::Invalid(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reading_fail_otherwise_than_by_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in [Format::Json, Format::Ndjson, Format::CloudEvent, Format::CloudEventBatch] {
                let _ = parse(format, &body, LIMITS);
            }
        }
    }
}
