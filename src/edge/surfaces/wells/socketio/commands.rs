//! What a client that has signed in may ask for. Every answer is an event; where the client gave an id it comes as an acknowledgement too.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::super::shape::{NAMESPACE, well_id};
use super::dialect::{Sio, fault};
use super::packet::{self, Call};
use super::session::{Session, State};
use crate::audit::Entry;
use crate::clock;
use crate::edge::params::{parse_cursor, parse_since};
use crate::edge::problem::Problem;
use crate::edge::stream::check_rights;
use crate::engine::connections::supervisor::Connection;
use crate::engine::rooms::StartAt;
use crate::event::{Pattern, RoomName, cursor};
use crate::metrics::record;

const COMMANDS: &str = "ping, subscribe, unsubscribe, get_stats";
/// The most events of the past that a subscription may ask for.
const TAIL_MAX: u64 = 1_000_000;

/// The argument of `subscribe` and `unsubscribe`. Fields that are not known are passed over, as clients send some of their own.
#[derive(Deserialize, Default)]
struct Wanted<'a> {
    #[serde(borrow, default)]
    well_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
    #[serde(borrow, default)]
    last_event_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    since: Option<Cow<'a, str>>,
    #[serde(default)]
    tail: Option<u64>,
}

/// A fault by its name on this surface, in words.
type Fault = (&'static str, String);

fn invalid(message: impl Into<String>) -> Fault {
    ("ValidationError", message.into())
}

impl Session {
    pub(super) async fn command(&mut self, call: &Call<'_>, id: Option<&str>) {
        let outcome = match &*call.name {
            "ping" => {
                self.answer(id, "pong", &json!({ "timestamp": now() }));
                Ok(())
            }
            "get_stats" => {
                self.stats(id);
                Ok(())
            }
            "subscribe" => Box::pin(self.subscribe(call, id)).await,
            "unsubscribe" => self.unsubscribe(call, id),
            name => {
                let shown: String = name.chars().take(40).collect();
                Err(("UnknownEvent", format!("there is no event {shown:?}; there are: {COMMANDS}")))
            }
        };
        if let Err((error, message)) = outcome {
            self.answer_fault(id, error, &message);
        }
    }

    fn connection(&mut self) -> Option<&mut Connection<Sio>> {
        match &mut self.state {
            State::Live(live) => Some(&mut live.connection),
            State::Waiting(_) => None,
        }
    }

    fn answer(&mut self, id: Option<&str>, name: &str, body: &Value) {
        let Some(connection) = self.connection() else { return };
        let dialect = connection.handler().dialect();
        dialect.tell(name, body);
        if let Some(id) = id {
            dialect.say(packet::ack(id, &body.to_string()));
        }
    }

    pub(super) fn answer_fault(&mut self, id: Option<&str>, error: &str, message: &str) {
        self.answer(id, "error", &fault(error, message));
    }

    /// An answer after which the reader stands somewhere else.
    fn answer_here(&mut self, id: Option<&str>, name: &str, body: &Value) {
        let Some(connection) = self.connection() else { return };
        let session = connection.handler();
        let (places, mut offset) = (session.positions(), String::new());
        cursor::write(places.iter().map(|(room, seq)| (room, *seq)), &mut offset);
        let dialect = session.dialect();
        dialect.tell_at(name, body, &offset);
        if let Some(id) = id {
            dialect.say(packet::ack(id, &body.to_string()));
        }
    }

    async fn subscribe(&mut self, call: &Call<'_>, id: Option<&str>) -> Result<(), Fault> {
        let wanted = wanted(call)?;
        let (room, start) = (room(&wanted)?, start(&wanted)?);
        let pattern = [Pattern::Room(room.clone())];
        let max = self.edge.settings().limits.rooms_per_connection;
        let State::Live(live) = &mut self.state else { return Ok(()) };
        let session = live.connection.handler();
        let identity = session.profile().identity();
        if let Err(problem) = check_rights(&identity.rights, &pattern) {
            self.note_refused(&problem);
            return Err(("AuthorizationError", problem.detail().to_owned()));
        }
        if session.following() >= max && !session.profile().patterns().contains(&pattern[0]) {
            let message = format!("this client follows {max} wells already (limits.rooms_per_connection)");
            return Err(("TooManySubscriptions", message));
        }
        let missed = session.join(&pattern, &start, None).await;
        let missed = missed.map_err(|error| ("ConnectionError", error.to_string()))?;
        if missed.already.is_empty()
            && let Some(kept) = &live.keeper.kept
        {
            let begun = session.positions().into_iter().find(|(name, _)| *name == room);
            kept.follows.lock().extend(begun);
        }
        self.tell_subscribed(&room, id);
        // What is missing is told after the answer.
        if let Some(connection) = self.connection() {
            connection.handler().tell_begins(missed);
        }
        Ok(())
    }

    /// Tells where the reader stands in a well that it follows.
    pub(super) fn tell_subscribed(&mut self, room: &RoomName, id: Option<&str>) {
        let Some(connection) = self.connection() else { return };
        let places = connection.handler().positions();
        let cursor = places.iter().find(|(name, _)| name == room).map_or(0, |(_, seq)| *seq);
        let body = json!({ "well_id": well_id(room), "timestamp": now(), "cursor": cursor.to_string() });
        self.answer_here(id, "subscribed", &body);
    }

    fn unsubscribe(&mut self, call: &Call<'_>, id: Option<&str>) -> Result<(), Fault> {
        let room = room(&wanted(call)?)?;
        let State::Live(live) = &mut self.state else { return Ok(()) };
        live.connection.handler().unfollow(&[Pattern::Room(room.clone())]);
        if let Some(kept) = &live.keeper.kept {
            kept.follows.lock().retain(|(name, _)| *name != room);
        }
        let body = json!({ "well_id": well_id(&room), "timestamp": now() });
        self.answer_here(id, "unsubscribed", &body);
        Ok(())
    }

    /// What a client may not do is written down, as over HTTP.
    fn note_refused(&mut self, problem: &Problem) {
        if problem.status() != StatusCode::FORBIDDEN {
            return;
        }
        record::request_refused("forbidden");
        let Some(connection) = self.connection() else { return };
        let profile = connection.handler().profile();
        let identity = profile.identity();
        let entry = Entry {
            event: "refused",
            subject: Some(identity.subject.to_string()),
            credential: Some(identity.credential.name()),
            client_ip: profile.ip.map(|ip| ip.to_string()),
            connection: Some(profile.id.to_string()),
            method: Some("subscribe".to_owned()),
            path: Some("/socket.io/".to_owned()),
            status: Some(problem.status().as_u16()),
            reason: Some(problem.detail().to_owned()),
            ..Entry::default()
        };
        self.edge.audit.note(entry);
    }

    /// A client's own figures; for an admin those of the whole server beside them.
    fn stats(&mut self, id: Option<&str>) {
        let Some(connection) = self.connection() else { return };
        let session = connection.handler();
        let (depth, profile) = (session.mailbox().depth(), session.profile());
        let books = &profile.books;
        let names = profile.patterns().iter().map(ToString::to_string).collect::<Vec<_>>();
        let wells: Vec<&str> = names.iter().map(|name| name.strip_prefix(NAMESPACE).unwrap_or(name)).collect();
        let mut body = json!({
            "connected_at": clock::rfc3339(profile.opened_ms),
            "message_count": books.delivered.get(),
            "subscriptions": wells,
            "dropped": books.shed_total(),
            "conflated": books.conflated.get(),
            "waiting": depth.messages,
            "behind": depth.behind,
        });
        if profile.identity().rights.admin {
            body["server"] = self.server_stats();
        }
        self.answer(id, "stats", &body);
    }

    fn server_stats(&self) -> Value {
        let edge = &self.edge;
        let (mut transports, mut delivered, mut dropped) = (Map::new(), 0, 0);
        let all = edge.connections.list();
        for listed in &all {
            let profile = &listed.profile;
            let count = transports.entry(profile.transport).or_insert(json!(0));
            *count = json!(count.as_u64().unwrap_or(0) + 1);
            delivered += profile.books.delivered.get();
            dropped += profile.books.shed_total();
        }
        let rooms = edge.rooms.all();
        let wells = rooms.iter().filter(|room| room.name().as_str().starts_with(NAMESPACE));
        let followed: Vec<usize> =
            wells.map(|room| room.subscribers()).filter(|subscribers| *subscribers > 0).collect();
        json!({
            "started_at": clock::rfc3339(edge.started_ms),
            "uptime_seconds": edge.started.elapsed().as_secs(),
            "total_connections": all.len(),
            "connections": transports,
            "sessions": self.server.open(),
            "rooms": edge.rooms.count(),
            "wells_followed": followed.len(),
            "well_subscriptions": followed.iter().sum::<usize>(),
            "messages_delivered": delivered,
            "messages_dropped": dropped,
        })
    }
}

fn now() -> String {
    clock::rfc3339(clock::now_ms())
}

fn wanted<'a>(call: &Call<'a>) -> Result<Wanted<'a>, Fault> {
    let Some(argument) = call.arguments.first() else { return Ok(Wanted::default()) };
    if !argument.get().starts_with('{') {
        return Ok(Wanted::default());
    }
    let mut json = serde_json::Deserializer::from_str(argument.get());
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let message = error.inner().to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        invalid(format!("{}: {message}", error.path()))
    })
}

fn room(wanted: &Wanted<'_>) -> Result<RoomName, Fault> {
    let well_id = wanted.well_id.as_deref().filter(|id| !id.is_empty());
    let well_id = well_id.ok_or_else(|| invalid("well_id is required"))?;
    RoomName::parse(&format!("{NAMESPACE}{well_id}")).map_err(|error| invalid(format!("well_id: {error}")))
}

/// Where a subscription begins: with the next event, if it does not say.
fn start(wanted: &Wanted<'_>) -> Result<StartAt, Fault> {
    let given = [wanted.after, wanted.last_event_id];
    let said =
        given.iter().flatten().count() + usize::from(wanted.since.is_some()) + usize::from(wanted.tail.is_some());
    if said > 1 {
        return Err(invalid("at most one of after, last_event_id, since and tail says where to begin"));
    }
    if let Some(after) = given.into_iter().flatten().next() {
        // A cursor is text; a bare seq may come as a number too.
        let text: Result<Cow<'_, str>, _> = serde_json::from_str(after.get());
        let text = text.unwrap_or_else(|_| after.get().into());
        if text == "null" || text.is_empty() {
            return Ok(StartAt::Live);
        }
        return parse_cursor("after", &text).map_err(|problem| invalid(problem.detail()));
    }
    match (wanted.since.as_deref(), wanted.tail) {
        (Some(since), _) => parse_since(since).map(StartAt::Since).map_err(|why| invalid(format!("since: {why}"))),
        (None, Some(tail)) if tail <= TAIL_MAX => Ok(StartAt::Tail(tail)),
        (None, Some(_)) => Err(invalid(format!("tail: expected at most {TAIL_MAX}"))),
        (None, None) => Ok(StartAt::Live),
    }
}
