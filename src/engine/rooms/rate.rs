//! How busy a room is: events a second, exponentially weighted.

/// Over how long the rate of a room is taken, in seconds.
const RATE_SECONDS: f64 = 10.0;

/// A room's rate.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    /// Decaying count of events.
    weight: f64,
    at_us: u64,
    began_us: u64,
}

impl Rate {
    /// The weight decayed until `now_us`.
    fn decayed(self, now_us: u64) -> f64 {
        self.weight * (-seconds(self.at_us, now_us) / RATE_SECONDS).exp()
    }

    /// Events a second, exponentially weighted over [`RATE_SECONDS`]; a room that is younger is not taken for a slow one.
    pub(super) fn per_second(self, now_us: u64) -> f64 {
        let seen = 1.0 - (-seconds(self.began_us, now_us).max(1.0) / RATE_SECONDS).exp();
        self.decayed(now_us) / (RATE_SECONDS * seen)
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    pub(super) fn add(&mut self, events: usize, now_us: u64) {
        if self.began_us == 0 {
            self.began_us = now_us;
        }
        self.weight = self.decayed(now_us) + events as f64;
        self.at_us = now_us;
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn seconds(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1e6
}
