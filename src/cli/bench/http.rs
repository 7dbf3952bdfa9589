//! Publishing over one kept connection: just enough HTTP to cost little beside what is measured.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whom to load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The credential; not used by the bare broadcaster.
    pub token: String,
}

/// A connection that publishes.
#[derive(Debug)]
pub struct Publisher {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

impl Publisher {
    /// Connects; publishes go to `room` with this acknowledgement.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(target: &Target, room: &str, ack: &str) -> anyhow::Result<Self> {
        Self::post(target, &format!("/v1/rooms/{room}/events?ack={ack}")).await
    }

    /// Connects; bodies go to this path.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn post(target: &Target, path: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.address)
            .await
            .with_context(|| format!("no daemon answers at {}", target.address))?;
        stream.set_nodelay(true)?;
        let head = head(target, path);
        Ok(Self { stream, head, buffer: Vec::with_capacity(4096), request: Vec::new() })
    }

    /// From now on publishes go to another room.
    pub fn aim(&mut self, target: &Target, room: &str, ack: &str) {
        self.head = head(target, &format!("/v1/rooms/{room}/events?ack={ack}"));
    }

    /// Sends a body and waits for its answer, whose body is returned.
    ///
    /// # Errors
    /// When it is refused or the connection breaks off.
    pub async fn publish(&mut self, body: &[u8]) -> anyhow::Result<&[u8]> {
        self.request.clear();
        self.request.extend_from_slice(self.head.as_bytes());
        self.request.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the daemon broke off");
            }
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end])?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let length = length.context("an answer without a length")?;
            if self.buffer.len() >= end + 4 + length {
                if !self.buffer.starts_with(b"HTTP/1.1 2") {
                    bail!("refused: {}", String::from_utf8_lossy(&self.buffer));
                }
                return Ok(&self.buffer[end + 4..end + 4 + length]);
            }
        }
    }
}

fn head(target: &Target, path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: ",
        target.token
    )
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
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").context("an answer without an end of its head")? + 4;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("GET {path} was refused: {}", String::from_utf8_lossy(&answer[..end]));
    }
    answer.drain(..end);
    Ok(answer)
}
