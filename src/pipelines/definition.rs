//! A pipeline as its file says it: where its events come from, its steps, where they go. Read whole, with every fault at its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::chain::{Chain, Step};
use super::operators;
use super::section::Section;
use super::source::{Fault, Source};
use super::target::Target;
use super::template::overlap;
use super::values::{self, Values};
use crate::event::{Pattern, RoomName};
use toml::de::DeTable;

/// How often a pipeline's rejected events are reported, in milliseconds, if it does not say.
const REPORT_MS: u64 = 60_000;
/// The longest kind, in characters.
const KIND_MAX: usize = 100;
/// Rooms that sources publish to.
const SOURCES: [(&str, &str); 2] = [("host", "host:*"), ("generator", "demo:*")];

/// A pipeline as its files say it: what it takes to read it again, also when they have changed since.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Written {
    /// Its name.
    pub name: String,
    /// Its file, as it was named.
    pub file: String,
    /// The file's text.
    pub text: String,
    /// The files that it names, by their names.
    pub files: BTreeMap<String, String>,
}

/// A pipeline.
#[derive(Debug)]
pub struct Definition {
    /// Its name: that of its file.
    pub name: String,
    /// Its file, as it was named.
    pub file: String,
    /// The file's text.
    pub text: String,
    /// The files that it names, by their names.
    pub files: BTreeMap<String, String>,
    /// The rooms it works on.
    pub from: Vec<Pattern>,
    /// Of their events only those of these kinds; all where there is none.
    pub kinds: Vec<SmolStr>,
    /// And not those of these.
    pub except_kinds: Vec<SmolStr>,
    /// Whether it begins, the first time, with what the rooms hold already.
    pub from_beginning: bool,
    /// Whether it runs.
    pub enabled: bool,
    /// Where events go that cannot be worked on.
    pub dead_letter: Option<RoomName>,
    /// How often they are reported, in milliseconds.
    pub report_ms: u64,
    /// Where its events can go, and as what, as far as that can be said.
    pub to: Vec<Reach>,
    /// Rooms whose state it keeps, as far as that can be said.
    pub states: Vec<Pattern>,
    /// Rooms that its steps look into beside.
    pub beside: Vec<Pattern>,
    /// Its steps and outputs.
    pub chain: Chain,
}

/// Where events of a pipeline can go, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The rooms.
    pub rooms: Pattern,
    /// Their kind, where it is always the same.
    pub kind: Option<SmolStr>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rooms.fmt(f)
    }
}

impl Definition {
    /// Whether it works on events of this kind; those of others go by.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        (self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind))
            && !self.except_kinds.iter().any(|unwanted| unwanted == kind)
    }

    /// Whether it may get what another pipeline sends there.
    #[must_use]
    pub fn takes(&self, reach: &Reach) -> bool {
        let meets = |patterns: &[Pattern]| patterns.iter().any(|pattern| overlap(&reach.rooms, pattern));
        // What a step looks up beside is of any kind.
        meets(&self.beside) || (reach.kind.as_deref().is_none_or(|kind| self.wants(kind)) && meets(&self.from))
    }

    /// Reads a pipeline's file. `directory` is where files that it names are looked for.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn read(name: &str, file: &str, text: &str, directory: Option<&Path>) -> Result<Self, Vec<Fault>> {
        Self::read_with(name, file, text, directory, None)
    }

    /// The same, with the values of settings that it names; else they are what the file says.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn read_with(
        name: &str,
        file: &str,
        text: &str,
        directory: Option<&Path>,
        values: Option<&Values>,
    ) -> Result<Self, Vec<Fault>> {
        match values::fill(text, values) {
            Ok(text) => Self::from_source(Source::new(file, &text, directory), name, &text),
            Err((at, key)) => {
                let source = Source::new(file, text, directory);
                source.fault(&(at..at), format!("{key} is no setting that a pipeline may name"));
                Err(source.into_faults())
            }
        }
    }

    /// Reads a pipeline that was read before, by what its files said then.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn again(written: &Written) -> Result<Self, Vec<Fault>> {
        let source = Source::new(&written.file, &written.text, None);
        source.know(&written.files);
        Self::from_source(source, &written.name, &written.text)
    }

    /// What its files say.
    #[must_use]
    pub fn written(&self) -> Written {
        let Self { name, file, text, files, .. } = self;
        Written { name: name.clone(), file: file.clone(), text: text.clone(), files: files.clone() }
    }

    fn from_source(source: Source<'_>, name: &str, text: &str) -> Result<Self, Vec<Fault>> {
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                source.fault(&error.span().unwrap_or(0..0), error.message());
                return Err(source.into_faults());
            }
        };
        // The same text once more without places: what a step's settings are, whatever its comments and spaces.
        let plain: toml::Table = toml::from_str(text).unwrap_or_default();
        let definition = read(&source, &table, &plain, name, text);
        match definition {
            Some(definition) if !source.is_faulty() => Ok(definition),
            _ => Err(source.into_faults()),
        }
    }
}

fn read(
    source: &Source<'_>,
    table: &toml::Spanned<DeTable<'_>>,
    plain: &toml::Table,
    name: &str,
    text: &str,
) -> Option<Definition> {
    let mut file = Section::new(source, table.get_ref(), 0..0, "the file");
    let mut head = match file.section("pipeline") {
        Some(head) => head,
        None => {
            if !file.has("pipeline") {
                source.fault(&(0..0), "the table [pipeline] is missing, with from = \"a room\"");
            }
            return None;
        }
    };
    head.rename("pipeline");
    let mut from = head.patterns("from");
    from.extend(sources(&mut head));
    if from.is_empty() && !head.has("from") && !head.has("sources") {
        head.fault("from", "is missing; expected rooms and patterns, such as [\"host:cpu\", \"well:*\"]");
    }
    if from.is_empty() && head.has("from") && !source.is_faulty() {
        head.fault("from", "expected at least one room or pattern");
    }
    let (kinds, except_kinds) = (kinds(&mut head, "kinds"), kinds(&mut head, "except_kinds"));
    let from_beginning = head.choice("start", &["now", "beginning"], Some("now")) == "beginning";
    let enabled = head.flag("enabled", true);
    let dead_letter = head.room_if_given("dead_letter");
    let dead_letter = dead_letter.unwrap_or_else(|| RoomName::parse(&format!("dead-letter:{name}")).ok());
    let report_ms = head.time_or("report_every", REPORT_MS);
    // Only for people.
    let _ = head.text_if_given("description");
    head.finish();
    // A dead letter has its event's kind.
    let mut to: Vec<Reach> =
        dead_letter.iter().map(|room| Reach { rooms: Pattern::Room(room.clone()), kind: None }).collect();
    let mut steps = Vec::new();
    let plain = plain.get("step").and_then(toml::Value::as_array);
    for (at, mut section) in file.sections("step").into_iter().enumerate() {
        let settings = plain.and_then(|steps| steps.get(at)).map(ToString::to_string).unwrap_or_default();
        let known = section.text_if_given("op").is_none_or(|op| operators::names().any(|name| name == op));
        if let Some((op, operator)) = operators::read(&mut section) {
            to.extend(operator.targets().iter().filter_map(|target| target.reach()));
            steps.push(Step { op, settings, operator });
        }
        // Of an operator that there is none of nobody knows the settings.
        if known {
            section.finish();
        }
    }
    let mut outputs = Vec::new();
    for (number, mut section) in file.sections("output").into_iter().enumerate() {
        outputs.extend(Target::read(&mut section, number).map(Arc::new));
        section.finish();
    }
    let routed = steps.iter().any(|step| !step.operator.targets().is_empty());
    if outputs.is_empty() && !routed && !source.is_faulty() {
        source.fault(&(0..0), "there is no [[output]]: nothing would come of this pipeline");
    }
    to.extend(outputs.iter().filter_map(|target| target.reach()));
    let targets = steps.iter().flat_map(|step| step.operator.targets()).chain(&outputs);
    let states =
        targets.filter(|target| target.state.is_some()).filter_map(|target| target.room.rooms().ok()).collect();
    let beside = steps.iter().filter_map(|step| step.operator.beside()).cloned().collect();
    file.finish();
    let chain = Chain::new(source.paths().extractor(), steps, outputs);
    Some(Definition {
        name: name.to_owned(),
        file: source.file().to_owned(),
        text: text.to_owned(),
        files: source.files(),
        from,
        kinds,
        except_kinds,
        from_beginning,
        enabled,
        dead_letter,
        report_ms,
        to,
        states,
        beside,
        chain,
    })
}

/// The kinds that it works on, or those that it does not.
fn kinds(head: &mut Section<'_, '_>, setting: &'static str) -> Vec<SmolStr> {
    let kinds: Vec<SmolStr> = head.texts(setting).into_iter().map(SmolStr::from).collect();
    let proper = kinds.iter().all(|kind| (1..=KIND_MAX).contains(&kind.chars().count()));
    if head.has(setting) && (kinds.is_empty() || !proper) {
        head.fault(setting, format!("expected at least one kind, each of 1 to {KIND_MAX} characters"));
    }
    kinds
}

/// Rooms of sources that are named as such.
fn sources(head: &mut Section<'_, '_>) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for name in head.texts("sources") {
        match SOURCES.iter().find(|(known, _)| *known == name) {
            Some((_, rooms)) => patterns.extend(Pattern::parse(rooms).ok()),
            None => head.fault(
                "sources",
                format!("there is no source {name:?} with rooms of its own; there are: host, generator"),
            ),
        }
    }
    patterns
}
