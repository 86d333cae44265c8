//! Connections and transactions, bounded in number and time.
//!
//! A connection goes back to the pool only from a statement that was answered. What was cancelled, timed
//! out or failed is closed, and the server rolls back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgArguments, PgConnection, PgQueryResult, PgRow};
use sqlx::query::Query;
use sqlx::{Executor, Postgres, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::connect::{Connector, Session};
use super::failure::{is_lost, of_sql};
use super::notices::heeding_warnings;
use crate::Error;
use crate::engines::failure::unavailable;

/// Reads the name of the history that appends may go on in.
const ACCEPTED: &str = "SELECT history FROM fence";
/// How long a call waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement, or the wait for locks in it, may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(12);
/// How long a commit may take: it waits for disks, and for the standby.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);
/// Age at which a connection is not used again, so that load follows where servers are now.
const AGE_MAX: Duration = Duration::from_secs(600);
/// What a transaction begins with. Nothing of the server's may end it in its commit, in which it would
/// be unknown whether it took place.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0";
/// The same for one that every other process may wait for, among them who takes over from a leader that was paused or
/// cut off in the middle of it: the server ends it soon when it stands still, well within the lease time.
const BEGIN_BRIEFLY: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0;
     SET LOCAL idle_in_transaction_session_timeout = '1500ms'";

/// A statement that can be made again when a connection turns out to be dead.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// A database.
pub(super) struct Database {
    pub(super) connector: Arc<Connector>,
    idle: Mutex<Vec<Session>>,
    permits: Arc<Semaphore>,
    /// Counts the times at which the store was seen to have changed; who follows it waits here.
    pub(super) changes: watch::Sender<u64>,
}

impl Database {
    pub(super) fn new(connector: Arc<Connector>, size: usize) -> Self {
        let permits = Arc::new(Semaphore::new(size));
        Self { connector, idle: Mutex::default(), permits, changes: watch::Sender::new(0) }
    }

    /// Makes an error out of a statement's.
    pub(super) fn error(&self, doing: &str) -> impl FnOnce(sqlx::Error) -> Error {
        move |error| {
            if is_lost(&error) {
                self.forget_idle();
            }
            of_sql(doing, &self.connector.name(), error)
        }
    }

    /// Tells who follows the store that it may have changed.
    pub(super) fn wake(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Carries out one statement that reads. Also returns the history that it was read from.
    pub(super) async fn fetch_all<'q>(
        &self,
        doing: &str,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<(Vec<PgRow>, u64), Error> {
        let mut held = self.acquire().await?;
        loop {
            match bounded(statement().fetch_all(held.connection())).await {
                Ok(rows) => {
                    let history = held.history();
                    held.give_back();
                    return Ok((rows, history));
                }
                // A connection that had died while nobody used it says nothing about the server.
                Err(error) if is_lost(&error) && held.pooled => {
                    self.forget_idle();
                    held = self.fresh(held.permit).await?;
                }
                Err(error) => return Err(self.error(doing)(error)),
            }
        }
    }

    /// The name of the server's history, unless appends may go on in it.
    pub(super) async fn new_history(&self) -> Result<Option<String>, Error> {
        if self.connector.is_accepted(self.connector.latest()) {
            return Ok(None);
        }
        let (rows, history) = self.fetch_all("read", || sqlx::query(ACCEPTED)).await?;
        let accepted = rows.first().and_then(|row| row.get(0));
        let is_accepted = self.connector.note_accepted(history, accepted);
        Ok(self.connector.history_name(history).filter(|_| !is_accepted))
    }

    /// Begins a transaction that writes.
    pub(super) async fn begin(&self) -> Result<Transaction<'_>, Error> {
        self.begin_with(BEGIN).await
    }

    /// The same for one that has to be over soon.
    pub(super) async fn begin_briefly(&self) -> Result<Transaction<'_>, Error> {
        self.begin_with(BEGIN_BRIEFLY).await
    }

    async fn begin_with(&self, begin: &'static str) -> Result<Transaction<'_>, Error> {
        let mut held = self.acquire().await?;
        loop {
            match execute(held.connection(), begin).await {
                Ok(()) => return Ok(Transaction { held }),
                Err(error) if is_lost(&error) && held.pooled => {
                    self.forget_idle();
                    held = self.fresh(held.permit).await?;
                }
                Err(error) => return Err(self.error("begin to write to")(error)),
            }
        }
    }

    /// Carries out a statement outside of a transaction.
    pub(super) async fn maintain(&self, statement: &'static str, patience: Duration) -> Result<(), Error> {
        let mut held = self.acquire().await?;
        let doing = sqlx::raw_sql(statement).execute(held.connection());
        match timeout(patience, doing).await {
            Ok(Ok(_)) => {
                held.give_back();
                Ok(())
            }
            Ok(Err(error)) => Err(self.error("tidy up")(error)),
            Err(_) => Err(unavailable("cannot tidy up PostgreSQL", "it takes too long")),
        }
    }

    async fn acquire(&self) -> Result<Held<'_>, Error> {
        let permit = timeout(ACQUIRE_TIMEOUT, self.permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(unavailable("cannot use PostgreSQL", "all connections of this process are busy"));
        };
        let young = |session: &Session| session.since.elapsed() < AGE_MAX;
        let idle = self.idle.lock().pop().filter(young);
        match idle {
            Some(session) => Ok(Held { database: self, session, permit, pooled: true }),
            None => self.fresh(permit).await,
        }
    }

    async fn fresh(&self, permit: OwnedSemaphorePermit) -> Result<Held<'_>, Error> {
        let session = self.connector.connect().await?;
        Ok(Held { database: self, session, permit, pooled: false })
    }

    /// When one connection has died, those that nobody uses have, too, or lead to the wrong server.
    fn forget_idle(&self) {
        self.idle.lock().clear();
    }
}

/// A connection in use.
struct Held<'a> {
    database: &'a Database,
    session: Session,
    permit: OwnedSemaphorePermit,
    /// Whether it came from the pool.
    pooled: bool,
}

impl Held<'_> {
    fn connection(&mut self) -> &mut PgConnection {
        &mut self.session.connection
    }

    fn history(&self) -> u64 {
        self.session.history
    }

    fn give_back(self) {
        self.database.idle.lock().push(self.session);
    }
}

/// A transaction that writes. Dropped without a commit it is rolled back, at the price of a new
/// connection; [`Transaction::rollback`] is cheaper.
pub(super) struct Transaction<'a> {
    held: Held<'a>,
}

impl Transaction<'_> {
    /// Carries out a statement.
    pub(super) async fn execute(&mut self, doing: &str, statement: Statement<'_>) -> Result<PgQueryResult, Error> {
        let done = bounded(statement.execute(self.held.connection())).await;
        done.map_err(self.held.database.error(doing))
    }

    /// Carries out a statement and returns its rows.
    pub(super) async fn fetch_all(&mut self, doing: &str, statement: Statement<'_>) -> Result<Vec<PgRow>, Error> {
        let rows = bounded(statement.fetch_all(self.held.connection())).await;
        rows.map_err(self.held.database.error(doing))
    }

    /// Carries out a statement and returns its first row, if any.
    pub(super) async fn fetch_optional(
        &mut self,
        doing: &str,
        statement: Statement<'_>,
    ) -> Result<Option<PgRow>, Error> {
        Ok(self.fetch_all(doing, statement).await?.into_iter().next())
    }

    /// The history that it takes place in.
    pub(super) fn history(&self) -> u64 {
        self.held.history()
    }

    /// Whether appends may go on in the history that it takes place in.
    pub(super) async fn is_accepted(&mut self) -> Result<bool, Error> {
        let (connector, history) = (self.held.database.connector.clone(), self.history());
        if connector.is_accepted(history) {
            return Ok(true);
        }
        let row = self.fetch_optional("read", sqlx::query(ACCEPTED)).await?;
        Ok(connector.note_accepted(history, row.as_ref().and_then(|row| row.get(0))))
    }

    /// Commits; durable when it returns, as far as the server promises.
    ///
    /// # Errors
    /// Also when it is not known whether it took place.
    pub(super) async fn commit(mut self) -> Result<(), Error> {
        let server = self.held.session.host.to_string();
        commit(self.held.connection(), &server).await?;
        self.held.give_back();
        Ok(())
    }

    /// Undoes everything.
    pub(super) async fn rollback(mut self) {
        if bounded(sqlx::raw_sql("ROLLBACK").execute(self.held.connection())).await.is_ok() {
            self.held.give_back();
        }
    }
}

/// Begins a transaction that writes.
pub(super) async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    execute(connection, BEGIN).await
}

async fn execute(connection: &mut PgConnection, statements: &'static str) -> Result<(), sqlx::Error> {
    bounded(connection.execute(sqlx::raw_sql(statements))).await.map(|_| ())
}

/// Commits what a connection has begun.
pub(super) async fn commit(connection: &mut PgConnection, server: &str) -> Result<(), Error> {
    let doing = || format!("cannot tell whether a commit took place on PostgreSQL at {server}");
    let committing = heeding_warnings(sqlx::raw_sql("COMMIT").execute(connection));
    match timeout(COMMIT_TIMEOUT, committing).await {
        Ok((Ok(_), false)) => Ok(()),
        Ok((Ok(_), true)) => {
            tracing::warn!(server, "PostgreSQL warned at a commit: it may not have reached the standby");
            Err(unavailable(doing(), "the server stopped waiting for its synchronous standby"))
        }
        Ok((Err(error), _)) => Err(of_sql("commit to", server, error)),
        Err(_) => Err(unavailable(doing(), "it was not confirmed in time (does the standby answer?)")),
    }
}

/// Runs a statement for as long as one may take.
pub(super) async fn bounded<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let late = || sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
    timeout(STATEMENT_TIMEOUT, statement).await.unwrap_or_else(|_| Err(late()))
}
