//! Payloads of the polling transport: packets one behind the other, with the record separator between them; binary ones as `b` and base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::packet::Malformed;

/// Between two packets. JSON has it in no text but escaped, so it stands in no packet.
const SEPARATOR: char = '\u{1e}';

/// One of a payload's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    /// An attachment. Nobody reads what is in it.
    Binary,
}

/// Takes a payload apart.
pub(super) fn read(body: &str) -> impl Iterator<Item = Result<Part<'_>, Malformed>> {
    body.split(SEPARATOR).map(|part| match part.strip_prefix('b') {
        None => Ok(Part::Text(part)),
        Some(base64) => {
            STANDARD.decode(base64).map(|_| Part::Binary).map_err(|_| Malformed("expected base64 behind the b"))
        }
    })
}

/// Puts packets together.
pub(super) fn write(packets: &[Utf8Bytes]) -> Bytes {
    if let [only] = packets {
        // Not copied: it is shared by all who read the same.
        return only.clone().into();
    }
    let mut out = String::with_capacity(packets.iter().map(|packet| packet.len() + 1).sum());
    for packet in packets {
        if !out.is_empty() {
            out.push(SEPARATOR);
        }
        out.push_str(packet);
    }
    out.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn binary_is_base64_behind_a_b() {
        let parts: Vec<_> = read("4hello\u{1e}bAQIDBA==\u{1e}3").collect();
        assert_eq!(parts, [Ok(Part::Text("4hello")), Ok(Part::Binary), Ok(Part::Text("3"))]);
        assert!(read("b****").all(|part| part.is_err()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(packets in proptest::collection::vec("[0-6][^\u{1e}]{0,12}", 1..8)) {
            let written: Vec<Utf8Bytes> = packets.iter().map(Into::into).collect();
            let body = String::from_utf8(write(&written).to_vec()).unwrap();
            let found: Vec<_> = read(&body).map(Result::unwrap).collect();
            let expected: Vec<_> = packets.iter().map(|packet| Part::Text(packet)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_text_makes_the_reading_fail_otherwise_than_by_an_error(body in "[0-6bA=+\u{1e}\u{e9}]{0,40}") {
            let _ = read(&body).count();
        }
    }
}
