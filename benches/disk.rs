//! The disk under retention: events are written for what would be hours of a busy dashboard, and the directory is measured as it goes. It must stay flat.
//!
//! `cargo bench --bench disk`, or `-- --short`. Ten hot rooms keep so many events each; one quiet room keeps everything, which must not pin what is old.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, missing_docs, reason = "a bench")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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
    // Readings as a pump would send them, so that compression gets no easier work than it has.
    let mut random = StdRng::seed_from_u64(1);
    let samples: Vec<bytes::Bytes> = (0..4096).map(|_| {
        let mut reading = |most: f64| (random.random_range(0.0..most) * 1000.0).round() / 1000.0;
        let data = serde_json::json!({
            "flow_rate": reading(900.0), "pip": reading(3000.0), "motor_current": reading(60.0), "motor_temp": reading(180.0), "vibration": reading(6.0),
            "vsd_frequency": reading(60.0), "flow_variance": reading(20.0), "torque": reading(400.0), "gor": reading(900.0), "status": "running",
        });
        bytes::Bytes::from(data.to_string())
    }).collect();
    let mean = samples.iter().map(bytes::Bytes::len).sum::<usize>() as f64 / samples.len() as f64;
    let publish = |key: &RoomKey, first: u64, count: u64| {
        let room = log.room_or_create(key.name(), 1);
        let events = (first..first + count).map(|seq| {
            Arc::new(Event::number(
                key,
                seq,
                clock::now_ms(),
                clock::now_us(),
                NewEvent::new("sample", samples[usize::try_from(seq % 4096).unwrap()].clone()),
            ))
        });
        runtime.block_on(async {
            log.append(&room, events.collect(), Ack::Logged).await.unwrap().unwrap().await.unwrap()
        });
    };
    let raw = (ROOMS * KEPT) as f64 * (mean + 6.0);
    println!("{ROOMS} rooms keep {KEPT} events of {mean:.0} bytes of data each: {:.0} MB of data and kinds", raw / 1e6);
    println!("| events written | events/s | on disk MB | × what is kept | generations |");
    println!("|---|---|---|---|---|");
    let rolled = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&rolled);
    log.on_roll(move || tell.store(true, Ordering::Release));
    let began = Instant::now();
    let mut kept_house = began;
    let (mut written, mut round, mut most, mut least) = (0, 0, 0_u64, u64::MAX);
    while written < total {
        for room in &hot {
            publish(room, round * BATCH + 1, BATCH);
            written += BATCH;
        }
        publish(&quiet, round + 1, 1);
        round += 1;
        // Once a second and whenever a generation is full, as in the daemon.
        if kept_house.elapsed() > Duration::from_secs(1) || rolled.swap(false, Ordering::AcqRel) {
            log.housekeep().unwrap();
            kept_house = Instant::now();
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
