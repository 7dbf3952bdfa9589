//! How a pipeline or a sink reads rooms: as any reader does, by a session with its bounded mailbox, which falls behind and reads on from the log when it is full. Only what comes out is no bytes for
//! a socket but the events themselves, in the order in which they are to be worked on.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tidegate_actors::{Bounds, Census, Fault, Light, Mailbox, Message, OnFull, Policy, Window};

use crate::auth::Identity;
use crate::auth::identity::{Credential, Rights};
use crate::clock;
use crate::engine::connections::contract::{Contract, OnSlow};
use crate::engine::connections::dialect::Position;
use crate::engine::connections::profile::{Kill, Profile, Who};
use crate::engine::connections::{Dialect, Notice, Session};
use crate::engine::rooms::{PublishError, Rooms, StartAt, Subscriber};
use crate::event::{Cursor, Event, Pattern, RoomName};
use crate::limits::StreamPlaces;
use crate::metrics::record::TransportMeter;

/// How much is taken from the mailbox at once.
const WINDOW: Window = Window { messages: 1024, bytes: 1 << 20 };
/// Numbers of readers within the daemon lie above those of connections.
const FIRST_ID: u64 = 1 << 62;
static NEXT_ID: AtomicU64 = AtomicU64::new(FIRST_ID);

/// What the reader is given.
#[derive(Debug)]
pub(super) enum Taken {
    /// An event.
    Event(Arc<Event>),
    /// Events of a room that are not held any more: after which seq, and where it goes on.
    Missed { room: RoomName, after: u64, first_seq: u64 },
}

/// What it reads, and where it goes on; `None` for what comes next.
pub(super) struct Wish<'w> {
    pub(super) patterns: &'w [Pattern],
    pub(super) positions: Option<Vec<(RoomName, u64)>>,
}

/// Who reads: what it is and its name.
pub(super) struct Reader<'n> {
    pub(super) meter: &'static TransportMeter,
    pub(super) name: &'n str,
}

/// Gathers events instead of bytes.
#[derive(Debug, Default)]
struct Gather {
    taken: Vec<Taken>,
    bytes: usize,
}

impl Dialect for Gather {
    type Output = Vec<Taken>;

    fn event(&mut self, event: &Arc<Event>, _: &dyn Position) {
        self.bytes += event.bytes();
        self.taken.push(Taken::Event(Arc::clone(event)));
    }

    fn notice(&mut self, notice: &Notice<'_>, _: &dyn Position) {
        if let Notice::Gap { room, gap } = notice {
            self.taken.push(Taken::Missed { room: (*room).clone(), after: gap.after, first_seq: gap.first_seq });
        }
    }

    fn gathered(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, _: &dyn Position) -> Option<Vec<Taken>> {
        self.bytes = 0;
        (!self.taken.is_empty()).then(|| std::mem::take(&mut self.taken))
    }
}

/// The reading side.
pub(super) struct Tap {
    light: Light<Session<Gather>>,
    waker: Waker,
}

/// Wakes the reader's actor when something has come in.
struct TickWaker<M: Message>(Mailbox<M>);

impl<M: Message> Wake for TickWaker<M> {
    fn wake(self: Arc<Self>) {
        self.0.tick();
    }
}

impl Tap {
    /// Begins to follow, after the positions where they name a room, else as `start` says.
    pub(super) async fn open<M: Message>(
        rooms: &Rooms,
        bounds: Bounds,
        census: &Census,
        wakes: &Mailbox<M>,
        who: Reader<'_>,
        wish: Wish<'_>,
    ) -> Result<Self, TapError> {
        let Reader { meter, name } = who;
        let name = format!("{} {name}", meter.name);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (mailbox, inbox) = Mailbox::new(bounds);
        // It is part of the daemon and may read everything; nobody outside can take this identity.
        let identity = Identity {
            subject: name.as_str().into(),
            credential: Credential::Key { hash: [0; 32] },
            roles: Vec::new(),
            rights: Rights::all(),
            expires_ms: None,
        };
        let who = Who {
            identity: Arc::new(identity),
            peer: name,
            ip: None,
            places: StreamPlaces::default(),
            kill: Kill::default(),
        };
        let profile = Arc::new(Profile::new(id, meter.name, clock::now_ms(), who));
        let subscriber = Arc::new(Subscriber { id, mailbox });
        let session = Session::new(rooms.clone(), subscriber, profile, Gather::default(), meter, usize::MAX);
        let mut light = Light::start(session, inbox, WINDOW, census).await.map_err(TapError::Actor)?;
        let Wish { patterns, positions } = wish;
        let start = positions.map_or(StartAt::Live, |positions| StartAt::After(Cursor::of_rooms(positions)));
        // Whatever a room's own policy: a reader that is slow reads on from the log.
        let contract = Contract { on_slow: Some(OnSlow::CatchUp), internal: true, ..Contract::default() };
        debug_assert_eq!(contract.terms().policy, Some(Policy::on_full(OnFull::CatchUp)));
        light.handler().begin(patterns, &start, Some(Arc::new(contract))).await.map_err(TapError::Rooms)?;
        Ok(Self { light, waker: Waker::from(Arc::new(TickWaker(wakes.clone()))) })
    }

    /// What has come in, if anything; if not, its actor is woken when something does.
    pub(super) fn take(&mut self) -> Result<Option<Vec<Taken>>, Fault> {
        let mut cx = Context::from_waker(&self.waker);
        match pin!(self.light.next()).poll(&mut cx) {
            Poll::Ready(Ok(None)) => Err("its reader was sent away".into()),
            Poll::Ready(taken) => taken,
            Poll::Pending => Ok(None),
        }
    }

    /// Whether everything there is has been taken.
    pub(super) fn is_level(&mut self) -> bool {
        self.light.handler().is_level()
    }

    /// How many events wait for it, in its mailbox and in the history that it is behind in.
    pub(super) fn waiting(&mut self) -> u64 {
        self.light.handler().outstanding()
    }

    /// Where it stands in each room that it follows.
    pub(super) fn positions(&mut self) -> Vec<(RoomName, u64)> {
        self.light.handler().positions()
    }
}

/// Why it cannot read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TapError {
    #[error("its reader cannot be started: {0}")]
    Actor(Fault),
    #[error("its rooms cannot be followed: {0}")]
    Rooms(PublishError),
}
