//! The sending side of a mailbox: bounded in messages and bytes, four lanes, one lock, one coalesced wake.
//!
//! Bound: [`Bounds`]. Who waits: only senders that ask to ([`Mailbox::push_wait`]), each with a limit. What is shed: what the messages'
//! [`Policy`](crate::Policy) allows, counted in [`Counts`] and told to the reader run by run.
//!
//! A push is one short lock; the first push after the reader went to sleep takes the reader's waker out of the state and wakes it after the
//! lock is released, the next ones find none and wake nobody. A wake cannot be lost: the reader leaves its waker under the same lock
//! under which it found nothing.
//!
//! Cost, by `benches/mailbox.rs`: see `benches/README.md` at the project's root.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::state::{State, Verdict};
use crate::sync::{Mutex, MutexGuard};
use crate::{Budget, Full, Inbox, Lane, Message, Reason, Refused};

/// How much a mailbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Messages, all lanes together; at least 1.
    pub messages: usize,
    /// Bytes, by [`Message::bytes`]; one heavier message passes through an empty mailbox.
    pub bytes: usize,
}

/// How much one take may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Messages.
    pub messages: usize,
    /// Bytes; a take brings at least one message.
    pub bytes: usize,
}

impl Window {
    /// Everything that waits.
    pub const ALL: Self = Self { messages: usize::MAX, bytes: usize::MAX };
}

/// What waits now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages, all lanes together.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Messages by lane, highest first.
    pub lanes: [usize; 4],
    /// Streams that the reader takes from their history for now.
    pub behind: usize,
}

/// What has happened so far, in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Taken in.
    pub queued: u64,
    /// Handed to the reader.
    pub taken: u64,
    /// Made superfluous by a newer one of the same key.
    pub conflated: u64,
    /// Given up.
    pub shed: u64,
    /// Left to the reader's history: evicted, or not taken in because the stream was behind.
    pub behind: u64,
}

/// What became of an offered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It waits.
    Queued,
    /// It waits, and an older one of its key went.
    Conflated,
    /// Its stream is behind: the reader will find it in its history.
    Behind,
    /// It was given up; the reader will be told.
    Shed,
    /// The mailbox is closed.
    Closed,
}

/// What became of several offered messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// Waiting.
    pub queued: u64,
    /// Waiting in place of an older one.
    pub conflated: u64,
    /// Left to the reader's history.
    pub behind: u64,
    /// Refused for want of room; the reader will be told.
    pub shed: u64,
    /// The mailbox takes nothing more.
    pub closed: bool,
}

struct Shared<M: Message> {
    state: Mutex<State<M>>,
}

/// The sending side; clones send into the same mailbox.
pub struct Mailbox<M: Message>(Arc<Shared<M>>);

impl<M: Message> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Message> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Mailbox").field(&self.depth()).finish()
    }
}

impl<M: Message> Mailbox<M> {
    /// A new mailbox and its taking side.
    #[must_use]
    pub fn new(bounds: Bounds) -> (Self, Inbox<M>) {
        Self::with_budget(bounds, None)
    }

    /// A new mailbox that shares a budget with others.
    #[must_use]
    pub fn with_budget(bounds: Bounds, budget: Option<Budget>) -> (Self, Inbox<M>) {
        let bounds = Bounds { messages: bounds.messages.max(1), bytes: bounds.bytes };
        let mailbox = Self(Arc::new(Shared { state: Mutex::new(State::new(bounds, budget)) }));
        (mailbox.clone(), Inbox::new(mailbox))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.0.state.lock()
    }

    /// Sends a message, or gives it back.
    ///
    /// # Errors
    /// [`Full::Full`] where its policy is to be refused or to wait, [`Full::Closed`].
    pub fn push(&self, message: M) -> Result<Offered, Refused<M>> {
        let mut slot = Some(message);
        let verdict = self.admit(&mut slot);
        let why = match verdict {
            Verdict::Queued => return Ok(Offered::Queued),
            Verdict::Conflated => return Ok(Offered::Conflated),
            Verdict::Behind => return Ok(Offered::Behind),
            Verdict::Full => Full::Full,
            Verdict::Closed => Full::Closed,
        };
        match slot {
            Some(message) => Err(Refused { message, why }),
            // A refusal leaves the message in its slot (see `State::admit`).
            None => Ok(Offered::Closed),
        }
    }

    /// Sends a message that nobody wants back: what there is no room for is given up and the reader is told.
    pub fn offer(&self, message: M) -> Offered {
        match self.push(message) {
            Ok(offered) => offered,
            Err(Refused { why: Full::Closed, .. }) => Offered::Closed,
            Err(Refused { message, .. }) => {
                self.shed(&message, Reason::Rejected);
                Offered::Shed
            }
        }
    }

    /// Offers several messages under one lock and with one wake; what became of them is counted in `told`.
    pub fn offer_all(&self, messages: impl Iterator<Item = M>, told: &mut Told) {
        let mut given_up = Vec::new();
        let waker = {
            let mut state = self.lock();
            for message in messages {
                let mut slot = Some(message);
                match state.admit(&mut slot, &mut given_up) {
                    Verdict::Queued => told.queued += 1,
                    Verdict::Conflated => told.conflated += 1,
                    Verdict::Behind => told.behind += 1,
                    Verdict::Closed => told.closed = true,
                    Verdict::Full => {
                        told.shed += 1;
                        if let Some(message) = slot.take() {
                            state.note_shed(&message, Reason::Rejected);
                            given_up.push(message);
                        }
                    }
                }
                // What is refused by a closed mailbox is dropped outside the lock, as all that makes way.
                given_up.extend(slot);
            }
            if state.has_news() { state.consumer.take() } else { None }
        };
        wake(waker);
    }

    /// Sends a message, waiting for room no longer than `limit`.
    ///
    /// Waiting senders are woken together when the reader takes something; the first to come is served first, there is no queue among them.
    ///
    /// # Errors
    /// [`Full::TimedOut`], [`Full::Closed`], and [`Full::Full`] where its policy is to be refused.
    pub async fn push_wait(&self, message: M, limit: Duration) -> Result<Offered, Refused<M>> {
        // Try first; take the clock only when there is something to wait for.
        let mut message = match self.push(message) {
            Err(Refused { message, why: Full::Full }) if message.policy().on_full == crate::OnFull::Wait => message,
            settled => return settled,
        };
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if tokio::time::timeout_at(deadline, self.room()).await.is_err() {
                return Err(Refused { message, why: Full::TimedOut });
            }
            message = match self.push(message) {
                Err(Refused { message, why: Full::Full }) => message,
                settled => return settled,
            };
        }
    }

    /// Waits until the reader has taken something or the mailbox is closed.
    async fn room(&self) {
        let mut registered = false;
        poll_fn(|cx| {
            let mut state = self.lock();
            if registered || state.closed || state.messages() == 0 {
                return Poll::Ready(());
            }
            if !state.waiting_senders.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting_senders.push(cx.waker().clone());
            }
            registered = true;
            Poll::Pending
        })
        .await;
    }

    /// Sends an answer that this mailbox's own reader asked for. It is taken in whatever the bounds say; the reader bounds how many
    /// answers are out at once. Gives the answer back if the mailbox is closed.
    ///
    /// # Errors
    /// [`Full::Closed`].
    pub fn answer(&self, message: M) -> Result<(), Refused<M>> {
        let waker = {
            let mut state = self.lock();
            if state.closed {
                return Err(Refused { message, why: Full::Closed });
            }
            state.admit_answer(message);
            state.consumer.take()
        };
        wake(waker);
        Ok(())
    }

    fn admit(&self, slot: &mut Option<M>) -> Verdict {
        // What makes way is dropped after the lock is released: a drop may run anybody's code.
        let mut given_up = Vec::new();
        let (verdict, waker) = {
            let mut state = self.lock();
            let verdict = state.admit(slot, &mut given_up);
            let waker = if state.has_news() { state.consumer.take() } else { None };
            (verdict, waker)
        };
        wake(waker);
        verdict
    }

    /// Notes a message as given up for the reader to be told, for a sender that decided so itself.
    pub fn shed(&self, message: &M, reason: Reason) {
        let waker = {
            let mut state = self.lock();
            state.note_shed(message, reason);
            state.consumer.take()
        };
        wake(waker);
    }

    /// Starts a stream behind: its reader has everything up to `after` and is to read on from its history until it has reached `latest`
    /// and whatever is pushed meanwhile. With `after >= latest` it is level at once.
    pub fn follow(&self, stream: M::Stream, after: u64, latest: u64) {
        if after >= latest {
            return;
        }
        let waker = {
            let mut state = self.lock();
            state.begin_behind(stream, after, latest);
            state.consumer.take()
        };
        wake(waker);
    }

    /// Forgets a stream: its waiting messages and notices go.
    pub fn forget(&self, stream: &M::Stream) {
        let mut given_up = Vec::new();
        self.lock().forget(stream, &mut given_up);
    }

    /// Gives up what waits: what can be read later goes behind, of the rest what can be told goes; answers stay.
    pub fn give_up_all(&self) {
        let mut given_up = Vec::new();
        let waker = {
            let mut state = self.lock();
            state.give_up_all(&mut given_up);
            if state.has_news() { state.consumer.take() } else { None }
        };
        wake(waker);
    }

    /// Tells the reader that a period has passed. Ticks that it has not seen yet become one.
    pub fn tick(&self) {
        let waker = {
            let mut state = self.lock();
            state.tick_due = true;
            state.consumer.take()
        };
        wake(waker);
    }

    /// Takes nothing more. The reader still gets what waits, and then the end.
    pub fn close(&self) {
        let (waker, senders) = {
            let mut state = self.lock();
            state.closed = true;
            (state.consumer.take(), std::mem::take(&mut state.waiting_senders))
        };
        wake(waker);
        senders.into_iter().for_each(std::task::Waker::wake);
    }

    /// Closes the mailbox if nothing waits in it; whether it did. Nothing can slip in between the look and the closing.
    #[must_use]
    pub fn close_if_empty(&self) -> bool {
        let mut state = self.lock();
        if state.messages() > 0 {
            return false;
        }
        state.closed = true;
        let (waker, senders) = (state.consumer.take(), std::mem::take(&mut state.waiting_senders));
        drop(state);
        wake(waker);
        senders.into_iter().for_each(std::task::Waker::wake);
        true
    }

    /// Closes the mailbox and drops what waits in it.
    pub fn close_and_clear(&self) {
        drop(self.close_and_take());
    }

    /// Closes it; what waited in it comes back.
    #[must_use]
    pub fn close_and_take(&self) -> Vec<M> {
        self.close();
        let mut given_up = Vec::new();
        self.lock().clear(&mut given_up);
        given_up
    }

    /// Whether the mailbox takes nothing more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The taking side again, after the earlier one was dropped; `None` while there is one.
    #[must_use]
    pub fn attach(&self) -> Option<Inbox<M>> {
        let mut state = self.lock();
        if state.attached {
            return None;
        }
        state.attached = true;
        drop(state);
        Some(Inbox::new(self.clone()))
    }

    /// What waits now.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let state = self.lock();
        Depth {
            messages: state.messages(),
            bytes: state.bytes(),
            lanes: Lane::ALL.map(|lane| state.lane_depth(lane)),
            behind: state.behind_streams(),
        }
    }

    /// How much it holds.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.lock().bounds()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// A handle that does not keep the mailbox alive.
    #[must_use]
    pub fn downgrade(&self) -> Weak<M> {
        Weak(Arc::downgrade(&self.0))
    }
}

/// A handle to a mailbox that does not keep it alive.
pub struct Weak<M: Message>(std::sync::Weak<Shared<M>>);

impl<M: Message> Weak<M> {
    /// The mailbox, if it still lives.
    #[must_use]
    pub fn upgrade(&self) -> Option<Mailbox<M>> {
        self.0.upgrade().map(Mailbox)
    }
}

impl<M: Message> std::fmt::Debug for Weak<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Weak")
    }
}

fn wake(waker: Option<std::task::Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
