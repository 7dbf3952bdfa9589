//! Acting on what a WebSocket client says. `parse` reads it, `reply` is what it is answered.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use smallvec::smallvec;

use super::super::contract::aligned;
use super::super::dialects::ws::Ws;
use super::super::problem::{Problem, whole_seconds};
use super::super::publish::may as may_publish;
use super::super::stream::{check_cursor, check_rights, parse_patterns};
use super::parse::{Command, Parsed, Publish, Refresh, Subscribe, contract, id_of, parse, start};
use super::reply::{Reply, body_error, invalid};
use super::{Serving, Talk};
use crate::audit::Entry;
use crate::clock;
use crate::engine::connections::{Contract, Notice};
use crate::event::incoming::{BodyLimits, Format, parse as parse_body};
use crate::event::{Ack, Pattern, RoomName};
use crate::metrics::record;

impl Talk for Ws {
    const PROTOCOLS: &'static [&'static str] = &["tidegate.v1+json"];

    async fn command(serving: &mut Serving<Self>, text: &str) {
        let depth = serving.edge.settings().limits.json_depth;
        let reply = match parse(text, depth) {
            Ok(parsed) => serving.obey(parsed).await.unwrap_or_else(Some),
            Err(reply) => Some(reply),
        };
        if let Some(reply) = reply {
            serving.connection.handler().dialect().say(reply.into_text());
        }
    }

    fn say(&mut self, text: String) {
        Self::say(self, text);
    }

    fn refuse(&mut self, about: &str, code: &'static str, message: &str, retry: Option<Duration>) {
        let mut reply = Reply::error(id_of(about), code, message);
        if let Some(wait) = retry {
            reply = reply.field("retryAfter", whole_seconds(wait));
        }
        self.say(reply.into_text());
    }
}

impl Serving<Ws> {
    async fn obey(&mut self, Parsed { id, command }: Parsed<'_>) -> Result<Option<Reply>, Reply> {
        match command {
            Command::Subscribe(command) => self.subscribe(id, command).await,
            Command::Unsubscribe(command) => {
                let patterns = self.patterns(id, &command.rooms)?;
                self.connection.handler().unfollow(&patterns);
                Ok(Some(Reply::new("unsubscribed", id).field("rooms", names(&patterns))))
            }
            Command::Publish(command) => self.publish(id, command),
            Command::Ping(command) => {
                let pong = Reply::new("pong", id);
                Ok(Some(match command.data {
                    Some(data) => pong.field("data", data.get()),
                    None => pong,
                }))
            }
            Command::GetStats => Ok(Some(self.stats(id))),
            Command::Refresh(command) => self.refresh(id, command).await,
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
        let (contract, start) = (contract(id, &command)?, start(id, &command)?);
        let start = aligned(start, contract.as_deref());
        check_cursor(&patterns, &start).map_err(|problem| invalid(id, &problem))?;
        let identity = self.connection.handler().profile().identity();
        check_rights(&identity.rights, &patterns).map_err(|problem| self.refused("subscribe", id, &problem))?;
        let settings = self.edge.settings();
        let (max, mailbox) = (settings.limits.rooms_per_connection, settings.limits.mailbox_messages);
        let session = self.connection.handler();
        let gaps = session.join(&patterns, &start, contract.clone()).await;
        let gaps = gaps.map_err(|error| Reply::problem(id, &error.into()))?;
        let granted = contract.as_deref().unwrap_or(&Contract::default()).granted(mailbox);
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
        session.tell_begins(gaps);
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
        let caller = self.caller();
        let may = may_publish(&self.edge, &caller, &room);
        may.map_err(|problem| self.refused("publish", id, &problem))?;
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
        let events = parse_body(Format::Json, body.as_bytes(), limits).map_err(|error| body_error(id, &error))?;
        let event = events.into_iter().next().ok_or_else(|| Reply::error(id, "invalid_field", "there is no event"))?;
        let pending = self.edge.ingest.submit(room.clone(), smallvec![event], ack);
        let (id, limit) = (id.map(str::to_owned), self.edge.rooms.log().sync_timeout());
        self.publishes.push_back(Box::pin(async move {
            let reply = match pending.wait(limit).await {
                Ok(receipt) => Reply::new("published", id.as_deref())
                    .text("room", room.as_str())
                    .field("seq", receipt.last_seq)
                    .text("ack", ack.name()),
                Err(error) => Reply::problem(id.as_deref(), &error.into()),
            };
            reply.into_text()
        }));
        Ok(None)
    }

    /// Answers what is refused; what the client may not do is written down, as over HTTP.
    fn refused(&mut self, command: &str, id: Option<&str>, problem: &Problem) -> Reply {
        if problem.status() == StatusCode::FORBIDDEN {
            record::request_refused("forbidden");
            let connection = Some(self.connection.handler().id().to_string());
            let (method, status) = (Some(command.to_owned()), Some(problem.status().as_u16()));
            let (path, reason) = (Some("/v1/stream".to_owned()), Some(problem.detail().to_owned()));
            let entry = self.caller().entry("refused");
            self.edge.audit.note(Entry { connection, method, path, status, reason, ..entry });
        }
        Reply::problem(id, problem)
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

fn names(patterns: &[impl std::fmt::Display]) -> String {
    // Letters of a name need no escape in JSON.
    let names: Vec<String> = patterns.iter().map(|pattern| format!("\"{pattern}\"")).collect();
    format!("[{}]", names.join(","))
}
