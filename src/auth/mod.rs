//! Who may use the daemon, and for what. In comes what somebody shows (a key, a token, a password), out goes an [`Identity`] with its rights, or a refusal that says no more than that.
//!
//! [`identity`] is the outcome; `keys`, `jwt` and `users` are the three ways there; `revoked` what was taken back; `key_sets` fetches public keys. Nothing here knows HTTP, and nothing is ever open to all:
//! where nothing is configured, a token is made at the first start and kept in `auth.token_file`, readable by its owner alone. Secrets are kept as hashes where that is possible,
//! compared in constant time, and never written to a log.
//!
//! What was granted can be taken back while a connection is open: [`Auth::generation`] goes up whenever that may have happened, and [`Auth::renew`] says whether an identity still holds.

pub mod files;
pub mod identity;
pub mod jwt;
mod key_sets;
pub mod keys;
mod known;
mod login;
mod revoked;
pub mod users;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use files::FileError;
pub use identity::{Identity, Rights};
pub use keys::ApiKey;
pub use login::{Issued, LoginError, RefreshError};

use crate::clock;
use crate::settings;
use identity::{ADMIN, Credential, PLATFORM_ADMIN};
use jwt::{CheckingKey, Wrong};
use key_sets::KeySets;
use known::Known;
use revoked::Revoked;

/// Passwords that are checked at once; each takes 19 MiB and a core for a moment.
const PASSWORDS_AT_ONCE: usize = 2;
/// How long a revocation is kept of a token of which nobody knows when it ends, in seconds.
pub const REVOKED_SECONDS: u64 = 30 * 86_400;

/// Why the daemon does not start, or does not take new settings.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file of the daemon's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys file.
    #[error(transparent)]
    Keys(#[from] keys::KeysFileError),
    /// A key that tokens are to be checked with.
    #[error("{0}")]
    Key(String),
}

/// All who may come in. Clones share it.
#[derive(Debug, Clone)]
pub struct Auth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: ArcSwap<Known>,
    revoked: Revoked,
    key_sets: KeySets,
    hashing: Semaphore,
    generation: AtomicU64,
    /// What the files looked like when they were last read.
    seen: Mutex<Vec<Mark>>,
    /// And at the last look.
    last_look: Mutex<Vec<Mark>>,
}

impl Auth {
    /// Reads keys and secrets; where nothing is configured, the made token is returned too, so that it can be shown once.
    ///
    /// # Errors
    /// What cannot be read or made.
    pub fn open(settings: &settings::Auth) -> Result<(Self, Option<String>), AuthError> {
        let (secret, token) = made_secrets(settings)?;
        // Looked at before they are read: what changes in between is read again.
        let seen = look(&Known::files(settings));
        let known = Known::build(settings, secret, token.as_deref(), Vec::new())?;
        let revoked = Revoked::open(&settings.revoked_file, clock::now_ms() / 1000)?;
        let shared = Shared {
            last_look: Mutex::new(seen.clone()),
            seen: Mutex::new(seen),
            known: ArcSwap::from_pointee(known),
            revoked,
            key_sets: KeySets::default(),
            hashing: Semaphore::new(PASSWORDS_AT_ONCE),
            generation: AtomicU64::new(0),
        };
        Ok((Self(Arc::new(shared)), token))
    }

    /// Takes new settings; the old ones hold if something is wrong with them.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reload(&self, settings: &settings::Auth) -> Result<(), AuthError> {
        let (secret, token) = made_secrets(settings)?;
        let fetched = self.0.known.load().fetched.clone();
        let seen = look(&Known::files(settings));
        self.replace(Known::build(settings, secret, token.as_deref(), fetched)?, seen);
        Ok(())
    }

    fn replace(&self, known: Known, seen: Vec<Mark>) {
        *self.0.seen.lock() = seen;
        self.0.known.store(Arc::new(known));
        self.changed();
    }

    fn changed(&self) {
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Goes up whenever something that was granted may not hold any more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Looks whether files have changed, and reads those that have. Blocks on the disk.
    pub fn look_after_files(&self) {
        let known = self.0.known.load_full();
        let now = look(&Known::files(&known.settings));
        // One that is just being written is half a file: it is read when it has rested from one look to the next.
        let changed = *self.0.seen.lock() != now;
        if std::mem::replace(&mut *self.0.last_look.lock(), now.clone()) != now || !changed {
            return;
        }
        match Known::build(&known.settings, known.secret.clone(), known.token.as_deref(), known.fetched.clone()) {
            Ok(fresh) => {
                tracing::info!("keys were read again, because their files have changed");
                self.replace(fresh, now);
            }
            Err(error) => {
                tracing::error!(%error, "keys were not read again; those from before hold");
                *self.0.seen.lock() = now;
            }
        }
    }

    /// Fetches the key set of `auth.jwks_url` if it is time to.
    pub async fn look_after_key_sets(&self) {
        let settings = Arc::clone(&self.0.known.load().settings);
        if let Some(url) = &settings.jwks_url
            && let Some(keys) = self.0.key_sets.fetch_when_due(url, settings.jwks_refresh).await
        {
            self.take_keys(keys);
        }
    }

    fn take_keys(&self, keys: Vec<CheckingKey>) {
        let old = self.0.known.load_full();
        let same = old.fetched.iter().map(|key| key.mark).eq(keys.iter().map(|key| key.mark));
        if !same {
            tracing::info!(keys = keys.len(), "the key set has changed");
            let mut known = (*old).clone();
            known.fetched = keys;
            self.0.known.store(Arc::new(known));
            self.changed();
        }
    }

    /// Who shows this key or token; `None` if it is wrong.
    pub async fn identify(&self, shown: &str) -> Option<Arc<Identity>> {
        match self.check(shown) {
            Ok(identity) => Some(identity),
            Err(Wrong::Refused) => None,
            Err(Wrong::UnknownKey) => {
                // Perhaps the issuer has changed its keys; asked at most every few seconds, whoever comes.
                let settings = Arc::clone(&self.0.known.load().settings);
                let keys = self.0.key_sets.fetch_unless_just_done(settings.jwks_url.as_deref()?).await?;
                self.take_keys(keys);
                self.check(shown).ok()
            }
        }
    }

    /// Why a token is not taken, in words for whoever runs the daemon; nobody else is told.
    #[must_use]
    pub fn why_not(&self, token: &str) -> String {
        match self.token_facts(token) {
            Some(id) if self.0.revoked.contains(&id) => "it was revoked".to_owned(),
            Some(_) => "its user is not there any more, or has another password".to_owned(),
            None => self.0.known.load().why_not(token),
        }
    }

    /// The id of a token whose signature and claims are right.
    fn token_facts(&self, token: &str) -> Option<String> {
        let (claims, _) = self.0.known.load().check_token(token).ok()?;
        Some(claims.jti.unwrap_or_else(|| files::hex(&keys::hash(token))))
    }

    fn check(&self, shown: &str) -> Result<Arc<Identity>, Wrong> {
        let known = self.0.known.load();
        if let Some(index) = keys::find(&known.keys, &keys::hash(shown)) {
            return Ok(Arc::clone(&known.holders[index]));
        }
        let (claims, mark) = known.check_token(shown)?;
        let identity = known.identity(shown, claims, mark).ok_or(Wrong::Refused)?;
        match &identity.credential {
            Credential::Token(facts) | Credential::User(facts) if self.0.revoked.contains(&facts.id) => {
                Err(Wrong::Refused)
            }
            _ => Ok(Arc::new(identity)),
        }
    }

    /// What an identity may do now: itself if nothing has changed, another with other rights, or `None` if it does not hold any more.
    #[must_use]
    pub fn renew(&self, identity: &Arc<Identity>) -> Option<Arc<Identity>> {
        let known = self.0.known.load();
        match &identity.credential {
            Credential::Key { hash } => keys::find(&known.keys, hash).map(|index| Arc::clone(&known.holders[index])),
            Credential::Token(facts) | Credential::User(facts) => {
                if self.0.revoked.contains(&facts.id) || !known.trusts(&facts.signed_by) {
                    return None;
                }
                let (roles, rights) = known.rights(&identity.credential, &identity.subject)?;
                if rights == identity.rights && roles == identity.roles {
                    return Some(Arc::clone(identity));
                }
                Some(Arc::new(Identity { roles, rights, ..(**identity).clone() }))
            }
            // What is open to all stays so until the daemon is started again.
            Credential::Nothing => Some(Arc::clone(identity)),
        }
    }

    /// Revokes a token by its id, from now on and after a restart too. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn revoke(&self, id: &str, expires_ms: Option<u64>) -> Result<(), FileError> {
        let now = clock::now_ms() / 1000;
        // As long as it would be taken: to its end, and the clocks' difference.
        let leeway = self.0.known.load().demands.leeway_seconds;
        let end = expires_ms.map_or(now + REVOKED_SECONDS, |end| end / 1000 + leeway + 1);
        self.0.revoked.add(id, end, now)?;
        self.changed();
        Ok(())
    }

    /// The id by which a token is revoked, and when it ends; `None` if it is no token of ours.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<(String, Option<u64>)> {
        let identity = self.check(token).ok()?;
        match &identity.credential {
            Credential::Token(facts) | Credential::User(facts) => Some((facts.id.clone(), identity.expires_ms)),
            Credential::Key { .. } | Credential::Nothing => None,
        }
    }

    /// How long before its end a connection is told of it.
    #[must_use]
    pub fn expiry_warning(&self) -> std::time::Duration {
        self.0.known.load().settings.expiry_warning
    }
}

/// The secret that tokens are signed with, and the token for whoever starts the daemon with nothing configured.
fn made_secrets(settings: &settings::Auth) -> Result<(String, Option<String>), AuthError> {
    let secret = match &settings.jwt_secret {
        Some(secret) => secret.reveal().to_owned(),
        None => files::read_or_make(&settings.secret_file, "auth.secret_file")?.0,
    };
    let token = if settings.opens_itself() {
        Some(files::read_or_make(&settings.token_file, "auth.token_file")?.0)
    } else {
        None
    };
    Ok((secret, token))
}

/// The key of the made token.
fn made_key(token: &str) -> ApiKey {
    ApiKey::with_roles("token", token, &[ADMIN, PLATFORM_ADMIN])
}

/// What tells one state of a file from another.
type Mark = Option<(std::time::SystemTime, u64)>;

fn look(files: &[PathBuf]) -> Vec<Mark> {
    files.iter().map(|path| files::mark(path)).collect()
}

/// Signs a token that says this with the settings' secret; for `tidegate token mint`.
///
/// # Errors
/// When there is no secret, or the claims cannot be signed.
pub fn mint(settings: &settings::Auth, claims: &serde_json::Value) -> Result<String, AuthError> {
    let (secret, _) =
        made_secrets(&settings::Auth { api_keys: vec![ApiKey::new("none", "none")], ..settings.clone() })?;
    jwt::sign(&secret, claims).map_err(AuthError::Key)
}

#[cfg(test)]
mod tests;
