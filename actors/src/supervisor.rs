//! Supervision: children are started, started again with a growing pause when they fail, and given up when they fail too often.
//!
//! A supervisor is a ractor actor that does nothing else. Its children hang under it by ractor's links, so it hears of every end; a child's mailbox lives
//! outside the child and goes on collecting while it is away. Commands arrive through ractor's port: they are control, few, and bounded by the number of children.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::runner::{Port, Work};
use crate::{Census, Fault, Handler, Mailbox, Window};

/// When a failed child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Failures within [`Restart::within`] after which the child is given up.
    pub failures_max: usize,
    /// The time in which failures are counted together.
    pub within: Duration,
    /// The pause before the first restart; it doubles with each further failure in the time.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            failures_max: 10,
            within: Duration::from_secs(60),
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(5),
        }
    }
}

type Spawn =
    Box<dyn Fn(ActorCell, Census) -> Pin<Box<dyn Future<Output = Result<ActorCell, Fault>> + Send>> + Send + Sync>;
type GaveUp = Box<dyn Fn(&str) + Send + Sync>;

/// What a supervisor needs to know to start a child, and to start it again.
pub struct Child {
    name: String,
    restart: Restart,
    spawn: Spawn,
    close: Box<dyn Fn() + Send + Sync>,
    abandon: Box<dyn Fn() + Send + Sync>,
    gave_up: Option<GaveUp>,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("name", &self.name).field("restart", &self.restart).finish_non_exhaustive()
    }
}

impl Child {
    /// A child that works on `mailbox` with handlers made by `make`, one for each start.
    pub fn new<H, F>(name: impl Into<String>, mailbox: Mailbox<H::Message>, window: Window, make: F) -> Self
    where
        H: Handler,
        F: Fn() -> H + Send + Sync + 'static,
    {
        let (reading, closing, abandoning) = (mailbox.clone(), mailbox.clone(), mailbox);
        let spawn: Spawn = Box::new(move |supervisor, census| {
            let (handler, inbox) = (make(), reading.attach());
            Box::pin(async move {
                let inbox = inbox.ok_or("its mailbox is still being read")?;
                let work = Work { handler, inbox, window, census };
                let (actor, _) = Actor::spawn_linked(None, Port::<H>(PhantomData), work, supervisor).await?;
                Ok(actor.get_cell())
            })
        });
        Self {
            name: name.into(),
            restart: Restart::default(),
            spawn,
            close: Box::new(move || closing.close()),
            abandon: Box::new(move || abandoning.close_and_clear()),
            gave_up: None,
        }
    }

    /// When it is started again; else [`Restart::default`].
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// What to do when it is given up. Its mailbox is closed and empty by then, so that senders are refused.
    #[must_use]
    pub fn gave_up(mut self, gave_up: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.gave_up = Some(Box::new(gave_up));
        self
    }
}

/// A child under its supervisor.
struct Kept {
    child: Arc<Child>,
    failures: Vec<Instant>,
}

enum Order {
    Start(Child, Option<oneshot::Sender<Result<(), Fault>>>),
    StartAgain(Kept),
    Stop,
}

struct Port0;

struct Keeping {
    census: Census,
    running: HashMap<ActorId, Kept>,
    pausing: usize,
    stopping: bool,
    ended: watch::Sender<bool>,
}

/// A supervisor; clones speak to the same one.
#[derive(Clone)]
pub struct Supervisor {
    actor: ActorRef<Order>,
    ended: watch::Receiver<bool>,
    census: Census,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("census", &self.census).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Starts a supervisor whose children are counted in `census`.
    ///
    /// # Errors
    /// Where ractor cannot start an actor.
    pub async fn start(census: &Census) -> Result<Self, Fault> {
        let (ended_tx, ended) = watch::channel(false);
        let keeping =
            Keeping { census: census.clone(), running: HashMap::new(), pausing: 0, stopping: false, ended: ended_tx };
        let (actor, _) = Actor::spawn(None, Port0, keeping).await?;
        Ok(Self { actor, ended, census: census.clone() })
    }

    /// The figures its children are counted in.
    #[must_use]
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Starts a child and waits until it has started.
    ///
    /// # Errors
    /// What its start failed with; then it is not kept and not started again.
    pub async fn spawn(&self, child: Child) -> Result<(), Fault> {
        let (reply, answer) = oneshot::channel();
        self.actor.cast(Order::Start(child, Some(reply))).map_err(|_| "the supervisor has ended")?;
        answer.await.map_err(|_| "the supervisor has ended")?
    }

    /// Has a child started and does not wait: its mailbox collects meanwhile. A start that fails is tried again like a child that fails later; `false` if the supervisor
    /// itself has ended.
    #[must_use]
    pub fn spawn_soon(&self, child: Child) -> bool {
        self.actor.cast(Order::Start(child, None)).is_ok()
    }

    /// Closes all children's mailboxes, waits no longer than `limit` until they have worked them off, then ends those that have not and itself.
    /// `true` if all ended by themselves.
    pub async fn stop(&self, limit: Duration) -> bool {
        let _ = self.actor.cast(Order::Stop);
        let mut ended = self.ended.clone();
        let in_order = tokio::time::timeout(limit, ended.wait_for(|ended| *ended)).await.is_ok();
        if !in_order {
            // Takes the remaining children with it.
            let _ = self.actor.get_cell().kill_and_wait(Some(Duration::from_secs(1))).await;
        }
        in_order
    }
}

impl Actor for Port0 {
    type Msg = Order;
    type State = Keeping;
    type Arguments = Keeping;

    async fn pre_start(&self, _: ActorRef<Order>, keeping: Keeping) -> Result<Keeping, ActorProcessingErr> {
        Ok(keeping)
    }

    async fn handle(
        &self,
        myself: ActorRef<Order>,
        order: Order,
        keeping: &mut Keeping,
    ) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Start(child, reply) => {
                let child = Arc::new(child);
                let outcome = keeping.start(&myself, Kept { child, failures: Vec::new() }).await;
                match (outcome, reply) {
                    // Whoever asked may have gone; the child lives on.
                    (outcome, Some(reply)) => drop(reply.send(outcome.map_err(|(_, fault)| fault))),
                    (Err((kept, fault)), None) => keeping.failed(&myself, kept, &fault),
                    (Ok(()), None) => {}
                }
            }
            Order::StartAgain(kept) => {
                keeping.pausing -= 1;
                if keeping.stopping {
                    (kept.child.abandon)();
                } else {
                    keeping.census.note_restarted();
                    if let Err((kept, fault)) = keeping.start(&myself, kept).await {
                        keeping.failed(&myself, kept, &fault);
                    }
                }
            }
            Order::Stop => {
                keeping.stopping = true;
                keeping.running.values().for_each(|kept| (kept.child.close)());
            }
        }
        keeping.end_if_done(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Order>,
        event: SupervisionEvent,
        keeping: &mut Keeping,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, fault) => {
                if let Some(kept) = keeping.running.remove(&cell.get_id()) {
                    keeping.census.note_failed();
                    keeping.failed(&myself, kept, &fault);
                }
            }
            SupervisionEvent::ActorTerminated(cell, _, _) => {
                if let Some(kept) = keeping.running.remove(&cell.get_id()) {
                    // In good order, or killed: either way nobody reads its mailbox any more.
                    (kept.child.abandon)();
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        keeping.end_if_done(&myself);
        Ok(())
    }
}

impl Keeping {
    async fn start(&mut self, myself: &ActorRef<Order>, kept: Kept) -> Result<(), (Kept, Fault)> {
        match (kept.child.spawn)(myself.get_cell(), self.census.clone()).await {
            Ok(cell) => {
                if self.stopping {
                    (kept.child.close)();
                }
                self.running.insert(cell.get_id(), kept);
                Ok(())
            }
            Err(fault) => Err((kept, fault)),
        }
    }

    /// Starts a failed child again after its pause, or gives it up.
    fn failed(&mut self, myself: &ActorRef<Order>, mut kept: Kept, fault: &Fault) {
        let Restart { failures_max, within, pause_min, pause_max } = kept.child.restart;
        let now = Instant::now();
        kept.failures.retain(|failure| now.duration_since(*failure) < within);
        kept.failures.push(now);
        let (name, failures) = (kept.child.name.clone(), kept.failures.len());
        if self.stopping || failures >= failures_max {
            tracing::error!(actor = name, failures, %fault, "actor given up");
            self.census.note_given_up();
            (kept.child.abandon)();
            if let Some(gave_up) = &kept.child.gave_up {
                gave_up(&name);
            }
            return;
        }
        let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
        let pause = pause_min.saturating_mul(1 << doublings).min(pause_max);
        tracing::warn!(actor = name, failures, pause_ms = pause.as_millis(), %fault, "actor failed, starting it again");
        self.pausing += 1;
        myself.send_after(pause, move || Order::StartAgain(kept));
    }

    fn end_if_done(&self, myself: &ActorRef<Order>) {
        if self.stopping && self.running.is_empty() && self.pausing == 0 && !*self.ended.borrow() {
            self.ended.send_replace(true);
            myself.stop(None);
        }
    }
}
