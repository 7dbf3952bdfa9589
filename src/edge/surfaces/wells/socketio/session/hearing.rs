//! What a client says to its session, packet by packet: whether it may say more now, what it means, and what is done. What its events ask for is done in `commands`.

use tokio::time::Instant;

use super::super::dialect::fault;
use super::super::packet::{self, Frame, Kind};
use super::{End, POLICY, Session, State};
use crate::edge::problem::whole_seconds;
use crate::limits::Verdict;
use crate::metrics::record;

/// What came from the client.
#[derive(Debug)]
pub(in super::super) enum Heard<'a> {
    Text(&'a str),
    /// An attachment, in which nobody looks.
    Binary,
}

/// An event of which attachments are still to come.
pub(super) struct Pending {
    text: String,
    left: usize,
}

impl Session {
    /// Does what a client says.
    pub(in super::super) async fn hear(&mut self, heard: Heard<'_>) -> Result<(), End> {
        match heard {
            Heard::Text(text) => match packet::frame(text) {
                Ok(Frame::Close) => Err(End::BY_CLIENT),
                Ok(Frame::Ping(with)) => {
                    // No client of this revision asks so: whoever does it often is one who misuses it.
                    if self.allowed()? {
                        self.queue.push_back(format!("3{with}").into());
                    }
                    Ok(())
                }
                Ok(Frame::Pong) => {
                    self.heart.heard(Instant::now());
                    Ok(())
                }
                Ok(Frame::Nothing) => Ok(()),
                Ok(Frame::Message(message)) => Box::pin(self.message(message)).await,
                Err(packet::Malformed(why)) => Err(self.malformed(why)),
            },
            Heard::Binary => Box::pin(self.attachment()).await,
        }
    }

    async fn message(&mut self, text: &str) -> Result<(), End> {
        if !self.allowed()? {
            return Ok(());
        }
        let packet = match packet::packet(text) {
            Ok(packet) => packet,
            Err(packet::Malformed(why)) => return Err(self.malformed(why)),
        };
        if self.pending.take().is_some() {
            self.error("ValidationError", "an event's attachments did not come");
        }
        match packet.kind {
            Kind::Connect => self.connect(packet.namespace, packet.payload).await,
            // Neither is there anything to be done about what is not there.
            Kind::Disconnect if packet.namespace != "/" => Ok(()),
            Kind::Disconnect => {
                self.leave();
                Ok(())
            }
            _ if !self.is_live() => Err(self.malformed("expected CONNECT first")),
            Kind::Ack(_) => Ok(()),
            Kind::Event(0) => self.event(packet).await,
            Kind::Event(left) => {
                self.pending = Some(Box::new(Pending { text: text.to_owned(), left }));
                Ok(())
            }
        }
    }

    /// One of the attachments that were announced. When all are there the event is done, with their places in it.
    async fn attachment(&mut self) -> Result<(), End> {
        let Some(pending) = &mut self.pending else {
            if self.allowed()? {
                self.error("ValidationError", "binary came where text is due");
            }
            return Ok(());
        };
        pending.left -= 1;
        if pending.left > 0 {
            return Ok(());
        }
        let text = self.pending.take().map(|pending| pending.text).unwrap_or_default();
        match packet::packet(&text) {
            Ok(packet) => self.event(packet).await,
            Err(packet::Malformed(why)) => Err(self.malformed(why)),
        }
    }

    async fn event(&mut self, packet: packet::Packet<'_>) -> Result<(), End> {
        if packet.namespace != "/" {
            self.error("ValidationError", "there is no such namespace here");
            return Ok(());
        }
        let depth = self.edge.settings().limits.json_depth;
        match packet::call(packet.payload, depth) {
            Ok(call) => self.command(&call, packet.id).await,
            Err(why) => self.answer_fault(packet.id, "ValidationError", &why),
        }
        Ok(())
    }

    /// Whether a message is taken; whoever does not listen is sent away.
    fn allowed(&mut self) -> Result<bool, End> {
        let settings = self.edge.settings();
        let (second, minute) =
            (settings.surfaces.wells.messages_per_second, settings.limits.per_connection_messages_per_minute);
        match self.rate.check(second, minute) {
            Verdict::Take => Ok(true),
            Verdict::Refuse(limit, wait) => {
                record::request_refused("rate-limited");
                if let State::Live(live) = &mut self.state {
                    let mut body = fault("RateLimitError", &too_many(limit));
                    body["retryAfter"] = whole_seconds(wait).into();
                    live.connection.handler().dialect().tell("error", &body);
                }
                Ok(false)
            }
            Verdict::End(limit) => {
                self.error("RateLimitError", &too_many(limit));
                Err(self.end(POLICY, "rate_limited"))
            }
        }
    }

    /// The client leaves the namespace; it may come to it again, on the same session.
    fn leave(&mut self) {
        self.gather();
        if let State::Live(live) = &mut self.state {
            live.keeper.may = false;
            let until = Instant::now() + self.edge.settings().surfaces.wells.connect_timeout;
            self.state = State::Waiting(until);
            self.set_signed_in(false);
        }
    }
}

/// Which limit was passed, by the name that it has here.
fn too_many(limit: &str) -> String {
    let limit = if limit.ends_with("second") { "wells.messages_per_second" } else { limit };
    format!("more messages than {limit} allows")
}
