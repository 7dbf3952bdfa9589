//! The house rules that a compiler does not know: who may name whom, which file alone names a library, and that the documents say what the code says.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use tidegate::metrics::names::{ALL, Kind};

fn sources(under: &str) -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join(under), &mut found);
    assert!(!found.is_empty());
    let relative = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    found.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The code of a file without its comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn data_flows_one_way_and_nobody_names_what_lies_to_the_right() {
    // What each part must not name. Rooms name the mailbox of a connection, because that is where they deliver; nothing else of it.
    let rules: &[(&str, &[&str])] = &[
        ("src/event", &["crate::engine", "crate::edge", "crate::log", "crate::settings", "crate::app", "crate::cli"]),
        ("src/log", &["crate::engine", "crate::edge", "crate::app", "crate::cli"]),
        ("src/auth", &["crate::engine", "crate::edge", "crate::log", "crate::app", "crate::cli"]),
        ("src/limits", &["crate::engine", "crate::edge", "crate::log", "crate::app", "crate::cli"]),
        ("src/store", &["crate::engine", "crate::edge", "crate::app", "crate::cli"]),
        ("src/settings", &["crate::engine", "crate::edge", "crate::log", "crate::app", "crate::cli"]),
        ("src/pipelines", &["crate::engine", "crate::edge", "crate::log", "crate::app", "crate::cli"]),
        (
            "src/engine/pipelines",
            &["crate::engine::sources", "connections::supervisor", "crate::edge", "crate::app", "crate::cli"],
        ),
        (
            "src/engine/sinks",
            &["crate::engine::sources", "connections::supervisor", "crate::edge", "crate::app", "crate::cli"],
        ),
        (
            "src/engine/sources",
            &["crate::engine::pipelines", "crate::engine::connections", "crate::edge", "crate::app", "crate::cli"],
        ),
        (
            "src/engine/rooms",
            &[
                "crate::engine::sources",
                "crate::engine::pipelines",
                "connections::session",
                "connections::supervisor",
                "connections::dialect",
                "crate::edge",
                "crate::app",
                "crate::cli",
            ],
        ),
        ("src/engine/connections", &["crate::engine::sources", "crate::edge", "crate::app", "crate::cli"]),
        ("src/edge", &["crate::app", "crate::cli"]),
        ("actors/src", &["tidegate::"]),
    ];
    for (part, banned) in rules {
        for (file, text) in sources(part) {
            for name in *banned {
                assert!(!code(&text).any(|line| line.contains(name)), "{file} names {name}");
            }
        }
    }
}

#[test]
fn each_library_with_a_seam_is_named_behind_it_only() {
    let only = |under: &str, word: &str, allowed: &[&str]| {
        for (file, text) in sources(under) {
            if !allowed.iter().any(|allowed| file.starts_with(allowed)) {
                assert!(!code(&text).any(|line| line.contains(word)), "{file} names {word}");
            }
        }
    };
    only("src", "sled::", &["src/log/generation.rs"]);
    only("src", "use ractor::", &[]);
    only("actors/src", "use ractor::", &["actors/src/runner.rs", "actors/src/supervisor.rs"]);
    only("src", "counter!", &["src/metrics"]);
    only("src", "SystemTime::now", &["src/clock.rs"]);
    only("src", "axum", &["src/edge", "src/app.rs"]);
    only("src", "jsonwebtoken::", &["src/auth/jwt.rs"]);
    only("src", "argon2::", &["src/auth/users.rs"]);
    only("src", "governor::", &["src/limits/rates.rs"]);
    only("src", "sqlx::", &["src/store/postgres"]);
    only("src", "opentelemetry", &["src/traces.rs"]);
    only("src", "cel::", &["src/pipelines/expression"]);
    only("src", "jsonschema::", &["src/pipelines/operators/validate.rs"]);
    only("src", "sketches_ddsketch", &["src/pipelines/aggregates"]);
    only("src", "postcard::", &["src/pipelines/operator.rs", "src/engine/journal.rs"]);
}

#[test]
fn every_file_says_first_what_belongs_in_it_and_is_not_too_long() {
    for (file, text) in sources("src").into_iter().chain(sources("actors/src")) {
        assert!(text.starts_with("//! "), "{file} does not say what belongs in it");
        assert!(text.lines().count() <= 560, "{file} has {} lines", text.lines().count());
    }
}

#[test]
fn the_table_of_metrics_says_what_the_code_says() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = ALL
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            format!("| `{}` | {kind} | {} | {} |", metric.name, metric.labels, metric.help)
        })
        .collect();
    let squeeze = |row: &str| row.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        rows.iter().map(|row| squeeze(row)).collect::<Vec<_>>(),
        expected.iter().map(|row| squeeze(row)).collect::<Vec<_>>()
    );
}
