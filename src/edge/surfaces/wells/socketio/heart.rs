//! The heartbeat: when a client is asked whether it lives, and until when it must have said so. Knows no session and no time of its own.

use std::time::Duration;

use tokio::time::Instant;

/// A session's heartbeat.
#[derive(Debug)]
pub(super) struct Heart {
    /// From an answer to the next question.
    interval: Duration,
    /// From a question to its answer.
    timeout: Duration,
    ask_at: Instant,
    /// While an answer is awaited.
    answer_until: Option<Instant>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// To ask.
    Ask,
    /// To end: there was no answer.
    Silent,
}

impl Heart {
    pub(super) fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        Self { interval, timeout, ask_at: now + interval, answer_until: None }
    }

    /// How long a client may let itself not be heard of.
    pub(super) fn patience(&self) -> Duration {
        self.interval + self.timeout
    }

    /// When something is due.
    pub(super) fn due(&self) -> Instant {
        self.answer_until.unwrap_or(self.ask_at)
    }

    /// What is due now, if anything.
    pub(super) fn beat(&mut self, now: Instant) -> Option<Beat> {
        match self.answer_until {
            Some(until) => (until <= now).then_some(Beat::Silent),
            None if self.ask_at <= now => {
                self.answer_until = Some(now + self.timeout);
                Some(Beat::Ask)
            }
            None => None,
        }
    }

    /// The client lives.
    pub(super) fn heard(&mut self, now: Instant) {
        self.answer_until = None;
        self.ask_at = now + self.interval;
    }

    /// Something took long to be written: the question was behind it, and the answer may not have been looked at. Who takes what is written lives; who does not is ended by
    /// the socket.
    pub(super) fn was_slow(&mut self, now: Instant) {
        self.answer_until = self.answer_until.map(|until| until.max(now + self.timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_is_asked_and_one_that_does_not_answer_is_silent() {
        let begun = Instant::now();
        let mut heart = Heart::new(SECOND * 5, SECOND * 2, begun);
        assert_eq!((heart.beat(begun), heart.due()), (None, begun + SECOND * 5));
        assert_eq!(heart.beat(begun + SECOND * 5), Some(Beat::Ask));
        assert_eq!((heart.beat(begun + SECOND * 6), heart.due()), (None, begun + SECOND * 7));
        assert_eq!(heart.beat(begun + SECOND * 7), Some(Beat::Silent));
        heart.heard(begun + SECOND * 7);
        assert_eq!((heart.beat(begun + SECOND * 7), heart.due()), (None, begun + SECOND * 12));
    }

    #[test]
    fn who_reads_slowly_is_waited_for_and_who_was_not_asked_owes_nothing() {
        let begun = Instant::now();
        let mut heart = Heart::new(SECOND * 5, SECOND * 2, begun);
        heart.was_slow(begun);
        assert_eq!(heart.due(), begun + SECOND * 5);
        assert_eq!(heart.beat(begun + SECOND * 5), Some(Beat::Ask));
        heart.was_slow(begun + SECOND * 7);
        assert_eq!((heart.beat(begun + SECOND * 8), heart.due()), (None, begun + SECOND * 9));
    }
}
