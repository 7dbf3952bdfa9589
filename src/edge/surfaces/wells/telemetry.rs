//! What sensors send: one measurement, a list, or one a line. Taken whole or not at all; what is wrong is said by item and field.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smol_str::SmolStr;

use super::shape::NAMESPACE;
use crate::clock;
use crate::event::depth::is_deeper_than;
use crate::event::encode::write_json_text;
use crate::event::incoming::{BodyError, BodyLimits, FAULTS_MAX, Format, ItemFault};
use crate::event::{NewEvent, RoomName};

/// The kind of a measurement.
pub(super) const KIND: &str = "telemetry_update";
/// What must be a number where it is given, or `null`.
const NUMBERS: [&str; 9] =
    ["flow_rate", "pip", "motor_current", "motor_temp", "vibration", "vsd_frequency", "flow_variance", "torque", "gor"];
/// The longest id, in characters.
const ID_MAX: usize = 200;

/// A measurement of a well.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Measurement {
    pub(super) room: RoomName,
    pub(super) event: NewEvent,
}

/// Reads a body.
pub(super) fn read(format: Format, body: &[u8], limits: BodyLimits) -> Result<Vec<Measurement>, BodyError> {
    let many = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let broken = |error: &serde_json::Error| BodyError::Broken(error.to_string());
    let items: Vec<&RawValue> = match format {
        Format::Ndjson => {
            let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
            // One more than there may be is enough to know.
            let lines = lines.take(limits.events + 1).enumerate();
            let read = |(item, line)| {
                serde_json::from_slice(line).map_err(|error| BodyError::Broken(format!("item {item}: {error}")))
            };
            lines.map(read).collect::<Result<_, _>>()?
        }
        _ if many => serde_json::from_slice(body).map_err(|error| broken(&error))?,
        _ => vec![serde_json::from_slice(body).map_err(|error| broken(&error))?],
    };
    if items.is_empty() {
        return Err(BodyError::Empty);
    }
    if items.len() > limits.events {
        return Err(BodyError::TooMany(limits.events));
    }
    let single = !many && format != Format::Ndjson;
    let (mut measurements, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        let bytes = item.get().len();
        if bytes > limits.event_bytes {
            return Err(BodyError::EventTooLarge { item: index, bytes, max: limits.event_bytes });
        }
        let mut faults = Faults { item: (!single).then_some(index), list: &mut faults };
        measurements.extend(measurement(item.get(), limits.depth, &mut faults));
    }
    faults.truncate(FAULTS_MAX);
    if faults.is_empty() { Ok(measurements) } else { Err(BodyError::Invalid(faults)) }
}

/// One item; without a fault there is a measurement.
fn measurement(json: &str, depth: usize, faults: &mut Faults<'_>) -> Option<Measurement> {
    let fields = match serde_json::from_str::<Fields<'_>>(json) {
        Ok(Fields(fields)) => fields,
        Err(error) => {
            let message = error.to_string();
            faults.list.push(ItemFault {
                item: faults.item,
                field: None,
                message: message.split(" at line ").next().unwrap_or_default().chars().take(200).collect(),
            });
            return None;
        }
    };
    let (mut room, mut id, mut timestamp_ms) = (None, None, None);
    let mut data = String::with_capacity(json.len());
    for (name, value) in &fields {
        let value = value.get();
        match &**name {
            "well_id" => room = faults.room(value),
            "id" if value != "null" => id = faults.id(value),
            "timestamp" if value != "null" => timestamp_ms = faults.time(value),
            "id" | "timestamp" => {}
            "telemetry_id" => {
                faults.add(name, "it is given here; name your own id, by which a repetition is known, id")
            }
            known if NUMBERS.contains(&known) && value != "null" && !is_number(value) => {
                faults.add(name, format!("expected a number, got {}", shown(value)));
            }
            _ if is_deeper_than(value.as_bytes(), depth.saturating_sub(1)) => {
                faults.add(name, format!("nested deeper than {depth} (limits.json_depth)"));
            }
            _ => {
                data.push(if data.is_empty() { '{' } else { ',' });
                write_json_text(name, &mut data);
                data.push(':');
                data.push_str(value);
            }
        }
    }
    data.push_str(if data.is_empty() { "{}" } else { "}" });
    if !fields.iter().any(|(name, _)| name == "well_id") {
        faults.add("well_id", "well_id is required");
    }
    Some(Measurement { room: room?, event: NewEvent { id, timestamp_ms, ..NewEvent::new(KIND, data.into()) } })
}

/// Whether it is a number, and one that can be told from its neighbours: not one beyond all that computers have.
fn is_number(json: &str) -> bool {
    json.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && json.parse::<f64>().is_ok_and(f64::is_finite)
}

/// As much of a wrong value as an answer repeats.
fn shown(text: &str) -> &str {
    text.char_indices().nth(60).map_or(text, |(end, _)| &text[..end])
}

/// Collects the faults of one item.
struct Faults<'l> {
    item: Option<usize>,
    list: &'l mut Vec<ItemFault>,
}

impl Faults<'_> {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        let field = Some(shown(field).to_owned());
        self.list.push(ItemFault { item: self.item, field, message: message.into() });
    }

    fn text(&mut self, field: &str, json: &str) -> Option<String> {
        let text = serde_json::from_str(json).ok();
        if text.is_none() {
            self.add(field, format!("expected text, got {}", shown(json)));
        }
        text
    }

    fn room(&mut self, json: &str) -> Option<RoomName> {
        let text = self.text("well_id", json)?;
        if text.is_empty() {
            self.add("well_id", "well_id is required");
            return None;
        }
        let room = RoomName::parse(&format!("{NAMESPACE}{text}"));
        room.map_err(|error| self.add("well_id", error.to_string())).ok()
    }

    fn id(&mut self, json: &str) -> Option<SmolStr> {
        let text = self.text("id", json)?;
        let proper = (1..=ID_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if !proper {
            self.add("id", format!("expected text of 1 to {ID_MAX} characters without control characters"));
        }
        proper.then(|| text.into())
    }

    /// ISO 8601; without a time zone it is UTC, as many sensors' clocks are.
    fn time(&mut self, json: &str) -> Option<u64> {
        let text = self.text("timestamp", json)?;
        let ms = clock::parse_rfc3339(&text).or_else(|| clock::parse_rfc3339(&format!("{text}Z")));
        if ms.is_none() {
            self.add("timestamp", format!("expected a time such as 2026-11-20T06:10:00.000Z, got {}", shown(json)));
        }
        ms
    }
}

/// An object's fields in their order, each once.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let (mut fields, mut seen) = (Vec::new(), std::collections::HashSet::new());
                while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{}: given more than once", shown(&name))));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: BodyLimits = BodyLimits { event_bytes: 1000, events: 3, depth: 4 };

    fn one(body: &Value) -> Measurement {
        read(Format::Json, body.to_string().as_bytes(), LIMITS).unwrap().remove(0)
    }

    fn faults(body: &Value) -> Vec<(Option<usize>, Option<String>)> {
        match read(Format::Json, body.to_string().as_bytes(), LIMITS).unwrap_err() {
            BodyError::Invalid(faults) => faults.into_iter().map(|fault| (fault.item, fault.field)).collect(),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn a_measurement_is_an_event_of_its_well_and_keeps_what_it_says_beside() {
        let Measurement { room, event } = one(&json!({
            "well_id": "W-1", "flow_rate": 1000.5, "pip": null, "id": "a", "timestamp": "1970-01-01T00:00:01+00:00", "crew": ["x"],
        }));
        assert_eq!((room.as_str(), &*event.kind, event.id.as_deref()), ("well:W-1", KIND, Some("a")));
        assert_eq!((event.timestamp_ms, event.key), (Some(1000), None));
        let data: Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!(data, json!({"flow_rate": 1000.5, "pip": null, "crew": ["x"]}));
        let naive = one(&json!({"well_id": "W", "timestamp": "1970-01-01T00:00:01.5", "id": null}));
        assert_eq!((naive.event.timestamp_ms, &naive.event.data[..]), (Some(1500), &b"{}"[..]));
    }

    #[test]
    fn what_is_wrong_is_said_by_item_and_field() {
        let field = |name: &str| Some(name.to_owned());
        assert_eq!(faults(&json!({"vibration": "3"})), [(None, field("vibration")), (None, field("well_id"))]);
        let good = json!({"well_id": "W", "pip": 1});
        let list = json!([good, {"well_id": "a b"}, 7]);
        assert_eq!(faults(&list), [(Some(1), field("well_id")), (Some(2), None)]);
        for (name, wrong) in [
            ("well_id", json!(7)),
            ("well_id", json!("")),
            ("well_id", json!("W*")),
            ("well_id", json!("x".repeat(200))),
            ("id", json!("")),
            ("timestamp", json!("noon")),
            ("telemetry_id", json!(7)),
            ("motor_temp", json!(true)),
            ("deep", json!([[[[1]]]])),
        ] {
            let mut body = good.clone();
            body[name] = wrong.clone();
            assert_eq!(faults(&body), [(None, field(name))], "{wrong}");
        }
        let read = |body: &str| read(Format::Json, body.as_bytes(), LIMITS);
        assert!(matches!(read(r#"{"well_id":"W","pip":1e999}"#), Err(BodyError::Invalid(_))));
        assert!(matches!(read(r#"{"well_id":"W","a":1,"a":2}"#), Err(BodyError::Invalid(_))));
        assert!(matches!(read("[]"), Err(BodyError::Empty)));
        assert!(matches!(read("{"), Err(BodyError::Broken(_))));
        assert!(matches!(read("[1,2,3,4]"), Err(BodyError::TooMany(3))));
        let large = format!(r#"{{"well_id":"W","note":"{}"}}"#, "x".repeat(1000));
        assert!(matches!(read(&large), Err(BodyError::EventTooLarge { item: 0, .. })));
    }

    #[test]
    fn lines_are_a_list() {
        let lines = read(Format::Ndjson, b"{\"well_id\":\"A\"}\n\n{\"well_id\":\"B\"}\r\n", LIMITS).unwrap();
        assert_eq!(lines.iter().map(|one| one.room.as_str()).collect::<Vec<_>>(), ["well:A", "well:B"]);
        assert!(
            matches!(read(Format::Ndjson, b"{}\nx", LIMITS), Err(BodyError::Broken(why)) if why.contains("item 1"))
        );
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read_or_refused_and_what_is_read_is_json(
            body in "(\\[|\\{|\\}|\\]|,|:|\"well_id\"|\"pip\"|\"a\"|1|-|e|\"|\\\\|\n| ){0,20}",
        ) {
            for format in [Format::Json, Format::Ndjson] {
                for one in read(format, body.as_bytes(), LIMITS).unwrap_or_default() {
                    prop_assert!(serde_json::from_slice::<Value>(&one.event.data).unwrap().is_object());
                }
            }
        }
    }
}
