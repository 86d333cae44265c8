//! The work queue.
//!
//! A claim is a number and a time: the how-manieth of its task, and when it runs out by the server's
//! clock. Nothing has to happen for a claim to run out; whoever claims next finds it so, unless an append
//! that was made for it is being committed: that holds the task's row.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::database::{Database, Statement, Transaction};
use super::store::signed;
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::engines::tasks::{millis, number, number_of, state_of};
use crate::work_queue::{
    Claim, KINDS_DONE_MAX, NewTask, QueueCounts, Receipt, Task, TaskId, TaskState, WorkQueue, check_result,
    check_tasks, shortened,
};

/// Finished tasks that one call deletes at most.
const EXPIRE_MAX: i64 = 1_000;

/// The server's clock in milliseconds since the epoch, once for a statement.
macro_rules! now {
    () => {
        "(SELECT round(extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
    };
}
/// Whether the receipt ($1, $2) is that of a claim that is held. Judged again after a wait for the row.
macro_rules! held {
    () => {
        "id = $1 AND claims = $2 AND state = 1 AND due_ms > round(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}
/// What may be claimed of kind $1. A claim that ran out for the last time may not.
macro_rules! claimable {
    () => {
        concat!(
            "kind = $1 AND state IN (0, 1) AND due_ms <= ",
            now!(),
            " AND (state = 0 OR NOT cancelled AND attempts < attempts_max)"
        )
    };
}
/// What was claimed for the last time, and that claim ran out.
macro_rules! given_up {
    () => {
        concat!(
            "kind = $1 AND state IN (0, 1) AND state = 1 AND due_ms <= ",
            now!(),
            " AND (cancelled OR attempts >= attempts_max)"
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
pub(super) struct PostgresQueue {
    database: Arc<Database>,
    options: EngineOptions,
    _tasks: Arc<Tasks>,
}

impl PostgresQueue {
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, tasks: Arc<Tasks>) -> Self {
        Self { database, options, _tasks: tasks }
    }

    /// Forgets finished tasks that are too old or too many, some at a time.
    async fn expire(&self, transaction: &mut Transaction<'_>) -> Result<(), Error> {
        let expire = sqlx::query(concat!(
            "DELETE FROM tasks WHERE id IN (
               SELECT id FROM tasks WHERE state = 2 AND (changed_ms < ",
            now!(),
            " - $1 OR (changed_ms, id) <=
                 (SELECT changed_ms, id FROM tasks WHERE state = 2 ORDER BY changed_ms DESC, id DESC LIMIT 1 OFFSET $2))
               ORDER BY changed_ms, id LIMIT $3 FOR UPDATE SKIP LOCKED)"
        ));
        let expire = expire
            .bind(millis(self.options.tasks_done_retention))
            .bind(signed(self.options.tasks_done_max))
            .bind(EXPIRE_MAX);
        transaction.execute("tidy up the queue of", expire).await.map(|_| ())
    }

    /// Carries out a statement about dead tasks among those of $1; returns how many there were.
    async fn of_dead(&self, statement: &'static str, ids: &[TaskId]) -> Result<u64, Error> {
        let ids: Vec<i64> = ids.iter().map(|id| signed(id.0)).collect();
        let mut transaction = self.database.begin().await?;
        let done = transaction.execute("change tasks in", sqlx::query(statement).bind(ids)).await?;
        transaction.commit().await?;
        Ok(done.rows_affected())
    }

    /// Carries out a statement about the task of a claim that is held, and returns its row.
    async fn of_claim(
        &self,
        transaction: &mut Transaction<'_>,
        receipt: Receipt,
        statement: Statement<'_>,
    ) -> Result<PgRow, Error> {
        let row = transaction.fetch_optional("change a claim in", statement).await?;
        row.ok_or(Error::ClaimLost(receipt))
    }
}

#[async_trait]
impl WorkQueue for PostgresQueue {
    async fn push(&self, kind: &str, tasks: Vec<NewTask>) -> Result<Vec<TaskId>, Error> {
        check_tasks(kind, &tasks)?;
        let mut transaction = self.database.begin().await?;
        let lock = sqlx::query("SELECT last_task FROM queue FOR UPDATE");
        let row = transaction.fetch_optional("push to", lock).await?;
        let last = row.ok_or_else(|| Error::Corrupt("the queue has no row".to_owned()))?.get::<i64, _>(0);
        self.expire(&mut transaction).await?;
        let row = transaction.fetch_optional("push to", sqlx::query("SELECT count(*) FROM tasks")).await?;
        let kept = row.map_or(0, |row| unsigned(&row, 0));
        let known = known_keys(&mut transaction, kind, &tasks).await?;
        let (ids, new) = number(&tasks, known, last);
        if kept + new.len() as u64 > self.options.tasks_max {
            transaction.rollback().await;
            return Err(Error::QueueFull { kept_max: self.options.tasks_max });
        }
        if let Some((last, _)) = new.last().copied() {
            insert(&mut transaction, kind, &new).await?;
            let forget = sqlx::query(
                "DELETE FROM task_kinds WHERE kind IN (SELECT kind FROM task_kinds
                   WHERE NOT EXISTS (SELECT FROM tasks WHERE tasks.kind = task_kinds.kind)
                   ORDER BY done DESC, kind OFFSET $1)",
            );
            transaction.execute("tidy up the queue of", forget.bind(i64::from(KINDS_DONE_MAX))).await?;
            let note = sqlx::query("UPDATE queue SET last_task = $1").bind(last);
            transaction.execute("push to", note).await?;
        }
        transaction.commit().await?;
        Ok(ids)
    }

    async fn claim(&self, kind: &str, lease: Duration, worker: &str) -> Result<Option<Claim>, Error> {
        // A worker that finds nothing to do, as most do most of the time, writes nothing.
        let look = concat!(
            "SELECT EXISTS (SELECT FROM tasks WHERE ",
            claimable!(),
            ") OR EXISTS (SELECT FROM tasks WHERE ",
            given_up!(),
            ")"
        );
        let (rows, _) = self.database.fetch_all("read", || sqlx::query(look).bind(kind)).await?;
        if !rows.first().is_some_and(|row| row.get(0)) {
            return Ok(None);
        }
        let mut transaction = self.database.begin().await?;
        let given_up = sqlx::query(concat!(
            "UPDATE tasks SET state = 3, changed_ms = ",
            now!(),
            ", reason = CASE WHEN cancelled THEN 'cancelled' ELSE 'the claim of ' || worker || ' ran out' END
             WHERE id IN (SELECT id FROM tasks WHERE ",
            given_up!(),
            " FOR UPDATE SKIP LOCKED)"
        ));
        let given_up = transaction.execute("claim from", given_up.bind(kind)).await?.rows_affected();
        let claimed = sqlx::query(concat!(
            "UPDATE tasks SET state = 1, claims = claims + 1, attempts = attempts + 1, worker = $3,
               reason = CASE state WHEN 1 THEN 'the claim of ' || worker || ' ran out' ELSE reason END,
               due_ms = ",
            now!(),
            " + $2, changed_ms = ",
            now!(),
            " WHERE id = (SELECT id FROM tasks WHERE ",
            claimable!(),
            " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, claims, attempts, progress, body"
        ));
        let claimed = claimed.bind(kind).bind(millis(lease)).bind(text(worker));
        let claimed = transaction.fetch_optional("claim from", claimed).await?;
        if claimed.is_none() && given_up == 0 {
            transaction.rollback().await;
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(claimed.map(|row| Claim {
            receipt: Receipt { task: TaskId(unsigned(&row, 0)), claim: unsigned(&row, 1) },
            attempt: small(&row, 2),
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
            " + $3, progress = coalesce($4, progress) WHERE ",
            held!(),
            " RETURNING cancelled"
        ));
        let extended = bind(extended, receipt).bind(millis(lease)).bind(progress.as_deref());
        let row = self.of_claim(&mut transaction, receipt, extended).await?;
        transaction.commit().await?;
        Ok(row.get(0))
    }

    async fn ack(&self, receipt: Receipt, result: Bytes) -> Result<(), Error> {
        check_result(&result)?;
        let mut transaction = self.database.begin().await?;
        let ended = sqlx::query(concat!(
            "UPDATE tasks SET state = CASE WHEN cancelled THEN 3 ELSE 2 END, progress = $3, changed_ms = ",
            now!(),
            ", reason = CASE WHEN cancelled THEN 'cancelled' ELSE '' END WHERE ",
            held!(),
            " RETURNING kind, cancelled"
        ));
        let row = self.of_claim(&mut transaction, receipt, bind(ended, receipt).bind(&result[..])).await?;
        if !row.get::<bool, _>(1) {
            let count = sqlx::query(
                "INSERT INTO task_kinds (kind, done) VALUES ($1, 1)
                 ON CONFLICT (kind) DO UPDATE SET done = task_kinds.done + 1",
            );
            transaction.execute("finish a task in", count.bind(row.get::<String, _>(0))).await?;
            self.expire(&mut transaction).await?;
        }
        transaction.commit().await
    }

    async fn nack(&self, receipt: Receipt, delay: Duration, reason: Option<&str>) -> Result<(), Error> {
        let mut transaction = self.database.begin().await?;
        let given_back = sqlx::query(concat!(
            "UPDATE tasks SET due_ms = ",
            now!(),
            " + $3, changed_ms = ",
            now!(),
            ", state = CASE WHEN cancelled OR ($4::text IS NOT NULL AND attempts >= attempts_max) THEN 3 ELSE 0 END,
               attempts = attempts - ($4::text IS NULL)::int,
               reason = CASE WHEN cancelled THEN 'cancelled' ELSE coalesce($4::text, reason) END
             WHERE ",
            held!(),
            " RETURNING id"
        ));
        let reason = reason.map(|reason| text(shortened(reason)));
        let given_back = bind(given_back, receipt).bind(millis(delay)).bind(reason);
        self.of_claim(&mut transaction, receipt, given_back).await?;
        transaction.commit().await
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, Error> {
        let statement = concat!("SELECT ", columns!(), " FROM tasks WHERE id = $1");
        let (rows, _) = self.database.fetch_all("read", || sqlx::query(statement).bind(signed(id.0))).await?;
        rows.first().map(task).transpose()
    }

    async fn tasks(
        &self,
        kind: &str,
        state: Option<TaskState>,
        after: TaskId,
        limit: usize,
    ) -> Result<Vec<Task>, Error> {
        let statement = concat!(
            "SELECT ",
            columns!(),
            " FROM tasks WHERE kind = $1 AND id > $2 AND ($3::int IS NULL OR $3 = ",
            state!(),
            ") ORDER BY id LIMIT $4"
        );
        let read = || {
            sqlx::query(statement)
                .bind(kind)
                .bind(signed(after.0))
                .bind(state.map(number_of))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        };
        self.database.fetch_all("read", read).await?.0.iter().map(task).collect()
    }

    async fn cancel(&self, id: TaskId) -> Result<bool, Error> {
        let mut transaction = self.database.begin().await?;
        let cancelled = sqlx::query(concat!(
            "UPDATE tasks SET cancelled = true, state = CASE ",
            state!(),
            " WHEN 0 THEN 3 ELSE state END, reason = CASE ",
            state!(),
            " WHEN 0 THEN 'cancelled' ELSE reason END, changed_ms = CASE ",
            state!(),
            " WHEN 0 THEN ",
            now!(),
            " ELSE changed_ms END WHERE id = $1 AND state IN (0, 1)"
        ));
        let done = transaction.execute("cancel a task in", cancelled.bind(signed(id.0))).await?;
        transaction.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    async fn replay(&self, ids: &[TaskId]) -> Result<u64, Error> {
        let replay = concat!(
            "UPDATE tasks SET state = 0, attempts = 0, cancelled = false, reason = '', due_ms = ",
            now!(),
            ", changed_ms = ",
            now!(),
            " WHERE state = 3 AND id = ANY ($1)"
        );
        self.of_dead(replay, ids).await
    }

    async fn drop_dead(&self, ids: &[TaskId]) -> Result<u64, Error> {
        self.of_dead("DELETE FROM tasks WHERE state = 3 AND id = ANY ($1)", ids).await
    }

    async fn counts(&self, kind: &str) -> Result<QueueCounts, Error> {
        let statement = concat!(
            "SELECT count(*) FILTER (WHERE its = 0), count(*) FILTER (WHERE its = 1),
               coalesce((SELECT done FROM task_kinds WHERE kind = $1), 0), count(*) FILTER (WHERE its = 3)
             FROM (SELECT ",
            state!(),
            " AS its FROM tasks WHERE kind = $1) AS states"
        );
        let (rows, _) = self.database.fetch_all("read", || sqlx::query(statement).bind(kind)).await?;
        let count = |column| rows.first().map_or(0, |row| unsigned(row, column));
        Ok(QueueCounts { ready: count(0), claimed: count(1), done: count(2), dead: count(3) })
    }

    async fn kinds(&self, limit: usize) -> Result<Vec<String>, Error> {
        let statement = "SELECT DISTINCT kind FROM tasks WHERE state <> 2 ORDER BY kind LIMIT $1";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (rows, _) = self.database.fetch_all("read", || sqlx::query(statement).bind(limit)).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// Which of the receipts are those of claims that are held, and will be until the transaction ends.
pub(super) async fn held(
    transaction: &mut Transaction<'_>,
    receipts: impl Iterator<Item = Receipt>,
) -> Result<HashSet<Receipt>, Error> {
    // In the order of tasks, so that nobody waits in a circle.
    let mut receipts: Vec<Receipt> = receipts.collect();
    receipts.sort_unstable_by_key(|receipt| (receipt.task, receipt.claim));
    receipts.dedup();
    let mut held = HashSet::new();
    for receipt in receipts {
        let query = bind(sqlx::query(concat!("SELECT id FROM tasks WHERE ", held!(), " FOR SHARE")), receipt);
        if transaction.fetch_optional("check a claim in", query).await?.is_some() {
            held.insert(receipt);
        }
    }
    Ok(held)
}

/// The ids of kept tasks with the keys that are pushed.
async fn known_keys(
    transaction: &mut Transaction<'_>,
    kind: &str,
    tasks: &[NewTask],
) -> Result<HashMap<String, i64>, Error> {
    let keys: Vec<&[u8]> = tasks.iter().filter_map(|task| Some(task.key.as_ref()?.as_bytes())).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let query = sqlx::query("SELECT key, id FROM tasks WHERE kind = $1 AND key = ANY ($2)").bind(kind).bind(keys);
    let rows = transaction.fetch_all("push to", query).await?;
    Ok(rows.iter().map(|row| (String::from_utf8_lossy(row.get(0)).into_owned(), row.get(1))).collect())
}

async fn insert(transaction: &mut Transaction<'_>, kind: &str, tasks: &[(i64, &NewTask)]) -> Result<(), Error> {
    let insert = sqlx::query(concat!(
        "INSERT INTO tasks (id, kind, key, state, due_ms, claims, attempts, attempts_max, cancelled, pushed_ms,
           changed_ms, worker, reason, progress, body)
         SELECT new.id, $1, new.key, 0, ",
        now!(),
        ", 0, 0, new.attempts_max, false, ",
        now!(),
        ", ",
        now!(),
        ", '', '', '', new.body
         FROM unnest($2::bigint[], $3::bytea[], $4::bigint[], $5::bytea[]) AS new (id, key, attempts_max, body)"
    ));
    let insert = insert
        .bind(kind)
        .bind(tasks.iter().map(|(id, _)| *id).collect::<Vec<i64>>())
        .bind(tasks.iter().map(|(_, task)| task.key.as_ref().map(String::as_bytes)).collect::<Vec<Option<&[u8]>>>())
        .bind(tasks.iter().map(|(_, task)| i64::from(task.attempts_max.max(1))).collect::<Vec<i64>>())
        .bind(tasks.iter().map(|(_, task)| &task.body[..]).collect::<Vec<&[u8]>>());
    transaction.execute("push to", insert).await.map(|_| ())
}

fn bind(query: Statement<'_>, receipt: Receipt) -> Statement<'_> {
    query.bind(signed(receipt.task.0)).bind(signed(receipt.claim))
}

/// A text as PostgreSQL takes it: without zeros.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn task(row: &PgRow) -> Result<Task, Error> {
    let id = TaskId(unsigned(row, 0));
    let key: Option<&[u8]> = row.get(2);
    Ok(Task {
        id,
        kind: row.get(1),
        key: key.map(|key| String::from_utf8_lossy(key).into_owned()),
        state: state_of(id, row.get(3))?,
        attempts: small(row, 4),
        attempts_max: small(row, 5),
        cancelled: row.get(6),
        pushed_ms: unsigned(row, 7),
        changed_ms: unsigned(row, 8),
        worker: row.get(9),
        reason: row.get(10),
        progress: bytes(row, 11),
        body: bytes(row, 12),
    })
}

fn unsigned(row: &PgRow, column: usize) -> u64 {
    row.get::<i64, _>(column).cast_unsigned()
}

fn small(row: &PgRow, column: usize) -> u32 {
    u32::try_from(row.get::<i64, _>(column)).unwrap_or(u32::MAX)
}

fn bytes(row: &PgRow, column: usize) -> Bytes {
    Bytes::copy_from_slice(row.get(column))
}
