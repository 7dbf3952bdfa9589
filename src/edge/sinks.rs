//! `GET /v1/sinks`: how the sinks are. For admins.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::caller::Caller;
use super::params::Params;
use super::problem::Problem;
use super::{Edge, answer};

/// The sinks, by name.
#[utoipa::path(
    get,
    path = "/v1/sinks",
    operation_id = "list_sinks",
    tag = "sinks",
    responses(
        (status = 200, description = "The sinks, by name", body = ref("#/components/schemas/Sinks"), content_type = "application/json"),
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
    let sinks = edge.sinks.names();
    let shown: Vec<Value> = sinks.iter().filter_map(|name| describe(&edge, name)).collect();
    Ok(answer::json(json!({ "store": edge.sinks.store(), "sinks": shown }).to_string()))
}

fn describe(edge: &Edge, name: &str) -> Option<Value> {
    let status = edge.sinks.status(name)?;
    let rooms: Vec<String> = edge.sinks.rooms(name)?.iter().map(ToString::to_string).collect();
    Some(json!({
        "name": name,
        "rooms": rooms,
        "messages": status.messages,
        "batches": status.batches,
        "waiting": status.waiting,
        "per_second": status.per_second,
        "rows_refused": status.rows_refused,
        "lost": status.lost,
        "failing": status.failing,
    }))
}
