//! Pipelines' steps on one core, without rooms and journals: each operator alone, a chain of three, and what a key weighs.
//!
//! `cargo bench --bench operators` runs all; `-- memory` only what keys weigh, any other word only the rows with it in their name. Events are JSON of about 100 bytes and come from a ring
//! that was built before; each is read from its bytes as in the daemon, with its time set anew, so that time goes on and windows close: a millisecond has 100 events, whatever the keys.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a bench"
)]

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use serde_json::json;
use tidegate::event::{Event, Lane, Parts, RoomKey, RoomName};
use tidegate::pipelines::Definition;
use tidegate::pipelines::chain::{Chain, Effects};
use tidegate::pipelines::record::Record;
use tidegate_actors::Policy;

/// As in the daemon.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KEYS: usize = 100;
const EVENTS_PER_MS: usize = 100;
/// A multiple of ten seconds.
const BEGIN_MS: u64 = 1_763_619_000_000;
const MEMORY_KEYS: usize = 1_000_000;

/// Names of rows, and their steps. Where there are keys, there may be as many as [`MEMORY_KEYS`].
const STEPS: [(&str, &str); 26] = [
    ("filter", "op = 'filter'\nwhere = 'data.usage > 10.0'"),
    ("map", "op = 'map'\nset = { total = 'data.disk.free + data.disk.used' }\nremove = 'disk'"),
    ("flatten", "op = 'flatten'"),
    ("rename", "op = 'rename'\nfields = { usage = 'cpu.usage' }"),
    (
        "validate",
        "op = 'validate'\n[step.schema]\ntype = 'object'\nrequired = ['host', 'usage']\n\
         properties.usage = { type = 'number', minimum = 0, maximum = 100 }\n\
         properties.text = { type = 'string', maxLength = 200 }",
    ),
    ("dedupe first", "op = 'dedupe'\nwithin = '10s'\nkeys_max = 2000000"),
    ("dedupe changes", "op = 'dedupe'\nmode = 'changes'\nfield = 'usage'\nwithin = '10s'\nkeys_max = 2000000"),
    ("sample every", "op = 'sample'\nevery = 10\nkeys_max = 2000000"),
    ("sample percent", "op = 'sample'\npercent = 10"),
    ("throttle", "op = 'throttle'\nperiod = '1s'\nkeys_max = 2000000"),
    ("debounce", "op = 'debounce'\nquiet = '5s'\nmax_wait = '10s'\nkeys_max = 2000000"),
    ("batch", "op = 'batch'\ncount = 100\ntime = '10s'\nkeys_max = 2000000"),
    (
        "gather",
        "op = 'gather'\nperiod = '250ms'\n\
         part = [{ name = 'busy', as = 'list', where = 'data.usage > 99.0' }, { name = 'hosts', as = 'rows' }]",
    ),
    ("window tumbling", TUMBLING),
    (
        "window sliding",
        "op = 'window'\nkind = 'sliding'\nsize = '10s'\nevery = '1s'\nkeys_max = 2000000\n\
         fields = { usage = ['mean', 'max', 'count'] }",
    ),
    (
        "window session",
        "op = 'window'\nkind = 'session'\ngap = '5s'\nmax = '10s'\nkeys_max = 2000000\n\
         fields = { usage = ['mean', 'max', 'count'] }",
    ),
    ("aggregate", "op = 'aggregate'\nkeys_max = 2000000\nfields = { usage = ['mean', 'max', 'count'] }"),
    (
        "aggregate recent",
        "op = 'aggregate'\nkeys_max = 2000000\nemit_every = '1s'\n\
         recent = [{ name = 'last', events = 100, fields = { usage = ['mean', 'max'] } }, { name = 'now', age = '10s' }]",
    ),
    ("aggregate p95", "op = 'aggregate'\nkeys_max = 2000000\nfields = { usage = 'p95' }"),
    (
        "rollup",
        "op = 'rollup'\nkeys_max = 1000000\nemit_every = '1s'\nfields = { usage = ['mean', 'max'] }\n\
         count = [{ name = 'busy', where = 'data.usage > 90.0' }]",
    ),
    ("delta", "op = 'delta'\nkeys_max = 2000000"),
    ("threshold", "op = 'threshold'\nfield = 'usage'\nabove = 90\nclear_above = 80\nhold = '1s'\nkeys_max = 2000000"),
    ("anomaly", "op = 'anomaly'\nfield = 'usage'\nkeys_max = 2000000"),
    ("patterns", "op = 'patterns'\nfield = 'text'"),
    ("join", "op = 'join'\nwith = 'hosts'\nfields = { site = 'site' }\nmissing = 'dead_letter'\nkeys_max = 2000000"),
    (
        "route",
        "op = 'route'\nto = [{ where = 'data.usage > 90.0', room = 'high', priority = 'high' }, { room = 'others' }]",
    ),
];

const TUMBLING: &str = "op = 'window'\nkind = 'tumbling'\nsize = '10s'\nkeys_max = 2000000\n\
     fields = { usage = ['mean', 'max', 'count'] }";

/// The rows whose keys are weighed.
const KEYED: [&str; 15] = [
    "dedupe first",
    "dedupe changes",
    "sample every",
    "throttle",
    "debounce",
    "batch",
    "window tumbling",
    "window sliding",
    "window session",
    "aggregate",
    "rollup",
    "delta",
    "threshold",
    "anomaly",
    "join",
];

fn step(name: &str) -> &'static str {
    STEPS.iter().find(|(other, _)| *other == name).unwrap().1
}

fn chain(steps: &[&str]) -> Chain {
    let steps = steps.join("\n[[step]]\n");
    let text = format!("[pipeline]\nfrom = 'in'\n[[step]]\n{steps}\n[[output]]\nroom = 'out'\n");
    match Definition::read("bench", "bench.toml", &text, None) {
        Ok(definition) => definition.chain,
        Err(faults) => panic!("{faults:?}\n{text}"),
    }
}

/// What stands for chance: SplitMix64.
fn mixed(number: usize) -> u64 {
    let mut mixed = (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

/// An event about a key; the `round` makes it another one than those before.
fn event(room: &RoomKey, key: usize, round: usize) -> Arc<Event> {
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
struct Stream {
    chain: Chain,
    effects: Effects,
    events: Vec<Arc<Event>>,
    at: usize,
    count: u64,
    in_ms: usize,
    now_ms: u64,
}

impl Stream {
    fn new(steps: &[&str], keys: usize) -> Self {
        let from = RoomKey::new(room("in"), Policy::default());
        let rounds = (10_000 / keys).max(10);
        let events = (0..rounds).flat_map(|round| (0..keys).map(move |key| (key, round)));
        let events: Vec<Arc<Event>> = events.map(|(key, round)| event(&from, key, round)).collect();
        let mut stream = Self::without_events(steps);
        (0..keys).for_each(|key| stream.tell_beside(key));
        stream.events = events;
        stream
    }

    fn without_events(steps: &[&str]) -> Self {
        let (chain, effects, events) = (chain(steps), Effects::default(), Vec::new());
        Self { chain, effects, events, at: 0, count: 0, in_ms: 0, now_ms: BEGIN_MS }
    }

    /// What `join` looks up.
    fn tell_beside(&mut self, key: usize) {
        let data = json!({ "site": format!("north-{}", key % 10), "rack": key % 40 });
        let name = format!("node-{key:07}");
        let record = Record::made(room("hosts"), "host", Some(name.into()), BEGIN_MS, BEGIN_MS, data);
        self.chain.beside(&record, BEGIN_MS, &mut self.effects);
    }

    /// The next event.
    fn one(&mut self) {
        let event = Arc::clone(&self.events[self.at]);
        self.at = if self.at + 1 == self.events.len() { 0 } else { self.at + 1 };
        self.in_ms += 1;
        if self.in_ms == EVENTS_PER_MS {
            self.in_ms = 0;
            self.clock(self.now_ms + 1);
        }
        self.work(&event);
    }

    fn clock(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if self.chain.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.chain.clock(now_ms, &mut self.effects);
        }
    }

    /// As `Chain::event`, at the stream's time.
    fn work(&mut self, event: &Arc<Event>) {
        self.count += 1;
        let mut record = Record::of(event, self.chain.extractor());
        (record.seq, record.timestamp_ms, record.arrived_ms) = (self.count, self.now_ms, self.now_ms);
        self.chain.record(record, self.now_ms, &mut self.effects);
        black_box(&self.effects.sent);
        self.effects.sent.clear();
        // Refusing is another thing, and cheaper or dearer.
        if let Some(rejected) = self.effects.rejected.first() {
            panic!("{}: {}", rejected.field, rejected.why);
        }
    }
}

fn operators(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("operator");
    group.throughput(Throughput::Elements(1));
    for (name, settings) in STEPS {
        let mut stream = None;
        group.bench_function(name, |bencher| {
            let stream = stream.get_or_insert_with(|| Stream::new(&[settings], KEYS));
            bencher.iter(|| stream.one());
        });
    }
    group.finish();
}

fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter, window, threshold");
    group.throughput(Throughput::Elements(1));
    let steps = [step("filter"), TUMBLING, "op = 'threshold'\nfield = 'usage_mean'\nabove = 90\nkeys_max = 2000000"];
    for keys in [10, 10_000] {
        let mut stream = None;
        group.bench_function(BenchmarkId::new("keys", keys), |bencher| {
            let stream = stream.get_or_insert_with(|| Stream::new(&steps, keys));
            bencher.iter(|| stream.one());
        });
    }
    group.finish();
}

/// Each in a process of its own: what one has given back to the allocator would be there for the next.
fn memory() {
    println!("| after two events of each of {MEMORY_KEYS} keys | resident bytes a key | bytes a key as it is kept |");
    println!("| --- | --- | --- |");
    for name in KEYED {
        let status = Command::new(std::env::current_exe().unwrap()).args(["--memory-of", name]).status();
        assert!(status.unwrap().success(), "{name}");
    }
}

fn memory_of(name: &str) {
    let from = RoomKey::new(room("in"), Policy::default());
    let mut stream = Stream::without_events(&[step(name)]);
    let before = resident_bytes();
    for round in 0..2 {
        stream.now_ms = BEGIN_MS + round as u64 * 100;
        for key in 0..MEMORY_KEYS {
            if round == 0 {
                stream.tell_beside(key);
            }
            stream.work(&event(&from, key, round));
        }
    }
    let resident = resident_bytes().saturating_sub(before);
    assert_eq!(stream.chain.keys(), MEMORY_KEYS, "{name}");
    let kept: usize = stream.chain.save().iter().map(|(_, state)| state.len()).sum();
    let each = |bytes: f64| bytes / MEMORY_KEYS as f64;
    println!("| {name} | {:.0} | {:.0} |", each(resident as f64), each(kept as f64));
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, ..] = &arguments[..]
        && flag == "--memory-of"
    {
        return memory_of(name);
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    if filter.is_none_or(|filter| filter == "memory") && !arguments.iter().any(|argument| argument == "--test") {
        memory();
    }
    let mut criterion = Criterion::default().configure_from_args();
    operators(&mut criterion);
    chains(&mut criterion);
    criterion.final_summary();
}
