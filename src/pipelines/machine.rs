//! A pipeline at work, without anything around it: events and the time in, events for rooms out. The daemon's actors run it on live rooms, `tidegate test` on cases, `tidegate replay` on a
//! stored range; all of them by these few calls, so that what is tested is what runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use super::chain::Effects;
use super::definition::Definition;
use super::operator::{Rejected, Sent, load, save};
use super::record::Record;
use super::state::{Change as Entered, States};
use super::target::Target;
use super::why::Why;
use crate::clock;
use crate::event::{Change, Event, NewEvent, Pattern, RoomName};

/// Names of rooms that were made last, so that they need not be checked and made anew.
const NAMES_KEPT: usize = 1024;

/// So many times the clock stops on its way where something is due; after that it goes the rest at once.
const STOPS_MAX: usize = 256;

/// An event for a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The room.
    pub room: RoomName,
    /// The event.
    pub event: NewEvent,
}

/// An event that could not be worked on, as it is counted and reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// At which step, in words.
    pub step: String,
    /// Why, in one word.
    pub reason: &'static str,
    /// What was wrong, in words.
    pub message: String,
    /// Which event, in words.
    pub event: String,
}

/// A pipeline at work.
#[derive(Debug)]
pub struct Machine {
    definition: Definition,
    states: States,
    effects: Effects,
    now_ms: u64,
    refusals: Vec<Refusal>,
    names: std::collections::HashMap<SmolStr, RoomName, ahash::RandomState>,
}

/// State that does not belong to this pipeline as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state that was kept is not this pipeline's")]
pub struct NotMine;

impl Machine {
    /// A pipeline that has seen nothing yet.
    #[must_use]
    pub fn new(definition: Definition) -> Self {
        let (states, effects, now_ms) = (States::default(), Effects::default(), 0);
        Self { definition, states, effects, now_ms, refusals: Vec::new(), names: std::collections::HashMap::default() }
    }

    /// What it does.
    #[must_use]
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The tables of the rooms whose state it keeps.
    #[must_use]
    pub fn states(&self) -> &States {
        &self.states
    }

    /// Forgets the tables of rooms whose state it does not keep any more.
    pub fn forget_states_of_others(&mut self) {
        let kept = &self.definition.states;
        self.states.retain(|room| kept.iter().any(|pattern| pattern.matches(room)));
    }

    /// How far its clock is, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// How many keys it keeps, in its steps and its states.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.definition.chain.keys() + self.states.keys()
    }

    /// Works on an event; the clock goes to its arrival first.
    pub fn event(&mut self, event: &Arc<Event>, out: &mut Vec<Output>) {
        self.clock(event.arrived_ms, out);
        let record = Record::of(event, self.definition.chain.extractor());
        let work = AssertUnwindSafe(|| self.work(record, out));
        if catch_unwind(work).is_err() {
            // A mistake of an operator's must not stop the pipeline at this event for ever. The same event makes the same mistake after a restart, so that is all the same again.
            let record = Box::new(Record::of(event, self.definition.chain.extractor()));
            let (step, why) =
                (self.definition.chain.steps().len(), Why::Other("an operator failed over it".to_owned()));
            self.refuse(&Rejected { step, field: "event".to_owned(), why, record }, out);
        }
    }

    /// Works on an event that is one already; the clock goes to its arrival first.
    pub fn record(&mut self, record: Record, out: &mut Vec<Output>) {
        self.clock(record.arrived_ms, out);
        self.work(record, out);
    }

    fn work(&mut self, record: Record, out: &mut Vec<Output>) {
        // What has another kind goes by; the clock has heard of it.
        let wanted = self.definition.wants(&record.kind);
        let Definition { chain, beside, from, .. } = &mut self.definition;
        if !beside.is_empty() && beside.iter().any(|pattern| pattern.matches(&record.room)) {
            chain.beside(&record, self.now_ms, &mut self.effects);
            if !from.iter().any(|pattern| pattern.matches(&record.room)) {
                return self.leave(out);
            }
        }
        if !wanted {
            return self.leave(out);
        }
        chain.record(record, self.now_ms, &mut self.effects);
        self.leave(out);
    }

    /// Moves the clock, which never goes back; what is due comes out.
    pub fn clock(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        if now_ms <= self.now_ms {
            return;
        }
        if self.now_ms == 0 {
            // Before the first time that it is told there was none.
            self.now_ms = now_ms;
            return self.tell_clock(out);
        }
        // From one time that something is due to the next, so that it does not matter how far the clock goes at once.
        for _ in 0..STOPS_MAX {
            let Some(due_ms) = self.due_ms().filter(|due| *due < now_ms) else { break };
            self.now_ms = self.now_ms.max(due_ms);
            self.tell_clock(out);
            if self.due_ms().is_some_and(|next| next <= due_ms) {
                break;
            }
        }
        self.now_ms = now_ms;
        self.tell_clock(out);
    }

    /// Has what is due by now done.
    fn tell_clock(&mut self, out: &mut Vec<Output>) {
        if self.definition.chain.due_ms().is_some_and(|due| due <= self.now_ms) {
            self.tell_steps(out);
        }
        let now_ms = self.now_ms;
        for (room, key) in self.states.expire(now_ms) {
            let mut patch = Map::new();
            patch.insert(key.to_string(), Value::Null);
            out.push(delta(room, key, Entered { patch: Value::Object(patch), value: None }, now_ms));
        }
    }

    fn tell_steps(&mut self, out: &mut Vec<Output>) {
        let Self { definition, effects, now_ms, .. } = self;
        // As with events: a mistake of an operator's does not stop the pipeline for ever.
        if catch_unwind(AssertUnwindSafe(|| definition.chain.clock(*now_ms, effects))).is_err() {
            let (step, event) = ("clock".to_owned(), format!("the clock at {now_ms}"));
            let message = "an operator failed over the clock".to_owned();
            self.refusals.push(Refusal { step, reason: "invalid", message, event });
        }
        self.leave(out);
    }

    /// When the clock is wanted next, in milliseconds since 1970.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.definition.chain.due_ms().into_iter().chain(self.states.due_ms()).min()
    }

    /// The pipeline begins again after a pause in which it saw nothing. The clock is moved after it.
    pub fn resumed(&mut self, now_ms: u64) {
        self.definition.chain.resumed(now_ms);
    }

    /// What could not be worked on since the last time this was asked.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    /// Its state: steps, tables, clock.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        save(&(self.now_ms, self.definition.chain.save(), self.states.save()))
    }

    /// Takes the state that was kept. Steps whose settings are not as they were begin anew; whether none had to.
    ///
    /// # Errors
    /// [`NotMine`].
    pub fn load(&mut self, state: &[u8]) -> Result<bool, NotMine> {
        let kept: (u64, super::chain::Saved, Vec<u8>) = load(state).map_err(|_| NotMine)?;
        self.now_ms = kept.0;
        self.states.load(&kept.2).map_err(|_| NotMine)?;
        Ok(self.definition.chain.load(&kept.1))
    }

    /// Makes outputs of what the steps let out.
    fn leave(&mut self, out: &mut Vec<Output>) {
        if !self.effects.sent.is_empty() {
            let mut sent = std::mem::take(&mut self.effects.sent);
            for Sent { target, record } in sent.drain(..) {
                self.send(&target, record, out);
            }
            self.effects.sent = sent;
        }
        if !self.effects.rejected.is_empty() {
            for rejected in std::mem::take(&mut self.effects.rejected) {
                self.refuse(&rejected, out);
            }
        }
    }

    fn send(&mut self, target: &Target, record: Record, out: &mut Vec<Output>) {
        match self.address(target, &record) {
            Ok((room, kind, key)) => {
                let priority = target.priority.unwrap_or(record.priority);
                let (trace, id) = (None, None);
                let Some(rules) = &target.state else {
                    let (timestamp_ms, data, change) = (Some(record.timestamp_ms), record.json(), None);
                    let event = NewEvent { kind, key, id, priority, timestamp_ms, data, trace, change };
                    return out.push(Output { room, event });
                };
                let table_key = key.unwrap_or_default();
                match self.states.apply(&room, &table_key, record.value(), rules, self.now_ms) {
                    Ok(None) => {}
                    Ok(Some(entered)) => out.push(delta(room, table_key, entered, record.timestamp_ms)),
                    Err(too_many) => self.reject(target, record, "key", Why::Other(too_many.to_string()), out),
                }
            }
            Err((field, why)) => self.reject(target, record, &field, why, out),
        }
    }

    fn reject(&mut self, _: &Target, record: Record, field: &str, why: Why, out: &mut Vec<Output>) {
        let step = self.definition.chain.steps().len();
        self.refuse(&Rejected { step, field: field.to_owned(), why, record: Box::new(record) }, out);
    }

    /// The room, kind and key that a target gives an event.
    fn address(
        &mut self,
        target: &Target,
        record: &Record,
    ) -> Result<(RoomName, SmolStr, Option<SmolStr>), (String, Why)> {
        let missing = |field: &super::field::Field| {
            let got = record.get(field);
            let why = match got {
                super::record::Got::Missing => Why::Missing,
                got => Why::Type { expected: "text, a number or a flag", found: got.type_name() },
            };
            (field.to_string(), why)
        };
        let name = target.room.render(record).map_err(missing)?;
        let wrong = |what: &str, why: String| (what.to_owned(), Why::Other(why));
        let room = match self.names.get(&name) {
            Some(room) => room.clone(),
            None => {
                let room = RoomName::parse(&name).map_err(|error| wrong("room", format!("{name:?}: {error}")))?;
                if self.names.len() >= NAMES_KEPT {
                    self.names.clear();
                }
                self.names.insert(name, room.clone());
                room
            }
        };
        let kind = target.kind.as_ref().map_or(Ok(record.kind.clone()), |kind| kind.render(record)).map_err(missing)?;
        let key = match &target.key {
            None => record.key.clone(),
            Some(key) => Some(key.render(record).map_err(missing)?).filter(|key| !key.is_empty()),
        };
        let control = |text: &str| text.chars().any(char::is_control);
        let wrong_text = control(&kind).then_some("kind").or(key.as_deref().is_some_and(control).then_some("key"));
        if let Some(what) = wrong_text {
            return Err(wrong(what, format!("a {what} has no control characters")));
        }
        if kind.is_empty() || kind.chars().count() > 100 {
            return Err(wrong("kind", format!("a kind has 1 to 100 characters, not {:?}", kind.as_str())));
        }
        if key.as_ref().is_some_and(|key| key.chars().count() > 200) {
            return Err(wrong("key", "a key has at most 200 characters".to_owned()));
        }
        Ok((room, kind, key))
    }

    /// Counts an event that cannot be worked on, and sends it to the dead letters.
    fn refuse(&mut self, rejected: &Rejected, out: &mut Vec<Output>) {
        let Rejected { step, field, why, record } = rejected;
        let op = self.definition.chain.steps().get(*step).map_or("output", |step| step.op);
        let message = format!("{field}: {why}");
        let place = format!("{} ({op})", step + 1);
        let event = json!({
            "room": record.room.as_str(),
            "seq": record.seq,
            "kind": record.kind.as_str(),
            "key": record.key.as_deref(),
            "priority": record.priority.name(),
            "timestamp": clock::rfc3339(record.timestamp_ms),
            "data": record.value(),
        });
        self.refusals.push(Refusal {
            step: place.clone(),
            reason: why.word(),
            message: message.clone(),
            event: format!("{} {}", record.room, record.seq),
        });
        let Some(room) = self.definition.dead_letter.clone() else { return };
        let data = json!({
            "pipeline": self.definition.name,
            "step": step + 1,
            "op": op,
            "field": field,
            "reason": why.word(),
            "message": message,
            "event": event,
        });
        let event = NewEvent {
            key: record.key.clone(),
            timestamp_ms: Some(record.timestamp_ms),
            ..NewEvent::new(&record.kind, data.to_string().into())
        };
        out.push(Output { room, event });
    }
}

/// A change of a room's state as an event.
fn delta(room: RoomName, key: SmolStr, entered: Entered, time_ms: u64) -> Output {
    let change = Some(Box::new(Change { key: key.clone(), value: entered.value }));
    let key = Some(key).filter(|key| !key.is_empty());
    let timestamp_ms = Some(time_ms);
    let event = NewEvent { key, timestamp_ms, change, ..NewEvent::new("delta", entered.patch.to_string().into()) };
    Output { room, event }
}

/// All rooms that a pipeline listens to.
#[must_use]
pub fn inputs(definition: &Definition) -> Vec<Pattern> {
    let mut patterns = definition.from.clone();
    for pattern in &definition.beside {
        if !patterns.contains(pattern) {
            patterns.push(pattern.clone());
        }
    }
    patterns
}
