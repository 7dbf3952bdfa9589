//! Writes batches, each in one transaction: its rows, where its sink stands after them, and its totals. What is there already is left out and does not count.
//!
//! A batch that the database refuses is tried again in halves, in a transaction that is rolled back, until it is known which rows it does not take; the sink puts these aside and writes the rest.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{Postgres, Session, failed};
use crate::event::{Event, RoomName};
use crate::store::{Refusal, StoreError, Totals};

/// Rows that retention deletes at once.
pub(super) const DELETED_AT_ONCE: u64 = 5000;

const ROWS: &str = "
INSERT INTO tidegate_events (room, seq, kind, key, priority, event_time, arrived, sink, data)
SELECT room, seq, kind, key, priority, timestamptz 'epoch' + event_ms * interval '1 millisecond',
       timestamptz 'epoch' + arrived_ms * interval '1 millisecond', $8, data::jsonb
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $9::text[])
     AS t (room, seq, kind, key, priority, event_ms, arrived_ms, data)
ON CONFLICT DO NOTHING";

/// Those who write for one sink come one after the other.
const LOCK: &str =
    "INSERT INTO tidegate_sinks (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name";

const POSITIONS: &str = "
INSERT INTO tidegate_positions (sink, log, room, seq)
SELECT $1, $2, room, seq FROM unnest($3::text[], $4::bigint[]) AS t (room, seq)
ON CONFLICT (sink, log, room) DO UPDATE SET seq = excluded.seq WHERE tidegate_positions.seq < excluded.seq";

const TOTALS: &str = "
UPDATE tidegate_sinks SET messages = messages + $2, batches = batches + least($2, 1), refused = refused + $3, written = now()
WHERE name = $1 RETURNING messages, batches, refused";

/// The age is asked for twice: in a table of several parts a place is one of each part.
const LET_GO: &str = "
WITH alone AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(x'7469646567617466'::bigint) AS mine)
DELETE FROM tidegate_events WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM tidegate_events WHERE (SELECT mine FROM alone) AND event_time < now() - make_interval(secs => $1) LIMIT 5000))
AND event_time < now() - make_interval(secs => $1)";

/// Where a sink stands with the events of a log.
pub(super) async fn standing<'s>(
    mut session: Session<'s>,
    sink: &str,
    log: &str,
) -> (Session<'s>, Result<(Totals, Vec<(RoomName, u64)>), StoreError>) {
    let outcome = read_standing(&mut session, sink, log).await.map_err(|error| failed(&error));
    (session, outcome)
}

async fn read_standing(
    session: &mut Session<'_>,
    sink: &str,
    log: &str,
) -> Result<(Totals, Vec<(RoomName, u64)>), sqlx::Error> {
    session.begin().await?;
    let asked = "SELECT messages, batches, refused FROM tidegate_sinks WHERE name = $1";
    let found = session.run(|connection| sqlx::query(asked).bind(sink).fetch_optional(connection)).await?;
    let totals = found.as_ref().map(totals).transpose()?.unwrap_or_default();
    let asked = "SELECT room, seq FROM tidegate_positions WHERE sink = $1 AND log = $2";
    let rows = session.run(|connection| sqlx::query(asked).bind(sink).bind(log).fetch_all(connection)).await?;
    session.end("COMMIT").await?;
    let mut positions = Vec::with_capacity(rows.len());
    for row in rows {
        let (room, seq): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        // What is no name of a room was not written here.
        positions.extend(RoomName::parse(&room).ok().map(|room| (room, seq.unsigned_abs())));
    }
    Ok((totals, positions))
}

fn totals(row: &PgRow) -> Result<Totals, sqlx::Error> {
    let figure = |at: usize| row.try_get::<i64, _>(at).map(i64::unsigned_abs);
    Ok(Totals { messages: figure(0)?, batches: figure(1)?, refused: figure(2)? })
}

/// A batch on its way.
pub(super) struct Batch<'b> {
    sink: &'b str,
    log: &'b str,
    events: &'b [Arc<Event>],
    refused: &'b [usize],
    positions: &'b [(RoomName, u64)],
}

impl Postgres {
    /// Writes a batch of a sink, but for the events that are known to be refused; how many events were not there before, and the sink's totals then.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with every event that the database does not take, or why it cannot be written now. Nothing was written then, or it is not known whether; to write it again does no harm.
    pub async fn write(
        &self,
        sink: &str,
        log: &str,
        events: &[Arc<Event>],
        refused: &[usize],
        positions: &[(RoomName, u64)],
    ) -> Result<(u64, Totals), StoreError> {
        self.make().await?;
        let batch = Batch { sink, log, events, refused, positions };
        self.with(&self.0.writers, |session| write(session, batch)).await
    }
}

async fn write<'s>(mut session: Session<'s>, batch: Batch<'_>) -> (Session<'s>, Result<(u64, Totals), StoreError>) {
    let outcome = match insert(&mut session, &batch).await {
        Err(error) if is_of_the_data(&error) => refusals(&mut session, &batch, &error).await,
        other => other.map_err(|error| failed(&error)),
    };
    (session, outcome)
}

async fn insert(session: &mut Session<'_>, batch: &Batch<'_>) -> Result<(u64, Totals), sqlx::Error> {
    session.begin().await?;
    session.run(|connection| sqlx::query(LOCK).bind(batch.sink).execute(connection)).await?;
    let wanted: Vec<usize> = (0..batch.events.len()).filter(|at| !batch.refused.contains(at)).collect();
    let inserted = if wanted.is_empty() { 0 } else { rows(session, batch, &wanted).await? };
    let rooms: Vec<&str> = batch.positions.iter().map(|(room, _)| room.as_str()).collect();
    let seqs: Vec<i64> = batch.positions.iter().map(|(_, seq)| wide(*seq)).collect();
    let moved = session.run(|connection| {
        sqlx::query(POSITIONS).bind(batch.sink).bind(batch.log).bind(rooms).bind(seqs).execute(connection)
    });
    // None has moved: this very batch was written before, and it was not known.
    let refused = if moved.await?.rows_affected() == 0 { 0 } else { batch.refused.len() };
    let (events, refused) = (wide(inserted), wide(refused as u64));
    let counting =
        session.run(|connection| sqlx::query(TOTALS).bind(batch.sink).bind(events).bind(refused).fetch_one(connection));
    let totals = totals(&counting.await?)?;
    session.end("COMMIT").await?;
    Ok((inserted, totals))
}

/// Inserts some of the events; how many were not there.
async fn rows(session: &mut Session<'_>, batch: &Batch<'_>, which: &[usize]) -> Result<u64, sqlx::Error> {
    let events: Vec<&Event> = which.iter().map(|at| &*batch.events[*at]).collect();
    let rooms: Vec<&str> = events.iter().map(|event| event.room.name().as_str()).collect();
    let seqs: Vec<i64> = events.iter().map(|event| wide(event.seq)).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let keys: Vec<Option<&str>> = events.iter().map(|event| event.key.as_deref()).collect();
    let priorities: Vec<i16> = events.iter().map(|event| event.priority.index().try_into().unwrap_or(0)).collect();
    let times: Vec<i64> = events.iter().map(|event| wide(event.timestamp_ms)).collect();
    let arrived: Vec<i64> = events.iter().map(|event| wide(event.arrived_ms)).collect();
    // It was checked to be JSON, which is text.
    let data: Vec<&str> = events.iter().map(|event| std::str::from_utf8(event.data()).unwrap_or("null")).collect();
    let query = sqlx::query(ROWS).bind(rooms).bind(seqs).bind(kinds).bind(keys).bind(priorities);
    let query = query.bind(times).bind(arrived).bind(batch.sink).bind(data);
    Ok(session.run(|connection| query.execute(connection)).await?.rows_affected())
}

/// Finds every event that the database refuses. Nothing stays of what is tried.
async fn refusals(
    session: &mut Session<'_>,
    batch: &Batch<'_>,
    first: &sqlx::Error,
) -> Result<(u64, Totals), StoreError> {
    let found = find_refusals(session, batch).await.map_err(|error| failed(&error))?;
    // What no row alone is refused for is tried again as it is.
    Err(if found.is_empty() { failed(first) } else { StoreError::Refused(found) })
}

async fn find_refusals(session: &mut Session<'_>, batch: &Batch<'_>) -> Result<Vec<Refusal>, sqlx::Error> {
    session.end("ROLLBACK").await?;
    session.begin().await?;
    let wanted: Vec<usize> = (0..batch.events.len()).filter(|at| !batch.refused.contains(at)).collect();
    let (mut found, mut left) = (Vec::new(), vec![&wanted[..]]);
    while let Some(some) = left.pop() {
        session.end("SAVEPOINT tried").await?;
        match rows(session, batch, some).await {
            Ok(_) => session.end("RELEASE SAVEPOINT tried").await?,
            Err(sqlx::Error::Database(said)) if is_of_the_data_by(said.code().as_deref()) => {
                session.end("ROLLBACK TO SAVEPOINT tried").await?;
                if let [at] = some {
                    let code = said.code().unwrap_or_default().into_owned();
                    found.push(Refusal { at: *at, code, message: said.message().to_owned() });
                } else {
                    let (one, other) = some.split_at(some.len() / 2);
                    left.extend([other, one].into_iter().filter(|half| !half.is_empty()));
                }
            }
            Err(error) => return Err(error),
        }
    }
    session.end("ROLLBACK").await?;
    Ok(found)
}

fn is_of_the_data(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(said) if is_of_the_data_by(said.code().as_deref()))
}

/// Whether a SQLSTATE says that a row is not what the table takes: wrong data (22), a constraint (23), over a limit (54), or refused by a trigger (P0001). All else passes.
fn is_of_the_data_by(code: Option<&str>) -> bool {
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)) || code == "P0001")
}

/// Deletes some of what is older; how many rows. Only one at a time does it.
pub(super) async fn let_go(mut session: Session<'_>, retention: Duration) -> (Session<'_>, Result<u64, StoreError>) {
    let outcome = delete(&mut session, retention).await.map_err(|error| failed(&error));
    (session, outcome)
}

async fn delete(session: &mut Session<'_>, retention: Duration) -> Result<u64, sqlx::Error> {
    session.begin().await?;
    let seconds = retention.as_secs_f64();
    let deleted = session.run(|connection| sqlx::query(LET_GO).bind(seconds).execute(connection)).await?;
    session.end("COMMIT").await?;
    Ok(deleted.rows_affected())
}

/// A number as the database has it; none of ours is larger.
fn wide(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_row_is_told_from_what_passes() {
        for code in ["22P05", "22008", "23514", "23502", "54000", "P0001"] {
            assert!(is_of_the_data_by(Some(code)), "{code}");
        }
        for code in ["40001", "40P01", "53100", "57P01", "57014", "42P01", "25006", "08006"] {
            assert!(!is_of_the_data_by(Some(code)), "{code}");
        }
        assert!(!is_of_the_data_by(None));
    }
}
