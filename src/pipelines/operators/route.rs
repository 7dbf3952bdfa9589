//! `route`: sends events to rooms of their own, by conditions.
//!
//! The cases of `to` are tried in their order. An event goes to the room of the first case whose `where` is true, or of all such cases (`first = false`); a case without `where` fits
//! every event. What no case fits goes on to the next step (`otherwise`); what one fits does not (`matched`). What is sent is the event as it is at this step; steps behind it change
//! nothing of that.
//!
//! *Late*: an event's own time is not looked at. *Missing or wrong*: where an expression has no value for an event, because a field is missing or is something else, the event is a dead
//! letter and goes nowhere else; `has(data.x)` in the expression asks whether it is there.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::pipelines::operator::{Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::target::Target;

/// The number of the first case, so that they have other numbers than the pipeline's outputs.
const FIRST_NUMBER: usize = 1000;

#[derive(Debug)]
struct Route {
    cases: Vec<Arc<Target>>,
    /// Whether only the first case that fits counts.
    first: bool,
    matched: Next,
    otherwise: Next,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let first = section.flag("first", true);
    let mut next = |key, default| match section.choice(key, &["pass", "drop"], Some(default)) {
        "pass" => Next::Pass,
        _ => Next::Drop,
    };
    let (matched, otherwise) = (next("matched", "drop"), next("otherwise", "pass"));
    let tables = section.sections("to");
    if tables.is_empty() {
        section.fault("to", "expected at least one table, begun with [[step.to]], with the setting room");
        return None;
    }
    let mut cases = Vec::new();
    for (at, mut table) in tables.into_iter().enumerate() {
        table.rename(format!("{}, to {}", section.name(), at + 1));
        cases.extend(Target::read(&mut table, FIRST_NUMBER + at).map(Arc::new));
        table.finish();
    }
    Some(Box::new(Route { cases, first, matched, otherwise }))
}

impl Operator for Route {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        // All are asked before anything is sent: an event goes to rooms or to the dead letters, not to both.
        let mut fitting: SmallVec<[&Arc<Target>; 4]> = SmallVec::new();
        for case in &self.cases {
            match case.condition.as_ref().map_or(Ok(true), |condition| condition.test(record)) {
                Ok(true) => fitting.push(case),
                Ok(false) => continue,
                Err(failure) => return cx.reject(record, failure.field, failure.why),
            }
            if self.first {
                break;
            }
        }
        fitting.iter().for_each(|case| cx.send(case, record.clone()));
        if fitting.is_empty() { self.otherwise } else { self.matched }
    }

    fn targets(&self) -> &[Arc<Target>] {
        &self.cases
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::event::{Lane, RoomName};
    use crate::pipelines::Definition;
    use crate::pipelines::chain::Effects;
    use crate::pipelines::record::Record;
    use serde_json::{Value, json};

    /// A pipeline of one route, whose other events go to the room `rest`.
    fn read(settings: &str) -> Result<Definition, String> {
        let text =
            format!("[pipeline]\nfrom = \"in\"\n[[step]]\nop = \"route\"\n{settings}\n[[output]]\nroom = \"rest\"\n");
        let faults = |faults: Vec<crate::pipelines::Fault>| {
            faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        Definition::read("test", "test.toml", &text, None).map_err(faults)
    }

    /// The rooms that an event goes to, and why it goes to none, if it cannot be told.
    fn rooms(pipeline: &mut Definition, data: Value) -> (String, Vec<String>) {
        let record = Record::made(RoomName::parse("in").unwrap(), "sample", Some("w7".into()), 0, 0, Value::Null);
        let record = record.given(data.to_string().into(), pipeline.chain.extractor());
        let mut effects = Effects::default();
        pipeline.chain.record(record, 0, &mut effects);
        let rooms: Vec<_> = effects.sent.iter().map(|sent| sent.target.room.render(&sent.record).unwrap()).collect();
        let refused = effects.rejected.iter().map(|rejected| format!("{}: {}", rejected.field, rejected.why));
        (rooms.join(" "), refused.collect())
    }

    const CASES: &str = "to = [
        { where = \"data.level > 9.0\", room = \"alerts:{key}\", kind = \"alarm\", priority = \"critical\" },
        { where = \"data.level > 5.0\", room = \"warnings\" },
    ]";

    fn told(settings: &str, levels: [f64; 3]) -> [String; 3] {
        let mut pipeline = read(&format!("{settings}\n{CASES}")).unwrap();
        levels.map(|level| {
            let (rooms, refused) = rooms(&mut pipeline, json!({ "level": level }));
            assert!(refused.is_empty(), "{refused:?}");
            rooms
        })
    }

    #[test]
    fn the_first_case_that_fits_has_the_event_and_what_none_fits_goes_on() {
        assert_eq!(told("", [9.5, 6.5, 1.5]), ["alerts:w7", "warnings", "rest"]);
        assert_eq!(told("otherwise = \"drop\"", [9.5, 6.5, 1.5]), ["alerts:w7", "warnings", ""]);
    }

    #[test]
    fn all_cases_that_fit_have_the_event_where_that_is_said_and_it_may_go_on_as_well() {
        assert_eq!(told("first = false", [9.5, 6.5, 1.5]), ["alerts:w7 warnings", "warnings", "rest"]);
        assert_eq!(
            told("first = false\nmatched = \"pass\"", [9.5, 6.5, 1.5]),
            ["alerts:w7 warnings rest", "warnings rest", "rest"]
        );
    }

    #[test]
    fn an_event_of_which_a_case_cannot_be_told_is_a_dead_letter_and_goes_nowhere_else() {
        let cases = "first = false
            to = [{ room = \"all\" }, { where = \"data.level > 9.0\", room = \"high\" }]";
        let mut pipeline = read(cases).unwrap();
        assert_eq!(rooms(&mut pipeline, json!({ "level": 9.5 })), ("all high".to_owned(), vec![]));
        assert_eq!(rooms(&mut pipeline, json!({})), (String::new(), vec!["data.level: is missing".to_owned()]));
    }

    #[test]
    fn a_case_says_what_the_event_is_there_as_an_output_does() {
        let mut pipeline =
            read("[[step.to]]\nroom = \"table:{key}\"\nkind = \"row\"\npriority = \"high\"\nstate = true").unwrap();
        let mut effects = Effects::default();
        let record = Record::made(RoomName::parse("in").unwrap(), "sample", Some("w7".into()), 0, 0, json!(1));
        pipeline.chain.record(record, 0, &mut effects);
        let target = &effects.sent[0].target;
        assert_eq!((target.number, target.priority), (1000, Some(Lane::High)));
        assert!(target.kind.is_some() && target.key.is_none() && target.state.is_some());
        let rooms: Vec<String> = pipeline.to.iter().map(ToString::to_string).collect();
        assert_eq!(rooms, ["dead-letter:test", "table:*", "rest"], "where it may send is known beforehand");
    }

    #[test]
    fn wrong_cases_are_faults_at_their_place() {
        let missing = read("").unwrap_err();
        assert!(missing.contains("to: expected at least one table"), "{missing}");
        let faults = read("[[step.to]]\nroom = \"a b\"\n[[step.to]]\nromo = \"x\"").unwrap_err();
        for fault in [
            "test.toml:6:",
            "step 1 (route), to 1: room",
            "to 2: room is missing",
            "there is no setting romo; did you mean room?",
        ] {
            assert!(faults.contains(fault), "{fault} is not among:\n{faults}");
        }
    }
}
