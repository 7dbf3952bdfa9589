//! An expression as it is evaluated: a tree whose reads of fields are slots that were looked up when it was compiled.

use cel::common::ast::operators;
use regex::{Regex, RegexBuilder};
use smol_str::SmolStr;

use super::functions::Spec;
use super::value::Kind;
use crate::pipelines::field::Field;

/// A part of an expression.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    /// A part of the event.
    Field(Field),
    /// The element that a loop is at.
    Local {
        slot: usize,
        name: String,
    },
    /// `of.name`, where it is no part of the event that has a slot.
    Member {
        of: Box<Node>,
        name: SmolStr,
    },
    /// `of[at]`, where `at` is computed.
    Index {
        of: Box<Node>,
        at: Box<Node>,
    },
    /// `has(data.…)`.
    Has(Field),
    /// `has(of.name)`.
    HasMember {
        of: Box<Node>,
        name: SmolStr,
    },
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    /// `when ? yes : no`.
    Choose(Box<[Node; 3]>),
    Equal {
        sides: Box<[Node; 2]>,
        not: bool,
    },
    Compare(Order, Box<[Node; 2]>),
    /// A field beside a number that is written out, which is what most conditions are.
    CompareNumber {
        field: Field,
        order: Order,
        number: f64,
    },
    Add(Box<[Node; 2]>),
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    Loop(Box<Loop>),
    Call(&'static Spec, Vec<Node>),
    Matches(Box<Node>, Box<Pattern>),
}

impl Node {
    /// Its kind, where that is the same for every event.
    pub(super) fn known(&self) -> Option<Kind> {
        Some(match self {
            Self::Null => Kind::Null,
            Self::Number(_) | Self::Negate(_) | Self::Arithmetic(..) => Kind::Number,
            Self::Text(_) => Kind::Text,
            Self::List(_) => Kind::List,
            Self::Object(_) => Kind::Object,
            Self::Flag(_) | Self::Has(_) | Self::HasMember { .. } | Self::Not(_) | Self::And(_) | Self::Or(_) => {
                Kind::Flag
            }
            Self::Equal { .. } | Self::Compare(..) | Self::CompareNumber { .. } => Kind::Flag,
            Self::In(_) | Self::Matches(..) => Kind::Flag,
            Self::Field(Field::Seq | Field::Timestamp | Field::Arrived) => Kind::Number,
            Self::Field(Field::Room | Field::Kind | Field::Key | Field::Priority) => Kind::Text,
            Self::Field(Field::Data(_)) | Self::Local { .. } | Self::Member { .. } | Self::Index { .. } => return None,
            // Both sides must be of one kind.
            Self::Add(sides) => return sides.iter().find_map(Self::known),
            Self::Choose(three) => {
                let [_, yes, no] = &**three;
                return yes.known().filter(|kind| no.known() == Some(*kind));
            }
            Self::Loop(inner) if inner.kind == LoopKind::Map => Kind::List,
            Self::Loop(_) => Kind::Flag,
            Self::Call(spec, _) => return spec.gives,
        })
    }

    /// How it is called where it has no value: a field's name, or what is read of a loop's element.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Field(field) | Self::CompareNumber { field, .. } => Some(field.to_string()),
            Self::Local { name, .. } => Some(name.clone()),
            Self::Member { of, name } => Some(format!("{}.{name}", of.name()?)),
            _ => None,
        }
    }
}

/// Which comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    /// What an operator of the parser's means.
    pub(super) fn of(operator: &str) -> Option<Self> {
        match operator {
            operators::LESS => Some(Self::Less),
            operators::LESS_EQUALS => Some(Self::LessOrEqual),
            operators::GREATER => Some(Self::Greater),
            operators::GREATER_EQUALS => Some(Self::GreaterOrEqual),
            _ => None,
        }
    }

    /// As it is written.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// The same said from the other side.
    pub(super) const fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    /// Whether it is so. Text goes by its characters' numbers.
    pub(super) fn holds<T: PartialOrd + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

/// What is done with two numbers. Addition is another thing, for texts and lists have it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// What a loop comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    /// `map`, and `filter`, which makes of an element the element.
    Map,
}

/// A loop over the elements of a list, or over the names of an object.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) kind: LoopKind,
    /// Where the element is kept: how many loops there are around this one.
    pub(super) slot: usize,
    pub(super) over: Node,
    /// Which elements count; all if it does not say.
    pub(super) when: Option<Node>,
    /// What is made of one.
    pub(super) make: Option<Node>,
}

/// A pattern of a weight of 1 takes so many bytes once compiled.
const PATTERN_BYTES: usize = 16 << 10;
/// The heaviest pattern; `\w` weighs 1 or 2.
const WEIGHT_MAX: usize = 16;
/// A pattern of a weight of 1 is tried on so many bytes in a step.
const PATTERN_STEP_BYTES: usize = 16;

/// A pattern of `matches`.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) regex: Regex,
    /// Its size. The time that it takes, at worst, is that of the text times this.
    weight: usize,
}

impl Pattern {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut weight = 1;
        loop {
            match RegexBuilder::new(text).size_limit(weight * PATTERN_BYTES).build() {
                Ok(regex) => return Ok(Self { regex, weight }),
                Err(regex::Error::CompiledTooBig(_)) if weight < WEIGHT_MAX => weight *= 2,
                Err(error) => {
                    let error = error.to_string();
                    let what = error.lines().last().unwrap_or_default();
                    return Err(format!(
                        "matches: the pattern {text:?} cannot be used: {}",
                        what.trim_start_matches("error: ")
                    ));
                }
            }
        }
    }

    /// What it costs to try it on so many bytes, in steps.
    pub(super) fn steps(&self, bytes: usize) -> usize {
        bytes.saturating_mul(self.weight) / PATTERN_STEP_BYTES
    }
}
