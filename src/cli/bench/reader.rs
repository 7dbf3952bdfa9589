//! A reader that counts: opens a stream, takes what comes, checks the sequence, notes how late it is.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::http::Target;

/// How a reader is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket.
    WebSocket,
    /// Server-Sent Events.
    Sse,
}

/// What all readers together have seen. They run on one thread, so it needs no lock.
#[derive(Debug)]
pub struct Tally {
    /// Events delivered.
    pub delivered: u64,
    /// Seqs that were left out.
    pub lost: u64,
    /// Seqs that came again or out of order.
    pub doubled: u64,
    /// Readers whose stream ended.
    pub ended: u64,
    /// Microseconds from the moment an event was due.
    pub latency_us: Histogram<u64>,
    /// Against which events say when they were due, in microseconds.
    pub began: Instant,
    /// When the last event came.
    pub last: Instant,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never, in fact: the histogram's bounds are right.
    pub fn new() -> anyhow::Result<Rc<RefCell<Self>>> {
        let now = Instant::now();
        let latency_us = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        Ok(Rc::new(RefCell::new(Self {
            delivered: 0,
            lost: 0,
            doubled: 0,
            ended: 0,
            latency_us,
            began: now,
            last: now,
        })))
    }

    /// Microseconds since the beginning.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Reader {
    stream: TcpStream,
    transport: Transport,
    /// What came and is not a whole message yet.
    partial: Vec<u8>,
    last_seq: u64,
}

impl Reader {
    /// Opens a stream and waits until it is open. `query` says which rooms and where to begin.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open(target: &Target, transport: Transport, query: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(target.address)
            .await
            .with_context(|| format!("no daemon answers at {}", target.address))?;
        stream.set_nodelay(true)?;
        let upgrade = match transport {
            Transport::WebSocket => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
            Transport::Sse => "Accept: text/event-stream\r\n",
        };
        let request = format!(
            "GET /v1/stream?{query} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n{upgrade}\r\n",
            target.token
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if stream.read_buf(&mut head).await? == 0 {
                bail!("refused: {}", String::from_utf8_lossy(&head));
            }
            if let Some(end) = memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let expected: &[u8] = if transport == Transport::WebSocket { b"HTTP/1.1 101" } else { b"HTTP/1.1 200" };
        if !head.starts_with(expected) {
            bail!("refused: {}", String::from_utf8_lossy(&head));
        }
        let partial = head.split_off(end);
        Ok(Self { stream, transport, partial, last_seq: 0 })
    }

    /// Takes what comes until the stream ends, or until `events` events have come.
    pub async fn count(mut self, tally: Rc<RefCell<Tally>>, events: u64) {
        // One buffer for all would do; this one is small and on the heap for as long as the stream.
        let mut buffer = vec![0; 64 << 10];
        let mut seen = 0;
        loop {
            seen += self.parse(&tally);
            if seen >= events {
                return;
            }
            match self.stream.read(&mut buffer).await {
                Ok(read) if read > 0 => self.partial.extend_from_slice(&buffer[..read]),
                _ => {
                    tally.borrow_mut().ended += 1;
                    return;
                }
            }
        }
    }

    /// Takes what comes and shows each message to `heard`, until that says it is enough (`true`) or the stream ends (`false`).
    pub async fn each(&mut self, mut heard: impl FnMut(&[u8]) -> bool) -> bool {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let partial = std::mem::take(&mut self.partial);
            let (mut at, mut enough) = (0, false);
            while let Some((message, next)) = self.message(&partial[at..]) {
                at += next;
                if heard(message) {
                    enough = true;
                    break;
                }
            }
            self.partial = partial;
            self.partial.drain(..at);
            if enough {
                return true;
            }
            match self.stream.read(&mut buffer).await {
                Ok(read) if read > 0 => self.partial.extend_from_slice(&buffer[..read]),
                _ => return false,
            }
        }
    }

    /// Keeps the stream open and reads nothing.
    pub fn idle(&self) -> bool {
        self.stream.peer_addr().is_ok()
    }

    fn parse(&mut self, tally: &Rc<RefCell<Tally>>) -> u64 {
        let mut tally = tally.borrow_mut();
        let now_us = tally.now_us();
        let partial = std::mem::take(&mut self.partial);
        let (mut at, mut events) = (0, 0);
        while let Some((message, next)) = self.message(&partial[at..]) {
            at += next;
            if let Some((seq, due_us)) = event(message) {
                events += 1;
                match self.last_seq {
                    0 => {}
                    last if seq <= last => tally.doubled += 1,
                    last => tally.lost += seq - last - 1,
                }
                self.last_seq = seq.max(self.last_seq);
                // Out of the histogram's bounds is ten minutes late.
                let _ = tally.latency_us.record(now_us.saturating_sub(due_us).max(1));
            }
        }
        self.partial = partial;
        self.partial.drain(..at);
        if events > 0 {
            tally.delivered += events;
            tally.last = Instant::now();
        }
        events
    }

    /// The next whole message and where the one after it begins.
    fn message<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], usize)> {
        if self.transport == Transport::Sse {
            let end = memchr::memchr(b'\n', bytes)?;
            return Some((&bytes[..end], end + 1));
        }
        let (length, head) = match (*bytes.get(1)? & 0x7f, bytes) {
            (126, [_, _, a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [_, _, _, _, _, _, a, b, c, d, ..]) => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, 10),
            (126 | 127, _) => return None,
            (length, _) => (usize::from(length), 2),
        };
        Some((bytes.get(head..head + length)?, head + length))
    }
}

/// An event's seq and when it was due; `None` for anything else.
pub(super) fn event(message: &[u8]) -> Option<(u64, u64)> {
    let message = message.strip_prefix(b"data: ").unwrap_or(message);
    if !message.starts_with(b"{\"type\":\"event\"") {
        return None;
    }
    Some((number(message, b"\"seq\":")?, number(message, b"\"due\":").unwrap_or(0)))
}

/// The digits behind a name in a message, as a number.
pub(super) fn number(message: &[u8], name: &[u8]) -> Option<u64> {
    let at = memmem::find(message, name)? + name.len();
    let digits = message[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
