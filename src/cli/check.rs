//! `tidegate check`: reads the settings and says what is wrong with them, without starting anything.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::SettingsArguments;
use crate::settings::schema;

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Print every setting with its meaning and default instead
    #[arg(long)]
    defaults: bool,
    #[command(flatten)]
    settings: SettingsArguments,
}

pub(super) fn run(arguments: &CheckArguments) -> ExitCode {
    let mut out = std::io::stdout();
    if arguments.defaults {
        let _ = out.write_all(schema::render().as_bytes());
        return ExitCode::SUCCESS;
    }
    match arguments.settings.load() {
        Ok(_) => {
            let _ = writeln!(out, "the settings are in order");
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
