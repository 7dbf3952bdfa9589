//! Pipelines' files: the outcome is a pipeline or faults with their places, and what is read is read again the same.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tidegate::pipelines::Definition;

fuzz_target!(|text: &str| {
    match Definition::read("p", "p.toml", text, None) {
        Ok(definition) => {
            let again = Definition::again(&definition.written()).expect("the same text");
            assert_eq!(again.from, definition.from);
        }
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| fault.line > 0 && fault.column > 0)),
    }
});
