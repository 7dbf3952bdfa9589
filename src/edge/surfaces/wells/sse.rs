//! `GET /api/v1/sse/stream/{well_id}`: a well's events by name over Server-Sent Events. An event is written once for all who follow the well.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use smallvec::{SmallVec, smallvec};

use super::shape::{NAMESPACE, shape, well_id};
use super::words::name_of_code;
use crate::clock;
use crate::edge::Edge;
use crate::edge::caller::Caller;
use crate::edge::problem::{Problem, whole_seconds};
use crate::edge::surfaces::encoded::{Encoded, Message, Messages};
use crate::edge::surfaces::open::{self, Offer};
use crate::edge::surfaces::voice::Voice;
use crate::engine::connections::Notice;
use crate::engine::rooms::StartAt;
use crate::event::{Event, Pattern, RoomName};

/// Where the wells' names begin.
const PATH: &str = "/api/v1/sse/stream/";

static ENCODED: Encoded = Encoded::new();

/// Opens a well's stream.
pub(super) async fn open(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let well = request.uri().path().strip_prefix(PATH).unwrap_or_default();
    let well = percent_encoding::percent_decode_str(well).decode_utf8_lossy();
    let room = RoomName::parse(&format!("{NAMESPACE}{well}")).ok().filter(|_| !well.is_empty());
    let room =
        room.ok_or_else(|| Problem::parameter("well_id", "expected a well's name: letters, digits and _ - . : / @"))?;
    if open::is_websocket(&request) {
        let detail = "this is a stream of Server-Sent Events; there is WebSocket at /socket.io";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-upgrade", detail));
    }
    let voice = WellVoice { room: room.clone() };
    let offer =
        Offer { patterns: vec![Pattern::Room(room)], contract: None, start: StartAt::Live, public: false, own: None };
    open::events(edge, caller, request, offer, voice).await
}

/// The words of a well's stream.
struct WellVoice {
    room: RoomName,
}

fn told(name: &str, body: &Value) -> Arc<Message> {
    Arc::new(Message::new(Some(name), body.to_string().as_bytes()))
}

fn error(code: &str, message: &str, retry: Option<Duration>) -> Arc<Message> {
    let mut body = json!({ "error": name_of_code(code), "message": message, "code": code });
    if let Some(retry) = retry {
        body["retryAfter"] = whole_seconds(retry).into();
    }
    told("error", &body)
}

impl Voice for WellVoice {
    fn event(&mut self, event: &Arc<Event>) -> Messages {
        ENCODED.of(event, "sse", || {
            let (name, body) = shape(event);
            smallvec![Arc::new(Message::of(event, Some(name), body.as_bytes()))]
        })
    }

    fn notice(&mut self, notice: &Notice<'_>, _: &str) -> Messages {
        let now = || clock::rfc3339(clock::now_ms());
        let message = match notice {
            Notice::Welcome { .. } => {
                let body =
                    json!({ "message": "connected to tidegate", "well_id": well_id(&self.room), "timestamp": now() });
                told("connected", &body)
            }
            Notice::Heartbeat => told("heartbeat", &json!({ "timestamp": now() })),
            Notice::Snapshot { room, snapshot } => {
                let data: Value = serde_json::from_slice(&snapshot.json).unwrap_or_default();
                let body = json!({ "well_id": well_id(room), "cursor": snapshot.seq.to_string(), "keys": snapshot.keys, "data": data });
                told("snapshot", &body)
            }
            Notice::Gap { room, gap } => {
                told("gap", &json!({ "well_id": well_id(room), "after": gap.after, "first_seq": gap.first_seq }))
            }
            Notice::Dropped { room, from_seq, to_seq, count, reason } => told(
                "dropped",
                &json!({ "well_id": well_id(room), "from_seq": from_seq, "to_seq": to_seq, "count": count, "reason": reason }),
            ),
            Notice::Error { code, message, retry } => error(code, message, *retry),
            Notice::Expiring { at_ms } => {
                let seconds = at_ms.saturating_sub(clock::now_ms()).div_ceil(1000);
                told("expiring", &json!({ "expires_at": clock::rfc3339(*at_ms), "seconds": seconds }))
            }
        };
        SmallVec::from_buf([message])
    }

    fn refuse(&mut self, code: &'static str, message: &str, retry: Option<Duration>) -> Message {
        let body = json!({ "error": name_of_code(code), "message": message, "retryAfter": retry.map(whole_seconds) });
        Message::new(Some("error"), body.to_string().as_bytes())
    }
}
