//! What an expression computes with: values borrowed from the event, or from the expression, where they can be, so that flags, numbers and given text cost no allocation. What was made
//! is counted, not copied.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

use serde_json::Value as Json;

use crate::pipelines::field::step_into;
use crate::pipelines::record::Got;

/// A kind of value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Flag,
    Number,
    Text,
    List,
    Object,
}

impl Kind {
    /// As the function `type` says it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag => "flag",
            Self::Number => "number",
            Self::Text => "text",
            Self::List => "list",
            Self::Object => "object",
        }
    }

    /// As messages say it, and [`Got::type_name`].
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag => "a flag",
            Self::Number => "a number",
            Self::Text => "text",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

/// What an operand must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wants {
    pub(super) kinds: &'static [Kind],
    pub(super) words: &'static str,
}

const fn wants(kinds: &'static [Kind], words: &'static str) -> Wants {
    Wants { kinds, words }
}

pub(super) const FLAG: Wants = wants(&[Kind::Flag], "a flag");
pub(super) const NUMBER: Wants = wants(&[Kind::Number], "a number");
pub(super) const TEXT: Wants = wants(&[Kind::Text], "text");
pub(super) const TREE: Wants = wants(&[Kind::List, Kind::Object], "a list or an object");
/// What has an order.
pub(super) const ORDERED: Wants = wants(&[Kind::Number, Kind::Text], "a number or text");
/// What can be added.
pub(super) const ADDED: Wants = wants(&[Kind::Number, Kind::Text, Kind::List], "a number, text or a list");
/// What has a size, and what something can be in.
pub(super) const SIZED: Wants = wants(&[Kind::Text, Kind::List, Kind::Object], "text, a list or an object");
/// What `[ ]` takes.
pub(super) const PLACE: Wants = wants(&[Kind::Text, Kind::Number], "text or a number");
/// What `min` and `max` take.
pub(super) const NUMBERS: Wants = wants(&[Kind::Number, Kind::List], "a number or a list of numbers");
pub(super) const NUMERIC: Wants = wants(&[Kind::Number, Kind::Text], "a number, or text that is one");
pub(super) const FLAGLIKE: Wants = wants(&[Kind::Flag, Kind::Text], "a flag, or text that is one");
pub(super) const SCALAR: Wants = wants(&[Kind::Text, Kind::Number, Kind::Flag], "text, a number or a flag");
pub(super) const ANY: Wants =
    wants(&[Kind::Null, Kind::Flag, Kind::Number, Kind::Text, Kind::List, Kind::Object], "anything");

/// Text.
#[derive(Debug, Clone)]
pub(super) enum Text<'a> {
    /// It stands in the event or in the expression.
    Given(&'a str),
    /// It was made.
    Made(Rc<str>),
}

impl Text<'_> {
    pub(super) fn made(text: &str) -> Self {
        Self::Made(Rc::from(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Given(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Null,
    Flag(bool),
    Number(f64),
    Text(Text<'a>),
    /// A list or an object of the event.
    Tree(&'a Json),
    /// A list that was made.
    List(Rc<Vec<Value<'a>>>),
    /// An object that was made. Most names stand in the expression or in the event.
    Object(Rc<BTreeMap<Cow<'a, str>, Value<'a>>>),
}

impl<'a> Value<'a> {
    /// A field's value; `None` if it is missing.
    pub(super) fn got(got: Got<'a>) -> Option<Self> {
        Some(match got {
            Got::Missing => return None,
            Got::Null => Self::Null,
            Got::Bool(flag) => Self::Flag(flag),
            Got::Number(number) => Self::Number(number),
            Got::Text(text) => Self::Text(Text::Given(text)),
            Got::Tree(tree) => Self::Tree(tree),
        })
    }

    /// A value of a tree.
    pub(super) fn of(value: &'a Json) -> Self {
        // Of a tree nothing is missing.
        Self::got(Got::of(value)).unwrap_or(Self::Null)
    }

    /// A list that was made.
    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items))
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Flag(_) => Kind::Flag,
            Self::Number(_) => Kind::Number,
            Self::Text(_) => Kind::Text,
            Self::Tree(Json::Array(_)) | Self::List(_) => Kind::List,
            Self::Tree(_) | Self::Object(_) => Kind::Object,
        }
    }

    /// How many elements a list has, or names an object.
    pub(super) fn count(&self) -> Option<usize> {
        match self {
            Self::Tree(Json::Array(items)) => Some(items.len()),
            Self::Tree(Json::Object(fields)) => Some(fields.len()),
            Self::List(items) => Some(items.len()),
            Self::Object(fields) => Some(fields.len()),
            _ => None,
        }
    }

    /// The elements of a list, or the names of an object.
    pub(super) fn items(&self) -> Option<Box<dyn Iterator<Item = Value<'a>> + '_>> {
        match self {
            Self::Tree(Json::Array(items)) => Some(Box::new(items.iter().map(Value::of))),
            Self::Tree(Json::Object(fields)) => {
                Some(Box::new(fields.keys().map(|name| Value::Text(Text::Given(name.as_str())))))
            }
            Self::List(items) => Some(Box::new(items.iter().cloned())),
            Self::Object(fields) => Some(Box::new(fields.keys().map(|name| {
                Value::Text(match name {
                    Cow::Borrowed(name) => Text::Given(name),
                    Cow::Owned(name) => Text::made(name),
                })
            }))),
            _ => None,
        }
    }

    /// A list or an object without what is null in it; `None` of anything else.
    pub(super) fn compact(&self) -> Option<Self> {
        let fields = match self {
            Self::Tree(Json::Object(fields)) => fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (Cow::Borrowed(name.as_str()), Self::of(value)))
                .collect(),
            Self::Object(fields) => {
                let full = fields.iter().filter(|(_, value)| !matches!(value, Self::Null));
                full.map(|(name, value)| (name.clone(), value.clone())).collect()
            }
            list => {
                let full = list.items()?.filter(|item| !matches!(item, Self::Null));
                return Some(Self::list(full.collect()));
            }
        };
        Some(Self::Object(Rc::new(fields)))
    }

    /// What lies under a name of an object, or at a position of a list.
    pub(super) fn member(&self, name: &str) -> Option<Self> {
        match self {
            Self::Tree(tree) => step_into(tree, name).map(Value::of),
            Self::List(items) => items.get(name.parse::<usize>().ok()?).cloned(),
            Self::Object(fields) => fields.get(name).cloned(),
            _ => None,
        }
    }

    /// What lies at a position of a list.
    pub(super) fn at(&self, position: usize) -> Option<Self> {
        match self {
            Self::Tree(Json::Array(items)) => items.get(position).map(Value::of),
            Self::List(items) => items.get(position).cloned(),
            _ => None,
        }
    }
}
