//! How a pipeline is: written by its actor, read by whoever asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metrics::record::PipelineMeter;
use crate::pipelines::machine::Refusal;

/// How a pipeline is.
#[derive(Debug)]
pub struct Status {
    /// Its name.
    pub name: String,
    file: Mutex<String>,
    /// Told when it has come to itself.
    begun: Notify,
    /// Events it has worked on since the start.
    pub events_in: AtomicU64,
    /// Events it has published since the start.
    pub events_out: AtomicU64,
    /// Events it could not work on.
    pub rejected: AtomicU64,
    /// Events that were not held any more when it came to them.
    pub missed: AtomicU64,
    /// Keys that it keeps.
    pub keys: AtomicU64,
    /// Bytes of its state when that was last written down.
    pub state_bytes: AtomicU64,
    /// How far its clock is, in milliseconds since 1970.
    pub now_ms: AtomicU64,
    /// Events that wait for it.
    pub waiting: AtomicU64,
    /// Whether it works: it has come to itself and was not given up.
    pub works: AtomicBool,
    pub(super) meter: PipelineMeter,
    trouble: Mutex<Option<Trouble>>,
    unreported: Mutex<Unreported>,
}

/// What last went wrong.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub message: String,
}

#[derive(Debug, Default)]
struct Unreported {
    since_ms: u64,
    /// By step and reason: how many, and the first of them.
    kinds: BTreeMap<(String, &'static str), (u64, Refusal)>,
}

impl Status {
    pub(super) fn new(name: &str, file: &str) -> Self {
        let zero = AtomicU64::default;
        Self {
            name: name.to_owned(),
            file: Mutex::new(file.to_owned()),
            begun: Notify::new(),
            events_in: zero(),
            events_out: zero(),
            rejected: zero(),
            missed: zero(),
            keys: zero(),
            state_bytes: zero(),
            now_ms: zero(),
            waiting: zero(),
            works: AtomicBool::new(false),
            meter: PipelineMeter::new(name),
            trouble: Mutex::default(),
            unreported: Mutex::default(),
        }
    }

    /// Hands its figures of the moment to the metrics.
    pub fn show(&self, works: bool, waiting: u64, behind_ms: u64) {
        let (keys, state_bytes) = (self.keys.load(Ordering::Relaxed), self.state_bytes.load(Ordering::Relaxed));
        self.meter.now(works, keys, waiting, state_bytes, behind_ms);
    }

    /// It was ended: its figures of the moment say nothing more.
    pub(super) fn gone(&self) {
        self.meter.gone();
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> String {
        self.file.lock().clone()
    }

    pub(super) fn set_file(&self, file: &str) {
        file.clone_into(&mut self.file.lock());
    }

    /// It has come to itself, and follows its rooms.
    pub(super) fn begun(&self) {
        self.works.store(true, Ordering::Release);
        self.begun.notify_waiters();
    }

    /// Waits until it follows its rooms.
    pub(super) async fn wait_begun(&self) {
        loop {
            let told = self.begun.notified();
            if self.works.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }

    /// What last went wrong, if something did.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().clone()
    }

    pub(super) fn note_trouble(&self, at_ms: u64, message: String) {
        *self.trouble.lock() = Some(Trouble { at_ms, message });
    }

    pub(super) fn given_up(&self) {
        self.works.store(false, Ordering::Relaxed);
        self.note_trouble(
            crate::clock::now_ms(),
            "it failed too often and was given up; restart the daemon".to_owned(),
        );
    }

    /// Counts events that could not be worked on. Each kind is reported at once when it is new, and then once in `period_ms`, with an example.
    pub(super) fn refused(&self, refusals: Vec<Refusal>, now_ms: u64, period_ms: u64) {
        self.rejected.fetch_add(refusals.len() as u64, Ordering::Relaxed);
        let mut unreported = self.unreported.lock();
        for refusal in refusals {
            self.meter.rejected(&refusal.step, refusal.reason);
            let kind = (refusal.step.clone(), refusal.reason);
            match unreported.kinds.get_mut(&kind) {
                Some((count, _)) => *count += 1,
                None => {
                    self.report(&refusal, 1);
                    self.note_trouble(now_ms, format!("step {}: {}", refusal.step, refusal.message));
                    unreported.kinds.insert(kind, (0, refusal));
                }
            }
        }
        drop(unreported);
        self.report_due(now_ms, period_ms);
    }

    /// Reports what has gathered since the last time, if that is long enough ago.
    pub(super) fn report_due(&self, now_ms: u64, period_ms: u64) {
        let mut unreported = self.unreported.lock();
        if unreported.since_ms == 0 {
            unreported.since_ms = now_ms;
        }
        if now_ms < unreported.since_ms + period_ms || unreported.kinds.is_empty() {
            return;
        }
        unreported.since_ms = now_ms;
        for (count, refusal) in std::mem::take(&mut unreported.kinds).into_values() {
            if count > 0 {
                self.report(&refusal, count);
            }
        }
    }

    fn report(&self, refusal: &Refusal, count: u64) {
        let Refusal { step, message, event, reason } = refusal;
        tracing::warn!(
            pipeline = self.name,
            step,
            reason,
            count,
            example = message,
            event,
            "pipeline: events that cannot be worked on go to the dead letters"
        );
    }
}
