//! The steps of an event's way that are counted: what each is made of, what a round does, and what the count is divided by.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use tidegate::edge::measured as dialects;
use tidegate::engine::connections::{Delivery, Dialect};
use tidegate::event::incoming::{BodyLimits, Format, parse};
use tidegate::event::{Event, NewEvent, RoomKey, RoomName};
use tidegate::log::measured as log;
use tidegate_actors::{Batch, Bounds, Mailbox, Policy, Told, Window};
use tokio::sync::Notify;

use crate::callgrind::aside;
use crate::chain::Stream;
use crate::engine::{Engine, data};

/// What a round does.
pub(crate) type Work = Box<dyn FnMut()>;

/// A step that is counted.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// So many of what the figure is of are in a round.
    pub(crate) units: u64,
    /// N.
    pub(crate) rounds: u64,
    pub(crate) prepare: fn() -> Work,
}

const READERS: u64 = 200;
const GROUP: u64 = 64;

pub(crate) const STEPS: [Step; 14] = [
    Step { name: "parse one publish body", units: 1, rounds: 1000, prepare: parse_body },
    Step { name: "number and encode one event", units: 1, rounds: 1000, prepare: number },
    Step { name: "offer one event to a mailbox and take it, 1 waiting", units: 1, rounds: 1000, prepare: || offer(1) },
    Step {
        name: "offer one event to a mailbox and take it, 64 waiting",
        units: GROUP,
        rounds: 100,
        prepare: || offer(GROUP),
    },
    Step { name: "a room takes one publish", units: 1, rounds: 200, prepare: publish },
    Step { name: "a room offers one event, by reader", units: READERS, rounds: 50, prepare: fan_out },
    Step { name: "from the room to a reader's bytes, by reader", units: READERS, rounds: 50, prepare: deliver },
    Step {
        name: "a WebSocket's session, 1 event in a write",
        units: 1,
        rounds: 200,
        prepare: || gather(dialects::websocket(), 1),
    },
    Step {
        name: "a WebSocket's session, 64 events in a write",
        units: GROUP,
        rounds: 100,
        prepare: || gather(dialects::websocket(), GROUP),
    },
    Step {
        name: "an SSE stream's session, 1 event in a write",
        units: 1,
        rounds: 200,
        prepare: || gather(dialects::sse(), 1),
    },
    Step {
        name: "an SSE stream's session, 64 events in a write",
        units: GROUP,
        rounds: 100,
        prepare: || gather(dialects::sse(), GROUP),
    },
    Step { name: "pack 64 single events for the log", units: GROUP, rounds: 200, prepare: pack },
    Step { name: "read an event back from the log", units: GROUP, rounds: 200, prepare: unpack },
    Step { name: "filter, window and threshold", units: 1, rounds: 2000, prepare: operators },
];

fn room() -> RoomKey {
    RoomKey::new(RoomName::parse(crate::engine::ROOM).unwrap(), Policy::default())
}

fn new_event() -> NewEvent {
    NewEvent::new("sample", Bytes::from(data(0)))
}

/// Numbered events that differ, as they would come in.
fn events(count: u64) -> Vec<Arc<Event>> {
    let room = room();
    let numbered = (1..=count).map(|seq| {
        Event::number(
            &room,
            seq,
            1_763_619_000_000,
            1_763_619_000_000_000,
            NewEvent::new("sample", Bytes::from(data(seq))),
        )
    });
    numbered.map(Arc::new).collect()
}

fn parse_body() -> Work {
    let body = format!(r#"{{"kind":"sample","data":{}}}"#, data(0));
    let limits = BodyLimits { event_bytes: 100 << 10, events: 1000, depth: 64 };
    Box::new(move || drop(black_box(parse(Format::Json, black_box(body.as_bytes()), limits).unwrap())))
}

fn number() -> Work {
    let (room, new, mut seq) = (room(), new_event(), 1_763_619_000_000_000);
    Box::new(move || {
        let new = aside(|| new.clone());
        seq += 1;
        drop(black_box(Arc::new(Event::number(&room, seq, 1_763_619_000_000, seq, new))));
    })
}

fn offer(waiting: u64) -> Work {
    let events = events(waiting);
    let (mailbox, mut inbox) = Mailbox::<Delivery>::new(Bounds { messages: 100, bytes: 1 << 20 });
    let mut batch = Batch::default();
    Box::new(move || {
        let mut told = Told::default();
        mailbox.offer_all(events.iter().map(|event| Delivery::Event(Arc::clone(event))), &mut told);
        inbox.try_take(&mut batch, Window::ALL);
        aside(|| assert_eq!(batch.messages.len(), events.len()));
        batch.messages.clear();
    })
}

/// Numbers, keeps and answers; nobody reads.
fn publish() -> Work {
    let engine = Engine::start();
    engine.publish(engine.make(1));
    Box::new(move || {
        let made = aside(|| engine.make(1));
        engine.publish(made);
    })
}

/// A publish to a room with many readers, each of which waits, and takes the event when nobody counts.
fn fan_out() -> Work {
    let engine = Engine::start();
    let mut readers: Vec<_> = (0..READERS).map(|_| engine.reader(dialects::websocket())).collect();
    Box::new(move || {
        let made = aside(|| engine.make(1));
        engine.publish(made);
        aside(|| {
            for (connection, _) in &mut readers {
                assert!(connection.next().now_or_never().is_some(), "a reader was offered nothing");
                assert!(connection.next().now_or_never().is_none());
            }
        });
    })
}

/// The same with readers that have a task each, as those with a socket have: woken, they take the event and have their dialect gather it.
fn deliver() -> Work {
    let engine = Engine::start();
    let (delivered, done) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    for _ in 0..READERS {
        let (mut connection, member) = engine.reader(dialects::websocket());
        let (delivered, done) = (Arc::clone(&delivered), Arc::clone(&done));
        engine.runtime.spawn(async move {
            let _member = member;
            while let Ok(Some(bytes)) = connection.next().await {
                black_box(bytes);
                if (delivered.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(READERS) {
                    done.notify_one();
                }
            }
        });
    }
    Box::new(move || {
        let made = aside(|| engine.make(1));
        engine.runtime.block_on(async {
            engine.publish_all(made).await;
            done.notified().await;
        });
    })
}

/// What waits for a reader becomes the bytes of one write.
fn gather<D: Dialect>(dialect: D, waiting: u64) -> Work {
    let engine = Engine::start();
    let (mut connection, member) = engine.reader(dialect);
    let profile = Arc::clone(connection.handler().profile());
    Box::new(move || {
        let _member = &member;
        aside(|| {
            let made = engine.make(usize::try_from(waiting).unwrap());
            engine.publish(made);
        });
        let before = profile.books.delivered.get();
        let output = connection.next().now_or_never();
        aside(|| {
            assert!(matches!(output, Some(Ok(Some(_)))));
            assert_eq!(profile.books.delivered.get() - before, waiting, "not all in one write");
        });
        drop(black_box(output));
    })
}

fn pack() -> Work {
    let engine = Engine::start();
    let index = engine.log.room_or_create(&RoomName::parse(crate::engine::ROOM).unwrap(), 1);
    let events = events(GROUP);
    Box::new(move || {
        let appends = aside(|| log::Appends::new(&index, &events));
        let chunks = appends.pack();
        aside(|| assert!(!chunks.is_empty()));
        drop(black_box(chunks));
    })
}

fn unpack() -> Work {
    let engine = Engine::start();
    let index = engine.log.room_or_create(&RoomName::parse(crate::engine::ROOM).unwrap(), 1);
    let (room, chunks) = (room(), log::Appends::new(&index, &events(GROUP)).pack());
    let runs: Vec<_> =
        chunks.iter().flat_map(|(chunk, offsets)| offsets.iter().map(|offset| (chunk.clone(), *offset))).collect();
    Box::new(move || {
        let events = runs.iter().flat_map(|(chunk, offset)| log::unpack(&room, black_box(chunk), *offset).unwrap());
        let events: Vec<_> = events.collect();
        aside(|| assert_eq!(events.len() as u64, GROUP));
        drop(black_box(events));
    })
}

fn operators() -> Work {
    let mut stream = Stream::new();
    Box::new(move || stream.one())
}
