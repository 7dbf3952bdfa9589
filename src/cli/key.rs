//! `tidegate key`: makes, lists and revokes API keys in `auth.keys_file`. A daemon that runs takes what has changed within seconds.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::token::say;
use super::{SettingsArguments, complain};
use crate::auth::files::{hex, random_hex};
use crate::auth::identity::{OPERATOR, patterns};
use crate::auth::keys::{KeysFile, KeysFileError, StoredKey, hash};
use crate::clock;
use crate::settings::value::parse_time;

/// The longest name of a key, in characters.
const NAME_MAX: usize = 100;

#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it; it is not shown again
    Create(CreateArguments),
    /// Say which keys there are
    List(SettingsArguments),
    /// Take a key back
    Revoke(RevokeArguments),
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// What the key is called
    name: String,
    /// A role; may be repeated. Without one: operator, which reads and publishes everything
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A room or pattern that it may read, in place of what its roles allow; may be repeated
    #[arg(long, value_name = "PATTERN")]
    rooms: Vec<String>,
    /// A room or pattern that it may publish to, in place of what its roles allow; may be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// When it ends, such as 30d; without it, never
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    #[command(flatten)]
    settings: SettingsArguments,
}

#[derive(Debug, Args)]
struct RevokeArguments {
    /// What the key is called
    name: String,
    #[command(flatten)]
    settings: SettingsArguments,
}

/// Why a key command fails.
enum Fault {
    /// The arguments are wrong.
    Arguments(String),
    /// Something else is.
    Other(String),
    /// The settings are, and that was said.
    Told(ExitCode),
}

impl From<KeysFileError> for Fault {
    fn from(error: KeysFileError) -> Self {
        Self::Other(error.to_string())
    }
}

pub(super) fn run(arguments: &KeyArguments) -> ExitCode {
    let outcome = match &arguments.command {
        KeyCommand::Create(create) => run_create(create),
        KeyCommand::List(settings) => run_list(settings),
        KeyCommand::Revoke(revoke) => run_revoke(revoke),
    };
    match outcome {
        Ok(code) | Err(Fault::Told(code)) => code,
        Err(Fault::Arguments(why)) => {
            complain(&why);
            ExitCode::from(2)
        }
        Err(Fault::Other(why)) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

fn run_create(arguments: &CreateArguments) -> Result<ExitCode, Fault> {
    let settings = arguments.settings.load().map_err(Fault::Told)?;
    let name = arguments.name.trim();
    if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(Fault::Arguments(format!(
            "the name: expected 1 to {NAME_MAX} characters without control characters"
        )));
    }
    let list = |option: &str, given: &[String]| -> Result<_, Fault> {
        patterns(given.iter().map(String::as_str)).map_err(|why| Fault::Arguments(format!("--{option} {why}")))?;
        Ok((!given.is_empty()).then(|| given.to_vec()))
    };
    let (rooms, publish) = (list("rooms", &arguments.rooms)?, list("publish", &arguments.publish)?);
    let expires = arguments.expires.as_deref().map(|text| -> Result<_, Fault> {
        let time = parse_time(text).filter(|time| !time.is_zero());
        let time = time.ok_or_else(|| Fault::Arguments(format!("--expires {text}: expected a time such as 30d")))?;
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(clock::rfc3339(clock::now_ms().saturating_add(ms)))
    });
    let path = &settings.auth.keys_file;
    let key = random_hex::<24>();
    let roles = match &arguments.roles[..] {
        // A key that says itself what it may do needs no role for it.
        [] if rooms.is_some() || publish.is_some() => Vec::new(),
        [] => vec![OPERATOR.to_owned()],
        given => given.to_vec(),
    };
    for role in roles.iter().filter(|role| !settings.auth.roles.contains_key(*role)) {
        complain(&format!("warning: there is no role {role:?} in the settings; it gives nothing"));
    }
    let stored = StoredKey {
        sha256: hex(&hash(&key)),
        roles,
        rooms,
        publish,
        created: clock::rfc3339(clock::now_ms()),
        expires: expires.transpose()?,
    };
    KeysFile::update(path, |file| {
        if file.keys.contains_key(name) || settings.auth.api_keys.iter().any(|key| key.name == name) {
            return Err(Fault::Other(format!("there is a key {name:?} already; revoke it first")));
        }
        file.keys.insert(name.to_owned(), stored);
        Ok(())
    })?;
    complain(&format!("the key {name:?} is in {}; it is shown only now:", path.display()));
    Ok(say(&key))
}

fn run_list(settings: &SettingsArguments) -> Result<ExitCode, Fault> {
    let settings = settings.load().map_err(Fault::Told)?;
    let file = KeysFile::read(&settings.auth.keys_file)?;
    let mut lines = vec![format!("{:<24} {:<24} {:<26} {:<26} rooms / publish", "name", "roles", "created", "expires")];
    let list = |list: &Option<Vec<String>>| list.as_ref().map_or("as its roles".to_owned(), |list| list.join(","));
    for (name, key) in &file.keys {
        let (roles, expires) = (key.roles.join(","), key.expires.as_deref().unwrap_or("never"));
        let (rooms, publish) = (list(&key.rooms), list(&key.publish));
        lines.push(format!("{name:<24} {roles:<24} {:<26} {expires:<26} {rooms} / {publish}", key.created));
    }
    for key in &settings.auth.api_keys {
        lines.push(format!("{:<24} {OPERATOR:<24} {:<26} {:<26} in auth.api_keys", key.name, "", "never"));
    }
    Ok(say(&lines.join("\n")))
}

fn run_revoke(arguments: &RevokeArguments) -> Result<ExitCode, Fault> {
    let settings = arguments.settings.load().map_err(Fault::Told)?;
    let (path, name) = (&settings.auth.keys_file, arguments.name.trim());
    KeysFile::update(path, |file| {
        if file.keys.remove(name).is_some() {
            return Ok(());
        }
        let elsewhere = settings.auth.api_keys.iter().any(|key| key.name == name);
        let hint = if elsewhere { "; it stands in auth.api_keys: take it out there" } else { "" };
        Err(Fault::Other(format!("there is no key {name:?} in {}{hint}", path.display())))
    })?;
    complain(&format!("the key {name:?} is revoked; a daemon that runs lets it go within seconds"));
    Ok(ExitCode::SUCCESS)
}
