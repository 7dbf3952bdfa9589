//! The polling transport: a session that lives between its requests, in a task of its own. A GET waits for packets, a POST brings some. Nothing is taken from the mailbox
//! while nobody waits for it.
//!
//! Bound: `wells.waiting_max` packets beside the mailbox, which are answers to what was posted meanwhile. A client that lets `wells.ping_interval` and `wells.ping_timeout` pass
//! without a poll is timed out.

use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::packet::{CLOSE, Malformed, NOOP};
use super::payload::{self, Part};
use super::server::{Entry, Refusal, message_max, text};
use super::session::{End, Heard, POLICY, Session, killed};
use crate::edge::problem::Problem;
use crate::edge::{Edge, body};
use crate::metrics::record;

/// While a WebSocket is tried, a poll waits no longer than this.
const PROBING_WAIT: Duration = Duration::from_millis(100);
/// How long what is left to say at the end waits for a poll.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a request wants of its session.
#[derive(Debug)]
pub(super) enum Order {
    /// Packets.
    Poll(oneshot::Sender<Bytes>),
    /// To bring some.
    Post(String, oneshot::Sender<Posted>),
    /// More came than may.
    TooBig,
    /// Whether a WebSocket is tried.
    Probing(bool),
    /// A WebSocket takes the session over.
    Hand(oneshot::Sender<Box<Session>>),
}

/// What became of packets.
#[derive(Debug)]
pub(super) enum Posted {
    Taken,
    Malformed,
}

/// Answers a GET.
pub(super) async fn poll(entry: &Entry) -> Result<Response, Refusal> {
    let (reply, answer) = oneshot::channel();
    send(entry, Order::Poll(reply))?;
    // The session has ended, or two polls came at once.
    answer.await.map(text).map_err(|_| Refusal::BadRequest)
}

/// Answers a POST.
pub(super) async fn post(edge: &Edge, entry: &Entry, request: Request) -> Result<Response, Refusal> {
    let settings = edge.settings();
    let max = message_max(&settings, entry.signed_in.load(std::sync::atomic::Ordering::Acquire));
    let bytes = match body::read_small(request.into_body(), max, settings.limits.body_timeout).await {
        Ok(bytes) => bytes,
        Err(problem) => {
            if problem.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                send(entry, Order::TooBig)?;
            }
            return Err(problem.into());
        }
    };
    // What is no text is no payload either: the session finds that out.
    let payload = String::from_utf8(bytes.into()).unwrap_or_default();
    let (reply, answer) = oneshot::channel();
    send(entry, Order::Post(payload, reply))?;
    match answer.await {
        Ok(Posted::Taken) => Ok(text("ok")),
        Ok(Posted::Malformed) | Err(_) => Err(Refusal::BadRequest),
    }
}

fn send(entry: &Entry, order: Order) -> Result<(), Refusal> {
    entry.orders.try_send(order).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Problem::busy("too many requests of this session are under way").into(),
        mpsc::error::TrySendError::Closed(_) => Refusal::UnknownSession,
    })
}

/// What is done next.
enum What {
    Order(Option<Order>),
    /// There is something to write, or the end.
    Next(Option<End>),
    /// The client has gone that waited.
    Hung,
    /// A waiting poll is answered with nothing.
    Noop,
    /// Nobody has polled for too long.
    Silent,
    /// The daemon ends the session, and nobody waits for its words.
    Killed,
}

/// How it goes on after an order.
enum Step {
    On,
    End(End),
    /// There is nothing more to do.
    Over,
}

/// A session that is carried by polls.
struct Polled {
    /// Taken out when it ends or goes over to a WebSocket.
    session: Option<Box<Session>>,
    /// Who waits.
    poll: Option<oneshot::Sender<Bytes>>,
    probing: bool,
    /// When somebody began to wait, or was answered.
    polled: Instant,
    /// Packets that wait because the client asked for them, and did not come for the answers.
    answers: usize,
}

/// Carries a session to its end, or until a WebSocket takes it over.
pub(super) async fn run(session: Box<Session>, mut orders: mpsc::Receiver<Order>) {
    let (kill, patience) = (session.kill.clone(), session.patience());
    let mut this = Polled { session: Some(session), poll: None, probing: false, polled: Instant::now(), answers: 0 };
    let end = loop {
        if let Err(end) = this.answer() {
            break end;
        }
        let (waits, polled, probing, answers) = (this.poll.is_some(), this.polled, this.probing, this.answers);
        let Some(session) = &mut this.session else { return };
        if answers > session.waiting_max() {
            break session.end(POLICY, "more waits than a client that does not poll may leave");
        }
        let what = tokio::select! {
            biased;
            order = orders.recv() => What::Order(order),
            end = session.next(waits) => What::Next(end),
            () = hung(&mut this.poll), if waits => What::Hung,
            () = sleep_until(polled + PROBING_WAIT), if probing && waits => What::Noop,
            () = sleep_until(polled + patience), if !waits => What::Silent,
            () = killed(&kill), if !waits => What::Killed,
        };
        let step = match what {
            What::Order(Some(order)) => Box::pin(this.obey(order)).await,
            What::Next(None) => Step::On,
            What::Next(Some(end)) => Step::End(end),
            What::Hung | What::Order(None) => Step::End(End::GONE),
            What::Noop => this.say_nothing(),
            What::Silent => {
                record::connection_cut("silent");
                Step::End(End::GONE)
            }
            What::Killed => Step::End(session.finish().await),
        };
        match step {
            Step::On => {}
            Step::End(end) => break end,
            Step::Over => return,
        }
    };
    this.last_words(end, orders).await;
}

impl Polled {
    /// Gives whoever waits what there is.
    fn answer(&mut self) -> Result<(), End> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(poll) = self.poll.take_if(|_| session.has_words()) else { return Ok(()) };
        self.polled = Instant::now();
        let packets = session.take();
        // What came first goes first: of the answers no more are left than of everything.
        self.answers = self.answers.min(session.waiting());
        poll.send(payload::write(&packets)).map_err(|_| End::GONE)
    }

    fn say_nothing(&mut self) -> Step {
        self.polled = Instant::now();
        match self.poll.take().map(|poll| poll.send(NOOP.into())) {
            Some(Err(_)) => Step::End(End::GONE),
            _ => Step::On,
        }
    }

    async fn obey(&mut self, order: Order) -> Step {
        let Some(session) = &mut self.session else { return Step::Over };
        match order {
            Order::Poll(reply) if self.poll.is_none() => {
                (self.poll, self.polled) = (Some(reply), Instant::now());
                Step::On
            }
            // Two at once: nobody could say which of them gets what. The session is out of the table before anybody hears of it.
            Order::Poll(_refused) => {
                self.session = None;
                self.poll.take().map(|waiting| waiting.send(CLOSE.into()));
                Step::Over
            }
            Order::Post(payload, reply) => {
                let before = session.waiting();
                let heard = hear(session, &payload).await;
                self.answers += session.waiting().saturating_sub(before);
                let posted = match &heard {
                    Err(end) if end.malformed => Posted::Malformed,
                    _ => Posted::Taken,
                };
                if matches!(posted, Posted::Malformed) || heard.as_ref().is_err_and(|end| end.by_client) {
                    // It is out of the table before anybody hears of it.
                    session.unlist();
                }
                let _ = reply.send(posted);
                heard.map_or_else(Step::End, |()| Step::On)
            }
            Order::TooBig => Step::End(session.too_big()),
            Order::Probing(on) => {
                self.probing = on;
                Step::On
            }
            Order::Hand(reply) => {
                // Clients end their polls before they go over: one that came since is refused, as those that come later.
                self.poll = None;
                // Whoever asked for it may have gone; then it ends here.
                let _ = self.session.take().map(|session| reply.send(session));
                Step::Over
            }
        }
    }

    /// What is left to say is said to whoever polls; where it should be heard, that is waited for.
    async fn last_words(mut self, end: End, mut orders: mpsc::Receiver<Order>) {
        let Some(mut session) = self.session.take() else { return };
        session.gather();
        let mut words: Vec<Utf8Bytes> = if end.by_client { Vec::new() } else { session.take_all().into_vec() };
        let (packets_max, mut listed) = (session.packets_max(), session.unlist());
        drop(session);
        let until = Instant::now() + LAST_WORDS;
        while end.linger && !words.is_empty() {
            if let Some(poll) = self.poll.take() {
                let part: Vec<Utf8Bytes> = words.drain(..packets_max.min(words.len())).collect();
                let _ = poll.send(payload::write(&part));
            }
            // The close comes by a poll of its own: the JavaScript client gives up what stands before it in the same payload.
            match timeout_at(until, orders.recv()).await {
                Ok(Some(Order::Poll(reply))) => self.poll = Some(reply),
                // It ends the session by itself, after what it has heard.
                Ok(Some(Order::Post(_, reply))) => {
                    let _ = reply.send(Posted::Taken);
                }
                // Dropped replies say that there is nothing here any more.
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
        // It is out of the table before anybody hears of it.
        listed.take();
        words.push(if end.by_client { NOOP } else { CLOSE });
        let _ = self.poll.take().map(|poll| poll.send(payload::write(&words)));
    }
}

/// Has the session hear a payload, packet by packet.
async fn hear(session: &mut Session, payload: &str) -> Result<(), End> {
    for part in payload::read(payload) {
        match part {
            Ok(Part::Text(text)) => session.hear(Heard::Text(text)).await?,
            Ok(Part::Binary) => session.hear(Heard::Binary).await?,
            Err(Malformed(why)) => return Err(session.malformed(why)),
        }
    }
    Ok(())
}

/// Waits until the client has gone that waits.
async fn hung(poll: &mut Option<oneshot::Sender<Bytes>>) {
    match poll {
        Some(poll) => poll.closed().await,
        None => std::future::pending().await,
    }
}
