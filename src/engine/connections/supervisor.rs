//! All connections: starts, lists, kicks and drains them. Each runs in the task that owns its socket; what is kept here is its mailbox and what an operator wants to know of it.
//!
//! The table is shared, so that a connection that comes or goes needs nobody's turn; what has to be done to many of them is done by one ractor actor, one order after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;
use tidegate_actors::{Batch, Bounds, Census, Fault, Flow, Handler, Inbox, Light, Mailbox, Message, Window};
use tokio::sync::oneshot;

use super::{Closing, Delivery, Dialect, Session};
use crate::clock;
use crate::engine::rooms::{Rooms, Subscriber};
use crate::metrics::record::TransportMeter;

/// How many events a connection takes from its mailbox at once.
const WINDOW: Window = Window { messages: 256, bytes: 128 << 10 };

/// A connection's actor.
pub type Connection<D> = Light<Session<D>>;

/// All connections. Clones share them.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Table>);

#[derive(Debug)]
struct Table {
    // Boxed, because the table's free places should be small.
    open: DashMap<u64, Box<Open>, ahash::RandomState>,
    next: AtomicU64,
    stopping: AtomicBool,
    census: Census,
    bounds: Bounds,
    rooms_max: usize,
}

#[derive(Debug)]
struct Open {
    transport: &'static str,
    peer: Option<SocketAddr>,
    opened_ms: u64,
    mailbox: Mailbox<Delivery>,
}

/// What an operator may want to know of a connection.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its number.
    pub id: u64,
    /// How it is connected.
    pub transport: &'static str,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// Since when, in milliseconds since 1970.
    pub opened_ms: u64,
    /// Events that wait for it.
    pub waiting: usize,
    /// Rooms in which it is behind.
    pub behind: usize,
}

/// Takes the connection out of the table when it ends.
#[derive(Debug)]
pub struct Member {
    table: Arc<Table>,
    id: u64,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.table.open.remove(&self.id);
    }
}

impl Connections {
    /// No connections; each may hold so much in its mailbox and follow so many rooms.
    #[must_use]
    pub fn new(census: Census, bounds: Bounds, rooms_max: usize) -> Self {
        let (open, next) = (DashMap::default(), AtomicU64::new(1));
        Self(Arc::new(Table { open, next, stopping: AtomicBool::new(false), census, bounds, rooms_max }))
    }

    /// Starts a connection's actor; `None` while the daemon is stopping.
    pub async fn start<D: Dialect>(
        &self,
        rooms: &Rooms,
        dialect: D,
        meter: &'static TransportMeter,
        peer: Option<SocketAddr>,
    ) -> Option<(Connection<D>, Member)> {
        let table = &self.0;
        let id = table.next.fetch_add(1, Ordering::Relaxed);
        let (mailbox, inbox) = Mailbox::new(table.bounds);
        let open = Open { transport: meter.name, peer, opened_ms: clock::now_ms(), mailbox: mailbox.clone() };
        table.open.insert(id, Box::new(open));
        let member = Member { table: Arc::clone(table), id };
        // After it is entered: a drain that begins now either sees it or is seen here.
        if table.stopping.load(Ordering::SeqCst) {
            return None;
        }
        let subscriber = Arc::new(Subscriber { id, mailbox });
        let session = Session::new(rooms.clone(), subscriber, dialect, meter, table.rooms_max);
        // A session's start does nothing that could fail.
        let light = Light::start(session, inbox, WINDOW, &table.census).await.ok()?;
        Some((light, member))
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.open.len()
    }

    /// What an operator may want to know, by number.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let mut listed: Vec<Listed> = self
            .0
            .open
            .iter()
            .map(|open| {
                let depth = open.mailbox.depth();
                let (id, Open { transport, peer, opened_ms, .. }) = (*open.key(), &**open);
                Listed {
                    id,
                    transport,
                    peer: *peer,
                    opened_ms: *opened_ms,
                    waiting: depth.messages,
                    behind: depth.behind,
                }
            })
            .collect();
        listed.sort_unstable_by_key(|listed| listed.id);
        listed
    }
}

/// What the supervisor is told to do.
#[derive(Debug)]
pub enum Order {
    /// End one connection; answers whether there was one.
    Kick(u64, oneshot::Sender<bool>),
    /// End all of them and let no more begin; answers how many there were.
    Drain(oneshot::Sender<usize>),
}

impl Message for Order {
    type Stream = ();
}

/// The supervisor at work.
#[derive(Debug)]
pub struct ConnectionSupervisor(Connections);

impl ConnectionSupervisor {
    /// A supervisor of these connections.
    #[must_use]
    pub fn new(connections: Connections) -> Self {
        Self(connections)
    }
}

impl Handler for ConnectionSupervisor {
    type Message = Order;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Order>, _: &mut Inbox<Order>) -> Result<Flow<()>, Fault> {
        let table = &self.0.0;
        for order in batch.messages.drain(..) {
            match order {
                Order::Kick(id, reply) => {
                    let kicked = table.open.get(&id).map(|open| Delivery::close(&open.mailbox, Closing::Kicked));
                    let _ = reply.send(kicked.is_some());
                }
                Order::Drain(reply) => {
                    table.stopping.store(true, Ordering::SeqCst);
                    let mut ended = 0;
                    for open in &table.open {
                        Delivery::close(&open.mailbox, Closing::Stopping);
                        ended += 1;
                    }
                    let _ = reply.send(ended);
                }
            }
        }
        Ok(Flow::Continue)
    }
}
