//! A pipeline's steps in their order: an event goes through them one after the other, and what comes out at the end goes to the outputs.
//!
//! Pure: events and the clock in, outputs and rejected events out. The same steps with the same state, events and times give the same outputs, which is what recovery stands on.

use std::sync::Arc;

use super::field::Extractor;
use super::operator::{Context, Next, Operator, Rejected, Sent};
use super::operators;
use super::record::Record;
use super::target::Target;
use crate::event::Event;

/// A step.
#[derive(Debug)]
pub struct Step {
    /// Its operator's name.
    pub op: &'static str,
    /// Its settings, by which it is known again.
    pub settings: String,
    pub(super) operator: Box<dyn Operator>,
}

impl Step {
    /// Whether a step with these settings was this one, and differs only in what says nothing about what it keeps.
    fn is_adjusted(&self, settings: &str) -> bool {
        let essence = |settings: &str| {
            let mut table: toml::Table = toml::from_str(&format!("step = {settings}")).ok()?;
            let step = table.get_mut("step")?.as_table_mut()?;
            operators::adjustable(self.op).iter().for_each(|name| drop(step.remove(*name)));
            Some(table)
        };
        !operators::adjustable(self.op).is_empty()
            && essence(settings).is_some_and(|was| essence(&self.settings) == Some(was))
    }
}

/// What came of events and of the clock.
#[derive(Debug, Default)]
pub struct Effects {
    /// Events that leave the pipeline.
    pub sent: Vec<Sent>,
    /// Events that could not be worked on.
    pub rejected: Vec<Rejected>,
}

/// The state of one step: its place, its settings, and what it wrote down.
pub type Saved = Vec<(String, Vec<u8>)>;

/// The steps and outputs of a pipeline.
#[derive(Debug)]
pub struct Chain {
    extractor: Extractor,
    steps: Vec<Step>,
    outputs: Vec<Arc<Target>>,
    /// For each step, what it emits: kept so that nothing is allocated for it.
    emitted: Vec<Vec<Record>>,
}

impl Chain {
    /// Steps and outputs.
    #[must_use]
    pub fn new(extractor: Extractor, steps: Vec<Step>, outputs: Vec<Arc<Target>>) -> Self {
        let emitted = steps.iter().map(|_| Vec::new()).collect();
        Self { extractor, steps, outputs, emitted }
    }

    /// What reads events' data for it.
    #[must_use]
    pub fn extractor(&self) -> &Extractor {
        &self.extractor
    }

    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Works on an event.
    pub fn event(&mut self, event: &Arc<Event>, now_ms: u64, effects: &mut Effects) {
        self.record(Record::of(event, &self.extractor), now_ms, effects);
    }

    /// Works on an event that is one already.
    pub fn record(&mut self, record: Record, now_ms: u64, effects: &mut Effects) {
        self.run(0, record, now_ms, effects);
    }

    /// Lets the steps that look into its room beside take an event in.
    pub fn beside(&mut self, record: &Record, now_ms: u64, effects: &mut Effects) {
        for at in 0..self.steps.len() {
            if self.steps[at].operator.beside().is_none_or(|pattern| !pattern.matches(&record.room)) {
                continue;
            }
            let mut emitted = std::mem::take(&mut self.emitted[at]);
            let (sent, rejected) = (&mut effects.sent, &mut effects.rejected);
            let mut cx = Context { now_ms, step: at, emitted: &mut emitted, sent, rejected };
            self.steps[at].operator.event_beside(record, &mut cx);
            self.pass_on(at, emitted, now_ms, effects);
        }
    }

    fn run(&mut self, from: usize, mut record: Record, now_ms: u64, effects: &mut Effects) {
        for at in from..self.steps.len() {
            let mut emitted = std::mem::take(&mut self.emitted[at]);
            let mut cx = Context {
                now_ms,
                step: at,
                emitted: &mut emitted,
                sent: &mut effects.sent,
                rejected: &mut effects.rejected,
            };
            let next = self.steps[at].operator.event(&mut record, &mut cx);
            self.pass_on(at, emitted, now_ms, effects);
            if next == Next::Drop {
                return;
            }
        }
        self.leave(record, effects);
    }

    /// Sends what a step has emitted to the next one.
    fn pass_on(&mut self, at: usize, mut emitted: Vec<Record>, now_ms: u64, effects: &mut Effects) {
        for record in emitted.drain(..) {
            self.run(at + 1, record, now_ms, effects);
        }
        self.emitted[at] = emitted;
    }

    fn leave(&mut self, record: Record, effects: &mut Effects) {
        let outputs = self.outputs.len();
        let mut record = Some(record);
        for at in 0..outputs {
            let target = &self.outputs[at];
            let Some(own) = (if at + 1 == outputs { record.take() } else { record.clone() }) else { return };
            match target.condition.as_ref().map_or(Ok(true), |condition| condition.test(&own)) {
                Ok(true) => effects.sent.push(Sent { target: Arc::clone(target), record: own }),
                Ok(false) => {}
                Err(failure) => {
                    let (step, field, why) = (self.steps.len(), failure.field, failure.why);
                    effects.rejected.push(Rejected { step, field, why, record: Box::new(own) });
                }
            }
        }
    }

    /// Tells the steps how far the clock is.
    pub fn clock(&mut self, now_ms: u64, effects: &mut Effects) {
        for at in 0..self.steps.len() {
            if self.steps[at].operator.due_ms().is_none_or(|due| due > now_ms) {
                continue;
            }
            let mut emitted = std::mem::take(&mut self.emitted[at]);
            let mut cx = Context {
                now_ms,
                step: at,
                emitted: &mut emitted,
                sent: &mut effects.sent,
                rejected: &mut effects.rejected,
            };
            self.steps[at].operator.clock(&mut cx);
            self.pass_on(at, emitted, now_ms, effects);
        }
    }

    /// When the clock is wanted next, in milliseconds since 1970.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.steps.iter().filter_map(|step| step.operator.due_ms()).min()
    }

    /// The pipeline begins again after a pause.
    pub fn resumed(&mut self, now_ms: u64) {
        self.steps.iter_mut().for_each(|step| step.operator.resumed(now_ms));
    }

    /// How many keys all steps keep together.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.steps.iter().map(|step| step.operator.keys()).sum()
    }

    /// The state of all steps.
    #[must_use]
    pub fn save(&self) -> Saved {
        self.steps.iter().map(|step| (step.settings.clone(), step.operator.save())).collect()
    }

    /// Takes the state that was kept, each step that of the one with the same settings, or with others that only adjust it; whether all of it was taken.
    pub fn load(&mut self, saved: &[(String, Vec<u8>)]) -> bool {
        let mut left: Vec<&(String, Vec<u8>)> = saved.iter().collect();
        let mut all = true;
        for step in &mut self.steps {
            // Of several with the same settings the first goes to the first.
            let same = left.iter().position(|(settings, _)| *settings == step.settings);
            let at = same.or_else(|| left.iter().position(|(settings, _)| step.is_adjusted(settings)));
            let loaded = at.map(|at| left.remove(at)).is_some_and(|(_, state)| step.operator.load(state).is_ok());
            all &= loaded;
        }
        all && left.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use crate::event::RoomName;
    use crate::pipelines::record::Record;
    use crate::pipelines::{Definition, Machine};

    #[test]
    fn data_that_is_hard_to_read_goes_through_all_the_same() {
        let text =
            "[pipeline]\nfrom = \"in\"\n[[step]]\nop = \"map\"\nset = { y = \"1\" }\n[[output]]\nroom = \"out\"\n";
        let mut machine = Machine::new(Definition::read("p", "p.toml", text, None).unwrap());
        let mut out = Vec::new();
        let deep = format!("{{\"x\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        for json in ["{\"x\":1e999}".to_owned(), deep] {
            let record = Record::made(RoomName::parse("in").unwrap(), "k", None, 1, 1, json!(null));
            let record = record.given(json.into(), machine.definition().chain.extractor());
            machine.record(record, &mut out);
        }
        let rooms: Vec<&str> = out.iter().map(|output| output.room.as_str()).collect();
        assert_eq!(rooms, ["out", "out"]);
        let data = String::from_utf8_lossy(&out[0].event.data);
        assert!(data.contains("1.7976931348623157e"), "{data}");
        assert!(out[1].event.data.len() > 1000);
    }

    #[test]
    fn a_step_that_is_only_adjusted_keeps_its_state() {
        let machine = |period: &str, kind: &str| {
            let text = format!(
                "[pipeline]\nfrom = \"in\"\n[[step]]\nop = \"gather\"\nperiod = \"{period}\"\nas_kind = \"{kind}\"\n\
                 [[step.part]]\nname = \"a\"\nas = \"object\"\n[[output]]\nroom = \"out\"\n"
            );
            Machine::new(Definition::read("p", "p.toml", &text, None).unwrap())
        };
        let saved = machine("1s", "x").save();
        assert_eq!(machine("1s", "x").load(&saved), Ok(true));
        assert_eq!(machine("2s", "x").load(&saved), Ok(true), "a period says nothing about what is gathered");
        assert_eq!(machine("2s", "y").load(&saved), Ok(false));
    }
}
