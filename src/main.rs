//! The tidegate daemon and its command line.

use std::process::ExitCode;

/// Half the memory per idle SSE connection of the system's allocator; see `benches/README.md`.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidegate::cli::run()
}
