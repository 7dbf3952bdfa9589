//! Brings the settings together from file, environment and flags, and finds every fault at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::schema::{self, DEFAULT_NAMESPACE};
use super::value::{Kind, Value};

/// Variables beside the settings: what the client commands take, and the file's name.
const OTHER_VARIABLES: &[&str] = &["TIDEGATE_URL", "TIDEGATE_TOKEN", "TIDEGATE_CONFIG"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A settings file.
    File(PathBuf),
    /// An environment variable, by its name.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}: not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the place.
        reason: String,
    },
    /// There is no such setting.
    #[error("{place}: there is no setting {key}{}", near.as_ref().map_or(String::new(), |near| format!("; did you mean {near}?")))]
    Unknown {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// A known key much like it.
        near: Option<String>,
    },
    /// The value is not allowed.
    #[error("{place}: {key} = {value} is not allowed; expected {expected}; the default is {default}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The key.
        key: String,
        /// The value; never that of a secret.
        value: String,
        /// What is allowed.
        expected: String,
        /// The default.
        default: &'static str,
    },
    /// Two values do not go together.
    #[error("{0}")]
    Together(String),
}

/// Every fault that was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<Fault>);

/// Where settings may come from, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A settings file.
    pub file: Option<PathBuf>,
    /// The environment; only names that begin with `TIDEGATE_` are looked at, and those of [`schema::ALIASES`].
    pub environment: Vec<(String, String)>,
    /// `key=value` pairs from the command line.
    pub flags: Vec<(String, String)>,
}

/// All values by key, defaults included; and the keys that somebody has set: in the environment, on the command line, or in a file to something else than the default.
#[derive(Debug, Clone)]
pub(super) struct Values(BTreeMap<String, Value>, BTreeSet<String>);

impl Sources {
    /// Variables that look like ours and are no settings: whoever runs the daemon beside a service of its name has some.
    pub fn passed_over(&self) -> impl Iterator<Item = &str> {
        let names = self.environment.iter().map(|(name, _)| name.as_str());
        names.filter(|name| name.starts_with("TIDEGATE_") && !name.contains("__") && !OTHER_VARIABLES.contains(name))
    }

    /// All values, those at fault as they are by default, and all faults.
    pub(super) fn gather(&self) -> (Values, Vec<Fault>) {
        let mut gathering = Gathering { values: BTreeMap::new(), given: BTreeSet::new(), faults: Vec::new() };
        // A role or a user that nobody has named does not exist.
        for setting in schema::all().filter(|setting| !setting.key.starts_with("auth.") || !setting.key.contains('*')) {
            let default = format!("value = {}", setting.default).parse::<toml::Table>().ok();
            let value = default.and_then(|table| setting.kind.read(table.get("value")?));
            match value {
                Some(value) => {
                    // What a sink does not say is as it stands under the star itself.
                    let own = setting.key.starts_with("sinks.");
                    let key = if own { setting.key.to_owned() } else { setting.key.replace('*', DEFAULT_NAMESPACE) };
                    gathering.values.insert(key, value);
                }
                None => {
                    gathering.faults.push(Fault::Together(format!("the default of {} is not allowed", setting.key)))
                }
            }
        }
        if let Some(path) = &self.file {
            gathering.file(path);
        }
        for (alias, key) in schema::ALIASES {
            for (name, value) in self.environment.iter().filter(|(name, _)| name == alias) {
                let bare = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let is_time = schema::find(key).is_some_and(|setting| matches!(setting.kind, Kind::Time(..)));
                let value = if bare && is_time { format!("{value}ms") } else { value.clone() };
                gathering.text(Place::Environment(name.clone()), key, &value);
            }
        }
        for (name, value) in &self.environment {
            if let Some(rest) = name.strip_prefix("TIDEGATE_").filter(|rest| rest.contains("__")) {
                let key = rest.to_lowercase().replace("__", ".");
                gathering.text(Place::Environment(name.clone()), &key, value);
            }
        }
        for (key, value) in &self.flags {
            gathering.text(Place::Flag, key, value);
        }
        (Values(gathering.values, gathering.given), gathering.faults)
    }
}

struct Gathering {
    values: BTreeMap<String, Value>,
    given: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl Gathering {
    fn file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.faults.push(Fault::Unreadable { path: path.to_owned(), reason: error.to_string() });
            }
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.table(path, "", &table),
            Err(error) => {
                // Not the line itself: a secret may stand in it.
                let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                let reason = format!("line {line}: {}", error.message());
                self.faults.push(Fault::Syntax { path: path.to_owned(), reason });
            }
        }
    }

    fn table(&mut self, path: &Path, prefix: &str, table: &toml::Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(inner) if schema::find(&key).is_none() => self.table(path, &key, inner),
                _ => {
                    let read = schema::find(&key).and_then(|setting| setting.kind.read(value));
                    self.put(Place::File(path.to_owned()), &key, &value.to_string(), read);
                }
            }
        }
    }

    fn text(&mut self, place: Place, key: &str, text: &str) {
        let read = schema::find(key).and_then(|setting| setting.kind.parse(text));
        self.put(place, key, &format!("\"{text}\""), read);
    }

    fn put(&mut self, place: Place, key: &str, shown: &str, read: Option<Value>) {
        match (schema::find(key), read) {
            (None, _) => {
                self.faults.push(Fault::Unknown { place, key: key.to_owned(), near: schema::nearest(key) });
            }
            (Some(_), Some(value)) => {
                // A file with all settings as they are by default says nothing of any.
                if !matches!(place, Place::File(_)) || self.values.get(key) != Some(&value) {
                    self.given.insert(key.to_owned());
                }
                self.values.insert(key.to_owned(), value);
            }
            (Some(setting), None) => {
                // A secret does not belong into a message, not even a wrong one.
                let value = if schema::is_secret(key) { "(not shown)".to_owned() } else { shown.to_owned() };
                let (expected, default) = (setting.kind.to_string(), setting.default);
                self.faults.push(Fault::Value { place, key: key.to_owned(), value, expected, default });
            }
        }
    }
}

impl Values {
    /// The keys whose values are not the same in both.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        keys.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect()
    }

    /// These values, with those of `other` for some keys; a key that `other` does not have is taken away.
    pub(super) fn with(&self, other: &Self, keys: &[String]) -> Self {
        let (mut values, mut given) = (self.0.clone(), self.1.clone());
        for key in keys {
            if other.1.contains(key) {
                given.insert(key.clone())
            } else {
                given.remove(key)
            };
            match other.0.get(key) {
                Some(value) => values.insert(key.clone(), value.clone()),
                None => values.remove(key),
            };
        }
        Self(values, given)
    }

    /// Whether somebody has set it, also to what it is by default.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.1.contains(key)
    }

    /// The namespaces that have settings of their own.
    pub(super) fn namespaces(&self) -> Vec<String> {
        self.names("rooms.")
    }

    /// The names in a family of settings, such as the roles in `auth.roles.`.
    pub(super) fn names(&self, family: &str) -> Vec<String> {
        let keys = self.0.keys().filter_map(|key| key.strip_prefix(family)?.rsplit_once('.'));
        let mut names: Vec<String> = keys.map(|(name, _)| name.to_owned()).collect();
        names.dedup();
        names
    }

    /// A list that need not be given.
    pub(super) fn list_if_given(&self, key: &str) -> Option<Vec<String>> {
        matches!(self.0.get(key), Some(Value::List(_))).then(|| self.list(key))
    }

    /// Text that need not be given.
    pub(super) fn text_if_given(&self, key: &str) -> Option<String> {
        match self.0.get(key) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    /// The value of a key; of a namespace that does not say, the default namespace's; of a sink, that of all sinks. The table holds every key asked for, and a test asks for all of them.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).or_else(|| {
            let (group, name) = key.rsplit_once('.')?;
            if group.starts_with("sinks.") {
                return self.0.get(&format!("sinks.*.{name}"));
            }
            group.strip_prefix("rooms.")?;
            self.0.get(&format!("rooms.{DEFAULT_NAMESPACE}.{name}"))
        })
    }

    pub(super) fn text(&self, key: &str) -> String {
        match self.get(key) {
            Some(Value::Text(text)) => text.clone(),
            other => unreachable_value(key, other),
        }
    }

    /// A number or a time as a pipeline's file has it.
    pub(super) fn written(&self, key: &str) -> String {
        match self.get(key) {
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Time(time)) => format!("{}ms", time.as_millis()),
            other => unreachable_value(key, other),
        }
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            Some(Value::Flag(flag)) => *flag,
            other => unreachable_value(key, other),
        }
    }

    pub(super) fn number(&self, key: &str) -> u64 {
        match self.get(key) {
            Some(Value::Number(number)) => *number,
            other => unreachable_value(key, other),
        }
    }

    /// A count or size that is used as a length in memory.
    pub(super) fn length(&self, key: &str) -> usize {
        usize::try_from(self.number(key)).unwrap_or(usize::MAX)
    }

    pub(super) fn time(&self, key: &str) -> std::time::Duration {
        match self.get(key) {
            Some(Value::Time(time)) => *time,
            other => unreachable_value(key, other),
        }
    }

    pub(super) fn list(&self, key: &str) -> Vec<String> {
        match self.get(key) {
            Some(Value::List(items)) => items.clone(),
            other => unreachable_value(key, other),
        }
    }
}

/// The code asked for a key that the table does not have in this kind: a mistake in the code, which the test of the defaults finds.
fn unreachable_value(key: &str, value: Option<&Value>) -> ! {
    unreachable!("setting {key} is asked for in another kind than the table says: {value:?}")
}
