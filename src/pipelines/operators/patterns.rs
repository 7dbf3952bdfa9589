//! `patterns`: says of which template each message is an instance, as `login by <*> from <*>`; the templates are found as the messages come, by [`drain`].
//!
//! An event goes on with its template's number, text, count and share of all messages beside its data. Before it, where its template is new or has come to cover more, goes an event that
//! says so. Numbers count from 1 in the order in which templates appeared, in each group by itself, and never change their meaning but by covering more.
//!
//! Events without the text, and those whose data cannot take the result, are dead letters and do not count; so is a message that is near no template when there are `templates_max`
//! already. Messages are taken in the order in which they come, late or not. What is longer than `message_bytes_max` is told by its beginning.

mod drain;
mod mask;

use serde_json::{Value, json};
use smol_str::SmolStr;

use super::place::Place;
use crate::pipelines::by::By;
use crate::pipelines::field::Field;
use crate::pipelines::keyed::Keyed;
use crate::pipelines::operator::{BadState, Context, Next, Operator};
use crate::pipelines::record::{Got, Record, number_value};
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;
use drain::{Effect, Miner, Rules};

#[derive(Debug)]
struct Patterns {
    field: Field,
    /// None where all messages are one group.
    by: Option<By>,
    rules: Rules,
    message_bytes_max: usize,
    /// Where the template is said in an event that goes on; none where none does.
    place: Option<Place>,
    kind: SmolStr,
    miners: Keyed<Miner>,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let field = section.field("field");
    let by = section.has("by").then(|| section.by("by"));
    let (keys_max, keys_idle) = if by.is_some() { section.key_limits() } else { (1, 0) };
    let mut size = |key, range, default| usize::try_from(section.count_or(key, range, default)).unwrap_or(usize::MAX);
    // The root and the leaves are levels of the tree too, and do not lead on by a word.
    let words = size("depth", 3..=32, 4).saturating_sub(2);
    let children_max = size("children_max", 1..=10_000, 100);
    let templates_max = size("templates_max", 1..=100_000, 1000);
    let message_bytes_max = size("message_bytes_max", 1..=1_048_576, 4096);
    let similarity = section.number_or("similarity", 0.0..=1.0, 0.5);
    let rules = Rules { words, similarity, children_max, templates_max };
    let name = section.text_if_given("as").unwrap_or_else(|| "pattern".to_owned());
    let place = Place::parse(&name).map_err(|why| section.fault("as", why)).ok();
    let pass = section.flag("pass", true);
    let kind = section.text_if_given("as_kind").map_or("pattern".into(), SmolStr::from);
    let miners = Keyed::new(keys_max, keys_idle);
    Some(Box::new(Patterns { field, by, rules, message_bytes_max, place: place.filter(|_| pass), kind, miners }))
}

impl Operator for Patterns {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let Got::Text(text) = record.get(&self.field) else {
            return cx.reject_field(record, &self.field, "text");
        };
        let message = text[..text.floor_char_boundary(self.message_bytes_max)].to_owned();
        let group = match self.by.as_ref().map_or(Ok(SmolStr::default()), |by| by.of(record)) {
            Ok(group) => group,
            Err(field) => return cx.reject_field(record, field, "text, a number or a flag"),
        };
        // Tried before anything is counted.
        let mut data = self.place.is_some().then(|| record.value());
        if let (Some(place), Some(data)) = (&self.place, &mut data)
            && let Err((field, why)) = place.put(data, Value::Null)
        {
            return cx.reject(record, field, why);
        }
        let Some(miner) = self.miners.entry(&group, cx.now_ms, Miner::default) else {
            return cx.reject(record, "key", Why::TooManyKeys);
        };
        let Some((at, effect)) = miner.mine(&message, &self.rules) else {
            return cx.reject(record, "template", Why::TooManyKeys);
        };
        let (template, count) = (miner.template(at).text(), miner.template(at).count());
        let (id, share) = (at + 1, number_value(miner.share(at)));
        if effect != Effect::Known {
            let state = if effect == Effect::New { "new" } else { "changed" };
            let news = json!({
                "id": id, "template": template, "example": message, "count": count, "share": share, "state": state,
            });
            let mut news = record.derived(&self.kind, news);
            news.key = (!group.is_empty()).then_some(group);
            cx.emit(news);
        }
        let (Some(place), Some(mut data)) = (&self.place, data) else { return Next::Drop };
        let is_new = effect == Effect::New;
        let found = json!({ "id": id, "template": template, "count": count, "share": share, "new": is_new });
        // It could be put there before.
        if place.put(&mut data, found).is_ok() {
            record.set_value(data);
        }
        Next::Pass
    }

    fn clock(&mut self, cx: &mut Context<'_>) {
        self.miners.expire(cx.now_ms, |_| true);
    }

    fn due_ms(&self) -> Option<u64> {
        self.miners.due_ms()
    }

    fn keys(&self) -> usize {
        if self.by.is_some() { self.miners.len() } else { 0 }
    }

    fn save(&self) -> Vec<u8> {
        self.miners.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.miners.load(state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::pipelines::testing::Bench;
    use proptest::prelude::*;
    use serde_json::json;

    const STEP: &str = "op = \"patterns\"\nfield = \"message\"\n";

    #[test]
    fn an_event_is_given_its_template_and_before_it_goes_what_is_new_about_that() {
        let mut bench = Bench::new(STEP);
        let first = json!({ "message": "login by alice from 10.0.0.1", "n": 1 });
        let template = "login by alice from <*>";
        let out = bench.full(5, 7, Some("k"), first);
        assert_eq!((&out[0].kind[..], &out[0].key, out[0].timestamp_ms), ("pattern", &None, 5));
        let example = "login by alice from 10.0.0.1";
        let news = json!({ "id": 1, "template": template, "example": example, "count": 1, "share": 1, "state": "new" });
        assert_eq!(out[0].value(), news);
        let pattern = json!({ "id": 1, "template": template, "count": 1, "share": 1, "new": true });
        assert_eq!((&out[1].kind[..], out[1].key.as_deref()), ("sample", Some("k")));
        assert_eq!(out[1].value(), json!({ "message": example, "n": 1, "pattern": pattern }));

        let (template, message) = ("login by <*> from <*>", "login by bob from ::1");
        let news =
            json!({ "id": 1, "template": template, "example": message, "count": 2, "share": 1, "state": "changed" });
        let pattern = json!({ "id": 1, "template": template, "count": 2, "share": 1, "new": false });
        let out = bench.event(8, json!({ "message": message }));
        assert_eq!(out, [news, json!({ "message": message, "pattern": pattern })]);

        assert_eq!(bench.event(8, json!({ "message": "disk full" })).len(), 2);
        let pattern = json!({ "id": 1, "template": template, "count": 3, "share": 0.75, "new": false });
        let out = bench.event(8, json!({ "message": message }));
        assert_eq!(out, [json!({ "message": message, "pattern": pattern })]);
        assert_eq!((bench.keys(), bench.due_ms()), (0, None));
    }

    #[test]
    fn groups_have_templates_of_their_own() {
        let mut bench = Bench::new(&format!("{STEP}by = \"host\"\nkeys_max = 2\npass = false\nas_kind = \"template\""));
        for (host, message, expected) in [("a", "x", 1), ("b", "x", 1), ("b", "y", 1), ("a", "x", 0)] {
            let out = bench.full(0, 0, None, json!({ "host": host, "message": message }));
            assert!(out.iter().all(|news| &news.kind[..] == "template" && news.key.as_deref() == Some(host)));
            assert_eq!(out.len(), expected);
        }
        assert!(bench.event(0, json!({ "host": "c", "message": "x" })).is_empty());
        assert!(bench.event(0, json!({ "message": "x" })).is_empty());
        assert_eq!(bench.rejected(), ["key: there are as many keys as keys_max allows", "data.host: is missing"]);
    }

    #[test]
    fn what_has_no_text_or_cannot_take_the_result_is_refused_and_does_not_count() {
        let mut bench = Bench::new(&format!("{STEP}as = \"found.pattern\"\ntemplates_max = 1"));
        assert!(bench.event(0, json!({})).is_empty() && bench.event(0, json!({ "message": 5 })).is_empty());
        assert!(bench.event(0, json!({ "message": "a b", "found": 1 })).is_empty());
        assert_eq!(bench.event(0, json!({ "message": "a b" }))[1]["found"]["pattern"]["count"], 1);
        assert!(bench.event(0, json!({ "message": "too long for it" })).is_empty());
        let expected = [
            "data.message: is missing",
            "data.message: expected text, found a number",
            "data.found: expected an object, found a number",
            "template: there are as many keys as keys_max allows",
        ];
        assert_eq!(bench.rejected(), expected);
        let mut bench = Bench::new("op = \"patterns\"\nfield = \"data\"");
        assert!(bench.event(0, json!("a b")).is_empty());
        assert_eq!(bench.rejected(), ["data: expected an object, found text"]);
        let mut bench = Bench::new("op = \"patterns\"\nfield = \"data\"\npass = false");
        assert_eq!(bench.event(0, json!("a b"))[0]["template"], "a b");
    }

    #[test]
    fn a_message_that_is_too_long_is_told_by_its_beginning() {
        let mut bench = Bench::new(&format!("{STEP}message_bytes_max = 5"));
        let out = bench.event(0, json!({ "message": "ab cµ d" }));
        assert_eq!((&out[0]["template"], &out[1]["message"]), (&json!("ab c"), &json!("ab cµ d")));
    }

    #[test]
    fn settings_of_keys_mean_nothing_where_there_are_none() {
        let faults = Bench::try_new(&format!("{STEP}keys_max = 5")).unwrap_err();
        assert!(faults.contains("there is no setting keys_max"), "{faults}");
        assert!(Bench::try_new(&format!("{STEP}depth = 2")).unwrap_err().contains("from 3 to 32"));
        assert!(Bench::try_new(&format!("{STEP}as = \"kind\"")).unwrap_err().contains("as: kind is the event's own"));
    }

    proptest! {
        #[test]
        fn a_restart_at_any_point_changes_nothing_that_comes_out(
            messages in proptest::collection::vec(("[hi]", "(a|b|7)( (a|b|7|x=1)){0,3}"), 1..30),
            restart_at in 0..30_usize,
        ) {
            let step = format!("{STEP}by = \"host\"\ntemplates_max = 6\nchildren_max = 1");
            let (mut bench, mut again) = (Bench::new(&step), Bench::new(&step));
            for (at, (host, message)) in messages.into_iter().enumerate() {
                if at == restart_at {
                    again.restart();
                }
                let data = json!({ "host": host, "message": message });
                prop_assert_eq!(bench.event(0, data.clone()), again.event(0, data));
                prop_assert_eq!(bench.rejected(), again.rejected());
            }
        }
    }
}
