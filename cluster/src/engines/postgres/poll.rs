//! Noticing what other processes have committed.
//!
//! Commits of the store are told by `NOTIFY`. One that was not heard (the connection was lost, or another
//! server answers now) is found out by asking: once after every connect, and every second. Where
//! logs end is asked for while somebody tails one; leaves do not, they ask for heads themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connect::Connector;
use super::database::{Database, bounded};
use super::failure::of_sql;
use super::writer::shard_key;
use crate::Error;
use crate::engines::failure::unavailable;
use crate::engines::reading::Ends;
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

/// How often the store's revision is asked for.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failure, beside those of the connector.
const PAUSE: Duration = Duration::from_millis(50);

/// The task that listens and asks.
pub(super) struct Poller {
    pub(super) database: Arc<Database>,
    pub(super) channel: String,
    pub(super) ends: Ends,
    /// Told when this process has appended.
    pub(super) grown: Arc<Notify>,
    /// How often ends of logs are asked for.
    pub(super) interval: Duration,
}

impl Poller {
    /// Runs until aborted.
    pub(super) async fn run(self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "listening for changes failed");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Follows one connection until it fails.
    async fn listen(&self) -> Result<(), Error> {
        let connecting = connect(&self.database.connector, &self.channel);
        let late = || unavailable("cannot listen", "no answer in time");
        let mut listener = timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(late()))?;
        // What was committed from here on is told; what before, is found now.
        self.database.wake();
        let mut revision = None;
        let mut asked = Instant::now() - ASK_INTERVAL;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = listener.try_recv() => {
                    if told.map_err(self.database.error("listen to"))?.is_none() {
                        return Err(unavailable("cannot listen", "the connection was lost"));
                    }
                    self.database.wake();
                    continue;
                }
                _ = ticks.tick() => {}
                () = self.grown.notified() => {}
            }
            if self.ends.receiver_count() > 0 {
                self.tell_ends(&mut listener).await?;
            }
            if asked.elapsed() >= ASK_INTERVAL {
                asked = Instant::now();
                let row = bounded(sqlx::query("SELECT revision FROM store").fetch_one(&mut listener)).await;
                let now: i64 = row.map_err(self.database.error("ask"))?.get(0);
                if revision.replace(now) != Some(now) {
                    self.database.wake();
                }
            }
        }
    }

    async fn tell_ends(&self, listener: &mut PgListener) -> Result<(), Error> {
        let query = sqlx::query("SELECT index_uid, shard, incarnation, last FROM logs");
        let rows = bounded(query.fetch_all(listener)).await.map_err(self.database.error("poll"))?;
        let end = |row: &sqlx::postgres::PgRow| {
            let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
            (shard_key(row), Generation { incarnation: Incarnation(number(2)), seq: Seq(number(3)) })
        };
        let ends: HashMap<ShardKey, Generation> = rows.iter().map(end).collect();
        self.ends.send_if_modified(|told| {
            let changed = **told != ends;
            if changed {
                *told = Arc::new(ends);
            }
            changed
        });
        Ok(())
    }
}

/// Listens on a channel of the server that takes writes.
async fn connect(connector: &Connector, channel: &str) -> Result<PgListener, Error> {
    // Finds the host; the listener makes a connection of its own to it.
    let session = connector.connect().await?;
    let failed = |error| of_sql("listen to", &connector.name(), error);
    let schema = connector.target().schema.clone();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .after_connect(move |connection, _| {
            let path = format!("SET search_path = \"{schema}\"");
            Box::pin(async move {
                sqlx::raw_sql(sqlx::AssertSqlSafe(path)).execute(&mut *connection).await?;
                let read_only = "SELECT current_setting('transaction_read_only')";
                let read_only: String = sqlx::query(read_only).fetch_one(connection).await?.get(0);
                if read_only == "off" { Ok(()) } else { Err(sqlx::Error::PoolClosed) }
            })
        })
        .connect_lazy_with(session.options.clone());
    let mut listener = PgListener::connect_with(&pool).await.map_err(failed)?;
    listener.eager_reconnect(false);
    listener.listen(channel).await.map_err(failed)?;
    Ok(listener)
}
