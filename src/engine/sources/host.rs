//! The host source: this machine's own figures, so that there is real data to look at from the first minute.
//!
//! Publishes to `host:cpu`, `host:memory`, `host:load`, `host:disk`, `host:network` and `host:process` every `sources.host.interval`. Reading the figures asks the system and may take
//! milliseconds, so it is done on a thread that may block. Over a restart nothing is kept but the next figures.

use bytes::Bytes;
use serde_json::{Value, json};
use smallvec::smallvec;
use sysinfo::{
    CpuRefreshKind, Disks, MemoryRefreshKind, Networks, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System,
};
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox};
use tokio::time::Instant;

use crate::engine::rooms::keeper::Nothing;
use crate::engine::rooms::{Publish, Rooms};
use crate::event::{NewEvent, RoomName};

/// The source.
pub struct HostSource {
    rooms: Rooms,
    probe: Option<Probe>,
}

impl std::fmt::Debug for HostSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostSource")
    }
}

/// What is asked for figures, with the last answers, from which rates are taken.
struct Probe {
    system: System,
    networks: Networks,
    disks: Disks,
    process: Pid,
    last: Instant,
}

impl HostSource {
    /// A source that publishes to these rooms.
    #[must_use]
    pub fn new(rooms: Rooms) -> Self {
        Self { rooms, probe: None }
    }
}

impl Handler for HostSource {
    type Message = Nothing;
    type Output = ();

    async fn started(&mut self) -> Result<(), Fault> {
        self.probe = Some(tokio::task::spawn_blocking(Probe::new).await??);
        Ok(())
    }

    async fn handle(&mut self, batch: &mut Batch<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        if batch.tick {
            let mut probe = self.probe.take().ok_or("the last look at the system failed")?;
            let (probe, figures) = tokio::task::spawn_blocking(move || {
                let figures = probe.look();
                (probe, figures)
            })
            .await?;
            self.probe = Some(probe);
            for (kind, data) in figures {
                let room = RoomName::parse(&format!("host:{kind}"))?;
                self.rooms
                    .publish(&room, Publish::unanswered(smallvec![NewEvent::new(kind, Bytes::from(data.to_string()))]));
            }
        }
        Ok(Flow::Continue)
    }
}

impl Probe {
    fn new() -> Result<Self, Fault> {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::everything());
        let system = System::new_with_specifics(what)?;
        let process = sysinfo::get_current_pid()?;
        let (networks, disks) = (Networks::new_with_refreshed_list()?, Disks::new_with_refreshed_list()?);
        Ok(Self { system, networks, disks, process, last: Instant::now() })
    }

    fn look(&mut self) -> [(&'static str, Value); 6] {
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64().max(0.001);
        self.last = now;
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.networks.refresh(true);
        self.disks.refresh(true);
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().with_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.process]), true, what);
        [
            ("cpu", self.cpu()),
            ("memory", self.memory()),
            ("load", load()),
            ("disk", self.disk(seconds)),
            ("network", self.network(seconds)),
            ("process", self.process()),
        ]
    }

    fn cpu(&self) -> Value {
        let cores: Vec<f64> = self.system.cpus().iter().map(|cpu| short(cpu.usage())).collect();
        json!({ "usage": short(self.system.global_cpu_usage()), "cores": cores })
    }

    fn memory(&self) -> Value {
        let system = &self.system;
        json!({
            "total": system.total_memory(),
            "used": system.used_memory(),
            "available": system.available_memory(),
            "swap_total": system.total_swap(),
            "swap_used": system.used_swap(),
        })
    }

    fn disk(&self, seconds: f64) -> Value {
        // Several mounts may lie on one device, whose traffic counts once.
        let mut devices = std::collections::HashSet::new();
        let (mut read, mut written) = (0, 0);
        let mut disks = Vec::new();
        for disk in &self.disks {
            if devices.insert(disk.name().to_owned()) {
                let usage = disk.usage();
                read += usage.read_bytes;
                written += usage.written_bytes;
            }
            let mount = disk.mount_point().to_string_lossy();
            disks.push(json!({ "mount": mount, "total": disk.total_space(), "available": disk.available_space() }));
        }
        json!({ "read_bytes_per_second": per_second(read, seconds), "written_bytes_per_second": per_second(written, seconds), "disks": disks })
    }

    fn network(&self, seconds: f64) -> Value {
        let (mut received, mut sent) = (0, 0);
        let mut interfaces = Vec::new();
        for (name, data) in &self.networks {
            received += data.received();
            sent += data.transmitted();
            interfaces.push(json!({
                "name": name.to_string_lossy(),
                "received_bytes_per_second": per_second(data.received(), seconds),
                "sent_bytes_per_second": per_second(data.transmitted(), seconds),
            }));
        }
        json!({ "received_bytes_per_second": per_second(received, seconds), "sent_bytes_per_second": per_second(sent, seconds), "interfaces": interfaces })
    }

    fn process(&self) -> Value {
        let Some(process) = self.system.process(self.process) else { return Value::Null };
        json!({
            "pid": self.process.as_u32(),
            "cpu": short(process.cpu_usage()),
            "memory": process.memory(),
            "open_files": process.open_files(),
            "threads": process.tasks().map(std::collections::HashSet::len),
            "uptime_seconds": process.run_time(),
        })
    }
}

fn load() -> Value {
    // Not every system has one.
    let Ok(load) = System::load_average() else { return Value::Null };
    json!({ "one": load.one, "five": load.five, "fifteen": load.fifteen })
}

/// A percentage with two digits; more would only make the events longer.
fn short(percent: f32) -> f64 {
    (f64::from(percent) * 100.0).round() / 100.0
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(bytes: u64, seconds: f64) -> f64 {
    (bytes as f64 / seconds).round()
}
