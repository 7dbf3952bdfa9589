//! `POST /metrics/requests` and `POST /metrics/report`: taken whole or not at all, and published into the rooms that the pipelines read.

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;

use super::{REPORTS, REQUESTS, record, room};
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::{Edge, publish};
use crate::event::NewEvent;
use crate::event::incoming::{BodyError, BodyLimits, Format};

type Read = fn(&[u8], BodyLimits) -> Result<Vec<NewEvent>, BodyError>;

/// Takes records of requests.
pub(super) async fn requests(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    take(&edge, &caller, request, REQUESTS, record::requests).await
}

/// Takes reports.
pub(super) async fn report(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    take(&edge, &caller, request, REPORTS, record::reports).await
}

async fn take(
    edge: &Edge,
    caller: &Caller,
    request: Request,
    into: &'static str,
    read: Read,
) -> Result<Response, Problem> {
    let room = room(into)?;
    let checks = |head: &Parts| {
        publish::may(edge, caller, &room)?;
        // Which form a body has is seen of the body itself.
        publish::format(&head.headers, &[Format::Json, Format::Ndjson])?;
        publish::ack(edge, &Params::pick(head.uri.query(), &["ack"]))
    };
    let incoming = publish::receive(edge, request, checks).await?;
    let (ack, events) = (incoming.checked, read(incoming.bytes(), publish::bounds(edge))?);
    let receipt = incoming.publish(edge, room, events, ack).await?;
    let mut told = publish::told(&receipt);
    told["ack"] = ack.name().into();
    Ok(publish::accepted(&told))
}
