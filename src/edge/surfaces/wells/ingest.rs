//! `POST /api/v1/telemetry/ingest`: measurements of one well or several. Rights, limits and every item are looked at first; then all are published, each in its well's room.

use std::collections::HashMap;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde_json::json;
use smallvec::SmallVec;

use super::shape::{NAMESPACE, well_id};
use super::telemetry::{self, Measurement};
use crate::edge::body::{Encoding, decline, receive};
use crate::edge::caller::Caller;
use crate::edge::params::Params;
use crate::edge::problem::Problem;
use crate::edge::{Edge, answer};
use crate::engine::rooms::{PublishError, Receipt};
use crate::event::incoming::{BodyLimits, Format};
use crate::event::{Ack, NewEvent, Pattern, RoomName};
use crate::metrics::record;
use crate::traces;

/// So many wells are published at once: well below what may wait in the source.
const TOGETHER: usize = 256;
/// So many wells are named where some could not be published.
const NAMED_MAX: usize = 5;

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
    let (head, body) = request.into_parts();
    let (ack, format, encoding) = match check(&edge, &caller, &head) {
        Ok(checked) => checked,
        Err(problem) => {
            decline(Request::from_parts(head, body)).await;
            return Err(problem);
        }
    };
    let received = receive(&edge, &head.headers, encoding, body).await?;
    let settings = edge.settings();
    let limits = &settings.limits;
    let bounds = BodyLimits { event_bytes: limits.event_bytes, events: limits.body_events, depth: limits.json_depth };
    let groups = grouped(telemetry::read(format, &received.bytes, bounds)?);
    may(&edge, &caller, &groups)?;
    let parent = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
    let published = publish(&edge, groups, ack, parent).await?;
    record::published(ack, received.at.elapsed());
    let mut body = json!({ "count": published.count, "telemetry_ids": published.ids });
    if let [only] = published.ids[..] {
        body["telemetry_id"] = only.into();
    }
    if published.duplicates > 0 {
        body["duplicates"] = published.duplicates.into();
    }
    Ok((StatusCode::ACCEPTED, answer::json(body.to_string())).into_response())
}

/// What can be said before the body is read.
fn check(edge: &Edge, caller: &Caller, head: &Parts) -> Result<(Ack, Format, Encoding), Problem> {
    let rights = &caller.identity.rights;
    if !rights.may_publish_some(&Pattern::Prefix(NAMESPACE.into())) {
        return Err(Problem::may_not_publish(format_args!("{NAMESPACE}*")));
    }
    edge.guards.publish(&caller.identity.subject).map_err(Problem::too_much)?;
    let params = Params::pick(head.uri.query(), &["ack"]);
    let ack = match params.get("ack") {
        None => edge.settings().log.ack,
        Some(text) => Ack::parse(text).ok_or_else(|| Problem::parameter("ack", "expected memory, logged or synced"))?,
    };
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let format = Format::of(content_type).filter(|format| matches!(format, Format::Json | Format::Ndjson));
    let format = format.ok_or_else(|| {
        let detail = "expected application/json or application/x-ndjson";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    })?;
    Ok((ack, format, Encoding::of(&head.headers)?))
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
    let exists = |room: &RoomName| edge.rooms.find(room).is_ok_and(|room| room.is_some());
    let subject = &caller.identity.subject;
    groups.iter().try_for_each(|group| edge.guards.new_room(subject, &group.room, exists).map_err(Problem::too_much))
}

/// What became of a group.
type Outcome = (RoomName, Vec<usize>, Result<Receipt, PublishError>);

/// Publishes all, so many wells at once that they find room in the source; after a refusal nothing more is begun.
async fn publish(edge: &Edge, groups: Vec<Group>, ack: Ack, parent: Option<&str>) -> Result<Published, Problem> {
    let wells = groups.len();
    let mut groups = groups.into_iter();
    let mut outcomes: Vec<Outcome> = Vec::new();
    loop {
        // Collected first: all are on their way before the first is waited for.
        let together: Vec<_> = groups.by_ref().take(TOGETHER).map(|group| submit(edge, group, ack, parent)).collect();
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
fn submit(edge: &Edge, group: Group, ack: Ack, parent: Option<&str>) -> impl Future<Output = Outcome> + Send + use<> {
    let Group { room, mut events, places } = group;
    let limit = edge.rooms.log().sync_timeout();
    let tracing = traces::publishing(room.as_str(), parent);
    if let Some(tracing) = &tracing {
        events.iter_mut().for_each(|event| event.trace = Some(tracing.trace()));
    }
    let pending = edge.ingest.submit(room.clone(), events, ack);
    async move {
        let outcome = pending.wait(limit).await;
        if let Some(tracing) = tracing {
            let outcome = outcome.as_ref().map(|receipt| (receipt.first_seq, receipt.last_seq));
            tracing.end(outcome.map_err(ToString::to_string));
        }
        (room, places, outcome)
    }
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
