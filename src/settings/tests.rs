//! What the settings promise.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn with(flags: &[(&str, &str)]) -> Result<Settings, Faults> {
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Settings::load(&Sources { flags, ..Sources::default() })
}

#[test]
fn the_defaults_are_allowed() {
    let settings = with(&[]).unwrap();
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:8000");
    assert!(settings.server.listen.ip().is_loopback());
}

#[test]
fn the_shipped_file_equals_the_defaults() {
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/default.toml")).unwrap();
    assert_eq!(shipped, schema::render(), "write it anew: tidegate check --defaults > config/default.toml");
    let file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/config/default.toml").into());
    let loaded = Settings::load(&Sources { file, ..Sources::default() }).unwrap();
    assert_eq!(format!("{loaded:?}"), format!("{:?}", with(&[]).unwrap()));
}

#[test]
fn every_fault_is_told_at_once_with_key_value_and_what_is_allowed() {
    let faults =
        with(&[("server.listen", "nonsense"), ("heartbeat.intervall", "5s"), ("log.ack", "maybe")]).unwrap_err();
    let text = faults.to_string();
    assert_eq!(faults.0.len(), 3, "{text}");
    for part in [
        "server.listen = \"nonsense\"",
        "127.0.0.1:8000",
        "did you mean heartbeat.interval?",
        "one of memory, logged, synced",
    ] {
        assert!(text.contains(part), "{part} in: {text}");
    }
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    std::fs::write(&file, "[heartbeat]\ninterval = \"1s\"\ntimeout = \"1s\"\nretry = \"1s\"").unwrap();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let settings = Settings::load(&Sources {
        file: Some(file),
        environment: vec![
            pair("TIDEGATE_HEARTBEAT__TIMEOUT", "2s"),
            pair("TIDEGATE_HEARTBEAT__RETRY", "2s"),
            pair("HOME", "x"),
        ],
        flags: vec![pair("heartbeat.retry", "3s")],
    })
    .unwrap();
    let seconds =
        [settings.heartbeat.interval, settings.heartbeat.timeout, settings.heartbeat.retry].map(|time| time.as_secs());
    assert_eq!(seconds, [1, 2, 3]);
}

#[test]
fn a_namespace_takes_what_it_does_not_say_from_the_default_one() {
    let settings = with(&[("rooms.default.retention_count", "7"), ("rooms.well.on_full", "displace")]).unwrap();
    let (well, other) = (settings.rooms.of("well"), settings.rooms.of("other"));
    assert_eq!((well.retention.count, well.policy.on_full), (Some(7), OnFull::Displace));
    assert_eq!((other.retention.count, other.policy.on_full), (Some(7), OnFull::CatchUp));
}

#[test]
fn a_wrong_secret_is_not_repeated() {
    let text = with(&[("auth.api_keys", "swordfish")]).unwrap_err().to_string();
    assert!(text.contains("auth.api_keys") && !text.contains("swordfish"), "{text}");
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_named() {
    let missing = Sources { file: Some("no/such/file.toml".into()), ..Sources::default() };
    assert!(Settings::load(&missing).unwrap_err().to_string().contains("no/such/file.toml"));
}
