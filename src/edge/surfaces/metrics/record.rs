//! What a right report is: records of requests, and reports of a system, a rate limit or a cache. Everything that is wrong with a body is said, item by item and field by field.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::clock;
use crate::event::NewEvent;
use crate::event::depth::is_deeper_than;
use crate::event::incoming::{BodyError, BodyLimits, FAULTS_MAX, ItemFault, kind_of};

/// The longest name of a model, an endpoint, a limit: with the type of its message it is a key of the state.
const NAME_MAX: usize = 180;
/// The longest id, word of a status, user.
const TEXT_MAX: usize = 200;
/// Whole numbers go up to here, which every reader of JSON has exactly.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// The last time that can be written as RFC 3339 wherever on earth it is read.
const TIME_MAX_MS: u64 = 253_402_207_200_999;
const REPORTS: [&str; 3] = ["system", "rate_limit", "kv_cache"];

/// Reads one record of a request, a list of them, or one after the other (NDJSON).
///
/// # Errors
/// Everything that is wrong with them; nothing is taken then.
pub(super) fn requests(body: &[u8], limits: BodyLimits) -> Result<Vec<NewEvent>, BodyError> {
    read(body, limits, |checks, item, fields| checks.request(item, fields))
}

/// Reads reports, in the same ways.
///
/// # Errors
/// As above.
pub(super) fn reports(body: &[u8], limits: BodyLimits) -> Result<Vec<NewEvent>, BodyError> {
    read(body, limits, |checks, item, fields| checks.report(item, fields))
}

type Check = fn(&mut Checks<'_>, &RawValue, &Map<String, Value>) -> Option<NewEvent>;

fn read(body: &[u8], limits: BodyLimits, check: Check) -> Result<Vec<NewEvent>, BodyError> {
    let items = split(body, limits)?;
    let list = items.len() > 1 || body.trim_ascii_start().starts_with(b"[");
    let (mut events, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
    for (at, item) in items.into_iter().enumerate() {
        let (bytes, max) = (item.get().len(), limits.event_bytes);
        if bytes > max {
            return Err(BodyError::EventTooLarge { item: at, bytes, max });
        }
        let mut checks = Checks { item: list.then_some(at), faults: &mut faults };
        if is_deeper_than(item.get().as_bytes(), limits.depth) {
            checks.wrong(None, format!("nested deeper than {} (limits.json_depth)", limits.depth));
        } else if let Ok(fields) = serde_json::from_str::<Map<String, Value>>(item.get()) {
            let before = checks.faults.len();
            let event = check(&mut checks, item, &fields);
            events.extend(event.filter(|_| checks.faults.len() == before));
        } else {
            checks.wrong(None, "expected an object");
        }
    }
    if faults.is_empty() { Ok(events) } else { Err(BodyError::Invalid(faults)) }
}

/// The items of a body, whichever way they stand in it.
fn split(body: &[u8], limits: BodyLimits) -> Result<Vec<&RawValue>, BodyError> {
    let mut items = Vec::new();
    if body.trim_ascii_start().starts_with(b"[") {
        items = serde_json::from_slice(body).map_err(|error| BodyError::Broken(error.to_string()))?;
    } else {
        for item in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
            items.push(item.map_err(|error| BodyError::Broken(error.to_string()))?);
            if items.len() > limits.events {
                break;
            }
        }
    }
    match items.len() {
        0 => Err(BodyError::Empty),
        count if count > limits.events => Err(BodyError::TooMany(limits.events)),
        _ => Ok(items),
    }
}

/// Looks at one item and gathers what is wrong with it.
struct Checks<'f> {
    item: Option<usize>,
    faults: &'f mut Vec<ItemFault>,
}

impl Checks<'_> {
    fn wrong(&mut self, field: Option<&str>, message: impl Into<String>) {
        // One more than are named is enough to know that something is wrong.
        if self.faults.len() < FAULTS_MAX {
            let (field, message) = (field.map(str::to_owned), message.into());
            self.faults.push(ItemFault { item: self.item, field, message });
        }
    }

    /// A field that must be there.
    fn needed<'v>(&mut self, fields: &'v Map<String, Value>, field: &str, expected: &str) -> Option<&'v Value> {
        let value = given(fields, field);
        if value.is_none() {
            self.wrong(Some(field), format!("is missing; expected {expected}"));
        }
        value
    }

    /// Text of so many characters, none of them a control character.
    fn text<'v>(&mut self, field: &str, value: &'v Value, max: usize) -> Option<&'v str> {
        let text = value.as_str();
        let good = text.filter(|text| (1..=max).contains(&text.chars().count()) && !text.chars().any(char::is_control));
        if good.is_none() {
            let message = match text {
                Some(text) if text.chars().count() > max => format!("has more than {max} characters"),
                Some("") => "is empty".to_owned(),
                Some(_) => "has control characters".to_owned(),
                None => format!("expected text, found {}", kind_of(value)),
            };
            self.wrong(Some(field), message);
        }
        good
    }

    /// A number that is not below 0.
    fn number(&mut self, fields: &Map<String, Value>, field: &str) {
        const EXPECTED: &str = "a number, not below 0";
        let Some(value) = self.needed(fields, field, EXPECTED) else { return };
        if value.as_f64().is_none_or(|number| number < 0.0) {
            self.wrong(Some(field), format!("expected {EXPECTED}, found {}", shown(value)));
        }
    }

    /// A whole number that is not below 0.
    fn whole(&mut self, fields: &Map<String, Value>, field: &str) {
        const EXPECTED: &str = "a whole number, not below 0";
        let Some(value) = self.needed(fields, field, EXPECTED) else { return };
        if value.as_f64().is_none_or(|number| !(0.0..=WHOLE_MAX).contains(&number) || number.fract() != 0.0) {
            self.wrong(Some(field), format!("expected {EXPECTED}, found {}", shown(value)));
        }
    }

    /// RFC 3339 text, or whole milliseconds since 1970.
    fn time(&mut self, fields: &Map<String, Value>) -> Option<u64> {
        let value = given(fields, "timestamp")?;
        let time = value.as_u64().or_else(|| value.as_str().and_then(clock::parse_rfc3339));
        let time = time.filter(|ms| *ms <= TIME_MAX_MS);
        if time.is_none() {
            let expected = "expected whole milliseconds since 1970 or RFC 3339 text";
            self.wrong(Some("timestamp"), format!("{expected}, found {}", shown(value)));
        }
        time
    }

    fn request(&mut self, item: &RawValue, fields: &Map<String, Value>) -> Option<NewEvent> {
        if let Some(model) = self.needed(fields, "model", "the model's name") {
            self.text("model", model, NAME_MAX);
        }
        self.number(fields, "latency_ms");
        let expected = "a status of HTTP, or a word such as \"success\" or \"error\"";
        match self.needed(fields, "status", expected) {
            Some(Value::Number(code)) if code.as_u64().is_some_and(|code| (100..600).contains(&code)) => {}
            Some(word @ Value::String(_)) => {
                self.text("status", word, TEXT_MAX);
            }
            Some(other) => self.wrong(Some("status"), format!("expected {expected}, found {}", shown(other))),
            None => {}
        }
        self.whole(fields, "input_tokens");
        self.whole(fields, "output_tokens");
        if let Some(other) = self.needed(fields, "streamed", "true or false").filter(|value| !value.is_boolean()) {
            self.wrong(Some("streamed"), format!("expected true or false, found {}", shown(other)));
        }
        self.number(fields, "cost");
        if let Some(user) = given(fields, "user") {
            self.text("user", user, TEXT_MAX);
        }
        if let Some(other) = given(fields, "error").filter(|error| !error.is_string() && !error.is_object()) {
            self.wrong(Some("error"), format!("expected text or an object, found {}", shown(other)));
        }
        let id = given(fields, "id").and_then(|id| self.text("id", id, TEXT_MAX));
        let mut event = NewEvent::new("request", Bytes::copy_from_slice(item.get().as_bytes()));
        (event.id, event.timestamp_ms) = (id.map(Into::into), self.time(fields));
        Some(event)
    }

    fn report(&mut self, item: &RawValue, fields: &Map<String, Value>) -> Option<NewEvent> {
        let expected = format!("one of {}", REPORTS.join(", "));
        let kind = self.needed(fields, "kind", &expected);
        let known = kind.and_then(Value::as_str).and_then(|kind| REPORTS.into_iter().find(|known| *known == kind));
        if let (Some(other), None) = (kind, known) {
            self.wrong(Some("kind"), format!("expected {expected}, found {}", shown(other)));
        }
        let data = self.needed(fields, "data", "an object")?;
        let Some(inside) = data.as_object() else {
            self.wrong(Some("data"), format!("expected an object, found {}", kind_of(data)));
            return None;
        };
        if known == Some("rate_limit") {
            // By the first of them it is known.
            for name in ["endpoint", "model", "name"] {
                if let Some(value) = given(inside, name) {
                    self.text(&format!("data.{name}"), value, NAME_MAX);
                }
            }
        }
        let time = self.time(fields);
        let raw = serde_json::from_str::<Data<'_>>(item.get()).ok()?.data;
        let mut event = NewEvent::new(known?, Bytes::copy_from_slice(raw.get().as_bytes()));
        event.timestamp_ms = time;
        Some(event)
    }
}

/// The data as it came.
#[derive(serde::Deserialize)]
struct Data<'i> {
    #[serde(borrow)]
    data: &'i RawValue,
}

/// A field that is there and not null.
fn given<'v>(fields: &'v Map<String, Value>, field: &str) -> Option<&'v Value> {
    fields.get(field).filter(|value| !value.is_null())
}

/// As much of a wrong value as an answer repeats.
fn shown(value: &Value) -> Cow<'static, str> {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string().into(),
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()).into(),
        _ => kind_of(value).into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: BodyLimits = BodyLimits { event_bytes: 1000, events: 3, depth: 8 };

    fn record() -> Value {
        json!({
            "model": "m", "latency_ms": 12.5, "status": 200, "input_tokens": 3, "output_tokens": 4, "streamed": true, "cost": 0.5,
        })
    }

    fn with(field: &str, value: Value) -> Value {
        let mut record = record();
        record[field] = value;
        record
    }

    fn faults(error: BodyError) -> Vec<(Option<usize>, String)> {
        match error {
            BodyError::Invalid(faults) => {
                faults.into_iter().map(|fault| (fault.item, fault.field.unwrap_or_default())).collect()
            }
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn one_record_a_list_and_lines_are_the_same_and_stay_as_they_came() {
        let text = "{\"cost\": 0.10, \"model\":\"m\",\"latency_ms\":1e2,\"status\":\"ok\",\"input_tokens\":3,\"output_tokens\":4.0,\"streamed\":false,\"mine\":[1],\"id\":\"i\",\"timestamp\":\"1970-01-01T00:00:00.005Z\"}";
        let one = requests(text.as_bytes(), LIMITS).unwrap();
        let event = &one[0];
        assert_eq!((&*event.kind, &event.data[..]), ("request", text.as_bytes()));
        assert_eq!((event.id.as_deref(), event.timestamp_ms, event.key.as_deref()), (Some("i"), Some(5), None));
        assert_eq!(requests(format!(" [{text}]").as_bytes(), LIMITS).unwrap(), one);
        assert_eq!(requests(format!("{text}\r\n\n{text}\n").as_bytes(), LIMITS).unwrap().len(), 2);
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (field, wrong) in [
            ("model", json!("")),
            ("model", json!("x".repeat(181))),
            ("model", json!(7)),
            ("latency_ms", json!(-1)),
            ("latency_ms", json!("12")),
            ("status", json!(99)),
            ("status", json!(true)),
            ("status", json!("")),
            ("input_tokens", json!(1.5)),
            ("output_tokens", json!(-1)),
            ("output_tokens", json!(1e300)),
            ("streamed", json!("yes")),
            ("cost", json!(null)),
            ("user", json!(7)),
            ("error", json!(["x"])),
            ("id", json!("a\nb")),
            ("timestamp", json!("yesterday")),
            ("timestamp", json!(-5)),
        ] {
            let body = with(field, wrong.clone()).to_string();
            let found = faults(requests(body.as_bytes(), LIMITS).unwrap_err());
            assert_eq!(found, [(None, field.to_owned())], "{field}: {wrong}");
        }
        for field in ["model", "latency_ms", "status", "input_tokens", "output_tokens", "streamed", "cost"] {
            let mut record = record();
            record.as_object_mut().unwrap().remove(field);
            let body = json!([self::record(), record]).to_string();
            assert_eq!(faults(requests(body.as_bytes(), LIMITS).unwrap_err()), [(Some(1), field.to_owned())]);
        }
        for good in [json!("timeout"), json!({ "type": "x" }), json!(null)] {
            assert!(requests(with("error", good).to_string().as_bytes(), LIMITS).is_ok());
        }
    }

    #[test]
    fn a_body_is_taken_whole_or_not_at_all_and_within_its_bounds() {
        let error = |body: &str| requests(body.as_bytes(), LIMITS).unwrap_err();
        let one = record().to_string();
        assert!(
            matches!(error("{"), BodyError::Broken(_)) && matches!(error(&format!("{one}\n{{")), BodyError::Broken(_))
        );
        assert!(matches!(error(" "), BodyError::Empty) && matches!(error("[]"), BodyError::Empty));
        assert!(matches!(error(&format!("[{one},{one},{one},{one}]")), BodyError::TooMany(3)));
        assert!(matches!(error(&format!("{one}\n").repeat(4)), BodyError::TooMany(3)));
        let large = with("more", json!("x".repeat(2000)));
        assert!(matches!(error(&large.to_string()), BodyError::EventTooLarge { item: 0, max: 1000, .. }));
        assert_eq!(faults(error("[7, []]")), [(Some(0), String::new()), (Some(1), String::new())]);
        assert_eq!(faults(error(&with("more", json!([[[[[[[[[]]]]]]]]])).to_string())), [(None, String::new())]);
    }

    #[test]
    fn a_report_is_of_a_kind_that_there_is_and_has_an_object() {
        let events =
            reports(br#"[{"kind":"system","data":{"cpu":1.50}},{"kind":"kv_cache","data":{}}]"#, LIMITS).unwrap();
        assert_eq!(
            (&*events[0].kind, &events[0].data[..], &*events[1].kind),
            ("system", &b"{\"cpu\":1.50}"[..], "kv_cache")
        );
        let fault = |body: &str| faults(reports(body.as_bytes(), LIMITS).unwrap_err()).remove(0).1;
        assert_eq!(fault(r#"{"kind":"disk","data":{}}"#), "kind");
        assert_eq!(fault(r#"{"data":{}}"#), "kind");
        assert_eq!(fault(r#"{"kind":"system"}"#), "data");
        assert_eq!(fault(r#"{"kind":"system","data":[1]}"#), "data");
        assert_eq!(fault(r#"{"kind":"rate_limit","data":{"endpoint":7}}"#), "data.endpoint");
        assert!(reports(br#"{"kind":"rate_limit","data":{"limit":5}}"#, LIMITS).is_ok());
    }
}
