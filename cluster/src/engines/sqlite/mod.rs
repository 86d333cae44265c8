//! The embedded engine: two SQLite files in a directory, shared by all processes of one machine.
//!
//! ```text
//! store.db   the cluster store (lease, catalog, membership)
//! logs.db    the logs of all shards, the work queue and the dead letters; apart, so that a full log never
//!            costs the lease
//! *.open     held while a process opens a file      *.queue, *.turn   taking turns at writing
//! *.bell     rung after every commit
//! clock      what time it is, for all processes alike
//! ```
//!
//! There is no server that could tell a process what another has done, so one thread per process looks
//! every 50 to 100 ms whether a file has changed; see [`poll`].

mod bell;
mod clock;
mod database;
mod failure;
mod letters;
mod log;
mod poll;
mod queue;
mod read;
mod restart;
mod store;
#[cfg(test)]
mod tests;
mod turn;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use self::clock::Clock;
use self::database::{Database, Kind};
use self::letters::SqliteLetters;
use self::log::SqliteLog;
use self::queue::SqliteQueue;
use self::store::SqliteStore;
use super::failure::unavailable;
use super::reading::Ends;
use super::{Engine, EngineOptions};
use crate::Error;

const STORE: Kind = Kind { name: "store.db", migrations: &[include_str!("store.sql")], incremental_vacuum: false };
const LOGS: Kind = Kind {
    name: "logs.db",
    migrations: &[include_str!("logs.sql"), include_str!("queue.sql")],
    incremental_vacuum: true,
};

/// Pause after a failed checkpoint.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(1);

/// Opens the engine in a directory, making it when it is missing.
pub(super) async fn open(directory: &Path, options: &EngineOptions) -> Result<Engine, Error> {
    tokio::fs::create_dir_all(directory)
        .await
        .map_err(|error| unavailable(format!("cannot make {}", directory.display()), error))?;
    let store = Arc::new(Database::open(directory, &STORE, options.busy_timeout).await?);
    let logs = Arc::new(Database::open(directory, &LOGS, options.busy_timeout).await?);
    let ends = Ends::default();
    let clock = Clock::open(directory);
    let poller = poll::Poller::new(store.clone(), logs.clone(), ends.clone());
    let listener = poll::Listener::start(store.clone(), logs.clone(), ends.clone(), options.poll_interval)
        .map_err(|error| unavailable("cannot start a thread", error))?;

    let mut tasks = JoinSet::new();
    tasks.spawn(poller.run());
    tasks.spawn(checkpoints(store.clone()));
    tasks.spawn(checkpoints(logs.clone()));
    let tasks = Arc::new(Tasks { _tasks: tasks, _listener: listener });
    Ok(Engine {
        store: Arc::new(SqliteStore::new(store, options.clone(), tasks.clone())),
        queue: Arc::new(SqliteQueue::new(logs.clone(), options.clone(), tasks.clone())),
        letters: Arc::new(SqliteLetters::new(logs.clone(), options.clone(), tasks.clone())),
        log: Arc::new(SqliteLog::new(logs, clock, options, ends, tasks)),
    })
}

/// The background tasks of an engine, which end with it.
#[derive(Debug)]
struct Tasks {
    _tasks: JoinSet<()>,
    _listener: poll::Listener,
}

async fn checkpoints(database: Arc<Database>) {
    database.checkpoints.note(database.wal_bytes());
    loop {
        database.checkpoints.due().await;
        if let Err(error) = database.checkpoint().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "checkpoint failed");
            tokio::time::sleep(CHECKPOINT_PAUSE).await;
        }
    }
}
