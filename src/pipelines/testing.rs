//! One operator alone, for its tests: events in, events out, by a clock that the test moves.

use serde_json::Value;

use super::chain::Effects;
use super::definition::Definition;
use super::record::Record;
use crate::event::RoomName;

/// An operator under test.
#[derive(Debug)]
pub(crate) struct Bench {
    definition: Definition,
    effects: Effects,
    now_ms: u64,
    seq: u64,
}

impl Bench {
    /// A pipeline of one step (or of several, parted by `[[step]]`), whose settings are TOML. Panics with what is wrong with them.
    #[must_use]
    #[allow(clippy::expect_used, clippy::panic, reason = "for tests")]
    pub(crate) fn new(step: &str) -> Self {
        match Self::try_new(step) {
            Ok(bench) => bench,
            Err(faults) => panic!("{faults}"),
        }
    }

    /// As [`Bench::new`], or what is wrong with the settings, one fault a line.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn try_new(step: &str) -> Result<Self, String> {
        let text = format!("[pipeline]\nfrom = \"in\"\n[[step]]\n{step}\n[[output]]\nroom = \"out\"\n");
        let definition = Definition::read("test", "test.toml", &text, None)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        Ok(Self { definition, effects: Effects::default(), now_ms: 0, seq: 0 })
    }

    /// An event that happens and arrives at a time, whose data is given: what comes out of the operator for it, as data.
    pub(crate) fn event(&mut self, now_ms: u64, data: Value) -> Vec<Value> {
        self.keyed(now_ms, None, data)
    }

    /// As [`Bench::event`], about a key.
    pub(crate) fn keyed(&mut self, now_ms: u64, key: Option<&str>, data: Value) -> Vec<Value> {
        self.full(now_ms, now_ms, key, data).into_iter().map(|record| record.value()).collect()
    }

    /// A change of the room's state: a merge patch of its whole table.
    pub(crate) fn change(&mut self, now_ms: u64, data: Value) -> Vec<Value> {
        let came = self.work(now_ms, now_ms, None, data, true);
        came.into_iter().map(|record| record.value()).collect()
    }

    /// As [`Bench::event`], of an event that happened at another time than it arrives; the clock is moved to its arrival first. The records that come out.
    pub(crate) fn full(&mut self, happened_ms: u64, arrives_ms: u64, key: Option<&str>, data: Value) -> Vec<Record> {
        self.work(happened_ms, arrives_ms, key, data, false)
    }

    #[allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "for tests")]
    fn work(&mut self, happened_ms: u64, arrives_ms: u64, key: Option<&str>, data: Value, change: bool) -> Vec<Record> {
        self.now_ms = self.now_ms.max(arrives_ms);
        self.seq += 1;
        let room = RoomName::parse("in").unwrap();
        let mut record = Record::made(room, "sample", key.map(Into::into), happened_ms, arrives_ms, Value::Null);
        record.seq = self.seq;
        let mut record = record.given(data.to_string().into(), self.definition.chain.extractor());
        record.change = change;
        self.definition.chain.clock(self.now_ms, &mut self.effects);
        self.definition.chain.record(record, self.now_ms, &mut self.effects);
        self.effects.sent.drain(..).map(|sent| sent.record).collect()
    }

    /// Moves the clock: what comes out by that, as data.
    pub(crate) fn clock(&mut self, now_ms: u64) -> Vec<Value> {
        self.clock_full(now_ms).into_iter().map(|record| record.value()).collect()
    }

    /// Moves the clock: the records that come out by that.
    pub(crate) fn clock_full(&mut self, now_ms: u64) -> Vec<Record> {
        self.now_ms = self.now_ms.max(now_ms);
        self.definition.chain.clock(self.now_ms, &mut self.effects);
        self.effects.sent.drain(..).map(|sent| sent.record).collect()
    }

    /// When the operator wants to hear of the clock.
    #[must_use]
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.definition.chain.due_ms()
    }

    /// What was refused so far, as `field: why`.
    pub(crate) fn rejected(&mut self) -> Vec<String> {
        self.effects.rejected.drain(..).map(|rejected| format!("{}: {}", rejected.field, rejected.why)).collect()
    }

    /// How many keys are kept.
    #[must_use]
    pub(crate) fn keys(&self) -> usize {
        self.definition.chain.keys()
    }

    /// Writes the state down and goes on with a new operator that has read it, as after a restart.
    #[allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "for tests")]
    pub(crate) fn restart(&mut self) {
        let state = self.definition.chain.save();
        let text = self.definition.text.clone();
        self.definition = Definition::read("test", "test.toml", &text, None).unwrap();
        assert!(self.definition.chain.load(&state), "the state was not taken back");
    }

    /// The pipeline begins again after a pause.
    pub(crate) fn resumed(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.definition.chain.resumed(self.now_ms);
    }
}
