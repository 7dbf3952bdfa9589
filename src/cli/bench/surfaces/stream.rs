//! A client on one socket: WebSocket, Server-Sent Events, or Socket.IO over WebSocket. It opens, says what it has to say, and counts what comes.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, bail};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::{self, Packet, Piece};
use super::kinds::{Kind, Wire};
use super::tally::SharedTally;
use crate::cli::bench::http::Target;

/// Into which all clients read; they run on one thread, and none keeps it over a wait.
pub(super) type Buffer = Rc<RefCell<Vec<u8>>>;

/// Its size.
pub(super) const BUFFER_BYTES: usize = 256 << 10;
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const TEXT: u8 = 1;
const PONG: u8 = 10;

/// An open stream.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    wire: Wire,
    /// What came and is not a whole message yet.
    partial: Vec<u8>,
}

impl Stream {
    /// Opens a stream and waits until it follows what it should.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) async fn open(target: &Target, kind: Kind, well: &str) -> anyhow::Result<Self> {
        let mut tcp = TcpStream::connect(target.address)
            .await
            .with_context(|| format!("no daemon answers at {}", target.address))?;
        tcp.set_nodelay(true)?;
        let wire = kind.wire();
        let (wanted, status) =
            if wire == Wire::Sse { ("Accept: text/event-stream\r\n", "200") } else { (UPGRADE, "101") };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n{wanted}\r\n",
            kind.path(well),
            target.token
        );
        tcp.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(1024);
        let end = loop {
            if tcp.read_buf(&mut head).await? == 0 {
                bail!("refused: {}", String::from_utf8_lossy(&head));
            }
            if let Some(end) = memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
        };
        if !head.starts_with(format!("HTTP/1.1 {status}").as_bytes()) {
            bail!("refused: {}", String::from_utf8_lossy(&head));
        }
        let partial = head.split_off(end);
        let mut stream = Self { tcp, wire, partial };
        if wire == Wire::SocketIo {
            stream.sign_in(&target.token, well).await?;
        }
        if let Some(greeting) = kind.greeting() {
            stream.say(greeting).await?;
        }
        Ok(stream)
    }

    /// Connects to the namespace and follows a well, as Socket.IO has it.
    async fn sign_in(&mut self, token: &str, well: &str) -> anyhow::Result<()> {
        loop {
            let text = self.text().await?;
            match frames::packet(&text) {
                Packet::Open(_) => self.say(&frames::connect(token)).await?,
                Packet::Connected => self.say(&frames::subscribe(well)).await?,
                Packet::Ping => self.say(frames::PONG).await?,
                Packet::Event(event) if event.starts_with(b"[\"subscribed\"") => return Ok(()),
                Packet::Event(event) if event.starts_with(b"[\"error\"") => {
                    bail!("refused: {}", String::from_utf8_lossy(event));
                }
                Packet::End(error) => bail!("refused: {}", String::from_utf8_lossy(error)),
                Packet::Event(_) | Packet::Other => {}
            }
        }
    }

    async fn say(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.tcp.write_all(&frames::masked(TEXT, text.as_bytes())).await?)
    }

    /// The next message, while it is being opened.
    async fn text(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some((piece, next)) = frames::frame(&self.partial) {
                let text = match piece {
                    Piece::Text(text) => Some(text.to_vec()),
                    Piece::Close => bail!("refused: the stream was closed"),
                    Piece::Ping(_) | Piece::Other => None,
                };
                self.partial.drain(..next);
                match text {
                    Some(text) => return Ok(text),
                    None => continue,
                }
            }
            if self.tcp.read_buf(&mut self.partial).await? == 0 {
                bail!("refused: the stream ended");
            }
        }
    }

    /// Counts what comes until the stream ends.
    pub(super) async fn follow(mut self, tally: SharedTally, buffer: Buffer) {
        let why = loop {
            let (answers, over) = self.parse(&tally);
            if over {
                break "it was closed".to_owned();
            }
            if !answers.is_empty()
                && let Err(error) = self.tcp.write_all(&answers).await
            {
                break error.to_string();
            }
            if let Err(error) = self.tcp.readable().await {
                break error.to_string();
            }
            let mut buffer = buffer.borrow_mut();
            match self.tcp.try_read(&mut buffer) {
                Ok(0) => break "it broke off".to_owned(),
                Ok(read) => self.partial.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => break error.to_string(),
            }
        };
        tally.borrow_mut().end(&why);
    }

    /// Takes the whole messages of what came: what is to be answered, and whether it is over.
    fn parse(&mut self, tally: &SharedTally) -> (Vec<u8>, bool) {
        let mut tally = tally.borrow_mut();
        let (mut at, mut answers, mut over) = (0, Vec::new(), false);
        let next = if self.wire == Wire::Sse { frames::line } else { frames::frame };
        while let Some((piece, end)) = next(&self.partial[at..]) {
            match piece {
                Piece::Text(text) if self.wire == Wire::SocketIo => match frames::packet(text) {
                    Packet::Event(event) => tally.socket_io(event),
                    Packet::Ping => answers.extend(frames::masked(TEXT, frames::PONG.as_bytes())),
                    Packet::End(_) => over = true,
                    Packet::Open(_) | Packet::Connected | Packet::Other => {}
                },
                Piece::Text(text) => tally.message(text),
                Piece::Ping(payload) => answers.extend(frames::masked(PONG, payload)),
                Piece::Close => over = true,
                Piece::Other => {}
            }
            at += end;
        }
        self.partial.drain(..at);
        if self.partial.is_empty() {
            // Thousands of them wait most of the time.
            self.partial = Vec::new();
        }
        (answers, over)
    }
}
