//! What the commands share that speak to a daemon: where it is, the credential, one HTTP request.

use std::future::Future;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::complain;

/// Where the daemon is.
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// The daemon's address
    #[arg(long, global = true, value_name = "URL", env = "TIDEGATE_URL", default_value = "http://127.0.0.1:8000")]
    pub server: String,
    /// A key or token; if none is given, the token file of a daemon started in this directory is tried (data/token)
    #[arg(long, global = true, value_name = "TOKEN", env = "TIDEGATE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

impl Server {
    /// `host:port`.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn authority(&self) -> anyhow::Result<String> {
        let uri: Uri = self
            .server
            .parse()
            .with_context(|| format!("--server {}: expected an address such as http://127.0.0.1:8000", self.server))?;
        if uri.scheme_str().is_some_and(|scheme| scheme != "http") {
            bail!("--server {}: only http:// is spoken; for https go through a proxy on this machine", self.server);
        }
        let authority = uri
            .authority()
            .ok_or_else(|| anyhow!("--server {}: expected an address such as http://127.0.0.1:8000", self.server))?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(format!("{}:{port}", authority.host()))
    }

    /// The credential.
    ///
    /// # Errors
    /// When there is none.
    pub fn credential(&self) -> anyhow::Result<String> {
        if let Some(token) = self.token.as_deref().filter(|token| !token.is_empty()) {
            return Ok(token.to_owned());
        }
        // A secret of this machine is for daemons on this machine.
        let authority = self.authority()?;
        let host = authority.rsplit_once(':').map_or("", |split| split.0).trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !local {
            bail!("no token: give --token or TIDEGATE_TOKEN (data/token is used for daemons on this machine only)");
        }
        let file = std::fs::read_to_string("data/token").map(|token| token.trim().to_owned());
        file.map_err(|_| anyhow!("no token: give --token or TIDEGATE_TOKEN, or run where the daemon keeps data/token"))
    }

    /// Sends one request and returns the answer's head with its body to be read.
    ///
    /// # Errors
    /// When the daemon is not there, or refuses.
    pub(super) async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let authority = self.authority()?;
        let stream =
            TcpStream::connect(&authority).await.with_context(|| format!("no daemon answers at {authority}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the answer's body.
        tokio::spawn(connection);
        let request = request
            .header(header::HOST, &authority)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.credential()?))
            .body(Full::new(body))?;
        let response = sender.send_request(request).await.with_context(|| format!("{authority} broke off"))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        bail!("{authority} answered {status}: {}", explain(&body))
    }
}

/// A problem's words, with what it says of single items.
fn explain(body: &[u8]) -> String {
    let Ok(problem) = serde_json::from_slice::<serde_json::Value>(body) else {
        return String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    };
    let mut text = problem["detail"].as_str().unwrap_or("no reason given").to_owned();
    for error in problem["errors"].as_array().into_iter().flatten() {
        let item = error["item"].as_u64().map_or(String::new(), |item| format!("item {item}, "));
        let field = error["field"].as_str().map_or(String::new(), |field| format!("field {field}: "));
        text.push_str(&format!("\n  {item}{field}{}", error["message"].as_str().unwrap_or_default()));
    }
    text
}

/// A request's builder.
pub(super) fn request(method: &str, path: &str) -> hyper::http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// Percent-encodes a part of a path or query.
pub(super) fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Runs a command's future and says what went wrong.
pub(super) fn run(command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whoever reads our output has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
