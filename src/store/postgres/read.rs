//! Reads what was stored, newest first: by arrival, in one room by seq.

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{Postgres, Session, failed};
use crate::event::{Pattern, RoomName};
use crate::store::{StoreError, Stored};

/// Of one room: by its primary key, whichever sink wrote it.
const OF_ROOM: &str = "
SELECT room, seq, kind, key, (extract(epoch FROM event_time) * 1000)::bigint, data::text
FROM tidegate_events WHERE room = $1 ORDER BY seq DESC LIMIT $2";

/// Of many rooms: by the index over a sink's arrivals.
const OF_ROOMS: &str = "
SELECT room, seq, kind, key, (extract(epoch FROM event_time) * 1000)::bigint, data::text
FROM tidegate_events WHERE sink = $1 AND starts_with(room, $2) ORDER BY arrived DESC, seq DESC LIMIT $3";

impl Postgres {
    /// The newest events of these rooms that a sink has stored, newest first.
    ///
    /// # Errors
    /// Why the database cannot say it now.
    pub async fn newest(&self, sink: &str, rooms: &Pattern, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.with(&self.0.readers, |session| newest(session, sink, rooms, limit)).await
    }
}

async fn newest<'s>(
    mut session: Session<'s>,
    sink: &str,
    rooms: &Pattern,
    limit: usize,
) -> (Session<'s>, Result<Vec<Stored>, StoreError>) {
    let outcome = read(&mut session, sink, rooms, limit).await.map_err(|error| failed(&error));
    (session, outcome)
}

async fn read(
    session: &mut Session<'_>,
    sink: &str,
    rooms: &Pattern,
    limit: usize,
) -> Result<Vec<Stored>, sqlx::Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    session.begin().await?;
    let query = match rooms {
        Pattern::Room(room) => sqlx::query(OF_ROOM).bind(room.as_str()).bind(limit),
        Pattern::Prefix(prefix) => sqlx::query(OF_ROOMS).bind(sink).bind(&**prefix).bind(limit),
    };
    let rows = session.run(|connection| query.fetch_all(connection)).await?;
    session.end("COMMIT").await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        // What is no name of a room was not written here.
        found.extend(stored(row)?);
    }
    Ok(found)
}

fn stored(row: &PgRow) -> Result<Option<Stored>, sqlx::Error> {
    let Ok(room) = RoomName::parse(row.try_get(0)?) else { return Ok(None) };
    let key: Option<&str> = row.try_get(3)?;
    Ok(Some(Stored {
        room,
        seq: row.try_get::<i64, _>(1)?.unsigned_abs(),
        kind: row.try_get::<&str, _>(2)?.into(),
        key: key.map(Into::into),
        // What happened before 1970 did not come from here.
        timestamp_ms: row.try_get::<i64, _>(4)?.try_into().unwrap_or(0),
        data: Bytes::from(row.try_get::<String, _>(5)?),
    }))
}
