//! A log that begins a new incarnation behind what a replica holds.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use super::log::Shared;
use super::read::raw;
use super::writer::read_heads;
use crate::Error;
use crate::engines::plan::LogHead;
use crate::engines::reading::RawRow;
use crate::engines::restart::{Moved, at_incarnation, begin_at, end_with, go_along, public_head};
use crate::shard_log::{Base, Head};

impl Shared {
    /// 1. Turns the seqs of the rows behind the fork negative, so that old and new ones do not collide,
    ///    and deletes the others. 2. Gives each its place behind the base, in order. 3. Lets their message
    ///    ids answer with it. 4. Writes the head.
    pub(super) async fn restart(
        &self,
        epoch: Epoch,
        shard: &ShardKey,
        from: Incarnation,
        fork: Seq,
        base: Base,
    ) -> Result<Head, Error> {
        let failed = || self.database.error("restart a log in");
        let mut transaction = self.begin_fenced(epoch).await?;
        let connection = &mut transaction.connection;
        let mut heads = read_heads(connection, std::iter::once(shard)).await.map_err(failed())?;
        let old = match at_incarnation(heads.remove(shard), shard, from) {
            Ok(head) => head,
            Err(error) => {
                transaction.rollback().await;
                return Err(error);
            }
        };
        set_aside(connection, old.log, fork).await.map_err(failed())?;
        let mut head = begin_at(&old, base);
        let mut places = HashMap::new();
        while let Some((id, row)) = next_row(connection, head.log).await.map_err(failed())? {
            let first = row.first;
            let moved = go_along(&mut head, row).await?;
            write_row(connection, id, head.incarnation, &moved).await.map_err(failed())?;
            places.insert(first, moved);
        }
        move_message_ids(connection, &old, &places).await.map_err(failed())?;
        let head = end_with(head, &old);
        write_head(connection, &head).await.map_err(failed())?;
        transaction.commit(head.bytes).await?;
        tracing::warn!(%shard, incarnation = %head.incarnation, base = %base.seq, last = %head.last, rows = places.len(),
            "log began a new incarnation");
        Ok(public_head(&head))
    }
}

/// Deletes the rows that end at or before the fork, and sets the others aside under negative seqs.
async fn set_aside(connection: &mut SqliteConnection, log: i64, fork: Seq) -> Result<(), sqlx::Error> {
    for statement in [
        "DELETE FROM records WHERE log = ?1 AND last <= ?2",
        "UPDATE records SET first = -first WHERE log = ?1 AND last > ?2",
    ] {
        sqlx::query(statement).bind(log).bind(fork.0.cast_signed()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The first row that is still set aside, and its id.
async fn next_row(connection: &mut SqliteConnection, log: i64) -> Result<Option<(i64, RawRow)>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT id, incarnation, -first, last, mapping_version, apply_version, time_ms, previous_chain, chain,
           body_bytes, codec, body
         FROM records WHERE log = ?1 AND first < 0 ORDER BY first DESC LIMIT 1",
    )
    .bind(log)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.get(0), raw(&row))))
}

async fn write_row(
    connection: &mut SqliteConnection,
    id: i64,
    incarnation: Incarnation,
    row: &Moved,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE records SET first = ?2, last = ?3, incarnation = ?4, mapping_version = ?5, time_ms = ?6,
           previous_chain = ?7, chain = ?8 WHERE id = ?1",
    )
    .bind(id)
    .bind(row.first.0.cast_signed())
    .bind(row.last.0.cast_signed())
    .bind(incarnation.0.cast_signed())
    .bind(row.mapping_version.cast_signed())
    .bind(row.time_ms.cast_signed())
    .bind(row.previous_chain.cast_signed())
    .bind(row.chain.cast_signed())
    .execute(connection)
    .await?;
    Ok(())
}

/// `places`: by the old first seq of each row.
async fn move_message_ids(
    connection: &mut SqliteConnection,
    old: &LogHead,
    places: &HashMap<Seq, Moved>,
) -> Result<(), sqlx::Error> {
    let Some(lowest) = places.keys().min() else { return Ok(()) };
    let select = "SELECT message_id, first FROM message_ids WHERE log = ?1 AND incarnation = ?2 AND first >= ?3";
    let query = sqlx::query(select).bind(old.log).bind(old.incarnation.0.cast_signed()).bind(lowest.0.cast_signed());
    for row in query.fetch_all(&mut *connection).await? {
        let Some(moved) = places.get(&Seq(row.get::<i64, _>(1).cast_unsigned())) else { continue };
        let update =
            "UPDATE message_ids SET incarnation = ?3, first = ?4, last = ?5 WHERE log = ?1 AND message_id = ?2";
        sqlx::query(update)
            .bind(old.log)
            .bind(row.get::<String, _>(0))
            .bind(old.incarnation.next().0.cast_signed())
            .bind(moved.first.0.cast_signed())
            .bind(moved.last.0.cast_signed())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn write_head(connection: &mut SqliteConnection, head: &LogHead) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE logs SET incarnation = ?2, last = ?3, chain = ?4, trimmed = ?5, mapping_version = ?6, time_ms = ?7,
           bytes = ?8 WHERE log = ?1",
    )
    .bind(head.log)
    .bind(head.incarnation.0.cast_signed())
    .bind(head.last.0.cast_signed())
    .bind(head.chain.cast_signed())
    .bind(head.trimmed.0.cast_signed())
    .bind(head.mapping_version.cast_signed())
    .bind(head.time_ms.cast_signed())
    .bind(head.bytes.cast_signed())
    .execute(connection)
    .await?;
    Ok(())
}
