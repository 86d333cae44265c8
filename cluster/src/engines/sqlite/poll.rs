//! Noticing what other processes have committed.
//!
//! One thread per process reads the [`bell`](super::bell) of both files about every 50 ms, at rest every
//! 100 ms. It is a
//! plain thread, since a timer of the runtime costs several thread switches per tick, and an idle
//! node's cost is little else. When nothing was heard for two seconds a task asks SQLite itself, whose
//! `PRAGMA data_version` changes when another connection has committed, in case somebody died between
//! the commit and the ring. A file that nobody watches is left alone.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use tokio::time::MissedTickBehavior;
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

use super::database::{Database, Heard};
use crate::Error;
use crate::engines::reading::Ends;

/// How often SQLite is asked.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// The thread that listens to the bells; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    stop: Arc<AtomicBool>,
    thread: Thread,
}

impl Listener {
    /// Starts the thread.
    pub(super) fn start(store: Arc<Database>, logs: Arc<Database>, ends: Ends, interval: Duration) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("trawl-poll".to_owned()).spawn(move || {
            let (mut store_heard, mut logs_heard) = (Heard::default(), Heard::default());
            let mut pace = Pace::new(interval, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                if store.changes.receiver_count() > 0 && store.listen(&mut store_heard) {
                    store.wake();
                }
                if ends.receiver_count() > 0 && logs.listen(&mut logs_heard) {
                    logs.wake();
                }
                thread::park_timeout(pace.next(store.wakes() + logs.wakes(), Instant::now()));
            }
        })?;
        Ok(Self { stop, thread: thread.thread().clone() })
    }
}

/// Wakes that are closer together than this show that something is going on. Renewals of the lease are
/// further apart.
const BUSY_GAP: Duration = Duration::from_millis(500);
/// How long something is taken to go on.
const BUSY_TIME: Duration = Duration::from_secs(2);

/// How often the bells are listened to: half as often while nothing goes on, when the thread's waking up
/// is a third of what a node costs.
struct Pace {
    interval: Duration,
    wakes: u64,
    woken_at: Instant,
    busy_until: Instant,
}

impl Pace {
    fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, wakes: 0, woken_at: now, busy_until: now + BUSY_TIME }
    }

    /// The pause until the next look, given how many wakes there have been.
    fn next(&mut self, wakes: u64, now: Instant) -> Duration {
        if std::mem::replace(&mut self.wakes, wakes) != wakes {
            if now.duration_since(self.woken_at) < BUSY_GAP {
                self.busy_until = now + BUSY_TIME;
            }
            self.woken_at = now;
        }
        if now < self.busy_until { self.interval } else { 2 * self.interval }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// The task that asks SQLite, and reads where the logs end when one may have grown.
pub(super) struct Poller {
    store: Watched,
    logs: Watched,
    ends: Ends,
}

impl Poller {
    /// A poller of both files, which tells where the logs end.
    pub(super) fn new(store: Arc<Database>, logs: Arc<Database>, ends: Ends) -> Self {
        Self { store: Watched::new(store), logs: Watched::new(logs), ends }
    }

    /// Runs until aborted.
    pub(super) async fn run(mut self) {
        let mut changes = self.logs.database.changes.subscribe();
        let mut ticks = tokio::time::interval(ASK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.ask().await,
                // The sender lives as long as this task's `logs`.
                _ = changes.changed() => if self.ends.receiver_count() > 0 {
                    self.tell_ends().await;
                }
            }
        }
    }

    async fn ask(&mut self) {
        if self.store.database.changes.receiver_count() > 0 && self.store.changed().await {
            self.store.database.wake();
        }
        if self.ends.receiver_count() > 0 && self.logs.changed().await {
            self.logs.database.wake();
        }
    }

    async fn tell_ends(&mut self) {
        match self.logs.ends().await {
            Ok(ends) => {
                self.ends.send_if_modified(|told| {
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

/// One file that is asked.
struct Watched {
    database: Arc<Database>,
    connection: Option<SqliteConnection>,
    /// As last seen on this very connection; the numbers of different connections do not compare.
    version: Option<i64>,
    /// The wakes counted when it was asked last.
    wakes: u64,
    failing: bool,
}

impl Watched {
    fn new(database: Arc<Database>) -> Self {
        Self { database, connection: None, version: None, wakes: 0, failing: false }
    }

    /// Whether the file may have changed since the last call. Not asked when something has woken us
    /// since: who was woken has seen whatever else there was.
    async fn changed(&mut self) -> bool {
        let wakes = *self.database.changes.borrow();
        if std::mem::replace(&mut self.wakes, wakes) != wakes {
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

    async fn ends(&mut self) -> Result<HashMap<ShardKey, Generation>, Error> {
        let database = self.database.clone();
        let connection = self.connection().await?;
        let rows = sqlx::query("SELECT index_uid, shard, incarnation, last FROM logs").fetch_all(connection).await;
        let rows = rows.map_err(database.error("poll"))?;
        let end = |row: &sqlx::sqlite::SqliteRow| {
            let shard = ShardKey::new(row.get::<String, _>(0), row.get::<u32, _>(1));
            let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
            (shard, Generation { incarnation: Incarnation(number(2)), seq: Seq(number(3)) })
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

    /// Starts over with a new connection the next time. That finds the file changed, so nothing that
    /// happened meanwhile is missed.
    fn failed(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error = error as &dyn std::error::Error, "the cluster engine cannot be read");
        }
        self.connection = None;
        self.version = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_quick_while_something_goes_on() {
        let (interval, start) = (Duration::from_millis(50), Instant::now());
        let mut pace = Pace::new(interval, start);
        let mut at = |wakes, ms| pace.next(wakes, start + Duration::from_millis(ms)) / interval.as_millis() as u32;
        let pauses: Vec<_> =
            [(0, 10), (0, 2_100), (1, 3_000), (2, 4_000), (3, 5_000), (4, 5_100), (4, 7_000), (4, 7_200)]
                .map(|(wakes, ms)| at(wakes, ms).as_millis())
                .into();
        // Alone a wake changes nothing; two in a row do, for two seconds.
        assert_eq!(pauses, [1, 2, 2, 2, 2, 1, 1, 2]);
    }
}
