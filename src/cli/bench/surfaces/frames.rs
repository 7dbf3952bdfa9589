//! Just enough of the wires to be a client: frames of WebSocket (RFC 6455), lines of Server-Sent Events, packets of Engine.IO 4.

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'b> {
    /// A message's text.
    Text(&'b [u8]),
    /// It wants this back.
    Ping(&'b [u8]),
    /// It is over.
    Close,
    /// Anything else.
    Other,
}

/// The next whole frame of WebSocket, and where the one after it begins. A server masks nothing and, this one, splits no message.
pub(super) fn frame(bytes: &[u8]) -> Option<(Piece<'_>, usize)> {
    let (length, head) = match (*bytes.get(1)? & 0x7f, bytes) {
        (126, [_, _, a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [_, _, _, _, _, _, a, b, c, d, ..]) => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, 10),
        (126 | 127, _) => return None,
        (length, _) => (usize::from(length), 2),
    };
    let payload = bytes.get(head..head + length)?;
    let piece = match bytes[0] & 0x0f {
        1 => Piece::Text(payload),
        8 => Piece::Close,
        9 => Piece::Ping(payload),
        _ => Piece::Other,
    };
    Some((piece, head + length))
}

/// The next whole line of a stream of events that comes in chunks. The heads of chunks are lines like others, because a chunk ends where a message does.
pub(super) fn line(bytes: &[u8]) -> Option<(Piece<'_>, usize)> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = &bytes[..end];
    let piece = match line.strip_prefix(b"data:") {
        Some(data) => Piece::Text(data.strip_prefix(b" ").unwrap_or(data)),
        None if line == b"0\r" => Piece::Close,
        None => Piece::Other,
    };
    Some((piece, end + 1))
}

/// A frame as a client sends it: masked, as it must be, with a key of zeros, so that it is its own bytes.
pub(super) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | u8::try_from(length).unwrap_or(0)),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A packet of Engine.IO, with the packet of Socket.IO in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'b> {
    /// The session is open.
    Open(&'b [u8]),
    /// The client is to answer with a pong.
    Ping,
    /// The client is connected to its namespace.
    Connected,
    /// An event: an array of its name and its data.
    Event(&'b [u8]),
    /// It is refused, or over; in the server's words.
    End(&'b [u8]),
    /// Anything else.
    Other,
}

/// What a client answers to a ping.
pub(super) const PONG: &str = "3";

/// Reads a packet.
pub(super) fn packet(bytes: &[u8]) -> Packet<'_> {
    match bytes {
        [b'0', handshake @ ..] => Packet::Open(handshake),
        [b'2', ..] => Packet::Ping,
        [b'4', b'0', ..] => Packet::Connected,
        [b'4', b'2', event @ ..] => Packet::Event(event),
        [b'1', ..] | [b'4', b'1', ..] => Packet::End(b"disconnected"),
        [b'4', b'4', error @ ..] => Packet::End(error),
        _ => Packet::Other,
    }
}

/// What a client says to be let in.
pub(super) fn connect(token: &str) -> String {
    format!("40{}", serde_json::json!({ "token": token }))
}

/// What it says to follow a well.
pub(super) fn subscribe(well: &str) -> String {
    format!("42{}", serde_json::json!(["subscribe", { "well_id": well }]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_frame_is_read_as_what_was_put_into_it() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let mut frame = masked(1, &vec![b'x'; length]);
            // As a server would send it: without the mask.
            let head = frame.len() - length;
            frame.drain(head - 4..head);
            frame[1] &= 0x7f;
            let (piece, end) = super::frame(&frame).unwrap_or((Piece::Other, 0));
            assert_eq!((piece, end), (Piece::Text(&vec![b'x'; length]), frame.len()), "{length}");
            assert!(super::frame(&frame[..frame.len() - 1]).is_none());
        }
    }

    #[test]
    fn lines_of_a_stream_are_its_data() {
        assert_eq!(line(b"data: {}\nid"), Some((Piece::Text(b"{}"), 9)));
        assert_eq!(line(b"1f\r\ndata"), Some((Piece::Other, 4)));
        assert_eq!(line(b"0\r\n\r\n"), Some((Piece::Close, 3)));
        assert_eq!(line(b"data: {"), None);
    }

    #[test]
    fn packets_are_what_they_begin_with() {
        assert_eq!(packet(br#"42["a",1]"#), Packet::Event(br#"["a",1]"#));
        assert_eq!(packet(b"2"), Packet::Ping);
        assert_eq!(packet(br#"40{"sid":"x"}"#), Packet::Connected);
        assert_eq!(packet(br#"44{"message":"no"}"#), Packet::End(br#"{"message":"no"}"#));
        assert_eq!(packet(b"6"), Packet::Other);
    }
}
