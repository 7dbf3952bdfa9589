//! Counting instructions: this program runs itself under callgrind, a process for each step, once with N rounds and once with 2 N. What the second takes more is what N rounds take, without the
//! set-up and what only the first round does. Only what [`counted`] calls is collected, and of that not what [`aside`] calls; no other thread is.
//!
//! No crate for it: iai-callgrind (gungraun) needs a second program of exactly its version to be installed from source, and brings a macro and a report of its own; what is needed here are two runs and a subtraction.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{STEPS, Step};

/// The argument with which this program is the one that is counted.
pub(crate) const COUNT: &str = "--count";

/// Calls `work` so often. The functions' names are callgrind's switches: collecting begins where this is entered and ends where it is left, and the other way round for [`guard_aside`].
#[inline(never)]
fn guard_counted(work: &mut dyn FnMut(), rounds: u64) {
    for _ in 0..rounds {
        work();
    }
}

#[inline(never)]
fn guard_aside(work: &mut dyn FnMut()) {
    work();
}

/// Does what belongs to a round, but not to what is counted: making what it takes, looking at what it gave. Must not be called within itself.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    let (mut work, mut made) = (Some(work), None);
    guard_aside(&mut || made = work.take().map(|work| work()));
    made.unwrap()
}

/// What runs under callgrind.
pub(crate) fn count(step: &str, rounds: u64) {
    let step = STEPS.iter().find(|known| known.name == step).unwrap();
    let mut work = (step.prepare)();
    guard_counted(&mut *work, rounds);
}

/// Instructions a unit of each step that is asked for.
pub(crate) fn measure(asked: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let steps: Vec<&Step> = STEPS.iter().filter(|step| asked(step.name)).collect();
    let cost = |step: &Step| {
        let (once, twice) = (collected(step, step.rounds, dir.path()), collected(step, step.rounds * 2, dir.path()));
        // What was collected grows with the rounds, or the switches do not work.
        let more = twice.checked_sub(once).filter(|more| *more > 0);
        let more =
            more.unwrap_or_else(|| panic!("{}: {once} instructions, and with twice the rounds {twice}", step.name));
        (step.name.to_owned(), more.div_ceil(step.rounds * step.units))
    };
    // Two at a time: what is counted does not depend on what runs beside it.
    let (even, odd): (Vec<_>, Vec<_>) = steps.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let work = |steps: Vec<(usize, &&Step)>| steps.into_iter().map(|(_, step)| cost(step)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(odd));
        work(even).into_iter().chain(other.join().unwrap()).collect()
    })
}

/// Instructions that so many rounds take.
fn collected(step: &Step, rounds: u64, dir: &Path) -> u64 {
    let profile = std::fs::read_to_string(profile(step, rounds, dir)).unwrap();
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    totals.trim().parse().unwrap()
}

/// Prints the functions in which the instructions of each step that is asked for are.
pub(crate) fn show(asked: impl Fn(&str) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    for step in STEPS.iter().filter(|step| asked(step.name)) {
        println!("\n{}: the functions, of {} rounds of {}", step.name, step.rounds, step.units);
        let profile = profile(step, step.rounds, dir.path());
        let status = Command::new("callgrind_annotate").args(["--auto=no", "--threshold=90"]).arg(profile).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "callgrind_annotate, which comes with valgrind, does not run"
        );
    }
}

/// Runs a step under callgrind; the file that it wrote.
fn profile(step: &Step, rounds: u64, dir: &Path) -> PathBuf {
    let place = STEPS.iter().position(|known| known.name == step.name).unwrap();
    let out = dir.join(format!("{place}.{rounds}"));
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind", "--toggle-collect=*guard_counted*", "--toggle-collect=*guard_aside*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .args([COUNT, step.name, &rounds.to_string()]);
    // What was freed goes back to the system after a time, which is another one in each run.
    command.env_clear().env("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1");
    // Nothing else: the environment lies on the stack and moves it.
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(dir);
    let output =
        command.output().unwrap_or_else(|error| panic!("valgrind does not run ({error}): tests/setup installs it"));
    assert!(output.status.success(), "{}: {}", step.name, String::from_utf8_lossy(&output.stderr));
    out
}
