//! The file ahead of a generation's database: what publishers were promised and the database has not flushed yet. One write to it is worth what a flush of the database is worth, and costs a
//! twentieth of it; the database is flushed now and then, and then the file is written from its beginning again.
//!
//! ```text
//! gen-…/ahead   records, one behind the other
//! record        length of the chunk, 4 bytes · crc32 of all that follows, 4 · epoch, 8 · position, 8 · the chunk; numbers little-endian
//! ```
//! An epoch is what was written since the database was last flushed. It ends where a record of another epoch begins, or none that is whole: that was being written when the process was killed,
//! and nobody was told that it is kept. The file is not cut but written over, because then the disk has no lengths to keep.
//!
//! It holds every chunk since the last flush up to the last promise, also those that nobody waited for: what is kept is always a beginning of what was written.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::LogError;

/// Its name in a generation's directory.
const NAME: &str = "ahead";
/// What stands before a chunk.
const HEAD: usize = 24;
/// The largest chunk that is believed when it says how large it is.
const CHUNK_MAX: usize = 80 << 20;

/// A chunk and its position in the generation.
pub(super) type Chunk = (u64, Vec<u8>);

/// The file, open to be written.
pub(super) struct Ahead {
    file: File,
    path: PathBuf,
    epoch: u64,
    /// Where the next record begins.
    end: u64,
    buffer: Vec<u8>,
}

impl Ahead {
    /// Begins an empty one in a generation's directory.
    ///
    /// # Errors
    /// What the disk refuses.
    pub(super) fn begin(generation: &Path) -> Result<Self, LogError> {
        let path = generation.join(NAME);
        let file = File::options().create(true).truncate(true).write(true).open(&path);
        let file = file.map_err(|error| LogError::io(&path, &error))?;
        // Its name, too, must outlive a loss of power: later only what is in it is synced.
        let named = File::open(generation).and_then(|directory| directory.sync_all());
        named.map_err(|error| LogError::io(generation, &error))?;
        Ok(Self { file, path, epoch: 1, end: 0, buffer: Vec::new() })
    }

    /// What a generation's file holds; nothing if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read(generation: &Path) -> Result<Vec<Chunk>, LogError> {
        let path = generation.join(NAME);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(records(&bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(LogError::io(&path, &error)),
        }
    }

    /// Gives chunks to the operating system. If it fails, the next call writes over what there is of them.
    ///
    /// # Errors
    /// What the disk refuses.
    pub(super) fn append(&mut self, chunks: &[Chunk]) -> Result<(), LogError> {
        self.buffer.clear();
        for (position, chunk) in chunks {
            let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            self.buffer.extend_from_slice(&length.to_le_bytes());
            let crc = self.buffer.len();
            self.buffer.extend_from_slice(&[0; 4]);
            self.buffer.extend_from_slice(&self.epoch.to_le_bytes());
            self.buffer.extend_from_slice(&position.to_le_bytes());
            self.buffer.extend_from_slice(chunk);
            let sum = crc32fast::hash(&self.buffer[crc + 4..]);
            self.buffer[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
        }
        self.file.write_all_at(&self.buffer, self.end).map_err(|error| LogError::io(&self.path, &error))?;
        self.end += self.buffer.len() as u64;
        Ok(())
    }

    /// Has the disk keep what was appended.
    ///
    /// # Errors
    /// What the disk refuses.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|error| LogError::io(&self.path, &error))
    }

    /// The database has flushed everything: from here on the file is written from its beginning.
    pub(super) fn begin_anew(&mut self) {
        (self.epoch, self.end) = (self.epoch + 1, 0);
    }

    /// Everything is in the database, and the log is closed.
    pub(super) fn clear(&mut self) {
        self.begin_anew();
        // What is left would be taken over once more, to no effect.
        let _ = self.file.set_len(0);
    }

    /// The generation is written no more.
    pub(super) fn remove(self) {
        // What is left of it is never read again, and goes with its generation.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The records of the first one's epoch, as far as they are whole.
fn records(mut bytes: &[u8]) -> Vec<Chunk> {
    let (mut found, mut epoch) = (Vec::new(), None);
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| head[at + index]));
        // The length stands in the low half, the sum in the high one.
        let length = usize::try_from(number(0) & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let sum = number(0) >> 32;
        if length > CHUNK_MAX || length > rest.len() || *epoch.get_or_insert(number(8)) != number(8) {
            break;
        }
        let (chunk, after) = rest.split_at(length);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[8..]);
        hasher.update(chunk);
        if u64::from(hasher.finalize()) != sum {
            break;
        }
        found.push((number(16), chunk.to_vec()));
        bytes = after;
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
        proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..6)
    }

    proptest! {
        #[test]
        fn the_last_epoch_is_read_back_and_nothing_of_those_before(before in chunks(), now in chunks()) {
            let dir = tempfile::tempdir().unwrap();
            let mut ahead = Ahead::begin(dir.path()).unwrap();
            ahead.append(&before).unwrap();
            ahead.begin_anew();
            for chunk in &now {
                ahead.append(std::slice::from_ref(chunk)).unwrap();
            }
            let expected = if now.is_empty() { before } else { now };
            prop_assert_eq!(Ahead::read(dir.path()).unwrap(), expected);
        }

        #[test]
        fn a_file_that_was_cut_gives_a_beginning_of_what_was_written(written in chunks(), cut in 0usize..400) {
            let dir = tempfile::tempdir().unwrap();
            Ahead::begin(dir.path()).unwrap().append(&written).unwrap();
            let path = dir.path().join(NAME);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..cut.min(bytes.len())]).unwrap();
            let read = Ahead::read(dir.path()).unwrap();
            prop_assert_eq!(&read[..], &written[..read.len()]);
        }

        #[test]
        fn no_bytes_make_the_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = records(&bytes);
        }
    }

    #[test]
    fn a_record_that_was_damaged_ends_what_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let written = vec![(1, b"one".to_vec()), (2, b"two".to_vec()), (3, b"three".to_vec())];
        Ahead::begin(dir.path()).unwrap().append(&written).unwrap();
        let path = dir.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        // In the second one's chunk.
        bytes[2 * HEAD + 3 + 1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Ahead::read(dir.path()).unwrap(), written[..1]);
    }
}
