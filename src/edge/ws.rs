//! WebSocket: one task reads commands and writes what the connection's actor hands out, all that waits in one write. What is said in them is for a [`Talk`]: the native one is here, in
//! `commands`, `parse` and `reply`; surfaces have their own.
//!
//! Commands are answered in their order. Publishes are under way together, up to [`PUBLISHES`]; while there are as many, nothing more is read from the client.

mod commands;
mod parse;
mod reply;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Edge;
use super::caller::Caller;
use super::dialects::ws::{Messages, Ws};
use super::problem::Problem;
use super::server::Peer;
use super::stream::{self, Started, Turn, Wish};
use super::websocket::{Upgrade, WebSocket};
use crate::engine::connections::supervisor::{Connection, Member};
use crate::engine::connections::{Closing, Dialect, Notice};
use crate::limits::{MessageRate, Verdict};
use crate::metrics::record;
use crate::settings::Settings;

/// Publishes of one connection under way at once.
const PUBLISHES: usize = 64;
/// So many writes in a row without a look at what the client says.
const HASTY_WRITES: usize = 8;
/// How long a client may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The codes with which a WebSocket ends (RFC 6455, section 7.4).
pub(in crate::edge) const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const NOT_TEXT: u16 = 1007;
pub(in crate::edge) const POLICY: u16 = 1008;
pub(in crate::edge) const TOO_BIG: u16 = 1009;
pub(in crate::edge) const FAILED: u16 = 1011;
pub(in crate::edge) const RESTART: u16 = 1012;
/// In the range that is free for applications (RFC 6455, section 7.4.2): what was shown does not hold any more.
const UNAUTHORIZED: u16 = 4401;

/// What is said on a WebSocket: the dialect of what goes out, and what is made of what comes in.
pub(in crate::edge) trait Talk: Dialect<Output = Messages> + Sized {
    /// The subprotocols it is, where the client names some.
    const PROTOCOLS: &'static [&'static str];

    /// Does what a text message says, and gathers the answer.
    fn command(serving: &mut Serving<Self>, text: &str) -> impl Future<Output = ()> + Send;

    /// Gathers a message as it stands.
    fn say(&mut self, text: String);

    /// Gathers an error about a message that was not even looked at, or not understood as a whole.
    fn refuse(&mut self, about: &str, code: &'static str, message: &str, retry: Option<Duration>);

    /// How many messages a client may send a second and a minute; 0 means no limit.
    fn rates(settings: &Settings) -> (u32, u32) {
        let limits = &settings.limits;
        (limits.per_connection_messages_per_second, limits.per_connection_messages_per_minute)
    }

    /// What becomes of a connection whose socket is over; by default it goes too.
    fn over(_: &Edge, connection: Connection<Self>, member: Member) {
        drop((connection, member));
    }

    /// After how long without an event, and without a word of the client, the stream ends; `None` for never.
    fn idle(_: &Settings) -> Option<Duration> {
        None
    }
}

/// Opens a native stream.
pub(super) async fn open(edge: Edge, caller: Caller, wish: Wish, upgrade: Upgrade) -> Result<Response, Problem> {
    let dialect = Ws::new(edge.settings().heartbeat.interval);
    let started = stream::start(&edge, &caller, &wish, dialect, &record::WEBSOCKET).await?;
    Ok(serve(edge, started, upgrade))
}

/// Answers the upgrade for a connection that has started; so a refusal is an HTTP answer.
pub(in crate::edge) fn serve<T: Talk>(edge: Edge, started: Started<T>, upgrade: Upgrade) -> Response {
    let Started { connection, member, .. } = started;
    let settings = edge.settings();
    let max = settings.limits.message_bytes;
    // A message somewhat over the limit is read to its end, so that its sender gets an answer; one far over it is cut off.
    let cut = max.saturating_mul(4).saturating_add(64 << 10);
    let upgrade = upgrade.protocols(T::PROTOCOLS).message_max(cut);
    // In a box from the start: what is held across awaits by value counts twice in the task's memory.
    let mut serving = Box::new(Serving::new(edge, connection, member));
    upgrade.on_upgrade(move |mut socket| async move {
        let end = serving.run(&mut socket).await;
        if let Next::Close(code, reason) = &end {
            let connection = serving.connection.handler().id();
            tracing::debug!(connection, code, reason, "a WebSocket is closed by the daemon");
        }
        let Serving { edge, connection, member, .. } = *serving;
        T::over(&edge, connection, member);
        Box::pin(goodbye(socket, end)).await;
    })
}

/// What happens next on a connection.
enum What {
    /// This is to be written.
    Write(Messages),
    /// This was read.
    Heard(Option<Result<Message, Error>>),
    /// A publish was answered.
    Published(String),
    /// It is time for a heartbeat.
    Beat,
    /// More may be written.
    Turn,
    /// The actor has ended.
    Ended,
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

/// A WebSocket that is served.
pub(in crate::edge) struct Serving<T: Talk> {
    pub(in crate::edge) edge: Edge,
    pub(in crate::edge) connection: Connection<T>,
    member: Member,
    /// Under way; each gives its answer.
    publishes: VecDeque<BoxFuture<'static, String>>,
    /// When the client last said anything.
    heard: Instant,
    /// When it last said something itself; pongs are its library's.
    said_at: Instant,
    /// And before that.
    said_before: Instant,
    /// When it was last asked whether it lives, if it has not answered since.
    asked: Option<Instant>,
    opened: Instant,
    messages: MessageRate,
    turn: Turn,
}

impl<T: Talk> Serving<T> {
    fn new(edge: Edge, connection: Connection<T>, member: Member) -> Self {
        let (now, messages) = (Instant::now(), MessageRate::default());
        let publishes = VecDeque::new();
        Self {
            edge,
            connection,
            member,
            publishes,
            heard: now,
            said_at: now,
            said_before: now,
            asked: None,
            opened: now,
            messages,
            turn: None,
        }
    }

    /// Who sends its commands, and what that one may do now: made when it is asked for, because there are many connections and few commands.
    pub(in crate::edge) fn caller(&mut self) -> Caller {
        let profile = self.connection.handler().profile();
        let peer = Peer { address: None, tls: false };
        Caller { identity: profile.identity(), ip: profile.ip, peer, kill: profile.kill.clone() }
    }

    /// Serves until the end, and says how it ends.
    async fn run(&mut self, socket: &mut WebSocket) -> Next {
        let interval = self.edge.settings().heartbeat.interval;
        // In a box, as what is rare below: it brings the task under the next size that the allocator has.
        let mut beat = Box::pin(sleep_until(Instant::now() + interval));
        // Writes since the client was last looked at.
        let mut hasty = 0;
        let mut next = Next::On;
        loop {
            let flushed = Box::pin(self.flush(socket)).await;
            match next {
                Next::On if flushed.is_ok() => {}
                Next::On => return Next::Gone,
                end => return end,
            }
            let what = loop {
                // What is to be written comes first, so that a delivery looks at the other sides only once; but a long replay must not keep the client from being heard.
                let what = if hasty < HASTY_WRITES {
                    self.wait(socket, beat.as_mut()).await
                } else {
                    hasty = 0;
                    match socket.recv().now_or_never() {
                        Some(message) => What::Heard(message),
                        None if beat.as_mut().now_or_never().is_some() => What::Beat,
                        None => continue,
                    }
                };
                let What::Write(messages) = what else { break what };
                if write(socket, messages).await.is_err() {
                    return Next::Gone;
                }
                hasty += 1;
            };
            next = match what {
                What::Heard(message) => {
                    self.heard = Instant::now();
                    // In a box, because it is large and most clients say little.
                    Box::pin(self.heard(message)).await
                }
                What::Published(reply) => {
                    self.said(reply);
                    Next::On
                }
                What::Beat => {
                    beat.as_mut().reset(Instant::now() + interval);
                    self.beat(socket)
                }
                What::Write(_) | What::Turn => Next::On,
                What::Ended => self.ended(),
            };
        }
    }

    async fn wait(&mut self, socket: &mut WebSocket, beat: Pin<&mut Sleep>) -> What {
        tokio::select! {
            biased;
            output = self.connection.next(), if self.turn.is_none() => match output {
                Ok(Some(messages)) => {
                    self.turn = stream::next_turn(&mut self.connection);
                    What::Write(messages)
                }
                Ok(None) | Err(_) => What::Ended,
            },
            () = stream::turn(&mut self.turn), if self.turn.is_some() => What::Turn,
            message = socket.recv(), if self.publishes.len() < PUBLISHES => What::Heard(message),
            reply = answered(&mut self.publishes), if !self.publishes.is_empty() => What::Published(reply),
            () = beat => What::Beat,
        }
    }

    /// What the client just said only answers a heartbeat, as a pong does: that is not counted as a word of its own.
    pub(in crate::edge) fn only_a_pong(&mut self) {
        self.said_at = self.said_before;
    }

    /// Writes what was gathered beside the actor's own output.
    async fn flush(&mut self, socket: &mut WebSocket) -> Result<(), Error> {
        match self.connection.handler().take() {
            Some(messages) => write(socket, messages).await,
            // A ping may wait.
            None => socket.send_texts(Messages::new()).await,
        }
    }

    /// Gathers an answer that was under way.
    fn said(&mut self, text: String) {
        self.connection.handler().dialect().say(text);
    }

    /// When something was last delivered or heard.
    fn quiet_since(&mut self) -> Instant {
        let delivered_ms = self.connection.handler().profile().books.delivered_at_ms.get();
        let ago = Duration::from_millis(crate::clock::coarse_ms().saturating_sub(delivered_ms));
        let delivered = Instant::now().checked_sub(ago).unwrap_or(self.opened);
        self.said_at.max(delivered).max(self.opened)
    }

    fn beat(&mut self, socket: &mut WebSocket) -> Next {
        let now = Instant::now();
        if let Some(idle) = T::idle(&self.edge.settings())
            && self.quiet_since() + idle <= now
        {
            record::connection_cut("idle");
            // It comes back by its cursor, as after any break.
            return Next::Close(NORMAL, "idle");
        }
        match self.asked.filter(|asked| self.heard < *asked) {
            Some(asked) if now - asked >= self.edge.settings().heartbeat.timeout => {
                record::connection_cut("silent");
                return Next::Close(POLICY, "nothing was heard for heartbeat.timeout");
            }
            Some(_) => {}
            None => self.asked = Some(now),
        }
        self.connection.handler().tell(&Notice::Heartbeat);
        // The pong that a client's library sends by itself says that it lives.
        socket.feed_ping();
        Next::On
    }

    fn ended(&mut self) -> Next {
        let session = self.connection.handler();
        let Some(closing) = session.closing() else { return Next::Close(NORMAL, "") };
        session.tell(&stream::ending(closing, self.edge.settings().server.reconnect_spread));
        Next::Close(close_code(closing), closing.text().0)
    }

    async fn heard(&mut self, message: Option<Result<Message, Error>>) -> Next {
        let max = self.edge.settings().limits.message_bytes;
        match message {
            Some(Ok(Message::Text(text))) if text.len() > max => self.too_big(max),
            Some(Ok(Message::Binary(bytes))) if bytes.len() > max => self.too_big(max),
            Some(Ok(Message::Text(text))) => self.take_message(&text).await,
            Some(Ok(Message::Binary(_))) => {
                let message = "commands are JSON in text frames";
                self.connection.handler().dialect().refuse("", "binary_unsupported", message, None);
                Next::On
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Next::On,
            Some(Ok(Message::Close(_))) => Next::Bye,
            Some(Err(error)) => self.unreadable(&error, max),
            None => Next::Gone,
        }
    }

    /// Does what a message says, unless there were too many.
    async fn take_message(&mut self, text: &str) -> Next {
        self.said_before = std::mem::replace(&mut self.said_at, self.heard);
        let (second, minute) = T::rates(&self.edge.settings());
        let code = "rate_limited";
        let message = |limit: &str| format!("more messages than {limit} allows");
        match self.messages.check(second, minute) {
            Verdict::Take => {
                T::command(self, text).await;
                Next::On
            }
            Verdict::Refuse(limit, wait) => {
                record::request_refused("rate-limited");
                self.connection.handler().dialect().refuse(text, code, &message(limit), Some(wait));
                Next::On
            }
            Verdict::End(limit) => {
                record::connection_cut("rate_limited");
                self.connection.handler().tell(&Notice::error(code, &message(limit)));
                Next::Close(POLICY, code)
            }
        }
    }

    /// What was read is no WebSocket message: by RFC 6455 the connection ends with a code that says why.
    fn unreadable(&mut self, error: &Error, max: usize) -> Next {
        match error {
            Error::Capacity(_) => self.too_big(max),
            Error::Utf8(_) => Next::Close(NOT_TEXT, "text that is not UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Next::Gone,
            Error::Protocol(_) => Next::Close(PROTOCOL_ERROR, "not as RFC 6455 has it"),
            _ => Next::Gone,
        }
    }

    fn too_big(&mut self, max: usize) -> Next {
        record::connection_cut("message_too_big");
        let message = format!("a message may have {max} bytes (limits.max_message_bytes)");
        self.connection.handler().tell(&Notice::error("message_too_big", &message));
        Next::Close(TOO_BIG, "message too big")
    }
}

/// Writes messages in one go. How long it may take is for the socket to say (`limits.write_timeout`).
async fn write(socket: &mut WebSocket, messages: Messages) -> Result<(), Error> {
    record::websocket_messages(messages.len());
    socket.send_texts(messages).await
}

/// The code with which a socket closes where the daemon ends its connection.
pub(in crate::edge) fn close_code(closing: Closing) -> u16 {
    match closing {
        Closing::Stopping => RESTART,
        Closing::TokenExpired | Closing::TokenRevoked => UNAUTHORIZED,
        Closing::Kicked | Closing::RoomFailed | Closing::TooSlow | Closing::TakenOver => POLICY,
    }
}

/// Waits for the oldest publish under way; answers come in the order of the publishes.
async fn answered(publishes: &mut VecDeque<BoxFuture<'static, String>>) -> String {
    let reply = poll_fn(|cx| match publishes.front_mut() {
        Some(first) => first.as_mut().poll(cx),
        None => Poll::Pending,
    })
    .await;
    publishes.pop_front();
    reply
}

/// Ends the connection as it should end. After a close it is read on until the client has answered, so that it gets to read the reason; a client that does not answer is not waited for.
async fn goodbye(mut socket: WebSocket, end: Next) {
    let last = async {
        match end {
            Next::Close(code, reason) => {
                socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await?;
                while let Some(Ok(_)) = socket.recv().await {}
                Ok(())
            }
            // The library has the answer ready.
            Next::Bye => socket.close(None).await,
            Next::On | Next::Gone => Ok(()),
        }
    };
    let _: Result<Result<(), Error>, _> = tokio::time::timeout(CLOSE_WAIT, last).await;
}

/// Reads a command as one that came from a client, and says whether it was one; for those who try what untrusted text does to the reader.
#[doc(hidden)]
#[must_use]
pub fn is_command(text: &str) -> bool {
    match parse::parse(text, 64) {
        Ok(parse::Parsed { id, command: parse::Command::Subscribe(command) }) => parse::start(id, &command).is_ok(),
        Ok(_) => true,
        Err(reply) => {
            // What a client is answered is JSON, whatever it said.
            let text = reply.into_text();
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
            false
        }
    }
}
