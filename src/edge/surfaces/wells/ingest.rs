//! `POST /api/v1/telemetry/ingest`: measurements of one well or several. Rights, limits and every item are looked at first; then all are published, each in its well's room.

use std::collections::HashMap;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use futures_util::future::join_all;
use serde_json::json;
use smallvec::SmallVec;

use super::shape::{NAMESPACE, well_id};
use super::telemetry::{self, Measurement};
use crate::edge::Edge;
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::publish::{self, Incoming};
use crate::engine::rooms::{PublishError, Receipt};
use crate::event::incoming::Format;
use crate::event::{Ack, NewEvent, Pattern, RoomName};

/// So many wells are published at once: well below what may wait in the source.
const TOGETHER: usize = 256;
/// So many wells are named where some could not be published.
const NAMED_MAX: usize = 5;

/// What a request's head asks for.
type Checked = (Ack, Format);

/// What of a request goes into one room.
struct Group {
    room: RoomName,
    events: SmallVec<[NewEvent; 1]>,
    /// Their places in the request.
    places: Vec<usize>,
}

/// What is published of a request, by place.
struct Published {
    ids: Vec<u64>,
    count: usize,
    duplicates: usize,
}

/// Publishes measurements.
pub(super) async fn ingest(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let incoming = publish::receive(&edge, request, |head| check(&edge, &caller, head)).await?;
    let (ack, format) = incoming.checked;
    let groups = grouped(telemetry::read(format, incoming.bytes(), publish::bounds(&edge))?);
    may(&edge, &caller, &groups)?;
    let published = publish_all(&edge, &incoming, groups, ack).await?;
    incoming.published(ack);
    let mut body = json!({ "count": published.count, "telemetry_ids": published.ids });
    if let [only] = published.ids[..] {
        body["telemetry_id"] = only.into();
    }
    if published.duplicates > 0 {
        body["duplicates"] = published.duplicates.into();
    }
    Ok(publish::accepted(&body))
}

/// What can be said before the body is read.
fn check(edge: &Edge, caller: &Caller, head: &Parts) -> Result<Checked, Problem> {
    let rights = &caller.identity.rights;
    if !rights.may_publish_some(&Pattern::Prefix(NAMESPACE.into())) {
        return Err(Problem::may_not_publish(format_args!("{NAMESPACE}*")));
    }
    edge.guards.publish(&caller.identity.subject).map_err(Problem::too_much)?;
    let ack = publish::ack(edge, &Params::pick(head.uri.query(), &["ack"]))?;
    Ok((ack, publish::format(&head.headers, &[Format::Json, Format::Ndjson])?))
}

/// Measurements by well; those of one well stay in their order.
fn grouped(measurements: Vec<Measurement>) -> Vec<Group> {
    let (mut groups, mut known): (Vec<Group>, HashMap<RoomName, usize>) = (Vec::new(), HashMap::new());
    for (place, Measurement { room, event }) in measurements.into_iter().enumerate() {
        let at = *known.entry(room).or_insert_with_key(|room| {
            groups.push(Group { room: room.clone(), events: SmallVec::new(), places: Vec::new() });
            groups.len() - 1
        });
        groups[at].events.push(event);
        groups[at].places.push(place);
    }
    groups
}

/// Whether the caller may publish all of them.
fn may(edge: &Edge, caller: &Caller, groups: &[Group]) -> Result<(), Problem> {
    groups.iter().try_for_each(|group| caller.may_publish(&group.room))?;
    groups.iter().try_for_each(|group| publish::may_make(edge, caller, &group.room))
}

/// What became of a group.
type Outcome = (RoomName, Vec<usize>, Result<Receipt, PublishError>);

/// Publishes all, so many wells at once that they find room in the source; after a refusal nothing more is begun.
async fn publish_all(
    edge: &Edge,
    incoming: &Incoming<Checked>,
    groups: Vec<Group>,
    ack: Ack,
) -> Result<Published, Problem> {
    let wells = groups.len();
    let mut groups = groups.into_iter();
    let mut outcomes: Vec<Outcome> = Vec::new();
    loop {
        // Collected first: all are on their way before the first is waited for.
        let together: Vec<_> = groups.by_ref().take(TOGETHER).map(|group| submit(edge, incoming, group, ack)).collect();
        if together.is_empty() {
            break;
        }
        outcomes.extend(join_all(together).await);
        if outcomes.iter().any(|(.., outcome)| outcome.is_err()) {
            return Err(not_all(wells, outcomes, groups.map(|group| group.room)));
        }
    }
    let mut published = Published { ids: Vec::new(), count: 0, duplicates: 0 };
    for (_, places, outcome) in outcomes {
        let Ok(receipt) = outcome else { continue };
        published.count += receipt.count;
        published.duplicates += receipt.duplicates;
        let last = places.last().map_or(0, |place| place + 1);
        published.ids.resize(published.ids.len().max(last), 0);
        places.into_iter().zip(receipt.seqs()).for_each(|(place, seq)| published.ids[place] = seq);
    }
    Ok(published)
}

/// Puts a group on its way; what comes back waits for what becomes of it.
fn submit(
    edge: &Edge,
    incoming: &Incoming<Checked>,
    group: Group,
    ack: Ack,
) -> impl Future<Output = Outcome> + Send + use<> {
    let Group { room, events, places } = group;
    let outcome = incoming.submit(edge, room.clone(), events, ack);
    async move { (room, places, outcome.await) }
}

/// Why not all are published, and of which wells; `rest` were not tried.
fn not_all(wells: usize, outcomes: Vec<Outcome>, rest: impl Iterator<Item = RoomName>) -> Problem {
    let failed = outcomes.into_iter().filter_map(|(room, _, outcome)| Some((room, outcome.err()?)));
    let (mut rooms, mut errors): (Vec<RoomName>, Vec<PublishError>) = failed.unzip();
    rooms.extend(rest);
    // There is at least one.
    let problem = Problem::from(errors.pop().unwrap_or(PublishError::Failed));
    if rooms.len() == wells {
        return problem;
    }
    let named: Vec<&str> = rooms.iter().take(NAMED_MAX).map(well_id).collect();
    let more = if rooms.len() > NAMED_MAX { ", …" } else { "" };
    let (failed, named) = (rooms.len(), named.join(", "));
    problem.saying(|detail| {
        format!("of {wells} wells {failed} are not published ({named}{more}): {detail}; repeated with the same ids, nothing is published twice")
    })
}
