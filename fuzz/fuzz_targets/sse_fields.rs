//! Events on the wire: whatever a publisher says, an event is one SSE message of two lines (id, data), and its data one line of JSON.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tidegate::event::incoming::{BodyLimits, Format, parse};
use tidegate::event::{Event, RoomKey, RoomName};

fuzz_target!(|body: &[u8]| {
    let limits = BodyLimits { event_bytes: 2000, events: 50, depth: 16 };
    let Ok(events) = parse(Format::Json, body, limits) else { return };
    let key = RoomKey::new(RoomName::parse("fuzz:1").expect("a name"), tidegate_policy());
    for (seq, new) in (1..).zip(events) {
        let (kind, event_key) = (new.kind.clone(), new.key.clone());
        let event = Event::number(&key, seq, 1, 1000, new);
        let text = std::str::from_utf8(event.sse()).expect("text");
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(lines.len(), 4, "{text:?}");
        assert!(!text.contains('\r') && lines[0] == format!("id: {seq}") && lines[2].is_empty() && lines[3].is_empty());
        let json = lines[1].strip_prefix("data: ").expect("data");
        assert_eq!(json.as_bytes(), &event.json()[..]);
        let read: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(read["kind"], kind.as_str());
        assert_eq!(read.get("key").and_then(|key| key.as_str()), event_key.as_deref());
    }
});

fn tidegate_policy() -> tidegate::settings::Policy {
    tidegate::settings::Policy::default()
}
