//! Rates by some key, and the rate of one connection's messages.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

fn quota((count, time): (NonZeroU32, Duration)) -> Option<Quota> {
    Some(Quota::with_period(time / count.get())?.allow_burst(count))
}

/// How often something may happen for each key; without a limit, as often as it likes.
#[derive(Debug)]
pub(super) struct Rate<K: Eq + Hash + Clone>(Option<DefaultKeyedRateLimiter<K>>);

impl<K: Eq + Hash + Clone> Rate<K> {
    pub(super) fn new(limit: Option<(NonZeroU32, Duration)>) -> Self {
        Self(limit.and_then(quota).map(RateLimiter::keyed))
    }

    /// Counts one more, or says how long to wait.
    pub(super) fn check(&self, key: &K) -> Result<(), Duration> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(key).map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    pub(super) fn forget(&self) {
        if let Some(limiter) = &self.0 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// Refusals in a row after which a client does not want to understand.
const PATIENCE: u32 = 10;

/// The settings of the two rates of a connection's messages.
const LIMITS: [&str; 2] = ["limits.per_connection_messages_per_second", "limits.per_connection_messages_per_minute"];

/// How many messages a connection may send, by the second and by the minute.
#[derive(Debug, Default)]
pub struct MessageRate {
    // Made with the first message: most connections send none.
    limiters: Option<Box<[Option<DefaultDirectRateLimiter>; 2]>>,
    refused: u32,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Take,
    /// Refuse it by this limit; the next one is taken after this time.
    Refuse(&'static str, Duration),
    /// Refuse it by this limit, and end the connection: it was told often enough.
    End(&'static str),
}

impl MessageRate {
    /// Counts a message. 0 means no limit.
    pub fn check(&mut self, per_second: u32, per_minute: u32) -> Verdict {
        if per_second == 0 && per_minute == 0 {
            return Verdict::Take;
        }
        let limiters = self.limiters.get_or_insert_with(|| {
            let make = |count: u32, seconds: u64| {
                let limit = (NonZeroU32::new(count)?, Duration::from_secs(seconds));
                quota(limit).map(RateLimiter::direct)
            };
            Box::new([make(per_second, 1), make(per_minute, 60)])
        });
        let wait = limiters.iter().zip(LIMITS).find_map(|(limiter, limit)| {
            let until = limiter.as_ref()?.check().err()?;
            Some((limit, until.wait_time_from(DefaultClock::default().now())))
        });
        match wait {
            None => {
                self.refused = 0;
                Verdict::Take
            }
            Some((limit, _)) if self.refused + 1 >= PATIENCE => Verdict::End(limit),
            Some((limit, wait)) => {
                self.refused += 1;
                Verdict::Refuse(limit, wait)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_told_when_to_come_back_and_ended_when_it_does_not_listen() {
        let mut rate = MessageRate::default();
        assert_eq!(rate.check(0, 0), Verdict::Take);
        assert_eq!([rate.check(2, 0), rate.check(2, 0)], [Verdict::Take; 2]);
        let Verdict::Refuse(limit, wait) = rate.check(2, 0) else { panic!("the third in a second is refused") };
        assert!(wait <= Duration::from_millis(500) && limit == LIMITS[0]);
        let ended = (0..PATIENCE).any(|_| matches!(rate.check(2, 0), Verdict::End(_)));
        assert!(ended);
    }

    #[test]
    fn each_key_has_a_rate_of_its_own() {
        let rate = Rate::new(Some((NonZeroU32::new(1).unwrap(), Duration::from_secs(3600))));
        assert!(rate.check(&"a").is_ok() && rate.check(&"b").is_ok());
        let wait = rate.check(&"a").unwrap_err();
        assert!(wait > Duration::from_secs(3000) && wait <= Duration::from_secs(3600));
        assert!(Rate::new(None).check(&"a").is_ok());
    }
}
