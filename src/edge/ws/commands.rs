//! What a WebSocket client may say, and what it is answered.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::smallvec;

use super::super::params::{parse_cursor, parse_since};
use super::super::problem::Problem;
use super::super::publish::may as may_publish;
use super::super::stream::{check_cursor, check_rights, parse_patterns};
use super::Serving;
use crate::clock;
use crate::engine::connections::Notice;
use crate::engine::rooms::StartAt;
use crate::event::depth::is_deeper_than;
use crate::event::encode::write_json_text;
use crate::event::incoming::{BodyError, BodyLimits, Format, parse};
use crate::event::{Ack, Pattern, RoomName};
use crate::metrics::record;

/// The longest `id` of a command, in bytes as JSON.
const ID_BYTES: usize = 200;
const COMMANDS: &str = "subscribe, unsubscribe, publish, ping, get_stats, refresh";

/// An answer to a command.
pub(super) struct Reply(String);

impl Reply {
    /// Begins an answer with its type and the command's id.
    fn new(kind: &str, id: Option<&str>) -> Self {
        let mut text = format!("{{\"type\":\"{kind}\"");
        if let Some(id) = id {
            // JSON as the client wrote it.
            let _ = write!(text, ",\"id\":{id}");
        }
        Self(text)
    }

    fn field(mut self, name: &str, json: impl std::fmt::Display) -> Self {
        let _ = write!(self.0, ",\"{name}\":{json}");
        self
    }

    fn text(mut self, name: &str, text: &str) -> Self {
        let _ = write!(self.0, ",\"{name}\":");
        write_json_text(text, &mut self.0);
        self
    }

    pub(super) fn error(id: Option<&str>, code: &str, message: &str) -> Self {
        record::websocket_error();
        Self::new("error", id).text("code", code).text("message", message)
    }

    fn problem(id: Option<&str>, problem: &Problem) -> Self {
        let reply = Self::error(id, &problem.kind().replace('-', "_"), problem.detail());
        match problem.retry_after() {
            Some(seconds) => reply.field("retryAfter", seconds),
            None => reply,
        }
    }

    pub(super) fn into_text(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// The fields that every command may have; they were read before.
macro_rules! command {
    ($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code, reason = "type and id are there so that they are not unknown")]
        struct $name<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            $($(#[$attribute])* $field: $type,)*
        }
    };
}

command!(Subscribe {
    #[serde(borrow)] rooms: Vec<Cow<'a, str>>,
    #[serde(borrow, default)] after: Option<&'a RawValue>,
    #[serde(borrow, default)] since: Option<Cow<'a, str>>,
    #[serde(default)] tail: Option<u64>,
});
command!(Unsubscribe { #[serde(borrow)] rooms: Vec<Cow<'a, str>>, });
command!(Publish {
    #[serde(borrow)] room: Cow<'a, str>,
    #[serde(borrow)] data: &'a RawValue,
    #[serde(borrow, rename = "kind")] event_kind: &'a RawValue,
    #[serde(borrow, default)] priority: Option<&'a RawValue>,
    #[serde(borrow, default)] key: Option<&'a RawValue>,
    #[serde(borrow, default)] timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)] event_id: Option<&'a RawValue>,
    #[serde(borrow, default)] ack: Option<Cow<'a, str>>,
});
command!(Ping { #[serde(borrow, default)] data: Option<&'a RawValue>, });
command!(Plain {});
command!(Refresh { #[serde(borrow)] token: Cow<'a, str>, });

/// Text or a number, not too long to be repeated.
fn is_id(json: &str) -> bool {
    json.len() <= ID_BYTES && json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

impl Serving {
    /// Does what a client says and gathers the answer.
    pub(super) async fn command(&mut self, text: &str) {
        // An event's own data may be as deep as that; what stands around it is two more.
        let depth = self.edge.settings().limits.json_depth;
        if is_deeper_than(text.as_bytes(), depth + 2) {
            let message = format!("nested deeper than {depth} (limits.json_depth)");
            self.connection.handler().dialect().say(Reply::error(None, "invalid_json", &message).into_text());
            return;
        }
        let reply = match serde_json::from_str::<Head<'_>>(text) {
            Ok(Head { kind, id }) => match id.map(RawValue::get).filter(|id| !is_id(id)) {
                Some(_) => {
                    let message = format!("id: expected text or a number of at most {ID_BYTES} bytes");
                    Some(Reply::error(None, "invalid_field", &message))
                }
                None => {
                    let id = id.map(RawValue::get);
                    let kind: Option<Cow<'_, str>> = kind.and_then(|kind| serde_json::from_str(kind.get()).ok());
                    match kind {
                        Some(kind) => self.obey(&kind, id, text).await.unwrap_or_else(Some),
                        None => Some(Reply::error(id, "invalid_field", &format!("type: expected one of {COMMANDS}"))),
                    }
                }
            },
            Err(error) if error.is_data() => {
                let message = format!("expected an object with a type ({COMMANDS}): {error}");
                Some(Reply::error(None, "invalid_field", &message))
            }
            Err(error) => Some(Reply::error(None, "invalid_json", &error.to_string())),
        };
        if let Some(reply) = reply {
            self.connection.handler().dialect().say(reply.into_text());
        }
    }

    async fn obey(&mut self, kind: &str, id: Option<&str>, text: &str) -> Result<Option<Reply>, Reply> {
        match kind {
            "subscribe" => self.subscribe(id, read(id, text)?).await,
            "unsubscribe" => {
                let command: Unsubscribe<'_> = read(id, text)?;
                let patterns = self.patterns(id, &command.rooms)?;
                self.connection.handler().unfollow(&patterns);
                Ok(Some(Reply::new("unsubscribed", id).field("rooms", names(&patterns))))
            }
            "publish" => self.publish(id, read(id, text)?),
            "ping" => {
                let command: Ping<'_> = read(id, text)?;
                let pong = Reply::new("pong", id);
                Ok(Some(match command.data {
                    Some(data) => pong.field("data", data.get()),
                    None => pong,
                }))
            }
            "get_stats" => {
                let _: Plain<'_> = read(id, text)?;
                Ok(Some(self.stats(id)))
            }
            "refresh" => self.refresh(id, read(id, text)?).await,
            _ => {
                let shown: String = kind.chars().take(40).collect();
                Err(Reply::error(id, "unknown_type", &format!("there is no command {shown:?}; there are: {COMMANDS}")))
            }
        }
    }

    fn patterns(&self, id: Option<&str>, rooms: &[Cow<'_, str>]) -> Result<Vec<Pattern>, Reply> {
        let max = self.edge.settings().limits.rooms_per_connection;
        let patterns =
            parse_patterns(rooms.iter().map(|room| &**room), max).map_err(|problem| invalid(id, &problem))?;
        if patterns.is_empty() || patterns.len() < rooms.iter().collect::<std::collections::HashSet<_>>().len() {
            return Err(Reply::error(
                id,
                "invalid_field",
                "rooms: expected a list of names or patterns, none of them empty",
            ));
        }
        Ok(patterns)
    }

    async fn subscribe(&mut self, id: Option<&str>, command: Subscribe<'_>) -> Result<Option<Reply>, Reply> {
        let patterns = self.patterns(id, &command.rooms)?;
        let start = start(id, &command)?;
        check_cursor(&patterns, &start).map_err(|problem| invalid(id, &problem))?;
        let identity = self.connection.handler().profile().identity();
        check_rights(&identity.rights, &patterns).map_err(|problem| Reply::problem(id, &problem))?;
        let settings = self.edge.settings();
        let (max, mailbox) = (settings.limits.rooms_per_connection, settings.limits.mailbox_messages);
        let session = self.connection.handler();
        let gaps = session.join(&patterns, &start).await;
        let gaps = gaps.map_err(|error| Reply::problem(id, &error.into()))?;
        let granted = format!("{{\"mode\":\"every\",\"mailbox_messages\":{mailbox}}}");
        let cursor = session.cursor();
        let mut reply = Reply::new("subscribed", id)
            .field("rooms", names(&patterns))
            .text("cursor", &cursor)
            .field("granted", granted);
        if !gaps.already.is_empty() {
            // In these nothing changes, whatever was said of where to begin.
            reply = reply.field("already", names(&gaps.already));
        }
        session.dialect().say(reply.into_text());
        // What is missing is told after the answer, as part of the stream.
        let too_many = gaps.too_many;
        session.tell_gaps(gaps);
        if too_many {
            let message = format!("more than {max} rooms; the others are not followed (limits.rooms_per_connection)");
            session.tell(&Notice::error("too_many_rooms", &message));
        }
        Ok(None)
    }

    /// Puts the publish on its way at once, so that publishes keep their order; the answer comes when the room has it.
    fn publish(&mut self, id: Option<&str>, command: Publish<'_>) -> Result<Option<Reply>, Reply> {
        let room = RoomName::parse(&command.room)
            .map_err(|error| Reply::error(id, "invalid_field", &format!("room: {error}")))?;
        // What the connection may do may have changed since it was opened.
        self.caller.identity = self.connection.handler().profile().identity();
        may_publish(&self.edge, &self.caller, &room).map_err(|problem| Reply::problem(id, &problem))?;
        let ack = match command.ack.as_deref() {
            None => self.edge.settings().log.ack,
            Some(text) => Ack::parse(text)
                .ok_or_else(|| Reply::error(id, "invalid_field", "ack: expected memory, logged or synced"))?,
        };
        // The same checks as over HTTP, by the same code.
        let mut body = format!("{{\"kind\":{},\"data\":{}", command.event_kind.get(), command.data.get());
        for (name, value) in [
            ("priority", command.priority),
            ("key", command.key),
            ("timestamp", command.timestamp),
            ("id", command.event_id),
        ] {
            if let Some(value) = value {
                let _ = write!(body, ",\"{name}\":{}", value.get());
            }
        }
        body.push('}');
        let settings = self.edge.settings();
        let limits =
            BodyLimits { event_bytes: settings.limits.event_bytes, events: 1, depth: settings.limits.json_depth };
        let events = parse(Format::Json, body.as_bytes(), limits).map_err(|error| body_error(id, &error))?;
        let event = events.into_iter().next().ok_or_else(|| Reply::error(id, "invalid_field", "there is no event"))?;
        let pending = self.edge.ingest.submit(room.clone(), smallvec![event], ack);
        let (id, limit) = (id.map(str::to_owned), self.edge.rooms.log().sync_timeout());
        self.publishes.push_back(Box::pin(async move {
            match pending.wait(limit).await {
                Ok(receipt) => Reply::new("published", id.as_deref())
                    .text("room", room.as_str())
                    .field("seq", receipt.last_seq)
                    .text("ack", ack.name()),
                Err(error) => Reply::problem(id.as_deref(), &error.into()),
            }
        }));
        Ok(None)
    }

    /// Shows another token. It must be of the same subject: a connection does not change hands.
    async fn refresh(&mut self, id: Option<&str>, command: Refresh<'_>) -> Result<Option<Reply>, Reply> {
        let shown = self.edge.auth.identify(&command.token).await;
        let wrong = || Reply::error(id, "unauthorized", "the token is not good; the connection stays as it is");
        let fresh = shown.ok_or_else(wrong)?;
        let session = self.connection.handler();
        let profile = Arc::clone(session.profile());
        let had = profile.identity();
        if fresh.subject != had.subject {
            let message = "the token is somebody else's; the connection stays as it is";
            return Err(Reply::error(id, "wrong_subject", message));
        }
        let (expires_ms, other) = (fresh.expires_ms, fresh.rights != had.rights);
        self.edge.connections.show_again(&profile, fresh);
        let mut reply = Reply::new("refreshed", id);
        if let Some(end) = expires_ms {
            reply = reply.text("expires_at", &clock::rfc3339(end));
        }
        if other {
            session.leave_what_is_not_allowed();
        }
        Ok(Some(reply))
    }

    fn stats(&mut self, id: Option<&str>) -> Reply {
        let uptime_ms = self.opened.elapsed().as_millis();
        let session = self.connection.handler();
        let (depth, profile) = (session.mailbox().depth(), session.profile());
        let books = &profile.books;
        Reply::new("stats", id)
            .text("connection_id", &session.id().to_string())
            .field("uptime_ms", uptime_ms)
            .field("delivered", books.delivered.get())
            .field("dropped", books.shed_total())
            .field("conflated", books.conflated.get())
            .field("waiting", depth.messages)
            .field("behind", depth.behind)
            .field("rooms", names(&profile.patterns()))
    }
}

fn read<'a, T: Deserialize<'a>>(id: Option<&str>, text: &'a str) -> Result<T, Reply> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let message = error.inner().to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        Reply::error(id, "invalid_field", &format!("{place}{message}"))
    })
}

/// A fault of a field, in the words that HTTP would use.
fn invalid(id: Option<&str>, problem: &Problem) -> Reply {
    Reply::error(id, "invalid_field", problem.detail())
}

fn body_error(id: Option<&str>, error: &BodyError) -> Reply {
    match error {
        BodyError::Invalid(faults) => {
            let told = faults.iter().map(|fault| match &fault.field {
                // What the command calls event_id the event calls id.
                Some(field) if field == "id" => format!("event_id: {}", fault.message),
                Some(field) => format!("{field}: {}", fault.message),
                None => fault.message.clone(),
            });
            Reply::error(id, "invalid_field", &told.collect::<Vec<_>>().join("; "))
        }
        BodyError::EventTooLarge { .. } => Reply::error(id, "event_too_large", &error.to_string()),
        other => Reply::error(id, "invalid_json", &other.to_string()),
    }
}

fn names(patterns: &[impl std::fmt::Display]) -> String {
    // Letters of a name need no escape in JSON.
    let names: Vec<String> = patterns.iter().map(|pattern| format!("\"{pattern}\"")).collect();
    format!("[{}]", names.join(","))
}

fn start(id: Option<&str>, command: &Subscribe<'_>) -> Result<StartAt, Reply> {
    let wrong = |field: &str, why: &str| Reply::error(id, "invalid_field", &format!("{field}: {why}"));
    match (command.after, command.since.as_deref(), command.tail) {
        (None, None, None) => Ok(StartAt::Live),
        (Some(after), None, None) => {
            // A cursor is text; a bare seq may come as a number too.
            let text: Result<Cow<'_, str>, _> = serde_json::from_str(after.get());
            let cursor = text.unwrap_or_else(|_| after.get().into());
            parse_cursor("after", &cursor).map_err(|problem| invalid(id, &problem))
        }
        (None, Some(since), None) => parse_since(since).map(StartAt::Since).map_err(|why| wrong("since", why)),
        (None, None, Some(tail)) if tail <= 1_000_000 => Ok(StartAt::Tail(tail)),
        (None, None, Some(_)) => Err(wrong("tail", "expected at most 1000000")),
        _ => Err(wrong("after", "at most one of after, since, tail says where to begin")),
    }
}
