//! The surface `buffer`: messages are taken, wait in the room `messages`, are kept by the sink `buffer` in batches, and are read back from it. `message` is what comes in, `stats` what `/ws/stats` says.

mod message;
mod stats;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use self::message::{Bounds, fault};
use self::stats::Stats;
use super::open::{Offer, open, start};
use super::refusals::{Asked, Worded};
use super::room;
use crate::clock;
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::{Edge, answer, probes, publish};
use crate::engine::connections::Contract;
use crate::engine::connections::contract::Mode;
use crate::engine::rooms::StartAt;
use crate::engine::sources::sinks;
use crate::event::incoming::Format;
use crate::event::{Ack, Pattern};
use crate::store::{StoreError, Stored};

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 2] = ["/messages", "/ws/stats"];
/// The room of messages.
const MESSAGES: &str = "messages";
/// The sink that keeps them.
const SINK: &str = "buffer";
/// The room of the sink's figures.
const FIGURES: &str = "sink:buffer";
/// So many messages are read where the client does not say.
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 1000;

/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    Router::new()
        .route("/messages", get(newest).post(take))
        .route("/health", get(probes::health))
        .route("/ws/stats", get(figures))
}

/// A refusal in its words.
pub(super) fn refusal(problem: &Problem, _: &Asked<'_>) -> Worded {
    let detail = match problem.errors() {
        [] => json!(problem.detail()),
        errors => errors.iter().map(worded).collect(),
    };
    Worded::json(&json!({ "detail": detail }))
}

/// What is wrong with a field, in its words.
fn worded(error: &Value) -> Value {
    let stands_in = error.get("in").unwrap_or(&Value::Null).as_str().unwrap_or("query");
    let mut place = vec![json!(stands_in)];
    place.extend(error.get("field").cloned());
    let rule = error.get("type").cloned().unwrap_or_else(|| "value_error".into());
    json!({ "loc": place, "msg": error["message"], "type": rule })
}

/// Takes a message. The answer comes when the log has it.
async fn take(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let messages = room(MESSAGES)?;
    let checks = |head: &Parts| {
        publish::may(&edge, &caller, &messages)?;
        publish::format(&head.headers, &[Format::Json])
    };
    let incoming = publish::receive(&edge, request, checks).await?;
    let settings = edge.settings();
    let bounds =
        Bounds { content_bytes: settings.surfaces.buffer.content_bytes, event_bytes: settings.limits.event_bytes };
    let message = message::read(incoming.bytes(), bounds).map_err(Problem::fields)?;
    // Never less than that: what is answered survives the daemon.
    let ack = settings.log.ack.max(Ack::Logged);
    let receipt = incoming.publish(&edge, messages, vec![message.event], ack).await?;
    let mut answer = json!({ "id": message.id, "status": "queued", "seq": receipt.last_seq });
    if receipt.duplicates > 0 {
        answer["seq"] = receipt.first_seq.into();
        answer["duplicate"] = true.into();
    }
    Ok(publish::accepted(&answer))
}

/// The newest messages that the sink has, newest first.
async fn newest(
    State(edge): State<Edge>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let messages = room(MESSAGES)?;
    caller.may_read(&messages)?;
    let limit = limit(&Params::pick(query.as_deref(), &["limit"]))?;
    let found = edge.sinks.newest(SINK, &Pattern::Room(messages), limit).await.map_err(|error| unread(&error))?;
    let shown: Vec<Value> = found.iter().map(shown).collect();
    Ok(answer::tagged(&headers, Value::Array(shown).to_string()))
}

fn limit(params: &Params<'_>) -> Result<usize, Problem> {
    let Some(text) = params.get("limit") else { return Ok(LIMIT_DEFAULT) };
    let wrong = |rule, message: String| Problem::fields(vec![fault("query", Some("limit"), rule, &message)]);
    match text.parse::<i64>().map(usize::try_from) {
        Err(_) => Err(wrong("int_parsing", format!("Expected a whole number from 1 to {LIMIT_MAX}"))),
        Ok(Ok(limit)) if limit > LIMIT_MAX => Err(wrong("less_than_equal", format!("Expected at most {LIMIT_MAX}"))),
        Ok(Ok(limit)) if limit > 0 => Ok(limit),
        Ok(_) => Err(wrong("greater_than_equal", "Expected at least 1".to_owned())),
    }
}

/// A message as it is shown. What came into the room in another way has what its data says.
fn shown(stored: &Stored) -> Value {
    let data: Value = serde_json::from_slice(&stored.data).unwrap_or_default();
    let of = |field: &str| data.get(field).cloned().unwrap_or_default();
    json!({
        "id": data.get("id").cloned().unwrap_or_else(|| stored.seq.to_string().into()),
        "seq": stored.seq,
        "user_id": of("user_id"),
        "channel_id": of("channel_id"),
        "content": of("content"),
        "created_at": clock::rfc3339(stored.timestamp_ms),
    })
}

/// Why messages cannot be read: open to all who may read, so it does not say where they are kept.
fn unread(error: &StoreError) -> Problem {
    if matches!(error, StoreError::NoSink(_)) {
        return Problem::unavailable("no-sink", "the sink buffer is switched off (sinks.buffer.enabled)");
    }
    tracing::warn!(error = %error, "messages cannot be read from the sink");
    Problem::unavailable("store-unavailable", "the store cannot be read now; messages are taken and wait")
}

/// The sink's figures, now and every so often.
async fn figures(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let status = edge.sinks.status(SINK).ok_or_else(|| unread(&StoreError::NoSink(SINK.to_owned())))?;
    // Who is slow gets the newest figures only.
    let contract = Contract { mode: Mode::Latest, ..Contract::default() };
    let patterns = vec![Pattern::Room(room(FIGURES)?)];
    let offer = Offer { patterns, contract: Some(contract.into()), start: StartAt::Live, public: false, own: None };
    // Who comes back begins with the figures that it missed; those of the moment would stand before older ones.
    let is_new = matches!(start(&request)?, None | Some(StartAt::Live));
    let first = is_new.then(|| sinks::figures(&status, clock::now_ms()));
    open(edge, caller, request, offer, Stats::beginning_with(first.as_ref())).await
}
