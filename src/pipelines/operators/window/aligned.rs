//! Tumbling and sliding windows, which are the same for all groups.
//!
//! A group's events are summed up in panes, so short that every window is made of whole ones: J. Li et al., "No pane, no gain: efficient evaluation of sliding-window aggregates over data
//! streams", 2005. An event costs one pane's update, however many windows it is in; a window's panes are put together when it is told. A tumbling window is one pane.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{OPEN_MAX, Shape, Taken, Told};
use crate::pipelines::aggregates::{Plan, Totals};
use crate::pipelines::section::Section;

/// The most panes of a window.
const PANES_MAX: u64 = 1000;

/// Where windows and panes lie. Both are numbered from a time before 1970, so that there are none before number 0 that an event could be in.
#[derive(Debug)]
pub(super) struct Aligned {
    size_ms: u64,
    every_ms: u64,
    pane_ms: u64,
    /// How many panes a window has.
    panes: u64,
    /// How many panes lie between one window's beginning and the next one's.
    step: u64,
    /// How long before 1970 number 0 begins.
    shift_ms: u64,
    lateness_ms: u64,
    /// Whether every event tells its window; of tumbling windows only.
    updates: bool,
}

/// A pane with at least one event in it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pane {
    number: u64,
    totals: Totals,
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

impl Aligned {
    /// Reads `size`, `every` and `offset`.
    pub(super) fn read(
        section: &mut Section<'_, '_>,
        tumbling: bool,
        disorder_ms: u64,
        lateness_ms: u64,
        updates: bool,
    ) -> Option<Self> {
        let size_ms = section.time("size");
        let every_ms = if tumbling { size_ms } else { section.time("every") };
        let offset_ms = section.time_or("offset", 0);
        if every_ms > size_ms {
            section.fault("every", "expected at most size: what comes between two windows would be in none");
            return None;
        }
        let pane_ms = greatest_common_divisor(size_ms, every_ms);
        let (panes, step) = (size_ms / pane_ms, every_ms / pane_ms);
        if panes > PANES_MAX {
            let what = format!("with this size a window is made of {panes} pieces; expected at most {PANES_MAX}");
            section.fault("every", what);
            return None;
        }
        let waiting = lateness_ms.saturating_add(disorder_ms) / pane_ms;
        if waiting >= OPEN_MAX as u64 {
            let most = format!("expected less than {OPEN_MAX}");
            section.fault(
                "lateness",
                format!("with disorder a group has {waiting} windows, or pieces of them, that wait; {most}"),
            );
            return None;
        }
        let back_ms = size_ms.div_ceil(every_ms).saturating_mul(every_ms);
        let shift_ms = back_ms.saturating_add(every_ms - offset_ms % every_ms);
        Some(Self { size_ms, every_ms, pane_ms, panes, step, shift_ms, lateness_ms, updates })
    }

    /// Which pane a time is in.
    fn pane(&self, time_ms: u64) -> u64 {
        time_ms.saturating_add(self.shift_ms) / self.pane_ms
    }

    /// The first window that a pane is in.
    fn first(&self, pane: u64) -> u64 {
        pane.saturating_sub(self.panes) / self.step + 1
    }

    /// The last window that a pane is in.
    fn last(&self, pane: u64) -> u64 {
        pane / self.step
    }

    fn end_ms(&self, window: u64) -> u64 {
        window.saturating_mul(self.every_ms).saturating_add(self.size_ms).saturating_sub(self.shift_ms)
    }

    /// The last window that ends at a time or before.
    fn ended(&self, time_ms: u64) -> u64 {
        time_ms.saturating_add(self.shift_ms).saturating_sub(self.size_ms) / self.every_ms
    }

    /// When nothing can come into a pane any more.
    fn over_ms(&self, pane: u64) -> u64 {
        self.end_ms(self.last(pane)).saturating_add(self.lateness_ms)
    }

    fn told(&self, window: u64, updated: bool, open: bool) -> Told {
        let start_ms = window.saturating_mul(self.every_ms).saturating_sub(self.shift_ms);
        Told { start_ms, end_ms: self.end_ms(window), updated, open }
    }

    /// What is in a window, if anything is.
    fn whole<'o>(&self, plan: &Plan, open: &'o VecDeque<Pane>, window: u64) -> Option<Cow<'o, Totals>> {
        let from = window.saturating_mul(self.step);
        let inside = open.range(open.partition_point(|pane| pane.number < from)..);
        let mut inside = inside.take_while(|pane| pane.number < from.saturating_add(self.panes));
        let mut whole = Cow::Borrowed(&inside.next()?.totals);
        for pane in inside {
            plan.merge(whole.to_mut(), &pane.totals);
        }
        Some(whole)
    }

    /// When a group is due next, the watermark being where it is: at the next end of a window with something in it, or when a pane is over.
    fn due_ms(&self, open: &VecDeque<Pane>, watermark_ms: u64) -> u64 {
        let Some(front) = open.front() else { return u64::MAX };
        let waits = open.partition_point(|pane| self.end_ms(self.last(pane.number)) <= watermark_ms);
        let end_ms = open.get(waits).map_or(u64::MAX, |pane| {
            // Its first windows may have ended.
            self.end_ms(self.first(pane.number).max(self.ended(watermark_ms) + 1))
        });
        end_ms.min(self.over_ms(front.number))
    }
}

impl Shape for Aligned {
    type Open = VecDeque<Pane>;

    fn late_ms(&self, _: Option<&VecDeque<Pane>>, time_ms: u64, watermark_ms: u64) -> Option<u64> {
        watermark_ms.checked_sub(self.over_ms(self.pane(time_ms)))
    }

    fn add(
        &self,
        plan: &Plan,
        open: &mut VecDeque<Pane>,
        event: &Taken<'_>,
        mut tell: impl FnMut(Told, &Totals),
    ) -> Option<u64> {
        let Taken { values, time_ms, watermark_ms } = *event;
        // Nearly always it is the newest pane, and none of its windows has ended.
        if time_ms >= watermark_ms
            && let Some(pane) = open.back_mut()
            && time_ms.saturating_add(self.shift_ms).wrapping_sub(pane.number * self.pane_ms) < self.pane_ms
        {
            plan.add(&mut pane.totals, values, time_ms);
            if self.updates {
                tell(self.told(pane.number, false, true), &pane.totals);
            }
            return Some(u64::MAX);
        }
        let number = self.pane(time_ms);
        let at = open.partition_point(|pane| pane.number < number);
        let new = open.get(at).is_none_or(|pane| pane.number != number);
        if new {
            if open.len() as u64 >= self.panes + OPEN_MAX as u64 {
                return None;
            }
            open.insert(at, Pane { number, totals: plan.empty() });
        }
        plan.add(&mut open[at].totals, values, time_ms);
        for window in self.first(number)..=self.last(number) {
            let end_ms = self.end_ms(window);
            let ended = end_ms <= watermark_ms;
            if !ended && !self.updates {
                break;
            }
            if end_ms.saturating_add(self.lateness_ms) > watermark_ms
                && let Some(totals) = self.whole(plan, open, window)
            {
                // What has ended was told then, if there was anything to tell.
                tell(self.told(window, ended && totals.count() > 1, !ended), &totals);
            }
        }
        Some(if new { self.due_ms(open, watermark_ms) } else { u64::MAX })
    }

    fn close(&self, plan: &Plan, open: &mut VecDeque<Pane>, due_ms: u64, mut tell: impl FnMut(Told, &Totals)) -> u64 {
        let window = self.ended(due_ms);
        // Where a pane was due to go, no window may end.
        if self.end_ms(window) == due_ms
            && let Some(totals) = self.whole(plan, open, window)
        {
            tell(self.told(window, false, false), &totals);
        }
        while open.front().is_some_and(|pane| self.over_ms(pane.number) <= due_ms) {
            open.pop_front();
        }
        self.due_ms(open, due_ms)
    }

    fn is_empty(open: &VecDeque<Pane>) -> bool {
        open.is_empty()
    }

    fn fits(plan: &Plan, open: &VecDeque<Pane>) -> bool {
        open.iter().all(|pane| plan.fits(&pane.totals))
    }
}
