//! One generation of the log: one sled database in a directory of its own. The only place that names sled.
//!
//! Why so, by measurement: deleted keys are never given back by sled 0.34, so a generation is deleted whole; values over 4 KB make it slow; its `flush` is
//! no fsync on Linux, so `sync` adds one; `flush_async` can deadlock and is not used. Every call may block on the disk and belongs on a thread that may.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::LogError;
use super::ahead::Ahead;
use super::chunk;
use super::index::Place;
use crate::clock;
use crate::event::RoomName;

/// What sled may keep in memory: little while a sealed generation is only read now and then, more where everything is written.
const CACHE_WRITING_BYTES: u64 = 16 << 20;
const CACHE_READING_BYTES: u64 = 4 << 20;
/// How long to wait for a database of ours that is just closing.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// The extension of a directory that is not a generation yet.
const STAGING: &str = "new";
/// The extension of a directory that is a generation no more.
pub(super) const GONE: &str = "gone";
/// A piece of a sealed generation's index, in bytes.
const PIECE_BYTES: usize = 3500;

/// A generation.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u32,
    path: PathBuf,
    db: Mutex<Option<sled::Db>>,
    /// Bytes of sections ever written to it.
    written: AtomicU64,
    /// When it was last read, in milliseconds since 1970.
    read_ms: AtomicU64,
    pub(super) made_ms: u64,
    /// Files of large values that the disk has, of those that are there.
    blobs_synced: Mutex<HashSet<OsString>>,
    /// Whether events of it were copied and the copies are not surely on the disk: until then it must not be deleted.
    pub(super) copying: AtomicBool,
}

/// What a generation holds, as found at the start: each room's name, its very first seq, and a place.
pub(super) type Contents = Vec<(RoomName, u64, Place)>;

impl Generation {
    /// Makes or opens a generation to write to.
    pub(super) fn open(number: u32, path: PathBuf) -> Result<Self, LogError> {
        if !path.exists() {
            create(&path)?;
        }
        let db = open(&path, CACHE_WRITING_BYTES)?;
        let (written, read_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self {
            number,
            path,
            db: Mutex::new(Some(db)),
            written,
            read_ms,
            made_ms: clock::now_ms(),
            blobs_synced: Mutex::default(),
            copying: AtomicBool::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn db(&self) -> Result<sled::Db, LogError> {
        let mut db = self.db.lock();
        if let Some(db) = &*db {
            return Ok(db.clone());
        }
        if !self.path.exists() {
            return Err(self.damaged("its directory is gone"));
        }
        let opened = open(&self.path, CACHE_READING_BYTES)?;
        *db = Some(opened.clone());
        Ok(opened)
    }

    /// Takes over what was promised before the process ended and the database had not flushed.
    pub(super) fn catch_up(&self) -> Result<(), LogError> {
        let chunks = Ahead::read(&self.path)?;
        // Many of them are there already, and are the same.
        chunks.iter().try_for_each(|(position, chunk)| self.put(*position, chunk))?;
        if chunks.is_empty() { Ok(()) } else { self.flush().and_then(|()| self.sync()) }
    }

    /// Puts a chunk at a position; it is in the daemon's memory until [`Generation::flush`].
    pub(super) fn put(&self, position: u64, chunk: &[u8]) -> Result<(), LogError> {
        self.db()?.insert(position.to_be_bytes(), chunk).map(drop).map_err(|error| self.fault(&error))
    }

    /// Counts what was put, before it was compressed.
    pub(super) fn count_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Gives everything to the operating system.
    pub(super) fn flush(&self) -> Result<(), LogError> {
        self.db()?.flush().map(drop).map_err(|error| self.fault(&error))
    }

    /// Has the disk keep everything that was flushed: the database's file, and the files that it makes of large values.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        let sync = |path: &Path| {
            File::open(path).and_then(|file| file.sync_data()).map_err(|error| LogError::io(path, &error))
        };
        let blobs = self.path.join("blobs");
        let mut synced = self.blobs_synced.lock();
        let mut there = HashSet::new();
        for entry in std::fs::read_dir(&blobs).into_iter().flatten().filter_map(Result::ok) {
            let (path, name) = (entry.path(), entry.file_name());
            if !synced.contains(&name) {
                match sync(&path) {
                    // Between the look and now sled has written something newer in its place, and deleted it.
                    Err(_) if !path.exists() => continue,
                    synced => synced?,
                }
                sync(&blobs)?;
            }
            there.insert(name);
        }
        *synced = there;
        sync(&self.path.join("db"))
    }

    /// A chunk, checked and opened.
    pub(super) fn get(&self, position: u64) -> Result<Vec<u8>, LogError> {
        self.read_ms.store(clock::now_ms(), Ordering::Relaxed);
        let chunk = self.db()?.get(position.to_be_bytes()).map_err(|error| self.fault(&error))?;
        let chunk = chunk.ok_or_else(|| self.damaged(format!("chunk {position} is missing")))?;
        let opened =
            chunk::open(&chunk).map_err(|_| self.damaged(format!("the checksum of chunk {position} does not fit")))?;
        Ok(opened.into_owned())
    }

    /// The last position written, `None` if there is nothing.
    pub(super) fn last_position(&self) -> Result<Option<u64>, LogError> {
        let last = self.db()?.last().map_err(|error| self.fault(&error))?;
        last.map(|(key, _)| self.position(&key)).transpose()
    }

    fn position(&self, key: &[u8]) -> Result<u64, LogError> {
        key.try_into().map(u64::from_be_bytes).map_err(|_| self.damaged("it has a key that is no position"))
    }

    /// Bytes of sections written to it, before they were compressed.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether its database is open, or just being opened.
    pub(super) fn is_open(&self) -> bool {
        self.db.try_lock().is_none_or(|db| db.is_some())
    }

    /// When it was last read, in milliseconds since 1970.
    pub(super) fn read_ms(&self) -> u64 {
        self.read_ms.load(Ordering::Relaxed)
    }

    /// Closes the database until it is read again, if nobody has read it since `ms`.
    pub(super) fn rest(&self, ms: u64) {
        if self.read_ms.load(Ordering::Relaxed) < ms {
            self.db.lock().take();
        }
    }

    /// Writes the index of what it holds into the generation, so that opening it needs no look at its chunks, and closes it.
    pub(super) fn seal(&self, contents: &Contents) -> Result<(), LogError> {
        let db = self.db()?;
        let pieces = db.open_tree("index").map_err(|error| self.fault(&error))?;
        let bytes = encode(contents, self.written());
        for (number, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let key = (number as u64).to_be_bytes();
            pieces.insert(key, piece).map_err(|error| self.fault(&error))?;
        }
        self.flush()?;
        self.sync()
    }

    /// What it holds: from its own index if it was sealed, else from its chunks, each of which is checked.
    pub(super) fn contents(&self) -> Result<Contents, LogError> {
        let db = self.db()?;
        let pieces = db.open_tree("index").map_err(|error| self.fault(&error))?;
        let mut bytes = Vec::new();
        for piece in pieces.iter().values() {
            bytes.extend_from_slice(&piece.map_err(|error| self.fault(&error))?);
        }
        // An index that was not written to its end is no fault: the chunks are there.
        if let Some((contents, written)) = decode(&bytes, self.number) {
            self.written.store(written, Ordering::Relaxed);
            return Ok(contents);
        }
        let mut contents = Vec::new();
        for entry in db.iter() {
            let (key, chunk) = entry.map_err(|error| self.fault(&error))?;
            let position = self.position(&key)?;
            let damaged = |_| self.damaged(format!("chunk {position} cannot be read"));
            let chunk = chunk::open(&chunk).map_err(damaged)?;
            let sections = chunk::sections(&chunk).map_err(damaged)?;
            let ends =
                sections.iter().skip(1).map(|(offset, ..)| *offset).chain([u32::try_from(chunk.len()).unwrap_or(0)]);
            for ((offset, header, arrived_ms), end) in sections.iter().zip(ends) {
                let (generation, offset, bytes) = (self.number, *offset, end - *offset);
                let (first, count, arrived_ms) = (header.first, header.count, *arrived_ms);
                let place = Place { first, count, bytes, generation, offset, position, arrived_ms };
                contents.push((header.name.clone(), header.created, place));
            }
            self.written.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        Ok(contents)
    }

    /// Deletes the generation, so that it is there whole or not at all: its files go one by one, and a process may be killed between them.
    pub(super) fn delete(&self) -> Result<(), LogError> {
        self.db.lock().take();
        let gone = self.path.with_extension(GONE);
        // Not there any more if this is another try.
        let renamed = if self.path.exists() { std::fs::rename(&self.path, &gone) } else { Ok(()) };
        renamed.and_then(|()| std::fs::remove_dir_all(&gone)).map_err(|error| LogError::io(&self.path, &error))
    }

    /// Closes the database; the next use opens it again. After a fault of the disk sled answers nothing but that fault until then.
    pub(super) fn close(&self) {
        self.db.lock().take();
    }

    fn fault(&self, error: &sled::Error) -> LogError {
        fault(&self.path, error)
    }

    fn damaged(&self, reason: impl Into<String>) -> LogError {
        LogError::Damaged { path: self.path.clone(), reason: reason.into() }
    }
}

/// Deletes snapshots that sled was killed over. sled 0.34.7 means to pass over them, but looks for another ending than the one it gives them, takes one for its newest
/// snapshot and calls the database corrupt. A snapshot only spares it reading its own log again.
fn discard_unfinished_snapshots(path: &Path) -> Result<(), LogError> {
    let io = |error: std::io::Error| LogError::io(path, &error);
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io)?,
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

fn open(path: &Path, cache_bytes: u64) -> Result<sled::Db, LogError> {
    discard_unfinished_snapshots(path)?;
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        // On files that are not its own sled may panic; that is damage like any other.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            // The directory is ours, so this is an earlier database of ours whose threads are just letting go.
            Ok(Err(sled::Error::Io(error)))
                if error.to_string().contains("acquire lock") && Instant::now() < deadline =>
            {
                std::thread::park_timeout(Duration::from_millis(2));
            }
            Ok(Err(error)) => return Err(fault(path, &error)),
            Err(_) => {
                return Err(LogError::Damaged { path: path.to_owned(), reason: "it cannot be opened".to_owned() });
            }
        }
    }
}

/// Makes a new database so that it is there whole or not at all: sled writes its first files in steps, and a process may be killed between them.
fn create(path: &Path) -> Result<(), LogError> {
    let staging = path.with_extension(STAGING);
    let io = |error: std::io::Error| LogError::io(&staging, &error);
    match std::fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let db = open(&staging, CACHE_READING_BYTES)?;
    db.flush().map_err(|error| fault(&staging, &error))?;
    drop(db);
    std::fs::rename(&staging, path).map_err(io)?;
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| LogError::io(directory, &error))
}

fn fault(path: &Path, error: &sled::Error) -> LogError {
    match error {
        sled::Error::Io(error) => LogError::io(path, error),
        other => LogError::Damaged { path: path.to_owned(), reason: other.to_string() },
    }
}

/// The index of a sealed generation: bytes written, number of entries, entries, checksum.
fn encode(contents: &Contents, written: u64) -> Vec<u8> {
    let mut out = Vec::new();
    chunk::put(&mut out, written);
    chunk::put(&mut out, contents.len() as u64);
    for (name, created, place) in contents {
        chunk::put_bytes(&mut out, name.as_str().as_bytes());
        let Place { first, count, bytes, generation: _, offset, position, arrived_ms } = *place;
        for number in [*created, first, count.into(), bytes.into(), offset.into(), position, arrived_ms] {
            chunk::put(&mut out, number);
        }
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8], generation: u32) -> Option<(Contents, u64)> {
    let (mut rest, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let rest = &mut rest;
    let mut number = || chunk::take(rest).ok();
    let (written, entries) = (number()?, number()?);
    let mut contents = Vec::new();
    for _ in 0..entries {
        let name = RoomName::stored(chunk::text(chunk::take_bytes(rest).ok()?).ok()?).ok()?;
        let mut number = || chunk::take(rest).ok();
        let created = number()?;
        let first = number()?;
        let (count, bytes) = (u32::try_from(number()?).ok()?, u32::try_from(number()?).ok()?);
        let offset = u32::try_from(number()?).ok()?;
        let (position, arrived_ms) = (number()?, number()?);
        contents.push((name, created, Place { first, count, bytes, generation, offset, position, arrived_ms }));
    }
    Some((contents, written))
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_s_file_that_goes_while_it_is_synced_is_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let generation = Generation::open(1, dir.path().join("1")).unwrap();
        generation.put(1, b"chunk").unwrap();
        generation.flush().unwrap();
        // It is found in the directory, and when it is opened it is not there.
        let blobs = dir.path().join("1/blobs");
        std::os::unix::fs::symlink("nowhere", blobs.join("17")).unwrap();
        std::fs::write(blobs.join("18"), b"value").unwrap();
        generation.sync().unwrap();
        assert_eq!(*generation.blobs_synced.lock(), HashSet::from([OsString::from("18")]));
        std::fs::remove_file(blobs.join("18")).unwrap();
        generation.sync().unwrap();
        assert!(generation.blobs_synced.lock().is_empty(), "what is gone is not kept in mind");
    }
}
