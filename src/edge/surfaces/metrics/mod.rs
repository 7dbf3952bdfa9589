//! The surface `metrics`: requests to models, their rates, latencies and costs. What it shows is computed by the pipelines `metrics_…`; here are its routes and its words.
//! Its errors are those of the native API.
//!
//! `ingest` takes what is reported, `record` says what a right report is, [`voice`] is how its stream speaks, `known` puts together what a reader begins with.

mod ingest;
mod known;
mod record;
mod voice;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};

use super::open::{self, Offer};
use super::room;
use crate::edge::Edge;
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::engine::rooms::{Snapshot, StartAt};
use crate::event::{Cursor, Pattern};
use crate::settings::{Settings, Surface};
use voice::{Speaks, Types};

/// Where requests are reported.
const REQUESTS: &str = "metrics:requests";
/// Where everything else is.
const REPORTS: &str = "metrics:reports";
/// The messages of the stream, each an event.
const STREAM: &str = "metrics:stream";
/// The newest of them as a state.
const NOW: &str = "metrics:now";
/// Where a reader begins if nothing is kept for it to begin with: with so many of the newest messages.
const NEWEST: u64 = 100;

/// Its stream.
const STREAM_PATH: &str = "/metrics/stream";
/// Its routes.
pub(super) fn routes() -> Router<Edge> {
    Router::new()
        .route(STREAM_PATH, get(open_stream))
        .route("/metrics/requests", post(ingest::requests))
        .route("/metrics/report", post(ingest::report))
}

/// Whether a request is open to all: one that reads the stream, where the settings say so.
pub(in crate::edge) fn is_public(settings: &Settings, request: &Request) -> bool {
    let surfaces = &settings.surfaces;
    surfaces.metrics.stream_public
        && surfaces.enabled.contains(&Surface::Metrics)
        && request.uri().path() == STREAM_PATH
        && request.method() == axum::http::Method::GET
}

/// What those may read of whom nobody knows who they are.
pub(in crate::edge) fn public_rooms() -> Vec<Pattern> {
    // A name that is written here is a good one.
    Pattern::parse(STREAM).into_iter().collect()
}

/// The newest messages, as far as they are kept.
fn snapshot(edge: &Edge) -> Option<Arc<Snapshot>> {
    edge.rooms.find(&room(NOW).ok()?).ok()??.snapshot()
}

/// The number of the oldest message that is held.
fn oldest(edge: &Edge) -> Option<u64> {
    edge.rooms.find(&room(STREAM).ok()?).ok()??.held().map(|held| held.0)
}

async fn open_stream(State(edge): State<Edge>, mut caller: Caller, request: Request) -> Result<Response, Problem> {
    let room = room(STREAM)?;
    if is_public(&edge.settings(), &request) && !caller.identity.rights.may_read(&room) {
        // Whoever is known may do what the unknown may.
        caller = caller.into_anybody(public_rooms());
    }
    let params = Params::pick(request.uri().query(), &["types"]);
    let names = params.get("types").unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    let types = Types::of(names).map_err(|message| Problem::parameter("types", message))?;
    let snapshot = snapshot(&edge);
    let newest = snapshot.as_ref().and_then(|snapshot| known::newest(&snapshot.json));
    // The first message has everything up to the newest one that is kept, and the stream what comes after that: so nothing is missing between the two, and nothing comes twice.
    let start = newest.map_or(StartAt::Tail(NEWEST), |seq| StartAt::After(Cursor::Seq(seq)));
    let offer = Offer { patterns: vec![Pattern::Room(room)], contract: None, start, public: false, own: None };
    let voice = Speaks::new(edge.clone(), types, snapshot);
    open::open(edge, caller, request, offer, voice).await
}
