//! The disk under retention: events are written for what would be hours of a busy dashboard, and the directory is measured as it goes. It must stay flat. `benches/disk.rs`
//! prints every look, the row `disk` what it comes to.
//!
//! Ten hot rooms keep so many events each; one quiet room keeps everything, which must not pin what is old.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::clock;
use crate::event::{Ack, Event, NewEvent, RoomKey, RoomName};
use crate::log::Log;
use crate::settings::{Settings, Sources};

const ROOMS: u64 = 10;
const KEPT: u64 = 50_000;
const BATCH: u64 = 500;
const SAMPLES: usize = 4096;
/// How often the directory is looked at.
const LOOKS: u64 = 20;

/// The directory at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Events written so far.
    pub written: u64,
    /// Of all of them.
    pub events_per_second: f64,
    /// What files take of the disk.
    pub bytes: u64,
    /// To the bytes of data and kinds that are kept.
    pub ratio: f64,
    /// The log's.
    pub generations: usize,
}

/// What files take of the disk, not how long they claim to be.
fn used(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => used(&entry.path()),
            Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Readings as a pump would send them, so that compression gets no easier work than it has.
fn samples() -> Vec<bytes::Bytes> {
    let mut random = StdRng::seed_from_u64(1);
    let mut reading = |most: f64| (random.random_range(0.0..most) * 1000.0).round() / 1000.0;
    let sample = |_| {
        let data = serde_json::json!({
            "flow_rate": reading(900.0), "pip": reading(3000.0), "motor_current": reading(60.0),
            "motor_temp": reading(180.0), "vibration": reading(6.0), "vsd_frequency": reading(60.0),
            "flow_variance": reading(20.0), "torque": reading(400.0), "gor": reading(900.0), "status": "running",
        });
        bytes::Bytes::from(data.to_string())
    };
    (0..SAMPLES).map(sample).collect()
}

struct Writing {
    log: Log,
    runtime: tokio::runtime::Runtime,
    samples: Vec<bytes::Bytes>,
}

impl Writing {
    fn open(directory: &Path) -> anyhow::Result<Self> {
        let pair = |key: &str, value: String| (key.to_owned(), value);
        let flags = vec![
            pair("log.dir", directory.display().to_string()),
            pair("rooms.hot.retention_count", KEPT.to_string()),
            pair("rooms.hot.retention_bytes", "0".into()),
            pair("rooms.quiet.retention_age", "0".into()),
            pair("log.generation_bytes", "16MiB".into()),
        ];
        let settings = Settings::load(&Sources { flags, ..Sources::default() });
        let settings = settings.map_err(|faults| anyhow!("{faults:?}"))?;
        let log = Log::open(&settings.log, &settings.rooms)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Self { log, runtime, samples: samples() })
    }

    fn publish(&self, key: &RoomKey, first: u64, count: u64) -> anyhow::Result<()> {
        let room = self.log.room_or_create(key.name(), 1);
        let events = (first..first + count).zip(self.samples.iter().cycle().skip(usize::try_from(first)? % SAMPLES));
        let (now_ms, now_us) = (clock::now_ms(), clock::now_us());
        let events = events.map(|(seq, sample)| {
            Arc::new(Event::number(key, seq, now_ms, now_us, NewEvent::new("sample", sample.clone())))
        });
        self.runtime.block_on(async {
            let kept = self.log.append(&room, events.collect(), Ack::Logged).await?;
            kept.context("the log gave no receipt")?.await?;
            Ok(())
        })
    }
}

/// Writes so many events into a log of its own in this directory and tells what it looks like twenty times meanwhile.
///
/// # Errors
/// When the log fails.
pub fn run(directory: &Path, events: u64, mut tell: impl FnMut(Look) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let writing = Writing::open(directory)?;
    let key = |name: &str| {
        let name = RoomName::parse(name).map_err(|error| anyhow!("{name}: {error:?}"))?;
        anyhow::Ok(RoomKey::new(name, tidegate_actors::Policy::default()))
    };
    let hot: Vec<RoomKey> = (0..ROOMS).map(|number| key(&format!("hot:{number}"))).collect::<anyhow::Result<_>>()?;
    let quiet = key("quiet:1")?;
    let rolled = Arc::new(AtomicBool::new(false));
    let rolling = Arc::clone(&rolled);
    writing.log.on_roll(move || rolling.store(true, Ordering::Release));
    let kept = kept_bytes(&writing.samples);
    let began = Instant::now();
    let mut kept_house = began;
    let rounds = events.div_ceil(BATCH * ROOMS).max(LOOKS);
    for round in 0..rounds {
        for room in &hot {
            writing.publish(room, round * BATCH + 1, BATCH)?;
        }
        writing.publish(&quiet, round + 1, 1)?;
        // Once a second and whenever a generation is full, as in the daemon.
        if kept_house.elapsed() > Duration::from_secs(1) || rolled.swap(false, Ordering::AcqRel) {
            writing.log.housekeep()?;
            kept_house = Instant::now();
        }
        if (round + 1) % (rounds / LOOKS) == 0 {
            let (written, bytes) = ((round + 1) * BATCH * ROOMS, used(directory));
            let events_per_second = written as f64 / began.elapsed().as_secs_f64();
            let generations = writing.log.status().generations;
            tell(Look { written, events_per_second, bytes, ratio: bytes as f64 / kept, generations })?;
        }
    }
    Ok(())
}

/// Bytes of data and kinds that all hot rooms keep together once they are full.
fn kept_bytes(samples: &[bytes::Bytes]) -> f64 {
    let mean = samples.iter().map(bytes::Bytes::len).sum::<usize>() as f64 / samples.len() as f64;
    (ROOMS * KEPT) as f64 * (mean + "sample".len() as f64)
}
