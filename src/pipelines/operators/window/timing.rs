//! How far time has come: the watermark, up to which no more events are waited for.

use serde::{Deserialize, Serialize};

use crate::pipelines::record::Record;
use crate::pipelines::section::Section;

/// How long event time stands still before it goes with the clock, in milliseconds, if the settings do not say.
const IDLE_MS: u64 = 5000;

/// By which time windows are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Timing {
    /// By events' arrival: the clock is the watermark.
    Arrival,
    /// By the events' own time.
    Event {
        /// How far behind the newest event others may be.
        disorder_ms: u64,
        /// After so long without a newer event time goes with the clock; 0 for never.
        idle_ms: u64,
    },
}

/// How far time has come.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reached {
    watermark_ms: u64,
    /// The newest event's time, if there was one, no later than it arrived; and when that was.
    newest: Option<(u64, u64)>,
}

impl Reached {
    pub(super) fn watermark_ms(&self) -> u64 {
        self.watermark_ms
    }

    /// The watermark is here at least.
    pub(super) fn at_least(&mut self, time_ms: u64) {
        self.watermark_ms = self.watermark_ms.max(time_ms);
    }

    /// The time until now was a pause and no silence.
    pub(super) fn resumed(&mut self, now_ms: u64) {
        if let Some((_, arrived_ms)) = &mut self.newest {
            *arrived_ms = now_ms.max(*arrived_ms);
        }
    }
}

impl Timing {
    /// Reads `time`, and what goes with event time: `disorder`, `idle` and `lateness`, which comes back beside it.
    pub(super) fn read(section: &mut Section<'_, '_>) -> (Self, u64) {
        if section.choice("time", &["event", "arrival"], Some("event")) == "event" {
            let (disorder_ms, idle_ms) = (section.time_or("disorder", 0), section.time_or("idle", IDLE_MS));
            return (Self::Event { disorder_ms, idle_ms }, section.time_or("lateness", 0));
        }
        for key in ["disorder", "idle", "lateness"] {
            if section.value(key).is_some() {
                section.fault(key, "goes with time = \"event\" only: by arrival nothing is late");
            }
        }
        (Self::Arrival, 0)
    }

    /// How far behind the newest event others may be.
    pub(super) fn disorder_ms(&self) -> u64 {
        match self {
            Self::Arrival => 0,
            Self::Event { disorder_ms, .. } => *disorder_ms,
        }
    }

    /// An event has come: its time, in these windows' sense. The watermark moves with it.
    pub(super) fn event(&self, reached: &mut Reached, record: &Record) -> u64 {
        let arrived_ms = record.arrived_ms;
        let Self::Event { disorder_ms, .. } = self else {
            // Of several rooms one may be a little behind, and windows may just have closed by the clock.
            reached.at_least(arrived_ms);
            return reached.watermark_ms;
        };
        reached.at_least(self.clock_ms(reached, arrived_ms));
        let time_ms = record.timestamp_ms.min(arrived_ms);
        if reached.newest.is_none_or(|(newest_ms, _)| time_ms > newest_ms) {
            let at_ms = reached.newest.map_or(arrived_ms, |(_, at_ms)| at_ms.max(arrived_ms));
            reached.newest = Some((time_ms, at_ms));
            reached.at_least(time_ms.saturating_sub(*disorder_ms));
        }
        record.timestamp_ms
    }

    /// Where the watermark is by the clock.
    pub(super) fn clock_ms(&self, reached: &Reached, now_ms: u64) -> u64 {
        let Self::Event { disorder_ms, idle_ms } = *self else { return now_ms };
        let Some((newest_ms, at_ms)) = reached.newest.filter(|_| idle_ms > 0) else { return reached.watermark_ms };
        let silent_ms = now_ms.saturating_sub(at_ms.saturating_add(idle_ms));
        if silent_ms == 0 {
            return reached.watermark_ms;
        }
        // Event time goes on from where it was, not from where the clock is: a stream may be behind it, or ahead.
        newest_ms.saturating_add(silent_ms).saturating_sub(disorder_ms).max(reached.watermark_ms)
    }

    /// When the clock brings the watermark to a time that it has not reached; `None` if it never does, and for `u64::MAX`.
    pub(super) fn due_ms(&self, reached: &Reached, time_ms: u64) -> Option<u64> {
        if time_ms == u64::MAX {
            return None;
        }
        let Self::Event { disorder_ms, idle_ms } = *self else { return Some(time_ms) };
        let (newest_ms, at_ms) = reached.newest.filter(|_| idle_ms > 0)?;
        let silent_ms = time_ms.saturating_add(disorder_ms).saturating_sub(newest_ms);
        Some(at_ms.saturating_add(idle_ms).saturating_add(silent_ms))
    }
}
