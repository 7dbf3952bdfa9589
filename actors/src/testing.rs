//! A system for tests that does not let an actor leak or panic unnoticed.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Census, Fault, Supervisor};

/// A supervisor and its census, to be ended with [`TestSystem::finish`].
#[derive(Debug)]
pub struct TestSystem {
    supervisor: Supervisor,
    panics_expected: u64,
    finished: bool,
}

impl TestSystem {
    /// Starts a system.
    ///
    /// # Errors
    /// Where the supervisor cannot be started.
    pub async fn start() -> Result<Self, Fault> {
        let supervisor = Supervisor::start(&Census::default()).await?;
        Ok(Self { supervisor, panics_expected: 0, finished: false })
    }

    /// The supervisor to start actors under.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// The figures.
    #[must_use]
    pub fn census(&self) -> &Census {
        self.supervisor.census()
    }

    /// Says that so many panics are part of the test.
    pub fn expect_panics(&mut self, panics: u64) {
        self.panics_expected = panics;
    }

    /// Stops all actors and looks whether any is left or has panicked.
    ///
    /// # Errors
    /// What is left, in words.
    pub async fn finish(mut self) -> Result<(), String> {
        self.finished = true;
        let limit = Duration::from_secs(5);
        let in_order = self.supervisor.stop(limit).await;
        let census = self.supervisor.census().clone();
        // Light actors end with the tasks that drive them, which may still be on their way.
        let deadline = Instant::now() + limit;
        while census.live() > 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        if census.live() > 0 {
            return Err(format!("{} actors leaked", census.live()));
        }
        if !in_order {
            return Err("actors had to be killed: they did not work off their mailboxes".to_owned());
        }
        if census.panicked() != self.panics_expected {
            return Err(format!("{} actors panicked, expected {}", census.panicked(), self.panics_expected));
        }
        Ok(())
    }
}

impl Drop for TestSystem {
    fn drop(&mut self) {
        // A test that forgets to look is a test that cannot fail; one that is failing already needs no second panic.
        assert!(self.finished || std::thread::panicking(), "TestSystem dropped without finish()");
    }
}
