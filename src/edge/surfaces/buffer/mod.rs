//! The surface `buffer`: messages are taken, wait in the room `messages`, are kept by the sink `buffer` in batches, and are read back from it. `message` is what comes in, `stats` what `/ws/stats` says.

mod message;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use self::message::Bounds;
use super::refusals::{Asked, Worded};
use crate::edge::body::{Encoding, decline};
use crate::edge::caller::Caller;
use crate::edge::problem::Problem;
use crate::edge::{Edge, answer, probes, publish};
use crate::event::incoming::Format;
use crate::event::{Ack, RoomName};

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 2] = ["/messages", "/ws/stats"];
/// The room of messages.
const MESSAGES: &str = "messages";

/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    Router::new().route("/messages", post(take)).route("/health", get(probes::health))
}

/// A refusal in its words.
pub(super) fn refusal(problem: &Problem, _: &Asked<'_>) -> Option<Worded> {
    let detail = match problem.errors() {
        [] => json!(problem.detail()),
        errors => errors.iter().map(worded).collect(),
    };
    Some(Worded::json(&json!({ "detail": detail })))
}

/// What is wrong with a field, in its words.
fn worded(error: &Value) -> Value {
    let stands_in = error.get("in").unwrap_or(&Value::Null).as_str().unwrap_or("query");
    let mut place = vec![json!(stands_in)];
    place.extend(error.get("field").cloned());
    let rule = error.get("type").cloned().unwrap_or_else(|| "value_error".into());
    json!({ "loc": place, "msg": error["message"], "type": rule })
}

fn room(name: &str) -> Result<RoomName, Problem> {
    // Its own names are good; the answer is for the compiler.
    RoomName::parse(name).map_err(|error| Problem::parameter("room", error))
}

/// Takes a message. The answer comes when the log has it.
async fn take(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let messages = room(MESSAGES)?;
    let encoding = match publish::may(&edge, &caller, &messages).and_then(|()| encoding(&head)) {
        Ok(encoding) => encoding,
        Err(problem) => {
            decline(Request::from_parts(head, body)).await;
            return Err(problem);
        }
    };
    let settings = edge.settings();
    // The permits are held until the event is in its room.
    let (body, _permits) = publish::receive(&edge, &head, encoding, body).await?;
    let bounds =
        Bounds { content_bytes: settings.surfaces.buffer.content_bytes, event_bytes: settings.limits.event_bytes };
    let message = message::read(&body, bounds).map_err(Problem::fields)?;
    // Never less than that: what is answered survives the daemon.
    let ack = settings.log.ack.max(Ack::Logged);
    let receipt = publish::hand_in(&edge, messages, vec![message.event], ack, &head).await?;
    let mut answer = json!({ "id": message.id, "status": "queued", "seq": receipt.last_seq });
    if receipt.duplicates > 0 {
        answer["seq"] = receipt.first_seq.into();
        answer["duplicate"] = true.into();
    }
    Ok((StatusCode::ACCEPTED, answer::json(answer.to_string())).into_response())
}

fn encoding(head: &Parts) -> Result<Encoding, Problem> {
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    if Format::of(content_type) != Some(Format::Json) {
        let detail = "expected application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail));
    }
    Encoding::of(&head.headers)
}
