//! The table of all settings: key, kind, default, meaning. From it come the checks, the messages and `config/default.toml`.

mod auth;
mod rooms_and_limits;
mod server;
mod sinks;
mod surfaces;

use super::value::Kind;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its key with dots; a `*` stands for the name of a namespace.
    pub key: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default as it is written in TOML.
    pub default: &'static str,
    /// What it means, with its unit where it has one.
    pub help: &'static str,
}

pub use surfaces::{ALIASES, IN_PIPELINES};

const fn setting(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, default, help }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// All settings, in the order in which `config/default.toml` shows them.
pub fn all() -> impl Iterator<Item = &'static Setting> + Clone {
    [server::SETTINGS, auth::SETTINGS, rooms_and_limits::SETTINGS, sinks::SETTINGS, surfaces::SETTINGS]
        .into_iter()
        .flatten()
}

/// Limits that are built into what runs when the daemon starts.
const FIXED_LIMITS: &[&str] = &[
    "connections",
    "per_ip_sockets",
    "mailbox_messages",
    "mailbox_bytes",
    "mailboxes_bytes",
    "room_messages",
    "room_bytes",
    "source_messages",
    "source_bytes",
    "bodies_bytes",
    "rooms",
    "rooms_per_connection",
    "header_bytes",
    "header_timeout",
    "http2_streams",
    "write_timeout",
    "send_buffer",
];

/// Files that are opened when the daemon starts.
const FIXED_FILES: &[&str] = &["auth.revoked_file"];

/// Whether a changed value takes effect when the settings are read again (SIGHUP).
#[must_use]
pub fn is_live(key: &str) -> bool {
    if FIXED_FILES.contains(&key) {
        return false;
    }
    match key.split_once('.') {
        Some(("auth" | "cors" | "overview" | "wells", _)) => true,
        Some(("analytics", name)) => name != "websocket_path",
        Some(("limits", name)) => !FIXED_LIMITS.contains(&name),
        _ => [
            "pipelines.dir",
            "pipelines.builtin",
            "metrics.public",
            "logging.level",
            "server.reconnect_spread",
            "audit.refusals_per_second",
            "buffer.content_bytes",
        ]
        .contains(&key),
    }
}

/// Whether a value belongs into no message: it is a secret, or there may be one in it.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    key.starts_with("auth.") || key == "sink.database_url"
}

/// The name under which the namespaces' defaults stand.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The setting a key belongs to, `rooms.well.conflate` to `rooms.*.conflate`.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key || wildcard(key).is_some_and(|general| setting.key == general))
}

/// What there may be many of, each with a name of its own. Only rooms have one that all others take from.
const FAMILIES: &[&str] = &["rooms.", "auth.roles.", "auth.users.", "sinks."];

/// `rooms.well.conflate` as `rooms.*.conflate`.
fn wildcard(key: &str) -> Option<String> {
    let family = FAMILIES.iter().find(|family| key.starts_with(**family))?;
    let (one, name) = key.strip_prefix(family)?.rsplit_once('.')?;
    (!one.is_empty()).then(|| format!("{family}*.{name}"))
}

/// The key most like an unknown one, for "did you mean".
#[must_use]
pub fn nearest(key: &str) -> Option<String> {
    let namespace =
        key.strip_prefix("rooms.").and_then(|rest| rest.rsplit_once('.')).map_or(DEFAULT_NAMESPACE, |split| split.0);
    let keys = all().map(|setting| setting.key.replace('*', namespace));
    let near = keys.map(|known| (strsim::damerau_levenshtein(key, &known), known)).min()?;
    (near.0 <= (key.len() / 4).clamp(2, 4)).then_some(near.1)
}

/// `config/default.toml`: every setting with its meaning, what is allowed and its default.
#[must_use]
pub fn render() -> String {
    let mut text = String::from(
        "# Every setting of tidegate with its default. A file needs only what differs: tidegate serve --config FILE.\n\
         # The environment goes before the file (TIDEGATE_SERVER__LISTEN for server.listen), flags go before both (--set server.listen=…).\n\
         # Written by `tidegate check --defaults`; a test keeps it equal to the code.\n",
    );
    let mut section = "";
    for setting in all() {
        let (group, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        if group != section {
            section = group;
            if group == "rooms.*" {
                text.push_str("\n# Rooms by namespace, the part of their name before the first colon: [rooms.well] is for well:WELL-001. What a namespace does\n# not say is as in [rooms.default].");
            }
            match group {
                "auth.roles.*" => text.push_str("\n# A role of your own:\n# [auth.roles.NAME]\n"),
                "sinks.*" => text.push_str("\n# A sink of your own:\n# [sinks.NAME]\n"),
                "auth.users.*" => text.push_str("\n# A user who signs in with a password:\n# [auth.users.NAME]\n"),
                _ => text.push_str(&format!("\n[{}]\n", group.replace('*', DEFAULT_NAMESPACE))),
            }
        }
        // Of your own there are none until you name one.
        let hidden = if group.contains('*') && group != "rooms.*" { "# " } else { "" };
        let (help, kind, default) = (setting.help, setting.kind, setting.default);
        text.push_str(&format!("# {help}\n# Allowed: {kind}.\n{hidden}{name} = {default}\n"));
    }
    text
}
