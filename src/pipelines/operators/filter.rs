//! `filter`: only events of which an expression is true go on.
//!
//! A field that is missing, or of another kind than the expression wants, makes the event a dead letter; `has(data.x)` in the expression asks whether it is there.

use crate::pipelines::expression::Expression;
use crate::pipelines::operator::{Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;

#[derive(Debug)]
struct Filter {
    condition: Expression,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    Some(Box::new(Filter { condition: section.condition("where")? }))
}

impl Operator for Filter {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        match self.condition.test(record) {
            Ok(true) => Next::Pass,
            Ok(false) => Next::Drop,
            Err(failure) => cx.reject(record, failure.field, failure.why),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::pipelines::testing::Bench;
    use serde_json::json;

    #[test]
    fn only_what_is_asked_for_goes_on_and_what_cannot_be_told_is_a_dead_letter() {
        let mut bench = Bench::new("op = \"filter\"\nwhere = \"data.usage > 90.0\"");
        assert!(bench.event(0, json!({ "usage": 12 })).is_empty());
        assert_eq!(bench.event(1, json!({ "usage": 95.5 })), [json!({ "usage": 95.5 })]);
        assert!(bench.event(2, json!({})).is_empty() && bench.event(3, json!({ "usage": "hot" })).is_empty());
        assert_eq!(bench.rejected(), ["data.usage: is missing", "data.usage: expected a number, found text"]);
    }
}
