//! The audit log: who did what from where and what came of it. In come admin calls, logins and refusals, out goes a line of JSON each, appended to `audit.file` by a thread of its own.
//!
//! Bound: [`QUEUE`] lines; beyond it a line is lost, counted, and that is told in the log. Refusals beyond `audit.refusals_per_second` are counted and told in one line, so that whoever
//! is refused cannot fill the disk. The file is only ever appended to; a rotated one is opened anew at SIGHUP.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use serde::Serialize;

use crate::clock;
use crate::metrics::record;

/// Lines that may wait to be written.
const QUEUE: usize = 4096;
/// How long the writer waits for a line before it looks whether refusals are to be told.
const LOOK: Duration = Duration::from_secs(1);

/// One thing that happened.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Entry {
    /// When, RFC 3339.
    pub time: String,
    /// What kind: `admin`, `refused`, `login`, `refresh`, `logout`, `revoke`, `reload`.
    pub event: &'static str,
    /// Who, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// By what: `key`, `token`, `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'static str>,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// The method of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Its path, without the query, in which a credential may stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The connection that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// What was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why, in one word or a few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many, where one line tells of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// The audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {} cannot be opened: {source}; set audit.file to a place that can be written, or to nothing", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: std::io::Error,
}

enum Order {
    Line(Box<Entry>),
    Reopen,
    End,
}

/// Where entries go. Clones share it.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    orders: Option<Sender<Order>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    refusals: Arc<Refusals>,
}

/// How many refusals there were in this second.
#[derive(Debug)]
struct Refusals {
    per_second: AtomicU64,
    second: AtomicU64,
    count: AtomicU64,
    untold: AtomicU64,
}

impl Audit {
    /// Opens the file, or an audit log that writes nothing.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: Option<&Path>, refusals_per_second: u64) -> Result<Self, AuditError> {
        let refusals = Arc::new(Refusals {
            per_second: AtomicU64::new(refusals_per_second),
            second: AtomicU64::new(0),
            count: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        });
        let Some(path) = path else {
            return Ok(Self(Arc::new(Shared { orders: None, writer: Mutex::new(None), refusals })));
        };
        let path = path.to_owned();
        let fault = |source| AuditError { path: path.clone(), source };
        let file = append_to(&path).map_err(fault)?;
        let (orders, inbox) = bounded(QUEUE);
        let writer = {
            let (path, refusals) = (path.clone(), Arc::clone(&refusals));
            let thread = std::thread::Builder::new().name("audit".to_owned());
            thread.spawn(move || write(&inbox, file, &path, &refusals)).map_err(fault)?
        };
        Ok(Self(Arc::new(Shared { orders: Some(orders), writer: Mutex::new(Some(writer)), refusals })))
    }

    /// Writes down something that happened.
    pub fn note(&self, mut entry: Entry) {
        let Some(orders) = &self.0.orders else { return };
        if entry.event == "refused" && !self.0.refusals.take() {
            return;
        }
        entry.time = clock::rfc3339(clock::now_ms());
        if let Err(TrySendError::Full(_)) = orders.try_send(Order::Line(Box::new(entry))) {
            record::audit_dropped();
        }
    }

    /// Opens the file anew, because the old one may have been moved away; with another bound on refusals.
    pub fn reload(&self, refusals_per_second: u64) {
        self.0.refusals.per_second.store(refusals_per_second, Ordering::Relaxed);
        if let Some(orders) = &self.0.orders {
            let _ = orders.try_send(Order::Reopen);
        }
    }

    /// Writes what waits and closes the file. Blocks until it is done.
    pub fn close(&self) {
        if let (Some(orders), Some(writer)) = (&self.0.orders, self.0.writer.lock().take()) {
            let sent = orders.send_timeout(Order::End, LOOK);
            if sent.is_ok() {
                let _ = writer.join();
            }
        }
    }
}

impl Refusals {
    /// Whether one more may be told singly in this second.
    fn take(&self) -> bool {
        let now = clock::now_ms() / 1000;
        if self.second.swap(now, Ordering::AcqRel) != now {
            self.count.store(0, Ordering::Release);
        }
        let told = self.count.fetch_add(1, Ordering::AcqRel) < self.per_second.load(Ordering::Relaxed);
        if !told {
            self.untold.fetch_add(1, Ordering::AcqRel);
        }
        told
    }
}

fn append_to(path: &Path) -> std::io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write(orders: &Receiver<Order>, mut file: File, path: &Path, refusals: &Refusals) {
    let mut faulty = false;
    loop {
        let order = orders.recv_timeout(LOOK);
        let ending = matches!(order, Ok(Order::End) | Err(crossbeam::channel::RecvTimeoutError::Disconnected));
        let mut text = String::new();
        match order {
            Ok(Order::Line(entry)) => append(&entry, &mut text),
            Ok(Order::Reopen) => match append_to(path) {
                Ok(fresh) => file = fresh,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "the audit log cannot be opened anew; the file from before is written on")
                }
            },
            _ => {}
        }
        // Told when the second is over, or with the next line.
        let untold = refusals.untold.swap(0, Ordering::AcqRel);
        if untold > 0 {
            let time = clock::rfc3339(clock::now_ms());
            let reason = Some("more refusals than are told singly (audit.refusals_per_second)".to_owned());
            append(&Entry { time, event: "refused", reason, count: Some(untold), ..Entry::default() }, &mut text);
        }
        if !text.is_empty() {
            let outcome = file.write_all(text.as_bytes());
            if let Err(error) = &outcome {
                record::audit_dropped();
                if !faulty {
                    tracing::error!(%error, path = %path.display(), "the audit log cannot be written");
                }
            }
            faulty = outcome.is_err();
        }
        if ending {
            let _ = file.sync_all();
            return;
        }
    }
}

/// One line. JSON has no line breaks of its own, and text in it has them escaped.
fn append(entry: &Entry, text: &mut String) {
    if let Ok(line) = serde_json::to_string(entry) {
        text.push_str(&line);
        text.push('\n');
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_one_line_and_a_flood_of_refusals_a_few() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/audit.log");
        let audit = Audit::open(Some(&path), 2).unwrap();
        audit.note(Entry { event: "admin", subject: Some("a\nb".into()), ..Entry::default() });
        for _ in 0..50 {
            audit.note(Entry { event: "refused", status: Some(401), ..Entry::default() });
        }
        audit.close();
        let lines: Vec<serde_json::Value> =
            std::fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["subject"], "a\nb");
        let told: u64 = lines[1..].iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
        assert_eq!(told, 50, "every refusal is in it, singly or summed up");
        assert!(lines.len() < 20, "{} lines", lines.len());
    }
}
