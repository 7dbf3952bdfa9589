//! Where an event goes that leaves a pipeline: an output of its file, or a case of `route`.

use smol_str::SmolStr;

use super::definition::Reach;
use super::expression::Expression;
use super::section::Section;
use super::template::Template;
use crate::event::Lane;

/// Where an event goes that leaves a pipeline.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its number among the pipeline's outputs.
    pub number: usize,
    /// The room.
    pub room: Template,
    /// The kind; the event's own if none.
    pub kind: Option<Template>,
    /// The key; the event's own if none.
    pub key: Option<Template>,
    /// The priority; the event's own if none.
    pub priority: Option<Lane>,
    /// Only events of which this is true.
    pub condition: Option<Expression>,
    /// The events are the room's state: a table by key.
    pub state: Option<StateRules>,
}

/// How a room's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRules {
    /// Whether an event's data is merged into what is there, or takes its place.
    pub merge: bool,
    /// The most keys.
    pub keys_max: usize,
    /// After so many milliseconds without an event a key goes; 0 for never.
    pub expire_ms: u64,
}

impl Target {
    /// Where its events go, and as what; `None` where its room is none.
    pub(super) fn reach(&self) -> Option<Reach> {
        let fixed = self.kind.as_ref().and_then(Template::fixed);
        // Changes of a state have a kind of their own.
        let kind = if self.state.is_some() { Some("delta") } else { fixed };
        Some(Reach { rooms: self.room.rooms().ok()?, kind: kind.map(SmolStr::from) })
    }

    /// Reads an output's table.
    pub(super) fn read(section: &mut Section<'_, '_>, number: usize) -> Option<Self> {
        let room = section.template("room");
        if let Some(Err(error)) = room.as_ref().map(Template::rooms) {
            section.fault("room", error);
        }
        let (kind, key) = (section.template_if_given("kind"), section.template_if_given("key"));
        let priority = section.priority_if_given("priority");
        let condition = section.condition_if_given("where");
        let state = section.flag("state", false).then(|| StateRules {
            merge: section.choice("state_mode", &["replace", "merge"], Some("replace")) == "merge",
            keys_max: usize::try_from(section.count_or("state_keys_max", 1..=1_000_000, 100_000)).unwrap_or(usize::MAX),
            expire_ms: section.time_or("state_expire", 0),
        });
        Some(Self { number, room: room?, kind, key, priority, condition, state })
    }
}
