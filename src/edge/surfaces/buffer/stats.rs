//! The voice of `/ws/stats`: a sink's figures as they stand, without anything around them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use smallvec::smallvec;

use crate::edge::problem::whole_seconds;
use crate::edge::surfaces::encoded::{Encoded, Message, Messages};
use crate::edge::surfaces::voice::{OverWebSocket, Voice};
use crate::edge::ws::Serving;
use crate::engine::connections::Notice;
use crate::event::Event;

/// The figures of all readers.
static ENCODED: Encoded = Encoded::new();

/// Says figures.
#[derive(Debug)]
pub(super) struct Stats {
    /// The figures of the moment, which come first where nothing was missed.
    first: Option<Arc<Message>>,
}

impl Stats {
    /// Begins with these figures.
    pub(super) fn beginning_with(figures: Option<&Value>) -> Self {
        let message = |figures: &Value| Arc::new(Message::new(None, figures.to_string().as_bytes()));
        Self { first: figures.map(message) }
    }
}

impl Voice for Stats {
    fn event(&mut self, event: &Arc<Event>) -> Messages {
        ENCODED.of(event, "", || smallvec![Arc::new(Message::of(event, None, event.data()))])
    }

    fn notice(&mut self, notice: &Notice<'_>, _: &str) -> Messages {
        match notice {
            Notice::Welcome { .. } => self.first.take().into_iter().collect(),
            Notice::Error { code, message, retry } => smallvec![Arc::new(self.refuse(code, message, *retry))],
            // Every message is the whole truth of its moment, and who reads takes each for figures: of what is missing between two of them nothing is said.
            _ => Messages::new(),
        }
    }

    fn refuse(&mut self, code: &'static str, message: &str, retry: Option<Duration>) -> Message {
        let mut error = json!({ "type": "error", "code": code, "detail": message });
        if let Some(retry) = retry {
            error["retryAfter"] = whole_seconds(retry).into();
        }
        Message::new(None, error.to_string().as_bytes())
    }

    async fn command(serving: &mut Serving<OverWebSocket<Self>>, text: &str) {
        let dialect = serving.connection.handler().dialect();
        let answer = match serde_json::from_str::<Value>(text) {
            Ok(said) if said["type"] == "ping" => {
                let mut pong = json!({ "type": "pong" });
                if let Some(data) = said.get("data") {
                    pong["data"] = data.clone();
                }
                Message::new(None, pong.to_string().as_bytes())
            }
            Ok(_) => dialect.voice.refuse("unknown_type", "type: this stream takes no message but ping", None),
            Err(error) => dialect.voice.refuse("invalid_json", &format!("this is not JSON: {error}"), None),
        };
        dialect.say(&answer);
    }
}
