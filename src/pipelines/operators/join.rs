//! `join`: puts into an event what another room says about the same thing: a table, fed by the events of that room, in which every event is looked up.
//!
//! Of each key the table has the data of the room's last event about it; data that is `null` takes the key away. Where the other room keeps a state, its events are merge patches
//! (RFC 7396) of its whole table and are applied as such; `table_key` does not matter then. Rooms that a pattern means together share one table, in which the latest counts.
//!
//! An event is looked up when it comes, against what was known by then, however late it is. What is said later changes no event that has gone on. `missing` says what becomes of one that
//! nothing is known about. Of what is found, fields that are not there are left out. An event without the field by which it is looked up, and one whose data is no object and should be
//! given something, are dead letters; so are events of the other room without `table_key`, those over `keys_max`, and patches of a table that are no objects.

use serde_json::Value;

use super::place::{Place, no_object};
use crate::event::Pattern;
use crate::pipelines::by::By;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::merge;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

#[derive(Debug)]
struct Join {
    with: Pattern,
    on: By,
    table_key: By,
    /// Where all that is found goes.
    whole: Option<Place>,
    /// Where parts of it go: the place in the event, and the place in what is found.
    parts: Vec<(Place, Place)>,
    missing: Missing,
    /// Values as JSON: they are parsed when they are looked up, and weigh a fraction until then.
    table: Keyed<String>,
}

/// What becomes of an event that nothing is known about.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Pass,
    Drop,
    DeadLetter,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let with = Pattern::parse(&section.text("with"));
    if let Err(error) = &with
        && section.has("with")
    {
        section.fault("with", error);
    }
    let (on, table_key) = (section.by("on"), section.by("table_key"));
    let whole = section.text_if_given("as").map(|name| Place::parse(&name));
    let whole = whole.and_then(|place| place.map_err(|why| section.fault("as", why)).ok());
    let parts = parts(section, whole.as_ref());
    if !section.has("as") && parts.is_empty() {
        section.fault(
            "fields",
            "nothing would be put into an event; expected as = \"a name\", or fields = { name = \"part\" }",
        );
    }
    let missing = match section.choice("missing", &["pass", "drop", "dead_letter"], Some("pass")) {
        "drop" => Missing::Drop,
        "dead_letter" => Missing::DeadLetter,
        _ => Missing::Pass,
    };
    let keys_max = section.count_or("keys_max", 1..=10_000_000, 100_000);
    let keys_max = usize::try_from(keys_max).unwrap_or(usize::MAX);
    // What a table says holds until it says otherwise.
    let keys_idle = section.time_or("keys_idle", 0);
    Some(Box::new(Join {
        with: with.ok()?,
        on,
        table_key,
        whole,
        parts,
        missing,
        table: Keyed::new(keys_max, keys_idle),
    }))
}

fn parts(section: &mut Section<'_, '_>, whole: Option<&Place>) -> Vec<(Place, Place)> {
    let mut parts: Vec<(Place, Place)> = Vec::new();
    for (name, part) in section.named_texts("fields") {
        let (place, part) = match (Place::parse(&name), Place::parse(&part)) {
            (Ok(place), Ok(part)) => (place, part),
            (Err(why), _) | (_, Err(why)) => {
                section.fault("fields", why);
                continue;
            }
        };
        let beside = parts.iter().map(|(other, _)| other).chain(whole).find(|other| other.overlaps(&place));
        match beside {
            Some(other) => section.fault("fields", format!("{place} cannot be put in beside {other}")),
            None => parts.push((place, part)),
        }
    }
    parts
}

impl Join {
    /// The event's data with what was found in it, or what is in the way.
    fn enrich(&self, mut data: Value, found: &Value) -> Result<Value, (String, Why)> {
        for (place, part) in &self.parts {
            if let Some(part) = part.get(found) {
                place.put(&mut data, part.clone())?;
            }
        }
        if let Some(place) = &self.whole {
            place.put(&mut data, found.clone())?;
        }
        Ok(data)
    }

    fn enter(&mut self, key: &str, value: &Value, record: &Record, cx: &mut Context<'_>) {
        if value.is_null() {
            self.table.remove(key);
            return;
        }
        let Some(json) = self.table.entry(key, cx.now_ms, String::new) else {
            cx.reject(record, "key", Why::TooManyKeys);
            return;
        };
        *json = value.to_string();
    }

    /// Applies a merge patch of the whole table.
    fn change(&mut self, record: &Record, cx: &mut Context<'_>) {
        let Value::Object(changes) = record.value() else {
            cx.reject(record, "data", no_object(&record.value()));
            return;
        };
        for (key, patch) in &changes {
            let mut value = self.table.get(key).map(|json| parse(json)).unwrap_or_default();
            merge::apply(&mut value, patch);
            self.enter(key, &value, record, cx);
        }
    }
}

fn parse(json: &str) -> Value {
    // We have written it ourselves.
    crate::pipelines::json::parse(json.as_bytes())
}

impl Operator for Join {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let key = match self.on.of(record) {
            Ok(key) => key,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        let Some(json) = self.table.get(&key) else {
            return match self.missing {
                Missing::Pass => Next::Pass,
                Missing::Drop => Next::Drop,
                Missing::DeadLetter => {
                    cx.reject(record, "with", Why::Other(format!("{} has said nothing about {key:?}", self.with)))
                }
            };
        };
        match self.enrich(record.value(), &parse(json)) {
            Ok(data) => {
                record.set_value(data);
                Next::Pass
            }
            Err((field, why)) => cx.reject(record, field, why),
        }
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.table.expire(cx.now_ms, |_| true);
    }

    fn due_ms(&self) -> Option<u64> {
        self.table.due_ms()
    }

    fn beside(&self) -> Option<&Pattern> {
        Some(&self.with)
    }

    fn event_beside(&mut self, record: &Record, cx: &mut Context<'_>) {
        if record.change {
            self.change(record, cx);
            return;
        }
        match self.table_key.of(record) {
            Ok(key) => self.enter(&key, &record.value(), record, cx),
            Err(field) => {
                cx.reject_field(record, field, "text, a number or a flag");
            }
        }
    }

    fn keys(&self) -> usize {
        self.table.len()
    }

    fn save(&self) -> Vec<u8> {
        self.table.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.table.load(state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
