//! What varies in a message by its very form: numbers, hexadecimal numbers, UUIDs and IP addresses. Each becomes `<*>`, so that messages that differ only in such are the same.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// What stands for something that varies.
pub(super) const WILD: &str = "<*>";
/// The lengths of the groups of a UUID (RFC 9562, section 4).
const UUID: [usize; 5] = [8, 4, 4, 4, 12];
/// Fewer hexadecimal digits than these, without `0x` before them, may be a word.
const HEX_MIN: usize = 8;

/// Masks what varies in a word of a message. It is looked for where a word of letters and digits begins, and must end where that ends: `5` in `[5]`, `n=5` and `5%`, but not in `n5` or `5ms`.
pub(super) fn mask(word: &str) -> Cow<'_, str> {
    // All of it has digits.
    if !has_digit(word) {
        return Cow::Borrowed(word);
    }
    let (mut masked, mut at, mut inside) = (String::with_capacity(word.len()), 0, false);
    while at < word.len() {
        let rest = &word[at..];
        let found = if inside { 0 } else { variable(rest) };
        if found > 0 {
            masked.push_str(WILD);
            at += found;
            inside = true;
            continue;
        }
        // A whole word, or one character that belongs to none.
        let length = leading(rest, is_word);
        inside = length > 0;
        masked.push_str(&rest[..length.max(1)]);
        at += length.max(1);
    }
    Cow::Owned(masked)
}

/// Whether a word has a digit in it.
pub(super) fn has_digit(word: &str) -> bool {
    word.bytes().any(|byte| byte.is_ascii_digit())
}

/// What belongs to a word; all that is not ASCII does, so that no character is cut.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// How many bytes at the beginning are such.
fn leading(text: &str, is: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| is(*byte)).count()
}

fn hex(text: &str) -> usize {
    leading(text, |byte| byte.is_ascii_hexdigit())
}

fn digits(text: &str) -> usize {
    leading(text, |byte| byte.is_ascii_digit())
}

/// How many bytes at the beginning are something that varies, up to the end of a word; 0 if they are nothing of the kind.
fn variable(text: &str) -> usize {
    let ends = |length: &usize| *length > 0 && !text.as_bytes().get(*length).copied().is_some_and(is_word);
    [uuid, ipv6, prefixed, number, bare].into_iter().map(|form| form(text)).find(ends).unwrap_or(0)
}

fn uuid(text: &str) -> usize {
    let mut at = 0;
    for (group, length) in UUID.into_iter().enumerate() {
        if group > 0 {
            if !text[at..].starts_with('-') {
                return 0;
            }
            at += 1;
        }
        if hex(&text[at..]) != length {
            return 0;
        }
        at += length;
    }
    at
}

/// Two colons at least, and a digit, as `a::b` may be a name of something.
fn ipv6(text: &str) -> usize {
    let length = leading(text, |byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.');
    let address = text[..length].trim_end_matches(['.', ':']);
    let is_address = has_digit(address) && address.parse::<Ipv6Addr>().is_ok();
    if is_address { address.len() } else { 0 }
}

fn prefixed(text: &str) -> usize {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).map_or(0, hex);
    if digits > 0 { digits + 2 } else { 0 }
}

/// With a sign, parts after points and an exponent: `-1.5e-3`, and also `10.0.0.1`.
fn number(text: &str) -> usize {
    let mut at = usize::from(text.starts_with(['+', '-']));
    let whole = digits(&text[at..]);
    if whole == 0 {
        return 0;
    }
    at += whole;
    while let Some(part) = text[at..].strip_prefix('.').map(digits).filter(|part| *part > 0) {
        at += 1 + part;
    }
    if let Some(exponent) = text[at..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let power = digits(&exponent[sign..]);
        at += if power > 0 { 1 + sign + power } else { 0 };
    }
    at
}

fn bare(text: &str) -> usize {
    let length = hex(text);
    if length >= HEX_MIN && has_digit(&text[..length]) { length } else { 0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_varies_by_its_form_is_masked_and_words_are_not() {
        for (word, masked) in [
            ("42", "<*>"),
            ("-1.5e-3", "<*>"),
            ("[17]", "[<*>]"),
            ("n=5;", "n=<*>;"),
            ("99%", "<*>%"),
            ("a-5", "a-<*>"),
            ("x=-5.", "x=<*>."),
            ("2026-11-20", "<*>-<*>-<*>"),
            ("06:10:00.125", "<*>:<*>:<*>"),
            ("10.0.0.1:8080", "<*>:<*>"),
            ("(::1)", "(<*>)"),
            ("fe80::1%eth0", "<*>%eth0"),
            ("2001:db8::ff00:42:8329,", "<*>,"),
            ("0xdeadBEEF", "<*>"),
            ("550e8400-e29b-41d4-a716-446655440000", "<*>"),
            ("id:550e8400-e29b-41d4-a716-446655440000/x", "id:<*>/x"),
            ("da39a3ee5e6b4b0d", "<*>"),
            ("deadbeef", "deadbeef"),
            ("a::b", "a::b"),
            ("std::fade::bee", "std::fade::bee"),
            ("node7", "node7"),
            ("5ms", "5ms"),
            ("v1.2", "v1.<*>"),
            ("0x", "0x"),
            ("größe=5µm", "größe=5µm"),
            ("größe=5", "größe=<*>"),
            ("5e", "5e"),
            ("-", "-"),
            ("", ""),
        ] {
            assert_eq!(mask(word), masked, "{word}");
        }
    }

    /// Whether a template covers a text: the two are the same but for what `<*>` stands for, one character at least.
    pub(in crate::pipelines) fn covers(template: &str, text: &str) -> bool {
        match template.split_once(WILD) {
            None => template == text,
            Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
                let end = (!rest.is_empty()).then_some(rest.len());
                let mut cuts = rest.char_indices().skip(1).map(|(at, _)| at).chain(end);
                cuts.any(|at| covers(after, &rest[at..]))
            }),
        }
    }

    proptest! {
        #[test]
        fn what_is_masked_covers_what_it_was_made_of(word in "[0-9a-fxzµ:.%=+-]{0,24}") {
            let masked = mask(&word);
            prop_assert!(covers(&masked, &word), "{} for {}", masked, word);
        }
    }
}
