//! Makes a large log by the log's own code, in this process, so that it takes no longer than the log does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use indicatif::ProgressBar;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_actors::Policy;
use tokio::time::Instant;

use super::StartArguments;
use crate::clock;
use crate::event::{Ack, Event, NewEvent, RoomKey, RoomName};
use crate::log::{Log, RoomIndex};
use crate::settings::{Settings, Sources};

/// Different readings; more would not make them compress any worse.
const SAMPLES: usize = 4096;
/// So long the log may take to close.
const CLOSE: Duration = Duration::from_secs(60);

/// What was made.
pub(super) struct Filled {
    pub(super) events: u64,
    pub(super) took: Duration,
}

/// The name of a room that is filled.
pub(super) fn room(number: u64) -> String {
    format!("filled:{number}")
}

/// Fills a log and closes it in good order.
pub(super) async fn run(
    directory: &Path,
    flags: &[(&str, String)],
    arguments: &StartArguments,
    bar: &ProgressBar,
) -> anyhow::Result<Filled> {
    let wanted = bytes_of(arguments.log_gb)?;
    enough_room(directory, wanted)?;
    let mut flags: Vec<(String, String)> =
        flags.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    flags.push(("log.dir".to_owned(), directory.display().to_string()));
    let settings = Settings::load(&Sources { flags, ..Sources::default() }).map_err(|faults| {
        anyhow::anyhow!("{}", faults.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let log = Log::open(&settings.log, &settings.rooms)?;
    let (samples, began) = (samples(), Instant::now());
    let mut turn = samples.iter().cycle();
    let rooms = rooms(&log, arguments.rooms)?;
    bar.set_message("filling");
    bar.set_length(wanted);
    let (mut bytes, mut events, mut next) = (0, 0_u64, 1_u64);
    while bytes < wanted {
        for (key, index) in &rooms {
            let run = (0..arguments.run).map(|n| {
                let sample = turn.next().cloned().unwrap_or_default();
                bytes += sample.len() as u64;
                Arc::new(Event::number(
                    key,
                    next + n,
                    clock::now_ms(),
                    clock::now_us(),
                    NewEvent::new("sample", sample),
                ))
            });
            log.append(index, run.collect(), Ack::Memory).await?;
            events += arguments.run;
        }
        next += arguments.run;
        bar.set_position(bytes);
    }
    bar.set_message("closing");
    let closing = log.clone();
    if !tokio::task::spawn_blocking(move || closing.close(CLOSE)).await? {
        bail!("the log was not closed within {CLOSE:?}");
    }
    Ok(Filled { events, took: began.elapsed() })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
fn bytes_of(gb: f64) -> anyhow::Result<u64> {
    if !(0.0..=100_000.0).contains(&gb) {
        bail!("--log-gb {gb}: expected a number from 0 to 100000");
    }
    Ok((gb * 1e9) as u64)
}

fn rooms(log: &Log, count: u64) -> anyhow::Result<Vec<(RoomKey, Arc<RoomIndex>)>> {
    let made = (0..count).map(|number| {
        let name = RoomName::parse(&room(number))?;
        let index = log.room_or_create(&name, 1);
        anyhow::Ok((RoomKey::new(name, Policy::default()), index))
    });
    made.collect()
}

/// What is compressed may be smaller, what is copied larger.
fn enough_room(directory: &Path, wanted: u64) -> anyhow::Result<()> {
    let parent = directory.ancestors().find(|path| path.is_dir()).context("there is no such directory")?;
    let disk = rustix::fs::statvfs(parent)?;
    let free = disk.f_bavail * disk.f_frsize;
    if free < wanted + wanted / 2 {
        bail!(
            "{}: {} MB are free, and a log of {} MB is wanted",
            parent.display(),
            free / 1_000_000,
            wanted / 1_000_000
        );
    }
    Ok(())
}

/// Readings as a pump would send them, so that compression gets no easier work than it has.
fn samples() -> Vec<Bytes> {
    let mut random = StdRng::seed_from_u64(1);
    let sample = |_| {
        let mut reading = |most: f64| (random.random_range(0.0..most) * 1000.0).round() / 1000.0;
        let data = serde_json::json!({
            "flow_rate": reading(900.0), "pip": reading(3000.0), "motor_current": reading(60.0), "motor_temp": reading(180.0), "vibration": reading(6.0),
            "vsd_frequency": reading(60.0), "flow_variance": reading(20.0), "torque": reading(400.0), "gor": reading(900.0), "status": "running",
        });
        Bytes::from(data.to_string())
    };
    (0..SAMPLES).map(sample).collect()
}
