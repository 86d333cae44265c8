//! The dead letters in `logs.db`.
//!
//! A letter is kept if it lies behind the place through which its shard's rejections are known; both are
//! written in one transaction, so replicas that reject the same operations leave one letter each time.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use trawl_proto::{Generation, Incarnation, IndexUid, Seq, ShardKey};

use super::database::Database;
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
pub(super) struct SqliteLetters {
    database: Arc<Database>,
    options: EngineOptions,
    _tasks: Arc<Tasks>,
}

impl SqliteLetters {
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, tasks: Arc<Tasks>) -> Self {
        Self { database, options, _tasks: tasks }
    }

    /// Takes out the letters that came first, until the rest fits.
    async fn make_room(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let limits = (self.options.letters_max.cast_signed(), self.options.letters_bytes_max.cast_signed());
        loop {
            let row = sqlx::query("SELECT kept, bytes FROM letter_counts").fetch_one(&mut *connection).await?;
            let (kept, bytes): (i64, i64) = (row.get(0), row.get(1));
            if kept <= limits.0 && bytes <= limits.1 {
                return Ok(());
            }
            // So many of the oldest as bring both down to the limits, in order of coming.
            let gone = sqlx::query(
                "DELETE FROM letters WHERE number IN (
                   SELECT number FROM (
                     SELECT number, bytes, row_number() OVER oldest AS place, sum(bytes) OVER oldest - bytes AS before
                     FROM (SELECT number, bytes FROM letters ORDER BY number LIMIT ?3)
                     WINDOW oldest AS (ORDER BY number))
                   WHERE place <= ?1 OR before < ?2)
                 RETURNING bytes",
            );
            let gone = gone.bind(kept - limits.0).bind(bytes - limits.1).bind(AGE_OUT_STEP);
            let gone: Vec<i64> = gone.fetch_all(&mut *connection).await?.iter().map(|row| row.get(0)).collect();
            if gone.is_empty() {
                return Ok(());
            }
            let count = "UPDATE letter_counts SET kept = kept - ?1, bytes = bytes - ?2, aged_out = aged_out + ?1";
            let count = sqlx::query(count).bind(gone.len() as i64).bind(gone.iter().sum::<i64>());
            count.execute(&mut *connection).await?;
        }
    }
}

#[async_trait]
impl DeadLetters for SqliteLetters {
    async fn record(&self, shard: &ShardKey, through: Generation, letters: Vec<DeadLetter>) -> Result<(), Error> {
        let failed = || self.database.error("keep dead letters in");
        let through = letters.iter().map(|letter| letter.key.at).fold(through, Generation::max);
        // Most of the time a replica has nothing new to say: no turn at writing is taken for that.
        let mut reader = self.database.readers().acquire().await.map_err(failed())?;
        if !is_news(&mut reader, shard, through).await.map_err(failed())? {
            return Ok(());
        }
        drop(reader);
        let mut transaction = self.database.begin().await?;
        let connection = &mut transaction.connection;
        if !is_news(connection, shard, through).await.map_err(failed())? {
            transaction.rollback().await;
            return Ok(());
        }
        let known = known_through(connection, shard).await.map_err(failed())?;
        let (mut kept, mut bytes) = (0, 0);
        for letter in letters.iter().filter(|letter| known.is_none_or(|known| letter.key.at > known)) {
            kept += insert(connection, shard, letter).await.map_err(failed())?.cast_signed();
            bytes += letter.operation.len() as i64;
        }
        note_through(connection, shard, through).await.map_err(failed())?;
        if kept > 0 {
            let count = sqlx::query("UPDATE letter_counts SET kept = kept + ?1, bytes = bytes + ?2");
            count.bind(kept).bind(bytes).execute(&mut *connection).await.map_err(failed())?;
            self.make_room(connection).await.map_err(failed())?;
        }
        transaction.commit_quietly(bytes.cast_unsigned()).await
    }

    async fn letters(
        &self,
        index: Option<&IndexUid>,
        after: Option<&LetterKey>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let start = LetterKey { shard: ShardKey::new("", 0), at: Generation::default() };
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM letters WHERE (index_uid, shard, incarnation, seq) > (?1, ?2, ?3, ?4)
               AND (?5 IS NULL OR index_uid = ?5)
             ORDER BY index_uid, shard, incarnation, seq LIMIT ?6"
        ));
        let rows = bind(rows, after.unwrap_or(&start))
            .bind(index.map(IndexUid::as_str))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(self.database.readers())
            .await
            .map_err(self.database.error("read"))?;
        Ok(rows.iter().map(letter).collect())
    }

    async fn letter(&self, key: &LetterKey) -> Result<Option<DeadLetter>, Error> {
        let query = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM letters WHERE index_uid = ?1 AND shard = ?2 AND incarnation = ?3 AND seq = ?4"
        ));
        let row = bind(query, key).fetch_optional(self.database.readers()).await;
        Ok(row.map_err(self.database.error("read"))?.as_ref().map(letter))
    }

    async fn remove(&self, keys: &[LetterKey]) -> Result<u64, Error> {
        let failed = || self.database.error("remove dead letters from");
        let mut transaction = self.database.begin().await?;
        let connection = &mut transaction.connection;
        let (mut gone, mut bytes) = (0, 0);
        for key in keys {
            let delete = "DELETE FROM letters WHERE index_uid = ?1 AND shard = ?2 AND incarnation = ?3 AND seq = ?4
                          RETURNING bytes";
            let row = bind(sqlx::query(delete), key).fetch_optional(&mut *connection).await.map_err(failed())?;
            gone += i64::from(row.is_some());
            bytes += row.map_or(0, |row| row.get::<i64, _>(0));
        }
        let count = sqlx::query("UPDATE letter_counts SET kept = kept - ?1, bytes = bytes - ?2");
        count.bind(gone).bind(bytes).execute(connection).await.map_err(failed())?;
        transaction.commit_quietly(0).await?;
        Ok(gone.cast_unsigned())
    }

    async fn counts(&self) -> Result<LetterCounts, Error> {
        let row =
            sqlx::query("SELECT kept, bytes, aged_out FROM letter_counts").fetch_one(self.database.readers()).await;
        let row = row.map_err(self.database.error("read"))?;
        let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
        Ok(LetterCounts { kept: number(0), bytes: number(1), aged_out: number(2) })
    }
}

/// Forgets a shard whose log was removed.
pub(super) async fn forget_shard(connection: &mut SqliteConnection, shard: &ShardKey) -> Result<(), sqlx::Error> {
    let place = |statement: &'static str| sqlx::query(statement).bind(shard.index_uid.as_str()).bind(shard.number);
    place(
        "UPDATE letter_counts SET (kept, bytes) = (
           SELECT letter_counts.kept - count(*), letter_counts.bytes - coalesce(sum(letters.bytes), 0)
           FROM letters WHERE index_uid = ?1 AND shard = ?2)",
    )
    .execute(&mut *connection)
    .await?;
    place("DELETE FROM letters WHERE index_uid = ?1 AND shard = ?2").execute(&mut *connection).await?;
    place("DELETE FROM letters_through WHERE index_uid = ?1 AND shard = ?2").execute(connection).await?;
    Ok(())
}

/// Whether the shard has a log, and its rejections are not known as far as this.
async fn is_news(
    connection: &mut SqliteConnection,
    shard: &ShardKey,
    through: Generation,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM logs WHERE index_uid = ?1 AND shard = ?2) AND NOT EXISTS (
           SELECT 1 FROM letters_through
           WHERE index_uid = ?1 AND shard = ?2 AND (incarnation, seq) >= (?3, ?4))",
    );
    let key = LetterKey { shard: shard.clone(), at: through };
    Ok(bind(query, &key).fetch_one(connection).await?.get(0))
}

async fn known_through(connection: &mut SqliteConnection, shard: &ShardKey) -> Result<Option<Generation>, sqlx::Error> {
    let query = sqlx::query("SELECT incarnation, seq FROM letters_through WHERE index_uid = ?1 AND shard = ?2");
    let row = query.bind(shard.index_uid.as_str()).bind(shard.number).fetch_optional(connection).await?;
    Ok(row.map(|row| place(&row, 0)))
}

async fn note_through(
    connection: &mut SqliteConnection,
    shard: &ShardKey,
    through: Generation,
) -> Result<(), sqlx::Error> {
    let note = sqlx::query(
        "INSERT INTO letters_through (index_uid, shard, incarnation, seq) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET incarnation = excluded.incarnation, seq = excluded.seq",
    );
    bind(note, &LetterKey { shard: shard.clone(), at: through }).execute(connection).await?;
    Ok(())
}

/// Returns how many were inserted.
async fn insert(connection: &mut SqliteConnection, shard: &ShardKey, letter: &DeadLetter) -> Result<u64, sqlx::Error> {
    let statement = "INSERT INTO letters (index_uid, shard, incarnation, seq, bytes, mapping_version, time_ms,
         document_id, error_type, reason, operation) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let query = bind(sqlx::query(statement), &LetterKey { shard: shard.clone(), at: letter.key.at })
        .bind(letter.operation.len() as i64)
        .bind(letter.mapping_version.cast_signed())
        .bind(letter.time_ms.cast_signed())
        .bind(&letter.id)
        .bind(&letter.error_type)
        .bind(&letter.reason)
        .bind(&letter.operation[..]);
    Ok(query.execute(connection).await?.rows_affected())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind<'q>(query: Query<'q>, key: &LetterKey) -> Query<'q> {
    query
        .bind(key.shard.index_uid.0.clone())
        .bind(key.shard.number)
        .bind(key.at.incarnation.0.cast_signed())
        .bind(key.at.seq.0.cast_signed())
}

fn place(row: &SqliteRow, column: usize) -> Generation {
    let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
    Generation { incarnation: Incarnation(number(column)), seq: Seq(number(column + 1)) }
}

fn letter(row: &SqliteRow) -> DeadLetter {
    let shard = ShardKey::new(row.get::<String, _>(0), row.get::<u32, _>(1));
    DeadLetter {
        key: LetterKey { shard, at: place(row, 2) },
        mapping_version: row.get::<i64, _>(4).cast_unsigned(),
        time_ms: row.get::<i64, _>(5).cast_unsigned(),
        id: row.get(6),
        error_type: row.get(7),
        reason: row.get(8),
        operation: row.get::<Vec<u8>, _>(9).into(),
    }
}
