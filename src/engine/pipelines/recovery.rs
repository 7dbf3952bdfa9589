//! How a pipeline comes to itself again: the state as it was last kept, then the same steps once more with the same events; of the last step's outputs only those that are not in their
//! rooms yet are published. And how it goes on by another definition.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::outbox::Outbox;
use super::positions::{Hindrance, advance_to, wants};
use super::status::Status;
use crate::clock;
use crate::engine::journal::{Found, Journal, JournalError, Step};
use crate::engine::rooms::{Rooms, Start};
use crate::event::{Event, NewEvent, Pattern, RoomName};
use crate::pipelines::machine::inputs;
use crate::pipelines::{Definition, Machine, Output};

/// Events of a room read at once.
const READ_EVENTS: usize = 1000;

/// The id of an output: of which step, and which of that.
pub(super) fn id(pipeline: &str, step: u64, output: usize) -> String {
    format!("{pipeline}@{step}.{output}")
}

/// A pipeline that can go on.
pub(super) struct Begun {
    pub(super) machine: Machine,
    pub(super) journal: Journal,
    /// Where it goes on in each room; `None` for the first time, with what comes next.
    pub(super) positions: Option<Vec<(RoomName, u64)>>,
}

/// Brings a pipeline to where it was, and on to its definition of today.
pub(super) async fn begin(rooms: &Rooms, definition: Definition, status: &Status) -> Result<Begun, Hindrance> {
    let mut journal = Journal::open(rooms, &format!("pipeline:{}", definition.name))
        .map_err(|error| Hindrance::Definition(error.to_string()))?;
    let found = match journal.read(rooms).await {
        Ok(found) => found,
        Err(error @ JournalError::Log(_)) => return Err(error.into()),
        Err(error) => {
            tracing::error!(pipeline = definition.name, %error, "pipeline: begins anew, without its state");
            status.note_trouble(clock::now_ms(), format!("it began anew, without its state: {error}"));
            None
        }
    };
    let Some(found) = found else {
        let positions = first_positions(rooms, &definition);
        return Ok(Begun { machine: Machine::new(definition), journal, positions });
    };
    let (machine, positions) = replay(rooms, &definition, found, status).await?;
    let (machine, positions) = if machine.definition().written() == definition.written() {
        (machine, positions)
    } else {
        replaced(rooms, &machine, definition, positions)
    };
    restore_states(rooms, &machine).await;
    Ok(Begun { machine, journal, positions: Some(positions) })
}

/// Where a pipeline begins that has never run.
fn first_positions(rooms: &Rooms, definition: &Definition) -> Option<Vec<(RoomName, u64)>> {
    let patterns = inputs(definition);
    let begins_before = |name: &RoomName| definition.from_beginning || wants(&definition.beside, name);
    // A join knows its table from the beginning, whatever the pipeline itself begins with.
    if !definition.from_beginning && definition.beside.is_empty() {
        return None;
    }
    let mut positions = Vec::new();
    for pattern in &patterns {
        let mut names = rooms.names(pattern);
        if let Pattern::Room(name) = pattern {
            names.push(name.clone());
        }
        for name in names {
            let head = rooms.get_or_create(&name).map_or(0, |room| room.head());
            let at = if begins_before(&name) { 0 } else { head };
            if !positions.iter().any(|(known, _)| *known == name) {
                positions.push((name, at));
            }
        }
    }
    Some(positions)
}

/// Takes the steps of the journal again.
async fn replay(
    rooms: &Rooms,
    definition: &Definition,
    found: Found,
    status: &Status,
) -> Result<(Machine, Vec<(RoomName, u64)>), Hindrance> {
    let Found { kept, steps, settled } = found;
    // By the definition of then: only that comes to the same.
    let then = Definition::again(&kept.written);
    let then = then.map_err(|faults| {
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        Hindrance::Definition(format!("its definition as it was when it last ran is not understood any more: {first}"))
    })?;
    let mut machine = Machine::new(then);
    if machine.load(&kept.state).is_err() {
        tracing::error!(pipeline = definition.name, "pipeline: its state is of another version and is lost");
        status.note_trouble(clock::now_ms(), "its state is of another version and is lost".to_owned());
    }
    let mut positions: Vec<(RoomName, u64)> =
        kept.positions.iter().filter_map(|(room, seq)| Some((RoomName::parse(room).ok()?, *seq))).collect();
    let (count, begun) = (steps.len(), tokio::time::Instant::now());
    let last = steps.len().saturating_sub(1);
    for (at, (seq, step)) in steps.into_iter().enumerate() {
        let outputs = take_again(rooms, &mut machine, &step, &mut positions, status).await?;
        if at == last && !settled {
            let mut outbox = Outbox::of(outputs, |output| id(&definition.name, seq, output));
            leave_out_published(rooms, &mut outbox, step.written_ms).await?;
            // Before the changes that are still to come: a room must not take those alone for its whole table.
            restore_states(rooms, &machine).await;
            while !outbox.is_empty() {
                let sent = outbox.send(rooms).await;
                for (room, events, error) in sent.lost {
                    tracing::error!(pipeline = status.name, %room, events, %error, "pipeline: events that no room can take are lost");
                    status.meter.lost(events);
                }
                status.events_out.fetch_add(sent.events, Ordering::Relaxed);
                if let Some(error) = sent.again {
                    return Err(Hindrance::Definition(format!("its last events cannot be published now: {error}")));
                }
            }
        }
    }
    // They were counted when they were first worked on.
    machine.take_refusals();
    if count > 0 {
        let took_ms = begun.elapsed().as_millis();
        tracing::info!(pipeline = definition.name, steps = count, took_ms, "pipeline: is where it was before the stop");
    }
    Ok((machine, positions))
}

/// Takes one step again.
async fn take_again(
    rooms: &Rooms,
    machine: &mut Machine,
    step: &Step,
    positions: &mut Vec<(RoomName, u64)>,
    status: &Status,
) -> Result<Vec<Output>, Hindrance> {
    let mut outputs = Vec::new();
    for run in &step.runs {
        let Ok(name) = RoomName::parse(&run.room) else { continue };
        let room = rooms.get_or_create(&name).map_err(|error| Hindrance::Definition(error.to_string()))?;
        let (mut after, mut left) = (run.first - 1, run.count);
        while left > 0 {
            let events_max = READ_EVENTS.min(left as usize);
            let events = room.read_wait(after, events_max).await.map_err(JournalError::Log)?;
            let here: Vec<&Arc<Event>> = events.iter().filter(|event| event.seq <= run.last).collect();
            let Some(end) = here.last() else { break };
            after = end.seq;
            left = left.saturating_sub(u32::try_from(here.len()).unwrap_or(u32::MAX));
            here.into_iter().for_each(|event| machine.event(event, &mut outputs));
        }
        if left > 0 {
            tracing::error!(room = %name, from = run.first, to = run.last, left, "pipeline: events that it had worked on are not held any more; its state lacks them");
            status.missed.fetch_add(u64::from(left), Ordering::Relaxed);
        }
        advance_to(positions, &run.room, run.last);
    }
    if step.resumed {
        machine.resumed(step.clock_ms);
    }
    if step.clock_ms > 0 {
        machine.clock(step.clock_ms, &mut outputs);
    }
    Ok(outputs)
}

/// Takes out of the last step's outputs those that are in their rooms: what came there since the step was written is looked through for their ids.
async fn leave_out_published(rooms: &Rooms, outbox: &mut Outbox, written_ms: u64) -> Result<(), Hindrance> {
    for (name, events) in outbox.rooms_mut() {
        let Ok(Some(room)) = rooms.find(name) else { continue };
        let (mut after, _) = room.begin(Start::Since(written_ms.saturating_sub(1)));
        let mut wanted: HashSet<String> =
            events.iter().filter_map(|event| event.id.as_deref().map(str::to_owned)).collect();
        while !wanted.is_empty() {
            let found = room.read_wait(after, READ_EVENTS).await.map_err(JournalError::Log)?;
            let Some(end) = found.last() else { break };
            after = end.seq;
            for id in found.iter().filter_map(|event| event.id.as_deref()) {
                wanted.remove(id);
            }
        }
        // A kill leaves of what a room was given a beginning, and retention may have let go of that again: so of what comes before the last one that is there, all was there.
        let there = |event: &NewEvent| event.id.as_deref().is_some_and(|id| !wanted.contains(id));
        if let Some(at) = events.iter().rposition(there) {
            events.drain(..=at);
        }
    }
    Ok(())
}

/// Gives rooms the tables that the pipeline keeps of them.
async fn restore_states(rooms: &Rooms, machine: &Machine) {
    let states = machine.states();
    // A table that has become empty is one all the same, where it is known whose it is.
    let fixed = machine.definition().states.iter().filter_map(|pattern| match pattern {
        Pattern::Room(name) if states.table(name).is_none() => Some(name),
        _ => None,
    });
    let there = |name: &&RoomName| rooms.find(name).is_ok_and(|room| room.is_some());
    for name in states.rooms().chain(fixed.filter(there)) {
        let table = states.table(name).into_iter().flatten().map(|(key, json)| (key.clone(), json.clone())).collect();
        if let Err(error) = rooms.restore_state(name, table).await {
            tracing::error!(room = %name, %error, "pipeline: a room does not take its state");
        }
    }
}

/// The same pipeline by another definition: steps whose settings are the same keep their state, and it goes on where it was. In rooms that it did not follow it begins with what comes next,
/// or with what they hold, as it says.
pub(super) fn replaced(
    rooms: &Rooms,
    machine: &Machine,
    definition: Definition,
    mut positions: Vec<(RoomName, u64)>,
) -> (Machine, Vec<(RoomName, u64)>) {
    let (before, now) = (inputs(machine.definition()), inputs(&definition));
    positions.retain(|(room, _)| wants(&now, room));
    for pattern in now.iter().filter(|pattern| !before.contains(pattern)) {
        let mut names = rooms.names(pattern);
        if let Pattern::Room(name) = pattern {
            names.push(name.clone());
        }
        for name in names.into_iter().filter(|name| !wants(&before, name)) {
            let from_beginning = definition.from_beginning || wants(&definition.beside, &name);
            let head = rooms.get_or_create(&name).map_or(0, |room| room.head());
            if !positions.iter().any(|(known, _)| *known == name) {
                positions.push((name, if from_beginning { 0 } else { head }));
            }
        }
    }
    let (beside, from) = (definition.beside.clone(), definition.from.clone());
    let mut fresh = Machine::new(definition);
    // What is written down here is read here.
    let whole = fresh.load(&machine.save()).unwrap_or(false);
    fresh.forget_states_of_others();
    if !whole {
        // A join that begins anew needs its table from the beginning; one that does not hears the same again.
        for (room, position) in &mut positions {
            if wants(&beside, room) && !wants(&from, room) {
                *position = 0;
            }
        }
        tracing::info!(pipeline = fresh.definition().name, "pipeline: steps whose settings have changed begin anew");
    }
    (fresh, positions)
}
