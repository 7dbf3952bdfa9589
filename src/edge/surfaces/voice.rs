//! How a surface speaks: a [`Voice`] says what events, notices and answers are in its words, and the two dialects here carry that over Server-Sent Events and WebSocket.

use std::any::Any;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::{BufMut, Bytes, BytesMut};

use super::encoded::{Message, Messages};
use super::packing::{self, Trailer};
use crate::edge::Edge;
use crate::edge::dialects::ws::Messages as Frames;
use crate::edge::sse::Streamed;
use crate::edge::ws::{Serving, Talk};
use crate::engine::connections::dialect::Position;
use crate::engine::connections::supervisor::{Connection, Member};
use crate::engine::connections::{Dialect, Notice};
use crate::event::Event;
use crate::settings::Settings;

/// The words of a surface.
pub(in crate::edge) trait Voice: Send + Sized + 'static {
    /// What an event is here: nothing, a message, or several. Made once for all readers: see [`super::encoded::Encoded`].
    fn event(&mut self, event: &Arc<Event>) -> Messages;

    /// What a notice is here; `cursor` is where the reader stands.
    fn notice(&mut self, notice: &Notice<'_>, cursor: &str) -> Messages;

    /// What a client is told first, once its rooms are joined: behind notices, and before anything of the rooms. `resumed` if it said itself where it begins, `cursor` is where that is.
    fn greet(&mut self, _resumed: bool, _cursor: &str) -> impl Future<Output = Messages> + Send {
        std::future::ready(Messages::new())
    }

    /// An error about a message of the client that was not even looked at, or not understood as a whole. `code` is `rate_limited`, `binary_unsupported`, …
    fn refuse(&mut self, code: &'static str, message: &str, retry: Option<Duration>) -> Message;

    /// Does what a client says over WebSocket; answers go into the dialect by [`OverWebSocket::say`]. If nothing is understood here, it is told so.
    fn command(serving: &mut Serving<OverWebSocket<Self>>, _: &str) -> impl Future<Output = ()> + Send {
        async {
            let dialect = serving.connection.handler().dialect();
            let message = dialect.voice.refuse("unknown_type", "nothing is taken here", None);
            dialect.say(&message);
        }
    }

    /// Headers of its own on SSE, beside or in place of the others.
    fn headers(&self, _: &mut HeaderMap) {}

    /// What becomes of a connection whose socket is gone; by default it goes too.
    fn over<D: Dialect>(_: &Edge, connection: Connection<D>, member: Member) {
        drop((connection, member));
    }

    /// How far messages to it must be apart at least, where they may wait.
    fn pace(&self) -> Option<Duration> {
        None
    }

    /// How many messages a WebSocket client may send a second and a minute; 0 means no limit.
    fn rates(settings: &Settings) -> (u32, u32) {
        (settings.limits.per_connection_messages_per_second, settings.limits.per_connection_messages_per_minute)
    }

    /// After how long without an event, and without a word of the client, a stream ends; `None` for never.
    fn idle(_: &Settings) -> Option<Duration> {
        None
    }
}

/// Whether a notice says on SSE where the reader stands, so that a client that breaks off behind it resumes there.
fn says_where(notice: &Notice<'_>) -> bool {
    matches!(notice, Notice::Welcome { .. } | Notice::Heartbeat | Notice::Snapshot { .. })
}

fn cursor(position: &dyn Position) -> String {
    let mut cursor = String::new();
    position.write(&mut cursor);
    cursor
}

/// A surface over WebSocket.
#[derive(Debug)]
pub(in crate::edge) struct OverWebSocket<V> {
    pub(in crate::edge) voice: V,
    frames: Frames,
    bytes: usize,
}

impl<V: Voice> OverWebSocket<V> {
    pub(in crate::edge) fn new(voice: V) -> Self {
        Self { voice, frames: Frames::new(), bytes: 0 }
    }

    /// Gathers a message.
    pub(in crate::edge) fn say(&mut self, message: &Message) {
        let json = message.json();
        self.bytes += json.len();
        self.frames.push(json);
    }
}

impl<V: Voice> Dialect for OverWebSocket<V> {
    type Output = Frames;

    fn event(&mut self, event: &Arc<Event>, _: &dyn Position) {
        for message in self.voice.event(event) {
            self.say(&message);
        }
    }

    fn notice(&mut self, notice: &Notice<'_>, position: &dyn Position) {
        for message in self.voice.notice(notice, &cursor(position)) {
            self.say(&message);
        }
    }

    fn relay(&mut self, what: &(dyn Any + Send + Sync)) {
        if let Some(message) = what.downcast_ref::<Message>() {
            self.say(message);
        }
    }

    fn pace(&self) -> Option<Duration> {
        self.voice.pace()
    }

    fn gathered(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, _: &dyn Position) -> Option<Frames> {
        self.bytes = 0;
        (!self.frames.is_empty()).then(|| std::mem::take(&mut self.frames))
    }
}

impl<V: Voice> Talk for OverWebSocket<V> {
    const PROTOCOLS: &'static [&'static str] = &[];

    async fn command(serving: &mut Serving<Self>, text: &str) {
        V::command(serving, text).await;
    }

    fn say(&mut self, text: String) {
        Self::say(self, &Message::new(None, text.as_bytes()));
    }

    fn refuse(&mut self, _: &str, code: &'static str, message: &str, retry: Option<Duration>) {
        let message = self.voice.refuse(code, message, retry);
        Self::say(self, &message);
    }

    fn rates(settings: &Settings) -> (u32, u32) {
        V::rates(settings)
    }

    fn idle(settings: &Settings) -> Option<Duration> {
        V::idle(settings)
    }

    fn over(edge: &Edge, connection: Connection<Self>, member: Member) {
        V::over(edge, connection, member);
    }
}

/// A surface over Server-Sent Events, packed if the client takes that.
#[derive(Debug)]
pub(in crate::edge) struct OverSse<V> {
    pub(in crate::edge) voice: V,
    /// A single event that needs nothing of its own: its shared bytes, not copied.
    single: Option<Bytes>,
    gathered: BytesMut,
    /// Boxed, because most streams are not packed.
    trailer: Option<Box<Trailer>>,
}

impl<V: Voice> OverSse<V> {
    /// Packed with gzip where `headers` ask for it.
    pub(in crate::edge) fn new(voice: V, headers: &HeaderMap) -> Self {
        let trailer = packing::wanted(headers).then(Box::<Trailer>::default);
        let mut gathered = BytesMut::new();
        if trailer.is_some() {
            gathered.put_slice(&packing::HEADER);
        }
        Self { voice, single: None, gathered, trailer }
    }

    /// Gathers what comes first, with where the client stands: so one that breaks off before anything has come resumes there too.
    pub(super) fn greet(&mut self, messages: &Messages, cursor: &str) {
        let end = format!("id: {cursor}\n\n");
        let Some((last, before)) = messages.split_last() else {
            if self.trailer.as_ref().map_or(!self.gathered.is_empty(), |trailer| trailer.is_begun()) {
                // A notice has said it.
                return;
            }
            // An id without data is remembered, and no message (HTML, section 9.2.6).
            return self.put(end.as_bytes());
        };
        before.iter().for_each(|message| self.put_message(message, "\n"));
        self.put_message(last, &end);
    }

    fn spill(&mut self) {
        if let Some(single) = self.single.take() {
            self.gathered.put_slice(&single);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.spill();
        match &mut self.trailer {
            None => self.gathered.put_slice(bytes),
            Some(trailer) => {
                let block = packing::Block::of(bytes);
                trailer.add(&block, bytes.len());
                self.gathered.put_slice(&block.bytes);
            }
        }
    }

    /// A message's lines, shared if they are packed, and its end.
    fn put_message(&mut self, message: &Message, end: &str) {
        match &mut self.trailer {
            None => self.put(message.lines()),
            Some(trailer) => {
                let block = message.packed();
                trailer.add(block, message.lines().len());
                self.gathered.put_slice(&block.bytes);
            }
        }
        self.put(end.as_bytes());
    }
}

impl<V: Voice> Dialect for OverSse<V> {
    type Output = Bytes;

    fn event(&mut self, event: &Arc<Event>, position: &dyn Position) {
        let messages = self.voice.event(event);
        let own = position.seq_is_cursor();
        if let ([message], true, None) = (&messages[..], own, &self.trailer) {
            if self.gathered.is_empty() && self.single.is_none() {
                self.single = Some(message.whole().clone());
            } else {
                self.put(&message.whole().clone());
            }
            return;
        }
        let last = messages.len().saturating_sub(1);
        for (at, message) in messages.iter().enumerate() {
            // What breaks off between two of them comes again whole.
            let end = if at == last { format!("id: {}\n\n", cursor(position)) } else { "\n".to_owned() };
            self.put_message(message, &end);
        }
    }

    fn notice(&mut self, notice: &Notice<'_>, position: &dyn Position) {
        let cursor = cursor(position);
        for message in self.voice.notice(notice, &cursor) {
            let mut end = String::new();
            if says_where(notice) {
                let _ = writeln!(end, "id: {cursor}");
            }
            end.push('\n');
            self.put_message(&message, &end);
        }
    }

    fn relay(&mut self, what: &(dyn Any + Send + Sync)) {
        if let Some(message) = what.downcast_ref::<Message>() {
            self.put_message(message, "\n");
        }
    }

    fn pace(&self) -> Option<Duration> {
        self.voice.pace()
    }

    fn gathered(&self) -> usize {
        self.gathered.len() + self.single.as_ref().map_or(0, Bytes::len)
    }

    fn take(&mut self, _: &dyn Position) -> Option<Bytes> {
        if let Some(single) = self.single.take() {
            return Some(single);
        }
        // Nothing is kept for a next time: an idle connection should cost nothing.
        (!self.gathered.is_empty()).then(|| std::mem::take(&mut self.gathered).freeze())
    }
}

impl<V: Voice> Streamed for OverSse<V> {
    fn raw(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    fn preface(&mut self, bytes: &[u8]) {
        self.spill();
        if self.trailer.is_some() {
            // Behind what is packed already; a field of the stream may stand anywhere between messages.
            return self.put(bytes);
        }
        let rest = std::mem::replace(&mut self.gathered, BytesMut::from(bytes));
        self.gathered.put_slice(&rest);
    }

    fn finish(&mut self) {
        self.spill();
        if let Some(trailer) = &self.trailer {
            self.gathered.put_slice(&trailer.finish());
        }
    }

    fn headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if self.trailer.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        self.voice.headers(headers);
    }

    fn over(edge: &Edge, connection: Connection<Self>, member: Member) {
        V::over(edge, connection, member);
    }

    fn idle(settings: &Settings) -> Option<Duration> {
        V::idle(settings)
    }
}
