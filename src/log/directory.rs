//! The log's directory: who may use it, what it is, how far it was written, whether it was closed in good order.
//!
//! ```text
//! LOCK            held by the daemon that uses it
//! FORMAT          what this directory is
//! HEAD            the generation and position that were surely written; what is missing below it is damage, not a fresh start
//! CLEAN           there after a stop in good order, with the highest seq of rooms that are gone; taken away at the start
//! gen-00000001/   one database for each generation, and in the newest one the file ahead of it
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::LogError;
use super::generation::GONE;

const FORMAT: &str = "tidegate log 2";
/// The one before had no file ahead of its databases: it can be gone on with, but a daemon of that time must not use what this one has written.
const BEFORE: &str = "tidegate log 1";

/// A locked log directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    // Held until the log is closed; the lock goes with the process, so a killed daemon leaves none.
    lock: Mutex<Option<File>>,
}

/// How far the log was surely written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Head {
    pub(super) generation: u32,
    pub(super) position: u64,
    /// The highest seq of rooms of which nothing is left.
    pub(super) floor: u64,
}

impl Directory {
    /// Makes or opens the directory and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let io = |error: std::io::Error| LogError::io(path, &error);
        fs::create_dir_all(path).map_err(io)?;
        let format = path.join("FORMAT");
        match fs::read_to_string(&format) {
            Ok(found) if [FORMAT, BEFORE].contains(&found.trim()) => {}
            Ok(found) => {
                let (dir, found) = (path.to_owned(), found.trim().chars().take(40).collect());
                return Err(LogError::Version { dir, found, expected: FORMAT });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut entries = fs::read_dir(path).map_err(io)?.filter_map(Result::ok).map(|entry| entry.file_name());
                if let Some(found) = entries.find(|name| name != "LOCK" && name != "lost+found") {
                    return Err(LogError::Foreign {
                        dir: path.to_owned(),
                        found: found.to_string_lossy().into_owned(),
                    });
                }
            }
            Err(error) => return Err(LogError::io(&format, &error)),
        }
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("LOCK")).map_err(io)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LogError::Locked { dir: path.to_owned() }),
            Err(error) => return Err(io(error.into())),
        }
        let directory = Self { path: path.to_owned(), lock: Mutex::new(Some(lock)) };
        if !fs::read_to_string(&format).is_ok_and(|found| found.trim() == FORMAT) {
            directory.replace("FORMAT", &format!("{FORMAT}\n"))?;
        }
        Ok(directory)
    }

    /// Lets others use the directory.
    pub(super) fn unlock(&self) {
        self.lock.lock().take();
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn generation(&self, number: u32) -> PathBuf {
        self.path.join(format!("gen-{number:08}"))
    }

    /// Deletes what is left of generations in whose deletion the process was killed.
    pub(super) fn clear_gone(&self) -> Result<(), LogError> {
        let entries = fs::read_dir(&self.path).map_err(|error| LogError::io(&self.path, &error))?;
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == GONE) {
                fs::remove_dir_all(&path).map_err(|error| LogError::io(&path, &error))?;
            }
        }
        Ok(())
    }

    /// The numbers of the generations there are, oldest first.
    pub(super) fn generations(&self) -> Result<Vec<u32>, LogError> {
        let entries = fs::read_dir(&self.path).map_err(|error| LogError::io(&self.path, &error))?;
        let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
        let mut numbers: Vec<u32> =
            names.filter_map(|name| name.to_str()?.strip_prefix("gen-")?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) fn read_head(&self) -> Option<Head> {
        let text = fs::read_to_string(self.path.join("HEAD")).ok()?;
        let mut parts = text.split_whitespace();
        Some(Head {
            generation: parts.next()?.parse().ok()?,
            position: parts.next()?.parse().ok()?,
            floor: parts.next()?.parse().ok()?,
        })
    }

    pub(super) fn write_head(&self, head: Head) -> Result<(), LogError> {
        self.replace("HEAD", &format!("{} {} {}\n", head.generation, head.position, head.floor))
    }

    /// Whether the log was closed in good order; asking takes the mark away.
    pub(super) fn take_clean(&self) -> bool {
        fs::remove_file(self.path.join("CLEAN")).is_ok()
    }

    pub(super) fn mark_clean(&self) -> Result<(), LogError> {
        self.replace("CLEAN", "stopped in good order\n")
    }

    /// Writes a small file so that it is there whole or not at all.
    fn replace(&self, name: &str, text: &str) -> Result<(), LogError> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| LogError::io(&path, &error))
    }
}
