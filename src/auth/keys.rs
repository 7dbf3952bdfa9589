//! API keys: those of the settings, and those of the keys file that `tidegate key` keeps. Only hashes are held.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smol_str::SmolStr;
use subtle::ConstantTimeEq;

use super::files;
use super::identity::{OPERATOR, Says, patterns};
use crate::clock;

/// A named key. Only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name.
    pub name: SmolStr,
    /// The SHA-256 of the key.
    pub hash: [u8; 32],
    /// What its holder may do.
    pub says: Says,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl ApiKey {
    /// A key of the settings: it may read and publish everything.
    #[must_use]
    pub fn new(name: &str, key: &str) -> Self {
        Self::with_roles(name, key, &[OPERATOR])
    }

    /// A key with these roles.
    #[must_use]
    pub fn with_roles(name: &str, key: &str, roles: &[&str]) -> Self {
        let roles = roles.iter().map(SmolStr::new).collect();
        let says = Says { roles, ..Says::default() };
        Self { name: name.into(), hash: hash(key), says, expires_ms: None }
    }
}

/// What is kept of a key.
#[must_use]
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Finds a key's place by its hash, in the same time whichever it is and whether there is one.
#[must_use]
pub fn find(keys: &[ApiKey], hash: &[u8; 32]) -> Option<usize> {
    let mut found = None;
    for (index, key) in keys.iter().enumerate() {
        if bool::from(key.hash.ct_eq(hash)) {
            found = Some(index);
        }
    }
    found.filter(|index| keys[*index].expires_ms.is_none_or(|end| clock::now_ms() < end))
}

/// What is wrong with a keys file.
#[derive(Debug, thiserror::Error)]
#[error("the keys file {file} is not right: {why}")]
pub struct KeysFileError {
    file: String,
    why: String,
}

/// A key as it stands in the keys file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    /// The SHA-256 of the key as hexadecimal text.
    pub sha256: String,
    /// Roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// What it may read, in place of what the roles allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<String>>,
    /// Where it may publish, in place of what the roles allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    /// When it was made.
    pub created: String,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// The keys file: keys by name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// The keys.
    #[serde(default)]
    pub keys: BTreeMap<String, StoredKey>,
}

impl KeysFile {
    /// Reads the file; one that is not there has no keys.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &Path) -> Result<Self, KeysFileError> {
        let fault = |why: String| KeysFileError { file: path.display().to_string(), why };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(fault(error.to_string())),
        };
        toml::from_str(&text).map_err(|error| fault(error.message().to_owned()))
    }

    /// Reads the file, has it changed, and writes it; two who do so at once wait for each other.
    ///
    /// # Errors
    /// What is wrong with it, or what `change` says.
    pub fn update<E: From<KeysFileError>>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let fault = |error: std::io::Error| KeysFileError { file: path.display().to_string(), why: error.to_string() };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(fault)?;
        }
        // Beside it, because the file itself is replaced. Given back when it is closed.
        let lock = std::fs::File::create(path.with_extension("lock")).map_err(fault)?;
        lock.lock().map_err(fault)?;
        let mut file = Self::read(path)?;
        change(&mut file)?;
        file.write(path)?;
        Ok(())
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), KeysFileError> {
        let fault = |why: String| KeysFileError { file: path.display().to_string(), why };
        let text = toml::to_string(self).map_err(|error| fault(error.to_string()))?;
        let text = format!("# Keys of tidegate, kept by `tidegate key`. Only hashes of them stand here.\n{text}");
        files::write_private(path, text.as_bytes()).map_err(|error| fault(error.to_string()))
    }

    /// The keys as they are used.
    ///
    /// # Errors
    /// Which key is wrong, and why.
    pub fn into_keys(self, path: &Path) -> Result<Vec<ApiKey>, KeysFileError> {
        let read = |(name, stored): (String, StoredKey)| {
            let fault = |why: String| KeysFileError { file: path.display().to_string(), why: format!("{name}: {why}") };
            let hash = unhex(&stored.sha256).ok_or_else(|| fault("sha256: expected 64 hexadecimal digits".into()))?;
            let list = |field: &str, list: Option<Vec<String>>| {
                let read = list.map(|list| patterns(list.iter().map(String::as_str))).transpose();
                read.map_err(|why| fault(format!("{field}: {why}")))
            };
            let expires_ms = match &stored.expires {
                None => None,
                Some(text) => Some(clock::parse_rfc3339(text).ok_or_else(|| fault("expires: expected a time".into()))?),
            };
            let says = Says {
                roles: stored.roles.iter().map(SmolStr::new).collect(),
                rooms: list("rooms", stored.rooms.clone())?,
                publish: list("publish", stored.publish.clone())?,
            };
            Ok(ApiKey { name: name.as_str().into(), hash, says, expires_ms })
        };
        self.keys.into_iter().map(read).collect()
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_key_that_has_not_ended_is_found() {
        let mut ended = ApiKey::new("c", "three");
        ended.expires_ms = Some(1);
        let keys = [ApiKey::new("a", "one"), ApiKey::new("b", "two"), ended];
        let name = |key: &str| find(&keys, &hash(key)).map(|index| keys[index].name.as_str());
        assert_eq!((name("one"), name("two"), name("three"), name("four")), (Some("a"), Some("b"), None, None));
    }

    #[test]
    fn a_keys_file_comes_back_as_it_was_written_and_a_wrong_one_names_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        assert!(KeysFile::read(&path).unwrap().keys.is_empty());
        let stored = StoredKey {
            sha256: files::hex(&hash("k")),
            roles: vec!["viewer".into()],
            rooms: Some(vec!["well:*".into()]),
            publish: None,
            created: clock::rfc3339(0),
            expires: Some(clock::rfc3339(4_000_000_000_000)),
        };
        let file = KeysFile { keys: BTreeMap::from([("sensors".into(), stored)]) };
        file.write(&path).unwrap();
        let keys = KeysFile::read(&path).unwrap().into_keys(&path).unwrap();
        assert_eq!(keys[find(&keys, &hash("k")).unwrap()].says.rooms.as_ref().unwrap().len(), 1);
        std::fs::write(&path, "[keys.bad]\nsha256 = \"12\"\ncreated = \"x\"").unwrap();
        let fault = KeysFile::read(&path).unwrap().into_keys(&path).unwrap_err().to_string();
        assert!(fault.contains("keys.toml") && fault.contains("bad: sha256"), "{fault}");
    }
}
