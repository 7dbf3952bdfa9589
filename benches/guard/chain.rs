//! Three operators one after the other, and events without end for them.

use std::sync::Arc;

use tidegate::event::{Event, Lane, Parts, RoomKey, RoomName};
use tidegate::pipelines::Definition;
use tidegate::pipelines::chain::{Chain, Effects};
use tidegate::pipelines::record::Record;
use tidegate_actors::Policy;

use crate::engine;

const PIPELINE: &str = "[pipeline]
from = 'in'
[[step]]
op = 'filter'
where = 'data.usage > 10.0'
[[step]]
op = 'window'
kind = 'tumbling'
size = '10s'
fields = { usage = ['mean', 'max', 'count'] }
[[step]]
op = 'threshold'
field = 'usage_mean'
above = 90
[[output]]
room = 'out'
";
/// A multiple of ten seconds.
const BEGIN_MS: u64 = 1_763_619_000_000;
const KEYS: u64 = 100;
/// So that in a thousand events the windows of all keys close ten times.
const STEP_MS: u64 = 100;

pub(crate) struct Stream {
    chain: Chain,
    effects: Effects,
    events: Vec<Arc<Event>>,
    count: u64,
}

impl Stream {
    pub(crate) fn new() -> Self {
        let definition = Definition::read("guard", "guard.toml", PIPELINE, None);
        let chain = definition.unwrap_or_else(|faults| panic!("{faults:?}")).chain;
        let from = RoomKey::new(RoomName::parse("in").unwrap(), Policy::default());
        let events = (0..1000).map(|place| {
            let (key, data) = (format!("node-{:05}", place % KEYS), engine::data(place));
            let (seq, arrived_ms, timestamp_ms, priority, kind) = (1, BEGIN_MS, BEGIN_MS, Lane::Normal, "sample");
            let (key, id, change, data) = (Some(key.as_str()), None, false, data.as_bytes());
            Arc::new(Event::new(&from, &Parts { seq, arrived_ms, timestamp_ms, priority, kind, key, id, change, data }))
        });
        Self { chain, effects: Effects::default(), events: events.collect(), count: 0 }
    }

    /// The next event, read from its bytes as in the daemon, with its time set anew.
    pub(crate) fn one(&mut self) {
        let place = usize::try_from(self.count).unwrap() % self.events.len();
        self.count += 1;
        let now_ms = BEGIN_MS + self.count * STEP_MS;
        if self.chain.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.chain.clock(now_ms, &mut self.effects);
        }
        let mut record = Record::of(&self.events[place], self.chain.extractor());
        (record.seq, record.timestamp_ms, record.arrived_ms) = (self.count, now_ms, now_ms);
        self.chain.record(record, now_ms, &mut self.effects);
        std::hint::black_box(&self.effects.sent);
        self.effects.sent.clear();
        assert!(
            self.effects.rejected.is_empty(),
            "{:?}",
            self.effects.rejected.first().map(|rejected| rejected.why.clone())
        );
    }
}
