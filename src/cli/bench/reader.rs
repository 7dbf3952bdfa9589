//! A reader that counts: opens a stream, takes what comes, checks the sequence, notes how late it is.
//!
//! It shares a core with a thousand others, so it must cost less than what it measures: about 1 µs for the read, one buffer for all readers, 50 ns for an event, whose number stands where the one before had
//! it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::http::{Marks, StreamRequest, Target};

/// Bytes taken at once.
const BUFFER_BYTES: usize = 256 << 10;
/// What a reader may keep of its own for a message that has come in part.
const PARTIAL_KEPT: usize = 4 << 10;
/// An answer's head that is longer is not one.
const HEAD_MAX: usize = 64 << 10;

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
    /// What was just read.
    buffer: Vec<u8>,
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
            buffer: vec![0; BUFFER_BYTES],
        })))
    }

    /// Microseconds since the beginning.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        us(self.began.elapsed())
    }

    /// What is wrong where so many events had to come.
    #[must_use]
    pub fn wrong(&self, expected: u64) -> u64 {
        expected.saturating_sub(self.delivered).max(self.lost) + self.doubled
    }
}

fn us(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An open stream.
#[derive(Debug)]
pub struct Reader {
    stream: TcpStream,
    transport: Transport,
    marks: Marks,
    /// What came and is not a whole message yet.
    partial: Vec<u8>,
    last_seq: u64,
    /// Where the event before had its number, and when it was due.
    seq_at: usize,
    due_at: usize,
}

impl Reader {
    /// Opens a stream of tidegate's and waits until it is open. `query` says which rooms and where to begin.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open(target: &Target, transport: Transport, query: &str) -> anyhow::Result<Self> {
        Self::connect(target.address, &target.ask(transport, query)).await
    }

    /// Opens a stream as the request says and waits until it is open.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect(address: SocketAddr, request: &StreamRequest) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("nothing answers at {address}"))?;
        stream.set_nodelay(true)?;
        stream.write_all(request.head.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if stream.read_buf(&mut head).await? == 0 || head.len() > HEAD_MAX {
                bail!("refused: {}", String::from_utf8_lossy(&head));
            }
            if let Some(end) = memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let expected: &[u8] = if request.transport == Transport::WebSocket { b"HTTP/1.1 101" } else { b"HTTP/1.1 200" };
        if !head.starts_with(expected) {
            bail!("refused: {}", String::from_utf8_lossy(&head));
        }
        let partial = head[end..].to_vec();
        let (transport, marks) = (request.transport, request.marks);
        let mut reader = Self { stream, transport, marks, partial, last_seq: 0, seq_at: 0, due_at: 0 };
        if !request.hello.is_empty() {
            reader.stream.write_all(&request.hello).await?;
        }
        if let Some(opened) = request.opened {
            reader.wait_for(opened).await?;
        }
        Ok(reader)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn say(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Waits until a message with these bytes in it has come; what comes before it is passed over.
    ///
    /// # Errors
    /// When the stream ends before.
    pub async fn wait_for(&mut self, opened: &[u8]) -> anyhow::Result<()> {
        loop {
            while let Some((message, next)) = message(self.transport, &self.partial) {
                let found = memmem::find(message, opened).is_some();
                self.partial.drain(..next);
                if found {
                    return Ok(());
                }
            }
            if self.stream.read_buf(&mut self.partial).await? == 0 {
                bail!("ended too early, with {}", String::from_utf8_lossy(&self.partial));
            }
        }
    }

    /// Whether its socket is still there. It keeps the stream open and reads nothing.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.stream.peer_addr().is_ok()
    }

    /// Takes what comes until the stream ends, or until `events` events have come.
    pub async fn count(mut self, tally: Rc<RefCell<Tally>>, events: u64) {
        let mut seen = {
            let first = std::mem::take(&mut self.partial);
            self.take(&first, &mut tally.borrow_mut())
        };
        while seen < events {
            let Some(more) = poll_fn(|context| self.poll(context, &tally)).await else {
                tally.borrow_mut().ended += 1;
                return;
            };
            seen += more;
        }
    }

    /// Takes what comes and shows each event to `heard`, until that says it is enough (`true`) or the stream ends (`false`).
    pub async fn each(&mut self, mut heard: impl FnMut(&[u8]) -> bool) -> bool {
        loop {
            let partial = std::mem::take(&mut self.partial);
            let (mut at, mut enough) = (0, false);
            while !enough && let Some((message, next)) = message(self.transport, &partial[at..]) {
                at += next;
                enough = message.starts_with(self.marks.event) && heard(message);
            }
            self.partial = partial;
            self.partial.drain(..at);
            if enough {
                return true;
            }
            match self.stream.read_buf(&mut self.partial).await {
                Ok(read) if read > 0 => {}
                _ => return false,
            }
        }
    }

    /// Takes what has come, into the buffer that all share; `None` at the end.
    fn poll(&mut self, context: &mut TaskContext<'_>, tally: &RefCell<Tally>) -> Poll<Option<u64>> {
        let mut tally = tally.borrow_mut();
        let mut bytes = std::mem::take(&mut tally.buffer);
        let mut buffer = ReadBuf::new(&mut bytes);
        let polled = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
        let read = buffer.filled().len();
        let outcome = match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if read > 0 => Poll::Ready(Some(self.take(&bytes[..read], &mut tally))),
            Poll::Ready(_) => Poll::Ready(None),
        };
        tally.buffer = bytes;
        outcome
    }

    fn take(&mut self, bytes: &[u8], tally: &mut Tally) -> u64 {
        if self.partial.is_empty() {
            let (events, used) = self.parse(bytes, tally);
            self.partial.extend_from_slice(&bytes[used..]);
            return events;
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        let (events, used) = self.parse(&whole, tally);
        whole.drain(..used);
        whole.shrink_to(PARTIAL_KEPT);
        self.partial = whole;
        events
    }

    /// How many events there are, and how many bytes are whole messages.
    fn parse(&mut self, bytes: &[u8], tally: &mut Tally) -> (u64, usize) {
        let now = Instant::now();
        let now_us = us(now - tally.began);
        let (mut at, mut events) = (0, 0);
        while let Some((message, next)) = message(self.transport, &bytes[at..]) {
            at += next;
            let Some((seq, due_us)) = self.event(message) else { continue };
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
        if events > 0 {
            tally.delivered += events;
            tally.last = now;
        }
        (events, at)
    }

    /// An event's seq and when it was due; `None` for anything else.
    fn event(&mut self, message: &[u8]) -> Option<(u64, u64)> {
        if !message.starts_with(self.marks.event) {
            return None;
        }
        let seq = number(message, self.marks.seq, &mut self.seq_at)?;
        Some((seq, number(message, self.marks.due, &mut self.due_at).unwrap_or(0)))
    }
}

/// The next whole message and where the one after it begins.
fn message(transport: Transport, bytes: &[u8]) -> Option<(&[u8], usize)> {
    if transport == Transport::Sse {
        let end = memchr::memchr(b'\n', bytes)?;
        let line = &bytes[..end];
        // A line that is no data is no event.
        let data = line.strip_prefix(b"data:").map(|data| data.strip_prefix(b" ").unwrap_or(data));
        return Some((data.unwrap_or_default(), end + 1));
    }
    let (length, head) = match (*bytes.get(1)? & 0x7f, bytes) {
        (126, [_, _, a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [_, _, _, _, _, _, a, b, c, d, ..]) => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, 10),
        (126 | 127, _) => return None,
        (length, _) => (usize::from(length), 2),
    };
    Some((bytes.get(head..head + length)?, head + length))
}

/// The number behind these bytes. It is looked for first where it stood before.
pub(super) fn number(message: &[u8], mark: &[u8], stood_at: &mut usize) -> Option<u64> {
    if !message.get(*stood_at..).is_some_and(|rest| rest.starts_with(mark)) {
        *stood_at = memmem::find(message, mark)?;
    }
    let digits = message[*stood_at + mark.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number: u64, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn reader(transport: Transport) -> (Reader, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let partial = Vec::new();
        (Reader { stream, transport, marks: Marks::NATIVE, partial, last_seq: 0, seq_at: 0, due_at: 0 }, server)
    }

    fn sse(seq: u64) -> String {
        format!(
            "id: {seq}\ndata: {{\"type\":\"event\",\"room\":\"r\",\"seq\":{seq},\"data\":{{\"due\":1,\"n\":2}}}}\n\n"
        )
    }

    #[tokio::test]
    async fn events_are_counted_wherever_what_comes_is_cut() {
        let all: String = [9, 10, 11].into_iter().map(sse).collect();
        for cut in 0..all.len() {
            let (mut reader, _server) = reader(Transport::Sse).await;
            let tally = Tally::new().unwrap();
            let mut tally = tally.borrow_mut();
            let events =
                reader.take(&all.as_bytes()[..cut], &mut tally) + reader.take(&all.as_bytes()[cut..], &mut tally);
            assert_eq!((events, tally.delivered, tally.wrong(3)), (3, 3, 0), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn what_is_left_out_doubled_and_missing_is_wrong() {
        let (mut reader, _server) = reader(Transport::Sse).await;
        let tally = Tally::new().unwrap();
        let mut tally = tally.borrow_mut();
        for seq in [5, 8, 8, 7, 9] {
            reader.take(sse(seq).as_bytes(), &mut tally);
        }
        reader.take(b"data: {\"type\":\"heartbeat\"}\n\n", &mut tally);
        assert_eq!((tally.delivered, tally.lost, tally.doubled), (5, 2, 2));
        assert_eq!((tally.wrong(5), tally.wrong(9)), (4, 6));
    }

    #[tokio::test]
    async fn frames_of_every_length_are_messages() {
        for length in [10, 125, 126, 300, 70_000] {
            let body = vec![b'a'; length];
            let mut frame = vec![0x81];
            match length {
                0..126 => frame.push(u8::try_from(length).unwrap()),
                126..65_536 => {
                    frame.push(126);
                    frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                }
                _ => {
                    frame.push(127);
                    frame.extend_from_slice(&(length as u64).to_be_bytes());
                }
            }
            frame.extend_from_slice(&body);
            for cut in [1, 3, frame.len() - 1] {
                assert!(message(Transport::WebSocket, &frame[..cut]).is_none());
            }
            assert_eq!(message(Transport::WebSocket, &frame), Some((&body[..], frame.len())));
        }
    }
}
