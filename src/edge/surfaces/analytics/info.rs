//! How the streams are: `{success, data}`.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::desk::Shown;
use super::metrics;
use crate::clock;
use crate::edge::{Edge, answer};

/// An answer that all is well.
pub(super) fn success(data: &Value) -> Response {
    answer::json(json!({ "success": true, "data": data }).to_string())
}

/// `GET …/websocket-info`.
pub(super) async fn websocket(State(edge): State<Edge>) -> Response {
    let settings = edge.settings();
    let own = &settings.surfaces.analytics;
    success(&json!({
        "enabled": own.enabled && own.websocket_enabled,
        "endpoint": own.websocket_path,
        "protocols": ["ws", "wss"],
        "messageTypes": ["subscribe", "unsubscribe", "ping"],
        "features": [
            "Automatic reconnection",
            "Message buffering",
            "Priority-based message handling",
            "Connection health monitoring",
        ],
    }))
}

/// `GET …/connection-stats`.
pub(super) async fn connections(State(edge): State<Edge>) -> Response {
    let settings = edge.settings();
    let own = &settings.surfaces.analytics;
    let shown = edge.analytics.show(&edge);
    let (parked, live): (Vec<&Shown>, Vec<&Shown>) = shown.iter().partition(|one| one.parked);
    let over =
        |transport: &str| -> Vec<&Shown> { live.iter().copied().filter(|one| one.transport == transport).collect() };
    let (succeeded, refused) =
        (edge.analytics.reconnected.load(Ordering::Relaxed), edge.analytics.refused.load(Ordering::Relaxed));
    let tried = succeeded + refused;
    success(&json!({
        "totalConnections": live.len(),
        "sse": of_transport(&over("sse"), own.mailbox_messages),
        "websocket": of_transport(&over("websocket"), own.mailbox_messages),
        "parked": {
            "connections": parked.len(),
            "messages": sum(&parked, |one| one.listed.depth.messages as u64),
            "bytes": sum(&parked, |one| one.listed.depth.bytes as u64),
        },
        "connectionsPerUser": per_user(&live),
        "reconnections": {
            "succeeded": succeeded,
            "refused": refused,
            "successRate": (tried > 0).then(|| succeeded as f64 / tried as f64),
        },
        "limits": {
            "connectionsPerUser": own.per_user_parked,
            "bufferSize": own.mailbox_messages,
            "connectionTimeoutMs": own.parked_timeout.as_millis(),
        },
        "timestamp": clock::rfc3339(clock::now_ms()),
    }))
}

/// `GET …/websocket-stats`.
pub(super) async fn websockets(State(edge): State<Edge>) -> Response {
    let settings = edge.settings();
    let own = &settings.surfaces.analytics;
    let shown = edge.analytics.show(&edge);
    let live: Vec<&Shown> = shown.iter().filter(|one| !one.parked && one.transport == "websocket").collect();
    let mut data = of_transport(&live, own.mailbox_messages);
    data["enabled"] = (own.enabled && own.websocket_enabled).into();
    data["endpoint"] = own.websocket_path.clone().into();
    data["totalConnections"] = live.len().into();
    data["connectionsPerUser"] = json!(per_user(&live));
    data["list"] = live.iter().map(|one| describe(one)).collect();
    data["timestamp"] = clock::rfc3339(clock::now_ms()).into();
    success(&data)
}

fn sum(all: &[&Shown], of: impl Fn(&Shown) -> u64) -> u64 {
    all.iter().map(|one| of(one)).sum()
}

fn per_user(all: &[&Shown]) -> BTreeMap<String, u64> {
    let mut users = BTreeMap::new();
    for one in all {
        *users.entry(one.listed.profile.identity().subject.to_string()).or_insert(0) += 1;
    }
    users
}

fn latency_ms(all: &[&Shown]) -> Option<f64> {
    let longest = all.iter().map(|one| one.listed.profile.books.latency_max_us.get()).max();
    longest.filter(|us| *us > 0).map(|us| us as f64 / 1000.0)
}

fn of_transport(all: &[&Shown], buffer: usize) -> Value {
    let waiting = sum(all, |one| one.listed.depth.messages as u64);
    let room = (all.len() * buffer) as f64;
    json!({
        "connections": all.len(),
        "messagesDelivered": sum(all, |one| one.listed.profile.books.delivered.get()),
        "messagesDropped": sum(all, |one| one.listed.profile.books.shed_total()),
        "buffer": {
            "messages": waiting,
            "bytes": sum(all, |one| one.listed.depth.bytes as u64),
            "utilization": if room > 0.0 { waiting as f64 / room } else { 0.0 },
        },
        "longestDeliveryMs": latency_ms(all),
    })
}

fn describe(one: &Shown) -> Value {
    let (profile, depth) = (&one.listed.profile, &one.listed.depth);
    json!({
        "connectionId": profile.id.to_string(),
        "userId": profile.identity().subject,
        "connectedAt": clock::rfc3339(profile.opened_ms),
        "metrics": metrics(&profile.patterns()),
        "buffered": depth.messages,
        "delivered": profile.books.delivered.get(),
        "dropped": profile.books.shed_total(),
        "longestDeliveryMs": latency_ms(&[one]),
    })
}
