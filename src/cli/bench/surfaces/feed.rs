//! What makes the events of a row: publishes at a steady rate until it is told to stop, and says how much it has published.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::kinds::{Feed, METRIC, NATIVE_ROOM};
use crate::cli::bench::http::{Publisher, Target};
use crate::clock;

const PROJECTS: u64 = 5;
const MODELS: u64 = 3;

/// Publishes so often.
const fn period(feed: Feed) -> Duration {
    match feed {
        Feed::Native | Feed::Wells | Feed::Analytics => Duration::from_secs(1),
        Feed::Overview | Feed::Metrics | Feed::Buffer => Duration::from_millis(50),
    }
}

/// Where it publishes.
fn path(feed: Feed) -> String {
    match feed {
        Feed::Native => format!("/v1/rooms/{NATIVE_ROOM}/events"),
        Feed::Overview => "/api/events".to_owned(),
        Feed::Metrics => "/metrics/requests".to_owned(),
        Feed::Wells => "/api/v1/telemetry/ingest".to_owned(),
        Feed::Analytics => format!("/v1/rooms/analytics:{METRIC}/events"),
        Feed::Buffer => "/messages".to_owned(),
    }
}

/// A well's name.
pub(super) fn well(number: usize) -> String {
    format!("BENCH-{number:03}")
}

/// What is published the `turn`th time.
#[allow(clippy::cast_precision_loss, reason = "made-up readings")]
fn body(feed: Feed, turn: u64, wells: usize) -> Value {
    let timestamp = clock::rfc3339(clock::now_ms());
    let wave = (turn % 20) as f64;
    match feed {
        Feed::Native => json!({ "kind": "bench", "timestamp": timestamp, "data": { "turn": turn, "value": wave } }),
        Feed::Overview => json!({
            "project": format!("bench-{}", turn % PROJECTS), "event_type": "run", "severity": "info", "timestamp": timestamp,
            "message": "a run of the bench", "metadata": { "success": !turn.is_multiple_of(20), "latency_ms": 200.0 + wave },
        }),
        Feed::Metrics => json!({
            "model": format!("bench-{}", turn % MODELS), "latency_ms": 300.0 + wave, "status": 200,
            "input_tokens": 100, "output_tokens": 50, "streamed": turn.is_multiple_of(2), "cost": 0.001,
        }),
        // Below every threshold, so that there are no alerts among them.
        Feed::Wells => (0..wells)
            .map(|number| {
                json!({
                    "well_id": well(number), "timestamp": timestamp, "flow_rate": 1000.0 + wave, "pip": 2000.0, "motor_current": 50.0,
                    "motor_temp": 85.0, "vibration": 1.0 + wave / 100.0, "vsd_frequency": 60.0, "flow_variance": 15.0, "torque": 120.5, "gor": 150.0,
                })
            })
            .collect(),
        Feed::Analytics => {
            json!({ "kind": "metrics_update", "timestamp": timestamp, "data": { "turn": turn, "value": wave } })
        }
        Feed::Buffer => json!({ "user_id": turn, "channel_id": 1, "content": "a message of the bench" }),
    }
}

/// Publishes until it is told to stop; how many times it did.
///
/// # Errors
/// When it is refused, or the daemon breaks off.
pub(super) async fn run(target: Target, feed: Feed, wells: usize, stop: Rc<Cell<bool>>) -> anyhow::Result<u64> {
    let mut publisher = Publisher::open(target.address, &[target.post(&path(feed), "application/json")]).await?;
    // In the middle, so that as many come in a time as go into it.
    let mut ticks = interval_at(Instant::now() + period(feed) / 2, period(feed));
    // A daemon that is late is not hurried.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0;
    loop {
        ticks.tick().await;
        if stop.get() {
            return Ok(turn);
        }
        publisher.publish(body(feed, turn, wells).to_string().as_bytes()).await?;
        turn += 1;
    }
}
