//! Settings of the daemon in pipelines' files: `${overview.update_period:250ms}` is the setting's value, and what is behind the colon where there is none, as in a test.
//!
//! A text that is nothing else, and whose value is a number, is that number: `threshold = "${overview.latency_deviations:6.0}"`.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Settings by their keys, as they are written.
pub type Values = BTreeMap<String, String>;

const OPENS: &str = "${";

/// A file's text with the values in it; without `values` those that the file has itself.
///
/// # Errors
/// Where the name of a setting stands that may not be named, in bytes, and which.
pub fn fill<'t>(text: &'t str, values: Option<&Values>) -> Result<Cow<'t, str>, (usize, String)> {
    let (mut filled, mut at) = (String::new(), 0);
    while let Some(found) = text[at..].find(OPENS) {
        let begins = at + found;
        let Some((key, own, length)) = named(&text[begins + OPENS.len()..]) else {
            // Whatever it is, it is none of these.
            filled.push_str(&text[at..begins + OPENS.len()]);
            at = begins + OPENS.len();
            continue;
        };
        let value = match values {
            None => own,
            Some(values) => values.get(key).ok_or_else(|| (begins, key.to_owned()))?,
        };
        let ends = begins + OPENS.len() + length;
        let alone = text[..begins].ends_with('"') && text[ends..].starts_with('"');
        if alone && value.parse::<f64>().is_ok() {
            filled.push_str(&text[at..begins - 1]);
            filled.push_str(value);
            at = ends + 1;
        } else {
            filled.push_str(&text[at..begins]);
            filled.push_str(value);
            at = ends;
        }
    }
    if at == 0 {
        return Ok(Cow::Borrowed(text));
    }
    filled.push_str(&text[at..]);
    Ok(filled.into())
}

/// The key and the file's own value of `key:value}`, and how long that is.
fn named(text: &str) -> Option<(&str, &str, usize)> {
    let ends = text.find('}')?;
    let (key, own) = text[..ends].split_once(':')?;
    let is_key = key.contains('.') && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'.');
    is_key.then_some((key, own, ends + 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_settings_are_named_and_numbers_without_quotes() {
        let text =
            "period = \"${a.period:250ms}\"\nthreshold = \"${a.b_c:6.0}\"\nset = { x = 'y >= ${a.b_c:6.0} && z' }\n";
        let own = "period = \"250ms\"\nthreshold = 6.0\nset = { x = 'y >= 6.0 && z' }\n";
        assert_eq!(fill(text, None).unwrap(), own);
        let values = Values::from([("a.period".into(), "100ms".into()), ("a.b_c".into(), "7".into())]);
        assert_eq!(fill(text, Some(&values)).unwrap(), own.replace("250ms", "100ms").replace("6.0", "7"));
        assert_eq!(fill(text, Some(&Values::new())), Err((10, "a.period".to_owned())));
    }

    #[test]
    fn what_only_looks_like_it_stays() {
        for text in ["", "${", "cost ${x}", "\"${x:1}\"", "${a.b}", "${A.b:1}", "${a.b:1"] {
            assert_eq!(fill(text, Some(&Values::new())).unwrap(), text);
        }
    }
}
