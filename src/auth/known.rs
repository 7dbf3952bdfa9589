//! Everything that a credential is checked against, as one value that is replaced whole when something changes.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use super::files::hex;
use super::identity::{ADMIN, Claims, Credential, Identity, PLATFORM_ADMIN, Rights, Says, TokenFacts, patterns};
use super::jwt::{self, CheckingKey, Demands, Wrong};
use super::keys::{ApiKey, KeysFile};
use super::users::{self, User};
use super::{AuthError, made_key};
use crate::clock;
use crate::settings;

/// Keys, users, roles and demands of the moment.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) settings: Arc<settings::Auth>,
    /// What tokens of this daemon are signed with.
    pub(super) secret: String,
    /// The made token, where nothing was configured.
    pub(super) token: Option<String>,
    pub(super) keys: Vec<ApiKey>,
    /// Who shows the key at the same place.
    pub(super) holders: Vec<Arc<Identity>>,
    checking: Vec<CheckingKey>,
    /// The keys of `auth.jwks_url`.
    pub(super) fetched: Vec<CheckingKey>,
    pub(super) demands: Demands,
    pub(super) users: users::Users,
    /// A hash that no password opens, checked where there is no such user.
    pub(super) decoy: String,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known")
            .field("keys", &self.keys.len())
            .field("users", &self.users.len())
            .finish_non_exhaustive()
    }
}

impl Known {
    /// Puts together what the settings and the files they name say.
    pub(super) fn build(
        settings: &settings::Auth,
        secret: String,
        token: Option<&str>,
        fetched: Vec<CheckingKey>,
    ) -> Result<Self, AuthError> {
        let mut keys = settings.api_keys.clone();
        keys.extend(KeysFile::read(&settings.keys_file)?.into_keys(&settings.keys_file)?);
        keys.extend(token.map(made_key));
        let holders = keys.iter().map(|key| Arc::new(holder(key, settings))).collect();
        let mut checking = vec![CheckingKey::secret(&secret)];
        for (kid, path) in &settings.jwt_keys {
            checking.push(CheckingKey::pem(kid.clone(), path).map_err(AuthError::Key)?);
        }
        if let Some(path) = &settings.jwks_file {
            let fault = |why: String| AuthError::Key(format!("auth.jwks_file: {}: {why}", path.display()));
            let json = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
            checking.extend(jwt::key_set(&json).map_err(fault)?);
        }
        let mut users = settings.users.clone();
        if let Some(password) = &settings.admin_password {
            let password_hash = users::hash(password.reveal()).map_err(AuthError::Key)?;
            let says = Says { roles: vec![ADMIN.into(), PLATFORM_ADMIN.into()], ..Says::default() };
            let password_source = password.reveal().to_owned();
            users.insert(users::ADMIN_NAME.to_owned(), User { password_hash, password_source, says });
        }
        let decoy = users::hash(&super::files::random_hex::<16>()).map_err(AuthError::Key)?;
        Ok(Self {
            settings: Arc::new(settings.clone()),
            secret,
            token: token.map(str::to_owned),
            keys,
            holders,
            checking,
            fetched,
            demands: settings.demands.clone(),
            users,
            decoy,
        })
    }

    /// The files that may change while the daemon runs.
    pub(super) fn files(settings: &settings::Auth) -> Vec<PathBuf> {
        let pem = settings.jwt_keys.iter().map(|(_, path)| path.clone());
        std::iter::once(settings.keys_file.clone()).chain(pem).chain(settings.jwks_file.clone()).collect()
    }

    pub(super) fn check_token(&self, token: &str) -> Result<(Claims, [u8; 32]), Wrong> {
        match jwt::check(&self.checking, &self.demands, token) {
            Ok(checked) => Ok(checked),
            Err(_) if !self.fetched.is_empty() => jwt::check(&self.fetched, &self.demands, token),
            Err(wrong) => Err(wrong),
        }
    }

    /// Why a token is not taken, in words.
    pub(super) fn why_not(&self, token: &str) -> String {
        let keys: Vec<CheckingKey> = self.checking.iter().chain(&self.fetched).cloned().collect();
        jwt::why_not(&keys, &self.demands, token)
    }

    /// Whether tokens signed with this key are still taken.
    pub(super) fn trusts(&self, mark: &[u8; 32]) -> bool {
        self.checking.iter().chain(&self.fetched).any(|key| key.mark == *mark)
    }

    /// A mark of a user's password that says nothing without the secret.
    pub(super) fn password_mark(&self, name: &str, user: &User) -> String {
        let mut hash = Sha256::new();
        for part in [&self.secret, name, &user.password_source] {
            hash.update(Sha256::digest(part));
        }
        hex(&hash.finalize()[..8])
    }

    /// Who shows a token that says this; `None` if its claims do not go together.
    pub(super) fn identity(&self, token: &str, claims: Claims, mark: [u8; 32]) -> Option<Identity> {
        let list = |list: Option<Vec<String>>| list.map(|list| patterns(list.iter().map(String::as_str))).transpose();
        let (rooms, publish) = (list(claims.rooms).ok()?, list(claims.publish).ok()?);
        let names_roles = claims.roles.is_some();
        let says = Says { roles: claims.roles.unwrap_or_default(), rooms, publish };
        let id = claims.jti.unwrap_or_else(|| hex(&Sha256::digest(token)));
        let facts = TokenFacts {
            id,
            signed_by: mark,
            says,
            names_roles,
            password_mark: claims.password_mark,
            signed_in: claims.auth_time,
        };
        let credential = match facts.password_mark {
            // Only this daemon says so of its own logins.
            Some(_) if mark == CheckingKey::secret(&self.secret).mark => Credential::User(Arc::new(facts)),
            _ => Credential::Token(Arc::new(facts)),
        };
        let (roles, rights) = self.rights(&credential, &claims.sub)?;
        let expires_ms = claims.exp.and_then(|exp| self.end_ms(&exp));
        Some(Identity { subject: claims.sub.into(), credential, roles, rights, expires_ms })
    }

    /// When a token ends. One that has ended, by a clock that differs as far as it may, is good for as long as it may differ.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time before 1970 is 0, one beyond the end of time its end"
    )]
    fn end_ms(&self, exp: &serde_json::Number) -> Option<u64> {
        let seconds = exp.as_u64().or_else(|| exp.as_f64().map(|seconds| seconds as u64))?;
        let end = seconds.saturating_mul(1000);
        let late = end <= clock::now_ms();
        Some(if late { end.saturating_add(self.demands.leeway_seconds.saturating_mul(1000)) } else { end })
    }

    /// What a token's bearer may do now; `None` where it speaks for a user who is not there any more, or has another password.
    pub(super) fn rights(&self, credential: &Credential, subject: &str) -> Option<(Vec<SmolStr>, Rights)> {
        let facts = match credential {
            Credential::Key { .. } | Credential::Nothing => return None,
            Credential::Token(facts) => facts,
            Credential::User(facts) => {
                let user = self.users.get(subject)?;
                if facts.password_mark.as_deref() != Some(&self.password_mark(subject, user)) {
                    return None;
                }
                return Some((user.says.roles.clone(), user.says.rights(&self.settings.roles)));
            }
        };
        let mut says = facts.says.clone();
        if !facts.names_roles {
            says.roles.extend(self.settings.default_role.iter().map(SmolStr::new));
        }
        let rights = says.rights(&self.settings.roles);
        Some((says.roles, rights))
    }
}

fn holder(key: &ApiKey, settings: &settings::Auth) -> Identity {
    Identity {
        subject: key.name.clone(),
        credential: Credential::Key { hash: key.hash },
        roles: key.says.roles.clone(),
        rights: key.says.rights(&settings.roles),
        expires_ms: key.expires_ms,
    }
}
