//! The tables, and how they come to be: by numbered steps, each once, under a lock, so that nodes that start together and starts that were broken off do no harm.

use sqlx::Row;

use super::{Session, failed};
use crate::settings::sinks;
use crate::store::StoreError;

/// Steps that were taken stand in `tidegate_schema`; what stands here is never changed, only added to.
const STEPS: &[&str] = &["
CREATE TABLE tidegate_events (
    room text NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    key text,
    priority smallint NOT NULL,
    event_time timestamptz NOT NULL,
    arrived timestamptz NOT NULL,
    sink text NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (room, seq, event_time)
);
CREATE INDEX tidegate_events_newest ON tidegate_events (sink, arrived DESC, seq DESC);
CREATE INDEX tidegate_events_time ON tidegate_events USING brin (event_time);
CREATE TABLE tidegate_sinks (
    name text PRIMARY KEY,
    messages bigint NOT NULL DEFAULT 0,
    batches bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    written timestamptz
);
CREATE TABLE tidegate_positions (
    sink text NOT NULL,
    log text NOT NULL,
    room text NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (sink, log, room)
);
COMMENT ON TABLE tidegate_events IS 'Events by room and number; priority 0 is critical, 1 high, 2 normal, 3 low';
COMMENT ON TABLE tidegate_sinks IS 'What each sink has stored over all its time';
COMMENT ON TABLE tidegate_positions IS 'Up to which number a sink has stored the events of a log''s room';
"];

/// Held while steps are taken: the letters of the program's name.
const LOCK: &str = "SELECT pg_advisory_xact_lock(x'7469646567617465'::bigint)";

/// Makes what is missing; whether TimescaleDB keeps the table.
pub(super) async fn make<'s>(
    mut session: Session<'s>,
    settings: &sinks::Store,
) -> (Session<'s>, Result<bool, StoreError>) {
    let outcome = make_all(&mut session, settings).await;
    (session, outcome)
}

async fn make_all(session: &mut Session<'_>, settings: &sinks::Store) -> Result<bool, StoreError> {
    take_steps(session).await?;
    match timescale(session, settings).await {
        Ok(timescale) => Ok(timescale),
        // The table is a plain one then, which is enough.
        Err(error @ StoreError::Database(_)) => {
            tracing::warn!(%error, "sink: TimescaleDB is there and cannot be used; the table is as it was");
            // A server that has not loaded it at its start ends the connection for that; the pool finds it out.
            let _ = session.end("ROLLBACK").await;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn take_steps(session: &mut Session<'_>) -> Result<(), StoreError> {
    let said = |error: sqlx::Error| failed(&error);
    session.begin().await.map_err(said)?;
    session.run(|connection| sqlx::raw_sql(LOCK).execute(connection)).await.map_err(said)?;
    let table = "CREATE TABLE IF NOT EXISTS tidegate_schema (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())";
    // Asked first: who may not make tables may still use those that are there.
    let there = "SELECT to_regclass('tidegate_schema') IS NOT NULL";
    let there = session.run(|connection| sqlx::query(there).fetch_one(connection)).await.map_err(said)?;
    if !there.try_get::<bool, _>(0).map_err(said)? {
        session.run(|connection| sqlx::raw_sql(table).execute(connection)).await.map_err(said)?;
    }
    let version = "SELECT coalesce(max(version), 0) FROM tidegate_schema";
    let version = session.run(|connection| sqlx::query(version).fetch_one(connection)).await.map_err(said)?;
    let version: i32 = version.try_get(0).map_err(said)?;
    let known = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    if version > known {
        return Err(StoreError::Later(version));
    }
    for (step, number) in STEPS.iter().zip(1..).filter(|(_, number)| *number > version) {
        session.run(|connection| sqlx::raw_sql(*step).execute(connection)).await.map_err(said)?;
        let note = "INSERT INTO tidegate_schema (version) VALUES ($1)";
        session.run(|connection| sqlx::query(note).bind(number).execute(connection)).await.map_err(said)?;
        tracing::info!(version = number, "sink: the database's tables are made");
    }
    session.end("COMMIT").await.map_err(said)
}

/// Has TimescaleDB keep the table in chunks of time, where it is there; whether it does.
async fn timescale(session: &mut Session<'_>, settings: &sinks::Store) -> Result<bool, StoreError> {
    let said = |error: sqlx::Error| failed(&error);
    let there = "SELECT count(*) FILTER (WHERE installed_version IS NULL), count(*) FROM pg_available_extensions WHERE name = 'timescaledb'";
    let there = session.run(|connection| sqlx::query(there).fetch_one(connection)).await.map_err(said)?;
    let (to_be_made, there): (i64, i64) = (there.try_get(0).map_err(said)?, there.try_get(1).map_err(said)?);
    if there == 0 {
        return Ok(false);
    }
    session.begin().await.map_err(said)?;
    session.run(|connection| sqlx::raw_sql(LOCK).execute(connection)).await.map_err(said)?;
    if to_be_made > 0 {
        let make = "CREATE EXTENSION IF NOT EXISTS timescaledb";
        session.run(|connection| sqlx::raw_sql(make).execute(connection)).await.map_err(said)?;
    }
    let kept = "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema() AND hypertable_name = 'tidegate_events'), \
                EXISTS (SELECT FROM tidegate_events)";
    let kept = session.run(|connection| sqlx::query(kept).fetch_one(connection)).await.map_err(said)?;
    let (kept, rows): (bool, bool) = (kept.try_get(0).map_err(said)?, kept.try_get(1).map_err(said)?);
    if !kept && rows {
        // Moving them may take hours, and locks the table.
        tracing::info!(
            "sink: TimescaleDB is there, but the table has rows already and stays a plain one; docs/sinks.md says how to turn it into a hypertable"
        );
        session.end("COMMIT").await.map_err(said)?;
        return Ok(false);
    }
    if !kept {
        let make = "SELECT create_hypertable('tidegate_events', 'event_time', if_not_exists => true)";
        session.run(|connection| sqlx::query(make).execute(connection)).await.map_err(said)?;
    }
    policies(session, settings).await.map_err(said)?;
    session.end("COMMIT").await.map_err(said)?;
    if !kept {
        tracing::info!("sink: the table is a hypertable of TimescaleDB");
    }
    Ok(true)
}

/// Retention and compression as the settings say now.
async fn policies(session: &mut Session<'_>, settings: &sinks::Store) -> Result<(), sqlx::Error> {
    let remove = "SELECT remove_retention_policy('tidegate_events', if_exists => true)";
    session.run(|connection| sqlx::query(remove).execute(connection)).await?;
    if let Some(age) = settings.retention {
        let add = "SELECT add_retention_policy('tidegate_events', make_interval(secs => $1))";
        session.run(|connection| sqlx::query(add).bind(age.as_secs_f64()).execute(connection)).await?;
    }
    let compressed = "SELECT coalesce((SELECT compression_enabled FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema() AND hypertable_name = 'tidegate_events'), false)";
    let compressed = session.run(|connection| sqlx::query(compressed).fetch_one(connection)).await?;
    if compressed.try_get::<bool, _>(0)? {
        let remove = "SELECT remove_compression_policy('tidegate_events', if_exists => true)";
        session.run(|connection| sqlx::query(remove).execute(connection)).await?;
    } else if settings.compress_after.is_some() {
        let how = "ALTER TABLE tidegate_events SET (timescaledb.compress, timescaledb.compress_segmentby = 'room', timescaledb.compress_orderby = 'event_time DESC, seq DESC')";
        session.run(|connection| sqlx::raw_sql(how).execute(connection)).await?;
    }
    if let Some(age) = settings.compress_after {
        let add = "SELECT add_compression_policy('tidegate_events', make_interval(secs => $1))";
        session.run(|connection| sqlx::query(add).bind(age.as_secs_f64()).execute(connection)).await?;
    }
    Ok(())
}
