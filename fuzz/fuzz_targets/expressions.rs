//! Expressions: whatever is compiled has a value for an event or says why not, and soon.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate::event::RoomName;
use tidegate::pipelines::expression::Expression;
use tidegate::pipelines::field::Paths;
use tidegate::pipelines::record::Record;

const DATA: &[u8] = br#"{"a":1.5,"b":[1,2,{"c":"text"}],"d":{"e":null},"f":"2026","g":true}"#;

fuzz_target!(|text: &str| {
    let mut paths = Paths::default();
    if let Ok(expression) = Expression::compile(text, &mut paths) {
        let room = RoomName::parse("in").expect("a name");
        let record = Record::made(room, "kind", Some("key".into()), 1, 1, Default::default());
        let record = record.given(Bytes::from_static(DATA), &paths.extractor());
        let _ = (expression.test(&record), expression.value(&record));
    }
});
