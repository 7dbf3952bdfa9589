//! WebSocket commands: each is one, or is answered with JSON that says what is wrong.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = tidegate::edge::ws::is_command(text);
});
