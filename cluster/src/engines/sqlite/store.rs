//! The cluster store in `store.db`.
//!
//! Every commit takes the next revision. An entry keeps the revision that wrote it last, deleted keys
//! included, so a watch asks for everything after the revision it has seen.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::database::Database;
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::engines::failure::unavailable;
use crate::engines::watching::{Entries, Moment, check_sizes, follow, prefix_end};
use crate::store::{Change, Entry, Guard, Revision, Store, Update, Write};

/// The store of one engine.
pub(super) struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    database: Arc<Database>,
    options: EngineOptions,
    _tasks: Arc<Tasks>,
}

impl SqliteStore {
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, tasks: Arc<Tasks>) -> Self {
        Self { shared: Arc::new(Shared { database, options, _tasks: tasks }) }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let database = &self.shared.database;
        let row = sqlx::query("SELECT key, value, revision FROM entries WHERE key = ?1 AND value IS NOT NULL")
            .bind(key)
            .fetch_optional(database.readers())
            .await
            .map_err(database.error("read"))?;
        Ok(row.map(|row| entry(&row, 0)))
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
        let (entries, Moment { revision, .. }) = self.shared.list(prefix).await?;
        Ok((entries, revision))
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        follow(self.shared.clone(), self.shared.database.changes.subscribe(), prefix)
    }

    async fn commit(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        self.commit(guards, writes, false).await
    }

    async fn commit_unhurried(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        self.commit(guards, writes, true).await
    }
}

impl SqliteStore {
    async fn commit(&self, guards: &[Guard], writes: &[Write], unhurried: bool) -> Result<Revision, Error> {
        check_sizes(writes, self.shared.options.value_bytes_max)?;
        let (shared, guards, writes) = (self.shared.clone(), guards.to_vec(), writes.to_vec());
        // In a task of its own, so that a caller that gives up leaves no transaction half done.
        let committed = tokio::spawn(async move { shared.commit(&guards, &writes, unhurried).await }).await;
        committed.map_err(|error| unavailable("commit was cut off", error))?
    }
}

impl Shared {
    async fn commit(&self, guards: &[Guard], writes: &[Write], unhurried: bool) -> Result<Revision, Error> {
        let failed = || self.database.error("write to");
        let mut transaction = self.database.begin().await?;
        let connection = &mut transaction.connection;
        if let Some(broken) = first_broken(connection, guards).await.map_err(failed())? {
            transaction.rollback().await;
            return Err(Error::Conflict(broken));
        }
        let (revision, changed) = write(connection, writes).await.map_err(failed())?;
        if !changed {
            // Nothing was there to delete: no revision is spent. The present one may be another's of which
            // our watches have not heard.
            transaction.rollback().await;
            self.database.wake();
            return Ok(Revision(revision.0 - 1));
        }
        if writes.iter().any(|write| matches!(write, Write::Delete(_))) {
            prune(connection, self.options.tombstones_max).await.map_err(failed())?;
        }
        let bytes = writes.iter().map(size).sum();
        match unhurried {
            true => transaction.commit_softly(bytes).await?,
            false => transaction.commit(bytes).await?,
        }
        Ok(revision)
    }
}

impl Entries for Shared {
    /// One statement, hence one moment.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Moment), Error> {
        let rows = sqlx::query(
            "SELECT meta.revision, entries.key, entries.value, entries.revision
             FROM meta LEFT JOIN entries ON value IS NOT NULL AND key >= ?1 AND (?2 IS NULL OR key < ?2)
             ORDER BY key",
        )
        .bind(prefix)
        .bind(prefix_end(prefix))
        .fetch_all(self.database.readers())
        .await
        .map_err(self.database.error("read"))?;
        let revision = rows.first().map(|row| revision(row, 0)).unwrap_or_default();
        let entries = rows.iter().filter(|row| has_key(row, 1)).map(|row| entry(row, 1)).collect();
        Ok((entries, Moment { revision, history: 0 }))
    }

    /// What has changed under the prefix after a revision; `None` when that can no longer be told.
    async fn changes(&self, prefix: &str, after: Moment) -> Result<Option<(Vec<Update>, Moment)>, Error> {
        // The unary plus keeps SQLite from searching by key: few entries are newer, many have the prefix.
        let rows = sqlx::query(
            "SELECT meta.revision, meta.pruned, entries.key, entries.value, entries.revision
             FROM meta LEFT JOIN entries
               ON entries.revision > ?3 AND +entries.key >= ?1 AND (?2 IS NULL OR +entries.key < ?2)
             ORDER BY entries.revision, entries.key",
        )
        .bind(prefix)
        .bind(prefix_end(prefix))
        .bind(after.revision.0.cast_signed())
        .fetch_all(self.database.readers())
        .await
        .map_err(self.database.error("read"))?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let (now, pruned) = (revision(first, 0), revision(first, 1));
        // A revision that went back: somebody put an older copy of the file in place.
        if after.revision < pruned || now < after.revision {
            return Ok(None);
        }
        let update = |row: &SqliteRow| match row.get::<Option<Vec<u8>>, _>(3) {
            Some(_) => Update::Put(entry(row, 2)),
            None => Update::Deleted(row.get(2)),
        };
        Ok(Some((
            rows.iter().filter(|row| has_key(row, 2)).map(update).collect(),
            Moment { revision: now, history: 0 },
        )))
    }
}

/// The first guard that does not hold.
async fn first_broken(connection: &mut SqliteConnection, guards: &[Guard]) -> Result<Option<Guard>, sqlx::Error> {
    for guard in guards {
        let (key, expected) = match guard {
            Guard::At(key, revision) => (key, Some(*revision)),
            Guard::Absent(key) => (key, None),
        };
        let row = sqlx::query("SELECT revision FROM entries WHERE key = ?1 AND value IS NOT NULL")
            .bind(key)
            .fetch_optional(&mut *connection)
            .await?;
        if row.map(|row| revision(&row, 0)) != expected {
            return Ok(Some(guard.clone()));
        }
    }
    Ok(None)
}

/// Carries out the writes; returns the new revision and whether anything has changed.
async fn write(connection: &mut SqliteConnection, writes: &[Write]) -> Result<(Revision, bool), sqlx::Error> {
    let row =
        sqlx::query("UPDATE meta SET revision = revision + 1 RETURNING revision").fetch_one(&mut *connection).await?;
    let revision = revision(&row, 0);
    let mut changed = false;
    for write in writes {
        let query = match write {
            Write::Put(key, value) => sqlx::query(
                "INSERT INTO entries (key, value, revision) VALUES (?1, ?3, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
            )
            .bind(key)
            .bind(revision.0.cast_signed())
            .bind(&value[..]),
            Write::Delete(key) => {
                sqlx::query("UPDATE entries SET value = NULL, revision = ?2 WHERE key = ?1 AND value IS NOT NULL")
                    .bind(key)
                    .bind(revision.0.cast_signed())
            }
        };
        changed |= query.execute(&mut *connection).await?.rows_affected() > 0;
    }
    Ok((revision, changed))
}

/// Forgets the older half of the deleted keys when there are too many.
async fn prune(connection: &mut SqliteConnection, tombstones_max: u64) -> Result<(), sqlx::Error> {
    let row = sqlx::query(
        "SELECT revision FROM entries WHERE value IS NULL AND
           (SELECT count(*) FROM entries WHERE value IS NULL) > 2 * ?1
         ORDER BY revision DESC LIMIT 1 OFFSET ?1",
    )
    .bind(tombstones_max.cast_signed())
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(row) = row {
        let through: i64 = row.get(0);
        let delete = "DELETE FROM entries WHERE value IS NULL AND revision <= ?1";
        sqlx::query(delete).bind(through).execute(&mut *connection).await?;
        sqlx::query("UPDATE meta SET pruned = ?1").bind(through).execute(&mut *connection).await?;
    }
    Ok(())
}

fn size(write: &Write) -> u64 {
    match write {
        Write::Put(key, value) => (key.len() + value.len()) as u64,
        Write::Delete(key) => key.len() as u64,
    }
}

fn revision(row: &SqliteRow, column: usize) -> Revision {
    Revision(row.get::<i64, _>(column).cast_unsigned())
}

fn has_key(row: &SqliteRow, column: usize) -> bool {
    row.get::<Option<String>, _>(column).is_some()
}

/// The entry whose key, value and revision begin at a column.
fn entry(row: &SqliteRow, column: usize) -> Entry {
    Entry {
        key: row.get(column),
        value: Bytes::from(row.get::<Vec<u8>, _>(column + 1)),
        revision: revision(row, column + 2),
    }
}
