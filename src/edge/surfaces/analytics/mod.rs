//! The surface `analytics`: an administrator's figures, live. Each metric is a room `analytics:METRIC`; streams follow some of them or all, and are told alerts in any case.
//!
//! Every call needs the role `platform_admin` and is written to the audit log. [`streams`] opens streams and takes lost ones up again, [`desk`] keeps those whose client is away, [`control`] changes
//! what a user's streams follow, [`info`] says how they are, [`voice`] is how it all looks, and `commands` what clients say over WebSocket.

mod commands;
mod control;
mod desk;
mod info;
mod streams;
mod voice;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::refusals::{Asked, Worded};
use crate::audit::{Audit, Entry};
use crate::auth::Identity;
use crate::auth::identity::PLATFORM_ADMIN;
use crate::edge::caller::Caller;
use crate::edge::problem::{Problem, Shown};
use crate::edge::{Edge, auth, body};
use crate::engine::connections::Contract;
use crate::engine::connections::contract::{OnSlow, Urgent};
use crate::event::{Pattern, RoomName};
use crate::settings::Settings;

pub(in crate::edge) use desk::Desk;

/// Where its errors are in its own words.
pub(super) const PATHS: [&str; 1] = ["/api/admin/analytics"];

/// What the rooms of metrics begin with.
const ROOMS: &str = "analytics:";
/// The room of alerts that are for everybody.
const ALERTS: &str = "analytics:alerts";
/// What goes before everything else.
static URGENT: Urgent = Urgent { kinds: &["system_alert", "alert", "error"], room: ALERTS };

/// Its routes.
pub(super) fn routes(edge: &Edge) -> Router<Edge> {
    let websocket = edge.settings().surfaces.analytics.websocket_path.clone();
    let calls = Router::new()
        .route("/api/admin/analytics/stream", get(streams::events))
        .route(&websocket, get(streams::websocket))
        .route("/api/admin/analytics/websocket-info", get(info::websocket))
        .route("/api/admin/analytics/connection-stats", get(info::connections))
        .route("/api/admin/analytics/websocket-stats", get(info::websockets))
        .route("/api/admin/analytics/subscribe", post(control::subscribe))
        .route("/api/admin/analytics/unsubscribe", post(control::unsubscribe))
        .route("/api/admin/analytics/test-connection", post(control::test_connection))
        .route_layer(middleware::from_fn_with_state(edge.clone(), audited));
    // Who comes there is said by its token, so it sees to that and to the audit itself.
    Router::new().route(auth::RECONNECT, get(streams::reconnect)).merge(calls)
}

/// A refusal in its words.
pub(super) fn refusal(problem: &Problem, _: &Asked<'_>) -> Worded {
    let mut error = json!({ "code": problem.kind().replace('-', "_"), "message": problem.detail() });
    if let Some(seconds) = problem.retry_after() {
        error["retryAfter"] = seconds.into();
    }
    if !problem.errors().is_empty() {
        error["fields"] = Value::Array(problem.errors().to_vec());
    }
    Worded::json(&json!({ "success": false, "error": error }))
}

/// The connection that a response opens.
#[derive(Debug, Clone, Copy)]
struct Opened(u64);

/// Lets those in who have the role, and writes down who called what and what came of it. A refusal for want of rights the door writes down.
async fn audited(State(edge): State<Edge>, caller: Caller, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let line = Line::new(&edge, Entry { method: Some(method), path: Some(path), ..caller.entry("admin") });
    let response = match needs_role(&caller.identity) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            body::decline(request).await;
            problem.into_response()
        }
    };
    if response.status() == StatusCode::FORBIDDEN {
        line.left_to_the_door();
    } else {
        line.answered(&response);
    }
    response
}

/// A line of the audit log: written with what was answered. Where the client goes before that, what it asked for may be done all the same, so it is written without.
struct Line {
    audit: Audit,
    entry: Entry,
    written: bool,
}

impl Line {
    fn new(edge: &Edge, entry: Entry) -> Self {
        Self { audit: edge.audit.clone(), entry, written: false }
    }

    fn entry(&mut self) -> &mut Entry {
        &mut self.entry
    }

    fn answered(mut self, response: &Response) {
        self.entry.status = Some(response.status().as_u16());
        self.entry.reason = response.extensions().get::<Shown>().map(|Shown(problem)| problem.kind().to_owned());
        self.entry.connection = response.extensions().get::<Opened>().map(|Opened(id)| id.to_string());
        self.write();
    }

    fn left_to_the_door(mut self) {
        self.written = true;
    }

    fn write(&mut self) {
        if !self.written {
            self.written = true;
            self.audit.note(std::mem::take(&mut self.entry));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.written {
            self.entry.reason = Some("client-gone".to_owned());
            self.write();
        }
    }
}

fn needs_role(identity: &Identity) -> Result<(), Problem> {
    if identity.has_role(PLATFORM_ADMIN) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "this call needs the role platform_admin"))
}

/// How its streams are served.
fn contract(settings: &Settings) -> Arc<Contract> {
    let own = &settings.surfaces.analytics;
    Arc::new(Contract {
        period_ms: u64::try_from(own.update_interval.as_millis()).unwrap_or(u64::MAX),
        on_slow: Some(OnSlow::Displace),
        urgent: Some(&URGENT),
        role: Some(PLATFORM_ADMIN),
        mailbox_messages: Some(own.mailbox_messages),
        ..Contract::default()
    })
}

/// The rooms of metrics by their names.
fn rooms<'t>(metrics: impl Iterator<Item = &'t str>, max: usize) -> Result<Vec<RoomName>, Problem> {
    let mut rooms = Vec::new();
    for metric in metrics {
        let shown: String = metric.chars().take(80).collect();
        let room = RoomName::parse(&format!("{ROOMS}{metric}")).ok().filter(|_| !metric.is_empty());
        let room = room.ok_or_else(|| {
            let expected = "expected a metric's name: letters, digits and _ - . : / @";
            Problem::parameter("metrics", format!("{shown:?} is not allowed; {expected}"))
        })?;
        if !rooms.contains(&room) {
            rooms.push(room);
        }
        if rooms.len() > max {
            return Err(Problem::parameter("metrics", format!("more than {max} (limits.rooms_per_connection)")));
        }
    }
    Ok(rooms)
}

/// A room's metric.
fn metric(room: &str) -> &str {
    room.strip_prefix(ROOMS).unwrap_or(room)
}

/// The metrics that patterns name; what everybody gets is none of them.
fn metrics(patterns: &[Pattern]) -> Vec<String> {
    let names = patterns.iter().map(ToString::to_string).filter(|name| name != ALERTS);
    names.map(|name| metric(&name).to_owned()).collect()
}

fn may_read_all_of(caller: &Identity, rooms: &[RoomName]) -> Result<(), Problem> {
    match rooms.iter().find(|room| !caller.rights.may_read(room)) {
        None => Ok(()),
        Some(room) => Err(Problem::may_not_read(room)),
    }
}
