//! All that is promised of tidegate's speed, beside the bare broadcaster: `tidegate bench goals` by the binary that cargo has just built.
//!
//! `cargo bench --bench end_to_end` runs all rows; what stands behind `--` goes to the command: `-- --short`, `-- --only memory,ingest`, `-- --help`.
#![allow(missing_docs, reason = "a bench")]

use std::os::unix::process::CommandExt;
use std::process::Command;

fn main() -> std::io::Result<()> {
    // Cargo says --bench to each bench; `cargo test --benches` says --test, and only looks whether it starts.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    // It takes the place of this process, unless it does not start.
    Err(Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["bench", "goals"]).args(arguments).exec())
}
