//! What a delivery costs in counters: the transport's counter, the connection's own books, and of one delivery in sixteen its time. With the recorder that the daemon has.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tidegate::clock;
use tidegate::engine::connections::profile::Books;
use tidegate::metrics::{exporter, record};

fn counters(c: &mut Criterion) {
    exporter::install();
    let (books, meter) = (Books::default(), &*record::WEBSOCKET);
    let mut group = c.benchmark_group("counters");
    group.bench_function("one delivery alone", |bencher| {
        let mut seq = 0_u64;
        bencher.iter(|| {
            seq += 1;
            books.delivered.add(black_box(1));
            meter.delivered(black_box(1));
            record::websocket_messages(black_box(1));
            if seq.is_multiple_of(16) {
                let now = clock::now_us();
                books.latency_us.set(now);
                meter.latency(black_box(100));
            }
            if seq.is_multiple_of(100_000) {
                // As the daemon does every five seconds; without it the samples pile up.
                exporter::upkeep();
            }
        });
    });
    group.bench_function("one delivery of a batch of 64", |bencher| {
        let mut seq = 0_u64;
        bencher.iter(|| {
            seq += 1;
            books.delivered.add(black_box(1));
            if seq.is_multiple_of(64) {
                meter.delivered(black_box(64));
                record::websocket_messages(black_box(64));
            }
            if seq.is_multiple_of(16) {
                let now = clock::now_us();
                books.latency_us.set(now);
                meter.latency(black_box(100));
            }
            if seq.is_multiple_of(1_000_000) {
                exporter::upkeep();
            }
        });
    });
    group.bench_function("one event's due, for all of its readers", |bencher| {
        let room = record::RoomMeter::new("bench");
        bencher.iter(|| room.due(black_box(1000)));
    });
    group.finish();
}

criterion_group!(benches, counters);
criterion_main!(benches);
