//! The cluster store: every commit takes the next revision from one row, which it locks first, so
//! revisions are seen in order. An entry keeps the revision that wrote it last, deleted keys included,
//! so a watch asks for everything after the revision it has seen.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::database::{Database, Transaction};
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::engines::watching::{Entries, Moment, check_sizes, follow, prefix_end};
use crate::store::{Change, Entry, Guard, Revision, Store, Update, Write};

/// The store of one engine.
pub(super) struct PostgresStore {
    shared: Arc<Shared>,
}

struct Shared {
    database: Arc<Database>,
    options: EngineOptions,
    channel: String,
    _tasks: Arc<Tasks>,
}

impl PostgresStore {
    /// `channel` is where commits are told.
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, channel: String, tasks: Arc<Tasks>) -> Self {
        Self { shared: Arc::new(Shared { database, options, channel, _tasks: tasks }) }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let statement = "SELECT key, value, revision FROM entries WHERE key = $1 AND value IS NOT NULL";
        let read = || sqlx::query(statement).bind(key);
        let (rows, _) = self.shared.database.fetch_all("read", read).await?;
        Ok(rows.first().map(|row| entry(row, 0)))
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
        let (entries, Moment { revision, .. }) = self.shared.list(prefix).await?;
        Ok((entries, revision))
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        follow(self.shared.clone(), self.shared.database.changes.subscribe(), prefix)
    }

    async fn commit(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        check_sizes(writes, self.shared.options.value_bytes_max)?;
        let revision = self.shared.commit(guards, writes, true).await?;
        self.shared.database.wake();
        Ok(revision)
    }

    async fn commit_unhurried(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        check_sizes(writes, self.shared.options.value_bytes_max)?;
        // Found by whoever asks, once a second.
        self.shared.commit(guards, writes, false).await
    }
}

impl Entries for Shared {
    /// One statement, hence one moment.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Moment), Error> {
        let statement = r#"SELECT store.revision, entries.key, entries.value, entries.revision
             FROM store LEFT JOIN entries
               ON value IS NOT NULL AND key >= $1 COLLATE "C" AND ($2::text IS NULL OR key < $2 COLLATE "C")
             ORDER BY key"#;
        let end = prefix_end(prefix);
        let read = || sqlx::query(statement).bind(prefix).bind(end.as_deref());
        let (rows, history) = self.database.fetch_all("read", read).await?;
        let revision = rows.first().map(|row| revision(row, 0)).unwrap_or_default();
        let entries = rows.iter().filter(|row| has_key(row, 1)).map(|row| entry(row, 1)).collect();
        Ok((entries, Moment { revision, history }))
    }

    async fn changes(&self, prefix: &str, after: Moment) -> Result<Option<(Vec<Update>, Moment)>, Error> {
        let statement = r#"SELECT store.revision, store.pruned, entries.key, entries.value, entries.revision
             FROM store LEFT JOIN entries ON entries.revision > $3
               AND key >= $1 COLLATE "C" AND ($2::text IS NULL OR key < $2 COLLATE "C")
             ORDER BY entries.revision, entries.key"#;
        let end = prefix_end(prefix);
        let read = || sqlx::query(statement).bind(prefix).bind(end.as_deref()).bind(signed(after.revision.0));
        let (rows, history) = self.database.fetch_all("read", read).await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let (now, pruned) = (revision(first, 0), revision(first, 1));
        // After a fail-over revisions may have gone back, and even have come again for other commits.
        if after.revision < pruned || now < after.revision || history != after.history {
            return Ok(None);
        }
        let update = |row: &PgRow| match row.get::<Option<&[u8]>, _>(3) {
            Some(_) => Update::Put(entry(row, 2)),
            None => Update::Deleted(row.get(2)),
        };
        let updates = rows.iter().filter(|row| has_key(row, 2)).map(update).collect();
        Ok(Some((updates, Moment { revision: now, history })))
    }
}

impl Shared {
    async fn commit(&self, guards: &[Guard], writes: &[Write], tell: bool) -> Result<Revision, Error> {
        let mut transaction = self.database.begin_briefly().await?;
        // Commits come one after the other from here on.
        let raise = sqlx::query("UPDATE store SET revision = revision + 1 RETURNING revision");
        let row = transaction.fetch_optional("write to", raise).await?;
        let next = row.map(|row| revision(&row, 0)).ok_or_else(|| Error::Corrupt("the store has no row".to_owned()))?;
        if let Some(broken) = first_broken(&mut transaction, guards).await? {
            transaction.rollback().await;
            return Err(Error::Conflict(broken));
        }
        if !write(&mut transaction, writes, next).await? {
            // Nothing was there to delete: no revision is spent.
            transaction.rollback().await;
            return Ok(Revision(next.0 - 1));
        }
        if writes.iter().any(|write| matches!(write, Write::Delete(_))) {
            prune(&mut transaction, self.options.tombstones_max).await?;
        }
        if tell {
            let notify = sqlx::query("SELECT pg_notify($1, '')").bind(&self.channel);
            transaction.fetch_all("write to", notify).await?;
        }
        transaction.commit().await?;
        Ok(next)
    }
}

/// The first guard that does not hold. Nobody else commits meanwhile, so nothing needs to be locked.
async fn first_broken(transaction: &mut Transaction<'_>, guards: &[Guard]) -> Result<Option<Guard>, Error> {
    if guards.is_empty() {
        return Ok(None);
    }
    let parts = guards.iter().map(|guard| match guard {
        Guard::At(key, revision) => (key.as_str(), Some(signed(revision.0))),
        Guard::Absent(key) => (key.as_str(), None),
    });
    let (keys, revisions): (Vec<&str>, Vec<Option<i64>>) = parts.unzip();
    let check = sqlx::query(
        "SELECT guards.n FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS guards (key, revision, n)
         LEFT JOIN entries ON entries.key = guards.key AND entries.value IS NOT NULL
         WHERE entries.revision IS DISTINCT FROM guards.revision ORDER BY guards.n LIMIT 1",
    );
    let row = transaction.fetch_optional("read", check.bind(keys).bind(revisions)).await?;
    Ok(row.and_then(|row| guards.get(usize::try_from(row.get::<i64, _>(0)).ok()? - 1).cloned()))
}

/// Carries out the writes; returns whether anything has changed.
async fn write(transaction: &mut Transaction<'_>, writes: &[Write], revision: Revision) -> Result<bool, Error> {
    let mut changed = false;
    for write in writes {
        let statement = match write {
            Write::Put(key, value) => sqlx::query(
                "INSERT INTO entries (key, value, revision) VALUES ($1, $3, $2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
            )
            .bind(key)
            .bind(signed(revision.0))
            .bind(&value[..]),
            Write::Delete(key) => {
                sqlx::query("UPDATE entries SET value = NULL, revision = $2 WHERE key = $1 AND value IS NOT NULL")
                    .bind(key)
                    .bind(signed(revision.0))
            }
        };
        changed |= transaction.execute("write to", statement).await?.rows_affected() > 0;
    }
    Ok(changed)
}

/// Forgets the older half of the deleted keys when there are too many.
async fn prune(transaction: &mut Transaction<'_>, tombstones_max: u64) -> Result<(), Error> {
    let find = sqlx::query(
        "SELECT revision FROM entries WHERE value IS NULL AND
           (SELECT count(*) FROM entries WHERE value IS NULL) > 2 * $1
         ORDER BY revision DESC LIMIT 1 OFFSET $1",
    );
    if let Some(row) = transaction.fetch_optional("prune", find.bind(signed(tombstones_max))).await? {
        let through: i64 = row.get(0);
        let delete = sqlx::query("DELETE FROM entries WHERE value IS NULL AND revision <= $1").bind(through);
        transaction.execute("prune", delete).await?;
        transaction.execute("prune", sqlx::query("UPDATE store SET pruned = $1").bind(through)).await?;
    }
    Ok(())
}

/// As a column holds it.
pub(super) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

fn revision(row: &PgRow, column: usize) -> Revision {
    Revision(row.get::<i64, _>(column).cast_unsigned())
}

fn has_key(row: &PgRow, column: usize) -> bool {
    row.get::<Option<&str>, _>(column).is_some()
}

/// The entry whose key, value and revision begin at a column.
fn entry(row: &PgRow, column: usize) -> Entry {
    Entry {
        key: row.get(column),
        value: Bytes::copy_from_slice(row.get(column + 1)),
        revision: revision(row, column + 2),
    }
}
