//! Opening a surface's stream: one URL, WebSocket where the client upgrades, else Server-Sent Events.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::response::Response;

use super::voice::{OverSse, OverWebSocket, Voice};
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::stream::{self, Started, Wish};
use crate::edge::{Edge, sse, wellformed, ws};
use crate::engine::connections::Contract;
use crate::engine::rooms::StartAt;
use crate::event::Pattern;
use crate::limits::Own;
use crate::metrics::record;

/// What of a stream is the surface's: which rooms, how they are served, and where a client begins that does not say.
pub(in crate::edge) struct Offer {
    pub(in crate::edge) patterns: Vec<Pattern>,
    pub(in crate::edge) contract: Option<Arc<Contract>>,
    pub(in crate::edge) start: StartAt,
    /// Whether anybody may read it, whatever the rooms' rights say.
    pub(in crate::edge) public: bool,
    /// What the surface allows of its own streams, beside what holds for all.
    pub(in crate::edge) own: Option<Own>,
}

/// Where a client says that it begins: by its `Last-Event-ID` header, else `?last_event_id=`, `?after=`, `?since=` or `?tail=`.
pub(in crate::edge) fn start(request: &Request) -> Result<Option<StartAt>, Problem> {
    let params = Params::pick(request.uri().query(), &["after", "last_event_id", "since", "tail"]);
    let header = request.headers().get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    params.start(header)
}

/// Whether a request wants a WebSocket.
pub(in crate::edge) fn is_websocket(request: &Request) -> bool {
    wellformed::wants_websocket(request.headers())
}

/// Starts the connection on the transport that the client asks for.
pub(in crate::edge) async fn open<V: Voice>(
    edge: Edge,
    caller: Caller,
    request: Request,
    offer: Offer,
    voice: V,
) -> Result<Response, Problem> {
    if !is_websocket(&request) {
        return events(edge, caller, request, offer, voice).await;
    }
    let (wish, resumed) = wish(&caller, &request, offer)?;
    let upgrade = upgrade(request).await?;
    let mut started = stream::start(&edge, &caller, &wish, OverWebSocket::new(voice), &record::WEBSOCKET).await?;
    let session = started.connection.handler();
    let cursor = session.cursor();
    let dialect = session.dialect();
    for message in dialect.voice.greet(resumed, &cursor).await {
        dialect.say(&message);
    }
    Ok(ws::serve(edge, started, upgrade))
}

/// What a client wishes, and whether it said itself where it begins.
fn wish(caller: &Caller, request: &Request, offer: Offer) -> Result<(Wish, bool), Problem> {
    let said = start(request)?;
    let resumed = said.is_some();
    let start = said.unwrap_or(offer.start);
    stream::check_cursor(&offer.patterns, &start)?;
    if !offer.public {
        stream::check_rights(&caller.identity.rights, &offer.patterns)?;
    }
    Ok((Wish { patterns: offer.patterns, start, contract: offer.contract, own: offer.own }, resumed))
}

/// Starts a connection of Server-Sent Events, whatever else the client would speak.
pub(in crate::edge) async fn events<V: Voice>(
    edge: Edge,
    caller: Caller,
    request: Request,
    offer: Offer,
    voice: V,
) -> Result<Response, Problem> {
    let (wish, resumed) = wish(&caller, &request, offer)?;
    let dialect = OverSse::new(voice, request.headers());
    let mut started: Started<_> = stream::start(&edge, &caller, &wish, dialect, &record::SSE).await?;
    let session = started.connection.handler();
    let cursor = session.cursor();
    stream::check_cursor_length(&cursor, edge.settings().limits.cursor_bytes)?;
    let dialect = session.dialect();
    let greeting = dialect.voice.greet(resumed, &cursor).await;
    dialect.greet(&greeting, &cursor);
    Ok(sse::serve(&edge, started))
}

/// Takes a request's upgrade, if it is a right one.
pub(in crate::edge) async fn upgrade(request: Request) -> Result<WebSocketUpgrade, Problem> {
    let (mut parts, _) = request.into_parts();
    wellformed::check_handshake(&mut parts.headers)?;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    upgrade.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad-upgrade", error.body_text()))
}
