//! Expressions over an event (stub while the real one is written).

use super::field::Paths;
use super::operator::Why;
use super::record::Record;
use serde_json::Value;

/// Why an expression has no value for an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What it was about: a field, or the expression.
    pub field: String,
    /// Why.
    pub why: Why,
}

/// An expression, compiled.
#[derive(Debug, Clone)]
pub struct Expression;

impl Expression {
    /// Compiles.
    ///
    /// # Errors
    /// What is wrong.
    pub fn compile(_source: &str, _paths: &mut Paths) -> Result<Self, String> {
        Ok(Self)
    }
    /// Whether it is true of an event.
    ///
    /// # Errors
    /// Why it has no value.
    pub fn test(&self, _record: &Record) -> Result<bool, Failure> {
        Ok(true)
    }
    /// Its value for an event.
    ///
    /// # Errors
    /// Why it has no value.
    pub fn value(&self, _record: &Record) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}
