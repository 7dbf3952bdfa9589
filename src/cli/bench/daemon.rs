//! A daemon of one's own to measure: a process of the same program, with settings and credentials made for it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::http::Target;
use super::process::{Cores, Directory, Process};
use crate::auth::{self, files};
use crate::clock;
use crate::settings::{Settings, Sources};

/// What is set otherwise than by default. Every client is of one address and one user here, so what bounds these is off; the host's own figures would come in between.
pub const SETTINGS: [(&str, &str); 9] = [
    ("server.listen", "127.0.0.1:0"),
    ("limits.per_ip_connections", "0"),
    ("limits.per_ip_connections_per_hour", "0"),
    ("limits.per_ip_sockets", "0"),
    ("limits.per_user_connections", "0"),
    ("overview.per_ip_connections", "0"),
    ("overview.per_ip_connections_per_hour", "0"),
    ("analytics.per_user_connections", "0"),
    ("sources.host.enabled", "false"),
];
/// A token holds for a day.
const TTL_SECONDS: u64 = 24 * 3600;

/// A running daemon. It ends, and its directory goes, when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    key: String,
    mint: Mint,
}

impl Daemon {
    /// Starts one, with these settings beside [`SETTINGS`], and waits until it is ready. Its directory is made within `within`.
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub fn start(within: &Path, more: &[(&str, String)], cores: Option<Cores>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let directory = Directory::new(within)?;
        let (secret, key) = (files::random_hex::<32>(), files::random_hex::<16>());
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
            command.env_remove(name);
        }
        command.current_dir(directory.path()).arg("serve");
        for (name, value) in SETTINGS {
            command.args(["--set", &format!("{name}={value}")]);
        }
        for (name, value) in more {
            command.args(["--set", &format!("{name}={value}")]);
        }
        command.env("TIDEGATE_AUTH__JWT_SECRET", &secret).env("TIDEGATE_AUTH__API_KEYS", format!("bench:{key}"));
        Ok(Self { process: Process::start(command, Some(directory), cores)?, key, mint: Mint::new(secret)? })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// It, and the key that may do everything but what takes a role of its own.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { address: self.process.address(), token: self.key.clone() }
    }

    /// A token of somebody with every role.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, subject: &str) -> anyhow::Result<String> {
        self.mint.token(subject)
    }
}

/// Signs tokens as the daemon does.
#[derive(Debug)]
pub(super) struct Mint(Settings);

impl Mint {
    /// # Errors
    /// When that is no secret.
    pub(super) fn new(secret: String) -> anyhow::Result<Self> {
        let flags = vec![("auth.jwt_secret".to_owned(), secret)];
        let settings = Settings::load(&Sources { flags, ..Sources::default() });
        Ok(Self(settings.map_err(|faults| anyhow!("{faults:?}"))?))
    }

    /// A token that says this.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub(super) fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        Ok(auth::mint(&self.0.auth, claims)?)
    }

    fn token(&self, subject: &str) -> anyhow::Result<String> {
        let now = clock::now_ms() / 1000;
        let roles = ["admin", "platform_admin"];
        let claims = json!({
            "sub": subject, "roles": roles, "iat": now, "exp": now + TTL_SECONDS, "jti": files::random_hex::<16>(),
        });
        self.sign(&claims)
    }
}
