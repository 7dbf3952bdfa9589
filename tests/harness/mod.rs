//! A real daemon for tests in Rust: the binary, in a temporary directory, on a free port; killed when it is dropped.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each binary uses its part")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tidegate::cli::bench::http::Target;

pub(crate) const KEY: &str = "test-key";

pub(crate) struct Daemon {
    child: Child,
    pub(crate) target: Target,
    _dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(crate) fn start(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        // Nothing but what the test does itself.
        command.args(["serve", "--listen", "127.0.0.1:0", "--set", "sources.host.enabled=false"]);
        command.args(["--set", "pipelines.builtin=false"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command
            .env("TIDEGATE_LOG__DIR", dir.path().join("log"))
            .env("TIDEGATE_AUTH__API_KEYS", format!("test:{KEY}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().parse().unwrap();
            }
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, target: Target { address, token: KEY.to_owned() }, _dir: dir }
    }

    /// A figure of `/api/health`.
    pub(crate) async fn health(&self, figure: &str) -> u64 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.target.address).await.unwrap();
        stream.write_all(b"GET /api/health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let health: serde_json::Value = serde_json::from_str(body).unwrap();
        health[figure].as_u64().unwrap()
    }
}
