//! Packets: what Engine.IO (protocol revision 4) and in it Socket.IO (protocol revision 5) say, read and written. Knows no session. Of untrusted text it makes a packet or
//! says what is wrong.
//!
//! Sources: github.com/socketio/engine.io-protocol and github.com/socketio/socket.io-protocol.

use std::borrow::Cow;

use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::event::depth::is_deeper_than;
use crate::event::encode::write_json_text;

/// The server asks whether the client lives.
pub(super) const PING: Utf8Bytes = Utf8Bytes::from_static("2");
/// Nothing: it ends a poll.
pub(super) const NOOP: Utf8Bytes = Utf8Bytes::from_static("6");
/// The session ends.
pub(super) const CLOSE: Utf8Bytes = Utf8Bytes::from_static("1");
/// The namespace is left by the server: its client does not come back by itself.
pub(super) const DISCONNECT: Utf8Bytes = Utf8Bytes::from_static("41");
/// What the client says to a WebSocket before it goes over to it, and what it is answered.
pub(super) const PROBE: &str = "2probe";
pub(super) const PROBE_ANSWER: Utf8Bytes = Utf8Bytes::from_static("3probe");
/// The client goes over to the WebSocket.
pub(super) const UPGRADE: &str = "5";

/// Attachments of one packet: more than anybody here has a use for.
const ATTACHMENTS_MAX: usize = 16;
/// The longest id of an acknowledgement, in digits, and the longest name of a namespace, in bytes: both come back in the answer.
const ID_DIGITS: usize = 20;
const NAMESPACE_BYTES: usize = 200;

/// A packet of Engine.IO as a client sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The session ends.
    Close,
    /// Is the server there? Only revision 3 asks so; it is answered.
    Ping(&'a str),
    /// The client is there.
    Pong,
    /// A packet of Socket.IO.
    Message(&'a str),
    /// Means nothing here: upgrade and noop.
    Nothing,
}

/// Reads a packet of Engine.IO.
pub(super) fn frame(text: &str) -> Result<Frame<'_>, Malformed> {
    let rest = text.get(1..).unwrap_or_default();
    match text.as_bytes().first() {
        Some(b'1') => Ok(Frame::Close),
        Some(b'2') => Ok(Frame::Ping(rest)),
        Some(b'3') => Ok(Frame::Pong),
        Some(b'4') => Ok(Frame::Message(rest)),
        Some(b'5' | b'6') => Ok(Frame::Nothing),
        _ => Err(Malformed("expected an Engine.IO packet, which begins with a digit from 1 to 6")),
    }
}

/// What is no packet. A client that speaks otherwise than agreed cannot be understood any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// What a packet of Socket.IO is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Disconnect,
    /// With so many binary attachments to come.
    Event(usize),
    Ack(usize),
}

/// A packet of Socket.IO as a client sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) kind: Kind,
    /// `/` if it names none.
    pub(super) namespace: &'a str,
    /// By which its answer is known, in digits.
    pub(super) id: Option<&'a str>,
    /// JSON, or nothing.
    pub(super) payload: &'a str,
}

/// Reads a packet of Socket.IO. That its payload is JSON is not looked at, only that it begins as it must.
pub(super) fn packet(text: &str) -> Result<Packet<'_>, Malformed> {
    let (digit, rest) = text.split_at_checked(1).ok_or(Malformed("a Socket.IO packet is empty"))?;
    let (attachments, rest) = if matches!(digit, "5" | "6") { attachments(rest)? } else { (0, rest) };
    let (namespace, rest) =
        if rest.starts_with('/') { rest.split_once(',').unwrap_or((rest, "")) } else { ("/", rest) };
    // A query behind the namespace was a way to hand over parameters once.
    let namespace = namespace.split('?').next().unwrap_or_default();
    if namespace.len() > NAMESPACE_BYTES {
        return Err(Malformed("the name of a namespace is too long"));
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (id, payload) = rest.split_at(digits);
    if digits > ID_DIGITS {
        return Err(Malformed("the id of an acknowledgement is too long"));
    }
    let id = (digits > 0).then_some(id);
    let kind = match digit {
        "0" => Kind::Connect,
        "1" => Kind::Disconnect,
        "2" | "5" => Kind::Event(attachments),
        "3" | "6" => Kind::Ack(attachments),
        _ => return Err(Malformed("expected a Socket.IO packet, which begins with a digit from 0 to 6")),
    };
    let begins = |with: char| payload.starts_with(with);
    match kind {
        Kind::Connect if !payload.is_empty() && !begins('{') => {
            Err(Malformed("CONNECT: expected an object, or nothing"))
        }
        Kind::Event(_) if !begins('[') => Err(Malformed("EVENT: expected an array that begins with the event's name")),
        Kind::Ack(_) if !begins('[') || id.is_none() => Err(Malformed("ACK: expected an id and an array")),
        _ => Ok(Packet { kind, namespace, id, payload }),
    }
}

fn attachments(text: &str) -> Result<(usize, &str), Malformed> {
    let wrong = Malformed("expected the number of attachments, at most 16, and a dash");
    let (number, rest) = text.split_once('-').ok_or(wrong)?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| digits && *number <= ATTACHMENTS_MAX).ok_or(wrong)?;
    Ok((number, rest))
}

/// An event: its name and what follows it.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) arguments: Vec<&'a RawValue>,
}

/// Reads an event's payload; it may be nested `depth` deep.
///
/// # Errors
/// In words.
pub(super) fn call(payload: &str, depth: usize) -> Result<Call<'_>, String> {
    // The array around it is one more.
    if is_deeper_than(payload.as_bytes(), depth + 1) {
        return Err(format!("nested deeper than {depth} (limits.json_depth)"));
    }
    let mut list: Vec<&RawValue> =
        serde_json::from_str(payload).map_err(|error| format!("the event is not JSON: {error}"))?;
    let wrong = || "an event is an array that begins with its name".to_owned();
    if list.is_empty() {
        return Err(wrong());
    }
    let name = serde_json::from_str::<Text<'_>>(list.remove(0).get()).map_err(|_| wrong())?;
    Ok(Call { name: name.0, arguments: list })
}

/// Text that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The answer to a handshake.
pub(super) fn open(sid: &str, upgrades: &[&str], interval_ms: u128, timeout_ms: u128, max_payload: usize) -> String {
    let upgrades = if upgrades.is_empty() { String::new() } else { format!("\"{}\"", upgrades.join("\",\"")) };
    format!(
        "0{{\"sid\":\"{sid}\",\"upgrades\":[{upgrades}],\"pingInterval\":{interval_ms},\"pingTimeout\":{timeout_ms},\"maxPayload\":{max_payload}}}"
    )
}

/// The namespace is open; with a `pid` the client may come back to it.
pub(super) fn connected(sid: &str, pid: Option<&str>) -> Utf8Bytes {
    match pid {
        Some(pid) => format!("40{{\"sid\":\"{sid}\",\"pid\":\"{pid}\"}}").into(),
        None => format!("40{{\"sid\":\"{sid}\"}}").into(),
    }
}

/// The namespace is not opened.
pub(super) fn connect_error(namespace: &str, json: &str) -> Utf8Bytes {
    let name = if namespace == "/" { String::new() } else { format!("{namespace},") };
    format!("44{name}{json}").into()
}

/// An event with one argument, and behind it an offset for a client that keeps it.
pub(super) fn event(name: &str, json: &str, offset: Option<&str>) -> String {
    let mut out = String::with_capacity(json.len() + name.len() + offset.map_or(0, str::len) + 16);
    out.push_str("42[");
    write_json_text(name, &mut out);
    out.push(',');
    out.push_str(json);
    if let Some(offset) = offset {
        out.push(',');
        write_json_text(offset, &mut out);
    }
    out.push(']');
    out
}

/// An event's packet with an offset behind its argument.
pub(super) fn with_offset(packet: &str, offset: &str) -> Utf8Bytes {
    let mut out = String::with_capacity(packet.len() + offset.len() + 3);
    out.push_str(packet.strip_suffix(']').unwrap_or(packet));
    out.push(',');
    write_json_text(offset, &mut out);
    out.push(']');
    out.into()
}

/// The answer to an event that has an id.
pub(super) fn ack(id: &str, json: &str) -> Utf8Bytes {
    format!("43{id}[{json}]").into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_told_by_their_first_character() {
        assert_eq!(frame("4hello"), Ok(Frame::Message("hello")));
        assert_eq!(frame("2probe"), Ok(Frame::Ping("probe")));
        assert_eq!((frame("1"), frame("3"), frame("6")), (Ok(Frame::Close), Ok(Frame::Pong), Ok(Frame::Nothing)));
        assert!(["", "abc", "0{}", "7", "\u{e9}"].iter().all(|wrong| frame(wrong).is_err()));
    }

    #[test]
    fn packets_are_read_as_the_protocol_writes_them() {
        let read = |text| packet(text).map(|packet| (packet.kind, packet.namespace, packet.id, packet.payload));
        assert_eq!(read("0"), Ok((Kind::Connect, "/", None, "")));
        assert_eq!(read("0/admin,{\"a\":1}"), Ok((Kind::Connect, "/admin", None, "{\"a\":1}")));
        assert_eq!(read("0/admin?token=1234&uid=abcd,"), Ok((Kind::Connect, "/admin", None, "")));
        assert_eq!(read("0/random"), Ok((Kind::Connect, "/random", None, "")));
        assert_eq!(read("212[\"foo\"]"), Ok((Kind::Event(0), "/", Some("12"), "[\"foo\"]")));
        assert_eq!(read("2/admin,456[\"a\"]"), Ok((Kind::Event(0), "/admin", Some("456"), "[\"a\"]")));
        assert_eq!(read("31[1]"), Ok((Kind::Ack(0), "/", Some("1"), "[1]")));
        let binary = "[\"m\",{\"_placeholder\":true,\"num\":0}]";
        let text = format!("51-789{binary}");
        assert_eq!(read(&text), Ok((Kind::Event(1), "/", Some("789"), binary)));
        assert_eq!(read("1"), Ok((Kind::Disconnect, "/", None, "")));
    }

    #[test]
    fn what_is_no_packet_is_told_so() {
        for wrong in [
            "",
            "abc",
            "2{}",
            "2abc[\"m\"]",
            "2",
            "4{}",
            "9",
            "5[\"m\"]",
            "5x-[]",
            "517-[]",
            "3[1]",
            "0[1]",
            "0x",
            "5+1-[]",
        ] {
            assert!(packet(wrong).is_err(), "{wrong}");
        }
        assert!(packet(&format!("2{}[]", "1".repeat(21))).is_err());
        assert!(packet(&format!("0/{}", "n".repeat(200))).is_err());
    }

    #[test]
    fn an_event_is_a_name_and_what_follows() {
        let found = call("[\"sub\\u0073cribe\", {\"well_id\":\"A\"}, 2]", 64).unwrap();
        assert_eq!(
            (&*found.name, found.arguments.len(), found.arguments[0].get()),
            ("subscribe", 2, "{\"well_id\":\"A\"}")
        );
        for wrong in ["[]", "[1]", "[\"a\"", "[\"a\",]", "[null]", "[\"a\",[[[1]]]]"] {
            assert!(call(wrong, 2).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(name in ".{0,12}", text in ".{0,20}", offset in proptest::option::of("[a-z:=0-9,]{0,20}"), id in proptest::option::of(0u64..1000)) {
            let json = serde_json::to_string(&text).unwrap();
            let mut written = event(&name, &json, offset.as_deref());
            if let Some(id) = id {
                written = format!("42{id}{}", &written[2..]);
            }
            let Ok(Frame::Message(message)) = frame(&written) else { panic!("no message: {written}") };
            let found = packet(message).unwrap();
            prop_assert_eq!(found.kind, Kind::Event(0));
            prop_assert_eq!(found.id.map(str::to_owned), id.map(|id| id.to_string()));
            let found = call(found.payload, 64).unwrap();
            prop_assert_eq!(&*found.name, &name);
            prop_assert_eq!(found.arguments[0].get(), &json);
            prop_assert_eq!(found.arguments.len(), 1 + usize::from(offset.is_some()));
            if let Some(offset) = offset {
                let added = with_offset(&event(&name, &json, None), &offset);
                prop_assert_eq!(added.as_str(), event(&name, &json, Some(&offset)));
            }
        }

        #[test]
        fn no_text_makes_the_reading_fail_otherwise_than_by_an_error(text in "[0-6]{0,2}[-,/\\[\\]{}\"a-z0-9\u{e9} ]{0,30}") {
            if let Ok(Frame::Message(message)) = frame(&text)
                && let Ok(found) = packet(message)
            {
                let _ = call(found.payload, 8);
            }
            let _ = packet(&text).map(|found| call(found.payload, 8).is_ok());
        }
    }
}
