//! Opening a surface's stream: one URL, WebSocket where the client upgrades, else Server-Sent Events.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;

use super::voice::{OverSse, OverWebSocket, Voice};
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::stream::{self, Started, Wish};
use crate::edge::websocket::Upgrade;
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
    params.start_of(request.headers())
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
    let upgrade = Upgrade::take(request)?;
    let mut started = stream::start(&edge, &caller, &wish, OverWebSocket::new(voice), &record::WEBSOCKET).await?;
    greet_socket(&mut started, resumed).await;
    Ok(ws::serve(edge, started, upgrade))
}

/// Says over WebSocket what comes first.
pub(super) async fn greet_socket<V: Voice>(started: &mut Started<OverWebSocket<V>>, resumed: bool) {
    let session = started.connection.handler();
    let cursor = session.cursor();
    let dialect = session.dialect();
    for message in dialect.voice.greet(resumed, &cursor).await {
        dialect.say(&message);
    }
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
    let mut started = stream::start(&edge, &caller, &wish, dialect, &record::SSE).await?;
    stream::check_cursor_length(&started.connection.handler().cursor(), edge.settings().limits.cursor_bytes)?;
    greet_events(&mut started, resumed).await;
    Ok(sse::serve(&edge, started))
}

/// Says over Server-Sent Events what comes first.
pub(super) async fn greet_events<V: Voice>(started: &mut Started<OverSse<V>>, resumed: bool) {
    let session = started.connection.handler();
    let cursor = session.cursor();
    let dialect = session.dialect();
    let greeting = dialect.voice.greet(resumed, &cursor).await;
    dialect.greet(&greeting, &cursor);
}
