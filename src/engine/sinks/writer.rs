//! Where a sink writes: into a database, or nowhere, because the log has everything already.

use super::batch::Batch;
use super::books::Books;
use super::status::Shared;
use crate::engine::journal::JournalError;
use crate::engine::rooms::Rooms;
use crate::event::RoomName;
use crate::store::postgres::Postgres;
use crate::store::{StoreError, Totals};

/// Where a sink writes.
#[derive(Debug, Clone)]
pub(super) enum Writer {
    /// Nowhere: a batch is an entry in the sink's journal.
    Embedded,
    /// Into PostgreSQL.
    Postgres(Postgres),
}

/// Where a sink stands, as its store says.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) totals: Totals,
    pub(super) positions: Vec<(RoomName, u64)>,
}

/// What came of a batch.
#[derive(Debug)]
pub(super) struct Written {
    /// Events that were not there before.
    pub(super) events: u64,
    /// Events that are not in it, because they were refused.
    pub(super) refused: u64,
    /// The sink's totals now.
    pub(super) totals: Totals,
}

impl Writer {
    /// Where a sink stands; `None` where its journal says it.
    pub(super) async fn standing(&self, sink: &str, log: String) -> Result<Option<Standing>, StoreError> {
        match self {
            Self::Embedded => Ok(None),
            Self::Postgres(postgres) => {
                let (totals, positions) = postgres.standing(sink, &log).await?;
                Ok(Some(Standing { totals, positions }))
            }
        }
    }

    /// Writes a batch, without the events that are known to be refused.
    pub(super) async fn write(
        &self,
        sink: &str,
        batch: &Batch,
        refused: &[usize],
        books: &mut Books,
        rooms: &Rooms,
        shared: &Shared,
    ) -> Result<Written, StoreError> {
        match self {
            Self::Embedded => {
                books.enter(rooms, batch).await.map_err(|error| match error {
                    JournalError::Log(error) => StoreError::Log(error),
                    JournalError::Broken(why) => StoreError::Database(why.to_owned()),
                })?;
                let (events, mut totals) = (batch.events.len() as u64, shared.totals());
                totals.messages += events;
                totals.batches += u64::from(events > 0);
                Ok(Written { events, refused: 0, totals })
            }
            Self::Postgres(postgres) => {
                let log = books.log_id();
                let (events, totals) = postgres.write(sink, &log, &batch.events, refused, &batch.positions).await?;
                books.changed();
                Ok(Written { events, refused: refused.len() as u64, totals })
            }
        }
    }
}
