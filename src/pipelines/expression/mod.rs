//! Expressions over an event: conditions and values, in the syntax of CEL (<https://cel.dev>), such as `data.usage > 90.0 && kind == "cpu"`.
//!
//! The `cel` crate parses; the rest is ours, for three reasons. Its interpreter has no limit to what an expression may cost, and expressions come from outside. It takes 300 ns where
//! this takes tens, and this runs for every event. And it keeps whole numbers and others apart, so that `data.x * 2` fails when x is 1.5; JSON has one kind of number, and so have we.
//!
//! `compile` turns what was parsed into a tree (`node`) whose fields are slots of the event's [`Paths`]; `evaluate` walks it with a budget of steps, over values (`value`) that are
//! borrowed from the event where they can be; `functions` has the functions, `trees` what is done with whole lists and objects.
//!
//! What differs from CEL: one kind of number, 64-bit floating point, so that `7 / 2` is 3.5; `%` of those; no number that is not finite, but a failure; `&&` and `||` go from left to
//! right, and what fails on the left fails; `has(data.a.b)` is false, and no failure, where `data.a` is missing; `"a" in "abc"`; `x.f(y)` and `f(x, y)` are the same for every function.

mod compile;
mod evaluate;
mod functions;
mod node;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
mod trees;
mod value;

use std::sync::Arc;

use serde_json::Value;

#[cfg(test)]
use super::field::Extractor;
use super::field::Paths;
use super::record::Record;
use super::why::Why;
use evaluate::Run;
use node::Node;

/// The longest expression, in bytes. The parser recurses once for every link of a chain like `a+a+a`; with this bound it stays within [`STACK_BYTES`].
const SOURCE_BYTES: usize = 1024;
/// The stack of the thread that parses, in bytes.
const STACK_BYTES: usize = 8 << 20;
/// How deep the tree may be: it is evaluated by recursion, on the stack of whoever asks.
const DEPTH_MAX: usize = 64;
/// How deep loops (`all`, `exists`, `exists_one`, `map`, `filter`) may be nested: what a third one costs nobody foresees.
const LOOPS_MAX: usize = 2;
/// The most steps of one evaluation, some 100 µs: an expression must not hold up the events behind this one.
const STEPS_MAX: usize = 10_000;
/// So many bytes of text can be made in a step.
const MADE_BYTES: usize = 64;
// All text that one evaluation makes is at most 1 MiB: the steps see to it.
const _: () = assert!(STEPS_MAX * MADE_BYTES <= 1 << 20);

/// Why an expression has no value for an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What it was about: a field, or the expression.
    pub field: String,
    /// Why.
    pub why: Why,
}

#[derive(Debug)]
struct Compiled {
    source: Box<str>,
    root: Node,
}

/// An expression, compiled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Expression(Arc<Compiled>);

impl PartialEq for Expression {
    /// Whether they are written the same.
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

impl Eq for Expression {}

impl Expression {
    /// Compiles an expression; the fields that it reads are entered in `paths`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn compile(source: &str, paths: &mut Paths) -> Result<Self, String> {
        if source.len() > SOURCE_BYTES {
            return Err(format!("it has {} bytes; an expression may have {SOURCE_BYTES}", source.len()));
        }
        let root = compile::compile(source, paths)?;
        Ok(Self(Arc::new(Compiled { source: source.into(), root })))
    }

    /// Compiles text that is to be true or false of an event.
    ///
    /// # Errors
    /// As [`Expression::compile`], and where it can be neither whatever the event.
    pub fn condition(source: &str, paths: &mut Paths) -> Result<Self, String> {
        let compiled = Self::compile(source, paths)?;
        match compiled.0.root.known() {
            None | Some(value::Kind::Flag) => Ok(compiled),
            Some(kind) => Err(format!("it is always of the kind {}, and should be true or false", kind.word())),
        }
    }

    /// The text that it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Whether it is true of an event.
    ///
    /// # Errors
    /// Why it is neither true nor false.
    pub fn test(&self, record: &Record) -> Result<bool, Failure> {
        Run::new(record, &self.0.source).flag(&self.0.root).map_err(|failure| *failure)
    }

    /// Its value for an event.
    ///
    /// # Errors
    /// Why it has no value.
    pub fn value(&self, record: &Record) -> Result<Value, Failure> {
        let mut run = Run::new(record, &self.0.source);
        let value = run.eval(&self.0.root).map_err(|failure| *failure)?;
        run.json(&value, false).map_err(|failure| *failure)
    }
}

/// Compiles text together with what reads the fields that it wants.
#[cfg(test)]
fn compile_alone(source: &str) -> Result<(Expression, Extractor), String> {
    let mut paths = Paths::default();
    let expression = Expression::compile(source, &mut paths)?;
    Ok((expression, paths.extractor()))
}
