//! One Engine.IO session at work, whatever carries it: its heartbeat, what it hears, what waits to be written, and the connection's actor once its client has signed in.
//!
//! Its carrier waits with [`Session::next`], writes what it [takes](Session::take), and has it [hear](Session::hear) what comes. What it does of what it hears is in `hearing`.

mod hearing;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use super::dialect::{Packets, Sio};
use super::heart::{Beat, Heart};
use super::packet::{DISCONNECT, PING};
use super::recovery::Keeper;
use super::server::{Guest, Listed, Seat, Server, message_max};
use crate::edge::Edge;
use crate::edge::stream;
use crate::edge::ws::{FAILED, RESTART, TOO_BIG, close_code};
pub(super) use crate::edge::ws::{NORMAL, POLICY};
use crate::engine::connections::Closing;
use crate::engine::connections::profile::Kill;
use crate::engine::connections::supervisor::{Connection, Member};
use crate::limits::{MessageRate, StreamPlaces};
use crate::metrics::record;
pub(super) use hearing::Heard;
use hearing::Pending;

/// The client has come back by another connection.
const ELSEWHERE: End = End::with(NORMAL, "the client has come back elsewhere");
/// How often somebody who waits is looked at whether the daemon is stopping.
const LOOK: Duration = Duration::from_millis(500);
/// How long the daemon's reason to end a session is waited for.
const REASON_WAIT: Duration = Duration::from_secs(1);

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// As a WebSocket's close; 0 where there is nobody to be told.
    pub(super) code: u16,
    pub(super) reason: &'static str,
    /// Whether what was said before it should still be heard by a client that polls.
    pub(super) linger: bool,
    /// What came was not to be understood.
    pub(super) malformed: bool,
    /// The client has ended it.
    pub(super) by_client: bool,
}

impl End {
    /// There is nobody any more.
    pub(super) const GONE: Self = Self::with(0, "");
    const BY_CLIENT: Self = Self { by_client: true, ..Self::with(NORMAL, "") };

    const fn with(code: u16, reason: &'static str) -> Self {
        Self { code, reason, linger: false, malformed: false, by_client: false }
    }
}

/// A client that has signed in.
pub(super) struct Live {
    pub(super) connection: Connection<Sio>,
    _member: Member,
    // Dropped last: whoever comes back finds the places of the connection free.
    pub(super) keeper: Keeper,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.keeper.may &= self.connection.handler().dialect().can_come_back();
    }
}

impl Live {
    pub(super) fn new(connection: Connection<Sio>, member: Member, keeper: Keeper) -> Box<Self> {
        Box::new(Self { connection, _member: member, keeper })
    }
}

/// Whether the client has signed in.
pub(super) enum State {
    /// It has not, and has to until then.
    Waiting(Instant),
    Live(Box<Live>),
}

/// A session.
pub(super) struct Session {
    pub(super) edge: Edge,
    pub(super) server: Server,
    pub(super) guest: Guest,
    pub(super) state: State,
    /// Times that the client was refused.
    pub(super) refused: u32,
    /// What is to be written next.
    queue: VecDeque<Utf8Bytes>,
    heart: Heart,
    timer: Pin<Box<Sleep>>,
    pub(super) rate: MessageRate,
    /// Whether it has signed in once.
    pub(super) known: bool,
    pending: Option<Box<Pending>>,
    /// Ends the session where its carrier takes nothing.
    pub(super) kill: Kill,
    pub(super) seat: Seat,
    listed: Option<Listed>,
    _place: StreamPlaces,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("guest", &self.guest).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(edge: Edge, server: Server, guest: Guest, seat: Seat, place: StreamPlaces) -> Self {
        let (settings, now) = (edge.settings(), Instant::now());
        let (interval, timeout) = (settings.surfaces.wells.ping_interval, settings.surfaces.wells.ping_timeout);
        let heart = Heart::new(interval, timeout, now);
        Self {
            state: State::Waiting(now + settings.surfaces.wells.connect_timeout),
            edge,
            server,
            guest,
            refused: 0,
            queue: VecDeque::new(),
            heart,
            timer: Box::pin(sleep_until(now)),
            rate: MessageRate::default(),
            known: false,
            pending: None,
            kill: Kill::default(),
            seat,
            listed: None,
            _place: place,
        }
    }

    /// It is in the table of those that are polled.
    pub(super) fn list(&mut self, listed: Listed) {
        self.listed = Some(listed);
    }

    /// It is not there for requests any more.
    pub(super) fn unlist(&mut self) -> Option<Listed> {
        self.listed.take()
    }

    /// How many packets the client takes at once.
    pub(super) fn packets_max(&self) -> usize {
        self.guest.packets_max
    }

    /// How long a client may let itself not be heard of.
    pub(super) fn patience(&self) -> Duration {
        self.heart.patience()
    }

    /// Notes for requests whether the client has signed in.
    pub(super) fn set_signed_in(&mut self, signed_in: bool) {
        self.seat.set_guest(!signed_in);
        if let Some(listed) = &self.listed {
            listed.entry.signed_in.store(signed_in, Ordering::Release);
        }
    }

    /// Whether the client has signed in.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// Brings together what is to be written.
    pub(super) fn gather(&mut self) {
        if let State::Live(live) = &mut self.state
            && let Some(packets) = live.connection.handler().take()
        {
            self.queue.extend(packets);
        }
    }

    /// How many packets wait to be written.
    pub(super) fn waiting(&mut self) -> usize {
        self.gather();
        self.queue.len()
    }

    /// Whether something waits to be written.
    pub(super) fn has_words(&mut self) -> bool {
        self.waiting() > 0
    }

    /// How many answers may wait for a client that does not come for them.
    pub(super) fn waiting_max(&self) -> usize {
        self.edge.settings().surfaces.wells.waiting_max
    }

    /// What is to be written at once, as much as the client takes.
    pub(super) fn take(&mut self) -> Packets {
        let many = self.guest.packets_max.min(self.queue.len());
        record::websocket_messages(many);
        self.queue.drain(..many).collect()
    }

    /// All that is to be written.
    pub(super) fn take_all(&mut self) -> Packets {
        record::websocket_messages(self.queue.len());
        // Nothing is kept for a next time: an idle session should cost little.
        std::mem::take(&mut self.queue).into_iter().collect()
    }

    /// Gathers a packet; in its place among those of the actor.
    pub(super) fn say(&mut self, packet: Utf8Bytes) {
        match &mut self.state {
            State::Live(live) => live.connection.handler().dialect().say(packet),
            State::Waiting(_) => self.queue.push_back(packet),
        }
    }

    /// Tells the client of an error, if it has signed in.
    pub(super) fn error(&mut self, error: &str, message: &str) {
        if let State::Live(live) = &mut self.state {
            live.connection.handler().dialect().error(error, message);
        }
    }

    /// Waits until there is something to write, or the end. What the actor has is taken only where it is `wanted`. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self, wanted: bool) -> Option<End> {
        loop {
            // Before what there is to write: where there is always something, the heart has to beat too.
            if self.due() <= Instant::now()
                && let Some(end) = self.tick()
            {
                return Some(end);
            }
            let taken = self.taken();
            if taken.as_ref().is_some_and(CancellationToken::is_cancelled) {
                return Some(ELSEWHERE);
            }
            self.gather();
            if wanted && !self.queue.is_empty() {
                return None;
            }
            let due = self.due();
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            let output = tokio::select! {
                biased;
                output = output(&mut self.state), if wanted => output,
                () = taken_over(taken) => return Some(ELSEWHERE),
                () = &mut self.timer => match self.tick() {
                    Some(end) => return Some(end),
                    None => continue,
                },
            };
            match output {
                Some(packets) => self.queue.extend(packets),
                None => return Some(self.ended()),
            }
        }
    }

    /// Says when the client has come back by another connection.
    pub(super) fn taken(&self) -> Option<CancellationToken> {
        match &self.state {
            State::Live(live) => live.keeper.kept.as_ref().map(|kept| kept.taken.clone()),
            State::Waiting(_) => None,
        }
    }

    /// The daemon ends the session: what it has to say of that.
    pub(super) async fn finish(&mut self) -> End {
        let reason = async {
            loop {
                match output(&mut self.state).await {
                    Some(packets) => self.queue.extend(packets),
                    None => return,
                }
                if self.queue.len() > self.waiting_max() {
                    return;
                }
            }
        };
        let _ = timeout(REASON_WAIT, reason).await;
        self.ended()
    }

    /// When something is due.
    fn due(&self) -> Instant {
        let heart = self.heart.due();
        match &self.state {
            State::Waiting(until) => heart.min(*until).min(Instant::now() + LOOK),
            State::Live(_) => heart,
        }
    }

    /// A write has taken long.
    pub(super) fn was_slow(&mut self) {
        self.heart.was_slow(Instant::now());
    }

    fn tick(&mut self) -> Option<End> {
        let now = Instant::now();
        match self.heart.beat(now) {
            Some(Beat::Ask) => self.queue.push_back(PING),
            Some(Beat::Silent) => {
                record::connection_cut("silent");
                return Some(End::with(POLICY, "nothing was heard for wells.ping_timeout"));
            }
            None => {}
        }
        match &self.state {
            State::Waiting(until) if *until <= now => {
                record::connection_cut("not_signed_in");
                Some(End::with(POLICY, "no CONNECT within wells.connect_timeout"))
            }
            State::Waiting(_) if self.edge.is_stopping() => Some(End::with(RESTART, "the daemon is stopping")),
            _ => None,
        }
    }

    /// The connection's actor has ended: why.
    fn ended(&mut self) -> End {
        let State::Live(live) = &mut self.state else { return End::with(NORMAL, "") };
        let session = live.connection.handler();
        let Some(closing) = session.closing() else { return End::with(FAILED, "the session failed") };
        session.tell(&stream::ending(closing, self.edge.settings().server.reconnect_spread));
        if matches!(closing, Closing::Kicked | Closing::TokenExpired | Closing::TokenRevoked) {
            // Its client does not come back by itself.
            session.dialect().say(DISCONNECT);
            live.keeper.may = false;
        }
        self.gather();
        End { linger: true, ..End::with(close_code(closing), closing.text().0) }
    }

    /// The session is ended for what its client does.
    pub(super) fn end(&mut self, code: u16, reason: &'static str) -> End {
        record::connection_cut("misused");
        if let State::Live(live) = &mut self.state {
            live.keeper.may = false;
            live.connection.handler().dialect().say(DISCONNECT);
        }
        self.gather();
        End { linger: true, ..End::with(code, reason) }
    }

    /// What came cannot be understood.
    pub(super) fn malformed(&mut self, why: &'static str) -> End {
        self.error("ProtocolError", why);
        self.gather();
        if let State::Live(live) = &mut self.state {
            live.keeper.may = false;
        }
        End { malformed: true, ..End::with(POLICY, why) }
    }

    /// More came at once than may.
    pub(super) fn too_big(&mut self) -> End {
        record::connection_cut("message_too_big");
        let settings = self.edge.settings();
        let max = message_max(&settings, self.is_live());
        let guest = max < settings.limits.message_bytes;
        let limit = if guest { "wells.guest_message_bytes" } else { "limits.max_message_bytes" };
        self.error("PayloadTooLarge", &format!("a message may have {max} bytes ({limit})"));
        self.gather();
        End { linger: true, ..End::with(TOO_BIG, "message too big") }
    }
}

/// What the actor hands out; `None` when it has ended.
async fn output(state: &mut State) -> Option<Packets> {
    match state {
        State::Live(live) => live.connection.next().await.ok().flatten(),
        State::Waiting(_) => std::future::pending().await,
    }
}

/// Waits until the client has come back by another connection.
pub(super) async fn taken_over(taken: Option<CancellationToken>) {
    match taken {
        Some(taken) => taken.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Waits until the daemon ends the session.
pub(super) async fn killed(kill: &Kill) {
    poll_fn(|cx| if kill.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
}
