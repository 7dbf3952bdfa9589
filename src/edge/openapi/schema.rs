//! The shapes of bodies and answers, as `openapi` describes them. Nothing is ever made of these types: the routes write their JSON themselves, and the tests hold the two against each other.
#![allow(dead_code, reason = "descriptions only")]

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// How far an acknowledgement goes.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::edge) enum Ack {
    Memory,
    Logged,
    Synced,
}

/// In what order.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::edge) enum Sort {
    Age,
    Waiting,
    Delivered,
}

/// How urgent an event is.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::edge) enum Priority {
    Critical,
    High,
    Normal,
    Low,
}

/// What is to be published.
#[derive(ToSchema, Deserialize)]
#[serde(untagged)]
pub(in crate::edge) enum Publish {
    One(NewEvent),
    Many(Vec<NewEvent>),
}

/// An event to be published.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct NewEvent {
    /// What kind of thing happened.
    #[schema(min_length = 1, max_length = 100, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$")]
    kind: String,
    /// Any JSON.
    data: Value,
    #[schema(nullable = false)]
    priority: Option<Priority>,
    /// What it is about: a newer value may replace a waiting older one.
    #[schema(nullable = false, min_length = 1, max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$")]
    key: Option<String>,
    /// When it happened; also whole milliseconds since 1970.
    #[schema(nullable = false, format = "date-time")]
    timestamp: Option<String>,
    /// By which a repetition is known.
    #[schema(nullable = false, min_length = 1, max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$")]
    id: Option<String>,
}

/// What was published.
#[derive(ToSchema)]
pub(in crate::edge) struct Receipt {
    count: u64,
    first_seq: u64,
    last_seq: u64,
    ack: Ack,
    /// Repetitions among what came in.
    #[schema(nullable = false)]
    duplicates: Option<u64>,
}

/// An event as it is delivered.
#[derive(ToSchema)]
pub(in crate::edge) struct Event {
    #[schema(pattern = "^event$")]
    r#type: String,
    room: String,
    seq: u64,
    kind: String,
    priority: Priority,
    timestamp: String,
    #[schema(nullable = false)]
    key: Option<String>,
    data: Value,
}

/// What a reader is told beside events.
#[derive(ToSchema)]
pub(in crate::edge) struct Notice {
    r#type: String,
}

/// A piece of a room's history.
#[derive(ToSchema)]
pub(in crate::edge) struct History {
    room: String,
    events: Vec<Event>,
    notices: Vec<Notice>,
    cursor: String,
    /// Whether there is more after it.
    more: bool,
}

/// The answer of a long-poll.
#[derive(ToSchema)]
pub(in crate::edge) struct Poll {
    events: Vec<Event>,
    notices: Vec<Notice>,
    cursor: String,
}

/// One room.
#[derive(ToSchema)]
pub(in crate::edge) struct Room {
    room: String,
    namespace: String,
    head: u64,
    first_seq: Option<u64>,
    held: u64,
    subscribers: u64,
    events_per_second: f64,
    last_timestamp: Option<String>,
}

/// Rooms.
#[derive(ToSchema)]
pub(in crate::edge) struct Rooms {
    rooms: Vec<Room>,
    /// How many there are in all.
    total: u64,
}

/// What became of what was due to a connection.
#[derive(ToSchema)]
pub(in crate::edge) struct Ledger {
    due: u64,
    delivered: u64,
    filtered: u64,
    conflated: u64,
    shed: u64,
    missed: u64,
    waiting: u64,
}

/// What waits for a connection.
#[derive(ToSchema)]
pub(in crate::edge) struct Mailbox {
    messages: u64,
    bytes: u64,
    lanes: std::collections::BTreeMap<String, u64>,
    /// Rooms whose history it reads because it fell behind.
    behind: u64,
}

/// One stream.
#[derive(ToSchema)]
pub(in crate::edge) struct Connection {
    id: String,
    transport: String,
    peer: String,
    client_ip: Option<String>,
    subject: String,
    credential: String,
    opened_at: String,
    age_seconds: u64,
    expires_at: Option<String>,
    rooms: Vec<String>,
    following: Option<u64>,
    cursor: Option<String>,
    mailbox: Mailbox,
    ledger: Ledger,
    catch_ups: u64,
    last_delivery_at: Option<String>,
}

/// Streams.
#[derive(ToSchema)]
pub(in crate::edge) struct Connections {
    connections: Vec<Connection>,
    total: u64,
}

/// A name and a password.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct Login {
    username: String,
    password: String,
    /// Whether the token shall be set as a cookie too.
    #[schema(nullable = false)]
    cookie: Option<bool>,
}

/// A token.
#[derive(ToSchema)]
pub(in crate::edge) struct Token {
    access_token: String,
    token_type: String,
    /// In seconds.
    expires_in: u64,
}

/// Which token to revoke: by its id, or the token itself.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct Revoke {
    #[schema(min_length = 1, max_length = 200)]
    token_id: Option<String>,
    /// When it would have ended, in seconds from now.
    expires_in: Option<u64>,
    token: Option<String>,
}

/// Who the caller is and what it may do.
#[derive(ToSchema)]
pub(in crate::edge) struct Me {
    subject: String,
    credential: String,
    roles: Vec<String>,
    rooms: Vec<String>,
    publish: Vec<String>,
    #[schema(nullable = false)]
    expires_at: Option<String>,
}

/// A state in one word.
#[derive(ToSchema)]
pub(in crate::edge) struct Status {
    status: String,
}

/// How the daemon is.
#[derive(ToSchema)]
pub(in crate::edge) struct Health {
    status: String,
    version: String,
    uptime_seconds: u64,
    connections: u64,
    rooms: u64,
    actors: u64,
}

/// An error (RFC 9457).
#[derive(ToSchema)]
pub(in crate::edge) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// What is wrong, item by item, field by field.
    #[schema(nullable = false)]
    errors: Option<Vec<Value>>,
    /// When to come back, in seconds.
    #[schema(nullable = false, rename = "retryAfter")]
    retry_after: Option<u64>,
}
