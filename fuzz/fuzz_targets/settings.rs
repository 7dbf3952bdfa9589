//! Settings: a line `key=value` each, as flags and as the environment. Whatever they say, the outcome is settings or faults.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tidegate::settings::{Settings, Sources};

fuzz_target!(|text: &str| {
    let pairs = || text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let environment = pairs().map(|(key, value)| (format!("TIDEGATE_{}", key.to_uppercase().replace('.', "__")), value));
    for sources in [
        Sources { flags: pairs().collect(), ..Sources::default() },
        Sources { environment: environment.collect(), ..Sources::default() },
    ] {
        if let Err(faults) = Settings::load(&sources) {
            assert!(!faults.0.is_empty());
            let _ = faults.to_string();
        }
    }
});
