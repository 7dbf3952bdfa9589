//! Pipelines as plain data and plain functions: what their files say, and what their steps do. In come events and the time, out go events. Knows no room, no log, no actor: what runs
//! pipelines is `engine/pipelines`.
//!
//! [`set`] is all of them together; [`definition`] reads a file ([`source`]), by [`section`]; [`machine`] runs one, [`cases`] try one; [`chain`] is its steps in order, [`target`] where their events
//! go; [`operator`] says what a step is, `operators/` has them all. A [`record`] is an event on its way, a [`field`] a part of it, an [`expression`] what is computed of it, a [`template`] a
//! name made of it, [`by`] the group it belongs to; [`why`] says what is wrong with it.

pub mod aggregates;
pub mod by;
pub mod cases;
pub mod chain;
pub mod definition;
pub mod expression;
pub mod field;
pub mod json;
pub mod keyed;
pub mod machine;
pub mod merge;
pub mod operator;
pub mod operators;
pub mod record;
pub mod section;
pub mod set;
pub mod source;
pub mod state;
pub mod target;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
pub mod values;
pub mod why;

pub use definition::{Definition, Written};
pub use machine::{Machine, Output};
pub use source::Fault;
