//! What a WebSocket client may say: commands as they are read, before anybody acts on them. Of untrusted text it makes a command or an answer that says what is wrong.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::contract::Asked;
use super::super::params::{parse_cursor, parse_since};
use super::reply::{Reply, invalid};
use crate::engine::connections::Contract;
use crate::engine::rooms::StartAt;
use crate::event::depth::is_deeper_than;

/// The longest `id` of a command, in bytes as JSON.
const ID_BYTES: usize = 200;
const COMMANDS: &str = "subscribe, unsubscribe, publish, ping, get_stats, refresh";

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
        pub(super) struct $name<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            $($(#[$attribute])* pub(super) $field: $type,)*
        }
    };
}

command!(Subscribe {
    #[serde(borrow)] rooms: Vec<Cow<'a, str>>,
    #[serde(borrow, default)] after: Option<&'a RawValue>,
    #[serde(borrow, default)] since: Option<Cow<'a, str>>,
    #[serde(default)] tail: Option<u64>,
    #[serde(borrow, default)] mode: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "fn")] function: Option<Cow<'a, str>>,
    #[serde(borrow, default)] period: Option<Cow<'a, str>>,
    #[serde(borrow, default)] every: Option<Cow<'a, str>>,
    #[serde(borrow, default)] field: Option<Cow<'a, str>>,
    #[serde(borrow, default)] filter: Option<Cow<'a, str>>,
    #[serde(borrow, default)] kinds: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)] priority: Option<Cow<'a, str>>,
    #[serde(borrow, default)] on_slow: Option<Cow<'a, str>>,
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

/// One of them.
pub(super) enum Command<'a> {
    Subscribe(Subscribe<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Publish(Publish<'a>),
    Ping(Ping<'a>),
    GetStats,
    Refresh(Refresh<'a>),
}

/// A command, and the id by which its answer is known.
pub(super) struct Parsed<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) command: Command<'a>,
}

/// Text or a number, not too long to be repeated.
fn is_id(json: &str) -> bool {
    json.len() <= ID_BYTES && json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

/// The id of a command that is not read any further.
pub(super) fn id_of(text: &str) -> Option<&str> {
    let head = serde_json::from_str::<Head<'_>>(text).ok()?;
    head.id.map(RawValue::get).filter(|id| is_id(id))
}

/// Reads a command. An event's data in it may be nested `depth` deep.
pub(super) fn parse(text: &str, depth: usize) -> Result<Parsed<'_>, Reply> {
    // What stands around an event's own data is two more.
    if is_deeper_than(text.as_bytes(), depth + 2) {
        return Err(Reply::error(None, "invalid_json", &format!("nested deeper than {depth} (limits.json_depth)")));
    }
    let head = serde_json::from_str::<Head<'_>>(text).map_err(|error| {
        if error.is_data() {
            let message = format!("expected an object with a type ({COMMANDS}): {error}");
            Reply::error(None, "invalid_field", &message)
        } else {
            Reply::error(None, "invalid_json", &error.to_string())
        }
    })?;
    let id = head.id.map(RawValue::get);
    if id.is_some_and(|id| !is_id(id)) {
        let message = format!("id: expected text or a number of at most {ID_BYTES} bytes");
        return Err(Reply::error(None, "invalid_field", &message));
    }
    let kind: Option<Cow<'_, str>> = head.kind.and_then(|kind| serde_json::from_str(kind.get()).ok());
    let kind = kind.ok_or_else(|| Reply::error(id, "invalid_field", &format!("type: expected one of {COMMANDS}")))?;
    let command = match &*kind {
        "subscribe" => Command::Subscribe(read(id, text)?),
        "unsubscribe" => Command::Unsubscribe(read(id, text)?),
        "publish" => Command::Publish(read(id, text)?),
        "ping" => Command::Ping(read(id, text)?),
        "get_stats" => read::<Plain<'_>>(id, text).map(|_| Command::GetStats)?,
        "refresh" => Command::Refresh(read(id, text)?),
        _ => {
            let shown: String = kind.chars().take(40).collect();
            let message = format!("there is no command {shown:?}; there are: {COMMANDS}");
            return Err(Reply::error(id, "unknown_type", &message));
        }
    };
    Ok(Parsed { id, command })
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

/// How a subscription is to be served, if it says.
pub(super) fn contract(id: Option<&str>, command: &Subscribe<'_>) -> Result<Option<Arc<Contract>>, Reply> {
    let asked = Asked {
        mode: command.mode.clone(),
        function: command.function.clone(),
        period: command.period.clone(),
        every: command.every.clone(),
        field: command.field.clone(),
        filter: command.filter.clone(),
        kinds: command.kinds.clone(),
        priority: command.priority.clone(),
        on_slow: command.on_slow.clone(),
    };
    asked.contract().map_err(|problem| invalid(id, &problem))
}

/// Where a subscription begins.
pub(super) fn start(id: Option<&str>, command: &Subscribe<'_>) -> Result<StartAt, Reply> {
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
