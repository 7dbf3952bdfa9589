//! The floor: a bare broadcaster. It encodes an event once and makes one `send` for each socket; it parses nothing, checks nothing, keeps nothing unless it is told to. What
//! tidegate costs beyond it is what tidegate does.
//!
//! It answers the same two requests, so that the same client measures both: `GET /v1/stream?rooms=ROOM` as WebSocket or SSE, with `after=` where it keeps messages; `POST
//! /v1/rooms/ROOM/events`. Nothing is to be added to it: it is what everything else is compared to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;

use clap::Args;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::process::READY;
use crate::edge::server::raise_open_files;

/// The number before a room's first event.
pub(super) const BEFORE_FIRST: u64 = 1_795_000_000_000_000;

/// Readers that have gone are looked for when a room has so many more: where nothing is published, nothing else would find them.
const PRUNED_EVERY: usize = 1024;

/// What the floor is told.
#[derive(Debug, Clone, Args)]
pub(super) struct FloorArguments {
    /// So many of a room's last messages are kept, for `after=`
    #[arg(long, default_value_t = 0)]
    keep: usize,
}

/// Messages end to end, and where each ends.
#[derive(Debug, Clone, Default)]
struct Kept {
    bytes: Rc<Vec<u8>>,
    ends: Vec<usize>,
    /// Messages that are not kept any more.
    gone: usize,
}

impl Kept {
    fn push(&mut self, message: &[u8], keep: usize) {
        let bytes = Rc::make_mut(&mut self.bytes);
        bytes.extend_from_slice(message);
        self.ends.push(bytes.len());
        // The older half at once, so that an event costs little.
        if self.ends.len() >= 2 * keep {
            let cut = self.ends[keep - 1];
            bytes.drain(..cut);
            self.ends.drain(..keep);
            self.ends.iter_mut().for_each(|end| *end -= cut);
            self.gone += keep;
        }
    }

    /// All messages, and where those behind the first so many begin.
    fn behind(&self, count: usize) -> (Rc<Vec<u8>>, usize) {
        let at = count.saturating_sub(self.gone);
        let begin = if at == 0 { 0 } else { self.ends.get(at - 1).copied().unwrap_or(self.bytes.len()) };
        (Rc::clone(&self.bytes), begin)
    }
}

#[derive(Default)]
struct Room {
    websockets: Vec<TcpStream>,
    sse: Vec<TcpStream>,
    events: u64,
    kept_frames: Kept,
    kept_lines: Kept,
}

type SharedRoom = Rc<Mutex<Room>>;

struct Floor {
    keep: usize,
    rooms: RefCell<HashMap<String, SharedRoom>>,
}

/// Serves on a free port, which it prints, until it is killed or its standard input ends.
pub(super) fn serve(arguments: &FloorArguments) -> anyhow::Result<()> {
    raise_open_files();
    // Whoever started it has gone without ending it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stdout(), "{READY}{}", listener.local_addr()?)?;
        let floor = Rc::new(Floor { keep: arguments.keep, rooms: RefCell::default() });
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let floor = Rc::clone(&floor);
            // A client that breaks off is not missed.
            tokio::task::spawn_local(async move { floor.client(stream).await });
        }
    })
}

/// What stands between these two.
fn between<'t>(text: &'t str, before: &str, behind: &[char]) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split(behind).next()
}

impl Floor {
    fn room(&self, name: &str) -> SharedRoom {
        let mut rooms = self.rooms.borrow_mut();
        if let Some(room) = rooms.get(name) {
            return Rc::clone(room);
        }
        Rc::clone(rooms.entry(name.to_owned()).or_default())
    }

    async fn client(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(4096);
        loop {
            let end = loop {
                if let Some(end) = memmem::find(&bytes, b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            };
            let head = std::str::from_utf8(&bytes[..end]).map_err(std::io::Error::other)?;
            if head.starts_with("GET") {
                return self.open(stream, head).await;
            }
            let length = between(head, "Content-Length: ", &['\r']).and_then(|length| length.parse().ok());
            let length: usize = length.unwrap_or(0);
            let name = between(head, "/rooms/", &['/', ' ']).unwrap_or_default().to_owned();
            while bytes.len() < end + length {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            }
            self.broadcast(&name, &bytes[end..end + length]).await?;
            bytes.drain(..end + length);
            stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}").await?;
        }
    }

    async fn open(&self, mut stream: TcpStream, head: &str) -> std::io::Result<()> {
        let room = self.room(between(head, "rooms=", &['&', ' ']).unwrap_or_default());
        let after = between(head, "after=", &['&', ' ']).and_then(|after| after.parse::<u64>().ok());
        let websocket = head.contains("websocket");
        let answer: &[u8] = if websocket {
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        };
        stream.write_all(answer).await?;
        let mut had = after.map(|after| after.saturating_sub(BEFORE_FIRST));
        loop {
            let mut room = room.lock().await;
            match had {
                Some(events) if events < room.events => {
                    had = Some(room.events);
                    let kept = if websocket { &room.kept_frames } else { &room.kept_lines };
                    let (bytes, begin) = kept.behind(usize::try_from(events).unwrap_or(usize::MAX));
                    drop(room);
                    send(&mut stream, &bytes[begin..]).await?;
                }
                _ => {
                    let readers = if websocket { &mut room.websockets } else { &mut room.sse };
                    readers.push(stream);
                    if readers.len().is_multiple_of(PRUNED_EVERY) {
                        readers.retain(|reader| !has_ended(reader));
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The same bytes as tidegate sends, made once.
    async fn broadcast(&self, name: &str, event: &[u8]) -> std::io::Result<()> {
        let room = self.room(name);
        // Held until all have it, so that events do not overtake each other.
        let mut room = room.lock().await;
        room.events += 1;
        let seq = BEFORE_FIRST + room.events;
        let data = event.get(br#"{"kind":"bench","data":"#.len()..event.len().saturating_sub(1)).unwrap_or_default();
        let mut json = format!(
            "{{\"type\":\"event\",\"room\":\"{name}\",\"seq\":{seq},\"kind\":\"bench\",\"priority\":\"normal\",\"timestamp\":\"2026-11-20T00:00:00.000Z\",\"data\":"
        )
        .into_bytes();
        json.extend_from_slice(data);
        json.push(b'}');
        let frame = framed(&json)?;
        let lines = [format!("id: {seq}\ndata: ").as_bytes(), &json, b"\n\n"].concat();
        if self.keep > 0 {
            room.kept_frames.push(&frame, self.keep);
            room.kept_lines.push(&lines, self.keep);
        }
        let Room { websockets, sse, .. } = &mut *room;
        send_all(websockets, &frame).await;
        send_all(sse, &lines).await;
        Ok(())
    }
}

/// As a WebSocket message.
fn framed(json: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(json.len()).map_err(|_| std::io::Error::other("an event too large for the floor"))?;
    let mut frame = Vec::with_capacity(json.len() + 4);
    frame.push(0x81);
    if length < 126 {
        frame.extend(length.to_be_bytes().last());
    } else {
        frame.push(126);
        frame.extend_from_slice(&length.to_be_bytes());
    }
    frame.extend_from_slice(json);
    Ok(frame)
}

/// Readers send nothing, so what can be read is the end.
fn has_ended(reader: &TcpStream) -> bool {
    !matches!(reader.try_read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

async fn send_all(streams: &mut Vec<TcpStream>, bytes: &[u8]) {
    let mut at = 0;
    while at < streams.len() {
        match send(&mut streams[at], bytes).await {
            Ok(()) => at += 1,
            // A reader that has gone.
            Err(_) => drop(streams.swap_remove(at)),
        }
    }
}

async fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_came_last_in_order() {
        let mut kept = Kept::default();
        for number in 0..10_u8 {
            kept.push(&[number, number], 4);
        }
        let (bytes, begin) = kept.behind(7);
        assert_eq!(bytes[begin..], [7, 7, 8, 8, 9, 9]);
        let (bytes, begin) = kept.behind(10);
        assert!(bytes[begin..].is_empty());
        let (bytes, begin) = kept.behind(0);
        assert_eq!((begin, bytes.len() % 2, bytes.last()), (0, 0, Some(&9)));
        assert!((8..=16).contains(&bytes.len()));
    }

    #[test]
    fn requests_say_which_room_and_from_where() {
        let head = "GET /v1/stream?rooms=a:1&after=17 HTTP/1.1\r\nHost: bench\r\n\r\n";
        assert_eq!(between(head, "rooms=", &['&', ' ']), Some("a:1"));
        assert_eq!(between(head, "after=", &['&', ' ']), Some("17"));
        let head = "POST /v1/rooms/a:1/events?ack=memory HTTP/1.1\r\nContent-Length: 12\r\n\r\n";
        assert_eq!(between(head, "/rooms/", &['/', ' ']), Some("a:1"));
        assert_eq!(between(head, "Content-Length: ", &['\r']), Some("12"));
    }
}
