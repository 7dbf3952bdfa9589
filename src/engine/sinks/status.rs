//! How a sink is: written by its actor, read by whoever asks.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::is_own;
use crate::engine::rooms::Rooms;
use crate::event::{Pattern, RoomName};
use crate::metrics::record::SinkMeter;
use crate::store::Totals;

/// Over so long the rate is taken.
const RATE_SECONDS: u32 = 10;

/// How a sink is.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Events stored, over all its time.
    pub messages: u64,
    /// Batches written, over all its time.
    pub batches: u64,
    /// Events in its rooms that are not stored yet.
    pub waiting: u64,
    /// Events stored in the last ten seconds, by ten.
    pub per_second: f64,
    /// Why it cannot write now, if it cannot.
    pub failing: Option<String>,
    /// Events that were refused, over all its time.
    pub rows_refused: u64,
    /// Events that retention let go before they were stored, since the start.
    pub lost: u64,
}

/// Where a sink stands in its rooms: the last seq stored.
pub(super) type Positions = HashMap<RoomName, u64, ahash::RandomState>;

/// What a sink's actor and those who ask share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) patterns: Vec<Pattern>,
    pub(super) meter: SinkMeter,
    figures: Mutex<Figures>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct Figures {
    totals: Totals,
    lost: u64,
    positions: Positions,
    failing: Option<String>,
    /// Whether it has come to itself.
    begun: bool,
    /// What was stored in the last seconds.
    recent: VecDeque<(Instant, u64)>,
}

impl Figures {
    fn forget_old(&mut self) {
        let now = Instant::now();
        let period = Duration::from_secs(RATE_SECONDS.into());
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > period) {
            self.recent.pop_front();
        }
    }
}

impl Shared {
    pub(super) fn new(name: &str, patterns: &[Pattern]) -> Self {
        Self {
            name: name.to_owned(),
            patterns: patterns.to_vec(),
            meter: SinkMeter::new(name),
            figures: Mutex::default(),
            begun: Notify::new(),
        }
    }

    /// How it is.
    pub(super) fn status(&self, rooms: &Rooms) -> Status {
        let in_memory = rooms.in_memory_of(&self.patterns);
        let mut figures = self.figures.lock();
        figures.forget_old();
        let stored: u64 = figures.recent.iter().map(|(_, events)| events).sum();
        let mut waiting = 0;
        for room in in_memory.iter().filter(|room| !is_own(room.name())) {
            waiting += room.count_after(figures.positions.get(room.name()).copied().unwrap_or(0));
        }
        let Totals { messages, batches, refused } = figures.totals;
        Status {
            messages,
            batches,
            waiting,
            per_second: float(stored) / f64::from(RATE_SECONDS),
            failing: figures.failing.clone(),
            rows_refused: refused,
            lost: figures.lost,
        }
    }

    /// What it knows of itself at its beginning.
    pub(super) fn begins(&self, totals: Totals, positions: &Positions) {
        let mut figures = self.figures.lock();
        figures.totals = totals;
        figures.positions.clone_from(positions);
    }

    /// It follows its rooms.
    pub(super) fn begun(&self) {
        self.figures.lock().begun = true;
        self.begun.notify_waiters();
    }

    /// Waits until it follows its rooms.
    pub(super) async fn wait_begun(&self) {
        loop {
            let told = self.begun.notified();
            if self.figures.lock().begun {
                return;
            }
            told.await;
        }
    }

    /// A batch is stored: so many of its events are new, and these are its totals and positions now.
    pub(super) fn stored(&self, events: u64, totals: Totals, positions: &[(RoomName, u64)]) {
        let mut figures = self.figures.lock();
        figures.totals = totals;
        for (room, seq) in positions {
            figures.positions.insert(room.clone(), *seq);
        }
        figures.forget_old();
        figures.recent.push_back((Instant::now(), events));
    }

    pub(super) fn lost(&self, events: u64) {
        self.figures.lock().lost += events;
        self.meter.lost(events);
    }

    /// It works, or why not; whether that is news.
    pub(super) fn set_failing(&self, failing: Option<String>) -> bool {
        let mut figures = self.figures.lock();
        let news = figures.failing != failing;
        figures.failing = failing;
        news
    }

    pub(super) fn totals(&self) -> Totals {
        self.figures.lock().totals
    }

    pub(super) fn positions(&self) -> Vec<(RoomName, u64)> {
        self.figures.lock().positions.iter().map(|(room, seq)| (room.clone(), *seq)).collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn float(count: u64) -> f64 {
    count as f64
}
