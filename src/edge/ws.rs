//! WebSocket: one task reads commands and writes what the connection's actor hands out, all that waits in one write.
//!
//! Commands are answered in their order. Publishes are under way together, up to [`PUBLISHES`]; while there are as many, nothing more is read from the client.

mod commands;

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::time::{Instant, sleep_until};
// The version that axum has inside, whose errors say what was wrong.
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use self::commands::Reply;
use super::Edge;
use super::dialects::ws::{Messages, Ws};
use super::problem::Problem;
use super::stream::{self, Started, Wish};
use crate::engine::connections::supervisor::{Connection, Member};
use crate::engine::connections::{Closing, Notice};
use crate::metrics::record;

/// The subprotocol spoken where the client names one.
const PROTOCOL: &str = "tidegate.v1+json";
/// Publishes of one connection under way at once.
const PUBLISHES: usize = 64;
/// The read side is small, because there are many connections and clients say little; a longer message makes it grow.
const READ_BUFFER_BYTES: usize = 1024;
/// So many writes in a row without a look at what the client says.
const HASTY_WRITES: usize = 8;
/// Messages are gathered up to here before they are written.
const WRITE_BUFFER_BYTES: usize = 16 << 10;
/// How long a client may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const NOT_TEXT: u16 = 1007;
const TOO_BIG: u16 = 1009;
const RESTART: u16 = 1012;
const POLICY: u16 = 1008;

/// Answers the upgrade; the connection starts before it, so that a refusal is an HTTP answer.
pub(super) async fn open(
    edge: Edge,
    peer: SocketAddr,
    wish: Wish,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let dialect = Ws::new(edge.settings.heartbeat.interval);
    let Started { connection, member, .. } = stream::start(&edge, peer, &wish, dialect, &record::WEBSOCKET).await?;
    let max = edge.settings.limits.message_bytes;
    // A message somewhat over the limit is read to its end, so that its sender gets an answer; one far over it is cut off.
    let cut = max.saturating_mul(4).saturating_add(64 << 10);
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES + edge.settings.limits.event_bytes * 2 + (1 << 20))
        .max_message_size(cut)
        .max_frame_size(cut);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let mut serving = Serving::new(edge, connection, member);
        Box::pin(serving.run(socket)).await;
    }))
}

/// How a connection goes on after something was read.
enum Next {
    On,
    /// End with this code and reason.
    Close(u16, &'static str),
    /// The client has said that it goes; its word is answered.
    Bye,
    /// The client is gone.
    Gone,
}

struct Serving {
    edge: Edge,
    connection: Connection<Ws>,
    _member: Member,
    publishes: FuturesOrdered<BoxFuture<'static, Reply>>,
    /// When the client last said anything.
    heard: Instant,
    /// When it was last asked whether it lives, if it has not answered since.
    asked: Option<Instant>,
    opened: Instant,
}

impl Serving {
    fn new(edge: Edge, connection: Connection<Ws>, member: Member) -> Self {
        let now = Instant::now();
        Self {
            edge,
            connection,
            _member: member,
            publishes: FuturesOrdered::new(),
            heard: now,
            asked: None,
            opened: now,
        }
    }

    async fn run(&mut self, mut socket: WebSocket) {
        let interval = self.edge.settings.heartbeat.interval;
        let beat = sleep_until(Instant::now() + interval);
        tokio::pin!(beat);
        if self.flush(&mut socket).await.is_err() {
            return;
        }
        // Writes since the client was last looked at.
        let mut hasty = 0;
        loop {
            // What is to be written comes first, so that a delivery looks at the other sides only once; but a long replay must not keep the client from being heard.
            if std::mem::take(&mut hasty) >= HASTY_WRITES {
                if let Some(message) = socket.recv().now_or_never() {
                    self.heard = Instant::now();
                    let next = self.heard(message).await;
                    if let Some(next) = self.settle(&mut socket, next).await {
                        return self.end(socket, next).await;
                    }
                }
                if beat.as_mut().now_or_never().is_some() {
                    beat.as_mut().reset(Instant::now() + interval);
                    let next = self.beat(&mut socket).await;
                    if let Some(next) = self.settle(&mut socket, next).await {
                        return self.end(socket, next).await;
                    }
                }
            }
            let next = tokio::select! {
                biased;
                output = self.connection.next() => match output {
                    Ok(Some(messages)) => match write(&mut socket, messages).await {
                        Ok(()) => {
                            hasty += 1;
                            continue;
                        }
                        Err(_) => Next::Gone,
                    },
                    Ok(None) | Err(_) => self.ended(),
                },
                message = socket.recv(), if self.publishes.len() < PUBLISHES => {
                    self.heard = Instant::now();
                    self.heard(message).await
                },
                Some(reply) = self.publishes.next(), if !self.publishes.is_empty() => {
                    self.connection.handler().dialect().say(reply.into_text());
                    Next::On
                },
                () = &mut beat => {
                    beat.as_mut().reset(Instant::now() + interval);
                    self.beat(&mut socket).await
                },
            };
            if let Some(next) = self.settle(&mut socket, next).await {
                return self.end(socket, next).await;
            }
        }
    }

    /// Writes what was gathered beside the actor's own output; how the connection ends, if it does.
    async fn settle(&mut self, socket: &mut WebSocket, next: Next) -> Option<Next> {
        let flushed = self.flush(socket).await;
        match next {
            Next::On if flushed.is_ok() => None,
            Next::On => Some(Next::Gone),
            end => Some(end),
        }
    }

    async fn end(&mut self, mut socket: WebSocket, next: Next) {
        match next {
            Next::Close(code, reason) => close(socket, code, reason).await,
            Next::Bye => {
                // The library has the answer ready; a client that does not take it is not waited for.
                let _ = tokio::time::timeout(CLOSE_WAIT, socket.close()).await;
            }
            Next::On | Next::Gone => {}
        }
    }

    /// Writes what was gathered beside the actor's own output.
    async fn flush(&mut self, socket: &mut WebSocket) -> Result<(), axum::Error> {
        match self.connection.handler().take() {
            Some(messages) => write(socket, messages).await,
            None => Ok(()),
        }
    }

    async fn beat(&mut self, socket: &mut WebSocket) -> Next {
        let now = Instant::now();
        match self.asked.filter(|asked| self.heard < *asked) {
            Some(asked) if now - asked >= self.edge.settings.heartbeat.timeout => {
                record::connection_cut("silent");
                return Next::Close(POLICY, "nothing was heard for heartbeat.timeout");
            }
            Some(_) => {}
            None => self.asked = Some(now),
        }
        self.connection.handler().tell(&Notice::Heartbeat);
        // The pong that a client's library sends by itself says that it lives.
        match socket.feed(Message::Ping(bytes::Bytes::new())).await {
            Ok(()) => Next::On,
            Err(_) => Next::Gone,
        }
    }

    fn ended(&mut self) -> Next {
        let session = self.connection.handler();
        let Some(closing) = session.closing() else { return Next::Close(NORMAL, "") };
        let (code, message) = closing.text();
        record::connection_cut(code);
        session.tell(&Notice::Error { code, message });
        Next::Close(if closing == Closing::Stopping { RESTART } else { POLICY }, code)
    }

    async fn heard(&mut self, message: Option<Result<Message, axum::Error>>) -> Next {
        let max = self.edge.settings.limits.message_bytes;
        match message {
            Some(Ok(Message::Text(text))) if text.len() > max => self.too_big(max),
            Some(Ok(Message::Binary(bytes))) if bytes.len() > max => self.too_big(max),
            Some(Ok(Message::Text(text))) => {
                self.command(&text).await;
                Next::On
            }
            Some(Ok(Message::Binary(_))) => {
                let reply = Reply::error(None, "binary_unsupported", "commands are JSON in text frames");
                self.connection.handler().dialect().say(reply.into_text());
                Next::On
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Next::On,
            Some(Ok(Message::Close(_))) => Next::Bye,
            Some(Err(error)) => self.unreadable(error, max),
            None => Next::Gone,
        }
    }

    /// What was read is no WebSocket message: by RFC 6455 the connection ends with a code that says why.
    fn unreadable(&mut self, error: axum::Error, max: usize) -> Next {
        match error.into_inner().downcast_ref::<tungstenite::Error>() {
            Some(tungstenite::Error::Capacity(_)) => self.too_big(max),
            Some(tungstenite::Error::Utf8(_)) => Next::Close(NOT_TEXT, "text that is not UTF-8"),
            Some(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Next::Gone,
            Some(tungstenite::Error::Protocol(_)) => Next::Close(PROTOCOL_ERROR, "not as RFC 6455 has it"),
            _ => Next::Gone,
        }
    }

    fn too_big(&mut self, max: usize) -> Next {
        record::connection_cut("message_too_big");
        let message = format!("a message may have {max} bytes (limits.max_message_bytes)");
        self.connection.handler().tell(&Notice::Error { code: "message_too_big", message: &message });
        Next::Close(TOO_BIG, "message too big")
    }
}

/// Writes messages in one go. How long it may take is for the socket to say (`limits.write_timeout`).
async fn write(socket: &mut WebSocket, messages: Messages) -> Result<(), axum::Error> {
    for message in messages {
        socket.feed(Message::Text(message)).await?;
    }
    socket.flush().await
}

/// Closes and reads on until the client has answered, so that it gets to read the reason.
async fn close(mut socket: WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    let closing = async {
        socket.send(Message::Close(Some(frame))).await?;
        while let Some(Ok(_)) = socket.recv().await {}
        Ok::<(), axum::Error>(())
    };
    // A client that does not answer is not waited for.
    let _ = tokio::time::timeout(CLOSE_WAIT, closing).await;
}
