//! A sink at work. It takes what has come in, gathers it into batches, has each written in one step, and only then counts it as stored.
//!
//! Messages: ticks only; its events come by a mailbox of their own (`sink.mailbox_messages`, `sink.mailbox_bytes`), and where that is full it reads on from the log. Supervisor: the
//! sinks' supervisor. What survives a restart: everything, from the store or from its journal. While the store fails it holds one batch and takes nothing more, so that the rest waits in
//! the log; it tries again after a pause that doubles.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::{Batch as Ticks, Bounds, Census, Fault, Flow, Handler, Inbox, Mailbox};
use tokio::time::Instant;

use super::batch::{Pending, Size};
use super::books::{Books, BooksError};
use super::dead_letters::DeadLetters;
use super::is_own;
use super::status::{Positions, Shared};
use super::writer::{Standing, Writer};
use crate::engine::rooms::keeper::Nothing;
use crate::engine::rooms::{PublishError, Rooms};
use crate::engine::tap::{Reader, Taken, Tap, TapError, Wish};
use crate::event::{Pattern, RoomName};
use crate::metrics::record;
use crate::settings::sinks;
use crate::store::StoreError;

/// The first pause after a try that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Batches before others may run.
const BATCHES_AT_ONCE: usize = 16;
/// How often it is looked whether the daemon stops while something is waited for.
const STOP_LOOK: Duration = Duration::from_millis(20);

/// Why a sink cannot go on now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hindrance {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Books(#[from] BooksError),
    #[error("{0}")]
    Tap(#[from] TapError),
    #[error("{0}")]
    Reader(Fault),
    #[error("its dead letters cannot be published: {0}")]
    DeadLetters(PublishError),
}

/// The actor.
pub(super) struct SinkActor {
    rooms: Rooms,
    settings: sinks::Sink,
    common: sinks::Store,
    writer: Writer,
    census: Census,
    ticks: Mailbox<Nothing>,
    shared: Arc<Shared>,
    work: Option<Work>,
    pause: Duration,
    try_again_at: Option<Instant>,
}

/// What a sink that has come to itself works with.
struct Work {
    tap: Tap,
    books: Books,
    pending: Pending,
    dead_letters: DeadLetters,
}

impl SinkActor {
    pub(super) fn new(
        rooms: Rooms,
        settings: &sinks::Sink,
        common: &sinks::Store,
        writer: Writer,
        census: Census,
        ticks: Mailbox<Nothing>,
        shared: Arc<Shared>,
    ) -> Self {
        let (settings, common) = (settings.clone(), common.clone());
        let (work, pause, try_again_at) = (None, FIRST_PAUSE, None);
        Self { rooms, settings, common, writer, census, ticks, shared, work, pause, try_again_at }
    }

    fn size(&self) -> Size {
        let sinks::Sink { batch_events, batch_bytes, batch_wait, .. } = self.settings;
        Size { events: batch_events, bytes: batch_bytes, wait: batch_wait }
    }

    /// Comes to itself: by what the store says, or by its journal.
    async fn begin(&mut self) -> Result<(), Hindrance> {
        let name = &self.settings.name;
        let (books, found) = Books::open(&self.rooms, name).await?;
        let mut positions: Positions = found.positions.into_iter().collect();
        self.begin_in_new_rooms(&mut positions);
        // What is known until the store answers.
        self.shared.begins(found.totals, &positions);
        let standing = self.within(self.writer.standing(name, books.log_id())).await?;
        let mut totals = found.totals;
        if let Some(Standing { totals: known, positions: stored }) = standing {
            totals = known;
            positions = stored.into_iter().collect();
            self.begin_in_new_rooms(&mut positions);
        }
        self.shared.begins(totals, &positions);
        self.needs_after(&positions);
        let wish = Wish { patterns: &self.settings.rooms, positions: Some(positions.into_iter().collect()) };
        let bounds = Bounds { messages: self.common.mailbox_messages, bytes: self.common.mailbox_bytes };
        let who = Reader { meter: &record::SINK, name };
        let tap = Tap::open(&self.rooms, bounds, &self.census, &self.ticks, who, wish).await?;
        let dead_letters = DeadLetters::of(name);
        let mut work = Work { tap, books, pending: Pending::default(), dead_letters };
        work.books.keep(&self.rooms, &self.shared).await?;
        self.work = Some(work);
        self.shared.begun();
        Ok(())
    }

    /// A room in which it does not stand yet it takes from where the room's history begins now.
    fn begin_in_new_rooms(&self, positions: &mut Positions) {
        for pattern in &self.settings.rooms {
            let mut names = self.rooms.names(pattern);
            if let Pattern::Room(name) = pattern {
                names.push(name.clone());
            }
            for name in names {
                let room = self.rooms.find(&name).ok().flatten();
                let first = room.and_then(|room| room.held()).map_or(0, |(first, _)| first.saturating_sub(1));
                positions.entry(name).or_insert(first);
            }
        }
    }

    /// What is stored the log need not keep for it any more.
    fn needs_after<'p>(&self, positions: impl IntoIterator<Item = (&'p RoomName, &'p u64)>) {
        for (room, seq) in positions {
            if let Some(index) = self.rooms.log().room(room) {
                index.needs_after(&self.settings.name, *seq);
            }
        }
    }

    /// Waits for something, but when the daemon stops no longer than `sink.stop_timeout`.
    async fn within<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let (mut work, mut end) = (pin!(work), None);
        loop {
            let look = end.unwrap_or_else(|| Instant::now() + STOP_LOOK);
            match tokio::time::timeout_at(look, &mut work).await {
                Ok(done) => return done,
                Err(_) if end.is_some() => return Err(StoreError::Stopping),
                Err(_) if self.ticks.is_closed() => end = Some(Instant::now() + self.common.stop_timeout),
                Err(_) => {}
            }
        }
    }

    async fn go_on(&mut self) -> Result<(), Hindrance> {
        if self.work.is_none() {
            self.begin().await?;
        }
        for _ in 0..BATCHES_AT_ONCE {
            self.take()?;
            let size = self.size();
            if !self.work.as_ref().is_some_and(|work| work.pending.is_due(size)) {
                if let Some(work) = &mut self.work {
                    work.books.keep_if_due(&self.rooms, &self.shared).await?;
                }
                return Ok(());
            }
            self.write().await?;
        }
        self.ticks.tick();
        Ok(())
    }

    /// Takes what has come in, until a batch is full; whether there was anything.
    fn take(&mut self) -> Result<bool, Hindrance> {
        let (size, mut some) = (self.size(), false);
        let Some(work) = &mut self.work else { return Ok(false) };
        while !work.pending.is_full(size) {
            let Some(taken) = work.tap.take().map_err(Hindrance::Reader)? else { break };
            some = true;
            for taken in taken {
                match taken {
                    Taken::Event(event) if is_own(event.room.name()) => {
                        work.pending.passed(event.room.name().clone(), event.seq);
                    }
                    Taken::Event(event) => work.pending.event(event),
                    Taken::Missed { room, after, first_seq } => {
                        work.pending.passed(room.clone(), first_seq - 1);
                        note_lost(&self.rooms, &self.shared, &room, after, first_seq);
                    }
                }
            }
        }
        Ok(some)
    }

    /// Writes a batch.
    async fn write(&mut self) -> Result<(), Hindrance> {
        let size = self.size();
        let Some(mut work) = self.work.take() else { return Ok(()) };
        let written = self.write_with(&mut work, size).await;
        self.work = Some(work);
        written
    }

    async fn write_with(&self, work: &mut Work, size: Size) -> Result<(), Hindrance> {
        let (batch, begun) = (work.pending.batch(size), Instant::now());
        let name = &self.settings.name;
        loop {
            let refused = work.dead_letters.of_batch();
            let writing = self.writer.write(name, &batch, refused, &mut work.books, &self.rooms, &self.shared);
            match self.within(writing).await {
                Ok(stored) => {
                    self.shared.stored(stored.events, stored.totals, &batch.positions);
                    self.needs_after(batch.positions.iter().map(|(room, seq)| (room, seq)));
                    self.shared.meter.stored(stored.events, stored.refused, begun.elapsed());
                    work.dead_letters.settled();
                    work.pending.done(&batch);
                    return Ok(());
                }
                Err(StoreError::Refused(refusals)) => {
                    let publishing = work.dead_letters.publish(&self.rooms, &batch.events, refusals);
                    publishing.await.map_err(Hindrance::DeadLetters)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn hindered(&mut self, hindrance: &Hindrance) {
        self.try_again_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(self.common.retry_max);
        if matches!(hindrance, Hindrance::Reader(_)) {
            // What it had taken and not stored it reads again.
            self.work = None;
        }
        self.shared.meter.failed();
        let message = hindrance.to_string();
        if self.shared.set_failing(Some(message.clone())) {
            tracing::warn!(
                sink = self.settings.name,
                error = message,
                "sink: cannot write now, it tries again; events wait in the log"
            );
        }
    }

    fn works(&mut self) {
        self.pause = FIRST_PAUSE;
        if self.shared.set_failing(None) {
            tracing::info!(sink = self.settings.name, "sink: writes again");
        }
    }
}

/// Tells of events that are gone and were not stored.
fn note_lost(rooms: &Rooms, shared: &Shared, room: &RoomName, after: u64, first_seq: u64) {
    let between = first_seq.saturating_sub(after + 1);
    // After a crash a room's numbers jump, so there may be fewer events than numbers; more than the log let go there cannot be.
    let index = rooms.log().room(room);
    let events = index.map_or(between, |index| between.min(index.gone_count().max(1)));
    shared.lost(events);
    tracing::error!(
        sink = shared.name,
        %room,
        after,
        first_seq,
        events,
        "sink: events were let go by the log's retention before they were stored, and are lost to it"
    );
}

impl Handler for SinkActor {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, _: &mut Ticks<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        if self.try_again_at.is_some_and(|at| Instant::now() < at) {
            return Ok(Flow::Continue);
        }
        self.try_again_at = None;
        match self.go_on().await {
            Ok(()) => self.works(),
            // It has had its time; nothing is tried again.
            Err(Hindrance::Store(StoreError::Stopping)) => self.try_again_at = Some(Instant::now()),
            Err(hindrance) => self.hindered(&hindrance),
        }
        Ok(Flow::Continue)
    }

    /// Writes what it has, within `sink.stop_timeout`.
    async fn stopped(&mut self) {
        let end = Instant::now() + self.common.stop_timeout;
        let finish = async {
            while self.work.is_some() && self.try_again_at.is_none() {
                self.take()?;
                if self.work.as_ref().is_none_or(|work| work.pending.is_empty()) {
                    break;
                }
                self.write().await?;
            }
            if let Some(work) = &mut self.work {
                work.books.keep(&self.rooms, &self.shared).await?;
            }
            Ok::<(), Hindrance>(())
        };
        let finished = tokio::time::timeout_at(end, finish).await;
        let error = match finished {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its time was over".to_owned(),
        };
        tracing::warn!(
            sink = self.settings.name,
            error,
            "sink: did not write everything at its end; the rest waits in the log"
        );
    }
}
