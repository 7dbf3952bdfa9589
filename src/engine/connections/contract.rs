//! How a reader wants a room served: which events, how many of them, and what happens when it cannot keep up. The session keeps to it, and the edge says what was granted.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;
use smol_str::SmolStr;
use tidegate_actors::{OnFull, Policy};

use crate::engine::rooms::Terms;
use crate::event::encode::write_json_text;
use crate::event::{Event, Lane, RoomKey};
use crate::pipelines::expression::Expression;
use crate::pipelines::field::{Extractor, Field, Paths};
use crate::pipelines::record::Record;

/// The shortest period, in milliseconds.
pub const PERIOD_MIN_MS: u64 = 10;
/// The longest.
pub const PERIOD_MAX_MS: u64 = 24 * 3_600_000;
/// The most kinds that can be asked for.
pub const KINDS_MAX: usize = 64;
/// Of so many last events a filter remembers what it said: all who follow the same room with the same filter ask within moments.
const REMEMBERED: usize = 64;

/// Which of the events a reader gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Every one; with a period at most one for each key in that time.
    #[default]
    Every,
    /// The newest of each key, where it is slow or its period has not passed.
    Latest,
    /// For each key and period one, made of all of them.
    Made(Function),
}

/// What is made of a period's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum Function {
    Mean,
    Min,
    Max,
    Last,
}

impl Mode {
    /// All modes by their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("every", Self::Every),
        ("latest", Self::Latest),
        ("mean", Self::Made(Function::Mean)),
        ("min", Self::Made(Function::Min)),
        ("max", Self::Made(Function::Max)),
        ("last", Self::Made(Function::Last)),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("every", |(name, _)| name)
    }
}

/// What happens when a reader cannot keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum OnSlow {
    Displace,
    CatchUp,
    Latest,
    Disconnect,
}

impl OnSlow {
    /// All of them by their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("displace", Self::Displace),
        ("catch_up", Self::CatchUp),
        ("latest", Self::Latest),
        ("disconnect", Self::Disconnect),
    ];
}

/// How a reader wants a room served.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contract {
    /// Which of the events.
    pub mode: Mode,
    /// Of which field something is made; of all numbers if none.
    pub field: Option<Field>,
    /// At most one event for each key in this time, in milliseconds; 0 for no such limit.
    pub period_ms: u64,
    /// Only events of which this is true.
    pub filter: Option<Arc<Filter>>,
    /// Only these kinds; all if none is named.
    pub kinds: SmallVec<[SmolStr; 2]>,
    /// Only this priority and above.
    pub priority: Option<Lane>,
    /// What happens when it cannot keep up; as the room's namespace says if it does not.
    pub on_slow: Option<OnSlow>,
    /// Whether the reader is a part of the daemon.
    pub internal: bool,
    /// What is critical to it, whatever its publisher said.
    pub urgent: Option<&'static Urgent>,
    /// A role without which it may not read this, whatever rooms it may read.
    pub role: Option<&'static str>,
    /// How many events may wait for it, where that is not as for all.
    pub mailbox_messages: Option<usize>,
}

/// What is critical to a reader: events of some kinds, and all of a room.
#[derive(Debug, PartialEq, Eq)]
pub struct Urgent {
    /// The kinds.
    pub kinds: &'static [&'static str],
    /// The room.
    pub room: &'static str,
}

impl Urgent {
    /// Whether an event is.
    #[must_use]
    pub fn is(&self, event: &Event) -> bool {
        !event.change && (self.kinds.contains(&event.kind.as_str()) || event.room.name().as_str() == self.room)
    }
}

impl Contract {
    /// Whether an event is wanted at all. Changes of a room's state always are: each stands on those before it.
    #[must_use]
    pub fn wants(&self, event: &Arc<Event>) -> bool {
        event.change
            || (self.priority.is_none_or(|priority| event.priority <= priority)
                && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
                && self.filter.as_ref().is_none_or(|filter| filter.passes(event)))
    }

    /// What a reader's mailbox is to do with the room's events.
    #[must_use]
    pub fn terms(&self) -> Terms {
        let conflate = self.mode == Mode::Latest;
        let (internal, urgent) = (self.internal, self.urgent);
        let on_full = match self.on_slow {
            None if !conflate => return Terms { internal, urgent, ..Terms::default() },
            None | Some(OnSlow::Displace | OnSlow::Latest) => OnFull::Displace,
            Some(OnSlow::CatchUp) => OnFull::CatchUp,
            Some(OnSlow::Disconnect) => OnFull::Reject,
        };
        let policy = Policy { on_full, conflate: conflate || self.on_slow == Some(OnSlow::Latest) };
        let disconnect = self.on_slow == Some(OnSlow::Disconnect);
        Terms { policy: Some(policy), disconnect, internal, urgent }
    }

    /// What is granted, as JSON.
    #[must_use]
    pub fn granted(&self, mailbox_messages: usize) -> String {
        let mut out = format!("{{\"mode\":\"{}\"", self.mode.name());
        // Writing into a String does not fail.
        if self.period_ms > 0 {
            let _ = write!(out, ",\"period_ms\":{}", self.period_ms);
        }
        let mut text = |name: &str, value: &str| {
            let _ = write!(out, ",\"{name}\":");
            write_json_text(value, &mut out);
        };
        if let Some(field) = &self.field {
            text("field", &field.to_string());
        }
        if let Some(filter) = &self.filter {
            text("filter", filter.source());
        }
        if let Some(priority) = self.priority {
            text("priority", priority.name());
        }
        if let Some(on_slow) = self.on_slow {
            let name = OnSlow::ALL.iter().find(|(_, other)| *other == on_slow).map_or("", |(name, _)| name);
            text("on_slow", name);
        }
        if !self.kinds.is_empty() {
            out.push_str(",\"kinds\":[");
            for (at, kind) in self.kinds.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                write_json_text(kind, &mut out);
            }
            out.push(']');
        }
        let _ = write!(out, ",\"mailbox_messages\":{mailbox_messages}}}");
        out
    }
}

/// An expression that says which events are wanted. Readers that ask for the same share it, and an event is looked at once for all of them.
#[derive(Debug)]
pub struct Filter {
    source: String,
    condition: Expression,
    extractor: Extractor,
    recent: Mutex<Vec<Option<(RoomKey, u64, bool)>>>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// The filters in use, by their texts.
static FILTERS: LazyLock<Mutex<HashMap<String, Weak<Filter>>>> = LazyLock::new(Mutex::default);

impl Filter {
    /// The filter of this text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(source: &str) -> Result<Arc<Self>, String> {
        if let Some(known) = FILTERS.lock().get(source).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let mut paths = Paths::default();
        let condition = Expression::condition(source, &mut paths)?;
        let (source, extractor) = (source.to_owned(), paths.extractor());
        let fresh =
            Arc::new(Self { source: source.clone(), condition, extractor, recent: Mutex::new(vec![None; REMEMBERED]) });
        let mut filters = FILTERS.lock();
        if filters.len().is_power_of_two() {
            // Now and then those that nobody uses any more go.
            filters.retain(|_, filter| filter.strong_count() > 0);
        }
        filters.insert(source, Arc::downgrade(&fresh));
        Ok(fresh)
    }

    /// Its text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether an event is wanted. One that it cannot be told of, because a field is missing or of another kind, is not.
    #[must_use]
    pub fn passes(&self, event: &Arc<Event>) -> bool {
        let at = usize::try_from(event.seq % REMEMBERED as u64).unwrap_or(0);
        if let Some((room, seq, passes)) = &self.recent.lock()[at]
            && *seq == event.seq
            && *room == event.room
        {
            return *passes;
        }
        let passes = self.condition.test(&Record::of(event, &self.extractor)).unwrap_or(false);
        self.recent.lock()[at] = Some((event.room.clone(), event.seq, passes));
        passes
    }
}
