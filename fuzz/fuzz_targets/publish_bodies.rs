//! Publish bodies in every format: what is taken is within its limits.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tidegate::event::incoming::{BodyLimits, Format, parse};

fuzz_target!(|body: &[u8]| {
    let limits = BodyLimits { event_bytes: 2000, events: 50, depth: 16 };
    for format in [Format::Json, Format::Ndjson, Format::CloudEvent, Format::CloudEventBatch] {
        match parse(format, body, limits) {
            Ok(events) => {
                assert!((1..=limits.events).contains(&events.len()));
                for event in events {
                    assert!(event.content_bytes() <= limits.event_bytes && !event.kind.is_empty());
                    assert!(serde_json::from_slice::<serde_json::Value>(&event.data).is_ok());
                }
            }
            Err(error) => drop(error.to_string()),
        }
    }
});
