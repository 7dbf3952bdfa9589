//! Connections whose client is away: each keeps its rooms and its mailbox until the client shows its token, or until its time is over.
//!
//! Bounds: `analytics.parked_timeout`, `parked_connections`, `parked_bytes`, and of one user as many as it may have open. Beyond them those go that have been lost longest; their tokens are unknown
//! from then on. One task looks after all of them, as long as there are any.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::edge::Edge;
use crate::edge::problem::Problem;
use crate::engine::connections::dialect::Position;
use crate::engine::connections::profile::{Kill, Who};
use crate::engine::connections::supervisor::{Connection, Listed, Member};
use crate::engine::connections::{Closing, Dialect, Notice, Session};
use crate::engine::rooms::Subscriber;
use crate::event::Event;
use crate::limits::places::{Place, Places};
use crate::limits::{StreamPlaces, TooMuch};
use crate::metrics::record;

/// How often it is looked whether the daemon stops.
const LOOK: Duration = Duration::from_millis(200);
/// After so many looks it is looked what is over its bounds, or was ended meanwhile.
const BOUNDS_LOOKS: u32 = 5;
/// How long an old socket may take to let go by itself; then it is cut.
const LET_GO: Duration = Duration::from_millis(500);
/// And how long after that.
const CUT: Duration = Duration::from_secs(4);
/// When somebody whose places are taken may look again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The dialect of a connection without a socket: nobody runs it.
#[derive(Debug)]
pub(super) struct Away;

impl Dialect for Away {
    type Output = ();

    fn event(&mut self, _: &Arc<Event>, _: &dyn Position) {}

    fn notice(&mut self, _: &Notice<'_>, _: &dyn Position) {}

    fn gathered(&self) -> usize {
        0
    }

    fn take(&mut self, _: &dyn Position) -> Option<()> {
        None
    }
}

/// A connection without a socket.
pub(super) struct Parked {
    pub(super) connection: Connection<Away>,
    pub(super) member: Member,
    since: Instant,
}

/// A connection of the surface.
struct Entry {
    token: SmolStr,
    subject: SmolStr,
    transport: &'static str,
    subscriber: Arc<Subscriber>,
    parked: Option<Parked>,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<u64, Entry, ahash::RandomState>,
    tokens: HashMap<SmolStr, u64>,
    /// Whether somebody looks after them.
    kept: bool,
}

/// All connections of the surface.
#[derive(Default)]
pub(in crate::edge) struct Desk {
    inner: Mutex<Inner>,
    by_user: Places<SmolStr>,
    /// Told when a connection was parked.
    parked: Notify,
    /// Reconnects that succeeded, and that were refused.
    pub(super) reconnected: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("connections", &self.inner.lock().entries.len()).finish_non_exhaustive()
    }
}

/// A connection as it is shown.
pub(super) struct Shown {
    pub(super) listed: Listed,
    pub(super) transport: &'static str,
    pub(super) parked: bool,
}

/// A reconnect token: 122 random bits, as a UUID (RFC 9562, version 4).
pub(super) fn new_token() -> SmolStr {
    let bits = (rand::random::<u128>() & !(0xf << 76 | 0x3 << 62)) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-").into()
}

/// A token that is taken, for a connection that has let go its socket: spent once that is [taken up](Self::take), and good again if not, also where nobody waited for the outcome.
pub(super) struct Claim<'d> {
    desk: &'d Desk,
    token: &'d str,
    /// The connection's number.
    pub(super) id: u64,
    spent: bool,
}

impl Claim<'_> {
    /// The connection, unless its time was over meanwhile.
    pub(super) fn take(mut self) -> Option<Parked> {
        self.spent = true;
        self.desk.inner.lock().entries.get_mut(&self.id)?.parked.take()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.spent {
            return;
        }
        let mut inner = self.desk.inner.lock();
        if inner.entries.contains_key(&self.id) {
            inner.tokens.insert(self.token.into(), self.id);
        }
    }
}

impl Inner {
    fn forget(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.tokens.remove(&entry.token);
        Some(entry)
    }

    /// Those that are parked, the longest first.
    fn parked(&self) -> Vec<(Instant, u64)> {
        let parked = self.entries.iter().filter_map(|(id, entry)| Some((entry.parked.as_ref()?.since, *id)));
        let mut parked: Vec<_> = parked.collect();
        parked.sort_unstable();
        parked
    }

    /// Takes out what is over the bounds.
    fn over_bounds(&mut self, edge: &Edge) -> Vec<Entry> {
        let settings = edge.settings();
        let own = &settings.surfaces.analytics;
        let (mut bytes, mut count, mut gone) = (0, 0, Vec::new());
        let mut by_user: HashMap<SmolStr, usize> = HashMap::new();
        // From the newest: what fits stays.
        for (_, id) in self.parked().into_iter().rev() {
            let Some(entry) = self.entries.get(&id) else { continue };
            bytes += entry.subscriber.mailbox.depth().bytes;
            count += 1;
            let users = by_user.entry(entry.subject.clone()).or_insert(0);
            *users += 1;
            let over_user = own.per_user_parked > 0 && *users > own.per_user_parked;
            if bytes > own.parked_bytes || count > own.parked_connections || over_user {
                record::connection_cut("parked_full");
                gone.extend(self.forget(id));
            }
        }
        gone
    }
}

impl Desk {
    /// A place among a user's streams.
    pub(super) fn place(&self, edge: &Edge, subject: &SmolStr) -> Result<Place<SmolStr>, Problem> {
        let allowed = edge.settings().surfaces.analytics.per_user_connections;
        self.by_user.take(subject.clone(), allowed).map_err(|_| {
            record::connection_refused("per_client");
            let (limit, what) = ("analytics.per_user_connections", "connections at once for a user");
            Problem::too_much(TooMuch { limit, what, allowed, retry: LOOK_AGAIN })
        })
    }

    /// Enters a connection that has a socket from now on, under this token.
    pub(super) fn enter<D: Dialect>(&self, edge: &Edge, session: &Session<D>, token: SmolStr) {
        let profile = session.profile();
        let entry = Entry {
            token: token.clone(),
            subject: profile.identity().subject.clone(),
            transport: profile.transport,
            subscriber: Arc::clone(session.subscriber()),
            parked: None,
        };
        let mut inner = self.inner.lock();
        inner.tokens.insert(token, profile.id);
        inner.entries.insert(profile.id, entry);
        if !inner.kept {
            inner.kept = true;
            tokio::spawn(keep(edge.clone()));
        }
    }

    /// A connection's socket is gone: it is kept, unless the daemon has ended it.
    pub(super) fn over<D: Dialect>(edge: &Edge, mut connection: Connection<D>, member: Member) {
        let desk = &edge.analytics;
        let session = connection.handler();
        let (id, closing) = (session.id(), session.closing());
        let keeps = !edge.settings().surfaces.analytics.parked_timeout.is_zero() && !edge.is_stopping();
        if !keeps || !matches!(closing, None | Some(Closing::TakenOver)) {
            let _gone = desk.inner.lock().forget(id);
            return;
        }
        let profile = session.profile();
        let (places, kill) = (StreamPlaces::default(), Kill::default());
        let who = Who { identity: profile.identity(), peer: profile.peer.to_string(), ip: profile.ip, places, kill };
        let connection = edge.connections.moved(connection, Away, &record::PARKED, who);
        let parked = Parked { connection, member, since: Instant::now() };
        let gone = {
            let mut inner = desk.inner.lock();
            match inner.entries.get_mut(&id) {
                Some(entry) => entry.parked = Some(parked),
                // It was never entered: it was refused at the last moment.
                None => drop(parked),
            }
            inner.over_bounds(edge)
        };
        // Outside of the lock: each leaves its rooms.
        drop(gone);
        desk.parked.notify_waiters();
    }

    /// The connection of a token, if its time is not over.
    pub(super) fn holder(&self, edge: &Edge, token: &str) -> Option<u64> {
        let timeout = edge.settings().surfaces.analytics.parked_timeout;
        let inner = self.inner.lock();
        let id = *inner.tokens.get(token)?;
        let parked = inner.entries.get(&id)?.parked.as_ref();
        parked.is_none_or(|parked| parked.since.elapsed() < timeout).then_some(id)
    }

    /// Takes a token. Whose connection still has its old socket has that taken away.
    pub(super) async fn claim<'d>(&'d self, edge: &Edge, token: &'d str) -> Result<Claim<'d>, Option<Problem>> {
        let id = self.inner.lock().tokens.remove(token).ok_or(None)?;
        let claim = Claim { desk: self, token, id, spent: false };
        self.let_go(edge, id).await?;
        Ok(claim)
    }

    /// Comes back when the connection has no socket any more.
    async fn let_go(&self, edge: &Edge, id: u64) -> Result<(), Option<Problem>> {
        if self.is_parked(id) {
            return Ok(());
        }
        for (wait, cut) in [(LET_GO, false), (CUT, true)] {
            if cut {
                if let Some(listed) = edge.connections.get(id) {
                    listed.profile.kill.now();
                }
            } else if !edge.connections.take_over(id) {
                return Err(None);
            }
            if tokio::time::timeout(wait, self.parked(id)).await.is_ok() {
                return Ok(());
            }
        }
        Err(Some(Problem::unavailable("busy", "the old connection does not let go; try again")))
    }

    async fn parked(&self, id: u64) {
        loop {
            let told = self.parked.notified();
            tokio::pin!(told);
            // Before it is looked: what is parked in between is told.
            told.as_mut().enable();
            if self.is_parked(id) {
                return;
            }
            told.await;
        }
    }

    fn is_parked(&self, id: u64) -> bool {
        self.inner.lock().entries.get(&id).is_some_and(|entry| entry.parked.is_some())
    }

    /// Where a user's connections with a socket are reached.
    pub(super) fn of_user(&self, subject: &SmolStr) -> Vec<Arc<Subscriber>> {
        let inner = self.inner.lock();
        let own = inner.entries.values().filter(|entry| entry.subject == *subject && entry.parked.is_none());
        own.map(|entry| Arc::clone(&entry.subscriber)).collect()
    }

    /// All of them, by number.
    pub(super) fn show(&self, edge: &Edge) -> Vec<Shown> {
        let mut known: Vec<(u64, &'static str, bool)> = {
            let inner = self.inner.lock();
            inner.entries.iter().map(|(id, entry)| (*id, entry.transport, entry.parked.is_some())).collect()
        };
        known.sort_unstable();
        let shown = known.into_iter().filter_map(|(id, transport, parked)| {
            let listed = edge.connections.get(id)?;
            Some(Shown { listed, transport, parked })
        });
        shown.collect()
    }

    /// Takes out what nobody will come back for: those away too long where `sweep` asks for that, those that were ended, and what is over the bounds.
    fn look_after(&self, edge: &Edge, sweep: bool) -> Vec<Entry> {
        let timeout = edge.settings().surfaces.analytics.parked_timeout;
        let mut inner = self.inner.lock();
        let over = |id: &u64, entry: &Entry| match &entry.parked {
            Some(parked) if sweep && parked.since.elapsed() >= timeout => true,
            Some(_) => edge.connections.get(*id).is_none_or(|listed| listed.profile.kill.is_killed()),
            // One that ended without a word, as where its client went before the stream began.
            None => sweep && edge.connections.get(*id).is_none(),
        };
        let gone: Vec<u64> = inner.entries.iter().filter(|(id, entry)| over(id, entry)).map(|(id, _)| *id).collect();
        let mut gone: Vec<Entry> = gone.into_iter().filter_map(|id| inner.forget(id)).collect();
        gone.extend(inner.over_bounds(edge));
        gone
    }
}

/// Looks after the parked connections until there is no connection any more, or the daemon stops.
async fn keep(edge: Edge) {
    let (mut looks, mut swept) = (0_u32, Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        looks = looks.wrapping_add(1);
        if edge.is_stopping() {
            // Nobody comes back to this process.
            let gone = std::mem::take(&mut *edge.analytics.inner.lock());
            drop(gone);
            return;
        }
        let sweep = swept.elapsed() >= edge.settings().surfaces.analytics.sweep_interval;
        if sweep {
            swept = Instant::now();
        }
        if sweep || looks.is_multiple_of(BOUNDS_LOOKS) {
            let gone = edge.analytics.look_after(&edge, sweep);
            if !gone.is_empty() {
                tracing::debug!(connections = gone.len(), "lost connections were cleared away");
            }
        }
        let mut inner = edge.analytics.inner.lock();
        if inner.entries.is_empty() {
            inner.kept = false;
            return;
        }
    }
}

impl Desk {
    /// Counts a reconnect.
    pub(super) fn count(&self, succeeded: bool) {
        let count = if succeeded { &self.reconnected } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_uuid_of_version_4() {
        for _ in 0..64 {
            let token = new_token();
            let parts: Vec<&str> = token.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{token}");
            assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{token}");
        }
    }
}
