//! Pipelines' steps on one core, without rooms and journals: each operator alone, a chain of three, and what a key weighs.
//!
//! `cargo bench --bench operators` runs all; `-- memory` only what keys weigh, any other word only the rows with it in their name. Where events come from: `goals::chain`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, missing_docs, reason = "a bench")]

use std::process::Command;

use criterion::{BenchmarkId, Criterion, Throughput};
use tidegate::cli::bench::goals::chain::{BEGIN_MS, CHAIN, Stream, TUMBLING, event, source};

/// As in the daemon.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KEYS: usize = 100;
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

fn operators(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("operator");
    group.throughput(Throughput::Elements(1));
    for (name, settings) in STEPS {
        let mut stream = None;
        group.bench_function(name, |bencher| {
            let stream = stream.get_or_insert_with(|| Stream::new(&[settings], KEYS).unwrap());
            bencher.iter(|| stream.one().unwrap());
        });
    }
    group.finish();
}

fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter, window, threshold");
    group.throughput(Throughput::Elements(1));
    for keys in [10, 10_000] {
        let mut stream = None;
        group.bench_function(BenchmarkId::new("keys", keys), |bencher| {
            let stream = stream.get_or_insert_with(|| Stream::new(&CHAIN, keys).unwrap());
            bencher.iter(|| stream.one().unwrap());
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
    let from = source().unwrap();
    let mut stream = Stream::without_events(&[step(name)]).unwrap();
    let before = resident_bytes();
    for round in 0..2 {
        stream.set_ms(BEGIN_MS + round as u64 * 100);
        for key in 0..MEMORY_KEYS {
            if round == 0 {
                stream.tell_beside(key).unwrap();
            }
            stream.work(&event(&from, key, round)).unwrap();
        }
    }
    let resident = resident_bytes().saturating_sub(before);
    assert_eq!(stream.chain().keys(), MEMORY_KEYS, "{name}");
    let kept: usize = stream.chain().save().iter().map(|(_, state)| state.len()).sum();
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
