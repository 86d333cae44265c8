//! The dead letters.
//!
//! A letter is kept if it lies behind the place through which its shard's rejections are known; both are
//! written in one transaction, so replicas that reject the same operations leave one letter each time.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;
use trawl_proto::{Generation, Incarnation, IndexUid, Seq, ShardKey};

use super::database::{Database, Statement, Transaction};
use super::queue::text;
use super::store::signed;
use super::writer::shard_key;
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::dead_letters::{DeadLetter, DeadLetters, LetterCounts, LetterKey};

/// Letters that one step of making room takes out.
const AGE_OUT_STEP: i64 = 256;

/// The columns that [`letter`] reads.
macro_rules! columns {
    () => {
        "index_uid, shard, incarnation, seq, mapping_version, time_ms, document_id, error_type, reason, operation"
    };
}

/// The dead letters of one engine.
pub(super) struct PostgresLetters {
    database: Arc<Database>,
    options: EngineOptions,
    _tasks: Arc<Tasks>,
}

impl PostgresLetters {
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, tasks: Arc<Tasks>) -> Self {
        Self { database, options, _tasks: tasks }
    }

    /// Takes out the letters that came first, until the rest fits.
    async fn make_room(&self, transaction: &mut Transaction<'_>) -> Result<(), Error> {
        let limits = (signed(self.options.letters_max), signed(self.options.letters_bytes_max));
        loop {
            let counts = sqlx::query("SELECT kept, bytes FROM letter_counts");
            let Some(row) = transaction.fetch_optional("read", counts).await? else { return Ok(()) };
            let (kept, bytes): (i64, i64) = (row.get(0), row.get(1));
            if kept <= limits.0 && bytes <= limits.1 {
                return Ok(());
            }
            // So many of the oldest as bring both down to the limits, in order of coming.
            let gone = sqlx::query(
                "DELETE FROM letters WHERE number IN (
                   SELECT number FROM (
                     SELECT number, row_number() OVER oldest AS place, sum(bytes) OVER oldest - bytes AS before
                     FROM (SELECT number, bytes FROM letters ORDER BY number LIMIT $3) AS first
                     WINDOW oldest AS (ORDER BY number)) AS sums
                   WHERE place <= $1 OR before < $2)
                 RETURNING bytes",
            );
            let gone = gone.bind(kept - limits.0).bind(bytes - limits.1).bind(AGE_OUT_STEP);
            let gone = transaction.fetch_all("make room for dead letters in", gone).await?;
            if gone.is_empty() {
                return Ok(());
            }
            let count = "UPDATE letter_counts SET kept = kept - $1, bytes = bytes - $2, aged_out = aged_out + $1";
            let count = sqlx::query(count).bind(gone.len() as i64).bind(sum(&gone));
            transaction.execute("count dead letters in", count).await?;
        }
    }
}

#[async_trait]
impl DeadLetters for PostgresLetters {
    /// Locks are taken in the order log, place, letters, counts; and by who deletes letters, counts first.
    async fn record(&self, shard: &ShardKey, through: Generation, letters: Vec<DeadLetter>) -> Result<(), Error> {
        let doing = "keep dead letters in";
        let through = letters.iter().map(|letter| letter.key.at).fold(through, Generation::max);
        // Most of the time a replica has nothing new to say.
        let news = "SELECT NOT EXISTS (SELECT FROM letters_through
             WHERE index_uid = $1 AND shard = $2 AND (incarnation, seq) >= ($3, $4))";
        let key = LetterKey { shard: shard.clone(), at: through };
        let (rows, _) = self.database.fetch_all("read", || bind(sqlx::query(news), &key)).await?;
        if !rows.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        let mut transaction = self.database.begin().await?;
        let log = sqlx::query("SELECT log FROM logs WHERE index_uid = $1 AND shard = $2 FOR KEY SHARE");
        if transaction.fetch_optional(doing, of_shard(log, shard)).await?.is_none() {
            transaction.rollback().await;
            return Ok(());
        }
        // Incarnations begin with 1: this comes before every place.
        let lock = sqlx::query(
            "INSERT INTO letters_through (index_uid, shard, incarnation, seq) VALUES ($1, $2, 0, 0)
             ON CONFLICT (index_uid, shard) DO UPDATE SET seq = letters_through.seq RETURNING incarnation, seq",
        );
        let row = transaction.fetch_optional(doing, of_shard(lock, shard)).await?;
        let known = row.map(|row| place(&row, 0)).unwrap_or_default();
        if known >= through {
            transaction.rollback().await;
            return Ok(());
        }
        let (mut kept, mut bytes) = (0, 0);
        for letter in letters.iter().filter(|letter| letter.key.at > known) {
            kept += transaction.execute(doing, insert(shard, letter)).await?.rows_affected() as i64;
            bytes += letter.operation.len() as i64;
        }
        let note = "UPDATE letters_through SET incarnation = $3, seq = $4 WHERE index_uid = $1 AND shard = $2";
        transaction.execute(doing, bind(sqlx::query(note), &key)).await?;
        if kept > 0 {
            let count = sqlx::query("UPDATE letter_counts SET kept = kept + $1, bytes = bytes + $2");
            transaction.execute(doing, count.bind(kept).bind(bytes)).await?;
            self.make_room(&mut transaction).await?;
        }
        transaction.commit().await
    }

    async fn letters(
        &self,
        index: Option<&IndexUid>,
        after: Option<&LetterKey>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let start = LetterKey { shard: ShardKey::new("", 0), at: Generation::default() };
        let statement = concat!(
            "SELECT ",
            columns!(),
            " FROM letters WHERE (index_uid, shard, incarnation, seq) > ($1, $2, $3, $4)
               AND ($5::text IS NULL OR index_uid = $5)
             ORDER BY index_uid, shard, incarnation, seq LIMIT $6"
        );
        let read = || {
            bind(sqlx::query(statement), after.unwrap_or(&start))
                .bind(index.map(IndexUid::as_str))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        };
        let (rows, _) = self.database.fetch_all("read", read).await?;
        Ok(rows.iter().map(letter).collect())
    }

    async fn letter(&self, key: &LetterKey) -> Result<Option<DeadLetter>, Error> {
        let statement = concat!(
            "SELECT ",
            columns!(),
            " FROM letters WHERE index_uid = $1 AND shard = $2 AND incarnation = $3 AND seq = $4"
        );
        let (rows, _) = self.database.fetch_all("read", || bind(sqlx::query(statement), key)).await?;
        Ok(rows.first().map(letter))
    }

    async fn remove(&self, keys: &[LetterKey]) -> Result<u64, Error> {
        let doing = "remove dead letters from";
        let mut transaction = self.database.begin().await?;
        lock_counts(&mut transaction).await?;
        let mut gone = Vec::new();
        for key in keys {
            let delete = sqlx::query(
                "DELETE FROM letters WHERE index_uid = $1 AND shard = $2 AND incarnation = $3 AND seq = $4
                 RETURNING bytes",
            );
            gone.extend(transaction.fetch_all(doing, bind(delete, key)).await?);
        }
        if gone.is_empty() {
            transaction.rollback().await;
            return Ok(0);
        }
        uncount(&mut transaction, &gone).await?;
        transaction.commit().await?;
        Ok(gone.len() as u64)
    }

    async fn counts(&self) -> Result<LetterCounts, Error> {
        let statement = "SELECT kept, bytes, aged_out FROM letter_counts";
        let (rows, _) = self.database.fetch_all("read", || sqlx::query(statement)).await?;
        let number = |column: usize| rows.first().map_or(0, |row| row.get::<i64, _>(column).cast_unsigned());
        Ok(LetterCounts { kept: number(0), bytes: number(1), aged_out: number(2) })
    }
}

/// Forgets a shard whose log was removed in the same transaction.
pub(super) async fn forget_shard(transaction: &mut Transaction<'_>, shard: &ShardKey) -> Result<(), Error> {
    let doing = "remove dead letters from";
    let through = sqlx::query("DELETE FROM letters_through WHERE index_uid = $1 AND shard = $2");
    transaction.execute(doing, of_shard(through, shard)).await?;
    lock_counts(transaction).await?;
    let delete = sqlx::query("DELETE FROM letters WHERE index_uid = $1 AND shard = $2 RETURNING bytes");
    let gone = transaction.fetch_all(doing, of_shard(delete, shard)).await?;
    uncount(transaction, &gone).await
}

async fn lock_counts(transaction: &mut Transaction<'_>) -> Result<(), Error> {
    let lock = sqlx::query("SELECT id FROM letter_counts FOR UPDATE");
    transaction.execute("count dead letters in", lock).await.map(|_| ())
}

async fn uncount(transaction: &mut Transaction<'_>, gone: &[PgRow]) -> Result<(), Error> {
    let count = sqlx::query("UPDATE letter_counts SET kept = kept - $1, bytes = bytes - $2");
    transaction.execute("count dead letters in", count.bind(gone.len() as i64).bind(sum(gone))).await.map(|_| ())
}

fn insert<'q>(shard: &ShardKey, letter: &'q DeadLetter) -> Statement<'q> {
    let statement = "INSERT INTO letters (index_uid, shard, incarnation, seq, bytes, mapping_version, time_ms,
         document_id, error_type, reason, operation) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    bind(sqlx::query(statement), &LetterKey { shard: shard.clone(), at: letter.key.at })
        .bind(letter.operation.len() as i64)
        .bind(signed(letter.mapping_version))
        .bind(signed(letter.time_ms))
        .bind(letter.id.as_bytes())
        .bind(text(&letter.error_type))
        .bind(text(&letter.reason))
        .bind(&letter.operation[..])
}

fn of_shard<'q>(query: Statement<'q>, shard: &ShardKey) -> Statement<'q> {
    query.bind(shard.index_uid.0.clone()).bind(shard.number.cast_signed())
}

fn bind<'q>(query: Statement<'q>, key: &LetterKey) -> Statement<'q> {
    of_shard(query, &key.shard).bind(signed(key.at.incarnation.0)).bind(signed(key.at.seq.0))
}

/// The sum of the first column.
fn sum(rows: &[PgRow]) -> i64 {
    rows.iter().map(|row| row.get::<i64, _>(0)).sum()
}

fn place(row: &PgRow, column: usize) -> Generation {
    let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
    Generation { incarnation: Incarnation(number(column)), seq: Seq(number(column + 1)) }
}

fn letter(row: &PgRow) -> DeadLetter {
    DeadLetter {
        key: LetterKey { shard: shard_key(row), at: place(row, 2) },
        mapping_version: row.get::<i64, _>(4).cast_unsigned(),
        time_ms: row.get::<i64, _>(5).cast_unsigned(),
        id: String::from_utf8_lossy(row.get(6)).into_owned(),
        error_type: row.get(7),
        reason: row.get(8),
        operation: Bytes::copy_from_slice(row.get(9)),
    }
}
