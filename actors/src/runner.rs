//! The two runners: [`Light`], driven by the task that owns a socket, and [`Port`], a ractor actor. With the supervisor the only place that names ractor's traits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::census::Living;
use crate::{Batch, Census, Fault, Flow, Handler, Inbox, Mailbox, Window};

/// An actor without a task of its own: whoever awaits [`Light::next`] runs it. So the task that writes a socket empties the mailbox itself, and a
/// delivery costs no hop between actors.
pub struct Light<H: Handler> {
    handler: H,
    inbox: Inbox<H::Message>,
    batch: Batch<H::Message>,
    window: Window,
    census: Census,
    ended: bool,
    _living: Living,
}

impl<H: Handler> Light<H> {
    /// Starts the actor.
    ///
    /// # Errors
    /// Whatever the handler's start fails with.
    pub async fn start(
        mut handler: H,
        inbox: Inbox<H::Message>,
        window: Window,
        census: &Census,
    ) -> Result<Self, Fault> {
        let living = census.enter();
        if let Err(fault) = handler.started().await {
            census.note_failed();
            return Err(fault);
        }
        let batch = Batch::default();
        Ok(Self { handler, inbox, batch, window, census: census.clone(), ended: false, _living: living })
    }

    /// Works until there is something to hand out; `None` when the actor has ended. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The handler's fault, which ends the actor.
    pub async fn next(&mut self) -> Result<Option<H::Output>, Fault> {
        while !self.ended {
            if self.batch.is_empty() {
                self.inbox.take(&mut self.batch, self.window).await;
            }
            let closed = self.batch.closed;
            let flow = self.handler.handle(&mut self.batch, &mut self.inbox).await;
            self.batch.tick = false;
            match flow {
                Ok(Flow::Yield(output)) => return Ok(Some(output)),
                Ok(Flow::Continue) if closed => self.ended = true,
                Ok(Flow::Continue) => {}
                Ok(Flow::Stop) => self.ended = true,
                Err(fault) => {
                    self.ended = true;
                    self.census.note_failed();
                    return Err(fault);
                }
            }
            if self.ended {
                self.handler.stopped().await;
            }
        }
        Ok(None)
    }

    /// The handler, for what the socket's own side brings in.
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// The mailbox the actor reads.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox<H::Message> {
        self.inbox.mailbox()
    }

    /// The same actor with another handler, which goes on with what waits, also if the one before had ended.
    #[must_use]
    pub fn map<G: Handler<Message = H::Message>>(self, other: impl FnOnce(H) -> G) -> Light<G> {
        let Self { handler, inbox, batch, window, census, _living, .. } = self;
        Light { handler: other(handler), inbox, batch, window, census, ended: false, _living }
    }
}

impl<H: Handler> std::fmt::Debug for Light<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Light").field("mailbox", self.inbox.mailbox()).finish_non_exhaustive()
    }
}

/// The wake that ractor carries: it says that the mailbox has something, and no more.
#[derive(Debug)]
pub(crate) struct Look;

struct LookWaker(ActorRef<Look>);

impl Wake for LookWaker {
    fn wake(self: Arc<Self>) {
        // Fails only when the actor has ended; then its successor looks by itself.
        let _ = self.0.cast(Look);
    }
}

/// What a [`Port`] is made of at its start.
pub(crate) struct Work<H: Handler> {
    pub(crate) handler: H,
    pub(crate) inbox: Inbox<H::Message>,
    pub(crate) window: Window,
    pub(crate) census: Census,
}

/// A running ractor actor's state.
pub(crate) struct Running<H: Handler> {
    work: Work<H>,
    batch: Batch<H::Message>,
    waker: Waker,
    living: Living,
}

/// A handler as a ractor actor: ractor brings the wakes and the supervision, the mailbox brings the messages.
pub(crate) struct Port<H>(pub(crate) std::marker::PhantomData<fn() -> H>);

impl<H: Handler> Actor for Port<H> {
    type Msg = Look;
    type State = Running<H>;
    type Arguments = Work<H>;

    async fn pre_start(&self, myself: ActorRef<Look>, mut work: Work<H>) -> Result<Running<H>, ActorProcessingErr> {
        let living = work.census.enter();
        work.handler.started().await?;
        // The first look: the mailbox may hold messages from before.
        myself.cast(Look)?;
        let waker = Waker::from(Arc::new(LookWaker(myself)));
        Ok(Running { work, batch: Batch::default(), waker, living })
    }

    async fn handle(
        &self,
        myself: ActorRef<Look>,
        _: Look,
        running: &mut Running<H>,
    ) -> Result<(), ActorProcessingErr> {
        let Running { work, batch, waker, living } = running;
        if batch.is_empty() && work.inbox.poll_take(&Context::from_waker(waker), batch, work.window) == Poll::Pending {
            return Ok(());
        }
        let closed = batch.closed;
        // The panic is noted here, where it can be told from a fault, and goes on to ractor, which tells the supervisor.
        let outcome = AssertUnwindSafe(work.handler.handle(batch, &mut work.inbox)).catch_unwind().await;
        let outcome = outcome.map_err(|panic| panic_text(&*panic));
        batch.tick = false;
        // Who does not ask for these does not want them; left here they would keep the batch from ever being filled again.
        batch.shed.clear();
        batch.behind.clear();
        let flow = match outcome {
            Ok(flow) => flow?,
            Err(panic) => {
                living.note_panicked();
                return Err(panic.into());
            }
        };
        if matches!(flow, Flow::Stop) || closed {
            work.handler.stopped().await;
            // Everything is worked off: `stop` has nothing to overtake.
            myself.stop(None);
        } else {
            // One batch a message, and the next through the port, so that stop and supervision get in between.
            myself.cast(Look)?;
        }
        Ok(())
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.as_deref().unwrap_or("no text"))
}
