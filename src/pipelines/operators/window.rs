//! `window`: figures of the events of a stretch of time, for each group, when the stretch is over.
//!
//! *Tumbling* windows of `size` follow one on the other; *sliding* ones begin `every` so often and overlap; both are aligned to 1970 plus `offset`. A *session* is a run of events with
//! less than `gap` between each and the next, shorter than `max` from the first to the last; it ends `gap` after its last event, or `max` after its first. A window's end is not in it.
//! Figures are those of [`crate::pipelines::aggregates`], with `start` and `end`. The event made has the window's end as its time and the group as its key; those that are due at once
//! come in the order of their ends, then their starts, then their groups' first appearance.
//!
//! *Time* is the event's (`time = "event"`) or its arrival's (`"arrival"`, by which windows close with the clock, and nothing is late: an event that was under way while its window
//! closed is taken for the next). In event time a window closes when the watermark reaches its end: the newest event time of all groups minus `disorder`, bounded out-of-orderness as in
//! Apache Flink. An event ahead of its arrival moves it only as far as the arrival: one wrong clock closes no windows but waits for its own time. When event time has stood still for
//! `idle` by the clock it moves on with the clock, so that a quiet stream's last windows come out too.
//!
//! *Late*: an event whose last window is over, `lateness` included, is a dead letter. One that is late but not so late is taken in, and each window that has closed already is given once
//! more as it is now, with `updated = true`; a session may then have another start or end, and takes the place of those that it has joined. *Missing or wrong*: see the figures; a field
//! of `by` that is missing, or no text, number or flag, makes a dead letter. *Bounds*: `keys_max` groups, of which those without open windows make place for new ones; of each group
//! 1000 windows beyond what a window is made of, and 1000 sessions; an event over that is a dead letter.
//!
//! With `emit = "update"` each event of a tumbling window or a session gives it as it stands, with `open = true`.

mod aligned;
mod sessions;
#[cfg(test)]
mod tests;
mod timing;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::held::Timetable;
use crate::clock::rfc3339;
use crate::pipelines::aggregates::{About, Grouping, Plan, Totals, made_kind, record_key};
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator, load, save};
use crate::pipelines::record::{Got, Record};
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;
use aligned::Aligned;
use sessions::Sessions;
use timing::{Reached, Timing};

/// The most open windows of a group, beyond those that any event has.
const OPEN_MAX: usize = 1000;

/// A window of which is told.
#[derive(Debug, Clone, Copy)]
struct Told {
    start_ms: u64,
    end_ms: u64,
    /// It was told before, with less in it.
    updated: bool,
    /// It is not over yet.
    open: bool,
}

/// An event that is taken in.
struct Taken<'v> {
    values: &'v [Got<'v>],
    time_ms: u64,
    watermark_ms: u64,
}

/// A kind of windows: how a group's are laid out, and when they are over.
trait Shape: std::fmt::Debug + Send + Sync {
    /// A group's windows.
    type Open: std::fmt::Debug + Default + Send + Sync + Serialize + DeserializeOwned;

    /// By how much a time before the watermark is too late, if it is.
    fn late_ms(&self, open: Option<&Self::Open>, time_ms: u64, watermark_ms: u64) -> Option<u64>;

    /// Takes an event in that is not too late. When the group is due at the latest on account of it, `u64::MAX` for no sooner than it is anyway; `None` if it has as many windows as it may.
    fn add(
        &self,
        plan: &Plan,
        open: &mut Self::Open,
        event: &Taken<'_>,
        tell: impl FnMut(Told, &Totals),
    ) -> Option<u64>;

    /// The watermark has come to a time at which the group is due. When it is due next, `u64::MAX` for never.
    fn close(&self, plan: &Plan, open: &mut Self::Open, due_ms: u64, tell: impl FnMut(Told, &Totals)) -> u64;

    /// Whether a group has no windows.
    fn is_empty(open: &Self::Open) -> bool;

    /// Whether windows that were kept are of this plan.
    fn fits(plan: &Plan, open: &Self::Open) -> bool;
}

/// What is told of windows.
#[derive(Debug)]
struct Figures {
    plan: Plan,
    grouping: Grouping,
    kind: SmolStr,
}

impl Figures {
    fn data(&self, about: &About, told: Told, totals: &Totals) -> Value {
        let mut data = Map::new();
        self.grouping.write(about, &mut data);
        let length_ms = told.end_ms.saturating_sub(told.start_ms).max(1);
        let rate = |count: u64| Some(count as f64 * 1000.0 / length_ms as f64);
        self.plan.write(totals, rate, &mut data);
        data.insert("start".to_owned(), Value::from(rfc3339(told.start_ms)));
        data.insert("end".to_owned(), Value::from(rfc3339(told.end_ms)));
        for (name, flag) in [("updated", told.updated), ("open", told.open)] {
            if flag {
                data.insert(name.to_owned(), Value::from(true));
            }
        }
        Value::Object(data)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Group<O> {
    about: About,
    /// Its number in the order of appearance.
    born: u64,
    /// When the watermark is to be told to it, at the latest; `u64::MAX` for never.
    due_ms: u64,
    open: O,
}

#[derive(Debug)]
struct Window<S: Shape> {
    shape: S,
    timing: Timing,
    figures: Figures,
    groups: Keyed<Group<S::Open>>,
    keys_max: usize,
    keys_idle_ms: u64,
    /// Groups with windows, at the times at which they are due.
    timetable: Timetable,
    /// The first of them; asked for with every event.
    soonest_ms: u64,
    reached: Reached,
    born: u64,
    /// Groups without windows.
    resting: usize,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let kind = section.choice("kind", &["tumbling", "sliding", "session"], None);
    let (timing, lateness_ms) = Timing::read(section);
    let updates = section.choice("emit", &["close", "update"], Some("close")) == "update";
    let grouping = Grouping::read(section);
    let plan = Plan::read(section, &grouping);
    let figures = Figures { plan, grouping, kind: made_kind(section, "window") };
    let limits = section.key_limits();
    if kind == "session" {
        let sessions = Sessions::read(section, lateness_ms, updates)?;
        return Some(Box::new(Window::new(sessions, timing, figures, limits)));
    }
    let tumbling = kind == "tumbling";
    if updates && !tumbling {
        section.fault("emit", "sliding windows overlap, so an event would give many: expected close");
    }
    let aligned = Aligned::read(section, tumbling, timing.disorder_ms(), lateness_ms, updates)?;
    Some(Box::new(Window::new(aligned, timing, figures, limits)))
}

impl<S: Shape> Window<S> {
    fn new(shape: S, timing: Timing, figures: Figures, (keys_max, keys_idle_ms): (usize, u64)) -> Self {
        Self {
            shape,
            timing,
            figures,
            groups: Keyed::new(keys_max, keys_idle_ms),
            keys_max,
            keys_idle_ms,
            timetable: Timetable::default(),
            soonest_ms: u64::MAX,
            reached: Reached::default(),
            born: 0,
            resting: 0,
        }
    }

    /// Brings the watermark to a time: what is over by then is told. `seq` is that of the event that has done it, 0 for the clock.
    fn close(&mut self, upto_ms: u64, seq: u64, cx: &mut Context<'_>) {
        let mut ready: Vec<(Told, u64, Record)> = Vec::new();
        // Group by group in the order of their times, so that it is the same in few large steps of the watermark and in many small ones.
        while let Some(key) = self.timetable.take(upto_ms) {
            let Some(Group { about, born, due_ms, open }) = self.groups.get_mut(&key) else { continue };
            self.reached.at_least(*due_ms);
            let (figures, now_ms) = (&self.figures, cx.now_ms);
            *due_ms = self.shape.close(&figures.plan, open, *due_ms, |told, totals| {
                let (room, data) = (about.room().clone(), figures.data(about, told, totals));
                let mut record = Record::made(room, &figures.kind, record_key(&key), told.end_ms, now_ms, data);
                record.seq = seq;
                ready.push((told, *born, record));
            });
            if S::is_empty(open) {
                self.resting += 1;
            } else {
                self.timetable.add(*due_ms, &key);
            }
        }
        ready.sort_by_key(|(told, born, _)| (told.end_ms, told.start_ms, *born));
        ready.into_iter().for_each(|(_, _, record)| cx.emit(record));
        self.soonest_ms = self.timetable.first_ms().unwrap_or(u64::MAX);
    }

    /// Where there are as many groups as there may be: forgets those without windows, of which nothing is lost, if a new one needs a place.
    fn make_place(&mut self, key: &str) {
        if self.groups.len() >= self.keys_max && self.resting > 0 && self.groups.get(key).is_none() {
            self.groups.retain(|_, group| !S::is_empty(&group.open));
            self.resting = 0;
        }
    }
}

impl<S: Shape> Operator for Window<S> {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let time_ms = self.timing.event(&mut self.reached, record);
        let watermark_ms = self.reached.watermark_ms();
        if self.soonest_ms <= watermark_ms {
            self.close(watermark_ms, record.seq, cx);
        }
        let record = &*record;
        let key = match self.figures.grouping.key(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        if time_ms < watermark_ms {
            let open = self.groups.get(&key).map(|group| &group.open);
            if let Some(by_ms) = self.shape.late_ms(open, time_ms, watermark_ms) {
                return cx.reject(record, "timestamp", Why::Late { by_ms });
            }
        }
        self.make_place(&key);
        let figures = &self.figures;
        let values = match figures.plan.values(record) {
            Ok(values) => values,
            Err((field, expected)) => return cx.reject_field(record, field, expected),
        };
        let (mut new, born) = (false, self.born);
        let group = self.groups.entry(&key, cx.now_ms, || {
            new = true;
            Group { about: About::of(&figures.grouping, record), born, due_ms: u64::MAX, open: S::Open::default() }
        });
        let Some(Group { about, due_ms, open, .. }) = group else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        if new {
            self.born += 1;
        } else if S::is_empty(open) {
            self.resting -= 1;
        }
        about.seen(record);
        let taken = Taken { values: &values, time_ms, watermark_ms };
        let due = self.shape.add(&figures.plan, open, &taken, |told, totals| {
            let mut made = record.derived(&figures.kind, figures.data(about, told, totals));
            made.key = record_key(&key);
            made.timestamp_ms = told.end_ms;
            cx.emit(made);
        });
        let Some(due) = due else {
            return cx.reject(record, "key", Why::Other(format!("has {OPEN_MAX} open windows, as many as it may")));
        };
        if due < *due_ms {
            let key = SmolStr::from(&*key);
            self.timetable.remove(*due_ms, &key);
            self.timetable.add(due, &key);
            *due_ms = due;
            self.soonest_ms = self.soonest_ms.min(due);
        }
        Next::Drop
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        let upto_ms = self.timing.clock_ms(&self.reached, cx.now_ms);
        if self.soonest_ms <= upto_ms {
            self.close(upto_ms, 0, cx);
        }
        let gone = self.groups.expire(cx.now_ms, |group| S::is_empty(&group.open));
        self.resting -= gone.len();
    }

    fn due_ms(&self) -> Option<u64> {
        let due_ms = self.timing.due_ms(&self.reached, self.soonest_ms);
        due_ms.into_iter().chain(self.groups.due_ms()).min()
    }

    fn resumed(&mut self, now_ms: u64) {
        self.reached.resumed(now_ms);
    }

    fn keys(&self) -> usize {
        self.groups.len()
    }

    fn save(&self) -> Vec<u8> {
        save(&(&self.reached, self.born, self.groups.save()))
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        let (reached, born, kept): (Reached, u64, Vec<u8>) = load(state)?;
        let mut groups: Keyed<Group<S::Open>> = Keyed::new(self.keys_max, self.keys_idle_ms);
        groups.load(&kept)?;
        if !groups.iter().all(|(_, group)| S::fits(&self.figures.plan, &group.open)) {
            return Err(BadState);
        }
        let open = groups.iter().filter(|(_, group)| !S::is_empty(&group.open));
        self.timetable = open.map(|(key, group)| (group.due_ms, key.clone())).collect();
        self.soonest_ms = self.timetable.first_ms().unwrap_or(u64::MAX);
        self.resting = groups.iter().filter(|(_, group)| S::is_empty(&group.open)).count();
        (self.reached, self.born, self.groups) = (reached, born, groups);
        Ok(())
    }
}
