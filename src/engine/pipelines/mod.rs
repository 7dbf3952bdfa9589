//! Running pipelines: one actor each, which follows rooms like any other reader, has its [`Machine`](crate::pipelines::Machine) work, and publishes what comes out. Exactly once from log to log.
//!
//! [`Pipelines`] is the table of them: starts, replaces and stops them. `actor` is a pipeline at work, `recovery` how it comes to itself again by its journal, `outbox` how its events get to their rooms. What pipelines compute is not known here.

mod actor;
mod outbox;
mod positions;
mod recovery;
mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_actors::{Bounds, Child, Fault, Mailbox, Message, Policy, Supervisor, Window, ticker};
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use status::{Status, Trouble};

use crate::engine::rooms::Rooms;
use crate::pipelines::{Definition, Written};
use crate::settings;

/// A pipeline's orders are few; its events come by a mailbox of their own.
const ORDERS: Bounds = Bounds { messages: 16, bytes: usize::MAX };

/// How long a start or a reload waits until the pipelines follow their rooms; one that takes longer comes when it can.
const BEGIN_WAIT: Duration = Duration::from_secs(2);

/// What a pipeline's actor is told.
#[derive(Debug)]
pub enum Order {
    /// Go on with this definition in place of the one so far, from the very event at which that one ended.
    Replace(Box<Definition>, oneshot::Sender<()>),
    /// End, with everything written down.
    Stop(oneshot::Sender<()>),
}

impl Message for Order {
    type Stream = ();

    fn policy(&self) -> Policy {
        Policy::on_full(tidegate_actors::OnFull::Reject)
    }
}

/// All running pipelines. Clones share them.
#[derive(Clone)]
pub struct Pipelines(Arc<Table>);

struct Table {
    rooms: Rooms,
    settings: settings::Pipelines,
    supervisor: Supervisor,
    running: Mutex<BTreeMap<String, Running>>,
    /// Those that were ended, by name: alive while their actors are still at it.
    ending: Mutex<BTreeMap<String, Weak<Mutex<Written>>>>,
}

/// A running pipeline, as the table knows it.
struct Running {
    orders: Mailbox<Order>,
    status: Arc<Status>,
    /// What its actor is made of, should it have to be made anew.
    written: Arc<Mutex<Written>>,
}

impl std::fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipelines").field("running", &self.0.running.lock().len()).finish_non_exhaustive()
    }
}

impl Pipelines {
    /// No pipelines yet; they run under `supervisor`.
    #[must_use]
    pub fn new(rooms: Rooms, settings: settings::Pipelines, supervisor: Supervisor) -> Self {
        let (running, ending) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Table { rooms, settings, supervisor, running, ending }))
    }

    /// How they are.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Status>> {
        self.0.running.lock().values().map(|running| Arc::clone(&running.status)).collect()
    }

    /// Brings what runs to what is wanted, and waits a moment until it does: new ones are started, changed ones go on by their new definition, others end. None loses an event; one that ends and comes back later goes
    /// on where it ended.
    ///
    /// # Errors
    /// Where an actor cannot be started.
    pub async fn become_these(&self, wanted: Vec<Definition>) -> Result<(), Fault> {
        let names: Vec<String> = wanted.iter().map(|definition| definition.name.clone()).collect();
        let gone: Vec<String> = self.0.running.lock().keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.stop_one(&name).await;
        }
        let (mut beginning, mut replacing) = (Vec::new(), Vec::new());
        for definition in wanted {
            let known = {
                let running = self.0.running.lock();
                let known = running.get(&definition.name);
                known.map(|known| (*known.written.lock() == definition.written(), known.orders.clone()))
            };
            match known {
                Some((true, _)) => {}
                Some((false, orders)) => {
                    if let Some(running) = self.0.running.lock().get_mut(&definition.name) {
                        *running.written.lock() = definition.written();
                    }
                    tracing::info!(pipeline = definition.name, "pipeline: goes on by its new definition");
                    let (done, replaced) = oneshot::channel();
                    // Full only if it was told the same many times over; then its next start finds the newest.
                    if orders.push(Order::Replace(Box::new(definition), done)).is_ok() {
                        replacing.push(replaced);
                    }
                }
                None => beginning.push(self.start_one(definition).await?),
            }
        }
        // So that whoever publishes once it is said finds them there.
        let deadline = Instant::now() + BEGIN_WAIT;
        for status in beginning {
            let _ = tokio::time::timeout_at(deadline, status.wait_begun()).await;
        }
        for replaced in replacing {
            let _ = tokio::time::timeout_at(deadline, replaced).await;
        }
        Ok(())
    }

    async fn start_one(&self, definition: Definition) -> Result<Arc<Status>, Fault> {
        let Definition { name, file, .. } = &definition;
        let (orders, _) = Mailbox::new(ORDERS);
        let status = Arc::new(Status::new(name, file));
        let written = Arc::new(Mutex::new(definition.written()));
        let before = self.0.ending.lock().remove(name).unwrap_or_default();
        let make = {
            let (rooms, settings, supervisor) =
                (self.0.rooms.clone(), self.0.settings.clone(), self.0.supervisor.clone());
            let (orders, status, written) = (orders.clone(), Arc::clone(&status), Arc::clone(&written));
            move || {
                let census = supervisor.census().clone();
                actor::PipelineActor::new(
                    rooms.clone(),
                    &settings,
                    census,
                    orders.clone(),
                    Arc::clone(&status),
                    Arc::clone(&written),
                    before.clone(),
                )
            }
        };
        let failed = Arc::clone(&status);
        let child = Child::new(format!("pipeline {name}"), orders.clone(), Window::ALL, make)
            .gave_up(move |_| failed.given_up());
        self.0.supervisor.spawn(child).await?;
        ticker::every(self.0.settings.tick, &orders);
        orders.tick();
        let begun = Arc::clone(&status);
        self.0.running.lock().insert(definition.name, Running { orders, status, written });
        Ok(begun)
    }

    async fn stop_one(&self, name: &str) {
        let Some(running) = self.0.running.lock().remove(name) else { return };
        let (reply, ended) = oneshot::channel();
        if running.orders.push(Order::Stop(reply)).is_ok() {
            // It writes its state down; if that takes longer it is in its journal all the same.
            let _ = tokio::time::timeout(self.0.settings.stop_timeout, ended).await;
        }
        running.orders.close();
        running.status.gone();
        self.0.ending.lock().insert(name.to_owned(), Arc::downgrade(&running.written));
        tracing::info!(pipeline = name, "pipeline: ended");
    }
}
