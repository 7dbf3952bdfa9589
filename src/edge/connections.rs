//! `/v1/connections`: what an operator may see of streams, and ending one. For admins; every call is audited.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Edge;
use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use crate::audit::Entry;
use crate::clock;
use crate::engine::connections::profile::REASONS;
use crate::engine::connections::session::Seen;
use crate::engine::connections::supervisor::{Listed, Order};

const LIMIT_MAX: u64 = 10_000;
const LIMIT_DEFAULT: u64 = 100;

/// The streams open now.
#[utoipa::path(
    get,
    path = "/v1/connections",
    operation_id = "list_connections",
    tag = "connections",
    params(
        ("limit" = Option<u64>, Query, description = "At most so many", minimum = 1, maximum = 10000),
        ("sort" = Option<String>, Query, description = "What comes first", pattern = "^(age|waiting|delivered)$"),
    ),
    responses(
        (status = 200, description = "The streams open now", body = ref("#/components/schemas/Connections"), content_type = "application/json"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(edge): State<Edge>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    caller.is_admin()?;
    let params = Params::parse(query.as_deref(), &["limit", "sort"])?;
    let limit = params.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let mut all = edge.connections.list();
    match params.get("sort") {
        None | Some("age") => {}
        Some("waiting") => all.sort_by_key(|one| std::cmp::Reverse((one.depth.behind, one.depth.messages))),
        Some("delivered") => all.sort_by_key(|one| std::cmp::Reverse(one.profile.books.delivered.get())),
        Some(_) => return Err(Problem::parameter("sort", "expected age, waiting or delivered")),
    }
    let total = all.len();
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    // What each says of itself is asked only of one at a time: here the mailbox says what waits.
    let shown: Vec<Value> = all.iter().map(|one| describe(one, None)).collect();
    edge.audit.note(audited(&caller, "GET", "/v1/connections", 200));
    Ok(Json(json!({ "connections": shown, "total": total })).into_response())
}

/// One stream.
#[utoipa::path(
    get,
    path = "/v1/connections/{id}",
    operation_id = "one_connection",
    tag = "connections",
    params(
        ("id" = u64, Path, description = "Its number"),
    ),
    responses(
        (status = 200, description = "One stream, as it says itself", body = ref("#/components/schemas/ConnectionDetail"), content_type = "application/json"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 404, description = "There is no such thing", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn one(
    State(edge): State<Edge>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    caller.is_admin()?;
    Params::parse(query.as_deref(), &[])?;
    let number = parse_id(&id)?;
    let found = edge.connections.inspect(number).await;
    let status = if found.is_some() { 200 } else { 404 };
    edge.audit.note(Entry {
        connection: Some(number.to_string()),
        ..audited(&caller, "GET", &format!("/v1/connections/{number}"), status)
    });
    let (listed, seen) = found.ok_or_else(|| no_connection(number))?;
    let mut body = describe(&listed, seen.as_ref());
    body["answers"] = seen.is_some().into();
    Ok(Json(body).into_response())
}

/// Ends a stream.
#[utoipa::path(
    delete,
    path = "/v1/connections/{id}",
    tag = "connections",
    params(
        ("id" = u64, Path, description = "Its number"),
    ),
    responses(
        (status = 204, description = "It is told to end"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 404, description = "There is no such thing", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn kick(
    State(edge): State<Edge>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.is_admin()?;
    let number = parse_id(&id)?;
    let (reply, answer) = oneshot::channel();
    let busy = || Problem::unavailable("busy", "the connections' supervisor does not answer");
    edge.orders.push(Order::Kick(number, reply)).map_err(|_| busy())?;
    let kicked = answer.await.map_err(|_| busy())?;
    let status = if kicked { 204 } else { 404 };
    edge.audit.note(Entry {
        connection: Some(number.to_string()),
        ..audited(&caller, "DELETE", &format!("/v1/connections/{number}"), status)
    });
    if !kicked {
        return Err(no_connection(number));
    }
    tracing::info!(connection = number, by = ?caller.identity.subject, "a connection is ended by an operator");
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn audited(caller: &Caller, method: &str, path: &str, status: u16) -> Entry {
    Entry {
        method: Some(method.to_owned()),
        path: Some(path.to_owned()),
        status: Some(status),
        ..caller.entry("admin")
    }
}

fn parse_id(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::parameter("id", "expected a connection's number"))
}

fn no_connection(id: u64) -> Problem {
    Problem::not_found(format!("there is no connection {id}"))
}

fn describe(listed: &Listed, seen: Option<&Seen>) -> Value {
    let Listed { profile, depth } = listed;
    let (books, identity, now) = (&profile.books, profile.identity(), clock::now_ms());
    let patterns: Vec<String> = profile.patterns().iter().map(ToString::to_string).collect();
    // Of one that says nothing its mailbox still does; what it would read from the history is not known then.
    let waiting = seen.map_or(depth.messages as u64, |seen| seen.waiting);
    let totals = seen.map_or_else(|| books.totals(), |seen| seen.totals);
    let due = seen.map_or(totals.sum() + waiting, |seen| seen.due);
    let time = |ms: u64| (ms > 0).then(|| clock::rfc3339(ms));
    let shed: serde_json::Map<String, Value> = REASONS
        .iter()
        .zip(&books.shed)
        .filter(|(_, count)| count.get() > 0)
        .map(|(reason, count)| (reason.name().to_owned(), count.get().into()))
        .collect();
    let [critical, high, normal, low] = depth.lanes;
    let ms = |us: u64| us as f64 / 1000.0;
    let latency = (books.latency_max_us.get() > 0)
        .then(|| json!({ "last": ms(books.latency_us.get()), "max": ms(books.latency_max_us.get()) }));
    json!({
        "id": profile.id.to_string(),
        "transport": profile.transport,
        "peer": profile.peer,
        "client_ip": profile.ip.map(|ip| ip.to_string()),
        "subject": identity.subject,
        "credential": identity.credential.name(),
        "opened_at": clock::rfc3339(profile.opened_ms),
        "age_seconds": now.saturating_sub(profile.opened_ms) / 1000,
        "expires_at": identity.expires_ms.map(clock::rfc3339),
        "rooms": patterns,
        "following": seen.map(|seen| seen.following),
        "cursor": seen.map(|seen| &seen.cursor),
        "mailbox": {
            "messages": depth.messages,
            "bytes": depth.bytes,
            "lanes": { "critical": critical, "high": high, "normal": normal, "low": low },
            "behind": depth.behind,
        },
        "ledger": {
            "due": due,
            "delivered": totals.delivered,
            "filtered": totals.filtered,
            "conflated": totals.conflated,
            "shed": totals.shed,
            "missed": totals.missed,
            "waiting": waiting,
        },
        "shed": shed,
        "catch_ups": books.catch_ups.get(),
        "last_delivery_at": time(books.delivered_at_ms.get()),
        "latency_ms": latency,
    })
}
