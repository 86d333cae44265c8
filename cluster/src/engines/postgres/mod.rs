//! PostgreSQL, 13 or newer: the engine of clusters on many machines.
//!
//! ```text
//! url       what `--cluster postgres://…` says          connect   the one of several hosts that takes writes
//! database  connections and transactions, bounded        notices   a commit that came with a warning is none
//! migrate   the schema                                   settings  what the server promises
//! store · log, writer, read, restart · queue · letters · poll (LISTEN)
//! ```
//!
//! With `synchronous_commit=on` and a synchronous standby, what is acknowledged survives the loss of a
//! machine. Every call is bounded in time: a server that does not answer makes the cluster's writes
//! fail, not wait.

mod connect;
mod database;
mod failure;
mod letters;
mod log;
mod migrate;
mod notices;
mod poll;
mod queue;
mod read;
mod restart;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod url;
mod writer;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::connect::Connector;
use self::database::Database;
use self::letters::PostgresLetters;
use self::log::PostgresLog;
use self::poll::Poller;
use self::queue::PostgresQueue;
use self::store::PostgresStore;
use self::url::Target;
use super::reading::Ends;
use super::{Engine, EngineOptions};
use crate::Error;

/// Opens the engine that a URL names, making its schema when it is missing.
pub(super) async fn open(url: &str, options: &EngineOptions) -> Result<Engine, Error> {
    let target = Target::parse(url)?;
    let channel = format!("{}_store", target.schema);
    let pool_size = target.pool_size;
    let connector = Connector::new(target, options);
    let mut session = connector.connect().await?;
    migrate::migrate(&connector, &mut session).await?;
    settings::report(&mut session).await;
    let database = Arc::new(Database::new(connector.clone(), pool_size));
    // Appends have a connection of their own, so that nothing else holds them up.
    let writers = Arc::new(Database::new(connector, 1));

    let (ends, grown) = (Ends::default(), Arc::new(Notify::new()));
    let poller = Poller {
        database: database.clone(),
        channel: channel.clone(),
        ends: ends.clone(),
        grown: grown.clone(),
        interval: options.poll_interval,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(poller.run());
    let tasks = Arc::new(Tasks { _tasks: tasks });
    Ok(Engine {
        store: Arc::new(PostgresStore::new(database.clone(), options.clone(), channel, tasks.clone())),
        queue: Arc::new(PostgresQueue::new(database.clone(), options.clone(), tasks.clone())),
        letters: Arc::new(PostgresLetters::new(database.clone(), options.clone(), tasks.clone())),
        log: Arc::new(PostgresLog::new(database, writers, options, (ends, grown), tasks)),
    })
}

/// The background tasks of an engine, which end with it.
#[derive(Debug)]
struct Tasks {
    _tasks: JoinSet<()>,
}
