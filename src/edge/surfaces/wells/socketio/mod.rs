//! Socket.IO for dashboards of wells: Engine.IO revision 4 and Socket.IO revision 5 over the same sessions as every other stream, so that mailboxes, catch-up, replay and
//! books are the same.
//!
//! `server` answers requests and keeps the table of sessions; `session` is one of them at work with its `heart`, whatever carries it: `polling` or `websocket`. `packet` and
//! `payload` are what goes over the wire, `dialect` what becomes of events, `commands` what clients may ask for, `recovery` how they come back.
//! `docs/surfaces/wells-socketio.md` is its description.

mod commands;
mod connect;
mod dialect;
mod heart;
mod packet;
mod payload;
mod polling;
mod recovery;
mod server;
mod session;
mod websocket;

pub(in crate::edge) use server::routes;

/// Reads a payload and what is in it as one that came from a client, and says whether all of it could be read; for those who try what untrusted text does to the reader.
#[doc(hidden)]
#[must_use]
pub fn is_payload(body: &str) -> bool {
    payload::read(body).all(|part| match part {
        Ok(payload::Part::Text(text)) => match packet::frame(text) {
            Ok(packet::Frame::Message(message)) => packet::packet(message)
                .is_ok_and(|found| found.payload.is_empty() || packet::call(found.payload, 64).is_ok()),
            other => other.is_ok(),
        },
        other => other.is_ok(),
    })
}
