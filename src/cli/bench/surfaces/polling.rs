//! A client of Socket.IO over HTTP long-polling: a GET that waits for packets, again and again, and a POST where it has to say something.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::frames::{self, Packet};
use super::kinds::Kind;
use super::tally::SharedTally;
use crate::cli::bench::http::Target;

/// Between packets of one answer.
const SEPARATOR: u8 = 0x1e;
/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a session's handshake says.
#[derive(Deserialize)]
struct Handshake {
    sid: String,
}

/// An open session. Its requests follow one another on one connection, so that it costs the daemon no more than it must.
#[derive(Debug)]
pub(super) struct Polling {
    sender: SendRequest<Full<Bytes>>,
    path: String,
    token: String,
}

impl Polling {
    /// Opens a session, signs in and follows a well.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) async fn open(target: &Target, kind: Kind, well: &str) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(target.address)
            .await
            .with_context(|| format!("no daemon answers at {}", target.address))?;
        tcp.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        tokio::task::spawn_local(connection);
        let mut polling = Self { sender, path: kind.path(well), token: target.token.clone() };
        let opened = polling.request("GET", Bytes::new()).await?;
        let Packet::Open(handshake) = frames::packet(&opened) else {
            bail!("refused: {}", String::from_utf8_lossy(&opened));
        };
        let Handshake { sid } = serde_json::from_slice(handshake).context("a handshake without a session")?;
        polling.path.push_str("&sid=");
        polling.path.push_str(&sid);
        polling.say(frames::connect(&target.token)).await?;
        loop {
            let answer = polling.request("GET", Bytes::new()).await?;
            for packet in answer.split(|byte| *byte == SEPARATOR) {
                match frames::packet(packet) {
                    Packet::Connected => polling.say(frames::subscribe(well)).await?,
                    Packet::Ping => polling.say(frames::PONG.to_owned()).await?,
                    Packet::Event(event) if event.starts_with(b"[\"subscribed\"") => return Ok(polling),
                    Packet::Event(event) if event.starts_with(b"[\"error\"") => {
                        bail!("refused: {}", String::from_utf8_lossy(event));
                    }
                    Packet::End(error) => bail!("refused: {}", String::from_utf8_lossy(error)),
                    Packet::Open(_) | Packet::Event(_) | Packet::Other => {}
                }
            }
        }
    }

    async fn say(&mut self, packet: String) -> anyhow::Result<()> {
        self.request("POST", packet.into()).await.map(drop)
    }

    async fn request(&mut self, method: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(&self.path)
            .header(header::HOST, "bench")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "text/plain;charset=UTF-8")
            .body(Full::new(body))?;
        let asked = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(PATIENCE, asked).await.context("no answer came")??;
        if !status.is_success() {
            let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
            bail!("refused: {status} {text}");
        }
        Ok(body)
    }

    /// Counts what comes until the session ends.
    pub(super) async fn follow(mut self, tally: SharedTally) {
        let why = loop {
            let answer = match self.request("GET", Bytes::new()).await {
                Ok(answer) => answer,
                Err(error) => break format!("{error:#}"),
            };
            let (mut ping, mut over) = (false, false);
            for packet in answer.split(|byte| *byte == SEPARATOR) {
                match frames::packet(packet) {
                    Packet::Event(event) => tally.borrow_mut().socket_io(event),
                    Packet::Ping => ping = true,
                    Packet::End(_) => over = true,
                    Packet::Open(_) | Packet::Connected | Packet::Other => {}
                }
            }
            if over {
                break "it was closed".to_owned();
            }
            if ping && let Err(error) = self.say(frames::PONG.to_owned()).await {
                break format!("{error:#}");
            }
        };
        tally.borrow_mut().end(&why);
    }
}
