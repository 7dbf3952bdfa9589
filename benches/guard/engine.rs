//! The engine without sockets on one thread: a log, a room, and connections with a dialect.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use smallvec::smallvec;
use tempfile::TempDir;
use tidegate::auth::identity::Credential;
use tidegate::auth::{Identity, Rights};
use tidegate::engine::connections::Dialect;
use tidegate::engine::connections::profile::{Kill, Who};
use tidegate::engine::connections::supervisor::{Connection, Connections, Member};
use tidegate::engine::rooms::{Publish, Rooms, StartAt};
use tidegate::event::{Ack, NewEvent, Pattern, RoomName};
use tidegate::limits::StreamPlaces;
use tidegate::log::Log;
use tidegate::metrics::{exporter, record};
use tidegate::settings::{Settings, Sources};
use tidegate_actors::{Bounds, Census, Supervisor};
use tokio::runtime::{Builder, Runtime};

pub(crate) const ROOM: &str = "guard:1";

/// As [`data`] of one place, padded to 200 bytes.
pub(crate) fn data(place: u64) -> String {
    let mixed = mixed(place);
    let (host, percent, rest, free) = (mixed % 1000, (mixed >> 10) % 100, (mixed >> 20) % 100, (mixed >> 40) & 8191);
    let head = format!(
        r#"{{"host":"node-{host:05}","usage":{percent}.{rest:02},"disk":{{"free":{free},"used":{}}},"text":"#,
        8192 - free
    );
    let text = "read of blocks took longer than it should, which was seen by the watch of the disk before";
    let text: String = text.chars().cycle().take(200 - head.len() - 3).collect();
    format!(r#"{head}"{text}"}}"#)
}

/// What stands for chance: SplitMix64.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A publish of one event, and where its receipt comes.
pub(crate) type Made = (
    Publish,
    tokio::sync::oneshot::Receiver<Result<tidegate::engine::rooms::Receipt, tidegate::engine::rooms::PublishError>>,
);

pub(crate) struct Engine {
    pub(crate) runtime: Runtime,
    pub(crate) log: Log,
    rooms: Rooms,
    connections: Connections,
    room: RoomName,
    new: NewEvent,
    _supervisor: Supervisor,
    _dir: TempDir,
}

impl Engine {
    pub(crate) fn start() -> Self {
        exporter::install();
        let dir = tempfile::tempdir().unwrap();
        let flags = vec![("log.dir".to_owned(), dir.path().display().to_string())];
        let settings = Arc::new(Settings::load(&Sources { flags, ..Sources::default() }).unwrap());
        let log = Log::open(&settings.log, &settings.rooms).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let census = Census::default();
        let supervisor = runtime.block_on(Supervisor::start(&census)).unwrap();
        let rooms = Rooms::new(settings, log.clone(), supervisor.clone());
        let connections = Connections::new(census, Bounds { messages: 100, bytes: 1 << 20 }, 0, 100);
        let new = NewEvent::new("sample", Bytes::from(data(0)));
        let room = RoomName::parse(ROOM).unwrap();
        Self { runtime, log, rooms, connections, room, new, _supervisor: supervisor, _dir: dir }
    }

    /// So many publishes of one event each.
    pub(crate) fn make(&self, count: usize) -> Vec<Made> {
        (0..count).map(|_| Publish::new(smallvec![self.new.clone()], Ack::Memory)).collect()
    }

    /// Has the room number, keep and deliver them: when the last receipt is there, the room has offered all to its readers, because it does not wait in between.
    pub(crate) fn publish(&self, made: Vec<Made>) {
        self.runtime.block_on(self.publish_all(made));
    }

    pub(crate) async fn publish_all(&self, made: Vec<Made>) {
        let mut receipts = Vec::with_capacity(made.len());
        for (publish, receipt) in made {
            self.rooms.publish(&self.room, publish);
            receipts.push(receipt);
        }
        for receipt in receipts {
            receipt.await.unwrap().unwrap();
        }
    }

    /// Somebody who follows the room from now on, and has been welcomed.
    pub(crate) fn reader<D: Dialect>(&self, dialect: D) -> (Connection<D>, Member) {
        self.runtime.block_on(async {
            let started = self.connections.start(&self.rooms, dialect, &record::WEBSOCKET, anybody(), None).await;
            let (mut connection, member) = started.unwrap();
            let pattern = Pattern::Room(self.room.clone());
            connection.handler().begin(&[pattern], &StartAt::Live, None).await.unwrap();
            while connection.next().now_or_never().is_some() {}
            connection.handler().take();
            (connection, member)
        })
    }
}

fn anybody() -> Who {
    let identity = Identity {
        subject: "guard".into(),
        credential: Credential::Key { hash: [0; 32] },
        roles: Vec::new(),
        rights: Rights::all(),
        expires_ms: None,
    };
    Who {
        identity: Arc::new(identity),
        peer: String::new(),
        ip: None,
        places: StreamPlaces::default(),
        kill: Kill::default(),
    }
}
