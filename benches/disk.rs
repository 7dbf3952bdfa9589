//! The disk under retention: events are written for what would be hours of a busy dashboard, and the directory is measured as it goes. It must stay flat.
//!
//! `cargo bench --bench disk`, or `-- --short`. Ten hot rooms keep so many events each; one quiet room keeps everything, which must not pin what is old.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, missing_docs, reason = "a bench")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tidegate::clock;
use tidegate::event::{Ack, Event, NewEvent, RoomKey, RoomName};
use tidegate::log::Log;
use tidegate::settings::{Settings, Sources};

const ROOMS: u64 = 10;
const KEPT: u64 = 50_000;
const BATCH: u64 = 500;

fn bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes(&entry.path()),
            // What is used, not how long the file claims to be.
            Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
            Err(_) => 0,
        })
        .sum()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let total: u64 = if arguments.iter().any(|argument| argument == "--short") { 2_000_000 } else { 20_000_000 };
    let dir = tempfile::tempdir().unwrap();
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let flags = vec![
        pair("log.dir", dir.path().display().to_string()),
        pair("rooms.hot.retention_count", KEPT.to_string()),
        pair("rooms.hot.retention_bytes", "0".into()),
        pair("rooms.quiet.retention_age", "0".into()),
        pair("log.generation_bytes", "16MiB".into()),
    ];
    let settings = Settings::load(&Sources { flags, ..Sources::default() }).unwrap();
    let log = Log::open(&settings.log, &settings.rooms).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = |name: &str| RoomKey::new(RoomName::parse(name).unwrap(), tidegate_actors::Policy::default());
    let hot: Vec<RoomKey> = (0..ROOMS).map(|n| key(&format!("hot:{n}"))).collect();
    let quiet = key("quiet:1");
    let data = bytes::Bytes::from(format!("\"{}\"", "x".repeat(198)));
    let publish = |key: &RoomKey, first: u64, count: u64| {
        let room = log.room_or_create(key.name(), 1);
        let events = (first..first + count)
            .map(|seq| Arc::new(Event::number(key, seq, clock::now_ms(), NewEvent::new("sample", data.clone()))));
        runtime.block_on(async {
            log.append(&room, events.collect(), Ack::Logged).await.unwrap().unwrap().await.unwrap()
        });
    };
    let raw = (ROOMS * KEPT * 206) as f64;
    println!("{ROOMS} rooms keep {KEPT} events of 200 bytes of data each: {:.0} MB of data and kinds", raw / 1e6);
    println!("| events written | events/s | on disk MB | × what is kept | generations |");
    println!("|---|---|---|---|---|");
    let began = Instant::now();
    let (mut written, mut round, mut most, mut least) = (0, 0, 0_u64, u64::MAX);
    while written < total {
        for room in &hot {
            publish(room, round * BATCH + 1, BATCH);
            written += BATCH;
        }
        publish(&quiet, round + 1, 1);
        round += 1;
        if round % 20 == 0 {
            log.housekeep().unwrap();
        }
        if round % (total / BATCH / ROOMS / 20) == 0 {
            let used = bytes(dir.path());
            if written > total / 4 {
                (most, least) = (most.max(used), least.min(used));
            }
            let rate = written as f64 / began.elapsed().as_secs_f64();
            println!(
                "| {written} | {rate:.0} | {:.0} | {:.2} | {} |",
                used as f64 / 1e6,
                used as f64 / raw,
                log.status().generations
            );
        }
    }
    println!(
        "after the first quarter between {:.0} and {:.0} MB: {:.2} to {:.2} × what is kept",
        least as f64 / 1e6,
        most as f64 / 1e6,
        least as f64 / raw,
        most as f64 / raw
    );
}
