//! The WebSocket transport: a session that is carried by one socket from its beginning, or that goes over to it from polling once a probe has shown that it works.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::dialect::Packets;
use super::packet::{PROBE, PROBE_ANSWER, UPGRADE};
use super::polling::Order;
use super::server::{Carrier, Entry, message_max};
use super::session::{End, Heard, Session, killed, taken_over};
use crate::edge::websocket::{Upgrade, WebSocket};
use crate::metrics::record;
use crate::settings::Limits;

/// So many writes in a row without a look at what the client says.
const HASTY_WRITES: usize = 8;
/// A write that took so long had to wait for its client.
const SLOW_WRITE: Duration = Duration::from_millis(100);
/// How long a client may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// A WebSocket with bounded messages. A message somewhat over the limit is read to its end, so that its sender gets an answer; one far over it is cut off.
pub(super) fn bounded(upgrade: Upgrade, limits: &Limits) -> Upgrade {
    upgrade.message_max(limits.message_bytes.saturating_mul(2).saturating_add(16 << 10))
}

/// Carries a session to its end. `first` is said before everything else.
pub(super) async fn serve(mut session: Box<Session>, mut socket: WebSocket, first: Option<Utf8Bytes>) {
    let first: Packets = first.into_iter().collect();
    let end = match write(&mut session, &mut socket, first).await {
        Ok(()) => Box::pin(carry(&mut session, &mut socket)).await,
        Err(()) => End::GONE,
    };
    session.gather();
    let last = session.take_all();
    // What it holds is given back before its client is waited for.
    drop(session);
    Box::pin(goodbye(socket, last, end)).await;
}

async fn carry(session: &mut Session, socket: &mut WebSocket) -> End {
    let kill = session.kill.clone();
    // Writes since the client was last looked at.
    let mut hasty = 0;
    loop {
        let message = if hasty < HASTY_WRITES {
            tokio::select! {
                biased;
                end = session.next(true) => match end {
                    Some(end) => return end,
                    None => {
                        let (packets, began) = (session.take_all(), Instant::now());
                        if write(session, socket, packets).await.is_err() {
                            return End::GONE;
                        }
                        hasty += 1;
                        if began.elapsed() >= SLOW_WRITE {
                            session.was_slow();
                            hasty = HASTY_WRITES;
                        }
                        continue;
                    }
                },
                message = socket.recv() => message,
                () = killed(&kill) => return session.finish().await,
            }
        } else {
            hasty = 0;
            match socket.recv().now_or_never() {
                Some(message) => message,
                None => continue,
            }
        };
        if let Err(end) = hear(session, message).await {
            return end;
        }
    }
}

async fn hear(session: &mut Session, message: Option<Result<Message, Error>>) -> Result<(), End> {
    let max = message_max(&session.edge.settings(), session.is_live());
    match message {
        Some(Ok(Message::Text(text))) if text.len() > max => Err(session.too_big()),
        Some(Ok(Message::Binary(bytes))) if bytes.len() > max => Err(session.too_big()),
        Some(Ok(Message::Text(text))) => session.hear(Heard::Text(&text)).await,
        Some(Ok(Message::Binary(_))) => session.hear(Heard::Binary).await,
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
        Some(Err(error)) => match error {
            Error::Capacity(_) => Err(session.too_big()),
            Error::Utf8(_) => Err(session.malformed("text that is not UTF-8")),
            _ => Err(End::GONE),
        },
        Some(Ok(Message::Close(_))) | None => Err(End::GONE),
    }
}

/// Writes packets in one go, unless the daemon ends the session or its client has come back. How long it may take is for the socket to say (`limits.write_timeout`).
async fn write(session: &mut Session, socket: &mut WebSocket, packets: Packets) -> Result<(), ()> {
    let (kill, taken) = (session.kill.clone(), session.taken());
    tokio::select! {
        biased;
        written = socket.send_texts(packets) => written.map_err(|_| ()),
        () = killed(&kill) => Err(()),
        // Its network has broken, which nobody here has noticed yet.
        () = taken_over(taken) => Err(()),
    }
}

/// Says what is left and closes. It is read on until the client has answered, so that it gets to read the reason; a client that does not answer is not waited for.
async fn goodbye(mut socket: WebSocket, last: Packets, end: End) {
    let words = async {
        if end.code > 0 {
            socket.send_texts(last).await?;
            let frame = CloseFrame { code: end.code.into(), reason: end.reason.into() };
            socket.close(Some(frame)).await?;
        } else {
            socket.close(None).await?;
        }
        while let Some(Ok(_)) = socket.recv().await {}
        Ok::<(), Error>(())
    };
    let _ = timeout(CLOSE_WAIT, words).await;
}

/// A WebSocket that a session which is polled may go over to.
pub(super) struct Probe {
    entry: Arc<Entry>,
    /// How long the client may take.
    patience: Duration,
    /// Whether the session has gone over.
    done: bool,
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Polls go on as before.
        if !self.done && self.entry.pass(Carrier::Probing, Carrier::Polling) {
            let _ = self.entry.orders.try_send(Order::Probing(false));
        }
    }
}

impl Probe {
    /// Begins, if the session is polled and no other one is being tried.
    pub(super) fn begin(entry: Arc<Entry>, patience: Duration) -> Option<Self> {
        entry.pass(Carrier::Polling, Carrier::Probing).then_some(Self { entry, patience, done: false })
    }

    /// Tries the socket, and has it carry the session if it works.
    pub(super) async fn run(mut self, mut socket: WebSocket) {
        let handed = timeout(self.patience, Box::pin(self.take_over(&mut socket))).await.ok().flatten();
        match handed {
            Some(session) => {
                drop(self);
                serve(session, socket, None).await;
            }
            None => {
                record::connection_cut("probe");
                drop(self);
                let _ = timeout(CLOSE_WAIT, socket.close(None)).await;
            }
        }
    }

    async fn take_over(&mut self, socket: &mut WebSocket) -> Option<Box<Session>> {
        expect(socket, PROBE).await?;
        socket.send_texts([PROBE_ANSWER]).await.ok()?;
        self.entry.orders.send(Order::Probing(true)).await.ok()?;
        expect(socket, UPGRADE).await?;
        self.done = self.entry.pass(Carrier::Probing, Carrier::WebSocket);
        let (reply, handed) = oneshot::channel();
        self.entry.orders.send(Order::Hand(reply)).await.ok()?;
        handed.await.ok()
    }
}

/// Waits for one packet; any other ends the trial.
async fn expect(socket: &mut WebSocket, packet: &str) -> Option<()> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) if text.as_str() == packet => return Some(()),
            Message::Ping(_) | Message::Pong(_) => {}
            _ => return None,
        }
    }
}
