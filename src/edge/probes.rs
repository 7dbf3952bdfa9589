//! `/livez`, `/readyz`, `/api/health`, `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::caller::Caller;
use super::pipelines::behind_ms;
use super::problem::Problem;
use super::{Edge, answer};
use crate::metrics::{exporter, record};

/// The process answers.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    responses(
        (status = 200, description = "The process answers", body = ref("#/components/schemas/Status"), content_type = "application/json"),
    ),
    security(()),
)]
pub(super) async fn livez() -> Response {
    answer::json("{\"status\":\"alive\"}")
}

/// It takes and serves events.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "It takes and serves events", body = ref("#/components/schemas/Status"), content_type = "application/json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
    security(()),
)]
pub(super) async fn readyz(State(edge): State<Edge>) -> Result<Response, Problem> {
    if edge.is_stopping() {
        return Err(Problem::unavailable("stopping", "the daemon is stopping"));
    }
    if edge.rooms.log().fault().is_some() {
        // Open to all, so it does not say where: the daemon's own log does.
        return Err(Problem::unavailable("log-unavailable", "the log cannot be written"));
    }
    Ok(answer::json("{\"status\":\"ready\"}"))
}

/// How it is, for people and dashboards. Open to all, so it names nothing that is not theirs: no directory, no room.
#[utoipa::path(
    get,
    path = "/api/health",
    tag = "health",
    responses(
        (status = 200, description = "How it is", body = ref("#/components/schemas/Health"), content_type = "application/json"),
    ),
    security(()),
)]
pub(super) async fn health(State(edge): State<Edge>) -> Response {
    let log = edge.rooms.log().status();
    let sinks = edge.sinks.names().into_iter().filter_map(|name| edge.sinks.status(&name));
    let sinks_fail = sinks.filter(|status| status.failing.is_some()).count() > 0;
    let status = if edge.is_stopping() {
        "stopping"
    } else if log.fault.is_some() || sinks_fail {
        "degraded"
    } else {
        "ok"
    };
    let body = json!({
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": edge.started.elapsed().as_secs(),
        "log": {
            "writable": log.fault.is_none(),
            "generations": log.generations,
            "bytes": log.bytes,
            "rooms": log.rooms,
            "closed_in_order_before": log.clean,
        },
        "store": { "kind": edge.sinks.store(), "working": !sinks_fail },
        "connections": edge.connections.count(),
        "rooms": edge.rooms.count(),
        "actors": edge.census.live(),
    });
    answer::json(body.to_string())
}

/// Prometheus text.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses(
        (status = 200, description = "Prometheus text", body = String, content_type = "text/plain"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn metrics(State(edge): State<Edge>, caller: Option<Caller>) -> Result<Response, Problem> {
    // Without a caller the door was open. The names of namespaces stand in it, so it is for those who may see them all.
    if caller.is_some_and(|caller| !caller.identity.rights.may_read_all()) {
        let detail = "the figures of all rooms are for who may read all rooms";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    // Thousands of series take milliseconds to write.
    let text = tokio::task::spawn_blocking(move || {
        let log = edge.rooms.log().status();
        let (connections, half) = (edge.connections.list(), edge.settings().limits.mailbox_messages / 2);
        record::snapshot(&record::Snapshot {
            rooms: edge.rooms.count(),
            tails_bytes: edge.rooms.tails_bytes(),
            log_bytes: log.bytes,
            log_generations: log.generations,
            actors: edge.census.live(),
            actors_failed: edge.census.failed(),
            actors_restarted: edge.census.restarted(),
            events_waiting: connections.iter().map(|one| one.depth.messages).sum(),
            ready: !edge.is_stopping() && log.fault.is_none(),
            started_ms: edge.started_ms,
            mailboxes_bytes: edge.connections.mailboxes_bytes(),
            slow_connections: connections
                .iter()
                .filter(|one| one.depth.behind > 0 || one.depth.messages > half)
                .count(),
        });
        for status in edge.pipelines.list() {
            let (works, count) = (&status.works, |count: &AtomicU64| count.load(Ordering::Relaxed));
            status.show(works.load(Ordering::Relaxed), count(&status.waiting), behind_ms(&status));
        }
        edge.sinks.show();
        exporter::render()
    });
    let text = text.await.map_err(|_| Problem::unavailable("internal", "the figures could not be written"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
