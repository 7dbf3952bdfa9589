//! The taking side of a mailbox. There is one at a time; dropping it detaches the reader and leaves the mailbox to its successor.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::{Mailbox, Message, Shed, Window};

/// What one take brought. The reader empties the lists as it works; the same batch is filled again, so nothing is allocated for it
/// in normal running.
#[derive(Debug)]
pub struct Batch<M: Message> {
    /// Runs of messages that were given up, to be told before `messages`.
    pub shed: Vec<Shed<M::Stream>>,
    /// Messages, higher lanes first.
    pub messages: Vec<M>,
    /// Streams that fell behind, and the position after which to read their history. Each is told once; [`Inbox::level`] ends it.
    pub behind: Vec<(M::Stream, u64)>,
    /// Whether a period has passed since the last take.
    pub tick: bool,
    /// Whether the mailbox is closed and this is the last of it.
    pub closed: bool,
}

impl<M: Message> Default for Batch<M> {
    fn default() -> Self {
        Self { shed: Vec::new(), messages: Vec::new(), behind: Vec::new(), tick: false, closed: false }
    }
}

impl<M: Message> Batch<M> {
    /// Whether there is nothing to work on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shed.is_empty() && self.messages.is_empty() && self.behind.is_empty() && !self.tick && !self.closed
    }
}

/// Whether a reader that read its history has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It has: the stream's next message comes through the mailbox.
    Live,
    /// Not yet: the stream has come as far as this position.
    Behind(u64),
}

/// The taking side of a [`Mailbox`].
#[derive(Debug)]
pub struct Inbox<M: Message> {
    mailbox: Mailbox<M>,
}

impl<M: Message> Inbox<M> {
    pub(crate) fn new(mailbox: Mailbox<M>) -> Self {
        Self { mailbox }
    }

    /// The mailbox this takes from.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox<M> {
        &self.mailbox
    }

    /// Takes what waits into `batch`, or leaves `cx`'s waker to be woken when there is something.
    pub fn poll_take(&mut self, cx: &Context<'_>, batch: &mut Batch<M>, window: Window) -> Poll<()> {
        let senders = {
            let mut state = self.mailbox.lock();
            if !state.has_news() {
                match &mut state.consumer {
                    Some(waker) if waker.will_wake(cx.waker()) => {}
                    consumer => *consumer = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            state.take(batch, window);
            std::mem::take(&mut state.waiting_senders)
        };
        senders.into_iter().for_each(std::task::Waker::wake);
        Poll::Ready(())
    }

    /// Waits until there is something and takes it. Nothing is lost if the future is dropped.
    pub async fn take(&mut self, batch: &mut Batch<M>, window: Window) {
        poll_fn(|cx| self.poll_take(cx, batch, window)).await;
    }

    /// Takes what waits, if anything; `false` if nothing did.
    pub fn try_take(&mut self, batch: &mut Batch<M>, window: Window) -> bool {
        let senders = {
            let mut state = self.mailbox.lock();
            if !state.has_news() {
                return false;
            }
            state.take(batch, window);
            std::mem::take(&mut state.waiting_senders)
        };
        senders.into_iter().for_each(std::task::Waker::wake);
        true
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.mailbox.lock().has_news()
    }

    /// Says that the reader has read a stream's history up to `reached`. If that is as far as the stream has come, the stream is live again.
    pub fn level(&mut self, stream: &M::Stream, reached: u64) -> Level {
        self.mailbox.lock().level(stream, reached).map_or(Level::Live, Level::Behind)
    }
}

impl<M: Message> Drop for Inbox<M> {
    fn drop(&mut self) {
        let mut state = self.mailbox.lock();
        state.attached = false;
        state.consumer = None;
    }
}
