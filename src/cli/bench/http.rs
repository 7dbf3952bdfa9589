//! How a server is spoken to ([`Speech`]: what opens a stream, what publishes, what an event looks like), and publishing over one kept connection: just enough HTTP to cost little beside what is measured.

use std::fmt::Debug;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::reader::Transport;

/// What a reader sends, and how it knows an event in what comes.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// What comes: frames or lines.
    pub transport: Transport,
    /// The request's head with the empty line behind it.
    pub head: String,
    /// What is sent once that was answered, byte for byte, such as masked frames that subscribe.
    pub hello: Vec<u8>,
    /// A message with these bytes in it says that the stream is open; `None` where the answer's head says it.
    pub opened: Option<&'static [u8]>,
    /// What an event looks like.
    pub marks: Marks,
}

/// What an event looks like. Bytes that are looked for stand in each event once, or first where they are meant.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// What an event begins with (after `data:` in Server-Sent Events); empty where the number tells it from other messages.
    pub event: &'static [u8],
    /// What stands before its number, which goes up by one.
    pub seq: &'static [u8],
    /// What stands before the moment when it was due, in microseconds.
    pub due: &'static [u8],
}

impl Marks {
    /// tidegate's own.
    pub const NATIVE: Self = Self { event: b"{\"type\":\"event\"", seq: b"\"seq\":", due: b"\"due\":" };
}

/// What a publisher sends.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// The request's head, up to the number that is the body's length.
    pub head: String,
    /// What stands before the event's data in the body.
    pub before: &'static str,
    /// What stands behind it.
    pub behind: &'static str,
}

impl PublishRequest {
    /// A body with one event, of which so many bytes are data: when it was due, which one it is, and filling.
    #[must_use]
    pub fn body(&self, due_us: u64, number: u64, bytes: usize) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.before.len() + bytes + self.behind.len() + 64);
        body.extend_from_slice(self.before.as_bytes());
        let at = body.len();
        body.extend_from_slice(b"{\"due\":");
        body.extend_from_slice(itoa::Buffer::new().format(due_us).as_bytes());
        body.extend_from_slice(b",\"n\":");
        body.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        body.extend_from_slice(b",\"fill\":\"");
        let filled = (at + bytes).saturating_sub(2).max(body.len());
        body.resize(filled, b'x');
        body.extend_from_slice(b"\"}");
        body.extend_from_slice(self.behind.as_bytes());
        body
    }

    /// A body with so many events, as a JSON array.
    #[must_use]
    pub fn batch(&self, count: usize, bytes: usize) -> Vec<u8> {
        let one = self.body(0, 0, bytes);
        if count == 1 {
            return one;
        }
        [b"[".as_slice(), &vec![one; count].join(&b','), b"]"].concat()
    }
}

/// How a server is spoken to.
pub trait Speech: Debug {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// What opens a stream of a room, live or from behind a number.
    fn stream(&self, room: &str, transport: Transport, after: Option<u64>) -> StreamRequest;

    /// What publishes to a room. `ack` is how far the answer waits, where that can be asked for.
    fn publish(&self, room: &str, ack: &str) -> PublishRequest;
}

/// A daemon to load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The credential; not used by the bare broadcaster.
    pub token: String,
}

impl Target {
    /// A publish to this path, with this type of body.
    #[must_use]
    pub fn post(&self, path: &str, content_type: &str) -> PublishRequest {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: {content_type}\r\nContent-Length: ",
            self.token
        );
        PublishRequest { head, before: "{\"kind\":\"bench\",\"data\":", behind: "}" }
    }

    /// What opens a stream with this query, which says which rooms and where to begin.
    #[must_use]
    pub fn ask(&self, transport: Transport, query: &str) -> StreamRequest {
        let upgrade = match transport {
            Transport::WebSocket => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
            Transport::Sse => "Accept: text/event-stream\r\n",
        };
        let head = format!(
            "GET /v1/stream?{query} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n{upgrade}\r\n",
            self.token
        );
        StreamRequest { transport, head, hello: Vec::new(), opened: None, marks: Marks::NATIVE }
    }
}

impl Speech for Target {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn stream(&self, room: &str, transport: Transport, after: Option<u64>) -> StreamRequest {
        let after = after.map_or(String::new(), |after| format!("&after={after}"));
        self.ask(transport, &format!("rooms={room}{after}"))
    }

    fn publish(&self, room: &str, ack: &str) -> PublishRequest {
        self.post(&format!("/v1/rooms/{room}/events?ack={ack}"), "application/json")
    }
}

/// A connection that publishes.
#[derive(Debug)]
pub struct Publisher {
    stream: TcpStream,
    heads: Vec<String>,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

impl Publisher {
    /// Connects; publishes go to `room` of tidegate with this acknowledgement.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(target: &Target, room: &str, ack: &str) -> anyhow::Result<Self> {
        Self::open(target.address, &[target.publish(room, ack)]).await
    }

    /// Connects; publishes go where these requests say.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn open(address: SocketAddr, requests: &[PublishRequest]) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("nothing answers at {address}"))?;
        stream.set_nodelay(true)?;
        let heads = requests.iter().map(|request| request.head.clone()).collect();
        Ok(Self { stream, heads, buffer: Vec::with_capacity(4096), request: Vec::new() })
    }

    /// From now on publishes go where this request says.
    pub fn aim(&mut self, request: PublishRequest) {
        self.heads.clear();
        self.heads.push(request.head);
    }

    /// Sends a body and waits for its answer, whose body is returned.
    ///
    /// # Errors
    /// When it is refused or the connection breaks off.
    pub async fn publish(&mut self, body: &[u8]) -> anyhow::Result<&[u8]> {
        self.publish_to(0, body).await
    }

    /// Sends a body as the `which`th request says.
    ///
    /// # Errors
    /// When there is no such request, it is refused or the connection breaks off.
    pub async fn publish_to(&mut self, which: usize, body: &[u8]) -> anyhow::Result<&[u8]> {
        self.request.clear();
        self.request.extend_from_slice(self.heads.get(which).context("no such request")?.as_bytes());
        self.request.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server broke off");
            }
            let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") else { continue };
            let length = content_length(&self.buffer[..end])?;
            if self.buffer.len() >= end + 4 + length {
                if !self.buffer.starts_with(b"HTTP/1.1 2") {
                    bail!("refused: {}", String::from_utf8_lossy(&self.buffer));
                }
                return Ok(&self.buffer[end + 4..end + 4 + length]);
            }
        }
    }
}

/// One call over a connection of its own; the answer's body as it came, chunks and all.
///
/// # Errors
/// When it is refused or nobody answers.
pub async fn get(target: &Target, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(target.address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        target.token
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let end = memmem::find(&answer, b"\r\n\r\n").context("an answer without an end of its head")? + 4;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("GET {path} was refused: {}", String::from_utf8_lossy(&answer[..end]));
    }
    answer.drain(..end);
    Ok(answer)
}

/// The length of an answer's body; 204 has none and says so by having none.
fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        None if head.starts_with("HTTP/1.1 204") => Ok(0),
        length => length.context("an answer without a length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_as_many_bytes_of_data_as_asked_for() {
        let target = Target { address: SocketAddr::from(([127, 0, 0, 1], 1)), token: "t".into() };
        let request = target.publish("room", "memory");
        let body = request.body(1_234_567, 42, 200);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((value["data"]["due"].as_u64(), value["data"]["n"].as_u64()), (Some(1_234_567), Some(42)));
        assert_eq!(body.len(), request.before.len() + 200 + request.behind.len());
        assert!(serde_json::from_slice::<serde_json::Value>(&request.body(1, 1, 3)).is_ok(), "too little to fill");
        let batch: serde_json::Value = serde_json::from_slice(&request.batch(50, 200)).unwrap();
        assert_eq!(batch.as_array().map(Vec::len), Some(50));
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        assert_eq!(content_length(b"HTTP/1.1 202 Accepted\r\ncontent-Length: 17\r\nx: y").unwrap(), 17);
        assert_eq!(content_length(b"HTTP/1.1 204 No Content\r\nx: y").unwrap(), 0);
        assert!(content_length(b"HTTP/1.1 200 OK\r\nx: y").is_err());
    }
}
