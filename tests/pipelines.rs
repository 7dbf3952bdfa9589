//! The pipelines that are shipped do what stands beside them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::Path;

use tidegate::pipelines::{Definition, cases, set};

#[test]
fn every_shipped_pipeline_has_cases_and_passes_them() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipelines");
    let loaded = set::load(Some(&directory), true, |_| true, None).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert!(loaded.len() >= set::EMBEDDED.len());
    for Definition { name, file, text, .. } in loaded {
        let beside = directory.join(format!("{name}{}", set::CASES));
        let cases = std::fs::read_to_string(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
        let cases = cases::read(&cases).unwrap_or_else(|why| panic!("{}: {why}", beside.display()));
        assert!(cases.len() >= 2, "{name} has hardly any cases");
        for case in &cases {
            let definition = Definition::read(&name, &file, &text, Some(&directory)).unwrap();
            if let Err(why) = cases::run(definition, case) {
                panic!("{name}: {}\n{why}", case.name);
            }
        }
    }
}

#[test]
fn what_the_binary_holds_is_what_the_directory_holds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipelines");
    for (name, text) in set::EMBEDDED {
        assert_eq!(std::fs::read_to_string(directory.join(format!("{name}.toml"))).unwrap(), *text);
    }
    let files = std::fs::read_dir(&directory).unwrap().filter_map(Result::ok);
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let pipelines = names.filter(|name| name.ends_with(".toml") && !name.ends_with(set::CASES)).count();
    assert_eq!(pipelines, set::EMBEDDED.len(), "a pipeline in the directory is not in the binary");
}
