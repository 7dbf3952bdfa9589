//! Coming back: what a client followed when its connection broke off is kept for `wells.recovery_window`, so that the same session goes on after the last event it got. The
//! events themselves are in the log.
//!
//! Bound: `wells.recovery_max` sessions, and [`SUBSCRIPTIONS`] subscriptions for each of these on average; beyond it those that have waited longest are given up. A session
//! that is given up is begun anew, and its client told so.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::server::secret;
use crate::event::RoomName;
use crate::metrics::record;

/// Subscriptions that are kept for each session, on average.
const SUBSCRIPTIONS: usize = 16;
/// How long a client that comes back waits for the connection that it had to end.
const TAKE_OVER: Duration = Duration::from_secs(2);

/// Whether a client is given what it takes to come back: its `pid`, and an offset behind each event. Clients that know nothing of it would hand the offset to the program's
/// handlers, where those of Python fail. So `recovery=1` or `recovery=0` in the query decides; without it Python's clients, by what they call themselves, do not get it, nor
/// does who names itself not at all and offers no compression (Python's websocket-client; Node's `ws` offers it).
pub(super) fn is_for(headers: &HeaderMap, query: &str) -> bool {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "recovery");
    match asked.as_ref().map(|(_, value)| &**value) {
        Some("1" | "true") => return true,
        Some(_) => return false,
        None => {}
    }
    match headers.get(header::USER_AGENT).map(|agent| agent.to_str().unwrap_or_default().to_ascii_lowercase()) {
        Some(agent) => {
            !["python", "aiohttp", "websockets/", "websocket-client"].iter().any(|word| agent.contains(word))
        }
        None => headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS),
    }
}

/// A session to which its client may come back.
#[derive(Debug)]
pub(super) struct Kept {
    /// By which the client names it; nobody else knows it.
    pub(super) pid: SmolStr,
    /// What the client is called, now and afterwards.
    pub(super) sid: SmolStr,
    pub(super) subject: SmolStr,
    /// What it follows, and where each began.
    pub(super) follows: Mutex<Vec<(RoomName, u64)>>,
    /// Another connection of the same client has come.
    pub(super) taken: CancellationToken,
    /// The connection has ended.
    over: CancellationToken,
}

/// All of them. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Recovery(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    by_pid: HashMap<SmolStr, Arc<Kept>>,
    /// Those whose connection has broken off, and until when they are kept, oldest first.
    lost: VecDeque<(Instant, Arc<Kept>)>,
    subscriptions: usize,
}

impl Table {
    fn give_up_oldest(&mut self) {
        if let Some((_, kept)) = self.lost.pop_front() {
            self.subscriptions = self.subscriptions.saturating_sub(kept.follows.lock().len());
            self.by_pid.remove(&kept.pid);
        }
    }

    fn give_up_old(&mut self, now: Instant) {
        while self.lost.front().is_some_and(|(until, _)| *until <= now) {
            self.give_up_oldest();
        }
    }
}

impl Recovery {
    /// A new session.
    pub(super) fn begin(&self, sid: SmolStr, subject: SmolStr) -> Arc<Kept> {
        self.enter(secret(), sid, subject, Vec::new())
    }

    fn enter(&self, pid: SmolStr, sid: SmolStr, subject: SmolStr, follows: Vec<(RoomName, u64)>) -> Arc<Kept> {
        let (taken, over) = (CancellationToken::new(), CancellationToken::new());
        let kept = Arc::new(Kept { pid, sid, subject, follows: Mutex::new(follows), taken, over });
        self.0.lock().by_pid.insert(kept.pid.clone(), Arc::clone(&kept));
        kept
    }

    /// The session that a client comes back to, if it is there and its own. One whose connection has not been found broken yet is ended first.
    pub(super) async fn claim(&self, pid: &str, subject: &SmolStr) -> Option<Arc<Kept>> {
        let kept = {
            let mut table = self.0.lock();
            table.give_up_old(Instant::now());
            table.by_pid.get(pid).filter(|kept| kept.subject == *subject).cloned()?
        };
        kept.taken.cancel();
        timeout(TAKE_OVER, kept.over.cancelled()).await.ok()?;
        {
            let mut table = self.0.lock();
            // Whoever else came with the same name finds nothing from here on.
            let at = table.lost.iter().position(|(_, other)| Arc::ptr_eq(other, &kept))?;
            table.lost.remove(at);
            table.subscriptions = table.subscriptions.saturating_sub(kept.follows.lock().len());
            table.by_pid.remove(pid);
        }
        let follows = std::mem::take(&mut *kept.follows.lock());
        Some(self.enter(kept.pid.clone(), kept.sid.clone(), kept.subject.clone(), follows))
    }

    /// A connection has ended; its client may come back for a while, up to so many of them.
    pub(super) fn lose(&self, kept: &Arc<Kept>, window: Duration, max: usize) {
        let now = Instant::now();
        {
            let mut table = self.0.lock();
            table.give_up_old(now);
            table.subscriptions += kept.follows.lock().len();
            table.lost.push_back((now + window, Arc::clone(kept)));
            while table.lost.len() > max || table.subscriptions > max.saturating_mul(SUBSCRIPTIONS) {
                record::connection_cut("recovery_full");
                table.give_up_oldest();
            }
        }
        kept.over.cancel();
    }

    /// A connection has ended for good.
    pub(super) fn forget(&self, kept: &Kept) {
        self.0.lock().by_pid.remove(&kept.pid);
        kept.over.cancel();
    }
}

/// Lets the client come back when its connection has ended, if it may.
pub(super) struct Keeper {
    pub(super) recovery: Recovery,
    pub(super) kept: Option<Arc<Kept>>,
    pub(super) window: Duration,
    pub(super) max: usize,
    /// Whether the end was one after which it may.
    pub(super) may: bool,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        match &self.kept {
            Some(kept) if self.may => self.recovery.lose(kept, self.window, self.max),
            Some(kept) => self.recovery.forget(kept),
            None => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn the_query_decides_and_without_it_what_a_client_calls_itself() {
        let python = headers(&[("user-agent", "python-requests/2.34.2")]);
        let aiohttp =
            headers(&[("user-agent", "Python/3.11 aiohttp/3.14"), ("sec-websocket-extensions", "permessage-deflate")]);
        let browser = headers(&[("user-agent", "Mozilla/5.0"), ("origin", "http://localhost:3000")]);
        let node = headers(&[("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")]);
        let bare = headers(&[("origin", "http://localhost:8000")]);
        for (client, is) in [(&python, false), (&aiohttp, false), (&browser, true), (&node, true), (&bare, false)] {
            assert_eq!(is_for(client, "EIO=4"), is, "{client:?}");
            assert!(is_for(client, "EIO=4&recovery=1") && !is_for(client, "recovery=0"), "{client:?}");
        }
    }

    #[tokio::test]
    async fn a_session_is_given_to_its_own_client_once() {
        let recovery = Recovery::default();
        let kept = recovery.begin("s".into(), "alice".into());
        kept.follows.lock().push((RoomName::parse("well:A").unwrap(), 3));
        recovery.lose(&kept, WINDOW, 10);
        assert!(recovery.claim(&kept.pid, &"bob".into()).await.is_none(), "somebody else's");
        assert!(recovery.claim("made up", &"alice".into()).await.is_none());
        let again = recovery.claim(&kept.pid, &"alice".into()).await.unwrap();
        assert_eq!((&again.pid, &again.sid, again.follows.lock().len()), (&kept.pid, &kept.sid, 1));
        recovery.forget(&again);
        assert!(recovery.claim(&kept.pid, &"alice".into()).await.is_none());
        assert_eq!(recovery.0.lock().by_pid.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_its_time_or_too_many_is_given_up_the_oldest_first() {
        let recovery = Recovery::default();
        let all: Vec<_> = (0..3).map(|_| recovery.begin("s".into(), "alice".into())).collect();
        all.iter().for_each(|kept| recovery.lose(kept, WINDOW, 2));
        assert!(recovery.claim(&all[0].pid, &"alice".into()).await.is_none(), "the oldest of three where two may be");
        assert!(recovery.claim(&all[1].pid, &"alice".into()).await.is_some());
        tokio::time::advance(WINDOW).await;
        assert!(recovery.claim(&all[2].pid, &"alice".into()).await.is_none());
        let table = recovery.0.lock();
        assert_eq!((table.by_pid.len(), table.lost.len(), table.subscriptions), (1, 0, 0), "only the one that lives");
    }

    #[tokio::test]
    async fn who_comes_back_before_the_break_was_noticed_ends_what_was() {
        let recovery = Recovery::default();
        let kept = recovery.begin("s".into(), "alice".into());
        let (other, was) = (recovery.clone(), Arc::clone(&kept));
        let connection = tokio::spawn(async move {
            was.taken.cancelled().await;
            other.lose(&was, WINDOW, 10);
        });
        assert!(recovery.claim(&kept.pid, &"alice".into()).await.is_some());
        connection.await.unwrap();
    }
}
