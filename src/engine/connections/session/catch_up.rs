//! Reading on from the history, room by room and step by step, until the mailbox says that the reader is level.

use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::{Inbox, Level};

use super::super::{Control, Delivery, Dialect};
use super::{Session, WRITE_BYTES, books};
use crate::engine::rooms::{Gap, Step};
use crate::event::{Event, RoomKey};
use crate::log::{LogError, Read, RoomIndex};

/// How much is read from the history at once: enough for one write, little enough that live events of other rooms get in between.
const READ_EVENTS: usize = 512;
const READ_BYTES: usize = 96 << 10;
/// When to ask again where too many wait for the disk.
const ASK_AGAIN: Duration = Duration::from_millis(50);

impl<D: Dialect> Session<D> {
    /// Tells what is missing where the reader stands, if something is, and puts it behind that; `upto` bounds how far, if what comes next is known.
    pub(super) fn step_over_gap(&mut self, key: &RoomKey, upto: Option<u64>) -> bool {
        let Some(follow) = self.follows.get_mut(key) else { return false };
        let Some(mut gap) = follow.room.gap(follow.reached) else { return false };
        gap.first_seq = upto.unwrap_or(gap.first_seq);
        follow.reached = gap.first_seq - 1;
        books::settle_gap(follow, gap.first_seq - 1, &self.profile.books, self.meter);
        let room = Arc::clone(&follow.room);
        self.tell_gap(room.name(), gap);
        self.renew_state(key);
        true
    }

    /// Writes history and asks the mailbox whether the reader is level with it. `head` is the room's from before it was read.
    pub(super) fn read_on(&mut self, key: &RoomKey, head: u64, events: &[Arc<Event>], inbox: &mut Inbox<Delivery>) {
        let Some(follow) = self.follows.get(key) else {
            self.behind.retain(|other| other != key);
            return;
        };
        let mut reached = head;
        match events.first() {
            // Retention may have overtaken the reader between its look and its reading.
            Some(first) if first.seq > follow.reached + 1 => {
                self.step_over_gap(key, Some(first.seq));
            }
            None if self.step_over_gap(key, None) => reached = 0,
            _ => {}
        }
        let delivered: u64 = events.iter().map(|event| self.write(event)).sum();
        self.profile.books.delivered.add(delivered);
        if let Some(follow) = self.follows.get(key)
            && (!events.is_empty() || reached == 0)
        {
            reached = follow.reached;
        }
        if inbox.level(key, reached) == Level::Live {
            self.behind.retain(|other| other != key);
        } else if let Some(at) = self.behind.iter().position(|other| other == key) {
            // Others that are behind get their turn.
            self.behind.rotate_left((at + 1) % self.behind.len().max(1));
        }
    }

    /// What the disk cannot give is a gap like any other, and the operator is told what is wrong.
    pub(super) fn skip_unreadable(&mut self, key: &RoomKey, error: &LogError) {
        tracing::error!(room = %key.name(), %error, connection = self.subscriber.id, "a reader's history cannot be read");
        let Some(follow) = self.follows.get_mut(key) else { return };
        let tail_begins = follow.room.memory_begins();
        if tail_begins <= follow.reached + 1 {
            return;
        }
        let gap = Gap { after: follow.reached, first_seq: tail_begins };
        follow.reached = tail_begins - 1;
        books::settle_gap(follow, tail_begins - 1, &self.profile.books, self.meter);
        let room = follow.room.name().clone();
        self.tell_gap(&room, gap);
        self.renew_state(key);
    }

    /// Reads on where it is behind, as much as fits into one write, if it is its turn; else it is woken when it is.
    pub(super) fn catch_up(&mut self, inbox: &mut Inbox<Delivery>) {
        if self.behind.is_empty() || self.reading {
            return;
        }
        if !std::mem::take(&mut self.turn) && !self.rooms.turns().take(inbox.mailbox()) {
            self.reading = true;
            return;
        }
        while !self.behind.is_empty() && !self.reading && self.dialect.gathered() < WRITE_BYTES {
            self.step(inbox);
        }
        if !self.behind.is_empty() && !self.reading {
            // More of the history is there; first what was gathered goes out, then this comes again.
            inbox.mailbox().tick();
        }
    }

    /// Takes one step in the history of the next room that is behind.
    fn step(&mut self, inbox: &mut Inbox<Delivery>) {
        let Some(key) = self.behind.front().cloned() else { return };
        self.step_over_gap(&key, None);
        let Some(follow) = self.follows.get(&key) else {
            // Told before the room itself is known; when it is, its place is asked for.
            self.behind.pop_front();
            return;
        };
        let head = follow.room.head();
        match follow.room.read(follow.reached, READ_EVENTS, READ_BYTES) {
            Step::Events(events) => self.read_on(&key, head, &events, inbox),
            Step::Disk(index) => {
                let after = follow.reached;
                // What others who came back have read lately needs no thread.
                match self.rooms.log().read_held(&key, &index, after, READ_EVENTS, READ_BYTES) {
                    Some(events) => self.read_on(&key, head, &events, inbox),
                    None => self.ask(key, index, after, head, inbox),
                }
            }
        }
    }

    /// Asks the log; the answer comes through the mailbox.
    pub(super) fn ask(&mut self, key: RoomKey, index: Arc<RoomIndex>, after: u64, head: u64, inbox: &Inbox<Delivery>) {
        let mailbox = inbox.mailbox().downgrade();
        let room = key.clone();
        let answer = Box::new(move |outcome| {
            if let Some(mailbox) = mailbox.upgrade() {
                // Fails only when the reader has gone.
                let _ = mailbox.answer(Delivery::Control(Box::new(Control::Read { room, head, outcome })));
            }
        });
        self.reading = true;
        let read = Read { key, index, after, events_max: READ_EVENTS, bytes_max: READ_BYTES, answer };
        if self.rooms.log().read(read).is_err() {
            // Too many wait for the disk.
            self.ask_later(inbox);
        }
    }

    /// Asks again after a short pause, one for each such reader.
    pub(super) fn ask_later(&mut self, inbox: &Inbox<Delivery>) {
        self.reading = true;
        let mailbox = inbox.mailbox().downgrade();
        tokio::spawn(async move {
            tokio::time::sleep(ASK_AGAIN).await;
            if let Some(mailbox) = mailbox.upgrade() {
                let _ = mailbox.answer(Delivery::Control(Box::new(Control::ReadAgain)));
            }
        });
    }
}
