//! Payloads of Socket.IO: each is one, packet by packet, or is refused.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = tidegate::edge::is_payload(text);
});
