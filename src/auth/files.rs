//! Small files that hold secrets: made once, for their owner alone, and replaced whole.

use std::io::Write;
use std::path::{Path, PathBuf};

use rand::RngCore;

/// A file of the daemon's own that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {action}: {source}; set {setting} to a place that can be written, with a file that is whole", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// `read` or `written`.
    pub action: &'static str,
    /// The setting that names it.
    pub setting: &'static str,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// The shortest secret that is taken from a file, in characters.
const SECRET_MIN: usize = 32;

/// So many random bytes as hexadecimal text.
#[must_use]
pub fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0_u8; BYTES];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

/// Bytes as hexadecimal text.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// What the system said.
pub fn write_private(path: &Path, text: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let staged = path.with_extension(format!("new-{}", random_hex::<4>()));
    let mut options = std::fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&staged).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    let outcome = written.and_then(|()| std::fs::rename(&staged, path));
    if outcome.is_err() {
        // What was begun is of no use; that it cannot be deleted either changes nothing.
        let _ = std::fs::remove_file(&staged);
    }
    outcome
}

/// The secret in a file; made now if there is none. Says whether it was made.
///
/// # Errors
/// When it can be neither read nor made.
pub fn read_or_make(path: &Path, setting: &'static str) -> Result<(String, bool), FileError> {
    let fault = |action, source| FileError { path: path.to_owned(), action, setting, source };
    match std::fs::read_to_string(path) {
        Ok(secret) if secret.trim().len() >= SECRET_MIN => return Ok((secret.trim().to_owned(), false)),
        Ok(secret) if !secret.trim().is_empty() => {
            let short = format!(
                "it holds less than {SECRET_MIN} characters, which is no secret; delete it, and another is made"
            );
            return Err(fault("read", std::io::Error::new(std::io::ErrorKind::InvalidData, short)));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault("read", error)),
        _ => {}
    }
    let secret = random_hex::<32>();
    write_private(path, format!("{secret}\n").as_bytes()).map_err(|error| fault("written", error))?;
    Ok((secret, true))
}

/// What tells one state of a file from another: when it was changed, and its length. `None` if it is not there.
#[must_use]
pub fn mark(path: &Path) -> Option<(std::time::SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/secret");
        let (secret, made) = read_or_make(&path, "auth.secret_file").unwrap();
        assert!(made && secret.len() == 64);
        assert_eq!(read_or_make(&path, "auth.secret_file").unwrap(), (secret, false));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }
}
