//! The log against `kill -9`: a child writes, is killed at a random moment, and what is there afterwards is held against what each acknowledgement promised. Hundreds of times, on the same directory.
//!
//! The child is this test binary again, told by an environment variable to write. It says on its standard output, line by line and unbuffered, what was acknowledged; a line is
//! written after the acknowledgement, so whatever the parent has read was promised.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate::clock;
use tidegate::event::{Ack, Event, NewEvent, RoomKey, RoomName};
use tidegate::log::Log;
use tidegate::settings::{Settings, Sources};

const ROLE: &str = "TIDEGATE_CRASH_CHILD";
const ROUNDS: u64 = 300;
const ROOMS: [&str; 3] = ["a", "b:1", "b:2"];

fn settings(dir: &Path) -> Settings {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    // Small generations, so that kills fall into sealing, copying and deleting too.
    let flags = vec![
        pair("log.dir", &dir.display().to_string()),
        pair("log.generation_bytes", "1MiB"),
        pair("rooms.default.retention_count", "3000"),
        pair("rooms.default.retention_age", "0"),
        pair("log.bytes_max", "1GiB"),
    ];
    Settings::load(&Sources { flags, ..Sources::default() }).unwrap()
}

fn open(dir: &Path) -> Log {
    let settings = settings(dir);
    Log::open(&settings.log, &settings.rooms).expect("what a killed writer left can be opened")
}

fn key(name: &str) -> RoomKey {
    RoomKey::new(RoomName::parse(name).unwrap(), tidegate_actors::Policy::default())
}

/// The data of an event says which one it is, so that a wrong one in its place would show.
fn data(name: &str, seq: u64) -> String {
    format!("{{\"room\":\"{name}\",\"n\":{seq},\"fill\":\"{}\"}}", "x".repeat(usize::try_from(seq % 300).unwrap()))
}

/// The child: three rooms, each with another acknowledgement, until it is killed.
fn write_until_killed(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let log = open(dir);
        let keeping = log.clone();
        tokio::task::spawn_blocking(move || {
            loop {
                keeping.housekeep().unwrap();
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let writers: Vec<_> = ROOMS
            .iter()
            .zip([Ack::Memory, Ack::Logged, Ack::Synced])
            .map(|(name, ack)| {
                let log = log.clone();
                tokio::spawn(write_room(log, name, ack))
            })
            .collect();
        say("open");
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn write_room(log: Log, name: &'static str, ack: Ack) {
    let key = key(name);
    let room = log.room_or_create(key.name(), 1);
    let mut next = room.logged() + 1;
    loop {
        let count = 1 + next % 7;
        let events = (next..next + count).map(|seq| {
            Arc::new(Event::number(
                &key,
                seq,
                clock::now_ms(),
                clock::now_us(),
                NewEvent::new("k", data(name, seq).into()),
            ))
        });
        let done = log.append(&room, events.collect(), ack).await.unwrap();
        next += count;
        if let Some(done) = done {
            done.await.unwrap();
            say(&format!("{name} {}", next - 1));
        } else {
            tokio::task::yield_now().await;
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The parent has closed its end: it will kill this process in a moment.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Runs a child until the moment to kill it; what it promised, by room.
fn one_life(dir: &Path, lives: Duration) -> BTreeMap<String, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_was_acknowledged_survives_kill_9", "--nocapture", "--quiet"])
        .env(ROLE, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "open" {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the child could not open the log");
    }
    let killer = std::thread::spawn(move || {
        // The moment is what is random here; there is nothing to wait for.
        std::thread::park_timeout(lives);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let mut said = String::new();
    lines.read_to_string(&mut said).unwrap();
    killer.join().unwrap();
    let whole = said.rsplit_once('\n').map_or("", |split| split.0);
    let mut promised = BTreeMap::new();
    for (name, seq) in whole.lines().filter_map(|line| line.split_once(' ')) {
        promised.insert(name.to_owned(), seq.parse().unwrap());
    }
    promised
}

/// Everything the log holds of a room, checked event by event.
fn held(log: &Log, runtime: &tokio::runtime::Runtime, name: &str) -> (u64, u64) {
    let key = key(name);
    let Some(room) = log.room(key.name()) else { return (0, 0) };
    let events = runtime.block_on(log.read_wait(&key, &room, 0, usize::MAX)).unwrap();
    let Some(first) = events.first().map(|event| event.seq) else { return (0, 0) };
    for (event, seq) in events.iter().zip(first..) {
        assert_eq!(event.seq, seq, "{name}: a hole or a repetition");
        assert_eq!(event.data(), data(name, seq).as_bytes(), "{name} {seq}: another event stands in its place");
    }
    (first, first + events.len() as u64 - 1)
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(dir) = std::env::var_os(ROLE) {
        return write_until_killed(Path::new(&dir));
    }
    let seed =
        std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println_seed(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut promised_in_all = 0;
    let mut last_before: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        let lives = Duration::from_micros(random.random_range(0..60_000));
        let promised = one_life(dir.path(), lives);
        let log = open(dir.path());
        assert!(!log.was_clean(), "a killed writer leaves no mark of a clean stop");
        for name in ROOMS {
            let (first, last) = held(&log, &runtime, name);
            let promise = promised.get(name).copied().unwrap_or(0);
            // What ack=memory promises is only that nothing is out of order, which `held` has checked.
            assert!(
                last >= promise,
                "round {round}, seed {seed}: {name} was acknowledged up to {promise}, there is {first} to {last}"
            );
            let before = last_before.insert(name, last).unwrap_or(0);
            assert!(last >= before, "round {round}: {name} went back from {before} to {last}");
            assert!(last - first < 3000, "round {round}: {name} keeps {first} to {last}");
            promised_in_all += u64::from(promise > before);
        }
        // Not closed in order either: the next child finds what a reader left.
        drop(log);
        wait_until_free(dir.path());
    }
    assert!(promised_in_all > ROUNDS / 2, "the children were killed before they had promised anything");
}

/// The log's own threads let go of the directory in a moment.
fn wait_until_free(dir: &Path) {
    loop {
        let lock = std::fs::File::open(dir.join("LOCK")).unwrap();
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            return;
        }
        std::thread::yield_now();
    }
}

#[allow(clippy::print_stdout, reason = "a random test says how to repeat it")]
fn println_seed(seed: u64) {
    println!("TIDEGATE_SEED={seed}");
}
