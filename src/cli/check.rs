//! `tidegate check`: reads the settings and the pipelines and says what is wrong with them, without starting anything.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{SettingsArguments, complain};
use crate::pipelines::set;
use crate::settings::{Settings, schema};
use crate::store::postgres;

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
            if let Some(Err(error)) =
                settings.sinks.store.database_url.as_ref().map(|url| postgres::check(url.reveal()))
            {
                complain(&error);
                return ExitCode::from(2);
            }
            let pipelines = &settings.pipelines;
            let embedded = |name: &str| pipelines.builtin && settings.surfaces.want(name);
            match set::load(pipelines.dir.as_deref(), pipelines.dir_needed, embedded, Some(&pipelines.values)) {
                Ok(found) => {
                    let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
                    let _ = writeln!(out, "the settings are in order");
                    let _ =
                        writeln!(out, "pipelines: {}", if names.is_empty() { "none".into() } else { names.join(", ") });
                    let _ = writeln!(out, "sinks: {}", sinks(&settings));
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

/// The sinks that will run, and where they write; never the address.
fn sinks(settings: &Settings) -> String {
    let names: Vec<&str> =
        settings.sinks.sinks.iter().filter(|sink| sink.enabled).map(|sink| sink.name.as_str()).collect();
    let store = if settings.sinks.store.database_url.is_some() { "into PostgreSQL" } else { "without a database" };
    if names.is_empty() { "none".to_owned() } else { format!("{}, {store}", names.join(", ")) }
}
