//! PostgreSQL as a store. Events are rows of one table, written in batches of arrays, each batch in one transaction together with where its sink stands then; so a batch is there once or
//! not at all, whatever is killed. A row that is there already is left as it is.
//!
//! `address` reads the setting, `schema` makes the tables (also as TimescaleDB's, where that is there), `write` writes batches, `read` gives what was stored. Only this part names the driver.
//!
//! Bounds: writers have a pool of their own, so that readers cannot keep them from writing. Every statement has two limits: the server's, and one here for a server that does not answer at all; a
//! connection on which that one is over is thrown away.

mod address;
mod read;
mod schema;
mod write;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, PgPool};

use super::{StoreError, Totals};
use crate::event::RoomName;
use crate::settings::sinks;

pub use address::check;

/// Connections for writing: each sink uses one at a time.
const WRITERS: u32 = 64;
/// How much longer than the server this side waits for a statement.
const GRACE: Duration = Duration::from_millis(250);
/// Connections that are idle for so long are closed.
const IDLE: Duration = Duration::from_secs(300);

/// A database. Clones share it.
#[derive(Clone)]
pub struct Postgres(Arc<Shared>);

struct Shared {
    writers: PgPool,
    readers: PgPool,
    settings: sinks::Store,
    /// Whether its tables are known to be there.
    ready: AtomicBool,
    /// Whether TimescaleDB keeps the table.
    timescale: AtomicBool,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Postgres")
    }
}

impl Postgres {
    /// A database at this address. Nothing is opened yet.
    ///
    /// # Errors
    /// [`StoreError::Address`]; its text does not repeat the address.
    pub fn new(url: &str, settings: &sinks::Store) -> Result<Self, StoreError> {
        let options = address::read(url)?.disable_statement_logging();
        let pool = |connections: u32, options: PgConnectOptions| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(settings.connect_timeout)
                .idle_timeout(IDLE)
                .connect_lazy_with(options)
        };
        Ok(Self(Arc::new(Shared {
            writers: pool(WRITERS, options.clone()),
            readers: pool(settings.pool, options),
            settings: settings.clone(),
            ready: AtomicBool::new(false),
            timescale: AtomicBool::new(false),
        })))
    }

    /// Where a sink stands with the events of a log: its totals, and its last seq in each room. Makes the tables where they are not there.
    ///
    /// # Errors
    /// Why the database cannot say it.
    pub async fn standing(&self, sink: &str, log: &str) -> Result<(Totals, Vec<(RoomName, u64)>), StoreError> {
        self.make().await?;
        self.with(&self.0.writers, |session| write::standing(session, sink, log)).await
    }

    /// Makes the tables, unless they are known to be there.
    async fn make(&self) -> Result<(), StoreError> {
        if !self.is_ready() {
            let timescale = self.with(&self.0.writers, |session| schema::make(session, &self.0.settings)).await?;
            self.0.timescale.store(timescale, Ordering::Release);
            self.0.ready.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether its tables are known to be there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Deletes what is older than `sink.retention`, some at a time, until nothing is left or `enough` says so; how many that were. TimescaleDB does it itself.
    ///
    /// # Errors
    /// Why the database cannot do it now.
    pub async fn let_go(&self, enough: impl Fn() -> bool + Send) -> Result<u64, StoreError> {
        let Some(retention) = self.0.settings.retention else { return Ok(0) };
        let plain = self.is_ready() && !self.0.timescale.load(Ordering::Acquire);
        let mut all = 0;
        while plain && !enough() {
            let some = self.with(&self.0.writers, |session| write::let_go(session, retention)).await?;
            all += some;
            if some < write::DELETED_AT_ONCE {
                break;
            }
        }
        Ok(all)
    }

    /// Does something on a connection of its own, which goes back to its pool if all went well.
    async fn with<'s, T, F>(&'s self, pool: &PgPool, work: impl FnOnce(Session<'s>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = (Session<'s>, Result<T, StoreError>)>,
    {
        let acquiring = tokio::time::timeout(self.0.settings.connect_timeout + GRACE, pool.acquire());
        let connection = match acquiring.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {
                return Err(StoreError::Away(format!("no connection within {:?}", self.0.settings.connect_timeout)));
            }
            Ok(Err(error)) => return Err(failed(&error)),
        };
        let session = Session { connection: Some(connection), settings: &self.0.settings };
        let (mut session, outcome) = work(session).await;
        if matches!(outcome, Ok(_) | Err(StoreError::Refused(_))) {
            session.give_back();
        }
        if let Err(StoreError::Database(_)) = &outcome {
            // The tables may be gone; next time it is looked.
            self.0.ready.store(false, Ordering::Release);
        }
        outcome
    }
}

/// A connection in use. One that is not given back is closed: what still comes on it is of no use to anybody.
struct Session<'s> {
    connection: Option<PoolConnection<sqlx::Postgres>>,
    settings: &'s sinks::Store,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

impl Session<'_> {
    fn give_back(&mut self) {
        self.connection = None;
    }

    /// Runs one statement, or several that are one message, no longer than `sink.statement_timeout`.
    async fn run<'c, T, F>(&'c mut self, statement: impl FnOnce(&'c mut PgConnection) -> F) -> Result<T, sqlx::Error>
    where
        F: Future<Output = Result<T, sqlx::Error>> + 'c,
        T: 'c,
    {
        let limit = self.settings.statement_timeout + GRACE;
        // There until it is given back or dropped.
        let Some(connection) = &mut self.connection else { return Err(sqlx::Error::PoolClosed) };
        match tokio::time::timeout(limit, statement(connection)).await {
            Ok(done) => done,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Begins a transaction whose statements have limits on the server too, and in which what is wrong with a row is said at once.
    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let ms = self.settings.statement_timeout.as_millis();
        let text = format!(
            "BEGIN; SET LOCAL statement_timeout = {ms}; SET LOCAL idle_in_transaction_session_timeout = {ms}; \
             SET LOCAL client_min_messages = warning; SET CONSTRAINTS ALL IMMEDIATE"
        );
        // Only a number is put in.
        self.run(|connection| sqlx::raw_sql(AssertSqlSafe(text)).execute(connection)).await.map(drop)
    }

    async fn end(&mut self, how: &'static str) -> Result<(), sqlx::Error> {
        self.run(|connection| sqlx::raw_sql(how).execute(connection)).await.map(drop)
    }
}

/// What went wrong, in words that name no secret.
fn failed(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(said) => {
            let code = said.code().unwrap_or_default();
            StoreError::Database(format!("{} ({code})", said.message()))
        }
        sqlx::Error::Io(why) if why.kind() == std::io::ErrorKind::TimedOut => {
            StoreError::Away("it does not answer in time".to_owned())
        }
        sqlx::Error::Io(why) => StoreError::Away(why.to_string()),
        sqlx::Error::Tls(why) => StoreError::Away(format!("TLS: {why}")),
        other => StoreError::Away(other.to_string()),
    }
}
