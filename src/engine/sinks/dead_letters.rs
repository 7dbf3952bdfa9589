//! Events that a store refuses: published to the sink's dead letters, each once, before the sink counts them as done.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::clock;
use crate::engine::rooms::{Publish, PublishError, Rooms, Start};
use crate::event::{Ack, Event, NameError, NewEvent, RoomName};
use crate::store::Refusal;

/// How long their room and the log are waited for before it is tried again.
const WAIT: Duration = Duration::from_secs(5);
/// Dead letters published at once: less than a room remembers the ids of.
const TOGETHER: usize = 500;
/// Events read at once.
const READ_EVENTS: usize = 1000;

/// The rooms of sinks' dead letters begin so. Sinks take nothing from them, or what is refused would come back for ever.
pub(super) const PREFIX: &str = "dead-letter:sink:";

/// A sink's dead letters.
#[derive(Debug)]
pub(super) struct DeadLetters {
    sink: String,
    room: Result<RoomName, NameError>,
    /// Which events of the batch at hand are refused, and published as such.
    refused: Vec<usize>,
    /// Whether it was looked which were published before the last kill.
    looked: bool,
}

impl DeadLetters {
    pub(super) fn of(sink: &str) -> Self {
        let room = RoomName::parse(&format!("{PREFIX}{sink}"));
        Self { sink: sink.to_owned(), room, refused: Vec::new(), looked: false }
    }

    /// Which events of the batch at hand are refused.
    pub(super) fn of_batch(&self) -> &[usize] {
        &self.refused
    }

    /// The batch at hand is stored.
    pub(super) fn settled(&mut self) {
        self.refused.clear();
    }

    /// Publishes events that were refused; when it comes back they are in the log.
    pub(super) async fn publish(
        &mut self,
        rooms: &Rooms,
        events: &[Arc<Event>],
        refusals: Vec<Refusal>,
    ) -> Result<(), PublishError> {
        // The name was checked with the settings.
        let room = self.room.clone().map_err(|error| PublishError::Unavailable(error.to_string()))?;
        let mut letters: Vec<NewEvent> = Vec::new();
        for refusal in &refusals {
            if let Some(event) = events.get(refusal.at) {
                tracing::warn!(sink = self.sink, room = %event.room.name(), seq = event.seq, code = refusal.code, error = refusal.message,
                    "sink: the database refuses an event; it goes to the dead letters");
                letters.push(letter(&self.sink, event, refusal));
            }
        }
        if !self.looked {
            let since_ms = events.iter().map(|event| event.arrived_ms).min().unwrap_or(0);
            leave_out_published(rooms, &room, &mut letters, since_ms).await?;
        }
        for some in letters.chunks(TOGETHER) {
            send(rooms, &room, some).await?;
        }
        self.looked = true;
        self.refused.extend(refusals.iter().map(|refusal| refusal.at));
        Ok(())
    }
}

async fn send(rooms: &Rooms, room: &RoomName, letters: &[NewEvent]) -> Result<(), PublishError> {
    let (publish, receipt) = Publish::new(SmallVec::from_vec(letters.to_vec()), Ack::Logged);
    rooms.publish(room, publish);
    let kept = async {
        let receipt = receipt.await.map_err(|_| PublishError::Failed)??;
        match receipt.logged {
            Some(logged) => logged.await.map_err(|_| PublishError::Unacknowledged),
            None => Ok(()),
        }
    };
    tokio::time::timeout(WAIT, kept).await.map_err(|_| PublishError::Unacknowledged)?
}

/// Takes out those that are in the room: a kill may have come after they were published and before the batch was stored. Later ones the room knows by their ids.
async fn leave_out_published(
    rooms: &Rooms,
    name: &RoomName,
    letters: &mut Vec<NewEvent>,
    since_ms: u64,
) -> Result<(), PublishError> {
    let Ok(Some(room)) = rooms.find(name) else { return Ok(()) };
    let (mut after, _) = room.begin(Start::Since(since_ms));
    let mut there: HashSet<String> = HashSet::new();
    loop {
        let found = room.read_wait(after, READ_EVENTS).await?;
        let Some(end) = found.last() else { break };
        after = end.seq;
        there.extend(found.iter().filter_map(|event| event.id.as_deref().map(str::to_owned)));
    }
    letters.retain(|letter| letter.id.as_deref().is_none_or(|id| !there.contains(id)));
    Ok(())
}

/// What a refused event is in the dead letters; as those of pipelines.
fn letter(sink: &str, event: &Event, refusal: &Refusal) -> NewEvent {
    let original: Option<&RawValue> = serde_json::from_slice(event.data()).ok();
    let data = json!({
        "sink": sink,
        "reason": "refused",
        "code": refusal.code,
        "message": refusal.message,
        "event": {
            "room": event.room.name().as_str(),
            "seq": event.seq,
            "kind": event.kind.as_str(),
            "key": event.key.as_deref(),
            "priority": event.priority.name(),
            "timestamp": clock::rfc3339(event.timestamp_ms),
            "data": null,
        },
    });
    // The data as it came: it may be just what no other program can read.
    let text =
        data.to_string().replacen("\"data\":null", &format!("\"data\":{}", original.map_or("null", RawValue::get)), 1);
    NewEvent {
        key: event.key.clone(),
        id: Some(format!("sink:{sink}@{}@{}", event.room.name(), event.seq).into()),
        timestamp_ms: Some(event.timestamp_ms),
        ..NewEvent::new(&event.kind, text.into())
    }
}
