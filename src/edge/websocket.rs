//! A WebSocket on a client's socket: the answer to a handshake, messages in, text frames out. The protocol is tungstenite's (RFC 6455), but for the text frames that go out: they are gathered in a
//! buffer that the thread keeps, and written to the socket as they are. So an idle WebSocket holds no buffer for what it writes, and a delivery is one copy and one write.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::problem::Problem;
use super::server::{Io, Wired};
use super::wellformed;

/// The read side is small, because there are many connections and clients say little; a longer message makes it grow.
const READ_BUFFER_BYTES: usize = 1024;
/// Pongs and closes that wait for a client that takes nothing, in bytes: gathered up to the first, and never more than the second.
const CONTROL_BYTES: (usize, usize) = (1 << 10, 16 << 10);
/// What is gathered goes out when it is more than this.
const GATHER_BYTES: usize = 32 << 10;
/// A thread keeps a buffer of no more than this.
const SPARE_BYTES: usize = 64 << 10;

/// First bytes of a frame: the last of its message, and text or a ping (RFC 6455, section 5.2).
const TEXT: u8 = 0x81;
const PING: [u8; 2] = [0x89, 0];

thread_local! {
    /// Where this thread gathers frames.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A handshake that is right, and not yet answered.
pub(in crate::edge) struct Upgrade {
    on_upgrade: OnUpgrade,
    accept: HeaderValue,
    /// The subprotocols that the client names, and the one of them that is spoken.
    named: Vec<HeaderValue>,
    protocol: Option<&'static str>,
    message_max: usize,
}

impl Upgrade {
    /// Takes a request's upgrade, if it is a right one.
    pub(in crate::edge) fn take(request: Request) -> Result<Self, Problem> {
        let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "bad-upgrade", detail);
        let (mut parts, _) = request.into_parts();
        wellformed::check_handshake(&parts.headers)?;
        if parts.version != Version::HTTP_11 || parts.method != Method::GET {
            return Err(bad("expected GET over HTTP/1.1, as for every WebSocket"));
        }
        if !wellformed::wants_websocket(&parts.headers) {
            return Err(bad("Upgrade: expected websocket"));
        }
        let key =
            parts.headers.get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes().trim_ascii()));
        let accept = key.and_then(|key| HeaderValue::try_from(key).ok());
        let (Some(accept), Some(on_upgrade)) = (accept, parts.extensions.remove()) else {
            return Err(bad("this connection cannot become a WebSocket"));
        };
        let named = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
        Ok(Self { on_upgrade, accept, named, protocol: None, message_max: usize::MAX })
    }

    /// Speaks the first of these that the client names.
    pub(in crate::edge) fn protocols(mut self, ours: &[&'static str]) -> Self {
        let named = |one: &str| {
            let mut all = self.named.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
            all.any(|item| item.trim_ascii() == one.as_bytes())
        };
        self.protocol = ours.iter().copied().find(|one| named(one));
        self
    }

    /// A message of more bytes is not read.
    pub(in crate::edge) fn message_max(self, bytes: usize) -> Self {
        Self { message_max: bytes, ..self }
    }

    /// Answers, and once the socket is free has it served in a task of its own.
    pub(in crate::edge) fn on_upgrade<C, F>(self, callback: C) -> Response
    where
        C: FnOnce(WebSocket) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { on_upgrade, accept, protocol, message_max, .. } = self;
        // Not an async block: it would have places of its own for what it waits for, for the socket and for what serves it, where they can be one after the other in the same.
        tokio::spawn(on_upgrade.then(move |upgraded| {
            // A client that has gone before it was answered is nothing.
            let socket = upgraded.ok().and_then(|upgraded| WebSocket::on(upgraded, message_max));
            OptionFuture::from(socket.map(callback))
        }));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// A WebSocket. Any of its futures may be dropped: what was begun is finished first by whatever is asked of it next.
pub(in crate::edge) struct WebSocket<S = Wired> {
    io: S,
    protocol: WebSocketContext,
    /// What is not yet written of our own frames. Nothing else is written before it.
    rest: Bytes,
    /// Whether our own frames may still be in a layer below (TLS).
    unflushed: bool,
    /// Whether the protocol may have something to write: a pong, or a close.
    dirty: bool,
    /// Whether a ping goes out with what is written next.
    ping: bool,
    /// Whether nothing more can be read.
    ended: bool,
}

impl WebSocket {
    /// On what the handshake came by; `None` if that is no socket of ours.
    fn on(upgraded: Upgraded, message_max: usize) -> Option<Self> {
        let parts = upgraded.downcast::<Io>().ok()?;
        // A copy, which is nearly always empty: it would bring along the buffer that the handshake was read into.
        Some(Self::new(parts.io.into_inner(), parts.read_buf.to_vec(), message_max))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// A server's side; `read` has come already.
    fn new(io: S, read: Vec<u8>, message_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(CONTROL_BYTES.0)
            .max_write_buffer_size(CONTROL_BYTES.1)
            .max_message_size(Some(message_max))
            .max_frame_size(Some(message_max));
        let protocol = WebSocketContext::from_partially_read(read, Role::Server, Some(config));
        Self { io, protocol, rest: Bytes::new(), unflushed: false, dirty: false, ping: false, ended: false }
    }

    /// The next message; `None` at the end.
    pub(in crate::edge) async fn recv(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Has a ping go out with what is sent next.
    pub(in crate::edge) fn feed_ping(&mut self) {
        self.ping = true;
    }

    /// Writes text messages in one go, behind what the protocol has to say. The texts are UTF-8; that is not looked at.
    ///
    /// # Errors
    /// Where the socket fails, and where a close was sent or received before.
    pub(in crate::edge) async fn send_texts<T: AsRef<[u8]>>(
        &mut self,
        texts: impl IntoIterator<Item = T>,
    ) -> Result<(), Error> {
        let mut texts = texts.into_iter();
        poll_fn(|cx| {
            loop {
                if !self.protocol.can_write() {
                    return Poll::Ready(Err(ProtocolError::SendAfterClosing.into()));
                }
                ready!(self.poll_ready(cx))?;
                let mut frames = SPARE.take();
                if std::mem::take(&mut self.ping) {
                    frames.extend_from_slice(&PING);
                }
                while frames.len() <= GATHER_BYTES
                    && let Some(text) = texts.next()
                {
                    put_text(text.as_ref(), &mut frames);
                }
                if frames.is_empty() {
                    SPARE.set(frames);
                    return Poll::Ready(Ok(()));
                }
                let written = self.poll_frames(cx, &frames);
                frames.clear();
                if frames.capacity() <= SPARE_BYTES {
                    SPARE.set(frames);
                }
                ready!(written)?;
            }
        })
        .await
    }

    /// Sends a close, if none was sent or received; else what is left to send.
    pub(in crate::edge) async fn close(&mut self, frame: Option<CloseFrame>) -> Result<(), Error> {
        let mut frame = Some(frame);
        poll_fn(|cx| {
            ready!(self.poll_ready(cx))?;
            if let Some(frame) = frame.take() {
                self.dirty = true;
                let begun = self.protocol.close(&mut Blocking { io: &mut self.io, cx }, frame);
                ready!(polled(begun))?;
            }
            self.dirty = false;
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // The protocol may write a pong while it reads.
        if let Err(error) = ready!(self.poll_rest(cx)) {
            self.ended = true;
            return Poll::Ready(Some(Err(error.into())));
        }
        let read = self.protocol.read(&mut Blocking { io: &mut self.io, cx });
        match read {
            Ok(message) => {
                self.dirty |= matches!(message, Message::Ping(_) | Message::Close(_));
                Poll::Ready(Some(Ok(message)))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => {
                self.ended = true;
                let over = matches!(error, Error::ConnectionClosed | Error::AlreadyClosed);
                Poll::Ready((!over).then_some(Err(error)))
            }
        }
    }

    /// Brings out all that was begun before.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_rest(cx))?;
        if self.dirty {
            let flushed = self.protocol.flush(&mut Blocking { io: &mut self.io, cx });
            ready!(polled(flushed))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes frames; what the socket does not take at once is kept.
    fn poll_frames(&mut self, cx: &mut Context<'_>, mut frames: &[u8]) -> Poll<io::Result<()>> {
        self.unflushed = true;
        while !frames.is_empty() {
            match write_some(&mut self.io, cx, frames) {
                Poll::Ready(Ok(written)) => frames = &frames[written..],
                not_now => {
                    // As little as there is: the client may be slow, and then there are many of them.
                    self.rest = Bytes::copy_from_slice(frames);
                    return not_now.map_ok(|_| ());
                }
            }
        }
        self.poll_rest(cx)
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(write_some(&mut self.io, cx, &self.rest))?;
            self.rest.advance(written);
        }
        if self.unflushed {
            self.rest = Bytes::new();
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes at least one byte.
fn write_some(io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(io).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

/// Puts a text message behind what is there: one frame, which is not masked, because a server's are not (RFC 6455, section 5.2).
fn put_text(text: &[u8], frames: &mut Vec<u8>) {
    frames.reserve(text.len() + 10);
    frames.push(TEXT);
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ ..=125), _) => frames.push(length),
        (_, Ok(length)) => {
            frames.push(126);
            frames.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frames.push(127);
            frames.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    frames.extend_from_slice(text);
}

/// What became of a write of the protocol's. That both sides have closed is no error where something is sent.
fn polled(outcome: Result<(), Error>) -> Poll<Result<(), Error>> {
    match outcome {
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
        outcome => Poll::Ready(outcome),
    }
}

/// The socket as the protocol reads and writes it, while a task is polled: what is not ready would block, and wakes the task.
struct Blocking<'a, 'b, S> {
    io: &'a mut S,
    cx: &'a mut Context<'b>,
}

fn would_block<T>(outcome: Poll<io::Result<T>>) -> io::Result<T> {
    match outcome {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<S: AsyncRead + Unpin> Read for Blocking<'_, '_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut bytes = ReadBuf::new(bytes);
        would_block(Pin::new(&mut *self.io).poll_read(self.cx, &mut bytes))?;
        Ok(bytes.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> Write for Blocking<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(Pin::new(&mut *self.io).poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        would_block(Pin::new(&mut *self.io).poll_flush(self.cx))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Cursor;

    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    use tokio_tungstenite::tungstenite::protocol::frame::FrameSocket;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;

    #[test]
    fn a_frame_of_any_length_is_read_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
            let text = vec![b'x'; length];
            let mut frames = Vec::new();
            put_text(&text, &mut frames);
            put_text(b"behind", &mut frames);
            let mut reader = FrameSocket::new(Cursor::new(frames));
            for expected in [&text[..], b"behind"] {
                let frame = reader.read(None).unwrap().unwrap();
                assert_eq!(frame.header().opcode, OpCode::Data(Data::Text));
                assert!(frame.header().is_final && frame.header().mask.is_none());
                assert_eq!(frame.payload(), expected, "{length}");
            }
            assert!(reader.read(None).unwrap().is_none());
        }
    }

    /// Reads so many whole frames from a stream.
    async fn frames(client: &mut (impl AsyncRead + Unpin), bytes: usize) -> Vec<Vec<u8>> {
        let mut read = vec![0; bytes];
        client.read_exact(&mut read).await.unwrap();
        let mut reader = FrameSocket::new(Cursor::new(read));
        std::iter::from_fn(|| reader.read(None).unwrap()).map(|frame| frame.payload().to_vec()).collect()
    }

    #[tokio::test]
    async fn what_was_half_written_is_finished_by_whatever_comes_next() {
        let (server, mut client) = tokio::io::duplex(64);
        let mut socket = WebSocket::new(server, Vec::new(), 1024);
        let long = "l".repeat(1000);
        assert!(socket.send_texts([&long]).now_or_never().is_none(), "the client takes only 64 bytes");
        // A ping, masked with zeros: its pong must not get between.
        client.write_all(&[0x89, 0x81, 0, 0, 0, 0, b'p']).await.unwrap();
        assert!(socket.recv().now_or_never().is_none(), "nothing is read before it");
        let serving = async {
            assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Ping("p".into()));
            socket.feed_ping();
            socket.send_texts(["next"]).await.unwrap();
            assert!(socket.rest.is_empty() && !socket.unflushed && !socket.dirty);
        };
        let (got, ()) = tokio::join!(frames(&mut client, 4 + 1000 + 3 + 2 + 6), serving);
        assert_eq!(got, [long.as_bytes(), b"p", b"", b"next"]);
    }

    #[tokio::test]
    async fn a_close_comes_behind_what_was_half_written_and_nothing_behind_it() {
        let (server, mut client) = tokio::io::duplex(64);
        let mut socket = WebSocket::new(server, Vec::new(), 1024);
        let long = "l".repeat(200);
        assert!(socket.send_texts([&long]).now_or_never().is_none());
        let frame = CloseFrame { code: 1000.into(), reason: "bye".into() };
        let (got, closed) = tokio::join!(frames(&mut client, 4 + 200 + 2 + 5), socket.close(Some(frame)));
        closed.unwrap();
        assert_eq!(got, [long.as_bytes(), b"\x03\xe8bye"]);
        let refused = socket.send_texts(["late"]).await;
        assert!(matches!(refused, Err(Error::Protocol(ProtocolError::SendAfterClosing))), "{refused:?}");
    }

    #[tokio::test]
    async fn many_texts_all_come_in_their_order() {
        let (server, mut client) = tokio::io::duplex(1 << 20);
        let mut socket = WebSocket::new(server, Vec::new(), 1024);
        let texts: Vec<String> = (0..1000).map(|number| format!("{number:0100}")).collect();
        socket.send_texts(&texts).await.unwrap();
        let got = frames(&mut client, 1000 * 102).await;
        assert!(got.iter().eq(texts.iter().map(String::as_bytes)));
    }
}
