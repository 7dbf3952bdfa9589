//! The source of sinks' figures: publishes how each sink is to the room `sink:NAME` every `sink.stats_interval`, but only while somebody follows that room. Over a restart nothing is kept:
//! the figures are the sinks' own.

use serde_json::{Number, Value, json};
use smallvec::smallvec;
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox};

use crate::clock;
use crate::engine::rooms::keeper::Nothing;
use crate::engine::rooms::{Publish, Rooms};
use crate::engine::sinks::{Sinks, Status};
use crate::event::{NewEvent, RoomName};

/// The source.
#[derive(Debug)]
pub struct SinksSource {
    rooms: Rooms,
    sinks: Sinks,
}

impl SinksSource {
    /// A source that publishes to these rooms.
    #[must_use]
    pub fn new(rooms: Rooms, sinks: Sinks) -> Self {
        Self { rooms, sinks }
    }
}

impl Handler for SinksSource {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        if batch.tick {
            for sink in self.sinks.names() {
                let room = RoomName::parse(&format!("sink:{sink}"))?;
                let followed = self.rooms.in_memory(&room).is_some_and(|room| room.subscribers() > 0);
                if followed && let Some(status) = self.sinks.status(&sink) {
                    let data = figures(&status, clock::now_ms()).to_string();
                    let event = NewEvent { key: Some(sink.into()), ..NewEvent::new("stats", data.into()) };
                    self.rooms.publish(&room, Publish::unanswered(smallvec![event]));
                }
            }
        }
        Ok(Flow::Continue)
    }
}

/// A sink's figures at a time, as they go over the wire.
#[must_use]
pub fn figures(status: &Status, now_ms: u64) -> Value {
    let rate = rounded(status.per_second, 100.0);
    let average = if status.batches == 0 { 0.0 } else { float(status.messages) / float(status.batches) };
    json!({
        "total_messages": status.messages,
        "current_rps": rate,
        "messages_per_second": rate,
        "queue_depth": status.waiting,
        "queue_length": status.waiting,
        "total_batches": status.batches,
        "avg_batch_size": rounded(average, 10.0),
        "timestamp": clock::rfc3339(now_ms),
    })
}

fn rounded(figure: f64, by: f64) -> Option<Number> {
    Number::from_f64((figure * by).round() / by)
}

#[allow(clippy::cast_precision_loss, reason = "an average")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_numbers_with_few_digits() {
        let status = Status {
            messages: 1000,
            batches: 30,
            waiting: 4,
            per_second: 12.345_67,
            failing: None,
            rows_refused: 0,
            lost: 0,
        };
        let expected = json!({
            "total_messages": 1000, "current_rps": 12.35, "messages_per_second": 12.35, "queue_depth": 4, "queue_length": 4,
            "total_batches": 30, "avg_batch_size": 33.3, "timestamp": "1970-01-01T00:00:00.000Z",
        });
        assert_eq!(figures(&status, 0), expected);
        let none = Status { messages: 0, batches: 0, ..status };
        assert_eq!(figures(&none, 0)["avg_batch_size"], json!(0.0));
    }
}
