//! Replay joins live: readers come, fall behind, go, and come back with their cursors at any moment between publishes, and each gets every event of its rooms exactly once and in order.
//!
//! The engine itself, without sockets: rooms, log, mailboxes and sessions. The steps are random (proptest says how to repeat a failure); the tail in memory and the mailboxes are so small that the log and the catching up
//! take part all the time.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use smallvec::SmallVec;
use tidegate::auth::identity::Credential;
use tidegate::auth::{Identity, Rights};
use tidegate::engine::connections::dialect::Position;
use tidegate::engine::connections::profile::{Kill, Who};
use tidegate::engine::connections::supervisor::{Connection, Connections, Member};
use tidegate::engine::connections::{Dialect, Notice};
use tidegate::engine::rooms::{Publish, Rooms, StartAt};
use tidegate::event::{Ack, Cursor, Event, NewEvent, Pattern, RoomName};
use tidegate::limits::StreamPlaces;
use tidegate::log::Log;
use tidegate::metrics::record;
use tidegate::settings::{Settings, Sources};
use tidegate_actors::{Bounds, Census, Supervisor};

const ROOMS: [&str; 3] = ["r:0", "r:1", "r:2"];
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
enum Step {
    /// So many events into a room, without waiting for them to be logged.
    Publish { room: usize, count: usize },
    /// A reader of one room, or of all, from the beginning of everything.
    Come { room: Option<usize> },
    /// A reader takes what there is, without waiting.
    Read { reader: usize },
    /// A reader goes and comes back with its cursor.
    ComeBack { reader: usize },
    /// Others run.
    Yield,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..ROOMS.len(), 1usize..20).prop_map(|(room, count)| Step::Publish { room, count }),
        2 => proptest::option::of(0..ROOMS.len()).prop_map(|room| Step::Come { room }),
        4 => (0usize..6).prop_map(|reader| Step::Read { reader }),
        2 => (0usize..6).prop_map(|reader| Step::ComeBack { reader }),
        3 => Just(Step::Yield),
    ];
    proptest::collection::vec(step, 5..80)
}

/// Somebody who may do everything.
fn anybody() -> Who {
    let identity = Identity {
        subject: "test".into(),
        credential: Credential::Key { hash: [0; 32] },
        roles: Vec::new(),
        rights: Rights::all(),
        expires_ms: None,
    };
    Who {
        identity: Arc::new(identity),
        peer: "test".to_owned(),
        ip: None,
        places: StreamPlaces::default(),
        kill: Kill::default(),
    }
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept {
    events: Vec<(String, u64)>,
    notices: Vec<String>,
}

impl Dialect for Kept {
    type Output = Vec<(String, u64)>;
    fn event(&mut self, event: &Arc<Event>, _: &dyn Position) {
        self.events.push((event.room.name().to_string(), event.seq));
    }
    fn notice(&mut self, notice: &Notice<'_>, _: &dyn Position) {
        if !matches!(notice, Notice::Welcome { .. }) {
            self.notices.push(format!("{notice:?}"));
        }
    }
    fn gathered(&self) -> usize {
        self.events.len() * 300
    }
    fn take(&mut self, _: &dyn Position) -> Option<Self::Output> {
        assert!(self.notices.is_empty(), "nothing was lost, and yet: {:?}", self.notices);
        (!self.events.is_empty()).then(|| std::mem::take(&mut self.events))
    }
}

struct Reader {
    patterns: Vec<Pattern>,
    open: Option<(Connection<Kept>, Member)>,
    /// What it got in all its lives, by room.
    got: BTreeMap<String, Vec<u64>>,
}

impl Reader {
    fn book(&mut self, events: Vec<(String, u64)>) {
        for (room, seq) in events {
            let got = self.got.entry(room).or_default();
            assert!(got.last().is_none_or(|last| *last < seq), "{seq} came after {:?}", got.last());
            got.push(seq);
        }
    }

    async fn open(&mut self, connections: &Connections, rooms: &Rooms, cursor: Cursor) {
        let (mut connection, member) =
            connections.start(rooms, Kept::default(), &record::POLL, anybody(), None).await.unwrap();
        let session = connection.handler();
        session.begin(&self.patterns, &StartAt::After(cursor), None).await.unwrap();
        self.open = Some((connection, member));
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let flags = vec![
        pair("log.dir", &dir.path().display().to_string()),
        pair("rooms.default.tail_events", "6"),
        pair("log.flush_interval", "5ms"),
    ];
    let settings = Arc::new(Settings::load(&Sources { flags, ..Sources::default() }).unwrap());
    let log = Log::open(&settings.log, &settings.rooms).unwrap();
    let census = Census::default();
    let supervisor = Supervisor::start(&census).await.unwrap();
    let rooms = Rooms::new(Arc::clone(&settings), log.clone(), supervisor.clone());
    let connections = Connections::new(census.clone(), Bounds { messages: 5, bytes: 1 << 20 }, 0, 100);
    let mut published: BTreeMap<String, usize> = BTreeMap::new();
    let mut readers: Vec<Reader> = Vec::new();
    let mut receipts = Vec::new();
    for step in steps {
        match step {
            Step::Publish { room, count } => {
                let name = RoomName::parse(ROOMS[room]).unwrap();
                let events: SmallVec<[NewEvent; 1]> =
                    (0..count).map(|_| NewEvent::new("k", bytes::Bytes::from_static(b"1"))).collect();
                let (publish, receipt) = Publish::new(events, Ack::Logged);
                rooms.publish(&name, publish);
                receipts.push(receipt);
                *published.entry(name.to_string()).or_default() += count;
            }
            Step::Come { room } => {
                let pattern = room.map_or_else(|| "r:*".to_owned(), |room| ROOMS[room].to_owned());
                let mut reader =
                    Reader { patterns: vec![Pattern::parse(&pattern).unwrap()], open: None, got: BTreeMap::new() };
                reader.open(&connections, &rooms, Cursor::Seq(0)).await;
                readers.push(reader);
            }
            Step::Read { reader } => {
                let Some(reader) = readers.get_mut(reader) else { continue };
                let (connection, _) = reader.open.as_mut().unwrap();
                let output = connection.next().now_or_never();
                if let Some(Ok(Some(events))) = output {
                    reader.book(events);
                }
            }
            Step::ComeBack { reader } => {
                let Some(reader) = readers.get_mut(reader) else { continue };
                let (mut connection, member) = reader.open.take().unwrap();
                let cursor = Cursor::parse(&connection.handler().cursor()).unwrap();
                drop((connection, member));
                reader.open(&connections, &rooms, cursor).await;
            }
            Step::Yield => tokio::task::yield_now().await,
        }
    }
    for receipt in receipts {
        receipt.await.unwrap().unwrap();
    }
    for reader in &mut readers {
        let wanted = |reader: &Reader| -> usize {
            let mine = published.iter().filter(|(room, _)| reader.patterns[0].matches(&RoomName::parse(room).unwrap()));
            mine.map(|(_, count)| count).sum()
        };
        while reader.got.values().map(Vec::len).sum::<usize>() < wanted(reader) {
            let (connection, _) = reader.open.as_mut().unwrap();
            let next = tokio::time::timeout(LIMIT, connection.next()).await;
            let events =
                next.unwrap_or_else(|_| unreachable!("{:?} got {:?} of {published:?}", reader.patterns, reader.got));
            reader.book(events.unwrap().unwrap());
        }
        for (room, got) in &reader.got {
            assert_eq!(got.len(), published[room], "{room}");
            assert!(got.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{room}: a hole in {got:?}");
        }
    }
    drop(readers);
    assert!(supervisor.stop(LIMIT).await);
    // An actor's last breath may come a moment after its supervisor heard of its end.
    let deadline = tokio::time::Instant::now() + LIMIT;
    while census.live() > 0 && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!((census.live(), census.panicked()), (0, 0), "actors leaked or panicked");
    tokio::task::spawn_blocking(move || log.close(LIMIT)).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_comes_goes_and_comes_back_gets_every_event_once_and_in_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
