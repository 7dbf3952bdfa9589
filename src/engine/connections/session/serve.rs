//! Keeping to a reader's contract: what it does not want is left out, what it wants less of is thinned, and what is held for its time goes out when that has come. And the state of rooms:
//! a snapshot to begin with and wherever changes are missing, and of the changes only those that come after it.

use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::Inbox;
use tokio::time::Instant;

use super::super::{Delivery, Dialect, Notice};
use super::{Alarm, Place, Served, Session};
use crate::clock;
use crate::engine::connections::thin::{Out, Thin};
use crate::engine::rooms::Snapshot;
use crate::event::{Event, RoomKey};

/// When to look again for what is on its way, in milliseconds.
const AGAIN_MS: u64 = 5;

impl<D: Dialect> Session<D> {
    /// Writes what the contract lets through for an event; how many events that are.
    pub(super) fn serve(&mut self, event: &Arc<Event>) -> u64 {
        let Some(follow) = self.follows.get_mut(&event.room) else { return 0 };
        let Some(Served { contract, thin, state_seq }) = follow.served.as_deref_mut() else { return 0 };
        let books = &self.profile.books;
        let internal = contract.as_ref().is_some_and(|contract| contract.internal);
        if event.change && event.seq <= *state_seq && !internal {
            // It is in the snapshot already.
            books.conflated.add(1);
            self.meter.conflated(1);
            return 0;
        }
        if contract.as_ref().is_some_and(|contract| !contract.wants(event)) {
            books.filtered.add(1);
            self.meter.filtered(1);
            return 0;
        }
        let Some(thin) = thin else {
            let place = Place { follows: &self.follows, alone: self.alone, instead: None };
            self.dialect.event(event, &place);
            return 1;
        };
        let mut out = Vec::new();
        let urgent = contract.as_ref().and_then(|contract| contract.urgent).is_some_and(|urgent| urgent.is(event));
        let thinned = if urgent { thin.pass(event, &mut out) } else { thin.take(event, &mut out) };
        let merged = thinned.merged;
        self.write_thinned(&out, merged)
    }

    fn write_thinned(&mut self, out: &[Out], merged: u64) -> u64 {
        if merged > 0 {
            self.profile.books.conflated.add(merged);
            self.meter.conflated(merged);
        }
        let (follows, alone) = (&self.follows, self.alone);
        for Out { event, cursor } in out {
            // Where a single room's cursor is the event's own seq, its bytes are the shared ones.
            let own = alone && *cursor == event.seq;
            let instead = (!own).then_some((&event.room, *cursor));
            self.dialect.event(event, &Place { follows, alone, instead });
        }
        out.len() as u64
    }

    /// Lets go what has been held for its time, and has itself woken when the next is due.
    pub(super) fn let_go_what_is_due(&mut self, inbox: &Inbox<Delivery>) {
        let now_ms = clock::now_ms();
        if self.alarm.as_ref().is_some_and(|alarm| alarm.at <= Instant::now()) {
            self.alarm = None;
        }
        let (mut next, mut written) = (u64::MAX, 0);
        for at in 0..self.follows.len() {
            let Some((key, follow)) = self.follows.get_index_mut(at) else { break };
            let head = follow.room.head();
            let reached = follow.reached;
            let Some(thin) = follow.served.as_mut().and_then(|served| served.thin.as_mut()) else { continue };
            let Some(due_ms) = thin.due_ms() else { continue };
            // While history is read, its own time goes on with it.
            if self.behind.contains(key) {
                continue;
            }
            if due_ms > now_ms {
                next = next.min(due_ms);
            } else if reached < head && matches!(thin, Thin::Made(_)) {
                // What may belong to the period is still on its way; it comes with the next look.
                next = next.min(now_ms + AGAIN_MS);
            } else {
                let mut out = Vec::new();
                let merged = thin.clock(now_ms, &mut out).merged;
                next = next.min(thin.due_ms().unwrap_or(u64::MAX));
                written += self.write_thinned(&out, merged);
            }
        }
        self.profile.books.delivered.add(written);
        self.wake_at(next, now_ms, inbox);
    }

    /// Has itself woken at a time, in milliseconds since 1970; `u64::MAX` for not at all.
    fn wake_at(&mut self, next: u64, now_ms: u64, inbox: &Inbox<Delivery>) {
        if next == u64::MAX {
            self.alarm = None;
            return;
        }
        let at = Instant::now() + Duration::from_millis(next.saturating_sub(now_ms).max(1));
        if self.alarm.as_ref().is_some_and(|alarm| alarm.at <= at + Duration::from_millis(2)) {
            return;
        }
        let mailbox = inbox.mailbox().downgrade();
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            if let Some(mailbox) = mailbox.upgrade() {
                mailbox.tick();
            }
        });
        self.alarm = Some(Box::new(Alarm { at, task: task.abort_handle() }));
    }

    /// A state that was not there when the reader joined.
    pub(super) fn take_state(&mut self, key: &RoomKey, snapshot: &Snapshot) {
        let Some(follow) = self.follows.get_mut(key) else { return };
        let served = follow.served.get_or_insert_with(|| Box::new(Served { contract: None, thin: None, state_seq: 0 }));
        served.state_seq = snapshot.seq;
        self.tell(&Notice::Snapshot { room: key.name(), snapshot });
    }

    /// Something is missing in a room: if it has a state, the reader gets it anew.
    pub(super) fn renew_state(&mut self, key: &RoomKey) {
        let snapshot = self.follows.get(key).and_then(|follow| follow.room.snapshot());
        if let Some(snapshot) = snapshot {
            self.take_state(key, &snapshot);
        }
    }
}
