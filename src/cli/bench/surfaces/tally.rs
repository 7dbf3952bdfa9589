//! What a row's clients have seen: which messages came, and how late they were by their own timestamps.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use hdrhistogram::Histogram;
use serde::Deserialize;

use super::kinds::Kind;
use crate::clock;

/// Of an error, so many characters are shown.
const SHOWN_MAX: usize = 200;

/// What of a message is looked at, whichever surface it is of.
#[derive(Deserialize)]
struct Message<'m> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'m, str>>,
    #[serde(borrow, default)]
    event: Option<Cow<'m, str>>,
    #[serde(borrow, default)]
    timestamp: Option<Timestamp<'m>>,
}

/// Milliseconds since 1970, or ISO 8601.
#[derive(Deserialize)]
#[serde(untagged)]
enum Timestamp<'m> {
    Number(u64),
    Text(#[serde(borrow)] Cow<'m, str>),
}

/// What a row's clients together have seen. They run on one thread, so it needs no lock.
#[derive(Debug)]
pub(super) struct Tally {
    kind: Kind,
    /// Whether messages count now.
    pub(super) measuring: bool,
    /// Messages that count.
    pub(super) messages: u64,
    /// Bytes of their JSON.
    pub(super) bytes: u64,
    /// Errors that a client was told.
    pub(super) errors: u64,
    /// Clients whose stream ended.
    pub(super) ended: u64,
    /// The first thing that went wrong, in words.
    pub(super) first_error: Option<String>,
    /// Microseconds from a message's timestamp.
    pub(super) latency_us: Histogram<u64>,
}

/// Shared by all clients of a row.
pub(super) type SharedTally = Rc<RefCell<Tally>>;

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never, in fact: the histogram's bounds are right.
    pub(super) fn new(kind: Kind) -> anyhow::Result<SharedTally> {
        let latency_us = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        let (measuring, messages, bytes, errors, ended, first_error) = (false, 0, 0, 0, 0, None);
        Ok(Rc::new(RefCell::new(Self { kind, measuring, messages, bytes, errors, ended, first_error, latency_us })))
    }

    /// Takes a message's JSON.
    pub(super) fn message(&mut self, json: &[u8]) {
        // What is no object with such fields is none of those that count.
        let Ok(message) = serde_json::from_slice::<Message<'_>>(json) else { return };
        let kind = message.kind.or(message.event);
        if kind.as_deref() == Some("error") {
            return self.error(&String::from_utf8_lossy(json));
        }
        let counts = self.measuring && kind.as_deref() == self.kind.counted();
        let Some(timestamp) = message.timestamp.filter(|_| counts) else { return };
        self.messages += 1;
        self.bytes += json.len() as u64;
        let sent_ms = match timestamp {
            Timestamp::Number(ms) => Some(ms),
            Timestamp::Text(text) => clock::parse_rfc3339(&text),
        };
        if let Some(sent_ms) = sent_ms {
            let late_us = clock::now_us().saturating_sub(sent_ms.saturating_mul(1000));
            // What is later than the histogram goes counts as that late.
            self.latency_us.saturating_record(late_us.max(1));
        }
    }

    /// Takes a Socket.IO event: an array of its name and its data.
    pub(super) fn socket_io(&mut self, json: &[u8]) {
        let Ok((name, data)) = serde_json::from_slice::<(Cow<'_, str>, &serde_json::value::RawValue)>(json) else {
            return;
        };
        match &*name {
            "error" => self.error(data.get()),
            _ => self.message(data.get().as_bytes()),
        }
    }

    /// A client was told of an error.
    pub(super) fn error(&mut self, text: &str) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| text.chars().take(SHOWN_MAX).collect());
    }

    /// A client's stream is over.
    pub(super) fn end(&mut self, why: &str) {
        self.ended += 1;
        self.first_error.get_or_insert_with(|| format!("a stream ended: {why}"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn of(kind: Kind, messages: &[&str]) -> (u64, u64, u64) {
        let tally = Tally::new(kind).unwrap();
        let mut tally = tally.borrow_mut();
        tally.measuring = true;
        for message in messages {
            match kind {
                Kind::WellsWebsocket => tally.socket_io(message.as_bytes()),
                _ => tally.message(message.as_bytes()),
            }
        }
        (tally.messages, tally.errors, tally.latency_us.len())
    }

    #[test]
    fn messages_of_a_row_count_and_others_do_not() {
        let update = r#"{"type":"update","data":{"timestamp":"nested"},"timestamp":"2025-11-23T04:00:00.000Z"}"#;
        let ping = r#"{"type":"ping","timestamp":"2025-11-23T04:00:00.000Z"}"#;
        assert_eq!(of(Kind::Overview, &[update, ping, "no JSON", "[1]"]), (1, 0, 1));
        assert_eq!(of(Kind::Metrics, &[r#"{"type":"metrics_update","timestamp":1763870400000,"data":{}}"#]), (1, 0, 1));
        assert_eq!(of(Kind::Buffer, &[r#"{"total_messages":1,"timestamp":"2025-11-23T04:00:00.000Z"}"#]), (1, 0, 1));
        assert_eq!(of(Kind::Buffer, &[r#"{"type":"error","detail":"no"}"#]), (0, 1, 0));
    }

    #[test]
    fn a_socket_io_event_is_its_data() {
        let telemetry =
            r#"["telemetry_update",{"event":"telemetry_update","timestamp":"2025-11-23T04:00:00.000Z","well_id":"W"}]"#;
        assert_eq!(of(Kind::WellsWebsocket, &[telemetry, r#"["error",{"error":"ValidationError"}]"#]), (1, 1, 1));
    }

    #[test]
    fn before_it_is_measured_nothing_counts() {
        let tally = Tally::new(Kind::NativeSse).unwrap();
        tally.borrow_mut().message(br#"{"type":"event","timestamp":"2025-11-23T04:00:00.000Z"}"#);
        assert_eq!(tally.borrow().messages, 0);
    }
}
