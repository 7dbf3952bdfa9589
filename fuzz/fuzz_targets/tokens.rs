//! Tokens: none that was not signed with the secret is ever taken, and looking at one never fails worse than by saying so.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = tidegate::auth::jwt::look(text);
    assert!(!tidegate::auth::jwt::is_signed_with("a secret that nobody guesses", text));
});
