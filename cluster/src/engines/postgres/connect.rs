//! Making connections: to the one of several hosts that takes writes.
//!
//! The host that answered last is tried first, then the others in the order of the URL, so a fail-over
//! is followed. While none will do, who asks is answered at once with the last failure, and a new round
//! is made after a pause that grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tokio::time::{Instant, timeout};

use super::failure::{is_lost, of_sql};
use super::url::{Host, Target};
use crate::Error;
use crate::engines::EngineOptions;
use crate::engines::failure::{Shared, unavailable};

/// Pauses between rounds while no host will do: doubling, from and to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long the server may take for one statement that reads.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The oldest server that will do.
const VERSION_MIN: i32 = 130_000;

/// A connection to a server that takes writes.
pub(super) struct Session {
    pub(super) connection: PgConnection,
    pub(super) host: Host,
    pub(super) options: PgConnectOptions,
    /// Which history of the server it sees; see [`Connector::history`].
    pub(super) history: u64,
    pub(super) since: Instant,
}

/// Makes connections.
pub(super) struct Connector {
    target: Target,
    lock_timeout: Duration,
    /// The host that answered last.
    preferred: AtomicUsize,
    outage: Mutex<Option<Outage>>,
    /// Every history that was seen, by name; numbered from 1. Fail-overs are few.
    histories: Mutex<Vec<String>>,
    /// The history of the connection made last.
    latest: AtomicU64,
    /// The history known to be the one that appends may go on in.
    accepted: AtomicU64,
}

/// No host will do.
struct Outage {
    error: Shared,
    since: Instant,
    pause: Duration,
    next: Instant,
}

impl Connector {
    pub(super) fn new(target: Target, options: &EngineOptions) -> Arc<Self> {
        Arc::new(Self {
            target,
            lock_timeout: options.busy_timeout,
            preferred: AtomicUsize::new(0),
            outage: Mutex::new(None),
            histories: Mutex::default(),
            latest: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The hosts, for messages.
    pub(super) fn name(&self) -> String {
        self.target.name()
    }

    /// Connects, trying each host once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] tells what is wrong with each host.
    pub(super) async fn connect(&self) -> Result<Session, Error> {
        if let Some(outage) = &*self.outage.lock()
            && Instant::now() < outage.next
        {
            return Err(outage.error.again());
        }
        let hosts = self.target.hosts.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        for n in 0..hosts {
            let n = (first + n) % hosts;
            let host = &self.target.hosts[n];
            let tried = timeout(self.target.connect_timeout, self.try_host(host)).await;
            match tried.unwrap_or_else(|_| Err(unavailable("cannot connect", "it did not answer in time"))) {
                Ok(session) => {
                    self.preferred.store(n, Ordering::Relaxed);
                    if let Some(Outage { since, .. }) = self.outage.lock().take() {
                        tracing::info!(%host, away = ?since.elapsed(), "connected to PostgreSQL again");
                    }
                    return Ok(session);
                }
                Err(error @ Error::Corrupt(_)) => return Err(error),
                Err(Error::Unavailable(reason)) => reasons.push(reason.to_string()),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(self.failed(reasons.join("; ")))
    }

    fn failed(&self, reason: String) -> Error {
        let mut outage = self.outage.lock();
        let now = Instant::now();
        let (since, pause) = match &*outage {
            None => {
                crate::outage::told();
                tracing::warn!(reason, "PostgreSQL is away");
                (now, PAUSES.0)
            }
            Some(Outage { since, pause, .. }) => {
                if crate::outage::is_time() {
                    tracing::warn!(reason, since = ?since.elapsed(), "PostgreSQL is still away");
                }
                (*since, (*pause * 2).min(PAUSES.1))
            }
        };
        let error = Shared::new(unavailable("no PostgreSQL server will do", reason));
        let told = error.again();
        *outage = Some(Outage { error, since, pause, next: now + pause });
        told
    }

    async fn try_host(&self, host: &Host) -> Result<Session, Error> {
        let name = host.to_string();
        let failed = |doing: &'static str| {
            let name = name.clone();
            move |error| of_sql(doing, &name, error)
        };
        let options = self.target.options(host)?;
        let mut connection = options.connect().await.map_err(failed("connect to"))?;
        let facts = "SELECT current_setting('transaction_read_only'), current_setting('server_version_num')::int,
               current_setting('server_encoding'), current_setting('synchronous_commit')";
        let row = sqlx::query(facts).fetch_one(&mut connection).await.map_err(failed("ask"))?;
        if row.get::<&str, _>(0) != "off" {
            return Err(unavailable(format!("cannot use PostgreSQL at {host}"), "it is read-only (a standby)"));
        }
        let version = row.get::<i32, _>(1);
        if version < VERSION_MIN {
            return Err(Error::Corrupt(format!(
                "PostgreSQL at {host} is version {version}; 13 is the oldest that will do"
            )));
        }
        let encoding = row.get::<&str, _>(2);
        if encoding != "UTF8" {
            return Err(Error::Corrupt(format!("the database at {host} is in {encoding}; it has to be in UTF8")));
        }
        // What waits for more than `on` does is left alone.
        let raise = row.get::<&str, _>(3) != "remote_apply";
        sqlx::raw_sql(AssertSqlSafe(self.settings(version, raise)))
            .execute(&mut connection)
            .await
            .map_err(failed("set up a connection to"))?;
        let history = self.history(&mut connection).await.map_err(failed("ask"))?;
        Ok(Session { connection, host: host.clone(), options, history, since: Instant::now() })
    }

    /// What holds for every connection. Whoever stops answering must not hold rows locked for long:
    /// the server ends transactions that stand still, and connections whose other end is gone.
    fn settings(&self, version: i32, raise_synchronous_commit: bool) -> String {
        let mut settings = format!(
            "SET search_path = \"{}\"; SET lock_timeout = {}; SET statement_timeout = {};
             SET idle_in_transaction_session_timeout = '3s';
             SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
             SET tcp_user_timeout = '25s';
             SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off;",
            self.target.schema,
            self.lock_timeout.as_millis(),
            STATEMENT_TIMEOUT.as_millis(),
        );
        if raise_synchronous_commit {
            settings.push_str("SET synchronous_commit = on;");
        }
        if version >= 140_000 {
            settings.push_str("SET client_connection_check_interval = '5s';");
        }
        settings
    }

    /// A number that is another one when the server's history may be another one: after a fail-over, or
    /// when another server stands there. 0 for servers that do not tell.
    async fn history(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        let ask = "SELECT (SELECT system_identifier::text FROM pg_control_system())
               || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
        let history: String = match sqlx::query(ask).fetch_one(&mut *connection).await {
            Ok(row) => row.get(0),
            Err(error @ sqlx::Error::Database(_)) if !is_lost(&error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the server does not tell its timeline");
                self.latest.store(0, Ordering::Relaxed);
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let mut histories = self.histories.lock();
        let known = histories.iter().position(|seen| *seen == history);
        let n = known.unwrap_or_else(|| {
            if !histories.is_empty() {
                tracing::warn!(history, "PostgreSQL has begun another timeline");
            }
            histories.push(history);
            histories.len() - 1
        });
        let number = n as u64 + 1;
        self.latest.store(number, Ordering::Relaxed);
        Ok(number)
    }

    /// The name of a history: system identifier and timeline. `None` for 0.
    pub(super) fn history_name(&self, history: u64) -> Option<String> {
        let n = usize::try_from(history).ok()?.checked_sub(1)?;
        self.histories.lock().get(n).cloned()
    }

    /// The history of the connection made last.
    pub(super) fn latest(&self) -> u64 {
        self.latest.load(Ordering::Relaxed)
    }

    /// Whether appends are known to be let go on in a history; always in one without a name.
    pub(super) fn is_accepted(&self, history: u64) -> bool {
        history == 0 || history == self.accepted.load(Ordering::Relaxed)
    }

    /// Notes the name of the history that appends may go on in, as read in a history; whether it is that one.
    pub(super) fn note_accepted(&self, history: u64, accepted: Option<&str>) -> bool {
        if accepted.is_some() && accepted == self.history_name(history).as_deref() {
            self.accepted.store(history, Ordering::Relaxed);
        }
        self.is_accepted(history)
    }
}
