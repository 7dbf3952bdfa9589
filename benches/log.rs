//! The log alone: appends by acknowledgement and group, and reading back.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::clock;
use tidegate::event::{Ack, Event, NewEvent, RoomKey, RoomName};
use tidegate::log::Log;
use tidegate::settings::{Settings, Sources};

fn open(dir: &std::path::Path, read_cache: &str) -> Log {
    let flags = [("log.dir", dir.display().to_string()), ("log.read_cache_bytes", read_cache.to_owned())];
    let flags = flags.map(|(key, value)| (key.to_owned(), value)).to_vec();
    let settings = Settings::load(&Sources { flags, ..Sources::default() }).unwrap();
    Log::open(&settings.log, &settings.rooms).unwrap()
}

fn log(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), "32MiB");
    let key = RoomKey::new(RoomName::parse("bench").unwrap(), tidegate_actors::Policy::default());
    let room = log.room_or_create(key.name(), 1);
    let data = bytes::Bytes::from(format!("\"{}\"", "x".repeat(198)));
    let mut next = 1;
    let mut group = criterion.benchmark_group("append");
    for (ack, count) in [(Ack::Logged, 1), (Ack::Logged, 64), (Ack::Logged, 512), (Ack::Synced, 1), (Ack::Synced, 512)]
    {
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new(ack.name(), count), |bencher| {
            bencher.iter(|| {
                let events = (next..next + count).map(|seq| {
                    Arc::new(Event::number(
                        &key,
                        seq,
                        clock::now_ms(),
                        clock::now_us(),
                        NewEvent::new("sample", data.clone()),
                    ))
                });
                next += count;
                runtime.block_on(async {
                    log.append(&room, events.collect(), ack).await.unwrap().unwrap().await.unwrap()
                });
            });
        });
    }
    group.finish();
    read(criterion, "read, held by the cache", &runtime, &log, &key);
    drop(room);
    assert!(log.close(std::time::Duration::from_secs(60)));
    drop(log);
    let log = open(dir.path(), "0B");
    read(criterion, "read, decoded anew", &runtime, &log, &key);
}

fn read(criterion: &mut Criterion, name: &str, runtime: &tokio::runtime::Runtime, log: &Log, key: &RoomKey) {
    let room = log.room(key.name()).unwrap();
    let mut group = criterion.benchmark_group(name);
    for count in [100, 1000, 10_000] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            let after = room.before_newest(count).unwrap();
            bencher.iter(|| {
                let read = runtime.block_on(log.read_wait(key, &room, after, usize::MAX)).unwrap();
                assert_eq!(read.len() as u64, count);
            });
        });
    }
}

criterion_group!(benches, log);
criterion_main!(benches);
