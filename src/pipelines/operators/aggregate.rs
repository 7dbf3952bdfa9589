//! `aggregate`: running figures of each group, with every event.
//!
//! Every event goes on with the figures of its group in place of its data: those of [`crate::pipelines::aggregates`], `start` and `end` (the times of the oldest and the newest event),
//! of the kind `as_kind` and with the group as its key; its time stays. `rate` is how many events have come since the first, by the time since then: `null` until there are two times.
//! With `reset` the figures begin anew with each multiple of that time since 1970 (`"24h"`: at midnight UTC), by event time; an event ahead of its arrival counts as of its arrival.
//!
//! With `emit_every` a group's figures come at most once in this time: the first at once, and the last always, from the clock if no event brings them. Figures that were still to come
//! when a reset begins come before those of the new time.
//!
//! Beside the figures of all events there are those of `recent` ones, see [`crate::pipelines::aggregates::recent`]. Where time alone changes them the group's figures come again, at most
//! once in `emit_every` or in a second, until such a range is empty; that event's time is the clock's.
//!
//! *Late*: an event that is older than the group's last reset is a dead letter; other than that order does not matter. *Missing or wrong*: see the figures; a field of `by` that is
//! missing, or no text, number or flag, makes a dead letter, and so does a group over `keys_max`. A group without an event for `keys_idle` is forgotten and begins anew, unless a range
//! of it by time is not empty.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::held::Timetable;
use crate::clock::rfc3339;
use crate::pipelines::aggregates::recent::{Ranges, Recent};
use crate::pipelines::aggregates::{About, Common, Grouping, Plan, Totals, made_kind, record_key};
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// How often figures come that time alone changes, if the settings do not say how often figures come, in milliseconds.
const AGAIN_MS: u64 = 1000;

#[derive(Debug)]
struct Aggregate {
    figures: Figures,
    /// 0 for never.
    reset_ms: u64,
    /// 0 for with every event.
    every_ms: u64,
    groups: Keyed<Group>,
    keys_max: usize,
    keys_idle_ms: u64,
    /// The groups that the clock may bring, each at its `due_ms`.
    timetable: Timetable,
}

/// What is made of a group.
#[derive(Debug)]
struct Figures {
    plan: Plan,
    ranges: Ranges,
    grouping: Grouping,
    kind: SmolStr,
}

#[derive(Debug, Serialize, Deserialize)]
struct Group {
    about: About,
    /// Which of the times between resets it is, counted from 1970.
    period: u64,
    first_ms: u64,
    last_ms: u64,
    totals: Totals,
    /// From when on its figures may come again.
    free_ms: u64,
    /// Whether there are figures that have not come yet.
    waits: bool,
    recent: Box<[Recent]>,
    /// From when on time alone may bring its figures again.
    again_ms: u64,
    /// When the clock looks at it, which is never too late.
    due_ms: Option<u64>,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let grouping = Grouping::read(section);
    let mut common = Common::read(section, &grouping);
    let plan = Plan::of(section, &mut common, "");
    let ranges = Ranges::read(section, &mut common);
    let kind = made_kind(section, "aggregate");
    let (reset_ms, every_ms) = (section.time_or("reset", 0), section.time_or("emit_every", 0));
    let (keys_max, keys_idle_ms) = section.key_limits();
    let (groups, timetable) = (Keyed::new(keys_max, keys_idle_ms), Timetable::default());
    let figures = Figures { plan, ranges, grouping, kind };
    Some(Box::new(Aggregate { figures, reset_ms, every_ms, groups, keys_max, keys_idle_ms, timetable }))
}

impl Figures {
    fn data(&self, group: &Group) -> Value {
        let mut data = Map::new();
        self.grouping.write(&group.about, &mut data);
        let length_ms = group.last_ms - group.first_ms;
        let rate = |count: u64| (length_ms > 0).then(|| count.saturating_sub(1) as f64 * 1000.0 / length_ms as f64);
        self.plan.write(&group.totals, rate, &mut data);
        self.ranges.write(&group.recent, &mut data);
        data.insert("start".to_owned(), Value::from(rfc3339(group.first_ms)));
        data.insert("end".to_owned(), Value::from(rfc3339(group.last_ms)));
        Value::Object(data)
    }

    /// A group's figures as an event that no event brings.
    fn made(&self, key: &str, group: &Group, time_ms: u64, now_ms: u64) -> Record {
        let data = self.data(group);
        Record::made(group.about.room().clone(), &self.kind, record_key(key), time_ms, now_ms, data)
    }

    /// When the clock is to bring a group's figures.
    fn wanted_ms(&self, group: &Group) -> Option<u64> {
        let by_time = self.ranges.leaves_ms(&group.recent).map(|leaves_ms| leaves_ms.max(group.again_ms));
        group.waits.then_some(group.free_ms).into_iter().chain(by_time).min()
    }

    /// Has the clock look at a group when its figures are to come; sooner does no harm.
    fn schedule(&self, timetable: &mut Timetable, key: &str, group: &mut Group) {
        let Some(wanted_ms) = self.wanted_ms(group) else { return };
        if group.due_ms.is_some_and(|due_ms| due_ms <= wanted_ms) {
            return;
        }
        let key = SmolStr::from(key);
        if let Some(due_ms) = group.due_ms.replace(wanted_ms) {
            timetable.remove(due_ms, &key);
        }
        timetable.add(wanted_ms, &key);
    }
}

impl Group {
    fn new(figures: &Figures, record: &Record, period: u64) -> Self {
        Self {
            about: About::of(&figures.grouping, record),
            period,
            first_ms: record.timestamp_ms,
            last_ms: record.timestamp_ms,
            totals: figures.plan.empty(),
            free_ms: 0,
            waits: false,
            recent: figures.ranges.begin(),
            again_ms: 0,
            due_ms: None,
        }
    }

    /// Its figures come, by an event that arrived then or by the clock.
    fn given(&mut self, at_ms: u64, every_ms: u64) {
        self.waits = false;
        self.free_ms = if every_ms > 0 { at_ms.saturating_add(every_ms) } else { 0 };
        self.again_ms = at_ms.saturating_add(if every_ms > 0 { every_ms } else { AGAIN_MS });
    }
}

impl Operator for Aggregate {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let figures = &self.figures;
        let key = match figures.grouping.key(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let all = |record| Ok((figures.plan.values(record)?, figures.ranges.values(record)?));
        let (values, recent) = match all(record) {
            Ok(values) => values,
            Err((field, expected)) => return cx.reject_field(record, field, expected),
        };
        let (time_ms, arrived_ms) = (record.timestamp_ms, record.arrived_ms);
        let period = time_ms.min(arrived_ms).checked_div(self.reset_ms).unwrap_or(0);
        let Some(group) = self.groups.entry(&key, cx.now_ms, || Group::new(figures, record, period)) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        if period < group.period {
            let end_ms = (period + 1).saturating_mul(self.reset_ms);
            return cx.reject(record, "timestamp", Why::Late { by_ms: group.last_ms.saturating_sub(end_ms) });
        }
        figures.ranges.pass(&mut group.recent, cx.now_ms);
        if period > group.period {
            if group.waits {
                cx.emit(figures.made(&key, group, group.last_ms, cx.now_ms));
                group.waits = false;
            }
            (group.period, group.first_ms, group.last_ms) = (period, time_ms, time_ms);
            group.totals = figures.plan.empty();
        }
        group.about.seen(record);
        group.first_ms = group.first_ms.min(time_ms);
        group.last_ms = group.last_ms.max(time_ms);
        figures.plan.add(&mut group.totals, &values, time_ms);
        figures.ranges.add(&mut group.recent, &recent, time_ms, cx.now_ms);
        // They are the record's, which is changed below.
        drop((values, recent));
        if arrived_ms < group.free_ms {
            group.waits = true;
            figures.schedule(&mut self.timetable, &key, group);
            return Next::Drop;
        }
        group.given(arrived_ms, self.every_ms);
        figures.schedule(&mut self.timetable, &key, group);
        let (key, data) = (record_key(&key), figures.data(group));
        record.kind = figures.kind.clone();
        record.key = key;
        record.set_value(data);
        Next::Pass
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        let figures = &self.figures;
        while let Some(key) = self.timetable.take(cx.now_ms) {
            let Some(group) = self.groups.get_mut(&key) else { continue };
            group.due_ms = None;
            if let Some(wanted_ms) = figures.wanted_ms(group).filter(|wanted_ms| *wanted_ms <= cx.now_ms) {
                // What an event has left to come is as of that event; what time has changed is as of now.
                let time_ms = if group.waits { group.last_ms } else { cx.now_ms };
                figures.ranges.pass(&mut group.recent, cx.now_ms);
                // From when it was due, however late the clock comes.
                group.given(wanted_ms, self.every_ms);
                cx.emit(figures.made(&key, group, time_ms, cx.now_ms));
            }
            figures.schedule(&mut self.timetable, &key, group);
        }
        let rests = |group: &Group| !group.waits && figures.ranges.leaves_ms(&group.recent).is_none();
        for (key, group) in self.groups.expire(cx.now_ms, rests) {
            group.due_ms.into_iter().for_each(|due_ms| self.timetable.remove(due_ms, &key));
        }
    }

    fn due_ms(&self) -> Option<u64> {
        self.timetable.first_ms().into_iter().chain(self.groups.due_ms()).min()
    }

    fn keys(&self) -> usize {
        self.groups.len()
    }

    fn save(&self) -> Vec<u8> {
        self.groups.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        let mut groups: Keyed<Group> = Keyed::new(self.keys_max, self.keys_idle_ms);
        groups.load(state)?;
        let Figures { plan, ranges, .. } = &self.figures;
        if !groups.iter().all(|(_, group)| plan.fits(&group.totals) && ranges.fits(&group.recent)) {
            return Err(BadState);
        }
        self.timetable = groups.iter().filter_map(|(key, group)| Some((group.due_ms?, key.clone()))).collect();
        self.groups = groups;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
