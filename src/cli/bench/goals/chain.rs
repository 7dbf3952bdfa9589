//! Pipelines' steps on one core, without rooms and journals: a chain, and events without end for it. `benches/operators.rs` measures each operator by it, the row `operators` a
//! chain of three.
//!
//! Events are JSON of about 100 bytes and come from a ring that was built before; each is read from its bytes as in the daemon, with its time set anew, so that time goes on and
//! windows close: a millisecond has 100 events, whatever the keys.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use serde_json::json;
use tidegate_actors::Policy;

use crate::event::{Event, Lane, Parts, RoomKey, RoomName};
use crate::pipelines::Definition;
use crate::pipelines::chain::{Chain, Effects};
use crate::pipelines::record::Record;

const EVENTS_PER_MS: usize = 100;
/// When the first event is. A multiple of ten seconds.
pub const BEGIN_MS: u64 = 1_763_619_000_000;
/// Events in the ring.
const RING: usize = 10_000;

/// A window of ten seconds for each key.
pub const TUMBLING: &str = "op = 'window'\nkind = 'tumbling'\nsize = '10s'\nkeys_max = 2000000\n\
     fields = { usage = ['mean', 'max', 'count'] }";

/// The chain of the goals: filter, window, threshold.
pub const CHAIN: [&str; 3] = [
    "op = 'filter'\nwhere = 'data.usage > 10.0'",
    TUMBLING,
    "op = 'threshold'\nfield = 'usage_mean'\nabove = 90\nkeys_max = 2000000",
];

fn chain(steps: &[&str]) -> anyhow::Result<Chain> {
    let steps = steps.join("\n[[step]]\n");
    let text = format!("[pipeline]\nfrom = 'in'\n[[step]]\n{steps}\n[[output]]\nroom = 'out'\n");
    let definition = Definition::read("bench", "bench.toml", &text, None);
    Ok(definition.map_err(|faults| anyhow!("{faults:?}\n{text}"))?.chain)
}

/// What stands for chance: SplitMix64.
fn mixed(number: usize) -> u64 {
    let mut mixed = (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn room(name: &str) -> anyhow::Result<RoomName> {
    RoomName::parse(name).map_err(|error| anyhow!("{name}: {error:?}"))
}

/// The room that events are from.
///
/// # Errors
/// Never, in fact: its name is one.
pub fn source() -> anyhow::Result<RoomKey> {
    Ok(RoomKey::new(room("in")?, Policy::default()))
}

/// An event about a key; the `round` makes it another one than those before.
#[must_use]
pub fn event(room: &RoomKey, key: usize, round: usize) -> Arc<Event> {
    let chance = mixed(key * 1_000_003 + round);
    let (percent, rest, free, block) = (chance % 100, chance / 100 % 100, (chance >> 40) & 8191, (chance >> 20) & 4095);
    let name = format!("node-{key:07}");
    let used = 8192 - free;
    let data = format!(
        r#"{{"host":"{name}","usage":{percent}.{rest:02},"disk":{{"free":{free},"used":{used}}},"text":"read of {block} took 5 ms"}}"#
    );
    let (seq, key, id) = (1, Some(name.as_str()), None);
    let (arrived_ms, timestamp_ms, priority, kind) = (BEGIN_MS, BEGIN_MS, Lane::Normal, "sample");
    Arc::new(Event::new(
        room,
        &Parts { seq, arrived_ms, timestamp_ms, priority, kind, key, id, change: false, data: data.as_bytes() },
    ))
}

/// A chain, and events without end for it.
#[allow(missing_debug_implementations, reason = "a chain has none")]
pub struct Stream {
    chain: Chain,
    effects: Effects,
    events: Vec<Arc<Event>>,
    at: usize,
    count: u64,
    in_ms: usize,
    now_ms: u64,
}

impl Stream {
    /// Events about so many keys in turn.
    ///
    /// # Errors
    /// When the steps are wrong.
    pub fn new(steps: &[&str], keys: usize) -> anyhow::Result<Self> {
        let from = source()?;
        let rounds = (RING / keys).max(10);
        let mut stream = Self::without_events(steps)?;
        for key in 0..keys {
            stream.tell_beside(key)?;
        }
        let events = (0..rounds).flat_map(|round| (0..keys).map(move |key| (key, round)));
        stream.events = events.map(|(key, round)| event(&from, key, round)).collect();
        Ok(stream)
    }

    /// One that is given its events.
    ///
    /// # Errors
    /// When the steps are wrong.
    pub fn without_events(steps: &[&str]) -> anyhow::Result<Self> {
        let (chain, effects, events) = (chain(steps)?, Effects::default(), Vec::new());
        Ok(Self { chain, effects, events, at: 0, count: 0, in_ms: 0, now_ms: BEGIN_MS })
    }

    /// What `join` looks up.
    ///
    /// # Errors
    /// Never, in fact: the room's name is one.
    pub fn tell_beside(&mut self, key: usize) -> anyhow::Result<()> {
        let data = json!({ "site": format!("north-{}", key % 10), "rack": key % 40 });
        let name = format!("node-{key:07}");
        let record = Record::made(room("hosts")?, "host", Some(name.into()), BEGIN_MS, BEGIN_MS, data);
        self.chain.beside(&record, BEGIN_MS, &mut self.effects);
        Ok(())
    }

    /// The next event.
    ///
    /// # Errors
    /// When the chain refuses it: that is another thing, and cheaper or dearer.
    pub fn one(&mut self) -> anyhow::Result<()> {
        let event = Arc::clone(&self.events[self.at]);
        self.at = if self.at + 1 == self.events.len() { 0 } else { self.at + 1 };
        self.in_ms += 1;
        if self.in_ms == EVENTS_PER_MS {
            self.in_ms = 0;
            self.clock(self.now_ms + 1);
        }
        self.work(&event)
    }

    /// Goes on to this time.
    pub fn clock(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if self.chain.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.chain.clock(now_ms, &mut self.effects);
        }
    }

    /// As `Chain::event`, at the stream's time.
    ///
    /// # Errors
    /// When the chain refuses it.
    pub fn work(&mut self, event: &Arc<Event>) -> anyhow::Result<()> {
        self.count += 1;
        let mut record = Record::of(event, self.chain.extractor());
        (record.seq, record.timestamp_ms, record.arrived_ms) = (self.count, self.now_ms, self.now_ms);
        self.chain.record(record, self.now_ms, &mut self.effects);
        black_box(&self.effects.sent);
        self.effects.sent.clear();
        if let Some(rejected) = self.effects.rejected.first() {
            bail!("{}: {}", rejected.field, rejected.why);
        }
        Ok(())
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Sets the time without telling the chain.
    pub fn set_ms(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }
}
