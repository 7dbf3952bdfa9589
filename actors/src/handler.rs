//! The one trait by which an actor works, whichever runner runs it.

use std::future::{Future, ready};

use crate::{Batch, Fault, Inbox, Message};

/// What an actor does after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow<T> {
    /// Go on.
    Continue,
    /// Hand this out to whoever drives the actor, then go on. Only the light runner has anybody to hand it to.
    Yield(T),
    /// End the actor in good order.
    Stop,
}

/// An actor: its own state, one batch at a time.
///
/// A handler must not wait for anything without a limit: it can then only be killed. A fault or a panic ends the actor; a [`Supervisor`](crate::Supervisor) makes
/// a new handler, which goes on with the same mailbox. What the failed one had taken is gone, and whoever waited for an answer to it sees
/// its reply channel close.
pub trait Handler: Send + 'static {
    /// What it works on.
    type Message: Message;
    /// What it hands out; `()` for an actor that only acts.
    type Output: Send + 'static;

    /// Once, before the first batch; loads what the actor needs.
    fn started(&mut self) -> impl Future<Output = Result<(), Fault>> + Send {
        ready(Ok(()))
    }

    /// Works on what was taken. Messages that it leaves in `batch` are there again at the next call; on ractor's runner what it leaves of notices is dropped.
    ///
    /// On the light runner the future may be dropped at any await, and the method be called again with what is left of the batch.
    fn handle(
        &mut self,
        batch: &mut Batch<Self::Message>,
        inbox: &mut Inbox<Self::Message>,
    ) -> impl Future<Output = Result<Flow<Self::Output>, Fault>> + Send;

    /// Once, at an end in good order: [`Flow::Stop`], or the mailbox closed and worked off.
    fn stopped(&mut self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}
