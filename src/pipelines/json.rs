//! Reading events' data as JSON. It was checked when it came in; what is left is what a parser of numbers and trees would stumble over: data that is nested deep (how deep it may be was decided
//! when it came in), and numbers beyond all numbers, such as `1e999`, which JSON allows. Those are taken for the largest there is, so that nothing of the event is lost.

use std::borrow::Cow;

use serde_json::Value;

/// Data as a tree.
#[must_use]
pub fn parse(json: &[u8]) -> Value {
    // What is no JSON at all was never let in.
    try_parse(json).or_else(|| try_parse(&tamed(json))).unwrap_or_default()
}

fn try_parse(json: &[u8]) -> Option<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.disable_recursion_limit();
    serde::Deserialize::deserialize(&mut deserializer).ok()
}

/// The same JSON with the largest number in place of larger ones.
#[must_use]
pub(super) fn tamed(json: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut done, mut at, mut in_text) = (Vec::new(), 0, 0, false);
    while let Some(byte) = json.get(at) {
        match byte {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'-' | b'0'..=b'9' if !in_text => {
                let length = json[at..].iter().take_while(|byte| b"+-.eE0123456789".contains(byte)).count();
                let number = std::str::from_utf8(&json[at..at + length]).ok().and_then(|text| text.parse::<f64>().ok());
                if let Some(number) = number.filter(|number| number.is_infinite()) {
                    out.extend_from_slice(&json[done..at]);
                    out.extend_from_slice(format!("{:e}", f64::MAX.copysign(number)).as_bytes());
                    done = at + length;
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    if done == 0 {
        return Cow::Borrowed(json);
    }
    out.extend_from_slice(&json[done..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_beyond_all_numbers_is_the_largest_there_is_and_nothing_else_is_touched() {
        let read = parse(br#"{"a":1e999,"b":[-1e400,"1e999 \" 1e999",2.5],"c":{"d":7}}"#);
        assert_eq!(read, json!({ "a": f64::MAX, "b": [-f64::MAX, "1e999 \" 1e999", 2.5], "c": { "d": 7 } }));
        assert!(matches!(tamed(br#"{"a":1e308}"#), Cow::Borrowed(_)));
    }

    #[test]
    fn data_may_be_as_deep_as_it_was_let_in() {
        let deep = format!("{}1{}", "[".repeat(900), "]".repeat(900));
        assert_eq!(parse(deep.as_bytes()).to_string(), deep);
    }
}
