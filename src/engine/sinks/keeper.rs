//! Keeps the store in order: has it let go what is older than `sink.retention`, once it is there and then once a minute. One actor, woken by its period; over a restart nothing is kept.

use std::time::Duration;

use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox};
use tokio::time::Instant;

use crate::engine::rooms::keeper::Nothing;
use crate::store::postgres::Postgres;

/// How often old events are deleted.
const PERIOD: Duration = Duration::from_secs(60);

/// The actor.
#[derive(Debug)]
pub(super) struct StoreKeeper {
    postgres: Postgres,
    /// Whether the last time failed, so that a lasting fault is told once.
    failing: bool,
    /// When it did so the last time.
    done_at: Option<Instant>,
}

impl StoreKeeper {
    pub(super) fn new(postgres: Postgres) -> Self {
        Self { postgres, failing: false, done_at: None }
    }
}

impl Handler for StoreKeeper {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Nothing>, inbox: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        let due = self.done_at.is_none_or(|at| at.elapsed() >= PERIOD);
        if batch.tick && due && self.postgres.is_ready() {
            self.done_at = Some(Instant::now());
            match self.postgres.let_go(|| inbox.mailbox().is_closed()).await {
                Ok(events) => {
                    if events > 0 {
                        tracing::info!(events, "sink: events older than sink.retention are deleted from the database");
                    }
                    self.failing = false;
                }
                Err(error) if !self.failing => {
                    // Old events stay a little longer; writing tells more of what is wrong.
                    tracing::warn!(%error, "sink: old events cannot be deleted now, it is tried every minute");
                    self.failing = true;
                }
                Err(_) => {}
            }
        }
        Ok(Flow::Continue)
    }
}
