//! What a WebSocket client says: `subscribe`, `unsubscribe`, `ping`.

use serde_json::{Value, json};

use super::voice::{Admin, error, first_data, message};
use super::{contract, may_read_all_of, metric, rooms};
use crate::audit::Entry;
use crate::edge::problem::Problem;
use crate::edge::surfaces::encoded::Message;
use crate::edge::surfaces::voice::OverWebSocket;
use crate::edge::ws::Serving;
use crate::engine::connections::Notice;
use crate::engine::rooms::StartAt;
use crate::event::{Pattern, RoomName};

type Socket = Serving<OverWebSocket<Admin>>;

/// A fault in what was said: code, words, field.
type Fault = (&'static str, String, Option<&'static str>);

enum Command {
    Subscribe(Vec<RoomName>),
    Unsubscribe(Vec<RoomName>),
    Ping(Value),
}

fn parse(text: &str, rooms_max: usize) -> Result<Command, Fault> {
    let said: Value = serde_json::from_str(text).map_err(|_| ("invalid_json", "expected JSON".to_owned(), None))?;
    let Some(kind) = said.get("type").and_then(Value::as_str) else {
        return Err(("invalid_field", "expected an object with a type".to_owned(), Some("type")));
    };
    let metrics = || {
        let wrong = || ("invalid_field", "data.metrics: expected a list of names".to_owned(), Some("data.metrics"));
        let list = said.pointer("/data/metrics").and_then(Value::as_array).ok_or_else(wrong)?;
        let names: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
        let names = names.filter(|names| !names.is_empty()).ok_or_else(wrong)?;
        let words = |problem: Problem| ("invalid_field", format!("data.{}", problem.detail()), Some("data.metrics"));
        rooms(names.into_iter(), rooms_max).map_err(words)
    };
    match kind {
        "subscribe" => metrics().map(Command::Subscribe),
        "unsubscribe" => metrics().map(Command::Unsubscribe),
        "ping" => Ok(Command::Ping(said.get("data").cloned().unwrap_or_else(|| json!({})))),
        _ => Err(("unknown_type", "expected subscribe, unsubscribe or ping".to_owned(), Some("type"))),
    }
}

/// Does what a message says.
pub(super) async fn obey(serving: &mut Socket, text: &str) {
    let max = serving.edge.settings().limits.rooms_per_connection;
    match parse(text, max) {
        Ok(Command::Subscribe(rooms)) => {
            let outcome = subscribe(serving, &rooms).await;
            note(serving, "subscribe", &outcome);
            if let Err(problem) = outcome {
                say(serving, &error(problem.kind(), problem.detail(), None, Some("data.metrics")));
            }
        }
        Ok(Command::Unsubscribe(rooms)) => {
            serving.connection.handler().leave_out(&rooms);
            note(serving, "unsubscribe", &Ok(()));
            say(serving, &confirmation("unsubscribed", &rooms));
        }
        Ok(Command::Ping(data)) => say(serving, &message("pong", data)),
        Err((code, words, field)) => say(serving, &error(code, &words, None, field)),
    }
}

/// What of a subscription is said to whoever has it.
pub(super) fn confirmation(kind: &str, rooms: &[RoomName]) -> Message {
    let metrics: Vec<&str> = rooms.iter().map(|room| metric(room.as_str())).collect();
    message(kind, json!({ "metrics": metrics }))
}

fn say(serving: &mut Socket, message: &Message) {
    serving.connection.handler().dialect().say(message);
}

async fn subscribe(serving: &mut Socket, rooms: &[RoomName]) -> Result<(), Problem> {
    let edge = serving.edge.clone();
    let session = serving.connection.handler();
    let identity = session.profile().identity();
    super::needs_role(&identity)?;
    may_read_all_of(&identity, rooms)?;
    let patterns: Vec<Pattern> = rooms.iter().cloned().map(Pattern::Room).collect();
    let missed = session.join(&patterns, &StartAt::Live, Some(contract(&edge.settings()))).await?;
    session.dialect().say(&confirmation("subscribed", rooms));
    if missed.too_many {
        let max = edge.settings().limits.rooms_per_connection;
        let words = format!("more than {max} metrics; the others are not followed (limits.rooms_per_connection)");
        session.tell(&Notice::error("too_many_rooms", &words));
    }
    let first = first_data(&edge, &identity, &patterns).await;
    serving.connection.handler().dialect().say(&first);
    Ok(())
}

/// Writes down what was asked for and what came of it.
fn note(serving: &mut Socket, command: &str, outcome: &Result<(), Problem>) {
    let (edge, caller) = (serving.edge.clone(), serving.caller());
    let id = serving.connection.handler().id();
    edge.audit.note(Entry {
        method: Some(format!("WEBSOCKET {command}")),
        path: Some(edge.settings().surfaces.analytics.websocket_path.clone()),
        connection: Some(id.to_string()),
        status: Some(outcome.as_ref().map_or_else(|problem| problem.status().as_u16(), |()| 200)),
        reason: outcome.as_ref().err().map(|problem| problem.kind().to_owned()),
        ..caller.entry("admin")
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_field() {
        for (text, code, field) in [
            ("{", "invalid_json", None),
            ("[]", "invalid_field", Some("type")),
            (r#"{"type":"dance"}"#, "unknown_type", Some("type")),
            (r#"{"type":"subscribe"}"#, "invalid_field", Some("data.metrics")),
            (r#"{"type":"subscribe","data":{"metrics":[]}}"#, "invalid_field", Some("data.metrics")),
            (r#"{"type":"subscribe","data":{"metrics":[1]}}"#, "invalid_field", Some("data.metrics")),
            (r#"{"type":"unsubscribe","data":{"metrics":["a b"]}}"#, "invalid_field", Some("data.metrics")),
        ] {
            let Err(fault) = parse(text, 10) else { panic!("{text} is taken") };
            assert_eq!((fault.0, fault.2), (code, field), "{text}");
        }
        let Ok(Command::Subscribe(rooms)) = parse(r#"{"type":"subscribe","data":{"metrics":["users","users"]}}"#, 1)
        else {
            panic!("a right one is taken")
        };
        assert_eq!(rooms[0].as_str(), "analytics:users");
    }
}
