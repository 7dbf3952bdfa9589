//! A pipeline at work. It takes what has come in, has its machine work on it, writes the step down, publishes what came out, and only then takes the next.
//!
//! Messages: orders and ticks; its events come by a mailbox of their own (`pipelines.mailbox_messages`, `pipelines.mailbox_bytes`), and where that is full it reads on from the log. Supervisor: the
//! pipelines' supervisor. What survives a restart: everything, from the journal. Time: with events the clock goes by their arrival; when there are none it goes by the time of day,
//! [`BEHIND_MS`] behind it, because an event takes a moment from its room to here.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_actors::{Batch, Bounds, Census, Fault, Flow, Handler, Inbox, Mailbox};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::outbox::Outbox;
use super::positions::{Hindrance, advance_to};
use super::status::Status;
use super::{Order, recovery};
use crate::clock;
use crate::engine::journal::{Journal, JournalError, Kept, Step, note};
use crate::engine::rooms::Rooms;
use crate::engine::tap::{Reader, Taken, Tap, Wish};
use crate::event::RoomName;
use crate::metrics::record;
use crate::pipelines::machine::inputs;
use crate::pipelines::{Definition, Machine, Output, Written};
use crate::settings;

/// How far the clock stays behind the time of day, in milliseconds.
const BEHIND_MS: u64 = 25;
/// Steps before others may run.
const STEPS_AT_ONCE: usize = 8;
/// How long to wait before what failed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// A state that is large beside what has come in since is written down less often, but no less often than so many times the interval.
const SNAPSHOT_LATEST: u32 = 6;
/// A pipeline without events writes its state down so often, so that it never lies in a generation that is about to go.
const SNAPSHOT_IDLE: Duration = Duration::from_secs(600);

/// The actor.
pub(super) struct PipelineActor {
    rooms: Rooms,
    settings: settings::Pipelines,
    census: Census,
    orders: Mailbox<Order>,
    status: Arc<Status>,
    slot: Arc<Mutex<Written>>,
    /// What a pipeline of this name that was ended before holds as long as it is still at its end.
    before: Weak<Mutex<Written>>,
    work: Option<Work>,
    /// What it goes on by, and who waits for that.
    replacement: Option<(Box<Definition>, oneshot::Sender<()>)>,
    stopping: Option<oneshot::Sender<()>>,
    try_again_at: Option<Instant>,
}

/// What a pipeline that has come to itself works with.
pub(super) struct Work {
    pub(super) machine: Machine,
    pub(super) journal: Journal,
    pub(super) tap: Tap,
    pub(super) outbox: Outbox,
    /// Its last seq in each room.
    pub(super) positions: Vec<(RoomName, u64)>,
    /// A step that is not written down yet, and what came of it.
    unwritten: Option<(Step, Vec<Output>)>,
    /// Whether everything is published and the journal says so.
    settled: bool,
    /// Whether it still has to be told that it begins again.
    resumes: bool,
    kept_at: Instant,
    bytes_since: usize,
    steps_since: usize,
    state_bytes: usize,
}

impl PipelineActor {
    pub(super) fn new(
        rooms: Rooms,
        settings: &settings::Pipelines,
        census: Census,
        orders: Mailbox<Order>,
        status: Arc<Status>,
        slot: Arc<Mutex<Written>>,
        before: Weak<Mutex<Written>>,
    ) -> Self {
        let (work, replacement, stopping, try_again_at) = (None, None, None, None);
        let settings = settings.clone();
        Self { rooms, settings, census, orders, status, slot, before, work, replacement, stopping, try_again_at }
    }

    fn bounds(&self) -> Bounds {
        Bounds { messages: self.settings.mailbox_messages, bytes: self.settings.mailbox_bytes }
    }

    /// Its definition as it is wanted now.
    fn wanted(&self) -> Result<Definition, Hindrance> {
        Definition::again(&self.slot.lock()).map_err(|faults| {
            Hindrance::Definition(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })
    }

    /// Comes to itself: by its journal, or for the first time.
    async fn begin(&mut self) -> Result<(), Hindrance> {
        if self.before.upgrade().is_some() {
            return Err(Hindrance::Definition("the one of this name before it has not ended yet".to_owned()));
        }
        if let Some(fault) = self.rooms.log().fault() {
            return Err(JournalError::Log(fault).into());
        }
        let definition = self.wanted()?;
        let begun = recovery::begin(&self.rooms, definition, &self.status).await?;
        let who = reader(&self.status.name);
        let patterns = inputs(begun.machine.definition());
        let wish = Wish { patterns: &patterns, positions: begun.positions.clone() };
        let mut tap = Tap::open(&self.rooms, self.bounds(), &self.census, &self.orders, who, wish).await?;
        let positions = tap.positions();
        let mut work = Work {
            machine: begun.machine,
            journal: begun.journal,
            tap,
            outbox: Outbox::default(),
            positions,
            unwritten: None,
            settled: true,
            resumes: true,
            kept_at: Instant::now(),
            bytes_since: 0,
            steps_since: 0,
            state_bytes: 0,
        };
        // Where it begins is written down before it takes anything.
        work.keep(&self.rooms, &self.status).await?;
        self.status.begun();
        self.work = Some(work);
        Ok(())
    }

    /// Goes on by another definition, from the very event at which it is.
    async fn replace(&mut self, definition: Definition) -> Result<(), Hindrance> {
        let Some(mut work) = self.work.take() else { return Ok(()) };
        let (machine, positions) = recovery::replaced(&self.rooms, &work.machine, definition, work.positions.clone());
        work.machine = machine;
        let patterns = inputs(work.machine.definition());
        let wish = Wish { patterns: &patterns, positions: Some(positions) };
        work.tap =
            Tap::open(&self.rooms, self.bounds(), &self.census, &self.orders, reader(&self.status.name), wish).await?;
        work.positions = work.tap.positions();
        work.keep(&self.rooms, &self.status).await?;
        self.work = Some(work);
        Ok(())
    }

    /// Whether what failed should be tried now.
    fn may_try(&mut self) -> bool {
        match self.try_again_at {
            Some(at) if Instant::now() < at => false,
            _ => {
                self.try_again_at = None;
                true
            }
        }
    }

    fn hindered(&mut self, hindrance: &Hindrance) {
        self.try_again_at = Some(Instant::now() + TRY_AGAIN);
        if matches!(hindrance, Hindrance::Reader(_)) {
            // Its journal has everything; it comes to itself anew, with a new reader.
            self.work = None;
        }
        self.status.works.store(false, Ordering::Relaxed);
        let message = hindrance.to_string();
        let told = self.status.trouble().is_some_and(|trouble| trouble.message == message);
        if !told {
            tracing::warn!(pipeline = self.status.name, error = message, "pipeline: cannot go on now, it tries again");
        }
        self.status.note_trouble(clock::now_ms(), message);
    }

    async fn go_on(&mut self) -> Result<(), Hindrance> {
        if self.work.is_none() {
            self.begin().await?;
        }
        let Some(work) = &mut self.work else { return Ok(()) };
        let mut more = true;
        for _ in 0..STEPS_AT_ONCE {
            more = work.advance(&self.rooms, &self.status).await?;
            if !more {
                break;
            }
        }
        if more {
            self.orders.tick();
        }
        work.keep_if_due(&self.rooms, &self.status, self.settings.snapshot_interval).await?;
        self.status.report_due(clock::now_ms(), work.machine.definition().report_ms);
        let free = work.outbox.is_empty() && work.unwritten.is_none();
        work.show(&self.status);
        if free && let Some((definition, done)) = self.replacement.take() {
            self.status.set_file(&definition.file);
            self.replace(*definition).await?;
            // Whoever waited may have given up.
            let _ = done.send(());
        }
        Ok(())
    }
}

impl Work {
    /// Takes one step; whether there may be another at once.
    async fn advance(&mut self, rooms: &Rooms, status: &Status) -> Result<bool, Hindrance> {
        if !self.write_down(rooms).await? || !self.publish(rooms, status).await {
            return Ok(false);
        }
        match self.tap.take().map_err(Hindrance::Reader)? {
            Some(taken) => {
                self.step(taken, status);
                if !self.write_down(rooms).await? {
                    return Ok(false);
                }
                Ok(self.publish(rooms, status).await)
            }
            None => {
                if self.tap.is_level() && self.move_clock(status) && self.write_down(rooms).await? {
                    self.publish(rooms, status).await;
                }
                Ok(false)
            }
        }
    }

    /// Works on events.
    fn step(&mut self, taken: Vec<Taken>, status: &Status) {
        let (mut step, mut outputs, mut events) = (Step::default(), Vec::new(), 0);
        // Over a gap a run does not go: what was passed over is not taken again either.
        let mut whole = true;
        for taken in taken {
            match taken {
                Taken::Event(event) => {
                    events += 1;
                    self.bytes_since += event.bytes();
                    note(&mut step.runs, &event, std::mem::replace(&mut whole, true));
                    self.machine.event(&event, &mut outputs);
                }
                Taken::Missed { room, after, first_seq } => {
                    whole = false;
                    tracing::warn!(pipeline = status.name, %room, after, first_seq, "pipeline: events are not held any more");
                    // How many there were between, nobody knows: the numbers may have jumped.
                    status.missed.fetch_add(1, Ordering::Relaxed);
                    status.meter.missed();
                }
            }
        }
        for run in &step.runs {
            advance_to(&mut self.positions, &run.room, run.last);
        }
        status.events_in.fetch_add(events, Ordering::Relaxed);
        status.meter.taken(events);
        self.finish_step(step, outputs, status);
    }

    /// Moves the clock if something is due; whether it was.
    fn move_clock(&mut self, status: &Status) -> bool {
        let now_ms = clock::now_ms().saturating_sub(BEHIND_MS);
        let due = self.machine.due_ms().is_some_and(|due| due <= now_ms);
        if !due && !self.resumes {
            return false;
        }
        let mut outputs = Vec::new();
        let resumed = std::mem::take(&mut self.resumes);
        if resumed {
            self.machine.resumed(now_ms);
        }
        self.machine.clock(now_ms, &mut outputs);
        let step = Step { clock_ms: now_ms, resumed, ..Step::default() };
        self.finish_step(step, outputs, status);
        true
    }

    fn finish_step(&mut self, step: Step, outputs: Vec<Output>, status: &Status) {
        let now_ms = clock::now_ms();
        let report_ms = self.machine.definition().report_ms;
        let refusals = self.machine.take_refusals();
        if refusals.is_empty() {
            status.report_due(now_ms, report_ms);
        } else {
            status.refused(refusals, now_ms, report_ms);
        }
        self.unwritten = Some((Step { written_ms: now_ms, ..step }, outputs));
    }

    /// Writes the last step down; whether that is done.
    async fn write_down(&mut self, rooms: &Rooms) -> Result<bool, Hindrance> {
        let Some((step, outputs)) = self.unwritten.take() else { return Ok(true) };
        // What only took up and gave out nothing is in the journal too: the next state stands on it.
        let seq = match self.journal.step(rooms, step.clone()).await {
            Ok(seq) => seq,
            Err(error) => {
                self.unwritten = Some((step, outputs));
                return Err(error.into());
            }
        };
        self.steps_since += 1;
        self.settled = outputs.is_empty();
        let name = self.machine.definition().name.clone();
        self.outbox = Outbox::of(outputs, |at| recovery::id(&name, seq, at));
        Ok(true)
    }

    /// Publishes what came of the last step; whether all of it is published.
    async fn publish(&mut self, rooms: &Rooms, status: &Status) -> bool {
        if self.outbox.is_empty() {
            return true;
        }
        let sent = self.outbox.send(rooms).await;
        status.events_out.fetch_add(sent.events, Ordering::Relaxed);
        status.meter.published(sent.events);
        for (room, events, error) in sent.lost {
            tracing::error!(pipeline = status.name, %room, events, %error, "pipeline: events that no room can take are lost");
            status.meter.lost(events);
            status.note_trouble(clock::now_ms(), format!("{events} events for {room} are lost: {error}"));
        }
        if let Some(error) = sent.again {
            status.note_trouble(clock::now_ms(), format!("its rooms do not take its events now: {error}"));
        }
        self.outbox.is_empty()
    }

    /// Writes the state down.
    async fn keep(&mut self, rooms: &Rooms, status: &Status) -> Result<(), Hindrance> {
        let positions = self.positions.iter().map(|(room, seq)| (room.as_str().to_owned(), *seq)).collect();
        let kept = Kept { written: self.machine.definition().written(), positions, state: self.machine.save() };
        self.state_bytes = self.journal.snapshot(rooms, &kept).await?;
        status.state_bytes.store(self.state_bytes as u64, Ordering::Relaxed);
        (self.kept_at, self.bytes_since, self.steps_since, self.settled) = (Instant::now(), 0, 0, true);
        Ok(())
    }

    /// Writes the state down if it is time, or at least that everything is published.
    async fn keep_if_due(&mut self, rooms: &Rooms, status: &Status, interval: Duration) -> Result<(), Hindrance> {
        if self.unwritten.is_some() || !self.outbox.is_empty() {
            return Ok(());
        }
        let since = self.kept_at.elapsed();
        let much = self.bytes_since >= self.state_bytes / 4;
        let due = self.steps_since > 0 && since >= interval && (much || since >= interval * SNAPSHOT_LATEST);
        if due || since >= SNAPSHOT_IDLE {
            return self.keep(rooms, status).await;
        }
        // Only when there is a moment: under load the next step says the same.
        if !self.settled && self.tap.waiting() == 0 {
            self.journal.settled(rooms).await?;
            self.settled = true;
        }
        Ok(())
    }

    /// Shows how it is.
    fn show(&mut self, status: &Status) {
        status.keys.store(self.machine.keys() as u64, Ordering::Relaxed);
        status.now_ms.store(self.machine.now_ms(), Ordering::Relaxed);
        status.waiting.store(self.tap.waiting(), Ordering::Relaxed);
    }
}

fn reader(name: &str) -> Reader<'_> {
    Reader { meter: &record::PIPELINE, name }
}

impl Handler for PipelineActor {
    type Message = Order;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Order>, _: &mut Inbox<Order>) -> Result<Flow<()>, Fault> {
        for order in batch.messages.drain(..) {
            match order {
                Order::Replace(definition, done) => self.replacement = Some((definition, done)),
                Order::Stop(reply) => self.stopping = Some(reply),
            }
        }
        if self.may_try() {
            match self.go_on().await {
                Ok(()) => self.status.works.store(true, Ordering::Relaxed),
                Err(hindrance) => self.hindered(&hindrance),
            }
        }
        if self.stopping.is_some() {
            return Ok(Flow::Stop);
        }
        Ok(Flow::Continue)
    }

    async fn stopped(&mut self) {
        if let Some(work) = &mut self.work
            && work.write_down(&self.rooms).await.is_ok()
            && work.publish(&self.rooms, &self.status).await
            && let Err(error) = work.keep(&self.rooms, &self.status).await
        {
            tracing::warn!(pipeline = self.status.name, %error, "pipeline: its state was not written down at its end; its journal has it");
        }
        self.status.works.store(false, Ordering::Relaxed);
        if let Some(reply) = self.stopping.take() {
            // Whoever told it to stop may not wait any more.
            let _ = reply.send(());
        }
    }
}
