//! How deep JSON is nested. Raw JSON is passed on as it came, and whoever reads it may not stand a thousand brackets.

use memchr::memchr2_iter;

/// Whether arrays and objects in this JSON are nested deeper than `max`. The text must be JSON; of other text it says something, in bounded time.
#[must_use]
pub fn is_deeper_than(json: &[u8], max: usize) -> bool {
    // What opens no more than that cannot be deeper; most events end here.
    if memchr2_iter(b'[', b'{', json).take(max + 1).count() <= max {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nesting_counts() {
        assert!(!is_deeper_than(b"[[1],[2],[3],{}]", 2));
        assert!(is_deeper_than(b"[[[1]]]", 2));
        assert!(!is_deeper_than(br#"{"a":"[[[[{{{\"[["}"#, 2), "brackets in text open nothing");
        assert!(is_deeper_than(&[b'['; 100_000], 64));
    }
}
