//! One task per process that notices what other processes have committed.
//!
//! `PRAGMA data_version` changes when another connection has committed; asking costs a few
//! microseconds and touches no disk. A file that nobody watches is not asked at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use trawl_proto::{Seq, ShardKey};

use super::News;
use super::database::Database;
use crate::Error;

/// Ticks to sit out after a failure, so that a broken file is not hammered.
const TICKS_AFTER_FAILURE: u32 = 10;

/// The last seq of every log there is.
pub(super) type Ends = HashMap<ShardKey, Seq>;

/// The task.
pub(super) struct Poller {
    store: Watched,
    logs: Watched,
    news: News,
    interval: Duration,
}

impl Poller {
    /// A poller of both files and what it will tell.
    pub(super) fn new(store: Arc<Database>, logs: Arc<Database>, interval: Duration) -> (Self, News) {
        let news = News {
            store: watch::Sender::new(0),
            logs: watch::Sender::new(Arc::default()),
            appended: Arc::new(Notify::new()),
        };
        (Self { store: Watched::new(store), logs: Watched::new(logs), news: news.clone(), interval }, news)
    }

    /// Runs until aborted.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look().await,
                () = self.news.appended.notified() => {
                    if self.news.logs.receiver_count() > 0 {
                        self.tell_ends().await;
                    }
                }
            }
        }
    }

    async fn look(&mut self) {
        if self.news.store.receiver_count() > 0 && self.store.changed().await {
            self.news.store.send_modify(|changes| *changes += 1);
        }
        if self.news.logs.receiver_count() > 0 && self.logs.changed().await {
            self.tell_ends().await;
        }
    }

    async fn tell_ends(&mut self) {
        match self.logs.ends().await {
            Ok(ends) => {
                self.news.logs.send_if_modified(|told| {
                    let changed = **told != ends;
                    if changed {
                        *told = Arc::new(ends);
                    }
                    changed
                });
            }
            Err(error) => self.logs.failed(&error),
        }
    }
}

/// One file that is looked at.
struct Watched {
    database: Arc<Database>,
    connection: Option<SqliteConnection>,
    /// As last seen on this very connection; the numbers of different connections do not compare.
    version: Option<i64>,
    failing: bool,
    sit_out: u32,
}

impl Watched {
    fn new(database: Arc<Database>) -> Self {
        Self { database, connection: None, version: None, failing: false, sit_out: 0 }
    }

    /// Whether the file may have changed since the last call.
    async fn changed(&mut self) -> bool {
        if self.sit_out > 0 {
            self.sit_out -= 1;
            return false;
        }
        match self.version_now().await {
            Ok(version) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the cluster engine can be read again");
                }
                self.version.replace(version) != Some(version)
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    async fn version_now(&mut self) -> Result<i64, Error> {
        let database = self.database.clone();
        let connection = self.connection().await?;
        let row = sqlx::query("PRAGMA data_version").fetch_one(connection).await;
        row.map(|row| row.get(0)).map_err(database.error("poll"))
    }

    async fn ends(&mut self) -> Result<Ends, Error> {
        let database = self.database.clone();
        let connection = self.connection().await?;
        let rows = sqlx::query("SELECT index_uid, shard, last FROM logs").fetch_all(connection).await;
        let rows = rows.map_err(database.error("poll"))?;
        let end = |row: &sqlx::sqlite::SqliteRow| {
            let shard = ShardKey::new(row.get::<String, _>(0), row.get::<u32, _>(1));
            (shard, Seq(row.get::<i64, _>(2).cast_unsigned()))
        };
        Ok(rows.iter().map(end).collect())
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.version = None;
                self.database.connect().await?
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Starts over with a new connection, after a pause.
    fn failed(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error = error as &dyn std::error::Error, "the cluster engine cannot be read");
        }
        self.connection = None;
        self.version = None;
        self.sit_out = TICKS_AFTER_FAILURE;
    }
}
