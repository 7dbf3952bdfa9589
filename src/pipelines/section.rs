//! Reading a pipeline's file: one table of it at a time, every fault noted with its line and column, and what nobody asked for is a fault too.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::by::By;
use super::expression::Expression;
use super::field::{Field, Paths};
use super::source::Source;
use super::template::Template;
use crate::event::{Lane, Pattern, RoomName, parse_priority};
use crate::settings::value::{Kind, Value as Setting, parse_time};

/// One table of the file. What is asked for and not there, or wrong, is noted as a fault, and something harmless is given in its place: the file is not used then.
#[derive(Debug)]
pub struct Section<'s, 't> {
    source: &'s Source<'t>,
    table: &'s DeTable<'t>,
    span: Range<usize>,
    /// How it is called in messages, such as `step 2 (window)`.
    name: String,
    used: BTreeSet<&'static str>,
}

impl<'s, 't> Section<'s, 't> {
    /// A table, and how it is called in messages.
    #[must_use]
    pub fn new(source: &'s Source<'t>, table: &'s DeTable<'t>, span: Range<usize>, name: impl Into<String>) -> Self {
        Self { source, table, span, name: name.into(), used: BTreeSet::new() }
    }

    /// The file it is in.
    #[must_use]
    pub fn source(&self) -> &'s Source<'t> {
        self.source
    }

    /// How it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls it otherwise from now on.
    pub fn rename(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    /// Notes a fault about one of its settings, at the setting's place.
    pub fn fault(&self, key: &str, message: impl fmt::Display) {
        let span = self.table.get(key).map_or(self.span.clone(), Spanned::span);
        self.source.fault(&span, format!("{}: {key}: {message}", self.name));
    }

    /// A setting's value as it stands there.
    pub fn value(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'t>>> {
        self.used.insert(key);
        self.table.get(key)
    }

    /// Whether a setting is there.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn missing(&self, key: &str, expected: &str) {
        self.source.fault(&self.span, format!("{}: {key} is missing; expected {expected}", self.name));
    }

    /// Reads a setting by `read`, which says `None` for what is not as `expected`. `None` if it is not there or wrong; wrong is a fault.
    fn given<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&'s DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let found = read(value.get_ref());
        if found.is_none() {
            self.fault(key, format!("expected {expected}"));
        }
        found
    }

    fn needed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&'s DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key, expected);
        }
        self.given(key, expected, read)
    }

    /// Text that must be there.
    pub fn text(&mut self, key: &'static str) -> String {
        self.needed(key, "text", |value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Text that may be there.
    pub fn text_if_given(&mut self, key: &'static str) -> Option<String> {
        self.given(key, "text", |value| value.as_str().map(str::to_owned))
    }

    /// One of several words.
    pub fn choice(&mut self, key: &'static str, words: &[&'static str], default: Option<&'static str>) -> &'static str {
        let expected = format!("one of {}", words.join(", "));
        let read = |value: &DeValue<'_>| words.iter().copied().find(|word| value.as_str() == Some(word));
        let found =
            if default.is_some() { self.given(key, &expected, read) } else { self.needed(key, &expected, read) };
        found.or(default).or(words.first().copied()).unwrap_or_default()
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.given(key, "true or false", DeValue::as_bool).unwrap_or(default)
    }

    /// A whole number in this range that must be there.
    pub fn count(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> u64 {
        let expected = whole(&range);
        self.needed(key, &expected, |value| as_count(value, &range)).unwrap_or(*range.start())
    }

    /// A whole number in this range, or the default.
    pub fn count_or(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>, default: u64) -> u64 {
        self.count_if_given(key, range).unwrap_or(default)
    }

    /// A whole number in this range that may be there.
    pub fn count_if_given(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let expected = whole(&range);
        self.given(key, &expected, |value| as_count(value, &range))
    }

    /// A size in this range of bytes, or the default: `"90KB"`, `"1MiB"`, or a plain number of bytes.
    pub fn size_or(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>, default: u64) -> usize {
        let kind = Kind::Size(*range.start(), *range.end());
        let read = |value: &DeValue<'_>| match value {
            DeValue::Integer(_) => as_count(value, &range),
            value => match kind.parse(value.as_str()?)? {
                Setting::Number(bytes) => Some(bytes),
                _ => None,
            },
        };
        usize::try_from(self.given(key, &kind.to_string(), read).unwrap_or(default)).unwrap_or(usize::MAX)
    }

    /// A number that may be there.
    pub fn number_if_given(&mut self, key: &'static str) -> Option<f64> {
        self.given(key, "a number", as_number)
    }

    /// A number in this range, or the default.
    pub fn number_or(&mut self, key: &'static str, range: std::ops::RangeInclusive<f64>, default: f64) -> f64 {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.given(key, &expected, |value| as_number(value).filter(|number| range.contains(number))).unwrap_or(default)
    }

    /// A time that must be there, in milliseconds; at least 1.
    pub fn time(&mut self, key: &'static str) -> u64 {
        self.needed(key, TIME, as_time).unwrap_or(1)
    }

    /// A time, in milliseconds, or the default. `"0s"` is 0.
    pub fn time_or(&mut self, key: &'static str, default: u64) -> u64 {
        self.time_if_given(key).unwrap_or(default)
    }

    /// A time that may be there, in milliseconds.
    pub fn time_if_given(&mut self, key: &'static str) -> Option<u64> {
        self.given(key, TIME, |value| if value.as_str() == Some("0s") { Some(0) } else { as_time(value) })
    }

    /// A list of texts that may be there; one text is a list of one.
    pub fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.given(key, "text, or a list of texts", as_texts).unwrap_or_default()
    }

    /// A list of texts that must be there, with at least one in it.
    pub fn some_texts(&mut self, key: &'static str) -> Vec<String> {
        let read = |value: &'s DeValue<'t>| as_texts(value).filter(|texts| !texts.is_empty());
        self.needed(key, "text, or a list of texts", read).unwrap_or_default()
    }

    /// A field that must be there.
    pub fn field(&mut self, key: &'static str) -> Field {
        if !self.has(key) {
            self.missing(key, "a field's name, such as \"usage\"");
        }
        self.field_if_given(key).unwrap_or(Field::Key)
    }

    /// A field that may be there.
    pub fn field_if_given(&mut self, key: &'static str) -> Option<Field> {
        let text = self.text_if_given(key)?;
        self.parse(key, |paths| paths.field(&text))
    }

    /// What events are told apart by: a field or a list of them; the event's key if it does not say.
    pub fn by(&mut self, key: &'static str) -> By {
        let texts = self.texts(key);
        let fields: SmallVec<[Field; 1]> =
            texts.iter().filter_map(|text| self.parse(key, |paths| paths.field(text))).collect();
        if fields.is_empty() { By::event_key() } else { By(fields) }
    }

    /// An expression that may be there.
    pub fn expression_if_given(&mut self, key: &'static str) -> Option<Expression> {
        let text = self.text_if_given(key)?;
        self.parse(key, |paths| Expression::compile(&text, paths))
    }

    /// An expression that must be there, true or false of an event.
    pub fn condition(&mut self, key: &'static str) -> Option<Expression> {
        if !self.has(key) {
            self.missing(key, "an expression, such as \"data.usage > 90.0\"");
        }
        self.condition_if_given(key)
    }

    /// An expression that may be there, true or false of an event.
    pub fn condition_if_given(&mut self, key: &'static str) -> Option<Expression> {
        let text = self.text_if_given(key)?;
        self.parse(key, |paths| Expression::condition(&text, paths))
    }

    /// Expressions by name, in the order of their names: `set = { total = "data.a + data.b" }`.
    pub fn expressions(&mut self, key: &'static str) -> Vec<(String, Expression)> {
        let named = self.named_texts(key);
        named
            .into_iter()
            .filter_map(|(name, text)| Some((name, self.parse(key, |paths| Expression::compile(&text, paths))?)))
            .collect()
    }

    /// Texts by name, in the order of their names.
    pub fn named_texts(&mut self, key: &'static str) -> Vec<(String, String)> {
        let read = |value: &'s DeValue<'t>| {
            let table = value.as_table()?;
            let pairs = table
                .iter()
                .map(|(name, value)| Some((name.get_ref().to_string(), value.get_ref().as_str()?.to_owned())));
            pairs.collect::<Option<Vec<_>>>()
        };
        self.given(key, "a table of texts, such as { name = \"text\" }", read).unwrap_or_default()
    }

    /// Lists of texts by field, in the order of the fields' names; one text is a list of one: `fields = { usage = ["mean", "max"], latency = "p95" }`.
    pub fn named_lists(&mut self, key: &'static str) -> Vec<(Field, Vec<String>)> {
        let read = |value: &'s DeValue<'t>| {
            let pairs = value.as_table()?.iter();
            let pairs = pairs.map(|(name, texts)| Some((name.get_ref().to_string(), as_texts(texts.get_ref())?)));
            pairs.collect::<Option<Vec<_>>>()
        };
        let expected = "a table of lists, such as { usage = [\"mean\", \"max\"], \"disk.free\" = \"min\" }";
        let named = self.given(key, expected, read).unwrap_or_default();
        named
            .into_iter()
            .filter_map(|(name, texts)| Some((self.parse(key, |paths| paths.field(&name))?, texts)))
            .collect()
    }

    /// A template that must be there.
    pub fn template(&mut self, key: &'static str) -> Option<Template> {
        if !self.has(key) {
            self.missing(key, "text, with fields in braces, such as \"well:{well_id}\"");
        }
        self.template_if_given(key)
    }

    /// A template that may be there.
    pub fn template_if_given(&mut self, key: &'static str) -> Option<Template> {
        let text = self.text_if_given(key)?;
        self.parse(key, |paths| Template::parse(&text, paths))
    }

    /// A priority that may be there.
    pub fn priority_if_given(&mut self, key: &'static str) -> Option<Lane> {
        self.given(key, "critical, high, normal or low", |value| parse_priority(value.as_str()?))
    }

    /// A room's name that may be there; the empty text is none.
    pub fn room_if_given(&mut self, key: &'static str) -> Option<Option<RoomName>> {
        let text = self.text_if_given(key)?;
        if text.is_empty() {
            return Some(None);
        }
        match RoomName::parse(&text) {
            Ok(room) => Some(Some(room)),
            Err(error) => {
                self.fault(key, error);
                None
            }
        }
    }

    /// Rooms and patterns.
    pub fn patterns(&mut self, key: &'static str) -> Vec<Pattern> {
        let texts = self.texts(key);
        let mut patterns = Vec::new();
        for text in texts {
            match Pattern::parse(&text) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.fault(key, format!("{text:?}: {error}")),
            }
        }
        patterns
    }

    /// The limits that every operator with keys has: `keys_max` (100,000) and `keys_idle` (24 h, in milliseconds).
    pub fn key_limits(&mut self) -> (usize, u64) {
        let keys_max = self.count_or("keys_max", 1..=10_000_000, 100_000);
        (usize::try_from(keys_max).unwrap_or(usize::MAX), self.time_or("keys_idle", 24 * 3_600_000))
    }

    /// The tables of a list of tables, each called `{key} N`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'s, 't>> {
        let expected = format!("tables, each begun with [[{key}]]");
        let source = self.source;
        let tables = self.given(key, &expected, |value| {
            let items = value.as_array()?;
            items.iter().map(|item| Some((item.get_ref().as_table()?, item.span()))).collect::<Option<Vec<_>>>()
        });
        let tables = tables.unwrap_or_default().into_iter().enumerate();
        tables.map(|(at, (table, span))| Section::new(source, table, span, format!("{key} {}", at + 1))).collect()
    }

    /// A table inside, if there is one.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'s, 't>> {
        let (source, name) = (self.source, key.to_owned());
        let span = self.value(key)?.span();
        let table = self.given(key, "a table", DeValue::as_table)?;
        Some(Section::new(source, table, span, name))
    }

    /// A file that a setting names, beside the pipeline's own.
    pub fn file(&mut self, key: &'static str) -> Option<String> {
        let name = self.text_if_given(key)?;
        if let Some(known) = self.source.files.borrow().get(&name) {
            return Some(known.clone());
        }
        let Some(directory) = &self.source.directory else {
            self.fault(key, "a pipeline that is in no directory can name no file");
            return None;
        };
        match std::fs::read_to_string(directory.join(&name)) {
            Ok(text) => {
                self.source.files.borrow_mut().insert(name, text.clone());
                Some(text)
            }
            Err(error) => {
                self.fault(key, format!("{}: {error}", directory.join(&name).display()));
                None
            }
        }
    }

    fn parse<T>(&self, key: &str, read: impl FnOnce(&mut Paths) -> Result<T, String>) -> Option<T> {
        let read = read(&mut self.source.paths_mut());
        read.map_err(|why| self.fault(key, why)).ok()
    }

    /// Notes what was there and nobody asked for.
    pub fn finish(self) {
        for (key, _) in self.table.iter().filter(|(key, _)| !self.used.contains(&**key.get_ref())) {
            let name = key.get_ref();
            let near = self
                .used
                .iter()
                .filter(|used| strsim::damerau_levenshtein(used, name) <= 2)
                .min_by_key(|used| strsim::damerau_levenshtein(used, name));
            let hint = match near {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there are: {}", self.used.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.source.fault(&key.span(), format!("{}: there is no setting {name}; {hint}", self.name));
        }
    }
}

const TIME: &str = "a time such as \"500ms\", \"10s\", \"5m\", \"24h\"";

fn whole(range: &std::ops::RangeInclusive<u64>) -> String {
    match range.end() {
        &u64::MAX => format!("a whole number, at least {}", range.start()),
        end => format!("a whole number from {} to {end}", range.start()),
    }
}

fn as_count(value: &DeValue<'_>, range: &std::ops::RangeInclusive<u64>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| range.contains(number))
}

fn as_number(value: &DeValue<'_>) -> Option<f64> {
    let text = match value {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
        DeValue::Float(float) => float.as_str(),
        _ => return None,
    };
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn as_time(value: &DeValue<'_>) -> Option<u64> {
    let ms = parse_time(value.as_str()?)?.as_millis();
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

fn as_texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.to_string()]),
        DeValue::Array(items) => items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
