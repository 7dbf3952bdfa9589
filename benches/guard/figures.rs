//! The committed instruction counts: reading, writing, and comparing them with what was counted now.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use serde::Deserialize;

/// Where they stand, from the repository's root.
pub(crate) const FILE: &str = "benches/guard/instructions.toml";
/// What a count may be above the committed one, in percent: counts of the same program were seen to differ by one and a half (random hash seeds, when other threads take what is handed to them), and code
/// that the compiler lays out otherwise may add to that.
const MORE_PERCENT: f64 = 5.0;
/// The same where the compiler or valgrind is another one.
const OTHER_TOOLS_PERCENT: f64 = 15.0;
/// Below the committed one by more than this, it should be lowered: a later loss would not be seen.
const LESS_PERCENT: f64 = 10.0;

/// What counts depend on beside the code.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Tools {
    pub(crate) arch: String,
    pub(crate) rustc: String,
    pub(crate) valgrind: String,
}

/// Counts, and with what they were made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Figures {
    pub(crate) made: Tools,
    pub(crate) instructions: BTreeMap<String, u64>,
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) table: String,
    /// What is not wrong, and should be known.
    pub(crate) notices: Vec<String>,
    /// What fails the check.
    pub(crate) faults: Vec<String>,
}

impl Tools {
    pub(crate) fn here() -> Self {
        let version = |program: &str| {
            let output = Command::new(program).arg("--version").output();
            let output = output.unwrap_or_else(|error| panic!("{program} does not run: {error}"));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        Self { arch: std::env::consts::ARCH.to_owned(), rustc: version(&rustc), valgrind: version("valgrind") }
    }
}

impl Figures {
    pub(crate) fn read() -> Result<Self, String> {
        let text = std::fs::read_to_string(path()).map_err(|error| error.to_string())?;
        toml::from_str(&text).map_err(|error| error.to_string())
    }

    /// Writes them in this order.
    pub(crate) fn write(&self, names: &[&str]) {
        let Tools { arch, rustc, valgrind } = &self.made;
        let mut text = format!(
            "# Instructions of each step of an event's way, a unit. Written by `tests/speed --accept`; benches/README.md says what they are.\n\n\
             [made]\narch = \"{arch}\"\nrustc = \"{rustc}\"\nvalgrind = \"{valgrind}\"\n\n[instructions]\n"
        );
        for (name, count) in names.iter().filter_map(|name| Some((name, self.instructions.get(*name)?))) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "\"{name}\" = {count}");
        }
        std::fs::write(path(), text).unwrap();
    }
}

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn percent(was: u64, is: u64) -> f64 {
    (is as f64 - was as f64) * 100.0 / was as f64
}

/// Compares what was counted with what is committed.
pub(crate) fn compare(committed: &Figures, now: &Figures) -> Report {
    let mut report = Report {
        table: format!("{:<56} {:>9} {:>9} {:>8}\n", "instructions", "committed", "counted", ""),
        ..Report::default()
    };
    if committed.made.arch != now.made.arch {
        report.faults.push(format!(
            "the figures are of {}, this is {}: there is nothing to compare with",
            committed.made.arch, now.made.arch
        ));
    }
    let bound = if committed.made == now.made { MORE_PERCENT } else { OTHER_TOOLS_PERCENT };
    if committed.made != now.made {
        let (was, is) = (&committed.made, &now.made);
        report.notices.push(format!(
            "the committed figures were made with {} and {}, these with {} and {}: {bound} % more are let pass instead of {MORE_PERCENT} %. Take the figures anew: {}",
            was.rustc, was.valgrind, is.rustc, is.valgrind, accept("")
        ));
    }
    for (name, is) in &now.instructions {
        let Some(was) = committed.instructions.get(name) else {
            report
                .faults
                .push(format!("{name}: no figure is committed, {is} were counted. To commit it: {}", accept(name)));
            continue;
        };
        let percent = percent(*was, *is);
        let _ = writeln!(report.table, "{name:<56} {was:>9} {is:>9} {percent:>+7.1}%");
        if percent > bound {
            report.faults.push(format!(
                "{name}: {is} instructions, {percent:.1} % more than the committed {was}; at most {bound} % more are let pass. \
                 To see where they are: `tests/speed instructions --where \"{name}\"`. If the step is worth that: {}",
                accept(name)
            ));
        } else if percent < -LESS_PERCENT {
            report.notices.push(format!("{name}: {is} instructions, {:.1} % less than the committed {was}. Lower it, so that a later loss is seen: {}", -percent, accept(name)));
        }
    }
    for name in committed.instructions.keys().filter(|name| !now.instructions.contains_key(*name)) {
        report.faults.push(format!("{name}: a figure is committed in {FILE}, and no step has this name"));
    }
    report
}

fn accept(name: &str) -> String {
    let which = if name.is_empty() { String::new() } else { format!(" instructions \"{name}\"") };
    format!("`tests/speed --accept{which}`, then commit {FILE}")
}
