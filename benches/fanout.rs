//! One event from its bytes to a thousand mailboxes, step by step, without sockets.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::engine::connections::Delivery;
use tidegate::event::incoming::{BodyLimits, Format, parse};
use tidegate::event::{Event, RoomKey, RoomName};
use tidegate_actors::{Batch, Bounds, Mailbox, Policy, Told, Window};

const READERS: usize = 1000;

fn fanout(criterion: &mut Criterion) {
    let body = format!("{{\"kind\":\"sample\",\"data\":\"{}\"}}", "x".repeat(198));
    let limits = BodyLimits { event_bytes: 100 << 10, events: 1000, depth: 64 };
    let key = RoomKey::new(RoomName::parse("bench:1").unwrap(), Policy::default());
    criterion.bench_function("parse one publish body", |bencher| {
        bencher.iter(|| parse(Format::Json, black_box(body.as_bytes()), limits).unwrap());
    });
    let new = parse(Format::Json, body.as_bytes(), limits).unwrap().remove(0);
    criterion.bench_function("number and encode one event", |bencher| {
        bencher.iter_batched(|| new.clone(), |new| Event::number(&key, 1, 1, 1000, new), BatchSize::SmallInput);
    });
    let mut group = criterion.benchmark_group("deliver to 1000 mailboxes and take");
    for waiting in [1_u64, 8, 64] {
        group.throughput(Throughput::Elements(READERS as u64 * waiting));
        let mut seq = 1;
        let mut readers: Vec<_> =
            (0..READERS).map(|_| Mailbox::<Delivery>::new(Bounds { messages: 100, bytes: 1 << 20 })).collect();
        let mut batch = Batch::default();
        group.bench_function(BenchmarkId::new("events at once", waiting), |bencher| {
            bencher.iter(|| {
                let events: Vec<Arc<Event>> = (0..waiting)
                    .map(|_| {
                        seq += 1;
                        Arc::new(Event::number(&key, seq, 1, 1000, new.clone()))
                    })
                    .collect();
                for (mailbox, inbox) in &mut readers {
                    let mut told = Told::default();
                    mailbox.offer_all(events.iter().map(|event| Delivery::Event(Arc::clone(event))), &mut told);
                    inbox.try_take(&mut batch, Window::ALL);
                    batch.messages.clear();
                }
            });
        });
    }
}

criterion_group!(benches, fanout);
criterion_main!(benches);
