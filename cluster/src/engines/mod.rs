//! The engines that keep a cluster's state, chosen by the scheme of the cluster URL.

mod appends;
mod codec;
mod failure;
mod plan;
mod postgres;
mod reading;
mod restart;
mod sqlite;
mod tasks;
mod watching;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::{DeadLetters, Error, ShardLog, Store, WorkQueue};

/// A connected engine. Cheap to clone; the connections close when the last clone is gone.
#[derive(Clone)]
pub struct Engine {
    /// The cluster store.
    pub store: Arc<dyn Store>,
    /// The logs of all shards.
    pub log: Arc<dyn ShardLog>,
    /// The work queue.
    pub queue: Arc<dyn WorkQueue>,
    /// The dead letters of all shards.
    pub letters: Arc<dyn DeadLetters>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Limits of an engine. They must agree in all processes of a cluster.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Size of the rows kept per shard log (compressed); a log at this size refuses appends with
    /// [`Error::LogFull`]. Default 1 GiB.
    pub log_bytes_max: u64,
    /// Size of one batch before compression; a larger one is [`Error::TooLarge`]. Default 64 MiB.
    pub batch_bytes_max: usize,
    /// Batches that wait in this process for the next group commit, counted in bytes before
    /// compression; beyond it appends are refused at once as unavailable. Default 256 MiB.
    pub append_queue_bytes_max: usize,
    /// Calls of `append` that wait for the next group commit. Default 1,024.
    pub append_queue_max: usize,
    /// How long a message id is remembered at least, unless there are too many. Default one hour.
    pub message_id_retention: Duration,
    /// Message ids that are remembered at most, of all logs, give or take a tenth; beyond it the oldest
    /// are forgotten first, and a batch that is sent again so late is written again. Default 1,000,000.
    pub message_ids_max: u64,
    /// Tasks that the work queue keeps, of all kinds and in any state; at this many a push is refused
    /// with [`Error::QueueFull`]. Default 100,000.
    pub tasks_max: u64,
    /// Finished tasks that are kept at most; the oldest go first. Default 10,000.
    pub tasks_done_max: u64,
    /// How long a finished task is kept at most, and its key known. Default one hour.
    pub tasks_done_retention: Duration,
    /// Dead letters that are kept at most; the oldest make room and are counted. Default 100,000.
    pub letters_max: u64,
    /// Size of the operations of the dead letters that are kept at most, likewise. Default 256 MiB.
    pub letters_bytes_max: u64,
    /// Size of one value of the store; a larger one is [`Error::TooLarge`]. Default 8 MiB.
    pub value_bytes_max: usize,
    /// How often changes made by other processes are looked for (SQLite); half as often at rest. Default
    /// 50 ms.
    pub poll_interval: Duration,
    /// How long a call waits for another process that is writing (SQLite). Default 5 s.
    pub busy_timeout: Duration,
    /// Deleted keys that are remembered, so that watches can tell what changed; when there are twice
    /// as many, the older half is forgotten. Default 4,096.
    pub tombstones_max: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            log_bytes_max: 1 << 30,
            batch_bytes_max: 64 << 20,
            append_queue_bytes_max: 256 << 20,
            append_queue_max: 1_024,
            message_id_retention: Duration::from_secs(3_600),
            message_ids_max: 1_000_000,
            tasks_max: 100_000,
            tasks_done_max: 10_000,
            tasks_done_retention: Duration::from_secs(3_600),
            letters_max: 100_000,
            letters_bytes_max: 256 << 20,
            value_bytes_max: 8 << 20,
            poll_interval: Duration::from_millis(50),
            busy_timeout: Duration::from_secs(5),
            tombstones_max: 4_096,
        }
    }
}

/// Connects to the engine that the URL names: `sqlite:DIR` (the directory is made when it is missing), or
/// `postgres://user:password@host:port,host2:port2/database?parameters` (the schema is made).
///
/// # Errors
/// [`Error::BadUrl`] for a URL of another form; [`Error::Unavailable`] when the engine cannot be
/// opened; [`Error::Corrupt`] when a newer version of this software has been there.
pub async fn connect(url: &str, options: &EngineOptions) -> Result<Engine, Error> {
    match url.split_once(':') {
        Some(("sqlite", "")) => Err(bad_url(url, "sqlite: needs a directory, as in sqlite:trawl-data/cluster")),
        Some(("sqlite", directory)) => sqlite::open(Path::new(directory), options).await,
        Some(("postgres" | "postgresql", _)) => postgres::open(url, options).await,
        _ => Err(bad_url(url, "only sqlite:DIR and postgres://… are supported")),
    }
}

fn bad_url(url: &str, reason: &str) -> Error {
    Error::BadUrl { url: redacted(url), reason: reason.to_owned() }
}

/// The URL without its password, for messages.
pub fn redacted(url: &str) -> String {
    let (rest, parameters) = url.split_once('?').map_or((url, None), |(rest, parameters)| (rest, Some(parameters)));
    let mut told = match (rest.split_once("://"), rest.rsplit_once('@')) {
        (Some((scheme, _)), Some((login, hosts))) => {
            let login = login.get(scheme.len() + 3..).unwrap_or_default();
            match login.split_once(':') {
                Some((user, _)) => format!("{scheme}://{user}:***@{hosts}"),
                None => rest.to_owned(),
            }
        }
        _ => rest.to_owned(),
    };
    for (n, parameter) in parameters.into_iter().flat_map(|parameters| parameters.split('&')).enumerate() {
        told.push(if n == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((name, _)) if name == "password" || name == "sslpassword" => told.push_str(&format!("{name}=***")),
            _ => told.push_str(parameter),
        }
    }
    told
}
/// Whether a program that knows a schema up to `known` may use one of a later version: it says since which version
/// nothing has changed that an older program would do wrong. A migration that only adds tables, or columns with
/// defaults, leaves that as it is, so that processes of both versions run (and start) beside each other. SQLite has it as
/// `application_id`, PostgreSQL as column `oldest` of `schema_version`; where it is not said, it is the version itself.
fn newer_schema(place: &str, found: usize, oldest: i64, known: usize) -> Result<(), Error> {
    let oldest = usize::try_from(oldest).ok().filter(|oldest| *oldest > 0).unwrap_or(found);
    if oldest <= known {
        return Ok(());
    }
    Err(Error::Corrupt(format!(
        "{place} has schema version {found}, written by a newer version of Trawl, which only versions that know {oldest} \
         can use; this is {}, which knows {known}: run the version here that the other processes run",
        env!("CARGO_PKG_VERSION")
    )))
}

#[cfg(test)]
mod schema_tests {
    use super::newer_schema;

    #[test]
    fn a_later_schema_is_used_where_it_says_that_it_can_be() {
        assert!(newer_schema("x", 4, 3, 3).is_ok());
        for (oldest, known) in [(4, 3), (0, 3), (-1, 3), (3, 2)] {
            let refused = newer_schema("x", 4, oldest, known).map_err(|error| error.to_string());
            assert!(refused.is_err_and(|told| told.contains("x has schema version 4") && told.contains("this is")));
        }
    }
}
