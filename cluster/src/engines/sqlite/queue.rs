//! The work queue in `logs.db`.
//!
//! A claim is a number and a time: the how-manieth of its task, and when it runs out by SQLite's clock.
//! Nothing has to happen for a claim to run out; whoever claims next finds it so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::database::Database;
use super::writer::tuples;
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::engines::tasks::{millis, number, number_of, state_of};
use crate::work_queue::{
    Claim, KINDS_DONE_MAX, NewTask, QueueCounts, Receipt, Task, TaskId, TaskState, WorkQueue, check_result,
    check_tasks, shortened,
};

/// Rows per statement.
const STATEMENT_ROWS_MAX: usize = 128;
/// Finished tasks that one call deletes at most.
const EXPIRE_MAX: u32 = 1_000;

/// SQLite's clock in milliseconds since the epoch; the same throughout a statement.
macro_rules! now {
    () => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
}
/// Whether the receipt (?1, ?2) is that of a claim that is held.
macro_rules! held {
    () => {
        concat!("id = ?1 AND claims = ?2 AND state = 1 AND due_ms > ", now!())
    };
}
/// The first task of kind ?1 that may be claimed.
macro_rules! claimable {
    () => {
        concat!(
            "SELECT min(id) FROM (
               SELECT * FROM (SELECT id FROM tasks WHERE kind = ?1 AND state = 0 AND due_ms <= ",
            now!(),
            " ORDER BY id LIMIT 1)
               UNION ALL
               SELECT * FROM (SELECT id FROM tasks WHERE kind = ?1 AND state = 1 AND due_ms <= ",
            now!(),
            " ORDER BY id LIMIT 1))"
        )
    };
}
/// A task's state as it counts: a claim that ran out is none.
macro_rules! state {
    () => {
        concat!("(CASE WHEN state = 1 AND due_ms <= ", now!(), " THEN 0 ELSE state END)")
    };
}
/// The columns that [`task`] reads.
macro_rules! columns {
    () => {
        concat!(
            "id, kind, key, ",
            state!(),
            ", attempts, attempts_max, cancelled, pushed_ms, changed_ms, worker, reason, progress, body"
        )
    };
}

/// The queue of one engine.
pub(super) struct SqliteQueue {
    database: Arc<Database>,
    options: EngineOptions,
    _tasks: Arc<Tasks>,
}

impl SqliteQueue {
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, tasks: Arc<Tasks>) -> Self {
        Self { database, options, _tasks: tasks }
    }

    /// Forgets finished tasks that are too old or too many, some at a time.
    async fn expire(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(concat!(
            "DELETE FROM tasks WHERE id IN (
               SELECT id FROM tasks WHERE state = 2 AND (changed_ms < ",
            now!(),
            " - ?1 OR (changed_ms, id) <=
                 (SELECT changed_ms, id FROM tasks WHERE state = 2 ORDER BY changed_ms DESC, id DESC LIMIT 1 OFFSET ?2))
               ORDER BY changed_ms, id LIMIT ?3)"
        ))
        .bind(millis(self.options.tasks_done_retention))
        .bind(self.options.tasks_done_max.cast_signed())
        .bind(EXPIRE_MAX)
        .execute(connection)
        .await?;
        Ok(())
    }
}

#[async_trait]
impl WorkQueue for SqliteQueue {
    async fn push(&self, kind: &str, tasks: Vec<NewTask>) -> Result<Vec<TaskId>, Error> {
        check_tasks(kind, &tasks)?;
        let failed = || self.database.error("push to");
        let mut transaction = self.database.begin().await?;
        let connection = &mut transaction.connection;
        self.expire(connection).await.map_err(failed())?;
        let row = sqlx::query("SELECT (SELECT count(*) FROM tasks), last_task FROM queue");
        let row = row.fetch_one(&mut *connection).await.map_err(failed())?;
        let (kept, last) = (row.get::<i64, _>(0).cast_unsigned(), row.get::<i64, _>(1));
        let known = known_keys(connection, kind, &tasks).await.map_err(failed())?;
        let (ids, new) = number(&tasks, known, last);
        if kept + new.len() as u64 > self.options.tasks_max {
            transaction.rollback().await;
            return Err(Error::QueueFull { kept_max: self.options.tasks_max });
        }
        let Some((last, _)) = new.last().copied() else {
            transaction.rollback().await;
            return Ok(ids);
        };
        insert(connection, kind, &new).await.map_err(failed())?;
        let forget = sqlx::query(
            "DELETE FROM task_kinds WHERE kind IN (SELECT kind FROM task_kinds
               WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.kind = task_kinds.kind)
               ORDER BY done DESC, kind LIMIT -1 OFFSET ?1)",
        );
        forget.bind(KINDS_DONE_MAX).execute(&mut *connection).await.map_err(failed())?;
        let note = sqlx::query("UPDATE queue SET last_task = ?1").bind(last);
        note.execute(connection).await.map_err(failed())?;
        transaction.commit_quietly(new.iter().map(|(_, task)| task.body.len() as u64).sum()).await?;
        Ok(ids)
    }

    async fn claim(&self, kind: &str, lease: Duration, worker: &str) -> Result<Option<Claim>, Error> {
        let failed = || self.database.error("claim from");
        // A worker that finds nothing to do, as most do most of the time, takes no turn at writing.
        let look = sqlx::query(claimable!()).bind(kind).fetch_one(self.database.readers()).await;
        if look.map_err(failed())?.get::<Option<i64>, _>(0).is_none() {
            return Ok(None);
        }
        let mut transaction = self.database.begin().await?;
        let given_up = sqlx::query(concat!(
            "UPDATE tasks SET state = 3, changed_ms = ",
            now!(),
            ", reason = CASE WHEN cancelled THEN 'cancelled' ELSE 'the claim of ' || worker || ' ran out' END
             WHERE kind = ?1 AND state = 1 AND due_ms <= ",
            now!(),
            " AND (cancelled OR attempts >= attempts_max)"
        ));
        let given_up = given_up.bind(kind).execute(&mut transaction.connection).await.map_err(failed())?;
        let claimed = sqlx::query(concat!(
            "UPDATE tasks SET state = 1, claims = claims + 1, attempts = attempts + 1, worker = ?3,
               reason = CASE state WHEN 1 THEN 'the claim of ' || worker || ' ran out' ELSE reason END,
               due_ms = ",
            now!(),
            " + ?2, changed_ms = ",
            now!(),
            " WHERE id = (",
            claimable!(),
            ") RETURNING id, claims, attempts, progress, body"
        ));
        let claimed = claimed.bind(kind).bind(millis(lease)).bind(worker);
        let claimed = claimed.fetch_optional(&mut transaction.connection).await.map_err(failed())?;
        if claimed.is_none() && given_up.rows_affected() == 0 {
            transaction.rollback().await;
            return Ok(None);
        }
        transaction.commit_quietly(0).await?;
        Ok(claimed.map(|row| Claim {
            receipt: Receipt { task: TaskId(unsigned(&row, 0)), claim: unsigned(&row, 1) },
            attempt: row.get(2),
            progress: bytes(&row, 3),
            body: bytes(&row, 4),
        }))
    }

    async fn extend(&self, receipt: Receipt, lease: Duration, progress: Option<Bytes>) -> Result<bool, Error> {
        check_result(progress.as_deref().unwrap_or_default())?;
        let mut transaction = self.database.begin().await?;
        let extended = sqlx::query(concat!(
            "UPDATE tasks SET due_ms = ",
            now!(),
            " + ?3, progress = coalesce(?4, progress) WHERE ",
            held!(),
            " RETURNING cancelled"
        ));
        let extended = bind(extended, receipt).bind(millis(lease)).bind(progress.as_deref());
        let row = extended.fetch_optional(&mut transaction.connection).await;
        let Some(row) = row.map_err(self.database.error("extend a claim in"))? else {
            transaction.rollback().await;
            return Err(Error::ClaimLost(receipt));
        };
        transaction.commit_quietly(progress.map_or(0, |progress| progress.len() as u64)).await?;
        Ok(row.get(0))
    }

    async fn ack(&self, receipt: Receipt, result: Bytes) -> Result<(), Error> {
        check_result(&result)?;
        let failed = || self.database.error("finish a task in");
        let mut transaction = self.database.begin().await?;
        let connection = &mut transaction.connection;
        let ended = sqlx::query(concat!(
            "UPDATE tasks SET state = CASE WHEN cancelled THEN 3 ELSE 2 END, progress = ?3, changed_ms = ",
            now!(),
            ", reason = CASE WHEN cancelled THEN 'cancelled' ELSE '' END WHERE ",
            held!(),
            " RETURNING kind, cancelled"
        ));
        let row = bind(ended, receipt).bind(&result[..]).fetch_optional(&mut *connection).await;
        let Some(row) = row.map_err(failed())? else {
            transaction.rollback().await;
            return Err(Error::ClaimLost(receipt));
        };
        if !row.get::<bool, _>(1) {
            let count = "INSERT INTO task_kinds (kind, done) VALUES (?1, 1) ON CONFLICT DO UPDATE SET done = done + 1";
            let count = sqlx::query(count).bind(row.get::<String, _>(0));
            count.execute(&mut *connection).await.map_err(failed())?;
            self.expire(connection).await.map_err(failed())?;
        }
        transaction.commit_quietly(result.len() as u64).await
    }

    async fn nack(&self, receipt: Receipt, delay: Duration, reason: Option<&str>) -> Result<(), Error> {
        let mut transaction = self.database.begin().await?;
        let given_back = sqlx::query(concat!(
            "UPDATE tasks SET due_ms = ",
            now!(),
            " + ?3, changed_ms = ",
            now!(),
            ", state = CASE WHEN cancelled OR (?4 IS NOT NULL AND attempts >= attempts_max) THEN 3 ELSE 0 END,
               attempts = attempts - (?4 IS NULL),
               reason = CASE WHEN cancelled THEN 'cancelled' ELSE coalesce(?4, reason) END
             WHERE ",
            held!()
        ));
        let given_back = bind(given_back, receipt).bind(millis(delay)).bind(reason.map(shortened));
        let done = given_back.execute(&mut transaction.connection).await;
        if done.map_err(self.database.error("give back a task to"))?.rows_affected() == 0 {
            transaction.rollback().await;
            return Err(Error::ClaimLost(receipt));
        }
        transaction.commit_quietly(0).await
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, Error> {
        let query = sqlx::query(concat!("SELECT ", columns!(), " FROM tasks WHERE id = ?1")).bind(id.0.cast_signed());
        let row = query.fetch_optional(self.database.readers()).await.map_err(self.database.error("read"))?;
        row.as_ref().map(task).transpose()
    }

    async fn tasks(
        &self,
        kind: &str,
        state: Option<TaskState>,
        after: TaskId,
        limit: usize,
    ) -> Result<Vec<Task>, Error> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM tasks WHERE kind = ?1 AND id > ?2 AND (?3 IS NULL OR ?3 = ",
            state!(),
            ") ORDER BY id LIMIT ?4"
        ))
        .bind(kind)
        .bind(after.0.cast_signed())
        .bind(state.map(number_of))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.database.readers())
        .await
        .map_err(self.database.error("read"))?;
        rows.iter().map(task).collect()
    }

    async fn cancel(&self, id: TaskId) -> Result<bool, Error> {
        let mut transaction = self.database.begin().await?;
        let cancelled = sqlx::query(concat!(
            "UPDATE tasks SET cancelled = 1, state = CASE ",
            state!(),
            " WHEN 0 THEN 3 ELSE state END, reason = CASE ",
            state!(),
            " WHEN 0 THEN 'cancelled' ELSE reason END, changed_ms = CASE ",
            state!(),
            " WHEN 0 THEN ",
            now!(),
            " ELSE changed_ms END WHERE id = ?1 AND state IN (0, 1)"
        ));
        let done = cancelled.bind(id.0.cast_signed()).execute(&mut transaction.connection).await;
        let found = done.map_err(self.database.error("cancel a task in"))?.rows_affected() > 0;
        transaction.commit_quietly(0).await?;
        Ok(found)
    }

    async fn replay(&self, ids: &[TaskId]) -> Result<u64, Error> {
        let replay = concat!(
            "UPDATE tasks SET state = 0, attempts = 0, cancelled = 0, reason = '', due_ms = ",
            now!(),
            ", changed_ms = ",
            now!(),
            " WHERE state = 3 AND id IN "
        );
        self.of_dead(replay, ids).await
    }

    async fn drop_dead(&self, ids: &[TaskId]) -> Result<u64, Error> {
        self.of_dead("DELETE FROM tasks WHERE state = 3 AND id IN ", ids).await
    }

    async fn counts(&self, kind: &str) -> Result<QueueCounts, Error> {
        let row = sqlx::query(concat!(
            "SELECT (SELECT count(*) FROM tasks WHERE kind = ?1 AND state = 0),
               (SELECT count(*) FROM tasks WHERE kind = ?1 AND state = 1 AND due_ms <= ",
            now!(),
            "), (SELECT count(*) FROM tasks WHERE kind = ?1 AND state = 1),
               coalesce((SELECT done FROM task_kinds WHERE kind = ?1), 0),
               (SELECT count(*) FROM tasks WHERE kind = ?1 AND state = 3)"
        ))
        .bind(kind)
        .fetch_one(self.database.readers())
        .await
        .map_err(self.database.error("read"))?;
        let (ran_out, claimed) = (unsigned(&row, 1), unsigned(&row, 2));
        Ok(QueueCounts {
            ready: unsigned(&row, 0) + ran_out,
            claimed: claimed - ran_out,
            done: unsigned(&row, 3),
            dead: unsigned(&row, 4),
        })
    }

    async fn kinds(&self, limit: usize) -> Result<Vec<String>, Error> {
        let rows = sqlx::query("SELECT DISTINCT kind FROM tasks WHERE state <> 2 ORDER BY kind LIMIT ?1")
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(self.database.readers())
            .await
            .map_err(self.database.error("read"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

impl SqliteQueue {
    /// Carries out a statement that ends in a list of ids; returns how many tasks it was about.
    async fn of_dead(&self, statement: &'static str, ids: &[TaskId]) -> Result<u64, Error> {
        let mut transaction = self.database.begin().await?;
        let mut found = 0;
        for ids in ids.chunks(STATEMENT_ROWS_MAX) {
            let mut query = sqlx::query(AssertSqlSafe(format!("{statement}({})", tuples(ids.len(), 1))));
            for id in ids {
                query = query.bind(id.0.cast_signed());
            }
            let done = query.execute(&mut transaction.connection).await;
            found += done.map_err(self.database.error("change tasks in"))?.rows_affected();
        }
        transaction.commit_quietly(0).await?;
        Ok(found)
    }
}

/// Which of the receipts are those of claims that are held now.
pub(super) async fn held(
    connection: &mut SqliteConnection,
    receipts: impl Iterator<Item = Receipt>,
) -> Result<std::collections::HashSet<Receipt>, sqlx::Error> {
    let mut held = std::collections::HashSet::new();
    let mut seen = std::collections::HashSet::new();
    for receipt in receipts.filter(|receipt| seen.insert(*receipt)) {
        let query = bind(sqlx::query(concat!("SELECT 1 FROM tasks WHERE ", held!())), receipt);
        if query.fetch_optional(&mut *connection).await?.is_some() {
            held.insert(receipt);
        }
    }
    Ok(held)
}

/// The ids of kept tasks with the keys that are pushed.
async fn known_keys(
    connection: &mut SqliteConnection,
    kind: &str,
    tasks: &[NewTask],
) -> Result<HashMap<String, i64>, sqlx::Error> {
    let keys: Vec<&String> = tasks.iter().filter_map(|task| task.key.as_ref()).collect();
    let mut known = HashMap::new();
    for keys in keys.chunks(STATEMENT_ROWS_MAX) {
        let statement =
            format!("SELECT key, id FROM tasks WHERE kind = ? AND key IN ({})", vec!["?"; keys.len()].join(","));
        let mut query = sqlx::query(AssertSqlSafe(statement)).bind(kind);
        for key in keys {
            query = query.bind(key.as_str());
        }
        for row in query.fetch_all(&mut *connection).await? {
            known.insert(row.get(0), row.get(1));
        }
    }
    Ok(known)
}

async fn insert(connection: &mut SqliteConnection, kind: &str, tasks: &[(i64, &NewTask)]) -> Result<(), sqlx::Error> {
    for chunk in tasks.chunks(STATEMENT_ROWS_MAX) {
        let statement = format!(
            "WITH new (id, kind, key, attempts_max, body) AS (VALUES {})
             INSERT INTO tasks (id, kind, key, state, due_ms, claims, attempts, attempts_max, cancelled, pushed_ms,
               changed_ms, worker, reason, progress, body)
             SELECT id, kind, key, 0, {now}, 0, 0, attempts_max, 0, {now}, {now}, '', '', x'', body FROM new",
            tuples(chunk.len(), 5),
            now = now!(),
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for (id, task) in chunk {
            query =
                query.bind(id).bind(kind).bind(task.key.as_deref()).bind(task.attempts_max.max(1)).bind(&task.body[..]);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind(query: Query<'_>, receipt: Receipt) -> Query<'_> {
    query.bind(receipt.task.0.cast_signed()).bind(receipt.claim.cast_signed())
}

fn task(row: &SqliteRow) -> Result<Task, Error> {
    let id = TaskId(unsigned(row, 0));
    Ok(Task {
        id,
        kind: row.get(1),
        key: row.get(2),
        state: state_of(id, row.get(3))?,
        attempts: row.get(4),
        attempts_max: row.get(5),
        cancelled: row.get(6),
        pushed_ms: unsigned(row, 7),
        changed_ms: unsigned(row, 8),
        worker: row.get(9),
        reason: row.get(10),
        progress: bytes(row, 11),
        body: bytes(row, 12),
    })
}

fn unsigned(row: &SqliteRow, column: usize) -> u64 {
    row.get::<i64, _>(column).cast_unsigned()
}

fn bytes(row: &SqliteRow, column: usize) -> Bytes {
    row.get::<Vec<u8>, _>(column).into()
}
