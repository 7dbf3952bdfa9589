//! Who may use the daemon. In come a key or a token, out goes yes or no. Today every key has all rights.
//!
//! Keys come from `auth.api_keys`. Where there is none, a token is made at the first start and kept in `auth.token_file`, readable by its owner alone; so nothing is ever open to all.
//! Secrets are kept as hashes, compared in constant time, and never written to a log.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use rand::RngCore;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A named key with all rights. Only its hash is kept.
#[derive(Clone)]
pub struct ApiKey {
    name: String,
    hash: [u8; 32],
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ApiKey {
    /// A key.
    #[must_use]
    pub fn new(name: &str, key: &str) -> Self {
        Self { name: name.to_owned(), hash: Sha256::digest(key).into() }
    }
}

/// Where the made token cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("the token file {} cannot be {action}: {source}; set auth.token_file to a place that can be written, or give keys in auth.api_keys", path.display())]
pub struct TokenFileError {
    path: PathBuf,
    action: &'static str,
    source: std::io::Error,
}

/// All keys that open the door.
#[derive(Debug, Clone)]
pub struct Keys(Vec<ApiKey>);

impl Keys {
    /// The given keys; if there are none, the token of the token file, made now if need be, which is returned too so that it can be shown once.
    ///
    /// # Errors
    /// When the token file cannot be read or written.
    pub fn open(given: &[ApiKey], token_file: &Path) -> Result<(Self, Option<String>), TokenFileError> {
        if !given.is_empty() {
            return Ok((Self(given.to_vec()), None));
        }
        let token = read_or_make(token_file)?;
        Ok((Self(vec![ApiKey::new("token", &token)]), Some(token)))
    }

    /// The name of the key, if it is one. Takes the same time for every wrong key of the same length.
    #[must_use]
    pub fn check(&self, key: &str) -> Option<&str> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let mut found = None;
        for known in &self.0 {
            if bool::from(known.hash.ct_eq(&hash)) {
                found = Some(known.name.as_str());
            }
        }
        found
    }
}

fn read_or_make(path: &Path) -> Result<String, TokenFileError> {
    let fault = |action| move |source| TokenFileError { path: path.to_owned(), action, source };
    match std::fs::read_to_string(path) {
        Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault("read")(error)),
        _ => {}
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(fault("written"))?;
    }
    let mut bytes = [0_u8; 24];
    rand::rng().fill_bytes(&mut bytes);
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(fault("written"))?;
    writeln!(file, "{token}").and_then(|()| file.sync_all()).map_err(fault("written"))?;
    Ok(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_key_opens() {
        let (keys, made) =
            Keys::open(&[ApiKey::new("a", "one"), ApiKey::new("b", "two")], Path::new("unused")).unwrap();
        assert_eq!(
            (keys.check("one"), keys.check("two"), keys.check("three"), made),
            (Some("a"), Some("b"), None, None)
        );
        assert!(!format!("{keys:?}").contains("one"));
    }

    #[test]
    fn a_token_is_made_once_and_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/token");
        let (keys, made) = Keys::open(&[], &path).unwrap();
        let token = made.unwrap();
        assert_eq!(token.len(), 48);
        assert!(keys.check(&token).is_some());
        assert_eq!(Keys::open(&[], &path).unwrap().1, Some(token));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
