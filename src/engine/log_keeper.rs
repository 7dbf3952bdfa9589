//! The log's own actor: has it keep house once a second, on a thread that may block.

use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox};

use super::rooms::keeper::Nothing;
use crate::log::Log;

/// The actor.
#[derive(Debug)]
pub struct LogKeeper {
    log: Log,
    /// Whether the last time failed, so that a lasting fault is told once.
    failing: bool,
}

impl LogKeeper {
    /// A keeper of this log.
    #[must_use]
    pub fn new(log: Log) -> Self {
        Self { log, failing: false }
    }
}

impl Handler for LogKeeper {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        if batch.tick {
            let log = self.log.clone();
            // A disk that refuses is told by the writer too; here it means that old events stay a little longer.
            let kept = tokio::task::spawn_blocking(move || log.housekeep()).await?;
            match &kept {
                Err(error) if !self.failing => {
                    tracing::warn!(%error, "log: keeping house failed, it is tried every second")
                }
                Ok(()) if self.failing => tracing::info!("log: keeping house works again"),
                _ => {}
            }
            self.failing = kept.is_err();
        }
        Ok(Flow::Continue)
    }
}
