//! `X-Forwarded-For`: what an untrusted peer says never counts, and what a trusted one says never makes an address of a proxy unless nothing else is there.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tidegate::limits::client::address;

fuzz_target!(|text: &str| {
    let proxies = ["10.0.0.0/8".parse().expect("a network")];
    let outside = "192.0.2.1".parse().ok();
    assert_eq!(address(outside, &proxies, false, text.lines()), outside);
    let _ = address("10.0.0.1".parse().ok(), &proxies, false, text.lines());
    assert_eq!(address(None, &proxies, false, text.lines()), None);
});
