//! The generator source: made-up events for demos and load, the same for the same seed. Off unless switched on, and each event says that it is made up.
//!
//! Publishes to `demo:1`, `demo:2`, … in turn, `sources.generator.rate` events a second over all. Each room's value walks at random.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use smallvec::smallvec;
use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox};
use tokio::time::Instant;

use crate::engine::rooms::keeper::Nothing;
use crate::engine::rooms::{Publish, Rooms};
use crate::event::{NewEvent, RoomName};
use crate::settings;

/// How often the generator is woken, in milliseconds.
pub const PERIOD_MS: u64 = 10;

/// The source.
#[derive(Debug)]
pub struct GeneratorSource {
    rooms: Rooms,
    settings: settings::Generator,
    walk: Walk,
    names: Vec<RoomName>,
    /// When it began, and how many events it has made since.
    began: Instant,
    made: u64,
}

/// The values, one after the other: what the seed decides.
#[derive(Debug)]
struct Walk {
    random: StdRng,
    values: Vec<f64>,
    next: usize,
}

impl Walk {
    fn new(seed: u64, rooms: usize) -> Self {
        Self { random: StdRng::seed_from_u64(seed), values: vec![50.0; rooms.max(1)], next: 0 }
    }

    /// The next room's index and value.
    fn step(&mut self) -> (usize, f64) {
        let room = self.next;
        self.next = (self.next + 1) % self.values.len();
        let value = &mut self.values[room];
        *value = (*value + self.random.random_range(-1.0..1.0)).clamp(0.0, 100.0);
        (room, (*value * 1000.0).round() / 1000.0)
    }
}

impl GeneratorSource {
    /// A source that publishes to these rooms.
    #[must_use]
    pub fn new(rooms: Rooms, settings: settings::Generator) -> Self {
        let names: Vec<RoomName> =
            (1..=settings.rooms).filter_map(|n| RoomName::parse(&format!("demo:{n}")).ok()).collect();
        let walk = Walk::new(settings.seed, names.len());
        Self { rooms, settings, walk, names, began: Instant::now(), made: 0 }
    }

    fn make(&mut self) {
        let (room, value) = self.walk.step();
        let mut data = format!("{{\"generated\":true,\"value\":{value},\"n\":{}", self.made);
        let missing = self.settings.bytes.saturating_sub(data.len() + 10);
        if missing > 0 {
            data.push_str(",\"fill\":\"");
            data.extend(std::iter::repeat_n('x', missing));
            data.push('"');
        }
        data.push('}');
        self.made += 1;
        let event = NewEvent::new("sample", Bytes::from(data));
        self.rooms.publish(&self.names[room], Publish::unanswered(smallvec![event]));
    }
}

impl Handler for GeneratorSource {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        if batch.tick {
            let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let due = elapsed_ms.saturating_mul(self.settings.rate) / 1000;
            // After a pause it goes on at its rate instead of making up for what was missed.
            self.made = self.made.max(due.saturating_sub(self.settings.rate));
            while self.made < due {
                self.make();
            }
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_values() {
        let walk = |seed| {
            let mut walk = Walk::new(seed, 3);
            (0..100).map(move |_| walk.step()).collect::<Vec<_>>()
        };
        assert_eq!(walk(7), walk(7));
        assert_ne!(walk(7), walk(8));
    }
}
