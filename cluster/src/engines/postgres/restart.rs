//! A log that begins a new incarnation behind what a replica holds.

use std::collections::HashMap;

use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use super::database::Transaction;
use super::log::Shared;
use super::read::raw;
use super::store::signed;
use super::writer::lock_heads;
use crate::Error;
use crate::engines::plan::LogHead;
use crate::engines::reading::RawRow;
use crate::engines::restart::{Moved, at_incarnation, begin_at, end_with, go_along, public_head};
use crate::shard_log::{Base, Head};

const DOING: &str = "restart a log in";

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
        let mut transaction = self.begin_fenced(epoch).await?;
        let mut heads = lock_heads(&mut transaction, std::iter::once(shard)).await?;
        let old = match at_incarnation(heads.remove(shard), shard, from) {
            Ok(head) => head,
            Err(error) => {
                transaction.rollback().await;
                return Err(error);
            }
        };
        set_aside(&mut transaction, old.log, fork).await?;
        let mut head = begin_at(&old, base);
        let mut places = HashMap::new();
        while let Some(row) = next_row(&mut transaction, head.log).await? {
            let first = row.first;
            let moved = go_along(&mut head, row).await?;
            write_row(&mut transaction, head.log, first, head.incarnation, &moved).await?;
            places.insert(first, moved);
        }
        move_message_ids(&mut transaction, &old, &places).await?;
        let head = end_with(head, &old);
        write_head(&mut transaction, &head).await?;
        transaction.commit().await?;
        tracing::warn!(%shard, incarnation = %head.incarnation, base = %base.seq, last = %head.last, rows = places.len(),
            "log began a new incarnation");
        Ok(public_head(&head))
    }
}

/// Deletes the rows that end at or before the fork, and sets the others aside under negative seqs.
async fn set_aside(transaction: &mut Transaction<'_>, log: i64, fork: Seq) -> Result<(), Error> {
    for statement in [
        "DELETE FROM records WHERE log = $1 AND last <= $2",
        "UPDATE records SET first = -first WHERE log = $1 AND last > $2",
    ] {
        transaction.execute(DOING, sqlx::query(statement).bind(log).bind(signed(fork.0))).await?;
    }
    Ok(())
}

/// The first row that is still set aside.
async fn next_row(transaction: &mut Transaction<'_>, log: i64) -> Result<Option<RawRow>, Error> {
    let query = sqlx::query(
        "SELECT 0, incarnation, -first, last, mapping_version, apply_version, time_ms, previous_chain, chain,
           body_bytes, codec, body
         FROM records WHERE log = $1 AND first < 0 ORDER BY first DESC LIMIT 1",
    );
    Ok(transaction.fetch_optional(DOING, query.bind(log)).await?.as_ref().map(raw))
}

async fn write_row(
    transaction: &mut Transaction<'_>,
    log: i64,
    aside: Seq,
    incarnation: Incarnation,
    row: &Moved,
) -> Result<(), Error> {
    let query = sqlx::query(
        "UPDATE records SET first = $3, last = $4, incarnation = $5, mapping_version = $6, time_ms = $7,
           previous_chain = $8, chain = $9 WHERE log = $1 AND first = -$2",
    );
    let query = query
        .bind(log)
        .bind(signed(aside.0))
        .bind(signed(row.first.0))
        .bind(signed(row.last.0))
        .bind(signed(incarnation.0))
        .bind(signed(row.mapping_version))
        .bind(signed(row.time_ms))
        .bind(signed(row.previous_chain))
        .bind(signed(row.chain));
    transaction.execute(DOING, query).await.map(|_| ())
}

/// `places`: by the old first seq of each row.
async fn move_message_ids(
    transaction: &mut Transaction<'_>,
    old: &LogHead,
    places: &HashMap<Seq, Moved>,
) -> Result<(), Error> {
    let column = |value: fn(&Seq, &Moved) -> u64| {
        places.iter().map(|(first, moved)| signed(value(first, moved))).collect::<Vec<i64>>()
    };
    let query = sqlx::query(
        "UPDATE message_ids SET incarnation = $3, first = new.first, last = new.last
         FROM unnest($4::bigint[], $5::bigint[], $6::bigint[]) AS new (old, first, last)
         WHERE message_ids.log = $1 AND message_ids.incarnation = $2 AND message_ids.first = new.old",
    );
    let query = query
        .bind(old.log)
        .bind(signed(old.incarnation.0))
        .bind(signed(old.incarnation.next().0))
        .bind(column(|first, _| first.0))
        .bind(column(|_, moved| moved.first.0))
        .bind(column(|_, moved| moved.last.0));
    transaction.execute(DOING, query).await.map(|_| ())
}

async fn write_head(transaction: &mut Transaction<'_>, head: &LogHead) -> Result<(), Error> {
    let query = sqlx::query(
        "UPDATE logs SET incarnation = $2, last = $3, chain = $4, trimmed = $5, mapping_version = $6, time_ms = $7,
           bytes = $8 WHERE log = $1",
    );
    let query = query
        .bind(head.log)
        .bind(signed(head.incarnation.0))
        .bind(signed(head.last.0))
        .bind(signed(head.chain))
        .bind(signed(head.trimmed.0))
        .bind(signed(head.mapping_version))
        .bind(signed(head.time_ms))
        .bind(signed(head.bytes));
    transaction.execute(DOING, query).await.map(|_| ())
}
