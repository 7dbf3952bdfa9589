//! `tidegate check`: reads the settings and the pipelines and says what is wrong with them, without starting anything.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{SettingsArguments, complain};
use crate::pipelines::set;
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
        Ok(settings) => {
            let pipelines = &settings.pipelines;
            let embedded = |name: &str| pipelines.builtin && settings.surfaces.want(name);
            match set::load(pipelines.dir.as_deref(), pipelines.dir_needed, embedded) {
                Ok(found) => {
                    let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
                    let _ = writeln!(out, "the settings are in order");
                    let _ =
                        writeln!(out, "pipelines: {}", if names.is_empty() { "none".into() } else { names.join(", ") });
                    ExitCode::SUCCESS
                }
                Err(faults) => {
                    faults.iter().for_each(|fault| complain(fault));
                    ExitCode::from(2)
                }
            }
        }
        Err(code) => code,
    }
}
