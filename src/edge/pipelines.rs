//! `GET /v1/pipelines`: how the running pipelines are. For admins.

use std::sync::atomic::Ordering;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use super::{Edge, answer};
use crate::clock;
use crate::engine::pipelines::Status;

/// The running pipelines, by name.
#[utoipa::path(
    get,
    path = "/v1/pipelines",
    operation_id = "list_pipelines",
    tag = "pipelines",
    responses(
        (status = 200, description = "The running pipelines, by name", body = ref("#/components/schemas/Pipelines"), content_type = "application/json"),
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
    Params::parse(query.as_deref(), &[])?;
    let shown: Vec<Value> = edge.pipelines.list().iter().map(|status| describe(status)).collect();
    Ok(answer::json(json!({ "pipelines": shown }).to_string()))
}

/// How far a pipeline that has events waiting is behind, in milliseconds.
pub(super) fn behind_ms(status: &Status) -> u64 {
    let waiting = status.waiting.load(Ordering::Relaxed);
    let now_ms = status.now_ms.load(Ordering::Relaxed);
    if waiting == 0 || now_ms == 0 { 0 } else { clock::now_ms().saturating_sub(now_ms) }
}

fn describe(status: &Status) -> Value {
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let trouble = status.trouble();
    json!({
        "name": status.name,
        "file": status.file(),
        "works": status.works.load(Ordering::Relaxed),
        "events_in": count(&status.events_in),
        "events_out": count(&status.events_out),
        "rejected": count(&status.rejected),
        "gaps": count(&status.missed),
        "keys": count(&status.keys),
        "state_bytes": count(&status.state_bytes),
        "waiting": count(&status.waiting),
        "behind_ms": behind_ms(status),
        "trouble": trouble.map(|trouble| json!({ "at": clock::rfc3339(trouble.at_ms), "message": trouble.message })),
    })
}
