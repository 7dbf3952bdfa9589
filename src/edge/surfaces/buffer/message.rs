//! A message as it comes in over `POST /messages`: read and checked, with everything that is wrong with it said field by field.

use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use crate::event::NewEvent;

/// The kind of a message's event.
const KIND: &str = "message";
/// The longest id, and the longest name of a user or a channel, in characters.
const NAME_MAX: usize = 200;

/// A checked message.
#[derive(Debug, PartialEq)]
pub(super) struct Message {
    /// By which a repetition is known; the client's own, or one made for it.
    pub(super) id: String,
    /// Its event.
    pub(super) event: NewEvent,
}

/// What a message may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of the content.
    pub(super) content_bytes: usize,
    /// Bytes of the whole event.
    pub(super) event_bytes: usize,
}

/// Reads a body. Fields that are not known are passed over: dashboards send what they like.
///
/// # Errors
/// Everything that is wrong with it, as [`fault`] has it.
pub(super) fn read(body: &[u8], bounds: Bounds) -> Result<Message, Vec<Value>> {
    let body = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(vec![fault("body", None, "model_attributes_type", "Expected an object with fields")]),
        Err(error) => return Err(vec![fault("body", None, "json_invalid", &format!("The body is not JSON: {error}"))]),
    };
    let mut faults = Vec::new();
    let id = match body.get("id") {
        None | Some(Value::Null) => format!("{:032x}", rand::random::<u128>()),
        Some(id) => name("id", id, &mut faults).map_or_else(String::new, |id| match id {
            Value::String(id) => id,
            number => number.to_string(),
        }),
    };
    let user = required("user_id", &body, &mut faults).and_then(|user| name("user_id", user, &mut faults));
    let channel =
        required("channel_id", &body, &mut faults).and_then(|channel| name("channel_id", channel, &mut faults));
    let content =
        required("content", &body, &mut faults).and_then(|text| content(text, bounds.content_bytes, &mut faults));
    if !faults.is_empty() {
        return Err(faults);
    }
    let data = json!({ "id": id, "user_id": user, "channel_id": channel, "content": content }).to_string();
    let event = NewEvent { id: Some(SmolStr::from(&id)), ..NewEvent::new(KIND, data.into()) };
    let (bytes, max) = (event.content_bytes(), bounds.event_bytes);
    if bytes > max {
        let message = format!("The message makes an event of {bytes} bytes, more than {max} (limits.event_bytes)");
        return Err(vec![fault("body", Some("content"), "string_too_long", &message)]);
    }
    Ok(Message { id, event })
}

/// What is wrong with a field: `field`, `message`, and for the answer's shape where it stands (`in`) and which rule it breaks (`type`).
pub(super) fn fault(stands_in: &str, field: Option<&str>, rule: &str, message: &str) -> Value {
    let mut fault = json!({ "in": stands_in, "message": message, "type": rule });
    if let Some(field) = field {
        fault["field"] = field.into();
    }
    fault
}

fn required<'b>(field: &str, body: &'b Map<String, Value>, faults: &mut Vec<Value>) -> Option<&'b Value> {
    let found = body.get(field);
    if found.is_none() {
        faults.push(fault("body", Some(field), "missing", "Field required"));
    }
    found
}

/// A whole number or a text that names somebody or something.
fn name(field: &str, value: &Value, faults: &mut Vec<Value>) -> Option<Value> {
    let mut wrong = |rule, message: &str| faults.push(fault("body", Some(field), rule, message));
    match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => return Some(value.clone()),
        Value::String(text) if text.is_empty() => wrong("string_too_short", "Expected at least one character"),
        Value::String(text) if text.chars().count() > NAME_MAX => {
            wrong("string_too_long", &format!("Expected at most {NAME_MAX} characters"));
        }
        Value::String(text) if text.chars().any(char::is_control) => {
            wrong("string_pattern_mismatch", "Expected no control characters");
        }
        Value::String(_) => return Some(value.clone()),
        _ => wrong("int_or_string_type", "Expected a whole number or a text"),
    }
    None
}

fn content<'b>(value: &'b Value, bytes_max: usize, faults: &mut Vec<Value>) -> Option<&'b str> {
    let mut wrong = |rule, message: &str| faults.push(fault("body", Some("content"), rule, message));
    match value {
        Value::String(text) if text.trim().is_empty() => {
            wrong("string_too_short", "Expected at least one character that is no space");
        }
        Value::String(text) if text.len() > bytes_max => {
            wrong("string_too_long", &format!("Expected at most {bytes_max} bytes (buffer.content_bytes)"));
        }
        // Databases keep no such character in a text; better said now than by the sink.
        Value::String(text) if text.contains('\0') => {
            wrong("string_pattern_mismatch", "Expected no NUL character");
        }
        Value::String(text) => return Some(text),
        _ => wrong("string_type", "Expected a text"),
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { content_bytes: 100, event_bytes: 400 };

    fn faults(body: &str) -> Vec<(String, String)> {
        let faults = read(body.as_bytes(), BOUNDS).unwrap_err();
        let text = |fault: &Value, of: &str| fault[of].as_str().unwrap_or_default().to_owned();
        faults.iter().map(|fault| (text(fault, "field"), text(fault, "type"))).collect()
    }

    #[test]
    fn ids_are_kept_as_they_came_and_unknown_fields_are_passed_over() {
        let body = r#"{"user_id": 7, "channel_id": "general", "content": "hello", "id": "m-1", "mood": "fine"}"#;
        let message = read(body.as_bytes(), BOUNDS).unwrap();
        let data: Value = serde_json::from_slice(&message.event.data).unwrap();
        assert_eq!(data, json!({"id": "m-1", "user_id": 7, "channel_id": "general", "content": "hello"}));
        assert_eq!(
            (&*message.event.kind, message.event.id.as_deref(), message.event.key),
            ("message", Some("m-1"), None)
        );
    }

    #[test]
    fn a_message_without_an_id_gets_one_of_its_own() {
        let id = || read(br#"{"user_id":1,"channel_id":1,"content":"x"}"#, BOUNDS).unwrap().id;
        let (one, other) = (id(), id());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        assert_eq!(read(br#"{"id":12,"user_id":1,"channel_id":1,"content":"x"}"#, BOUNDS).unwrap().id, "12");
    }

    #[test]
    fn everything_that_is_wrong_is_named_with_its_field() {
        let named = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(field, rule)| ((*field).to_owned(), (*rule).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(faults("{}"), named(&[("user_id", "missing"), ("channel_id", "missing"), ("content", "missing")]));
        assert_eq!(
            faults(r#"{"user_id": 1.5, "channel_id": true, "content": 3}"#),
            named(&[
                ("user_id", "int_or_string_type"),
                ("channel_id", "int_or_string_type"),
                ("content", "string_type")
            ])
        );
        let with = |content: &str| format!(r#"{{"user_id": 1, "channel_id": 1, "content": "{content}"}}"#);
        assert_eq!(faults(&with(" ")), named(&[("content", "string_too_short")]));
        assert_eq!(faults(&with(&"x".repeat(101))), named(&[("content", "string_too_long")]));
        assert_eq!(faults(&with("a\\u0000b")), named(&[("content", "string_pattern_mismatch")]));
        assert_eq!(faults(&with(&"\\u0001".repeat(99))), named(&[("content", "string_too_long")]));
        assert_eq!(faults("[]"), named(&[("", "model_attributes_type")]));
        assert_eq!(faults("{"), named(&[("", "json_invalid")]));
        assert_eq!(
            faults(r#"{"id": "", "user_id": 1, "channel_id": 1, "content": "x"}"#),
            named(&[("id", "string_too_short")])
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reading_fail_otherwise_than_by_faults(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body, BOUNDS);
        }
    }
}
