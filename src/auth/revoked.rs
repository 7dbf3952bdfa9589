//! Tokens that were revoked before their end: held in memory, kept in a file that is written before a revocation is answered, forgotten when the token would have ended anyway.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, RwLock};

use super::files::{self, FileError};

const SETTING: &str = "auth.revoked_file";

/// All revoked tokens by their id; when each would have ended, in seconds since 1970.
#[derive(Debug)]
pub(super) struct Revoked {
    ends: RwLock<HashMap<String, u64>>,
    path: PathBuf,
    /// One writer at a time.
    writing: Mutex<()>,
}

impl Revoked {
    /// Reads the file; one that is not there has none.
    pub(super) fn open(path: &Path, now_seconds: u64) -> Result<Self, FileError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(FileError { path: path.to_owned(), action: "read", setting: SETTING, source }),
        };
        // A last line that was cut off belongs to a revocation that was never answered.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        if whole.len() < text.len() {
            let written = files::write_private(path, whole.as_bytes());
            written.map_err(|source| FileError {
                path: path.to_owned(),
                action: "written",
                setting: SETTING,
                source,
            })?;
        }
        let read = |line: &str| {
            let (end, id) = line.split_once(' ')?;
            Some((id.to_owned(), end.parse().ok()?))
        };
        let ends: HashMap<String, u64> = whole.lines().filter_map(read).filter(|(_, end)| *end > now_seconds).collect();
        Ok(Self { ends: RwLock::new(ends), path: path.to_owned(), writing: Mutex::new(()) })
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ends.read().contains_key(id)
    }

    /// Revokes a token; it holds from now on, and after a restart too when this has returned. Blocks on the disk.
    pub(super) fn add(&self, id: &str, end_seconds: u64, now_seconds: u64) -> Result<(), FileError> {
        let _one = self.writing.lock();
        let outgrown = {
            let mut ends = self.ends.write();
            ends.insert(id.to_owned(), end_seconds);
            let before = ends.len();
            ends.retain(|_, end| *end > now_seconds);
            // What has ended is written out of the file too, when it is worth it.
            (before - ends.len() > ends.len())
                .then(|| ends.iter().map(|(id, end)| format!("{end} {id}\n")).collect::<String>())
        };
        let written = match outgrown {
            Some(all) => files::write_private(&self.path, all.as_bytes()),
            None => self.append(&format!("{end_seconds} {id}\n")),
        };
        written.map_err(|source| FileError { path: self.path.clone(), action: "written", setting: SETTING, source })
    }

    fn append(&self, line: &str) -> std::io::Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut options = std::fs::File::options();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&self.path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_outlives_the_process_and_not_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/revoked");
        let revoked = Revoked::open(&path, 100).unwrap();
        revoked.add("long", 1000, 100).unwrap();
        revoked.add("short", 200, 100).unwrap();
        std::fs::File::options().append(true).open(&path).unwrap().write_all(b"900 cut o").unwrap();
        let again = Revoked::open(&path, 300).unwrap();
        assert!(again.contains("long") && !again.contains("short") && !again.contains("cut"));
    }
}
