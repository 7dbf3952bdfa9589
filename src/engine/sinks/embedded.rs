//! The store that is none: what a database would give is read from the log.

use std::sync::Arc;

use crate::engine::rooms::{PublishError, Rooms};
use crate::event::{Event, Pattern, RoomName};
use crate::log::LogError;
use crate::store::{StoreError, Stored};

/// The newest events of these rooms, newest first: by arrival, in one room by seq. Rooms in which nothing newer can be are not read.
pub(super) async fn newest(rooms: &Rooms, pattern: &Pattern, limit: usize) -> Result<Vec<Stored>, StoreError> {
    let names = match pattern {
        Pattern::Room(name) => vec![name.clone()],
        Pattern::Prefix(_) => rooms.names(pattern),
    };
    let mut by_arrival: Vec<(u64, RoomName)> =
        names.into_iter().map(|name| (last_arrived_ms(rooms, &name), name)).collect();
    by_arrival.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    let mut found: Vec<Arc<Event>> = Vec::new();
    for (arrived_ms, name) in by_arrival {
        if found.len() >= limit && found.last().is_none_or(|oldest| oldest.arrived_ms > arrived_ms) {
            break;
        }
        let room = match rooms.find(&name) {
            Ok(Some(room)) => room,
            Ok(None) => continue,
            Err(PublishError::Log(error)) => return Err(error.into()),
            Err(_) => return Err(LogError::Busy("there are as many rooms in memory as there may be").into()),
        };
        found.extend(room.newest(limit).await?);
        found.sort_unstable_by(|one, other| {
            let arrival = other.arrived_ms.cmp(&one.arrived_ms);
            arrival.then_with(|| one.room.name().cmp(other.room.name())).then_with(|| other.seq.cmp(&one.seq))
        });
        found.truncate(limit);
    }
    Ok(found.iter().map(|event| Stored::of(event)).collect())
}

fn last_arrived_ms(rooms: &Rooms, name: &RoomName) -> u64 {
    let in_memory = rooms.in_memory(name).map(|room| room.last_arrived_ms());
    let in_log = || rooms.log().room(name).and_then(|index| index.held()).map(|held| held.last_arrived_ms);
    in_memory.or_else(in_log).unwrap_or(0)
}
