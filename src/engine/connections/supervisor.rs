//! All connections: starts, lists, kicks and drains them, and ends those whose credential ends. Each runs in the task that owns its socket; what is kept here is its mailbox and its profile.
//!
//! The table is shared, so that a connection that comes or goes needs nobody's turn; what has to be done to many of them is done by one ractor actor, one order after the other, and by its tick.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tidegate_actors::{
    Batch, Bounds, Budget, Census, Depth, Fault, Flow, Handler, Inbox, Light, Mailbox, Message, Window,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::profile::{Profile, Who};
use super::session::Seen;
use super::{Closing, Control, Delivery, Dialect, Session};
use crate::auth::{Auth, Identity};
use crate::clock;
use crate::engine::rooms::{Rooms, Subscriber};
use crate::metrics::record::TransportMeter;

/// How many events a connection takes from its mailbox at once.
const WINDOW: Window = Window { messages: 256, bytes: 128 << 10 };
/// How long an operator waits for what a connection says of itself: one whose socket takes nothing says nothing.
const INSPECT_WAIT: Duration = Duration::from_millis(300);
/// How long a connection that is told to end may take to say so to its client.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Over the budget of all mailboxes the fullest give up until so much of it is left, in percent.
const RELIEVED_PERCENT: usize = 80;

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
    /// What all mailboxes together may hold.
    budget: Option<Budget>,
    rooms_max: usize,
    /// When something is due to a connection whose credential ends: in milliseconds since 1970, and which.
    ends: Mutex<BTreeSet<(u64, u64)>>,
}

#[derive(Debug)]
struct Open {
    profile: Arc<Profile>,
    mailbox: Mailbox<Delivery>,
}

/// What an operator may want to know of a connection.
#[derive(Debug, Clone)]
pub struct Listed {
    /// How it is seen from outside.
    pub profile: Arc<Profile>,
    /// What waits in its mailbox.
    pub depth: Depth,
}

/// Takes the connection out of the table when it ends.
#[derive(Debug)]
pub struct Member {
    table: Arc<Table>,
    id: u64,
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some((id, open)) = self.table.open.remove(&self.id) else { return };
        let (profile, books) = (&open.profile, &open.profile.books);
        if let Some(end) = profile.identity().expires_ms {
            self.table.ends.lock().remove(&(end, id));
        }
        let age_ms = clock::now_ms().saturating_sub(profile.opened_ms);
        tracing::debug!(
            connection = id,
            delivered = books.delivered.get(),
            shed = books.shed_total(),
            age_ms,
            "a stream closed"
        );
    }
}

impl Connections {
    /// No connections; each may hold so much in its mailbox, all together so many bytes (0: no limit), and each follow so many rooms.
    #[must_use]
    pub fn new(census: Census, bounds: Bounds, bytes_together: usize, rooms_max: usize) -> Self {
        Self(Arc::new(Table {
            open: DashMap::default(),
            next: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            census,
            bounds,
            budget: (bytes_together > 0).then(|| Budget::new(bytes_together)),
            rooms_max,
            ends: Mutex::default(),
        }))
    }

    /// Starts a connection's actor; `None` while the daemon is stopping. `messages` may wait for it, where that is not as for all.
    pub async fn start<D: Dialect>(
        &self,
        rooms: &Rooms,
        dialect: D,
        meter: &'static TransportMeter,
        who: Who,
        messages: Option<usize>,
    ) -> Option<(Connection<D>, Member)> {
        let table = &self.0;
        let id = table.next.fetch_add(1, Ordering::Relaxed);
        let bounds = Bounds { messages: messages.unwrap_or(table.bounds.messages), ..table.bounds };
        let (mailbox, inbox) = Mailbox::with_budget(bounds, table.budget.clone());
        let expires_ms = who.identity.expires_ms;
        let profile = Arc::new(Profile::new(id, meter.name, clock::now_ms(), who));
        table.open.insert(id, Box::new(Open { profile: Arc::clone(&profile), mailbox: mailbox.clone() }));
        let member = Member { table: Arc::clone(table), id };
        table.ends.lock().extend(expires_ms.map(|end| (end, id)));
        tracing::debug!(
            connection = id,
            transport = profile.transport,
            peer = %profile.peer,
            client_ip = ?profile.ip,
            subject = ?profile.identity().subject,
            "a stream opens"
        );
        // After it is entered: a drain that begins now either sees it or is seen here.
        if table.stopping.load(Ordering::SeqCst) {
            return None;
        }
        let subscriber = Arc::new(Subscriber { id, mailbox });
        let window = if dialect.pace().is_some() { Window { messages: 1, ..WINDOW } } else { WINDOW };
        let session = Session::new(rooms.clone(), subscriber, profile, dialect, meter, table.rooms_max);
        // A session's start does nothing that could fail.
        let light = Light::start(session, inbox, window, &table.census).await.ok()?;
        Some((light, member))
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.open.len()
    }

    /// What waits in all mailboxes together, in bytes, as far as it is more than a little in each.
    #[must_use]
    pub fn mailboxes_bytes(&self) -> usize {
        self.0.budget.as_ref().map_or(0, Budget::used)
    }

    /// What an operator may want to know, by number.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let mut listed: Vec<Listed> = self.0.open.iter().map(|open| open.listed()).collect();
        listed.sort_unstable_by_key(|listed| listed.profile.id);
        listed
    }

    /// One connection as an operator sees it.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Listed> {
        self.0.open.get(&id).map(|open| open.listed())
    }

    /// A connection goes on with another dialect, on another socket or on none.
    pub fn moved<D: Dialect, E: Dialect>(
        &self,
        connection: Connection<D>,
        dialect: E,
        meter: &'static TransportMeter,
        who: Who,
    ) -> Connection<E> {
        connection.map(|session| {
            let profile = Arc::new(Profile::moved(session.profile(), meter.name, who));
            if let Some(mut open) = self.0.open.get_mut(&profile.id) {
                open.profile = Arc::clone(&profile);
            }
            session.moved(dialect, meter, profile)
        })
    }

    /// Tells a connection that its client goes on with another socket; whether there is one.
    pub fn take_over(&self, id: u64) -> bool {
        let Some(open) = self.0.open.get(&id) else { return false };
        Delivery::control(&open.mailbox, Control::TakenOver(open.profile.kill.clone()));
        true
    }

    /// One connection, and what it says of itself; nothing if its socket takes nothing for now.
    pub async fn inspect(&self, id: u64) -> Option<(Listed, Option<Seen>)> {
        let (reply, answer) = oneshot::channel();
        let listed = {
            let open = self.0.open.get(&id)?;
            // Looked at first, so that the question is not among what waits.
            let listed = open.listed();
            Delivery::control(&open.mailbox, Control::Inspect(reply));
            listed
        };
        let seen = tokio::time::timeout(INSPECT_WAIT, answer).await.ok().and_then(Result::ok);
        Some((listed, seen))
    }

    /// A connection has shown another token.
    pub fn show_again(&self, profile: &Profile, identity: Arc<Identity>) {
        let mut ends = self.0.ends.lock();
        if let Some(end) = profile.identity().expires_ms {
            ends.remove(&(end, profile.id));
        }
        ends.extend(identity.expires_ms.map(|end| (end, profile.id)));
        profile.set_identity(identity);
    }
}

impl Open {
    fn listed(&self) -> Listed {
        Listed { profile: Arc::clone(&self.profile), depth: self.mailbox.depth() }
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
pub struct ConnectionSupervisor {
    connections: Connections,
    auth: Auth,
    /// What was granted until then was looked through.
    generation: u64,
    /// Those that were told to end, and when their sockets are cut if they have not.
    ending: VecDeque<(Instant, u64)>,
}

impl ConnectionSupervisor {
    /// A supervisor of these connections, who have shown what `auth` knows.
    #[must_use]
    pub fn new(connections: Connections, auth: Auth) -> Self {
        let generation = auth.generation();
        Self { connections, auth, generation, ending: VecDeque::new() }
    }

    /// Tells a connection to end; whether there is one.
    fn end(&mut self, id: u64, closing: Closing) -> bool {
        let Some(open) = self.connections.0.open.get(&id) else { return false };
        Delivery::close(&open.mailbox, closing);
        self.ending.push_back((Instant::now() + LAST_WORD, id));
        true
    }

    /// Cuts the sockets of those that were told to end and take nothing, so that they never hear of it.
    fn cut(&mut self) {
        let now = Instant::now();
        while let Some((_, id)) = self.ending.pop_front_if(|(at, _)| *at <= now) {
            if let Some(open) = self.connections.0.open.get(&id) {
                open.profile.kill.now();
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Kick(id, reply) => {
                let kicked = self.end(id, Closing::Kicked);
                let _ = reply.send(kicked);
            }
            Order::Drain(reply) => {
                let table = &self.connections.0;
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

    /// Ends those whose token has ended, and warns those whose token ends soon.
    fn look_at_ends(&mut self) {
        let table = Arc::clone(&self.connections.0);
        let now = clock::now_ms();
        let warning = u64::try_from(self.auth.expiry_warning().as_millis()).unwrap_or(u64::MAX);
        let until = now.saturating_add(warning);
        let (mut over, mut soon) = (Vec::new(), Vec::new());
        {
            let mut ends = table.ends.lock();
            while let Some(first) = ends.first().copied().filter(|(end, _)| *end <= now) {
                ends.remove(&first);
                over.push(first.1);
            }
            soon.extend(ends.range(..=(until, u64::MAX)).copied());
        }
        for id in over {
            self.end(id, Closing::TokenExpired);
        }
        for (at_ms, id) in soon {
            if let Some(open) = table.open.get(&id)
                && open.profile.warn_of(at_ms)
            {
                Delivery::control(&open.mailbox, Control::Expiring { at_ms });
            }
        }
    }

    /// Where what was granted may have changed: ends those whose credential does not hold any more, and tells the others what they may do now.
    fn look_at_grants(&mut self) {
        let generation = self.auth.generation();
        if generation == self.generation {
            return;
        }
        self.generation = generation;
        let mut over = Vec::new();
        for open in &self.connections.0.open {
            let had = open.profile.identity();
            match self.auth.renew(&had) {
                None => over.push(open.profile.id),
                Some(has) if has.rights != had.rights || has.roles != had.roles => {
                    open.profile.set_identity(has);
                    Delivery::control(&open.mailbox, Control::Rights);
                }
                Some(_) => {}
            }
        }
        for id in over {
            self.end(id, Closing::TokenRevoked);
        }
    }

    /// Over the budget of all mailboxes, the fullest give up what can be read later.
    fn relieve(&self) {
        let table = &self.connections.0;
        let Some(budget) = table.budget.as_ref().filter(|budget| budget.is_spent()) else { return };
        let mut by_bytes: Vec<(usize, u64)> =
            table.open.iter().map(|open| (open.mailbox.depth().bytes, *open.key())).collect();
        by_bytes.sort_unstable_by(|a, b| b.cmp(a));
        let enough = budget.max() / 100 * RELIEVED_PERCENT;
        let mut relieved = 0;
        for (_, id) in by_bytes {
            if budget.used() <= enough {
                break;
            }
            if let Some(open) = table.open.get(&id) {
                open.mailbox.give_up_all();
                relieved += 1;
            }
        }
        tracing::warn!(
            connections = relieved,
            "limits.mailboxes_bytes is spent: the fullest mailboxes gave up what waited"
        );
    }
}

impl Handler for ConnectionSupervisor {
    type Message = Order;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Order>, _: &mut Inbox<Order>) -> Result<Flow<()>, Fault> {
        for order in batch.messages.drain(..) {
            self.obey(order);
        }
        if batch.tick {
            self.look_at_ends();
            self.look_at_grants();
            self.cut();
            self.relieve();
        }
        Ok(Flow::Continue)
    }
}
