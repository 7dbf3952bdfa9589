//! Walks the tree for one event, with a budget.
//!
//! A step is a node, an element of a list, 64 bytes of text that is made, 1 KiB of text that is searched, 16 bytes where each character is looked at. The budget bounds time and memory
//! alike. Numbers are finite at every moment: JSON has no others, and what is computed is checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::node::{Arithmetic, Loop, LoopKind, Node};
use super::value::{ADDED, FLAG, Kind, NUMBER, ORDERED, PLACE, TEXT, TREE, Text, Value, Wants};
use super::{Failure, LOOPS_MAX, MADE_BYTES, STEPS_MAX, functions};
use crate::pipelines::field::Field;
use crate::pipelines::record::{Got, Record, number_text};
use crate::pipelines::why::Why;

/// So many bytes of text are compared or searched in a step.
const SCAN_BYTES: usize = 1024;
/// So many bytes of text are gone through in a step, character by character.
const WALK_BYTES: usize = 16;

/// A value, or why there is none. Boxed, so that a value that is there is handed on in few words.
pub(super) type Answer<'a> = Result<Value<'a>, Box<Failure>>;

/// One evaluation.
#[derive(Debug)]
pub(super) struct Run<'a> {
    record: &'a Record,
    source: &'a str,
    steps_left: usize,
    /// The elements that the loops are at, from the outside in.
    locals: [Value<'a>; LOOPS_MAX],
}

impl<'a> Run<'a> {
    pub(super) fn new(record: &'a Record, source: &'a str) -> Self {
        Self { record, source, steps_left: STEPS_MAX, locals: [const { Value::Null }; LOOPS_MAX] }
    }

    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Box<Failure>> {
        match self.steps_left.checked_sub(steps) {
            Some(left) => {
                self.steps_left = left;
                Ok(())
            }
            None => Err(self.failed(&format!("the expression takes more than {STEPS_MAX} steps"))),
        }
    }

    /// Text of so many bytes is about to be made.
    pub(super) fn making(&mut self, bytes: usize) -> Result<(), Box<Failure>> {
        self.spend(bytes.div_ceil(MADE_BYTES))
    }

    /// Text of so many bytes is about to be compared or searched.
    pub(super) fn scan(&mut self, bytes: usize) -> Result<(), Box<Failure>> {
        self.spend(bytes / SCAN_BYTES)
    }

    /// Text of so many bytes is about to be gone through character by character.
    pub(super) fn walk(&mut self, bytes: usize) -> Result<(), Box<Failure>> {
        self.spend(bytes / WALK_BYTES)
    }

    /// Something is wrong with an operand.
    #[cold]
    pub(super) fn about(&self, node: &Node, why: Why) -> Box<Failure> {
        Box::new(Failure { field: node.name().unwrap_or_else(|| self.source.to_owned()), why })
    }

    /// An operand is not what was wanted.
    #[cold]
    pub(super) fn wrong(&self, node: &Node, wants: Wants, found: &Value<'_>) -> Box<Failure> {
        self.about(node, Why::Type { expected: wants.words, found: found.kind().name() })
    }

    /// Something is wrong with the whole.
    #[cold]
    pub(super) fn failed(&self, what: &str) -> Box<Failure> {
        Box::new(Failure { field: self.source.to_owned(), why: Why::Other(what.to_owned()) })
    }

    /// A number that was computed.
    pub(super) fn finite(&self, number: f64) -> Answer<'a> {
        if number.is_finite() {
            Ok(Value::Number(number))
        } else {
            Err(self.failed("the result is not a finite number"))
        }
    }

    pub(super) fn flag(&mut self, node: &'a Node) -> Result<bool, Box<Failure>> {
        match self.eval(node)? {
            Value::Flag(flag) => Ok(flag),
            other => Err(self.wrong(node, FLAG, &other)),
        }
    }

    pub(super) fn number(&mut self, node: &'a Node) -> Result<f64, Box<Failure>> {
        match self.eval(node)? {
            Value::Number(number) => Ok(number),
            other => Err(self.wrong(node, NUMBER, &other)),
        }
    }

    pub(super) fn text(&mut self, node: &'a Node) -> Result<Text<'a>, Box<Failure>> {
        match self.eval(node)? {
            Value::Text(text) => Ok(text),
            other => Err(self.wrong(node, TEXT, &other)),
        }
    }

    fn both(&mut self, sides: &'a [Node; 2]) -> Result<(Value<'a>, Value<'a>), Box<Failure>> {
        Ok((self.eval(&sides[0])?, self.eval(&sides[1])?))
    }

    /// The value of a node.
    pub(super) fn eval(&mut self, node: &'a Node) -> Answer<'a> {
        self.spend(1)?;
        Ok(match node {
            Node::Null => Value::Null,
            Node::Flag(flag) => Value::Flag(*flag),
            Node::Number(number) => Value::Number(*number),
            Node::Text(text) => Value::Text(Text::Given(text)),
            Node::Field(field) => {
                return Value::got(self.record.get(field)).ok_or_else(|| self.about(node, Why::Missing));
            }
            Node::CompareNumber { field, order, number } => match self.record.get(field) {
                Got::Number(found) => Value::Flag(order.holds(&found, number)),
                got => return Err(self.not_a_number(field, got)),
            },
            Node::Local { slot, .. } => self.locals[*slot].clone(),
            Node::Member { of, name } => {
                let found = self.eval(of)?.member(name);
                return found.ok_or_else(|| self.about(node, Why::Missing));
            }
            Node::Index { of, at } => return self.index(of, at),
            Node::Has(field) => Value::Flag(!matches!(self.record.get(field), Got::Missing)),
            Node::HasMember { of, name } => Value::Flag(match self.eval(of) {
                Ok(value) => value.member(name).is_some(),
                Err(failure) if failure.why == Why::Missing => false,
                Err(failure) => return Err(failure),
            }),
            Node::Not(of) => Value::Flag(!self.flag(of)?),
            Node::Negate(of) => Value::Number(-self.number(of)?),
            Node::And(sides) => Value::Flag(self.flag(&sides[0])? && self.flag(&sides[1])?),
            Node::Or(sides) => Value::Flag(self.flag(&sides[0])? || self.flag(&sides[1])?),
            Node::Choose(three) => {
                let [when, yes, no] = &**three;
                let chosen = if self.flag(when)? { yes } else { no };
                return self.eval(chosen);
            }
            Node::Equal { sides, not } => {
                let (left, right) = self.both(sides)?;
                Value::Flag(self.equal(&left, &right)? != *not)
            }
            Node::Compare(order, sides) => match self.both(sides)? {
                (Value::Number(left), Value::Number(right)) => Value::Flag(order.holds(&left, &right)),
                (Value::Text(left), Value::Text(right)) => {
                    self.scan(left.len().min(right.len()))?;
                    Value::Flag(order.holds::<str>(&left, &right))
                }
                (left, right) => return Err(self.at_odds(sides, ORDERED, &left, &right)),
            },
            Node::Add(sides) => return self.add(sides),
            Node::Arithmetic(sign, sides) => {
                let (left, right) = (self.number(&sides[0])?, self.number(&sides[1])?);
                return self.finite(match sign {
                    Arithmetic::Subtract => left - right,
                    Arithmetic::Multiply => left * right,
                    Arithmetic::Divide | Arithmetic::Remainder if right == 0.0 => {
                        return Err(self.failed("division by zero"));
                    }
                    Arithmetic::Divide => left / right,
                    Arithmetic::Remainder => left % right,
                });
            }
            Node::In(sides) => Value::Flag(self.within(&sides[0], &sides[1])?),
            Node::List(items) => {
                let mut made = Vec::with_capacity(items.len());
                for item in items {
                    self.spend(1)?;
                    made.push(self.eval(item)?);
                }
                Value::list(made)
            }
            Node::Object(fields) => {
                let mut made = BTreeMap::new();
                for (name, value) in fields {
                    self.spend(1)?;
                    made.insert(Cow::Borrowed(name.as_str()), self.eval(value)?);
                }
                Value::Object(Rc::new(made))
            }
            Node::Loop(inner) => return self.looped(inner),
            Node::Call(spec, args) => return functions::call(self, spec.function, args),
            Node::Matches(text, pattern) => {
                let text = self.text(text)?;
                self.spend(pattern.steps(text.len()))?;
                Value::Flag(pattern.regex.is_match(&text))
            }
        })
    }

    #[cold]
    fn not_a_number(&self, field: &Field, got: Got<'_>) -> Box<Failure> {
        let why = match got {
            Got::Missing => Why::Missing,
            got => Why::Type { expected: NUMBER.words, found: got.type_name() },
        };
        Box::new(Failure { field: field.to_string(), why })
    }

    /// Of two operands that do not go together, the one at fault: not that of which the kind is known from how it is written.
    #[cold]
    fn at_odds(&self, sides: &[Node; 2], wants: Wants, left: &Value<'_>, right: &Value<'_>) -> Box<Failure> {
        let [first, second] = sides;
        let (node, expected, found) = if second.known().is_some() {
            (first, right.kind().name(), left)
        } else if first.known().is_some() || wants.kinds.contains(&left.kind()) {
            (second, left.kind().name(), right)
        } else {
            (first, wants.words, left)
        };
        self.about(node, Why::Type { expected, found: found.kind().name() })
    }

    fn index(&mut self, of: &'a Node, at: &'a Node) -> Answer<'a> {
        let (value, place) = (self.eval(of)?, self.eval(at)?);
        let made;
        let name: &str = match &place {
            Value::Text(name) => name,
            Value::Number(number) => {
                made = number_text(*number);
                &made
            }
            other => return Err(self.wrong(at, PLACE, other)),
        };
        value.member(name).ok_or_else(|| {
            let field = of.name().map_or_else(|| self.source.to_owned(), |of| format!("{of}.{name}"));
            Box::new(Failure { field, why: Why::Missing })
        })
    }

    fn add(&mut self, sides: &'a [Node; 2]) -> Answer<'a> {
        match self.both(sides)? {
            (Value::Number(left), Value::Number(right)) => self.finite(left + right),
            (Value::Text(left), Value::Text(right)) => {
                self.making(left.len() + right.len())?;
                Ok(Value::Text(Text::made(&[&*left, &*right].concat())))
            }
            (left, right) if left.kind() == Kind::List && right.kind() == Kind::List => {
                self.spend(left.count().unwrap_or(0) + right.count().unwrap_or(0))?;
                let items = [left.items(), right.items()].into_iter().flatten().flatten();
                Ok(Value::list(items.collect()))
            }
            (left, right) => Err(self.at_odds(sides, ADDED, &left, &right)),
        }
    }

    fn looped(&mut self, inner: &'a Loop) -> Answer<'a> {
        let over = self.eval(&inner.over)?;
        let Some(items) = over.items() else { return Err(self.wrong(&inner.over, TREE, &over)) };
        let (mut made, mut count) = (Vec::new(), 0_usize);
        for item in items {
            // Each element costs what is computed of it, which is one step at least.
            self.locals[inner.slot] = item;
            let counts = match &inner.when {
                Some(when) => self.flag(when)?,
                None => true,
            };
            match (inner.kind, &inner.make) {
                (LoopKind::All, _) if !counts => return Ok(Value::Flag(false)),
                (LoopKind::Exists, _) if counts => return Ok(Value::Flag(true)),
                (LoopKind::ExistsOne, _) if counts => count += 1,
                (LoopKind::Map, Some(make)) if counts => made.push(self.eval(make)?),
                _ => {}
            }
        }
        Ok(match inner.kind {
            LoopKind::All => Value::Flag(true),
            LoopKind::Exists => Value::Flag(false),
            LoopKind::ExistsOne => Value::Flag(count == 1),
            LoopKind::Map => Value::list(made),
        })
    }

    /// A part of a text: of a given one it is borrowed as well. The range is one of its own.
    pub(super) fn part(&mut self, text: &Text<'a>, range: Range<usize>) -> Result<Text<'a>, Box<Failure>> {
        Ok(match text {
            Text::Given(text) => Text::Given(&text[range]),
            Text::Made(text) => {
                self.making(range.len())?;
                Text::made(&text[range])
            }
        })
    }
}
