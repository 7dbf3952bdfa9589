//! `tidegate user`: writes the hash of a password for the settings.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::complain;
use super::token::say;
use crate::auth::users;

#[derive(Debug, Args)]
pub(super) struct UserArguments {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Print the hash of a password, for auth.users.NAME.password_hash; asks for it, or reads a line from standard input
    Hash,
}

pub(super) fn run(arguments: &UserArguments) -> ExitCode {
    let UserCommand::Hash = arguments.command;
    let hashed = password().and_then(|password| users::hash(&password));
    match hashed {
        Ok(hash) => say(&hash),
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

fn password() -> Result<String, String> {
    let password = if std::io::stdin().is_terminal() {
        let ask = |prompt: &str| rpassword::prompt_password(prompt).map_err(|error| error.to_string());
        let first = ask("Password: ")?;
        if ask("Again: ")? != first {
            return Err("the two are not the same".to_owned());
        }
        first
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() { Err("an empty password protects nothing".to_owned()) } else { Ok(password) }
}
