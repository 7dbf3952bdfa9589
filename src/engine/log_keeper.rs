//! The log's own actor: has it keep house once a second, on a thread that may block.

use tidegate_actors::{Batch, Fault, Flow, Handler, Inbox};

use super::rooms::keeper::Nothing;
use crate::log::Log;

/// The actor.
#[derive(Debug)]
pub struct LogKeeper(Log);

impl LogKeeper {
    /// A keeper of this log.
    #[must_use]
    pub fn new(log: Log) -> Self {
        Self(log)
    }
}

impl Handler for LogKeeper {
    type Message = Nothing;
    type Output = ();

    async fn handle(&mut self, batch: &mut Batch<Nothing>, _: &mut Inbox<Nothing>) -> Result<Flow<()>, Fault> {
        if batch.tick {
            let log = self.0.clone();
            // A disk that refuses is told by the writer too; here it means that old events stay a little longer.
            if let Err(error) = tokio::task::spawn_blocking(move || log.housekeep()).await? {
                tracing::warn!(%error, "log: keeping house failed, it is tried again");
            }
        }
        Ok(Flow::Continue)
    }
}
