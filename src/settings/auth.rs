//! The settings of identity: credentials, roles, users, and what tokens must satisfy.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::load::{Fault, Values};
use crate::auth::ApiKey;
use crate::auth::identity::{Grant, Roles, Says, patterns};
use crate::auth::jwt::Demands;
use crate::auth::users::{User, Users, is_hash};
use crate::event::Pattern;

/// Text that no message and no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A text that is to be kept so.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who may come in.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Auth {
    pub api_keys: Vec<ApiKey>,
    pub token_file: PathBuf,
    pub keys_file: PathBuf,
    pub jwt_secret: Option<Secret>,
    pub secret_file: PathBuf,
    /// Public keys by their `kid`, where they have one.
    pub jwt_keys: Vec<(Option<String>, PathBuf)>,
    pub jwks_file: Option<PathBuf>,
    pub jwks_url: Option<String>,
    pub jwks_refresh: Duration,
    pub demands: Demands,
    pub default_role: Option<String>,
    pub admin_password: Option<Secret>,
    pub token_ttl: Duration,
    pub session_max: Duration,
    pub revoked_file: PathBuf,
    pub expiry_warning: Duration,
    pub roles: Roles,
    pub users: Users,
}

impl Auth {
    /// Whether nothing at all is configured by which somebody could come in, so that a token has to be made.
    #[must_use]
    pub fn opens_itself(&self) -> bool {
        self.api_keys.is_empty()
            && self.jwt_secret.is_none()
            && self.jwt_keys.is_empty()
            && self.jwks_file.is_none()
            && self.jwks_url.is_none()
            && self.admin_password.is_none()
            && self.users.is_empty()
            // A token that was made before goes on; beside keys of the file none is made.
            && (self.token_file.exists() || !self.keys_file.exists())
    }
}

fn wrong(faults: &mut Vec<Fault>, what: impl Into<String>) {
    faults.push(Fault::Together(what.into()));
}

/// Reads them; what is wrong is told.
pub(super) fn read(v: &Values, faults: &mut Vec<Fault>) -> Auth {
    let optional = |key: &str| Some(v.text(key)).filter(|text| !text.is_empty());
    let jwks_url = optional("auth.jwks_url");
    if jwks_url.as_ref().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        wrong(
            faults,
            "auth.jwks_url: expected an address that begins with https:// (or http:// for a server of your own)",
        );
    }
    let demands = Demands {
        issuer: optional("auth.issuer"),
        audience: v.list("auth.audience"),
        leeway_seconds: v.time("auth.leeway").as_secs(),
        require_exp: v.flag("auth.require_exp"),
    };
    let jwt_keys = v.list("auth.jwt_keys").into_iter().map(|entry| match entry.split_once('=') {
        Some((kid, path)) => (Some(kid.trim().to_owned()), PathBuf::from(path.trim())),
        None => (None, PathBuf::from(entry)),
    });
    Auth {
        api_keys: api_keys(v, faults),
        token_file: v.text("auth.token_file").into(),
        keys_file: v.text("auth.keys_file").into(),
        jwt_secret: optional("auth.jwt_secret").map(Secret),
        secret_file: v.text("auth.secret_file").into(),
        jwt_keys: jwt_keys.collect(),
        jwks_file: optional("auth.jwks_file").map(PathBuf::from),
        jwks_url,
        jwks_refresh: v.time("auth.jwks_refresh"),
        demands,
        default_role: optional("auth.default_role"),
        admin_password: optional("auth.admin_password").map(Secret),
        token_ttl: v.time("auth.token_ttl"),
        session_max: v.time("auth.session_max"),
        revoked_file: v.text("auth.revoked_file").into(),
        expiry_warning: v.time("auth.expiry_warning"),
        roles: roles(v, faults),
        users: users(v, faults),
    }
}

fn api_keys(v: &Values, faults: &mut Vec<Fault>) -> Vec<ApiKey> {
    let mut keys = Vec::new();
    for pair in v.list("auth.api_keys") {
        match pair.split_once(':') {
            Some((name, key)) if !name.is_empty() && !key.is_empty() => keys.push(ApiKey::new(name, key)),
            _ => wrong(faults, "auth.api_keys: each key is written name:key, with neither part empty"),
        }
    }
    keys
}

fn list(v: &Values, faults: &mut Vec<Fault>, key: &str) -> Option<Vec<Pattern>> {
    let texts = v.list_if_given(key)?;
    match patterns(texts.iter().map(String::as_str)) {
        Ok(patterns) => Some(patterns),
        Err(why) => {
            wrong(faults, format!("{key}: {why}; expected names and patterns of rooms, such as well:*"));
            None
        }
    }
}

fn roles(v: &Values, faults: &mut Vec<Fault>) -> Roles {
    let mut roles = Roles::new();
    for name in v.names("auth.roles.") {
        let mut of = |what: &str| list(v, faults, &format!("auth.roles.{name}.{what}")).unwrap_or_default();
        let grant = Grant { rooms: of("rooms"), publish: of("publish") };
        roles.insert(name, grant);
    }
    roles
}

fn users(v: &Values, faults: &mut Vec<Fault>) -> Users {
    let mut users = Users::new();
    for name in v.names("auth.users.") {
        let key = |what: &str| format!("auth.users.{name}.{what}");
        let hash = v.text_if_given(&key("password_hash")).unwrap_or_default();
        if !is_hash(&hash) {
            wrong(faults, format!("{}: expected an argon2 hash; tidegate user hash writes one", key("password_hash")));
        }
        let roles = v.list_if_given(&key("roles")).unwrap_or_default();
        let says = Says {
            roles: roles.into_iter().map(Into::into).collect(),
            rooms: list(v, faults, &key("rooms")),
            publish: list(v, faults, &key("publish")),
        };
        users.insert(name, User { password_source: hash.clone(), password_hash: hash, says });
    }
    users
}
