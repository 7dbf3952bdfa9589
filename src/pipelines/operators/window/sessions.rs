//! Session windows: each group has its own, which last as long as its events follow closely on each other.

use serde::{Deserialize, Serialize};

use super::{OPEN_MAX, Shape, Taken, Told};
use crate::pipelines::aggregates::{Plan, Totals};
use crate::pipelines::section::Section;

/// The longest session, in milliseconds, if the settings do not say.
const MAX_MS: u64 = 24 * 3_600_000;

#[derive(Debug)]
pub(super) struct Sessions {
    gap_ms: u64,
    max_ms: u64,
    lateness_ms: u64,
    /// Whether every event tells its session.
    updates: bool,
}

/// A run of events.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    first_ms: u64,
    last_ms: u64,
    totals: Totals,
    /// Whether it was told as it is now.
    told: bool,
    /// Whether it, or one that it has joined, was told before.
    before: bool,
}

impl Sessions {
    /// Reads `gap` and `max`.
    pub(super) fn read(section: &mut Section<'_, '_>, lateness_ms: u64, updates: bool) -> Option<Self> {
        let gap_ms = section.time("gap");
        let max_ms = section.time_if_given("max").unwrap_or(MAX_MS.max(gap_ms));
        if max_ms < gap_ms {
            section.fault("max", "expected at least gap");
            return None;
        }
        Some(Self { gap_ms, max_ms, lateness_ms, updates })
    }

    fn end_ms(&self, first_ms: u64, last_ms: u64) -> u64 {
        last_ms.saturating_add(self.gap_ms).min(first_ms.saturating_add(self.max_ms))
    }

    fn end_of(&self, session: &Session) -> u64 {
        self.end_ms(session.first_ms, session.last_ms)
    }

    /// When nothing can come into a session any more.
    fn over_ms(&self, session: &Session) -> u64 {
        self.end_of(session).saturating_add(self.lateness_ms)
    }

    /// Whether a session goes on in the events between two times: there is no gap between them, and it becomes neither too long nor shorter.
    fn joins(&self, session: &Session, first_ms: u64, last_ms: u64) -> bool {
        let (from_ms, to_ms) = (session.first_ms.min(first_ms), session.last_ms.max(last_ms));
        first_ms < session.last_ms.saturating_add(self.gap_ms)
            && session.first_ms < last_ms.saturating_add(self.gap_ms)
            && to_ms - from_ms < self.max_ms
            && self.end_ms(from_ms, to_ms) >= self.end_of(session)
    }

    /// Joins a session with those between which and it there is no gap any more; where it is then.
    fn join(&self, plan: &Plan, open: &mut Vec<Session>, mut at: usize) -> usize {
        let mut other = 0;
        while other < open.len() {
            let (one, two) = (&open[at], &open[other]);
            let both = self.joins(one, two.first_ms, two.last_ms) && self.joins(two, one.first_ms, one.last_ms);
            if other == at || !both {
                other += 1;
                continue;
            }
            let gone = open.remove(other);
            if other < at {
                at -= 1;
            }
            let session = &mut open[at];
            plan.merge(&mut session.totals, &gone.totals);
            session.first_ms = session.first_ms.min(gone.first_ms);
            session.last_ms = session.last_ms.max(gone.last_ms);
            session.before |= gone.before;
        }
        at
    }
}

impl Shape for Sessions {
    type Open = Vec<Session>;

    fn late_ms(&self, open: Option<&Vec<Session>>, time_ms: u64, watermark_ms: u64) -> Option<u64> {
        if open.is_some_and(|open| open.iter().any(|session| self.joins(session, time_ms, time_ms))) {
            return None;
        }
        watermark_ms.checked_sub(self.end_ms(time_ms, time_ms).saturating_add(self.lateness_ms))
    }

    fn add(
        &self,
        plan: &Plan,
        open: &mut Vec<Session>,
        event: &Taken<'_>,
        mut tell: impl FnMut(Told, &Totals),
    ) -> Option<u64> {
        let Taken { values, time_ms, watermark_ms } = *event;
        let at = match open.iter().position(|session| self.joins(session, time_ms, time_ms)) {
            Some(at) => at,
            None if open.len() >= OPEN_MAX => return None,
            None => {
                let (first_ms, last_ms, totals) = (time_ms, time_ms, plan.empty());
                open.push(Session { first_ms, last_ms, totals, told: false, before: false });
                open.len() - 1
            }
        };
        let session = &mut open[at];
        plan.add(&mut session.totals, values, time_ms);
        session.first_ms = session.first_ms.min(time_ms);
        session.last_ms = session.last_ms.max(time_ms);
        let at = if open.len() > 1 { self.join(plan, open, at) } else { at };
        let session = &mut open[at];
        let (start_ms, end_ms) = (session.first_ms, self.end_of(session));
        if end_ms <= watermark_ms {
            tell(Told { start_ms, end_ms, updated: session.before, open: false }, &session.totals);
            (session.told, session.before) = (true, true);
            return Some(self.over_ms(session));
        }
        session.told = false;
        if self.updates {
            tell(Told { start_ms, end_ms, updated: false, open: true }, &session.totals);
        }
        Some(end_ms)
    }

    fn close(&self, _: &Plan, open: &mut Vec<Session>, due_ms: u64, mut tell: impl FnMut(Told, &Totals)) -> u64 {
        let mut next_ms = u64::MAX;
        open.retain_mut(|session| {
            let end_ms = self.end_of(session);
            if end_ms <= due_ms && !session.told {
                let told = Told { start_ms: session.first_ms, end_ms, updated: session.before, open: false };
                tell(told, &session.totals);
                (session.told, session.before) = (true, true);
            }
            let over_ms = self.over_ms(session);
            if over_ms > due_ms {
                next_ms = next_ms.min(if session.told { over_ms } else { end_ms });
            }
            over_ms > due_ms
        });
        next_ms
    }

    fn is_empty(open: &Vec<Session>) -> bool {
        open.is_empty()
    }

    fn fits(plan: &Plan, open: &Vec<Session>) -> bool {
        open.iter().all(|session| plan.fits(&session.totals))
    }
}
