//! Names of rooms and patterns: whatever is taken is written as it was read, and a pattern matches what it says.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tidegate::event::{Pattern, RoomName};

fuzz_target!(|text: &str| {
    if let Ok(name) = RoomName::parse(text) {
        assert_eq!(name.to_string(), text);
        assert!(text.starts_with(name.namespace()) && !text.contains(['\n', '\r', '"', '\\', ' ']));
        assert!(Pattern::parse(text).is_ok_and(|pattern| pattern.matches(&name)));
    }
    if let Ok(pattern) = Pattern::parse(text) {
        assert_eq!(pattern.to_string(), text);
    }
});
