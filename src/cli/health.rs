//! `tidegate health`: asks the daemon with these settings whether it is ready; for health checks of containers, which have no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{SettingsArguments, complain};
use crate::settings::Server;

#[derive(Debug, Args)]
pub(super) struct HealthArguments {
    /// Ask whether the process lives (/livez), not whether it is ready (/readyz)
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    settings: SettingsArguments,
}

/// How long the daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn run(arguments: &HealthArguments) -> ExitCode {
    let settings = match arguments.settings.load() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let path = if arguments.live { "/livez" } else { "/readyz" };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked =
        runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(ask(&settings.server, path)));
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

async fn ask(server: &Server, path: &str) -> Result<(), String> {
    let mut address = server.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        });
    }
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}{path}");
    // The certificate is for the names that clients know; here the daemon's own address is asked, and no secret is sent.
    let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().tls_danger_accept_invalid_certs(true).build();
    let answer = client.map_err(|error| error.to_string())?.get(&url).send().await;
    let answer = answer.map_err(|error| format!("{url} does not answer: {error}"))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let status = answer.status();
    Err(format!("{url} answers {status}: {}", answer.text().await.unwrap_or_default()))
}
