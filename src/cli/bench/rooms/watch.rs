//! A reader who follows thousands of rooms by one pattern, and checks the sequence of each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep};

use super::super::http::Target;
use super::super::reader::{Reader, Transport, number};
use super::super::rows::PATIENCE;

/// The namespace of the rooms it follows: `watched:0`, `watched:1`, …
pub(super) const KIND: &str = "watched";
const ROOM: &[u8] = b"\"room\":\"watched:";

/// What it has seen.
#[derive(Debug)]
struct Seen {
    /// The newest seq of each room.
    rooms: HashMap<u64, u64>,
    delivered: u64,
    /// Events that came again or out of order, or after others that did not come.
    wrong: u64,
    ended: bool,
    last: Instant,
}

/// The reader; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Rc<RefCell<Seen>>,
    /// Events that earlier rounds were about.
    before: RefCell<u64>,
    reading: AbortHandle,
}

impl Watch {
    /// Opens it; `start` says where it begins, as in a query.
    pub(super) async fn open(target: &Target, start: &str) -> anyhow::Result<Self> {
        let query = format!("rooms={KIND}:*{start}");
        let mut reader = Reader::open(target, Transport::WebSocket, &query).await?;
        let seen = Seen { rooms: HashMap::new(), delivered: 0, wrong: 0, ended: false, last: Instant::now() };
        let seen = Rc::new(RefCell::new(seen));
        let hearing = Rc::clone(&seen);
        let reading = spawn_local(async move {
            let never = reader.each(|message| {
                hearing.borrow_mut().hear(message);
                false
            });
            never.await;
            hearing.borrow_mut().ended = true;
        });
        Ok(Self { seen, before: RefCell::new(0), reading: reading.abort_handle() })
    }

    /// Waits until so many more events have come, or none comes any more; how many are missing or too many, and when the last one came.
    pub(super) async fn round(&self, events: u64) -> (u64, Instant) {
        let before = *self.before.borrow();
        let began = Instant::now();
        loop {
            let (delivered, last, ended) = {
                let seen = self.seen.borrow();
                (seen.delivered - before, seen.last, seen.ended)
            };
            if delivered >= events || ended || last.max(began).elapsed() > PATIENCE {
                *self.before.borrow_mut() = before + delivered;
                return (events.abs_diff(delivered), last);
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Events that came again or out of order, or after others that did not come; and one for a stream that ended.
    pub(super) fn wrong(&self) -> u64 {
        let seen = self.seen.borrow();
        seen.wrong + u64::from(seen.ended)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Seen {
    fn hear(&mut self, message: &[u8]) {
        let (room, seq) = (number(message, ROOM, &mut 0), number(message, b"\"seq\":", &mut 0));
        let Some((room, seq)) = room.zip(seq) else { return };
        self.delivered += 1;
        self.last = Instant::now();
        if let Some(before) = self.rooms.insert(room, seq)
            && seq != before + 1
        {
            self.wrong += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(room: u64, seq: u64) -> Vec<u8> {
        format!("{{\"type\":\"event\",\"room\":\"watched:{room}\",\"seq\":{seq},\"data\":{{}}}}").into_bytes()
    }

    #[test]
    fn each_room_has_a_sequence_of_its_own() {
        let mut seen = Seen { rooms: HashMap::new(), delivered: 0, wrong: 0, ended: false, last: Instant::now() };
        for (room, seq) in [(1, 5), (2, 90), (1, 6), (2, 91)] {
            seen.hear(&message(room, seq));
        }
        assert_eq!((seen.delivered, seen.wrong), (4, 0));
        seen.hear(&message(1, 8));
        seen.hear(&message(2, 91));
        assert_eq!((seen.delivered, seen.wrong), (6, 2));
    }
}
